"""Two places that say the same thing say the same thing: manifests, configuration, Dockerfile, code."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.eventhub._pyamqp.constants import SECURE_PORT

from tests.deploy.dockerfile import stage
from tests.deploy.manifests import (
    APPLIED,
    K8S,
    ROOT,
    Manifest,
    config_map,
    containers_of,
    mount_config,
    only,
    pod_of,
    rendered,
    worker_of,
)
from worker.config import Config
from worker.loading import load
from worker.sinks.email_settings import _PORTS as MAIL_PORTS
from worker.stores import HubScope
from worker.stores.layout import scope_prefix

JOIN_INTERVALS = 1.1
"""Balance intervals that a worker needs for each partition it takes, as measured with the SDK."""
OTHERS = {"source.namespace", "store.kind", "store.account_url", "store.container", "http.host"}
OTHERS |= {"http.status_port", "http.status_host"}
"""Keys in which Kubernetes differs from config/worker.yaml."""


def environment_names(value: Any) -> set[str]:
    """What the `*_env` keys of a file name, wherever they stand."""
    if isinstance(value, list):
        return set().union(*(environment_names(item) for item in value))
    if not isinstance(value, dict):
        return set()
    names: set[str] = set()
    for key, below in value.items():
        if str(key).endswith("_env"):
            names |= set(below.values()) if isinstance(below, dict) else {below}
        else:
            names |= environment_names(below)
    return names


def needed_environment(documents: list[Manifest]) -> set[str]:
    files = (
        *config_map(documents, "event-grid-worker-settings").values(),
        *config_map(documents, "event-grid-worker-rules").values(),
    )
    return set().union(*(environment_names(yaml.safe_load(text)) for text in files))


@pytest.fixture(params=APPLIED)
def documents(request) -> list[Manifest]:
    return rendered(request.param)


@pytest.fixture
def config(documents: list[Manifest], tmp_path: Path, monkeypatch) -> Config:
    """What the worker reads in its pod. Secrets that are not in the manifests are addresses: the shipped rules' are."""
    given = [secret["data"] for secret in documents if secret["kind"] == "Secret"]
    for name in needed_environment(documents):
        values = [base64.b64decode(data[name]).decode() for data in given]
        monkeypatch.setenv(name, values[0] if values else "https://example.org/x")
    return load(mount_config(documents, tmp_path / "app"))


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, below in value.items():
        found |= leaves(below, f"{path}.{key}" if path else key)
    return found


def test_the_rules_are_those_of_config():
    assert config_map(rendered("production"), "event-grid-worker-rules") == {
        "routes.yaml": (ROOT / "config" / "routes.yaml").read_text()
    }


def test_how_it_runs_differs_from_config_where_kubernetes_differs_and_nowhere_else():
    [text] = config_map(rendered("production"), "event-grid-worker-settings").values()
    here, there = leaves(yaml.safe_load(text)), leaves(yaml.safe_load((ROOT / "config" / "worker.yaml").read_text()))
    assert {key for key, value in here.items() if there.get(key) != value} == OTHERS


def test_a_mistake_in_the_files_would_be_found_before_they_are_applied(config: Config):
    assert config.worker.http.port


def test_rules_are_exchanged_while_it_runs_and_settings_by_a_rollout(documents: list[Manifest]):
    [volume] = [each for each in pod_of(documents)["volumes"] if each["name"] == "config"]
    settings, rules = (source["configMap"]["name"] for source in volume["projected"]["sources"])
    assert re.fullmatch(r"event-grid-worker-settings-[a-z0-9]{10}", settings)
    assert rules == "event-grid-worker-rules"
    mounts = {mount["name"]: mount for mount in worker_of(documents)["volumeMounts"]}
    assert mounts["config"]["mountPath"] == f"{stage('worker').value('WORKDIR')}/config"
    assert not any("subPath" in mount for mount in mounts.values())


