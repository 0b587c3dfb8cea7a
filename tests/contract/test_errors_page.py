"""What each kind of sink makes of each answer: held to what is documented, and written into docs/sinks/errors.md.

`UPDATE_DOCS=1` writes the page anew; without it the test fails when the page says something else.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.contract.rigs import Identity
from tests.contract.rigs.table import RIGS, Place
from tests.deliveries import delivery_of
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.sinks.installed import find_kind
from worker.sinks.table import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "sinks" / "errors.md"

ACCEPTED, AGAIN, UNKNOWN, PAUSED, LETTER = "accepted", "again", "**unknown**", "paused", "dead letter"
WORDS: dict[type[WorkerError], str] = {
    SinkUnavailable: AGAIN,
    OutcomeUnknown: UNKNOWN,
    Misconfigured: PAUSED,
    Rejected: LETTER,
}


@dataclass(frozen=True)
class Situation:
    """What a destination that is asked over HTTP may do."""

    name: str
    answer: Scripted | None
    """None: nobody listens."""
    documented: str
    """What it is, where a repetition would be an effect of its own."""
    when_known: str | None = None
    """What it is where the destination knows a repetition; None: the same."""


def _status(status: int, documented: str, when_known: str | None = None, **headers: str) -> Situation:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    name = " ".join([str(status), *(f"with `{key}`" for key in named)])
    return Situation(name, Scripted(status, "", named), documented, when_known)


SITUATIONS = (
    Situation("nobody listens", None, AGAIN),
    Situation("the connection is lost, the request had no effect", Scripted(drops=True), UNKNOWN, AGAIN),
    Situation("the answer is lost, the request had its effect", Scripted(takes_effect=True, drops=True), UNKNOWN, AGAIN),
    Situation("no answer in time", Scripted(stalls=True), UNKNOWN, AGAIN),
    *(_status(status, LETTER, Location="/elsewhere") for status in (301, 302, 303, 307, 308)),
    _status(400, LETTER),
    *(_status(status, PAUSED) for status in (401, 403, 404)),
    _status(405, LETTER),
    _status(408, AGAIN),
    *(_status(status, LETTER) for status in (409, 410, 413, 415, 422)),
    _status(425, AGAIN),
    _status(429, AGAIN),
    _status(429, AGAIN, Retry_After="7"),
    *(_status(status, UNKNOWN, AGAIN) for status in (500, 501, 502)),
    _status(503, AGAIN),
    _status(503, AGAIN, Retry_After="7"),
    _status(504, UNKNOWN, AGAIN),
)

HTTP_KINDS = ("acs_email", "teams", "webhook")
KNOWS_A_REPETITION: frozenset[str] = frozenset()
"""Those whose destination does nothing when it is asked a second time, or may do it a second time without harm."""
EXCEPTIONS: Mapping[tuple[str, str], str] = {}
"""By kind and situation: what its own page says otherwise, and why."""


def documented(kind: str, situation: Situation) -> str:
    """What the references say: see "Retry classes" of the worker's sinks."""
    if (kind, situation.name) in EXCEPTIONS:
        return EXCEPTIONS[kind, situation.name]
    knows = kind in KNOWS_A_REPETITION
    return situation.when_known or situation.documented if knows else situation.documented


async def what_it_is(kind: str, situation: Situation, place: Place) -> str:
    async with RIGS[kind](place) as rig:
        given: Any = rig
        settings = find_kind(kind).settings.model_validate(
            {"name": "out", "kind": kind, **rig.settings(), "timeout_seconds": 0.3 if _stalls(situation) else 10}
        )
        sink = built(settings)
        await sink.open()
        if situation.answer is not None:
            given.answer_next(situation.answer)
            return await _ended(sink)
    return await _ended(sink)


def _stalls(situation: Situation) -> bool:
    return situation.answer is not None and situation.answer.stalls


def built(settings: SinkSettings) -> Sink:
    return find_kind(settings.kind).build(settings, Identity() if settings.needs_identity else None)


async def _ended(sink: Sink) -> str:
    try:
        await asyncio.wait_for(sink.deliver(delivery_of()), 20)
    except tuple(WORDS) as error:
        return WORDS[type(error)]
    finally:
        await sink.aclose()
    return ACCEPTED


def test_every_kind_is_in_a_table():
    assert {*HTTP_KINDS, "email", "file", "log"} == KINDS.keys()


async def test_what_each_kind_makes_of_each_answer_is_what_is_documented_and_stands_on_the_page(
    request, tmp_path, monkeypatch
):
    rows: dict[str, dict[str, str]] = {situation.name: {} for situation in SITUATIONS}
    with capture_logs() as logged:
        for kind in HTTP_KINDS:
            place = Place(tmp_path, monkeypatch, logged, lambda: request.getfixturevalue("azurite"))
            for situation in SITUATIONS:
                rows[situation.name][kind] = await what_it_is(kind, situation, place)
    wrong = [
        f"{kind}, {situation.name}: is {rows[situation.name][kind]}, documented {documented(kind, situation)}"
        for situation in SITUATIONS
        for kind in HTTP_KINDS
        if rows[situation.name][kind] != documented(kind, situation)
    ]
    assert wrong == []
    page = page_of(rows)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "UPDATE_DOCS=1 writes it anew"


def page_of(rows: Mapping[str, Mapping[str, str]]) -> str:
    head = ["what happens", *(f"`{kind}`" for kind in HTTP_KINDS)]
    lines = [head, ["---"] * len(head), *([name, *row.values()] for name, row in rows.items())]
    return HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


HEAD = """\
# What errors mean

Written by `tests/contract/test_errors_page.py`, which asks every kind of sink against a server that answers so.

- **again**: nothing happened there, or a repetition does no harm. Tried again with growing pauses, no sooner than
  `Retry-After` says, until `retry.give_up_after_seconds`. Five failures in a row over three subjects open the breaker.
- **unknown**: it may have taken effect, or not. `on_unknown` decides: ask the destination (`verify`), do it again
  (`resend`), or keep a dead letter for a person (`skip`).
- **paused**: the destination refuses the worker, not the event. Tried again; when three subjects in a row meet it, the
  sink is paused, keeps its events, and looks once a minute.
- **dead letter**: the destination will never take this event. It is kept with its reason, and can be replayed.

"""
