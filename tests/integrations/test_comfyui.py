"""The ComfyUI nodes: ComfyUI's interface, edits and masks by a real server, errors, Cancel."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demo.picture import still_life
from diffedit.presets import PRESET_NAMES
from diffedit.request import RANGES
from tests.integrations.conftest import ROOT
from tests.server.conftest import MakeServer
from tests.server.helpers import LiveServer, wait_until

PROMPTS = {"source_prompt": "a red ball", "prompt": "a blue ball", "seed": 0}


def tensor(*pictures: Image.Image) -> torch.Tensor:
    """Pictures as ComfyUI has them: float32 [B, H, W, C] in [0, 1]."""
    return torch.stack([torch.from_numpy(np.asarray(p, np.float32) / 255) for p in pictures])


IMAGE = tensor(still_life(96, 72))


def test_nodes_have_comfyuis_interface(nodes: ModuleType) -> None:
    assert set(nodes.NODE_DISPLAY_NAME_MAPPINGS) == set(nodes.NODE_CLASS_MAPPINGS)
    assert set(nodes.NODE_DISPLAY_NAME_MAPPINGS.values()) == {"DiffEdit edit", "DiffEdit mask"}
    for cls in nodes.NODE_CLASS_MAPPINGS.values():
        inputs = cls.INPUT_TYPES()
        assert set(inputs) == {"required", "optional"}
        function = inspect.signature(getattr(cls(), cls.FUNCTION))
        named = {**inputs["required"], **inputs["optional"]}
        assert set(function.parameters) == set(named)
        for name in inputs["optional"]:
            assert function.parameters[name].default is not inspect.Parameter.empty, name
        assert set(cls.RETURN_TYPES) <= {"IMAGE", "MASK"}
        assert len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES) == len(cls.OUTPUT_TOOLTIPS)
        assert cls.CATEGORY and cls.DESCRIPTION
        for kind, options in named.values():
            assert isinstance(kind, list) or kind in ("IMAGE", "MASK", "STRING", "INT", "FLOAT")
            if "default" in options and "min" in options:
                assert options["min"] <= options["default"] <= options["max"]


def test_inputs_are_those_that_the_server_accepts(nodes: ModuleType) -> None:
    edit = nodes.NODE_CLASS_MAPPINGS["DiffEditEdit"].INPUT_TYPES()
    mask = nodes.NODE_CLASS_MAPPINGS["DiffEditMask"].INPUT_TYPES()
    assert edit["optional"]["preset"][0] == ["default", *PRESET_NAMES]
    options = {**edit["required"], **edit["optional"], **mask["required"], **mask["optional"]}
    for name, field in {"threshold": "mask_threshold", "grow": "mask_dilation"}.items():
        assert (RANGES[field].low, RANGES[field].high) == tuple(
            options[name][1][bound] for bound in ("min", "max")
        )
    for name in ("strength", "guidance_scale", "seed"):
        assert options[name][1]["max"] <= RANGES[name].high


@pytest.mark.slow
def test_they_import_nothing_of_ours() -> None:
    """They run in ComfyUI's environment, which has neither the package nor its requirements."""
    code = (
        "import importlib.util as u, sys\n"
        "folder = sys.argv[1]\n"
        "spec = u.spec_from_file_location('n', folder + '/__init__.py', "
        "submodule_search_locations=[folder])\n"
        "sys.modules['n'] = module = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "integrations" / "comfyui")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    found = set(done.stdout.split())
    assert {"torch", "numpy", "PIL"} <= found
    assert not found & {"diffedit", "engine", "export", "diffusers", "transformers", "httpx"}


def test_an_edit_changes_the_mask_alone(nodes: ModuleType, server: LiveServer) -> None:
    images = tensor(still_life(96, 72), still_life(96, 72).rotate(180))
    given = torch.zeros(1, 72, 96)
    given[:, 20:50, 30:70] = 1
    edited, mask = nodes.NODE_CLASS_MAPPINGS["DiffEditEdit"]().edit(
        images, **PROMPTS, mask=given, strength=0.5, preset="draft", server=server.url + "/"
    )
    assert edited.shape == images.shape and edited.dtype == torch.float32
    assert mask.shape == (2, 72, 96) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(edited[mask == 0], images[mask == 0])
    assert not torch.equal(edited[mask == 1], images[mask == 1])
    assert (mask >= given).all(), "the given mask, rounded up to cells"


def test_a_mask_is_that_of_the_python_api(nodes: ModuleType, server: LiveServer) -> None:
    find = nodes.NODE_CLASS_MAPPINGS["DiffEditMask"]().find
    pipeline = server.app.state.engine_host.pipeline
    found = pipeline.generate_mask(still_life(96, 72), **PROMPTS, preset="draft")
    middle, high = (round(float(np.quantile(found.heatmap, share)), 3) for share in (0.5, 0.9))
    shares = []
    for threshold, grow in ((middle, 0), (high, 0), (high, 1)):
        mask, soft = find(
            IMAGE, **PROMPTS, threshold=threshold, grow=grow, preset="draft", server=server.url
        )
        expected = pipeline.refine(found, threshold=threshold, grow=grow)
        assert torch.equal(mask, tensor(expected.mask)) and soft.shape == mask.shape
        shares.append(float(mask.mean()))
    assert shares[0] > shares[1] < shares[2]


def test_transparency_is_kept(nodes: ModuleType, server: LiveServer) -> None:
    picture = still_life(96, 72).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    images = tensor(picture)
    edited, mask = nodes.NODE_CLASS_MAPPINGS["DiffEditEdit"]().edit(
        images, **PROMPTS, preset="draft", server=server.url
    )
    assert edited.shape == (1, 72, 96, 4) and mask.shape == (1, 72, 96)
    assert torch.equal(edited[..., 3], images[..., 3])


def edit(nodes: ModuleType, url: str, **changes: Any) -> Any:
    node = nodes.NODE_CLASS_MAPPINGS["DiffEditEdit"]()
    return node.edit(IMAGE, **{**PROMPTS, "preset": "draft", "server": url, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": " "}, "prompt is blank"),
        ({"mask": torch.ones(3, 72, 96)}, "3 masks for 1 images"),
        ({"mask": torch.ones(1, 10, 300)}, "mask"),
        ({"preset": "best"}, "best"),
        ({"server": "localhost:8000"}, "must be an address such as http://127.0.0.1:8000"),
        ({"server": "file:///etc/passwd"}, "must be an address"),
        ({"server": "http://"}, "not reachable"),
        ({"server": "http://127.0.0.1:1"}, "start it with `diffedit-trt serve`"),
    ],
    ids=str,
)
def test_errors_are_sentences(
    changes: dict[str, Any], words: str, nodes: ModuleType, server: LiveServer
) -> None:
    with pytest.raises((RuntimeError, ValueError)) as error:
        edit(nodes, server.url, **changes)
    assert words in str(error.value)
    assert str(error.value)[-1] in ".`" and "Traceback" not in str(error.value)


def test_the_key_comes_from_the_environment(
    nodes: ModuleType, make_server: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("comfy a-key-of-some-length\n")
    server = make_server(api_keys=keys)
    with pytest.raises(RuntimeError, match="DIFFEDIT_API_KEY"):
        edit(nodes, server.url)
    monkeypatch.setenv("DIFFEDIT_API_KEY", "a-key-of-some-length")
    edited, _ = edit(nodes, server.url)
    assert edited.shape == IMAGE.shape


@pytest.mark.slow
def test_a_busy_server_is_asked_again(nodes: ModuleType, make_server: MakeServer) -> None:
    server = make_server()
    scheduler = server.app.state.scheduler
    scheduler.draining = True

    def free() -> None:
        wait_until(lambda: server.metric('diffedit_http_requests_total{method="POST"') > 0, "asked")
        scheduler.draining = False

    thread = threading.Thread(target=free)
    thread.start()
    edited, _ = edit(nodes, server.url)
    thread.join()
    assert edited.shape == IMAGE.shape


class Interrupted(Exception):
    """What ComfyUI raises when the user cancels."""


def test_progress_is_shown_and_cancel_reaches_the_server(
    nodes: ModuleType, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    server = make_server(call_seconds=0.02)

    def check() -> None:
        if shown and shown[-1] > 5:
            raise Interrupted

    bar = SimpleNamespace(update_absolute=shown.append)
    management = {"throw_exception_if_processing_interrupted": check}
    modules: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.model_management": management,
        "comfy.utils": {"ProgressBar": lambda total: bar},
    }
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(Interrupted):
        edit(nodes, server.url, preset="paper")
    assert 5 < max(shown) < 100
    wait_until(lambda: server.metric("diffedit_jobs_active") == 0, "the job has ended")
    assert server.metric('diffedit_jobs_total{event="cancelled"') == 1
