"""The status page: values in, HTML out. It asks nobody and reads no clock; what the values are is `shown`'s work.

Nothing that comes from outside is alive in it: the template escapes all it is given, there is no script, and the policy
that goes with the page allows none, nor anything from elsewhere.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from worker.plots import HEIGHT, WIDTH, Plot
from worker.terminal import printable

REFRESH_SECONDS = 15
_UNKNOWN = "\N{EN DASH}"

Level = Literal["good", "note", "bad"]
"""How a state is shown: as it should be, worth a look, in need of somebody."""


@dataclass(frozen=True, slots=True)
class PartitionView:
    """A partition that this process has, takes or leaves."""

    name: str
    state: str
    level: Level
    why: str = ""
    """Why nothing is read."""
    generation: int | None = None
    lag_events: float | None = None
    lag_seconds: float | None = None
    held: float | None = None
    in_flight: float | None = None
    window_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class LaneView:
    """The lane of a sink."""

    name: str
    kind: str
    state: str
    level: Level
    queued: float | None = None
    oldest_seconds: float | None = None
    error: str = ""
    """What its sink said last; empty: nothing is wrong."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt that has ended."""

    at: float
    """Unix time."""
    sink: str
    subject: str
    event_id: str
    outcome: str
    level: Level
    error: str = ""


@dataclass(frozen=True, slots=True)
class LetterView:
    """A dead letter that this process has written."""

    at: float
    reason: str
    sink: str
    place: str
    """Its partition and sequence number."""
    subject: str
    event_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class ExpectationView:
    """What is open of a rule."""

    rule: str
    pending: float | None
    """First events on this process's partitions, for a rule about one subject."""
    rows: float | None
    """In the table that all processes share, for the others."""


@dataclass(frozen=True, slots=True)
class Status:
    """All that is on the page."""

    name: str
    """Of the process."""
    version: str
    hub: str
    consumer_group: str
    digest: str
    """Of the configuration in force."""
    now: float
    """Unix time."""
    started_at: float
    not_ready: Mapping[str, str] = field(default_factory=dict)
    stale: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    partitions: Sequence[PartitionView] = ()
    lanes: Sequence[LaneView] = ()
    expectations: Sequence[ExpectationView] = ()
    attempts: Sequence[AttemptView] = ()
    letters: Sequence[LetterView] = ()
    plots: Sequence[Plot] = ()

    @property
    def headline(self) -> tuple[str, Level]:
        """How it stands, in two words."""
        if self.stale:
            return "not moving", "bad"
        if "stopping" in self.not_ready:
            return "stopping", "note"
        if self.not_ready:
            return "not ready", "bad"
        shown: list[PartitionView | LaneView] = [*self.partitions, *self.lanes]
        if any(each.level == "bad" for each in shown):
            return "ready, needs a look", "note"
        return "ready", "good"


def render(status: Status, *, refreshing: bool) -> str:
    """The page. `refreshing`: the browser asks for it again by itself."""
    return _template().render(
        status=status,
        css=Markup(_style()),  # noqa: S704 - a file of ours, which must stand there as it is: the policy has its digest
        refresh_seconds=REFRESH_SECONDS if refreshing else None,
        again_seconds=REFRESH_SECONDS,
        width=WIDTH,
        height=HEIGHT,
    )


@cache
def headers() -> Mapping[str, str]:
    """What goes with the page: nothing runs in it, nothing is loaded into it, nobody frames it, nothing keeps it."""
    digest = b64encode(sha256(_style().encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


@cache
def _style() -> str:
    return files("worker").joinpath("status.css").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, seconds=_seconds, clock=_clock, stamp=_stamp, text=printable)
    return environment.from_string(files("worker").joinpath("status.html").read_text(encoding="utf-8"))


# --- how values are written


def _number(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.1f}"


def _seconds(value: float | None) -> str:
    """A time span, as short as a table needs it."""
    if value is None:
        return _UNKNOWN
    size = abs(value)
    if size < 120:
        return f"{_number(value)} s"
    if size < 7200:
        return f"{value / 60:.0f} min"
    if size < 172_800:
        return f"{value / 3600:.1f} h"
    return f"{value / 86_400:.1f} d"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def _stamp(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
