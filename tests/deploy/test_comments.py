"""Comments of the deployment files agree with the server."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.deployment import DEPLOY, ROOT, serve_options

OTHERS = {"--from-file", "--cert", "--key", "--revision", "--local-dir", "--include"}
"""Options of kubectl and of Hugging Face's downloader."""


@pytest.mark.parametrize(
    "name",
    "kubernetes.yaml ray-serve.yaml diffedit-trt.env diffedit-trt.service alerts.yml grafana.json"
    " prometheus.yml haproxy.cfg".split(),
)
def test_options_settings_and_files_in_comments_exist(name: str, settings: Any) -> None:
    text = (DEPLOY / name).read_text()
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - OTHERS
    assert options <= serve_options() | {"--now"}, options - serve_options()
    for setting in re.findall(r"DIFFEDIT_SERVE_([A-Z_]+[A-Z])", text):
        assert hasattr(settings, setting.lower()) or setting == "PORT", setting
    for word in re.findall(r"\b((?:diffedit|engine|docs)/[\w/-]+\.\w+)", text):
        assert (ROOT / word).is_file(), word


def test_numbers_in_comments_are_the_defaults(settings: Any) -> None:
    """Times and limits that comments state, next to the words that they follow."""
    from diffedit.server import metrics, run

    texts = {p.name: " ".join(p.read_text().replace("#", " ").split()) for p in DEPLOY.iterdir()}
    drain, linger = int(settings.drain_seconds), int(settings.linger_seconds)
    stop = f"edits get {drain} s to finish (DIFFEDIT_SERVE_DRAIN_SECONDS), clients {linger} s to"
    for name in ("kubernetes.yaml", "diffedit-trt.service"):
        assert stop in texts[name] and f"connections {run.CLOSE_SECONDS} s" in texts[name]
    queue = int(settings.max_queue_seconds)
    assert f"the backlog of {queue} s at which the server refuses" in texts["kubernetes.yaml"]
    assert f"--max-queue-seconds ({queue} by default)" in texts["grafana.json"]
    for name in ("alerts.yml", "grafana.json"):
        assert f"largest finite bucket is {max(metrics.BUCKETS)} s" in texts[name]
    assert f"exits with {run.EX_SOFTWARE}" in texts["alerts.yml"]
