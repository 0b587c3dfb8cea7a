"""The pod of deploy/k8s/local as processes on this machine: files, arguments, environment, probes, grace period."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.dockerfile import stage
from tests.deploy.manifests import (
    ROOT,
    Manifest,
    containers_of,
    mount_config,
    only,
    pod_of,
    rendered,
    worker_of,
)
from tests.support import eventually, free_port, stop, wait_for_port

EVENTS = 300


class Pod:
    """Containers as processes, which share the loopback as in a pod. Three ports are others: tests run side by side."""

    def __init__(self, documents: list[Manifest], folder: Path) -> None:
        self.documents = documents
        self.app = folder / "app"
        self.port, self.hub_port = free_port(), free_port()
        self.log = folder / "worker.log"
        config = mount_config(documents, self.app)
        text = config.read_text()
        assert text.count("port: 8080") == text.count("port: 8081") == 1
        text = text.replace("port: 8080", f"port: {self.port}").replace("port: 8081", "port: 0")
        config.write_text(text.replace("0.0.0.0", "127.0.0.1"))
        (self.app / ".data").mkdir()
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, container: Manifest) -> "subprocess.Popen[str]":
        """Its arguments, or else the image's."""
        arguments = container.get("args") or ["run"]
        assert stage("local").value("CMD") == '["run"]'
        return self.execute(*(str(self.hub_port) if argument == "5672" else argument for argument in arguments))

    def execute(self, *arguments: str) -> "subprocess.Popen[str]":
        """As `kubectl exec`."""
        secret = only(self.documents, "Secret", "event-grid-worker-env")["data"]
        own = {
            name: base64.b64decode(value).decode().replace(":5672", f":{self.hub_port}")
            for name, value in secret.items()
        }
        with (self.log if arguments == ("run",) else Path(os.devnull)).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", *arguments],
                cwd=self.app,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **own},
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        self._processes.append(process)
        return process

    async def status(self, probe: str) -> int:
        """What the kubelet would see."""
        path = worker_of(self.documents)[f"{probe}Probe"]["httpGet"]["path"]
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return 0

    def end(self) -> None:
        """Whatever still runs."""
        for process in reversed(self._processes):
            stop(process)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    pod = Pod(rendered("local"), tmp_path)
    try:
        yield pod
    finally:
        pod.end()


async def test_it_starts_delivers_and_stops_in_its_grace_period(pod: Pod):
    hub, worker = containers_of(pod.documents)
    assert (hub["name"], worker["name"], hub["restartPolicy"]) == ("hub", "worker", "Always")
    wait_for_port(pod.start(hub), pod.hub_port)
    process = pod.start(worker)
    for probe in ("startup", "readiness", "liveness"):
        assert await eventually(lambda probe=probe: pod.status(probe), 30) in (200, 503)
    await eventually(lambda: ready(pod), 30)

    sender = pod.execute("local", "send", "--count", str(EVENTS), "--seed", "1")
    assert await asyncio.to_thread(sender.wait, 30) == 0
    await eventually(lambda: pod.log.read_text().count('"sink":"seen"') >= EVENTS, 30)
    assert '"runStatus":"Failed"' in (pod.app / ".data" / "failures.jsonl").read_text()

    process.send_signal(getattr(signal, stage("local").value("STOPSIGNAL")))
    grace = pod_of(pod.documents)["terminationGracePeriodSeconds"]
    assert await asyncio.to_thread(process.wait, grace) == 0


async def ready(pod: Pod) -> bool:
    return await pod.status("readiness") == 200