def test_what_the_local_files_take_from_the_environment_is_in_the_secret():
    documents = rendered("local")
    secret = only(documents, "Secret", "event-grid-worker-env")
    [source] = worker_of(documents)["envFrom"]
    assert source["secretRef"]["name"] == secret["metadata"]["name"]
    assert set(secret["data"]) == needed_environment(documents)


def test_what_the_shipped_files_take_from_the_environment_is_in_the_pages_command():
    documents = rendered("production")
    [source] = worker_of(documents)["envFrom"]
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    command = re.search(rf"create secret generic {source['secretRef']['name']}((?: \\\n.*--from-literal=\S+)+)", page)
    assert command is not None
    assert set(re.findall(r"--from-literal=(\w+)=", command[1])) == needed_environment(documents)


def test_kubernetes_waits_longer_than_the_worker_drains(documents: list[Manifest], config: Config):
    assert pod_of(documents)["terminationGracePeriodSeconds"] > config.worker.limits.drain_seconds + 10


def test_ports_are_the_one_that_is_listened_at(documents: list[Manifest], config: Config):
    [port] = worker_of(documents)["ports"]
    [service] = only(documents, "Service")["spec"]["ports"]
    assert (port["name"], port["containerPort"]) == ("http", config.worker.http.port)
    assert (service["targetPort"], service["port"]) == ("http", config.worker.http.port)
    assert config.worker.http.host == "0.0.0.0"
    assert stage("worker").value("EXPOSE") == str(config.worker.http.port)
    assert f"http://127.0.0.1:{config.worker.http.port}/livez" in stage("worker").value("HEALTHCHECK")


def test_the_status_page_is_for_those_who_may_forward_a_port(config: Config):
    """It shows subjects and ids: not to whom a policy lets to the metrics, nor to all where no policy works."""
    assert config.worker.http.status_page
    assert config.worker.http.status_host == "127.0.0.1"
    for page in ("status-page.md", "operations.md"):
        assert f"kubectl port-forward pod/NAME {config.worker.http.status_port}" in (ROOT / "docs" / page).read_text()


def test_probes_ask_for_life_and_readiness_where_they_are_told(documents: list[Manifest]):
    container = worker_of(documents)
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }


