"""A server with the tiny model, and the ComfyUI nodes, loaded as ComfyUI loads them."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from diffedit.pipeline import DiffEditPipeline
from diffedit.server import Settings, create_app
from diffedit.server.run import Server
from tests.server.conftest import make_server as make_server
from tests.server.helpers import LiveServer, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
NAME = "/ComfyUI/custom_nodes/diffedit"
"""ComfyUI names the module after the folder; it is no name that an import could use."""


@pytest.fixture(scope="session")
def nodes() -> ModuleType:
    """The package of nodes."""
    folder = ROOT / "integrations" / "comfyui"
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def server(tiny: Path) -> Iterator[LiveServer]:
    """A server with the tiny model on PyTorch, in a thread."""
    settings = Settings(port=free_port(), linger_seconds=0.0)
    app = create_app(
        lambda: DiffEditPipeline.from_pretrained(tiny, device="cpu", dtype="fp32"), "tiny", settings
    )
    running = Server(app, settings)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    live = LiveServer(app, running, settings.port)
    wait_until(live.ready, "the server is ready")
    yield live
    running.force_exit = running.should_exit = True
    thread.join(30)
