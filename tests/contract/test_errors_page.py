"""What each kind of sink makes of each answer: held to what is documented, and written into docs/sinks/errors.md.

`UPDATE_DOCS=1` writes the page anew; without it the test fails when the page says something else.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.contract.rigs import Identity
from tests.contract.rigs.table import RIGS, Place
from tests.deliveries import ELEMENT, delivery_of
from tests.hub_service import HUB, HubService, hub_service
from tests.mailbox import HOST, Mailbox, mail_server
from worker.errors import (
    Gone,
    InProgress,
    Misconfigured,
    OutcomeUnknown,
    PartlyAccepted,
    Rejected,
    SinkUnavailable,
    WorkerError,
)
from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.sinks.installed import find_kind
from worker.sinks.table import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "sinks" / "errors.md"

ACCEPTED, AGAIN, UNKNOWN, PAUSED, LETTER, ENDED = "accepted", "again", "**unknown**", "paused", "dead letter", "ended"
OTHERS = "again, for the others"
WORKS = "at work"
WORDS: dict[type[WorkerError], str] = {
    SinkUnavailable: AGAIN,
    PartlyAccepted: OTHERS,
    InProgress: WORKS,
    OutcomeUnknown: UNKNOWN,
    Misconfigured: PAUSED,
    Rejected: LETTER,
    Gone: ENDED,
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


REDIRECTS = (301, 302, 303, 307, 308)
_LOST = Scripted(takes_effect=True, drops=True)
SITUATIONS = (
    Situation("nobody listens", None, AGAIN),
    Situation("the connection is lost, the request had no effect", Scripted(drops=True), UNKNOWN, AGAIN),
    Situation("the answer is lost, the request had its effect", _LOST, UNKNOWN, AGAIN),
    Situation("no answer in time", Scripted(stalls=True), UNKNOWN, AGAIN),
    *(_status(status, LETTER, Location="/elsewhere") for status in REDIRECTS),
    _status(400, LETTER),
    *(_status(status, PAUSED) for status in (401, 403, 404)),
    _status(405, LETTER),
    _status(408, AGAIN),
    *(_status(status, LETTER) for status in (409, 410, 413, 415, 422)),
    _status(425, AGAIN),
    _status(429, AGAIN),
    _status(429, AGAIN, Retry_After="7"),
    *(_status(status, UNKNOWN, AGAIN) for status in (500, 501, 502)),
    _status(503, UNKNOWN, AGAIN),
    _status(503, AGAIN, Retry_After="7"),
    _status(504, UNKNOWN, AGAIN),
)

HTTP_KINDS = (
    "webhook",
    "teams",
    "acs_email",
    "azureml_job",
    "azureml_batch",
    "azureml_deployment",
    "datafactory",
    "github",
    "azuredevops",
    "blob",
)
KNOWS_A_REPETITION = frozenset({"webhook", "azureml_job", "azureml_deployment", "blob"})
"""Those whose destination does nothing when it is asked a second time, or may do it a second time without harm."""
EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("webhook", "410"): ENDED,
    # Another PUT of the same job may be under way: it is asked whose job it is, and here there is none.
    ("azureml_job", "409"): AGAIN,
    # The endpoint or deployment is being changed: looked at again when that may be over.
    ("azureml_deployment", "409"): WORKS,
    # The repository or organization was renamed: that is no event's fault.
    **{(kind, f"{status} with `Location`"): PAUSED for kind in ("github", "azuredevops") for status in REDIRECTS},
}
"""By kind and situation: what its own page says otherwise, and why."""


def documented(kind: str, situation: Situation) -> str:
    """What the references say: see "Retry classes" of the worker's sinks."""
    if (kind, situation.name) in EXCEPTIONS:
        return EXCEPTIONS[kind, situation.name]
    knows = kind in KNOWS_A_REPETITION
    return situation.when_known or situation.documented if knows else situation.documented


@dataclass(frozen=True)
class MailSituation:
    """What a mail server may do."""

    name: str
    set_up: Callable[[Mailbox], None]
    documented: str


