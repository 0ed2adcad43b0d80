"""`serve deploy` on a real Ray: it refuses to serve other machines without API keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.helpers import ROOT, free_port

pytest.importorskip("ray", reason="needs the ray extra")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEPLOY = """
import sys
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from diffedit.server import ray_app
ray.init(include_dashboard=False, log_to_driver=False)
serve.start(http_options=HTTPOptions(host=sys.argv[2], port=int(sys.argv[3])))
options = {"model": sys.argv[1], "gpus_per_replica": 0, "cpus_per_replica": 0.1}
try:
    print("built", type(ray_app.application(options)).__name__)
except Exception as error:
    print("refused", error)
serve.shutdown()
"""


@pytest.mark.parametrize(("host", "word"), [("0.0.0.0", "refused"), ("127.0.0.1", "built")])
def test_address_of_the_proxies_decides(tiny: Path, host: str, word: str) -> None:
    """The settings name no host here: they would say 127.0.0.1."""
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, str(tiny), host, str(free_port())],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    (line,) = [x for x in done.stdout.splitlines() if x.startswith(("built", "refused"))]
    assert line.startswith(word), line
    assert word == "built" or "--api-keys" in line
