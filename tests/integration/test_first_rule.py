"""The README's five minutes, as they are pasted: a hub, a first rule, traffic, a worker. Only the ports are others."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventually, free_port, stop, wait_for_port
from worker.local.send import SEEDED_START
from worker.local.traffic import TrafficOptions, generate

ROOT = Path(__file__).parents[2]
WORKER = ".venv/bin/worker "


def pasted() -> tuple[str, str, str]:
    """The command that starts the hub, what is pasted, and its last line, which starts the worker."""
    page = (ROOT / "README.md").read_text().partition("## Five minutes")[2].partition("\n## ")[0]
    hub, rule = re.findall(r"```\w*\n(.*?)```", page, re.DOTALL)
    [broker] = [line for line in hub.splitlines() if line.startswith(WORKER)]
    *lines, run = rule.splitlines()
    assert run.startswith(f"{WORKER}run ")
    return broker, "\n".join(lines), run


def failed_runs(sent: str) -> list[str]:
    """The ids of the events that the rule is about, of the traffic that this command sends with seed 1."""
    count, disorder, duplicates = (int(number) for number in re.findall(r" --\w+ (\d+)", sent))
    options = TrafficOptions(
        count=count, started_at=SEEDED_START, disorder=disorder, duplicates_percent=duplicates, seed=1
    )
    bodies = [json.loads(message.body) for message in generate(options)]
    events = [event for body in bodies for event in (body if isinstance(body, list) else [body])]
    failed = [event["id"] for event in events if event["data"].get("runStatus") == "Failed"]
    assert len(failed) > len(set(failed)), "of the copies some are of failed runs, or nothing is proved"
    return sorted(set(failed))


class Terminal:
    """Runs commands as they are pasted, below a folder, with a hub on another port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> "subprocess.Popen[str]":
        command = command.replace(WORKER, f"exec {sys.executable} -m worker ").replace("5672", str(self.port))
        return self._popen(command)

    def paste(self, commands: str) -> None:
        commands = commands.replace(WORKER, f"{sys.executable} -m worker ").replace("5672", str(self.port))
        process = self._popen(f"set -e\n{commands}")
        assert process.wait(60) == 0

    def _popen(self, commands: str) -> "subprocess.Popen[str]":
        connection = re.search(r"'(Endpoint=[^']+)'", pasted()[1])
        assert connection is not None
        process = subprocess.Popen(
            ["/bin/sh", "-c", commands],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "EVENTHUB_CONNECTION_STRING": connection[1].replace("5672", str(self.port)),
            },
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.processes.append(process)
        return process


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    try:
        yield terminal
    finally:
        for process in reversed(terminal.processes):
            stop(process)


async def test_the_first_rule_writes_each_failed_run_once(terminal: Terminal):
    broker, rule, run = pasted()
    [sent] = [line for line in rule.splitlines() if "worker local send" in line]
    wait_for_port(terminal.start(broker), terminal.port)
    await asyncio.to_thread(terminal.paste, rule.replace(sent, f"{sent} --seed 1"))

    settings = terminal.folder / "first" / "worker.yaml"
    settings.write_text(f"{settings.read_text()}http: {{ port: {free_port()} }}\n")
    failures, expected = terminal.folder / "first" / "failures.jsonl", failed_runs(sent)
    worker = terminal.start(run)
    await eventually(lambda: failures.exists() and len(failures.read_text().splitlines()) >= len(expected), 60)
    worker.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(worker.wait, 30) == 0
    assert sorted(json.loads(line)["id"] for line in failures.read_text().splitlines()) == expected
