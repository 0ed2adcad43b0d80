"""The alerts fire when they should, by promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.deployment import DEPLOY


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_files() -> None:
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml"))
    promtool("check", "rules", str(DEPLOY / "alerts.yml"))


@pytest.mark.parametrize(
    ("alert", "series"),
    [
        ("DiffeditNotReady", {'up{job="diffedit",instance="a"}': "1 0x40"}),
        ("DiffeditNotReady", {'diffedit_ready{instance="a"}': "0x40"}),
        (
            "DiffeditRefusing",
            {
                'diffedit_jobs_total{event="refused",instance="a"}': "0+2x40",
                'diffedit_jobs_total{event="accepted",instance="a"}': "0+8x40",
            },
        ),
        (
            "DiffeditSlow",
            {
                'diffedit_http_seconds_bucket{route="/v1/masks",le="60",instance="a"}': "0x40",
                'diffedit_http_seconds_bucket{route="/v1/masks",le="120",instance="a"}': "0+5x40",
                'diffedit_http_seconds_bucket{route="/v1/masks",le="+Inf",instance="a"}': "0+5x40",
            },
        ),
        (
            "DiffeditEngineLost",  # the counter of the scrapes is reset
            {
                'diffedit_http_requests_total{route="/metrics",status="200",instance="a"}': (
                    "1+1x24 _x2 1+1x12"
                )
            },
        ),
        ("DiffeditEngineLost", {'diffedit_jobs_total{event="error engine_lost"}': "_x29 1x10"}),
        (
            "DiffeditNumericalErrors",  # the series appears with its first event
            {'diffedit_jobs_total{event="error numerical_error",instance="a"}': "_x29 1x10"},
        ),
        (
            "DiffeditInternalErrors",
            {'diffedit_http_requests_total{route="/v1/masks",status="500"}': "0+1x40"},
        ),
    ],
)
def test_alert_fires(alert: str, series: dict[str, str], tmp_path: Path) -> None:
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    check_alerts(tmp_path, series, {firing: 1})


def test_no_alert_fires_for_a_healthy_server(tmp_path: Path) -> None:
    series = {
        'up{job="diffedit",instance="a"}': "1x40",
        'diffedit_ready{instance="a"}': "1x40",
        'diffedit_jobs_total{event="accepted",instance="a"}': "0+8x40",
        'diffedit_http_requests_total{route="/metrics",status="200"}': "0+1x40",
        'diffedit_http_seconds_bucket{route="/v1/masks",le="60",instance="a"}': "0+5x40",
        'diffedit_http_seconds_bucket{route="/v1/masks",le="+Inf",instance="a"}': "0+5x40",
    }
    check_alerts(tmp_path, series, {"ALERTS": None})


def check_alerts(folder: Path, series: dict[str, str], expected: dict[str, int | None]) -> None:
    """Evaluate the alerts with promtool after half an hour of these series, a sample a minute."""
    tests = [
        {
            "expr": expression,
            "eval_time": "32m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for expression, value in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": tests}
    rules = {"rule_files": [str(DEPLOY / "alerts.yml")], "evaluation_interval": "1m"}
    path = folder / "alerts_test.json"  # json is yaml
    path.write_text(json.dumps({**rules, "tests": [test]}))
    promtool("test", "rules", str(path))
