"""The manifests render without a word, and every field of theirs exists, in each Kubernetes that they are for."""

import copy
import os
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema import ValidationError as WrongResource

from tests.deploy.manifests import APPLIED, K8S, ROOT, Manifest, config_map, only, pod_of, rendered, worker_of

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
"""From the first in which a sidecar is an init container that goes on, without a feature gate."""
CRDS = Path(__file__).parent / "crds"
CUSTOM = {
    "keda.sh/v1alpha1": ("ScaledObject", "TriggerAuthentication"),
    "monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule"),
}


def is_custom(document: Manifest) -> bool:
    return document["apiVersion"] in CUSTOM


def validate_custom(document: Manifest) -> None:
    schema = yaml.safe_load((CRDS / f"{document['kind'].lower()}.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("folder", ["base", *APPLIED])
def test_every_folder_that_is_applied_or_built_upon_renders(folder: str):
    documents = rendered(folder)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names)) > 5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", APPLIED)
def test_every_field_is_kubernetes_own(folder: str, version: str):
    for document in rendered(folder):
        if not is_custom(document):
            assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("folder", ["keda", "monitoring", *APPLIED])
def test_every_field_of_a_custom_resource_is_documented(folder: str):
    custom = [document for document in rendered(folder) if is_custom(document)]
    assert bool(custom) == (folder != "local")
    for document in custom:
        assert document["kind"] in CUSTOM[document["apiVersion"]]
        validate_custom(document)


def test_the_scalers_behaviour_is_that_of_a_horizontal_pod_autoscaler():
    spec = only(rendered("production"), "ScaledObject")["spec"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "keda-hpa-event-grid-worker"},
        "spec": {
            "scaleTargetRef": {key: spec["scaleTargetRef"][key] for key in ("apiVersion", "kind", "name")},
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }
    for version in VERSIONS:
        kubernetes_validate.validate(autoscaler, version, strict=True)


def test_a_misspelt_field_would_be_noticed():
    documents = copy.deepcopy(rendered("production"))
    pod_of(documents)["terminationGracePeriodSecond"] = 40
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(only(documents, "Deployment"), VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ScaledObject", ("spec", "maxReplicas"), 4),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "unprocessedEventThreshold"), 5000),
        ("ScaledObject", ("spec", "triggers", 0, "metadata", "checkpointStrategy"), "blobmetadata"),
        ("TriggerAuthentication", ("spec", "podIdentity", "provider"), "azure"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "intervall"), "15s"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "15"),
    ],
)
def test_a_mistake_in_a_custom_resource_would_be_noticed(kind: str, path: tuple[str | int, ...], value: object):
    document = copy.deepcopy(only(rendered("production"), kind))
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(WrongResource):
        validate_custom(document)


@pytest.mark.parametrize("folder", APPLIED)
def test_everything_is_in_the_one_namespace(folder: str):
    documents = rendered(folder)
    namespace = only(documents, "Namespace")["metadata"]["name"]
    assert {document["metadata"].get("namespace") for document in documents if document["kind"] != "Namespace"} == {
        namespace
    }


def test_the_page_lists_every_name_that_is_somebody_elses():
    """What must be edited is marked NAME where it stands; the page says for each file what it is."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    marked = {str(file.relative_to(K8S)) for file in K8S.rglob("*.yaml") if "# NAME:" in file.read_text()}
    table = page.partition("## Names")[2].partition("\n## ")[0]
    listed = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert listed == marked


def test_the_pages_overlay_of_ones_own_renders_what_it_says(tmp_path: Path):
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    [block] = re.findall(r"```yaml\n# deploy/k8s/staging/kustomization.yaml.*?\n(.*?)```", page, re.DOTALL)
    for name in ("worker.yaml", "routes.yaml"):
        (tmp_path / name).write_text(f"# {name} of staging\n")
    production = os.path.relpath(K8S / "production", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(block.replace("../production", production))
    documents = rendered(str(tmp_path))
    assert config_map(documents, "event-grid-worker-rules") == {"routes.yaml": "# routes.yaml of staging\n"}
    assert config_map(documents, "event-grid-worker-settings") == {"worker.yaml": "# worker.yaml of staging\n"}
    assert worker_of(documents)["image"] == "contoso.example.org/event-grid-worker:0.1.0"
    mounted = {source["configMap"]["name"] for source in pod_of(documents)["volumes"][0]["projected"]["sources"]}
    assert mounted <= {document["metadata"]["name"] for document in documents if document["kind"] == "ConfigMap"}
    [trigger] = only(documents, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["eventHubNamespace"] == "contoso-staging"
