"""The image without an engine: the Dockerfile is linted and read, and its build stage is carried out into a folder.

What this cannot show (the base image, its size, layers, what an engine makes of the rest) is in docs/kubernetes.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.dockerfile import stage, stages
from tests.deploy.manifests import ROOT, mount_config, rendered

MOST_BYTES = 70_000_000
"""With python:3.13-slim-trixie, of about 125 MB, less than 200 MB."""
PROCESSOR = "x86_64"
"""Of the nodes that most have. That aarch64 has all wheels too was seen by hand."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_is_built_without_a_target_is_the_worker_and_has_no_engine():
    assert list(stages())[-1] == "worker"
    assert [text for text in stage("worker").values("COPY") if "--from" in text] == [
        "--from=build /opt/worker /opt/worker"
    ]
    assert not any("proton" in text or "gcc" in text for text in stage("build").values("RUN"))


def test_what_runs_is_a_program_and_no_shell():
    image = stage("worker")
    assert json.loads(image.value("ENTRYPOINT")) == ["worker"]
    assert json.loads(image.value("CMD")) == ["run"]
    assert image.value("STOPSIGNAL") == "SIGTERM"
    assert json.loads(image.value("HEALTHCHECK").partition(" CMD ")[2])[0] == "python"
    assert image.values("RUN") == []


def test_every_installation_is_pinned_by_hashes_or_asks_no_index():
    runs = [text for one in stages().values() for instruction, text in one.own if instruction == "RUN"]
    installs = [part for text in runs for part in text.split(" && ") if re.search(r"\bpip\b.* (install|wheel) ", part)]
    assert len(installs) == 6
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)


def test_labels_are_the_projects():
    [label] = stage("worker").values("LABEL")
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', label))
    assert labels == {
        "title": "Event Grid worker",
        "description": PROJECT["description"],
        "licenses": PROJECT["license"],
        "version": "${VERSION}",
        "revision": "${REVISION}",
        "created": "${CREATED}",
    }
    assert f"VERSION={PROJECT['version']}" in stage("worker").values("ARG")


def test_the_context_is_what_is_copied():
    allowed = {line[1:].removesuffix("/**") for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    copied = [text.split()[:-1] for one in stages().values() for word, text in one.own if word == "COPY"]
    sources = {source.rstrip("/") for sources in copied for source in sources if not source.startswith(("--", "/"))}
    assert {"requirements/*.lock" if source.startswith("requirements/") else source for source in sources} == allowed


class Built(NamedTuple):
    """What the build stage leaves."""

    root: Path
    worker: Path
    """What would be /opt/worker."""


@contextmanager
def build() -> Iterator[Built]:
    """The build stage's own commands, but for apt's, with this Python and in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        root = Path(name)
        context, builder = root / "src", root / "builder"
        context.mkdir()
        for source in ("worker", "requirements"):
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        for source in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / source, context)
        subprocess.run([sys.executable, "-m", "venv", builder], check=True)
        path = f"{builder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment.pop("PYTHONPATH", None)
        for command in stage("build").values("RUN"):
            if not command.startswith("apt-get"):
                _run(command, context, environment, root)
        yield Built(root, root / "opt" / "worker")


def _run(command: str, context: Path, environment: dict[str, str], root: Path) -> None:
    """One RUN, in the shell's form or in the other one."""
    moved = command.replace("/opt/worker", str(root / "opt" / "worker")).replace("/wheels", str(root / "wheels"))
    program = json.loads(moved) if moved.startswith("[") else ["sh", "-ec", moved]
    result = subprocess.run(program, cwd=context, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def _files(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()}


@pytest.mark.timeout(600)  # a minute or so; on a machine that has other work, four for the installation alone
def test_the_build_stage_leaves_what_is_small_complete_and_runs_where_nothing_can_be_written():
    """One test, because the stage is built for it once."""
    with build() as built:
        assert sum(_files(built.worker).values()) < MOST_BYTES
        _has_neither_the_engine_nor_what_builds(built.worker)
        _runs_where_nothing_can_be_written(built)


def _has_neither_the_engine_nor_what_builds(worker: Path) -> None:
    installed = {file.name.split("-")[0].lower().replace(".", "_") for file in worker.rglob("*.dist-info")}
    lock = (ROOT / "requirements" / "run.lock").read_text()
    pinned = {re.sub(r"[-.]", "_", name) for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    assert {"event_grid_worker", "aiohttp", "azure_eventhub"} <= installed
    assert installed <= pinned | {"event_grid_worker"}
    assert not pinned & {"python_qpid_proton", "pip", "setuptools", "hatchling"}
    programs = {file.name for file in (worker / "bin").iterdir()}
    assert "worker" in programs
    assert not programs & {"pip", "gcc", "cc", "strip"}


def _read_only(built: Built, *command: str) -> "subprocess.CompletedProcess[str]":
    """Runs it where the folder can only be read, with the image's environment and nothing else."""
    environment = {"PATH": f"{built.worker / 'bin'}{os.pathsep}/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= dict.fromkeys(("TEAM_WEBHOOK_URL", "TEAM_WEBHOOK_SECRET"), "https://example.org/hook")
    alone = 'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; cd "$0/app"; exec "$@"'
    if _may_mount():
        command = ("unshare", "--mount", "sh", "-ec", alone, str(built.root), *command)
    return subprocess.run(
        command, cwd=built.root / "app", env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def _may_mount() -> bool:
    """Whether this is root, whom no permission stops, and not in a container that forbids it; in CI it has to be."""
    if os.geteuid() != 0:
        return False
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    assert allowed or os.environ.get("CI") != "true"
    return allowed


def _runs_where_nothing_can_be_written(built: Built) -> None:
    mount_config(rendered("production"), built.root / "app")
    writable = [file for file in (built.root, built.worker) if os.geteuid() != 0]
    for folder in writable:
        folder.chmod(0o555)
    before = _files(built.root)
    try:
        version, check = _read_only(built, "worker", "--version"), _read_only(built, "worker", "check")
        told = _read_only(built, "worker", "local", "broker", "--port", "0", "--hub", "h", "--partitions", "1")
    finally:
        for folder in writable:
            folder.chmod(0o755)
    assert (version.returncode, version.stdout) == (0, f"worker {PROJECT['version']}\n"), version.stderr
    assert check.returncode == 0, check.stderr
    assert "store           blob, container worker" in check.stdout
    assert told.returncode != 0
    assert "event-grid-worker[local]" in told.stderr
    assert _files(built.root) == before


@pytest.mark.timeout(300)
def test_nothing_of_what_it_needs_has_to_be_compiled_for_the_images_python(tmp_path: Path):
    """pip finds a wheel of every pinned distribution, for the Python of the Dockerfile."""
    [version] = re.findall(r"^ARG PYTHON=python:(\d\.\d+)-slim", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    lock = ROOT / "requirements" / "run.lock"
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet"]
    platforms = [f"--platform=manylinux{kind}_{PROCESSOR}" for kind in ("2014", "_2_17", "_2_28")]
    where = [f"--target={tmp_path}", f"--python-version={version}", "--implementation=cp", *platforms]
    command = [sys.executable, "-m", "pip", "install", *options, *where, "--requirement", str(lock)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
