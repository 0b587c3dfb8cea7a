"""The vendor's own clients, in an environment of their own: scripts that are run there, and where it is.

The scripts make requests that are compared with what sinks send. They import nothing of the worker.
"""

import asyncio
import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SECONDS = 60


def sdk_python() -> str:
    """The interpreter of that environment. Skips the test where there is none; with CI=true that is a failure."""
    path = os.environ.get("SDK_PYTHON") or str(_ROOT / ".venv-sdk" / "bin" / "python")
    if not Path(path).exists():
        reason = f"no {path}: `make sdk` installs the vendor's clients"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


async def run_sdk(script: str, *arguments: str, folder: Path, **environment: str) -> None:
    """Runs a script of this folder to its end, in `folder`: in a repository a client would send what it sees of it."""
    process = await asyncio.create_subprocess_exec(
        sdk_python(),
        str(_ROOT / "tests" / "sdk" / script),
        *arguments,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(_ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()[-2000:]
