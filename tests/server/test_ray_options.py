"""`serve deploy`: the options of a configuration file, and the address that Ray listens on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the ray extra")

from engine.errors import DiffEditError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray's own imports


def application(**options: Any) -> Any:
    """Build the application as Ray does: from the plain values of the file."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    from diffedit.server import ray_app

    builder: Any = ray_app.application
    return call_user_app_builder_with_args_if_necessary(builder, options)


def test_application_is_built_from_plain_values(tmp_path: Path) -> None:
    from ray.serve import Application

    lora = [["style.safetensors", 0.5], "other.safetensors"]
    assert isinstance(application(model="none", replicas=2, lora=lora), Application)
    hosts = {"host": "0.0.0.0", "allowed_hosts": ["edits.example.org"]}
    insecure = {**hosts, "insecure": True}
    with_keys = {**hosts, "api_keys": str(tmp_path / "keys")}
    for settings in (insecure, with_keys):
        assert isinstance(application(model="none", settings=settings), Application)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": {"host": "0.0.0.0"}}, "--api-keys"),
        ({"settings": {"host": "0.0.0.0", "insecure": True}}, "--allowed-host"),
        ({"settings": {"port": 70000}}, "port is invalid"),
        ({"settings": {"prot": 80}}, "no setting 'prot'"),
        ({"replicas": "4:2"}, "MIN:MAX"),
        ({"gpus_per_replica": -1}, "gpus_per_replica is -1"),
        ({"size": "512x512"}, "size is '512x512'"),
        ({"modell": "x"}, "no option 'modell'"),
        ({"model": None}, "model is None"),
        ({"model": " "}, "model is ' '"),
        ({"backend": "onnx"}, "no backend 'onnx'"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": 0}, "no device 0"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"size": [-64, 64]}, "size is .-64, 64."),
        ({"pin_batch_size": 0}, "pin_batch_size is 0"),
        ({"compile": "perhaps"}, "compile is 'perhaps'"),
        ({"engines": ""}, "engines is ''"),
        ({"variant": "../x"}, "variant is '../x'"),
        ({"revision": ""}, "revision is blank"),
        ({"lora": "style.safetensors"}, "lora is 'style.safetensors'"),
        ({"lora": [["style.safetensors", "much"]]}, "scale of lora"),
        ({"served_as": ""}, "served_as is ''"),
        ({"served_as": "a\nb"}, "served_as is "),
        ({"replicas": ""}, "replicas is ''"),
        ({"gpus_per_replica": float("inf")}, "finite"),
        ({"gpus_per_replica": 1.5}, "fractions only below 1"),
        ({"cpus_per_replica": "two"}, "cpus_per_replica is 'two', but must be a valid number."),
        ({"settings": {"allowed_hosts": [""]}}, "allowed_hosts is invalid"),
        ({"settings": {5: 1}}, "no setting '5'"),
        ({"settings": None}, "settings is None"),
        ({"pipeline": 5}, "pipeline is 5"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DiffEditError, match=words):
        application(**{"model": "none", **options})


def test_missing_model_is_named() -> None:
    with pytest.raises(DiffEditError, match="option model is missing"):
        application()
