"""The interpreters to measure with: the one that runs this, and one of Python 3.12 or 3.13 where it can be had.

On PATH, under pyenv, or from Debian's own packages: these are unpacked into .data/bench and run by the C library that
comes with them, so nothing is installed on this machine. An interpreter gets an environment of its own with what the
worker needs, from the locks; the local hub's engine is not in it, the hub runs on the first interpreter.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.scene import ROOT

_PLACE = ROOT / ".data/bench"
_WANTED = ("3.13", "3.12")
_LOCKS = (ROOT / "requirements/build.lock", ROOT / "requirements/run.lock")
_SUITE = "trixie"
"""Debian 13, whose Python is 3.13."""
_PACKAGES = ("python3.13", "python3.13-venv", "libstdc++6")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Interpreter(NamedTuple):
    """One that has what the worker needs."""

    version: str
    python: str
    """The program."""
    origin: str
    """Where it comes from, in words."""

    @property
    def minor(self) -> tuple[int, ...]:
        """Such as (3, 13)."""
        return tuple(map(int, self.version.split(".")[:2]))


class Missing(Exception):
    """There is none; the text says why."""


def interpreters() -> tuple[list[Interpreter], str]:
    """The one that runs, then another; and where there is no other, a sentence that says so."""
    running = _asked(sys.executable, "the one that runs this")
    if running.minor >= (3, 12):
        return [running], f"One interpreter: Python {running.version} runs this."
    try:
        return [running, _prepared()], ""
    except (Missing, OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return [running], f"One interpreter only; none of Python 3.12 or later was to be had: {said.strip()[-300:]}"


def _prepared() -> Interpreter:
    """Another interpreter with an environment, which is made once for the locks as they are."""
    for minor in _WANTED:
        for python in _installed(minor):
            place = _PLACE / f"venv-{minor}"
            return _ready(place, "of this machine", lambda python=python, place=place: _from_installed(python, place))
    place = _PLACE / f"debian-{_SUITE}"
    return _ready(place, "from Debian's packages", lambda: _from_debian(place))


def _installed(minor: str) -> Iterator[str]:
    """Those of a minor version that answer: a shim of pyenv may be on PATH and lead nowhere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{minor}"), *map(str, pyenv.glob(f"versions/{minor}.*/bin/python{minor}"))]
    for python in candidates:
        if python and _answers(python, "import ensurepip, ssl, sqlite3, venv"):
            yield python


def _answers(python: str, code: str) -> bool:
    return subprocess.run((python, "-c", code), capture_output=True, check=False).returncode == 0  # noqa: S603


def _ready(place: Path, origin: str, make: Callable[[], list[str]]) -> Interpreter:
    """The environment in this folder; made anew where it is of other locks. `make` gives the command of its pip."""
    python, mark = place / "venv/bin/python", place / "made-of"
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in _LOCKS)).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        pip = [*make(), "--disable-pip-version-check", "--quiet", "install"]
        _do(*pip, "--require-hashes", *(f"--requirement={lock}" for lock in _LOCKS))
        # For what it says of itself only: the code that runs is the checkout's.
        _do(*pip, "--no-deps", "--no-build-isolation", "--no-index", str(ROOT))
        mark.write_text(digest)
    return _asked(str(python), origin)


def _asked(python: str, origin: str) -> Interpreter:
    version = _do(python, "-c", "import platform; print(platform.python_version())").strip()
    return Interpreter(version, python, origin)


def _from_installed(python: str, place: Path) -> list[str]:
    _do(python, "-m", "venv", str(place / "venv"))
    return [str(place / "venv/bin/python"), "-m", "pip"]


def _from_debian(place: Path) -> list[str]:
    """Unpacks Debian's packages and makes an environment of what is in them; its pip is the one that is with them."""
    root = place / "root"
    root.mkdir()
    for package in _downloaded(place / "apt"):
        _do("dpkg-deb", "--extract", str(package), str(root))
    shutil.rmtree(place / "apt")
    loader = next((root / "usr").glob("lib/*-linux-gnu*/ld-linux*"))
    venv = place / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text(f"home = {root}/usr/bin\ninclude-system-site-packages = false\n")
    python = venv / "bin/python"
    # The program's own C library is newer than this machine's, so its loader is called by name.
    command = f'exec "{loader}" --library-path "{loader.parent}" --argv0 "$0" "{root}/usr/bin/python{_WANTED[0]}" "$@"'
    python.write_text(f"#!/bin/sh\n{command}\n")
    python.chmod(0o755)
    wheel = next(root.glob("usr/share/python-wheels/pip-*.whl"))
    return [str(python), f"{wheel}/pip"]


def _downloaded(apt: Path) -> list[Path]:
    """Debian's packages with all that they need, from where this machine has its own from."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and _KEYRING.exists()):
        raise Missing("no python3.12 or python3.13 is on PATH, and this is no Debian that could lend one")
    mirror = _do("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian").split()
    if not mirror:
        raise Missing("no python3.12 or python3.13 is on PATH, and this machine's apt knows no mirror of Debian")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()  # as if nothing were installed, so that the C library comes along
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror[0]} {_SUITE} main\n")
    settings = {
        "Dir::State": apt / "state",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    ours = ("apt-get", "-qq", *(f"-o={key}={value}" for key, value in settings.items()))
    _do(*ours, "update")
    _do(*ours, "--yes", "--no-install-recommends", "--download-only", "install", *_PACKAGES)
    return sorted((apt / "cache/archives").glob("*.deb"))


def _do(*command: str) -> str:
    """What it prints. Raises CalledProcessError, with what it complained of."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
