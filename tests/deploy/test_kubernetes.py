"""The Kubernetes manifests and the configuration of Ray Serve."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.deployment import check_options, shutdown_seconds, yaml_documents


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
