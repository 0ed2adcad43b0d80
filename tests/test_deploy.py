"""The deployment files parse and agree with the server, docs/deploy.md and SECURITY.md.

Nothing is built, started or deployed here.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "diffedit-trt.service"


def yaml_documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture
def settings() -> Any:
    pytest.importorskip("pydantic_settings", reason="the server extra is not installed")
    from diffedit.server.settings import Settings

    return Settings()


def shutdown_seconds(settings: Any) -> float:
    """The longest time that a graceful shutdown takes."""
    from diffedit.server.run import CLOSE_SECONDS

    return float(settings.drain_seconds + settings.linger_seconds + CLOSE_SECONDS)


# -- the image ------------------------------------------------------------------------------------


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    parse = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    copy = tmp_path / "Dockerfile"
    shutil.copy(DEPLOY / "Containerfile", copy)
    structure = parse.DockerfileParser(path=str(copy)).structure
    return [(s["instruction"], s["value"]) for s in structure if s["instruction"] != "COMMENT"]


def values(steps: list[tuple[str, str]], instruction: str) -> list[str]:
    return [value for name, value in steps if name == instruction]


def test_image_has_two_stages_with_one_base(steps: list[tuple[str, str]]) -> None:
    assert values(steps, "FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE} AS serve"]
    base = values(steps, "ARG")[0].removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"python:3\.1[123]-slim-\w+", base)  # a short name without a registry
    last = [name for name, _ in steps]
    last = last[len(last) - last[::-1].index("FROM") :]
    assert "ARG" not in last and "ADD" not in last and "VOLUME" not in last


def test_image_contains_no_package_index(steps: list[tuple[str, str]]) -> None:
    arguments = dict(a.split("=", 1) for a in values(steps, "ARG"))
    for name in ("PIP_INDEX_URL", "TORCH_INDEX", "TENSORRT_INDEX"):
        assert arguments[name] == '""'
    assert not any("://" in value for _, value in steps)


def test_image_installs_existing_extras(steps: list[tuple[str, str]]) -> None:
    text = (DEPLOY / "Containerfile").read_text()
    named = set(re.findall(r"EXTRAS=([a-z,]+)", text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named == {"onnx,server", "gpu,server"}
    assert {e for extras in named for e in extras.split(",")} <= {*project["optional-dependencies"]}
    copied = {w for v in values(steps, "COPY") if "--from" not in v for w in v.split()[:-1]}
    assert copied == {*"pyproject.toml constraints.txt README.md LICENSE".split()} | {
        *"diffedit engine export".split()
    }
    assert all((ROOT / name).exists() for name in copied)
    sent = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == copied and "*" in sent


def test_image_runs_without_root_and_stops_on_sigterm(steps: list[tuple[str, str]]) -> None:
    (user,) = values(steps, "USER")
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", user)
    assert values(steps, "STOPSIGNAL") == ["SIGTERM"]
    environment = " ".join(values(steps, "ENV"))
    assert {"HOME=/tmp", "XDG_CACHE_HOME=/tmp/cache", "DIFFEDIT_MODEL=/model"} <= {
        *environment.split()
    }
    assert not re.search(r"(?i)password|secret|token|NVIDIA_VISIBLE", environment)


def test_image_starts_a_server_with_keys(steps: list[tuple[str, str]]) -> None:
    assert json.loads(values(steps, "ENTRYPOINT")[0]) == ["diffedit-trt"]
    command = json.loads(values(steps, "CMD")[0])
    assert command[0] == "serve" and "--insecure" not in command
    assert command[command.index("--host") + 1] == "0.0.0.0"
    check_options(command[1:])


def test_image_has_a_health_check(steps: list[tuple[str, str]]) -> None:
    (check,) = values(steps, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"] and "/livez" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


def serve_options() -> set[str]:
    """Every option of `diffedit-trt serve`."""
    import typer.main

    from diffedit.cli import app

    commands = cast(Any, typer.main.get_command(app)).commands
    return {name for option in commands["serve"].params for name in option.opts}


def check_options(arguments: list[str]) -> None:
    """Check that `diffedit-trt serve` has every option."""
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= serve_options()


# -- systemd --------------------------------------------------------------------------------------


class Unit(configparser.RawConfigParser):
    """A unit file: names may repeat and are case-sensitive."""

    def __init__(self) -> None:
        super().__init__(strict=False, interpolation=None, delimiters=("=",))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> Any:
    unit = Unit()
    unit.read_string(re.sub(r"\\\n\s*", "", UNIT.read_text()))
    assert set(unit.sections()) == {"Unit", "Service", "Install"}
    return unit["Service"]


def test_unit_is_sandboxed(service: Any) -> None:
    for name in "DynamicUser NoNewPrivileges PrivateTmp ProtectHome LockPersonality".split():
        assert service[name] == "yes"
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert "SystemCallFilter=@system-service" in UNIT.read_text()
    assert service["MemoryDenyWriteExecute"] == "no"  # the reason is in the unit


def test_unit_restarts_after_an_engine_failure(service: Any, settings: Any) -> None:
    from diffedit.server import run

    assert int(service["RestartForceExitStatus"]) == run.EX_SOFTWARE
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) >= shutdown_seconds(settings) + 10


def test_unit_starts_the_server_with_keys(service: Any) -> None:
    words = service["ExecStart"].split()
    assert words[1] == "serve" and "${CREDENTIALS_DIRECTORY}/keys" in words
    assert words[words.index("--api-keys") + 1] == "${CREDENTIALS_DIRECTORY}/keys"
    assert service["LoadCredential"].startswith("keys:")
    check_options(words[2:])


def test_environment_file_shows_the_defaults(settings: Any) -> None:
    lines = (DEPLOY / "diffedit-trt.env").read_text().splitlines()
    given = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", "\n".join(lines), re.MULTILINE))
    check_options(given.pop("DIFFEDIT_OPTIONS").split())
    assert given.pop("DIFFEDIT_MODEL")
    for name, value in given.items():
        field = name.removeprefix("DIFFEDIT_SERVE_").lower()
        assert float(value) == getattr(settings, field)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    true = shutil.which("true") or "/bin/true"
    copy.write_text(UNIT.read_text().replace("/opt/diffedit-trt/bin/diffedit-trt", true))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *command, str(copy)], capture_output=True, text=True, check=False
        )
        if "unrecognized option" in done.stderr:
            pytest.skip("this systemd is older than 250")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Unknown" not in done.stderr and "Failed to parse" not in done.stderr


# -- Kubernetes -----------------------------------------------------------------------------------


@pytest.fixture
def documents() -> dict[str, Any]:
    documents = {document["kind"]: document for document in yaml_documents("kubernetes.yaml")}
    kinds = "Deployment Service NetworkPolicy PodDisruptionBudget HorizontalPodAutoscaler"
    assert set(documents) == set(kinds.split())
    return documents


def test_manifests_conform_to_the_kubernetes_schemas(documents: dict[str, Any]) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate, with the schemas, is not installed"
    )
    for document in documents.values():
        validate.validate(document, "1.34", strict=True)


def test_pod_is_restricted(documents: dict[str, Any]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    mounts = {m["name"]: m.get("readOnly", False) for m in container["volumeMounts"]}
    assert mounts == {"model": True, "engines": True, "keys": True, "tmp": False}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    check_options(container["args"][1:])


def test_pod_probes_and_grace_period(documents: dict[str, Any], settings: Any) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in "startup liveness".split()}
    assert all(probe["path"] == "/livez" for probe in probes.values())
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    for probe in (*probes.values(), container["readinessProbe"]["httpGet"]):
        assert probe["port"] == container["ports"][0]["name"]
        assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
    assert pod["terminationGracePeriodSeconds"] >= shutdown_seconds(settings) + 10


def test_manifests_select_the_same_pods(documents: dict[str, Any]) -> None:
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    specs = {kind: document["spec"] for kind, document in documents.items()}
    assert specs["Deployment"]["selector"]["matchLabels"] == labels
    assert specs["Service"]["selector"] == labels
    assert specs["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    assert specs["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    name = documents["Deployment"]["metadata"]["name"]
    assert specs["HorizontalPodAutoscaler"]["scaleTargetRef"]["name"] == name


# -- Ray Serve ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray's own imports
def test_ray_serve_configuration_is_valid() -> None:
    pytest.importorskip("ray", reason="the ray extra is not installed")
    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    from diffedit.server import ray_app
    from diffedit.server.ray_options import Options
    from diffedit.server.run import check_binding
    from diffedit.server.settings import Settings

    (document,) = yaml_documents("ray-serve.yaml")
    (application,) = ServeDeploySchema.model_validate(document).applications
    module, _, name = application.import_path.partition(":")
    assert module == ray_app.__name__
    assert getattr(ray_app, name) is ray_app.application
    options = Options.model_validate(application.args)
    settings = Settings(**options.settings)
    check_binding(settings)
    assert document["http_options"]["request_timeout_s"] > settings.request_seconds
    assert isinstance(ray_app.application(options), Application)


# -- Prometheus and Grafana -----------------------------------------------------------------------


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


# -- the documents --------------------------------------------------------------------------------


def test_security_md_states_the_default_limits(settings: Any) -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text, re.MULTILINE)
    assert len(table) >= 10
    for name, value in table:
        assert float(value.replace(",", "")) == getattr(settings, name), name


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/deploy.md"])
def test_files_named_in_documents_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for word in re.findall(r"`((?:\w+/)*[\w-]+\.(?:py|yaml|yml|json))`", text):
        assert any((top / word).is_file() for top in (ROOT, ROOT / "diffedit")), word
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / name).parent / link).is_file(), link


def test_security_md_states_the_cache_sizes_and_formats() -> None:
    pytest.importorskip("fastapi", reason="the server extra is not installed")
    from diffedit import flow_runner
    from diffedit.server import forms, image_codec

    text = " ".join((ROOT / "SECURITY.md").read_text().split())
    caches = flow_runner.TRAJECTORY_CACHE_BYTES, flow_runner.TEXT_CACHE_BYTES
    assert "{} MiB and {} MiB".format(*(size // 2**20 for size in caches)) in text
    assert image_codec.INPUT_FORMATS == ("PNG", "JPEG", "WEBP")
    assert f"{forms.MAX_FIELDS} text fields and {forms.MAX_FILES} files" in text
