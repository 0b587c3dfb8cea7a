"""docs/deploy-azure.md puts all names into the manifests, and nothing else has to be edited."""

import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.deploy.manifests import ROOT, config_map, only, rendered, worker_of

PAGE = ROOT / "docs" / "deploy-azure.md"
NAMES = {
    "REGISTRY": "ourregistry",
    "NAMESPACE": "our-namespace",
    "STORAGE": "ourstorage",
    "CLIENT_ID": "12345678-1234-1234-1234-123456789012",
}
EXAMPLES = ("example-events", "exampleworker", "registry.example.org", "00000000-0000-0000-0000-000000000000")


def test_its_commands_put_every_name_in_and_the_result_renders(tmp_path: Path):
    for folder in ("config", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    [commands] = re.findall(
        r"test_azure_page.py runs what follows. -->\n\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    names, _, shown = commands.rpartition("kubectl kustomize ")
    subprocess.run(["/bin/sh", "-euc", names], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **NAMES}, check=True)
    assert list(tmp_path.rglob("*.bak")) == []

    documents = rendered(str(tmp_path / shown.split()[0]))
    text = yaml.safe_dump_all([each for each in documents if each["metadata"]["name"] != "event-grid-worker-rules"])
    assert [each for each in EXAMPLES if each in text] == []
    assert worker_of(documents)["image"] == "ourregistry.azurecr.io/event-grid-worker:0.1.0"
    settings = yaml.safe_load(config_map(documents, "event-grid-worker-settings")["worker.yaml"])
    assert settings["source"]["namespace"] == "our-namespace.servicebus.windows.net"
    assert settings["store"]["account_url"] == "https://ourstorage.blob.core.windows.net"
    account = only(documents, "ServiceAccount")["metadata"]["annotations"]
    assert account["azure.workload.identity/client-id"] == NAMES["CLIENT_ID"]
    [trigger] = only(documents, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["eventHubNamespace"] == "our-namespace"
    assert trigger["metadata"]["storageAccountName"] == "ourstorage"
    assert only(documents, "TriggerAuthentication")["spec"]["podIdentity"]["identityId"] == NAMES["CLIENT_ID"]


def test_what_it_creates_is_what_the_manifests_expect():
    page, documents = PAGE.read_text(), rendered("production")
    settings = yaml.safe_load(config_map(documents, "event-grid-worker-settings")["worker.yaml"])
    source, store = settings["source"], settings["store"]
    spec = only(documents, "ScaledObject")["spec"]
    namespace = only(documents, "Namespace")["metadata"]["name"]
    account = only(documents, "ServiceAccount")["metadata"]["name"]
    assert f"--name {source['hub']} \\\n  --partition-count {spec['maxReplicaCount']} " in page
    assert f"--retention-time {source['retention_hours']}\n" in page
    assert f'--storage-account "$STORAGE" --name {store["container"]}\n' in page
    assert f"--subject system:serviceaccount:{namespace}:{account} " in page


def test_every_role_and_kind_of_the_sinks_pages_is_in_its_table():
    """A page that names a role for the worker's identity has its row here."""
    page = PAGE.read_text()
    roles = ("AzureML Data Scientist", "Storage Blob Data Contributor", "Azure Event Hubs Data Sender")
    roles += ("Data Factory Contributor", "Communication and Email Service Owner")
    for sink in sorted((ROOT / "docs" / "sinks").glob("*.md")):
        named = [role for role in roles if role in sink.read_text()]
        rows = [line for line in page.splitlines() if line.startswith("|") and f"(sinks/{sink.name})" in line]
        assert all(any(role in row for row in rows) for role in named), sink.name