def _to(part: str, answer: str) -> Callable[[Mailbox], None]:
    return lambda mailbox: setattr(mailbox, part, answer)


def _recipients(**answers: str) -> Callable[[Mailbox], None]:
    return lambda mailbox: mailbox.to_recipient.update({f"{name}@example.org": text for name, text in answers.items()})


def _silent(mailbox: Mailbox) -> None:
    mailbox.silent = True


MAIL_SITUATIONS = (
    MailSituation("the connection is lost before the message", _to("vanishes", "before"), AGAIN),
    MailSituation("the connection is lost after the message", _to("vanishes", "after"), UNKNOWN),
    MailSituation("no answer to the message in time", _silent, UNKNOWN),
    MailSituation("530 to the sender: log in first", _to("to_sender", "530 log in first"), PAUSED),
    MailSituation("4yz to the sender", _to("to_sender", "451 not now"), AGAIN),
    MailSituation("4yz to the message", _to("to_data", "452 no room"), AGAIN),
    MailSituation("5yz to the message", _to("to_data", "554 no"), LETTER),
    MailSituation("4yz to all recipients", _recipients(a="451 not now", b="450 not now"), AGAIN),
    MailSituation("5yz to all recipients", _recipients(a="550 nobody", b="550 nobody"), LETTER),
    MailSituation("4yz to some recipients", _recipients(b="451 not now"), OTHERS),
    MailSituation("5yz to some recipients", _recipients(b="550 nobody"), ACCEPTED),
)


async def what_mail_is(situation: MailSituation) -> str:
    mailbox = Mailbox()
    situation.set_up(mailbox)
    async with mail_server(mailbox) as port:
        settings = {"host": HOST, "port": port, "security": "none", "from": "ml@example.org"}
        settings |= {"to": ["a@example.org", "b@example.org"], "timeout_seconds": 0.5 if mailbox.silent else 10}
        sink = built(find_kind("email").settings.model_validate({"name": "out", "kind": "email", **settings}))
        await sink.open()
        return await _ended(sink)


@dataclass(frozen=True)
class HubSituation:
    """What another hub may do."""

    name: str
    set_up: Callable[[HubService], None]
    documented: str
    when_connected: bool = False


def _refuses(on: str, condition: str, documented: str) -> HubSituation:
    def set_up(service: HubService) -> None:
        service.fault(kind="refuse", link="sender", on=on, condition=condition)

    what = "the link" if on == "attach" else "the message"
    return HubSituation(f"{what} is refused: `{condition}`", set_up, documented)


HUB_SITUATIONS = (
    _refuses("attach", "amqp:unauthorized-access", PAUSED),
    _refuses("attach", "amqp:not-found", PAUSED),
    _refuses("attach", "com.microsoft:entity-disabled", PAUSED),
    _refuses("attach", "com.microsoft:server-busy", AGAIN),
    _refuses("send", "amqp:link:message-size-exceeded", LETTER),
    _refuses("send", "amqp:decode-error", LETTER),
    _refuses("send", "amqp:resource-limit-exceeded", AGAIN),
    _refuses("send", "amqp:internal-error", AGAIN),
    HubSituation("the answer is lost, the message is in the hub", HubService.lose_answers, AGAIN),
    HubSituation("no answer in time", lambda service: service.fault(kind="blackhole"), AGAIN, True),
)


async def what_a_hub_is(number: int, situation: HubSituation, monkeypatch: pytest.MonkeyPatch) -> str:
    async with hub_service(key="a2V5") as service:
        monkeypatch.setenv(f"HUB_{number}", service.connection_string)
        given = {
            "connection_string_env": f"HUB_{number}",
            "hub": HUB,
            "timeout_seconds": 5 if situation.when_connected else 60,
        }
        sink = built(find_kind("eventhub").settings.model_validate({"name": "out", "kind": "eventhub", **given}))
        await sink.open()
        if situation.when_connected:
            await _connected(sink)
        situation.set_up(service)
        try:
            return await _ended(sink)
        finally:
            service.well_again()


