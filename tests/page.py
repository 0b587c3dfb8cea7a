"""The code of docs/sinks/third-party.md, taken out of the page, so that the page cannot say what does not work."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "sinks" / "third-party.md"
_FILE = re.compile(r"^`([\w.]+)`[^\n`]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE_OF_A_FILE = {"worker_ntfy.py", "pyproject.toml", "routes.yaml"}


def files_of_the_page() -> dict[str, str]:
    """Each code block that the page gives a file name, by that name."""
    files: dict[str, str] = dict(_FILE.findall(PAGE.read_text()))
    assert files.keys() == _CODE_OF_A_FILE
    return files


def install_from_the_page(folder: Path) -> Path:
    """Builds and installs the page's distribution, as it says, without a network; gives the folder to import from."""
    source, target = folder / "source", folder / "installed"
    source.mkdir()
    for name in ("worker_ntfy.py", "pyproject.toml"):
        (source / name).write_text(files_of_the_page()[name])
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--no-cache-dir", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--target", str(target), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return target
