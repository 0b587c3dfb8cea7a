"""`worker demo` as a user runs it: everything arrives, and nothing is left running."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.support import eventually


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def demo(tmp_path):
    """Starts the demo in an empty folder; killed at the end if it is still there."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / "output").open("w") as output:
            command = [sys.executable, "-m", "worker", "demo", *arguments]
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def worker_pids(output: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"pid (\d+)", output)]


def test_a_small_demo_delivers_everything_in_order_and_leaves_nothing_running(demo, tmp_path):
    code = demo("--events", "800", "--seed", "3").wait(timeout=100)
    output = (tmp_path / "output").read_text()
    assert code == 0, output
    assert "everything arrived, in order" in output
    assert output.count("/metrics") == 2
    assert len((tmp_path / ".data/demo/audit.jsonl").read_bytes().splitlines()) >= 800
    assert len(worker_pids(output)) == 2
    assert not any(is_running(pid) for pid in worker_pids(output))


def test_a_demo_in_chaos_delivers_everything_in_order_while_a_dozen_faults_happen(demo, tmp_path):
    code = demo("--events", "600", "--workers", "3", "--seed", "4", "--chaos").wait(timeout=115)
    output = (tmp_path / "output").read_text()
    assert code == 0, output
    assert "everything arrived, in order" in output
    assert "12 faults: " in output
    assert len(re.findall(r"^fault +\d+  ", output, re.MULTILINE)) == 12
    for kind in ("kill worker-", "suspend worker-", "drop ", "detach ", "black-hole ", "repeat "):
        assert kind in output
    assert re.search(r"deliveries doubled( \(.*\), each under the same idempotency key)?$", output, re.MULTILINE)
    assert not any(is_running(pid) for pid in worker_pids(output))


async def test_a_demo_that_is_interrupted_exits_1_and_leaves_nothing_running(demo, tmp_path):
    process = demo()
    output = tmp_path / "output"
    await eventually(lambda: "events are sent and delivered" in output.read_text(), timeout_seconds=60)
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=50)
    assert (code, len(worker_pids(output.read_text()))) == (1, 2)
    assert "nothing is left running" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert not any(is_running(pid) for pid in worker_pids(output.read_text()))


async def test_a_worker_that_dies_ends_the_demo_with_its_last_words(demo, tmp_path):
    process = demo()
    output = tmp_path / "output"
    await eventually(lambda: len(worker_pids(output.read_text())) == 2, timeout_seconds=60)
    first, second = worker_pids(output.read_text())
    os.kill(first, signal.SIGKILL)
    assert process.wait(timeout=50) == 1
    assert (
        "worker-1 ended by itself with exit code -9; the last lines of .data/demo/worker-1.log:" in output.read_text()
    )
    assert "Traceback" not in output.read_text()
    assert not is_running(second)
