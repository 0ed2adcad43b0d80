"""The column "verified" of `engines list`."""

from __future__ import annotations

from typing import Any

import pytest

from diffedit.cli.engines import _verification
from engine.manifest import Entry
from engine.netspec import NetSpec, TensorSpec

SPEC = NetSpec("text", (TensorSpec("input_ids", (77,), "int64"),), TensorSpec("e", (77, 8)), (1,))


def check(ok: bool | None, relative: float | None) -> dict[str, Any]:
    return {"backend": "onnxruntime", "batch": 1, "ok": ok, "relative": relative}


@pytest.mark.parametrize(
    ("checks", "text"),
    [
        ([], "not run here"),
        ([check(None, None)], "not run here"),
        ([check(True, 1e-3), check(True, 2e-3)], "ok, 2.0e-03"),
        ([check(True, 1e-3), check(None, None)], "ok, 1.0e-03; 1 not run"),
        ([check(True, 1e-3), check(False, 0.5)], "FAILED, 5.0e-01"),
        ([check(False, None)], "FAILED, 0.0e+00"),
    ],
)
def test_a_profile_that_could_not_run_is_not_a_failure(
    checks: list[dict[str, Any]], text: str
) -> None:
    assert _verification(Entry("onnx", SPEC, "key", (), {}, checks=tuple(checks))) == text
