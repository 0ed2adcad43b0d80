"""Dashboard, alerts and Prometheus: they name metrics, labels and routes that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from tests.deploy.deployment import DEPLOY, yaml_documents


@pytest.fixture(scope="module")
def samples(tiny: Path) -> list[Any]:
    """What /metrics of a server on fake networks has after an edit and one that fails."""
    pytest.importorskip("prometheus_client", reason="the server extra is not installed")
    pytest.importorskip("fastapi", reason="the server extra is not installed")
    from fastapi.testclient import TestClient
    from prometheus_client.parser import text_string_to_metric_families

    from demo.fake_server import open_fake
    from diffedit.server import Settings, create_app
    from tests.server.helpers import image_bytes, wait_until

    app = create_app(lambda: open_fake(tiny, fault="nan"), "tiny", Settings())
    with TestClient(app, base_url="http://localhost") as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
        for prompt, status in (("a red ball", 200), ("poison", 422)):
            form = {"prompt": prompt, "num_inference_steps": "2"}
            files = {"image": image_bytes()}
            response = client.post("/v1/images/edits", data=form, files=files)
            assert response.status_code == status, response.text
        text = client.get("/metrics").text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@pytest.fixture(scope="module")
def exported(samples: list[Any]) -> dict[str, set[str]]:
    """Sample name -> names of its labels."""
    return {sample.name: set(sample.labels) for sample in samples}


def rules() -> list[dict[str, Any]]:
    (document,) = yaml_documents("alerts.yml")
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((DEPLOY / "grafana.json").read_text()))


def expressions() -> list[str]:
    """Every PromQL expression of the alerts and the dashboard."""
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [v["definition"] for v in dashboard()["templating"]["list"] if "definition" in v]
    return [*(rule["expr"] for rule in rules()), *panels, *variables]


def test_metrics_in_expressions_are_exported(exported: dict[str, set[str]]) -> None:
    added_by_prometheus = {"instance", "job"}
    for expression in expressions():
        names = re.findall(r"\bdiffedit_\w+", expression)
        assert names and set(names) <= set(exported), expression
        for name, selector in re.findall(r"\b(diffedit_\w+)\{(.*?)\}(?=[\[ )]|$)", expression):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\"", selector))
            assert labels <= exported[name] | added_by_prometheus, expression


def test_every_metric_is_on_the_dashboard_or_in_an_alert(exported: dict[str, set[str]]) -> None:
    shown = " ".join(expressions())
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exported}
    assert not [name for name in families if name not in shown]


def label_values(label: str) -> set[str]:
    """Every value that an expression compares a label with, alternatives of patterns apart."""
    values = set()
    for expression in expressions():
        for pattern in re.findall(label + r'(?:=~|!~|!=|=)"([^"$]+)"', expression):
            values |= set(pattern.split("|"))
    return values


def error_codes() -> set[str]:
    """Codes of the errors that jobs fail with and alerts watch."""
    from diffedit.server.errors import engine_lost, to_api_error
    from engine.errors import NonFiniteError

    return {engine_lost("").code, to_api_error(NonFiniteError("unet", "mask")).code}


def test_job_events_in_expressions_exist(samples: list[Any]) -> None:
    events = {s.labels["event"] for s in samples if s.name == "diffedit_jobs_total"}
    assert "error numerical_error" in events
    errors = {f"error {code}" for code in error_codes()}
    values = label_values("event")
    assert {"refused", "accepted", *errors} <= values
    assert values <= events | errors | {"error .*"}


def test_routes_in_expressions_exist() -> None:
    pytest.importorskip("fastapi", reason="the server extra is not installed")
    from diffedit.server import create_app

    def open_pipeline() -> Any:
        raise AssertionError("no model is loaded here")

    app = create_app(open_pipeline, "model")
    values = label_values("route")
    assert "/v1/masks" in values
    assert values <= set(app.openapi()["paths"])


def test_dashboard_panels_are_consistent() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(positions) == len(panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)


def test_prometheus_reads_its_key_from_a_file() -> None:
    (document,) = yaml_documents("prometheus.yml")
    (scrape,) = document["scrape_configs"]
    assert scrape["authorization"]["type"] == "Bearer" and scrape["metrics_path"] == "/metrics"
    assert Path(scrape["authorization"]["credentials_file"]).is_absolute()
    assert document["rule_files"] == ["alerts.yml"]
    jobs = {job for rule in rules() for job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert jobs == {scrape["job_name"]}
