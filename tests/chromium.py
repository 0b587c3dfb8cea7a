"""A browser without a window, that shows a page from a file, measures it and takes its picture. It asks no network."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = "/usr/bin/chromium"
_SECONDS = 60


def needs_chromium() -> None:
    """Skips the test where there is no Chromium; not in CI."""
    if not Path(_PROGRAM).exists() and os.environ.get("CI") != "true":
        pytest.skip("Chromium is not installed here")


def picture(page: str, file: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Takes a picture of the page, a PNG twice as wide and high as the view."""
    source = file.with_suffix(".html")
    source.write_text(page, encoding="utf-8")
    scale = "--force-device-scale-factor=2"
    _run(source, f"--screenshot={file}", f"--window-size={width},{height}", scale, dark=dark)


def measured(page: str, folder: Path, script: str, *, width: int) -> Any:
    """What the script gives, as JSON, in a frame of this width that shows the page; the frame is `view`.

    In a frame, because no window is made narrower than 500 pixels. The page's own scripts could run there, if any were
    live.
    """
    frame = (
        f'<!DOCTYPE html><body style="margin:0"><iframe id="f" src="shown.html" width="{width}" height="2000" '
        'style="border:0"></iframe><pre id="result"></pre><script>onload = () => {'
        'const view = document.getElementById("f").contentWindow;'
        f"const result = (() => {{ {script} }})();"
        'document.getElementById("result").textContent = "<<" + JSON.stringify(result) + ">>";}</script>'
    )
    folder.mkdir(exist_ok=True)
    (folder / "shown.html").write_text(page, encoding="utf-8")
    source = folder / "frame.html"
    source.write_text(frame, encoding="utf-8")
    shown = _run(source, "--dump-dom", "--allow-file-access-from-files", f"--window-size={max(width, 500)},2000")
    found = re.search(r'<pre id="result">&lt;&lt;(.*)&gt;&gt;</pre>', shown, re.DOTALL)
    assert found, f"the page measured nothing: {shown[-500:]}"
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def _run(source: Path, *flags: str, dark: bool = False) -> str:
    profile = source.with_name(f"profile-{source.stem}")
    command = [
        _PROGRAM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        *flags,
        source.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    return done.stdout
