"""The manifests as `kubectl kustomize` renders them, and where in them something stands."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy" / "k8s"
APPLIED = ("production", "local")
"""What is applied as it is."""

Manifest = dict[str, Any]


def rendered(folder: str) -> list[Manifest]:
    """The documents of a folder. Skips where there is no kubectl, fails in CI, or when kubectl has anything to say."""
    return list(yaml.safe_load_all(_render(folder)))


@functools.cache
def _render(folder: str) -> str:
    result = subprocess.run([_kubectl(), "kustomize", str(K8S / folder)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), "kubectl 1.21 or newer is needed: see .ci/kubectl.py"
    return result.stdout


def _kubectl() -> str:
    """The one beside this Python, where `.ci/kubectl.py` puts it, or the machine's."""
    beside = Path(sys.executable).with_name("kubectl")
    program = str(beside) if beside.exists() else shutil.which("kubectl")
    if program is None:
        missing = "kubectl is not installed here: 1.21 or newer is needed, and .ci/kubectl.py installs one"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return program


def only(documents: list[Manifest], kind: str, name: str = "event-grid-worker") -> Manifest:
    """The one of this kind; its name may have a hash at its end."""
    found = [doc for doc in documents if doc["kind"] == kind and doc["metadata"]["name"].startswith(name)]
    exact = [doc for doc in found if doc["metadata"]["name"] == name]
    [document] = exact or found
    return document


def pod_of(documents: list[Manifest]) -> Manifest:
    """The Deployment's pod."""
    return only(documents, "Deployment")["spec"]["template"]["spec"]


def worker_of(documents: list[Manifest]) -> Manifest:
    """The worker's container."""
    [container] = [each for each in pod_of(documents)["containers"] if each["name"] == "worker"]
    return container


def containers_of(documents: list[Manifest]) -> list[Manifest]:
    """All containers of the pod."""
    pod = pod_of(documents)
    return pod.get("initContainers", []) + pod["containers"]


def config_map(documents: list[Manifest], name: str) -> dict[str, str]:
    """The files of a ConfigMap."""
    return only(documents, "ConfigMap", name)["data"]


def mount_config(documents: list[Manifest], app: Path) -> Path:
    """Lays the ConfigMaps out as the pod has them, below a folder that stands for /app; gives worker.yaml."""
    [volume] = [each for each in pod_of(documents)["volumes"] if each["name"] == "config"]
    config = app / "config"
    config.mkdir(parents=True)
    for source in volume["projected"]["sources"]:
        for name, content in config_map(documents, source["configMap"]["name"]).items():
            (config / name).write_text(content)
    return config / "worker.yaml"