async def _connected(sink: Sink) -> None:
    """An event goes through, however long that takes on a busy machine."""
    while True:
        with suppress(SinkUnavailable):
            return await sink.deliver(delivery_of(ELEMENT | {"id": "before"}))


async def what_it_is(kind: str, situation: Situation, place: Place) -> str:
    async with RIGS[kind](place) as rig:
        given: Any = rig
        settings = find_kind(kind).settings.model_validate(
            {
                "name": "out",
                "kind": kind,
                **rig.settings(),
                "timeout_seconds": 0.3 if _stalls(situation) else 10,
                # For a webhook to choose, and left out here: the receiver knows the key.
                **({"on_unknown": None} if kind in KNOWS_A_REPETITION else {}),
            }
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
        await asyncio.wait_for(sink.deliver(delivery_of()), 70)
    except tuple(WORDS) as error:
        return WORDS[type(error)]
    finally:
        await sink.aclose()
    return ACCEPTED


def test_every_kind_is_in_a_table():
    assert {*HTTP_KINDS, "discard", "email", "eventhub", "file", "log"} == KINDS.keys()


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
    mail = {situation.name: await what_mail_is(situation) for situation in MAIL_SITUATIONS}
    wrong += [
        f"email, {situation.name}: is {mail[situation.name]}, documented {situation.documented}"
        for situation in MAIL_SITUATIONS
        if mail[situation.name] != situation.documented
    ]
    tried = (what_a_hub_is(number, each, monkeypatch) for number, each in enumerate(HUB_SITUATIONS))
    hub = dict(zip([each.name for each in HUB_SITUATIONS], await asyncio.gather(*tried), strict=True))
    wrong += [
        f"eventhub, {situation.name}: is {hub[situation.name]}, documented {situation.documented}"
        for situation in HUB_SITUATIONS
        if hub[situation.name] != situation.documented
    ]
    assert wrong == []
    page = page_of(rows, mail, hub)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "UPDATE_DOCS=1 writes it anew"


def page_of(rows: Mapping[str, Mapping[str, str]], mail: Mapping[str, str], hub: Mapping[str, str]) -> str:
    head = ["what happens", *(f"`{kind}`" for kind in HTTP_KINDS)]
    over_http = _table(head, [[name, *row.values()] for name, row in rows.items()])
    over_smtp = _table(["what happens", "`email`"], [[*row] for row in mail.items()])
    over_amqp = _table(["what happens", "`eventhub`"], [[*row] for row in hub.items()])
    return f"{HEAD}\n## Over HTTP\n\n{over_http}\n{BESIDES}\n## Over SMTP\n\n{over_smtp}\n## Over AMQP\n\n{over_amqp}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


HEAD = """\
# What errors mean

Written by `tests/contract/test_errors_page.py`, which asks every kind of sink against a server that answers so.

- **again**: nothing happened there, or a repetition does no harm. Tried again with growing pauses, no sooner than
  `Retry-After` says, until `retry.give_up_after_seconds`. Five failures in a row over three subjects open the breaker.
- **unknown**: it may have taken effect, or not. `on_unknown` decides: ask the destination (`verify`), do it again
  (`resend`), or keep a dead letter for a person (`skip`).
- **paused**: the destination refuses the worker, not the event. Tried again; when three subjects in a row meet it, the
  sink is paused, keeps its events, and looks once a minute.
- **at work**: the destination has it, or is busy with something before it. Looked at again, which is no attempt.
- **dead letter**: the destination will never take this event. It is kept with its reason, and can be replayed.
- **ended**: the destination is gone for good. This event and all that come become dead letters without being sent,
  until the sink is configured anew, or the worker restarted.
"""

BESIDES = """\
`webhook` is meant without `on_unknown`; with it, where others are **unknown** it is so too. `github` takes 403 and 429
for a limit where GitHub says so. `azuredevops` is *paused* by 203 and by what leads to a page to sign in. Answers whose
text says that the set-up is at fault, and no event, pause the sink too: each kind's page names them.
"""
