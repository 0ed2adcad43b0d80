"""The Kubernetes manifests and the configuration of Ray Serve."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.deployment import DEPLOY, check_options, shutdown_seconds, yaml_documents


@pytest.fixture
def documents() -> dict[str, Any]:
    documents = {document["kind"]: document for document in yaml_documents("kubernetes.yaml")}
    kinds = (
        "Deployment Service NetworkPolicy PodDisruptionBudget HorizontalPodAutoscaler Job Ingress"
    )
    assert set(documents) == {*kinds.split(), "PersistentVolumeClaim"}
    return documents


def test_manifests_conform_to_the_kubernetes_schemas(documents: dict[str, Any]) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate, with the schemas, is not installed"
    )
    for document in yaml_documents("kubernetes.yaml"):
        validate.validate(document, "1.34", strict=True)


def test_pod_is_restricted(documents: dict[str, Any]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
    (container,) = pod["containers"]
    fetch = documents["Job"]["spec"]["template"]["spec"]
    for one in (container, *pod["initContainers"], *fetch["containers"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert fetch["securityContext"] == pod["securityContext"]
    assert not fetch["automountServiceAccountToken"]
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
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"] + shutdown_seconds(settings)
    assert pod["terminationGracePeriodSeconds"] >= stop + 10
    noticed = container["readinessProbe"]["periodSeconds"]
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] > noticed


def test_pods_run_on_tainted_gpu_nodes(documents: dict[str, Any]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (resource,) = set(pod["containers"][0]["resources"]["limits"]) - {"memory"}
    assert [toleration["key"] for toleration in pod["tolerations"]] == [resource]


def test_pods_wait_for_the_model_that_the_job_downloads(documents: dict[str, Any]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    job = documents["Job"]["spec"]["template"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    volume = next(v for v in job["spec"]["volumes"] if v["name"] == "model")
    assert volume["persistentVolumeClaim"] == {"claimName": claims["model"]}, "it may write there"
    found = [d for d in yaml_documents("kubernetes.yaml") if d["kind"] == "PersistentVolumeClaim"]
    assert {claim["metadata"]["name"] for claim in found} == set(claims.values())
    assert all(claim["spec"]["accessModes"] == ["ReadWriteMany"] for claim in found)
    (wait,), (fetch,) = pod["initContainers"], job["spec"]["containers"]
    marker = "/model/.complete"
    assert marker in wait["command"][-1] and f"touch {marker}" in fetch["command"][-1]
    policy = documents["NetworkPolicy"]["spec"]
    assert policy["egress"] == [] and documents["Deployment"]["kind"], "servers reach nothing"
    assert job["metadata"]["labels"] != policy["podSelector"]["matchLabels"]


def test_tls_is_for_the_host_of_the_ingress(documents: dict[str, Any]) -> None:
    ingress = documents["Ingress"]["spec"]
    (tls,), (rule,) = ingress["tls"], ingress["rules"]
    assert tls["hosts"] == [rule["host"]]
    service = rule["http"]["paths"][0]["backend"]["service"]
    assert service["name"] == documents["Service"]["metadata"]["name"]
    assert service["port"]["name"] in [p["name"] for p in documents["Service"]["spec"]["ports"]]
    assert f"secret tls {tls['secretName']}" in (DEPLOY / "kubernetes.yaml").read_text()


def test_manifests_select_the_same_pods(documents: dict[str, Any]) -> None:
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    specs = {kind: document["spec"] for kind, document in documents.items()}
    assert specs["Deployment"]["selector"]["matchLabels"] == labels
    assert specs["Service"]["selector"] == labels
    assert specs["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    assert specs["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    name = documents["Deployment"]["metadata"]["name"]
    assert specs["HorizontalPodAutoscaler"]["scaleTargetRef"]["name"] == name


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