def test_the_user_is_the_images(documents: list[Manifest]):
    context = pod_of(documents)["securityContext"]
    assert stage("worker").value("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["fsGroup"] == context["runAsGroup"] != 0


def test_the_restricted_profile_is_kept_by_every_container(documents: list[Manifest]):
    context = pod_of(documents)["securityContext"]
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    for container in containers_of(documents):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is own["privileged"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert set(own) == {"allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem", "capabilities"}
    kinds = [set(volume) - {"name"} for volume in pod_of(documents)["volumes"]]
    assert all(kind <= {"configMap", "projected", "secret", "emptyDir"} for kind in kinds)
    labels = only(documents, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_everything_that_selects_pods_selects_the_workers():
    documents = rendered("production")
    pods = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        only(documents, "Service")["spec"]["selector"],
        only(documents, "Deployment")["spec"]["selector"]["matchLabels"],
        only(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(documents, "PodMonitor")["spec"]["selector"]["matchLabels"],
        only(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        only(documents, "NetworkPolicy", "event-grid-worker-metrics")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod_of(documents)["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= pods.items() for selector in selectors)


def test_the_identity_is_the_accounts_and_nothing_else_of_kubernetes():
    documents = rendered("production")
    template, account = only(documents, "Deployment")["spec"]["template"], only(documents, "ServiceAccount")
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
    assert template["spec"]["automountServiceAccountToken"] is account["automountServiceAccountToken"] is False


def test_a_rollout_never_has_fewer_owners_than_before():
    spec = only(rendered("production"), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert only(rendered("production"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_worker_may_speak_on_the_ports_it_uses_and_no_other():
    names, everywhere = only(rendered("production"), "NetworkPolicy")["spec"]["egress"]
    assert {(port["protocol"], port["port"]) for port in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert {port["port"] for port in everywhere["ports"]} == {443, SECURE_PORT, MAIL_PORTS["starttls"]}


def test_the_scaler_looks_for_checkpoints_where_the_worker_writes_them():
    documents = rendered("production")
    [settings] = config_map(documents, "event-grid-worker-settings").values()
    source, store = (yaml.safe_load(settings)[section] for section in ("source", "store"))
    [trigger] = only(documents, "ScaledObject")["spec"]["triggers"]
    told = trigger["metadata"]
    assert told["checkpointStrategy"] == "blobMetadata"
    # As KEDA makes it: the names as they stand, only the group in lower case.
    path = f"{told['eventHubNamespace']}.servicebus.windows.net/{told['eventHubName']}/{told['consumerGroup'].lower()}"
    assert path == scope_prefix(HubScope(source["namespace"], source["hub"], source["consumer_group"]))
    assert store["account_url"] == f"https://{told['storageAccountName']}.blob.core.windows.net"
    assert store["container"] == told["blobContainer"]
    assert trigger["authenticationRef"]["name"] == only(documents, "TriggerAuthentication")["metadata"]["name"]


@pytest.mark.parametrize("documents", ["production"], indirect=True)
def test_the_scaler_leaves_partitions_the_time_to_move(documents: list[Manifest], config: Config):
    worker = config.worker
    spec = only(documents, "ScaledObject")["spec"]
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    joined = JOIN_INTERVALS * worker.source.balance_interval_seconds * spec["maxReplicaCount"]
    left = worker.limits.drain_seconds + worker.source.ownership_expiry_seconds
    moved = joined + worker.limits.drain_seconds + worker.limits.hand_over_seconds
    assert all(policy["periodSeconds"] > moved for policy in behaviour["scaleUp"]["policies"])
    assert all(policy["periodSeconds"] > joined + left for policy in behaviour["scaleDown"]["policies"])
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] > 5 * (joined + left)
    assert only(documents, "Deployment")["spec"]["minReadySeconds"] > joined


def test_the_scaler_stays_between_two_workers_and_one_for_each_partition():
    documents = rendered("production")
    spec = only(documents, "ScaledObject")["spec"]
    assert 2 <= spec["minReplicaCount"] <= spec["maxReplicaCount"] == spec["fallback"]["replicas"]
    assert spec["scaleTargetRef"]["name"] == only(documents, "Deployment")["metadata"]["name"]
    assert "replicas" not in only(documents, "Deployment")["spec"]


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * (1024 if unit == "Gi" else 1)


def test_requests_come_from_what_was_measured():
    [backlog] = re.findall(r"^\| backlog \|.*", (ROOT / "bench" / "FOOTPRINT.md").read_text(), re.MULTILINE)
    peak = int(re.search(r"(\d+) MiB \|$", backlog)[1])
    a_core = int(backlog.split("|")[5].replace(",", ""))
    resources = worker_of(rendered("production"))["resources"]
    assert peak < mebibytes(resources["requests"]["memory"]) < 2 * peak
    assert mebibytes(resources["limits"]["memory"]) >= 3 * peak
    assert "cpu" not in resources["limits"]
    [trigger] = only(rendered("production"), "ScaledObject")["spec"]["triggers"]
    requested = int(re.fullmatch(r"(\d+)m", resources["requests"]["cpu"])[1]) / 1000
    seconds = int(trigger["metadata"]["unprocessedEventThreshold"]) / (a_core * requested)
    assert 5 < seconds < 30


def test_alert_rules_are_the_plain_files():
    """One rules file, and the operator's form of it; none of them as long as there is none."""
    plain, made = ROOT / "deploy" / "alerts" / "rules.yaml", K8S / "monitoring" / "prometheus-rule.yaml"
    assert plain.exists() == made.exists()
    if plain.exists():
        assert made.name in yaml.safe_load((K8S / "monitoring" / "kustomization.yaml").read_text())["resources"]
        assert only(rendered("production"), "PrometheusRule")["spec"] == yaml.safe_load(plain.read_text())
