"""Distributions that bring kinds of sinks, as they lie in a folder once they are installed; broken ones too."""

from pathlib import Path
from textwrap import dedent

GOOD = """
    from typing import Literal
    from worker.settings import SinkSettings
    from worker.sinks.log import LogSink
    from worker.sinks.table import SinkKind

    class Settings(SinkSettings):
        kind: Literal["{kind}"] = "{kind}"
        colour: str = "red"

    KIND = SinkKind(Settings, lambda settings, _tokens: LogSink(settings))
    """


def install(
    folder: Path,
    kind: str,
    source: str = GOOD,
    *,
    distribution: str = "",
    version: str = "1.2",
    entry_points: str | None = None,
) -> str:
    """Puts a distribution with one module into the folder, and returns the name of the module."""
    distribution = distribution or f"worker-{kind}"
    module = f"{distribution.replace('-', '_')}_{abs(hash(folder))}"  # imported once per process: never the same again
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(dedent(source).replace("{kind}", kind))
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    found = entry_points if entry_points is not None else f"{kind} = {module}:KIND"
    (about / "entry_points.txt").write_text(f"[event_grid_worker.sinks]\n{found}\n")
    return module
