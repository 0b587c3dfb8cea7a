"""A mail to several, of whom the server takes some now, some later and some never; nobody gets it twice."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from tests.deliveries import delivery_of
from tests.emails import LEAD, ONCALL, TEAM, sink_on
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.mailbox import Mailbox, mail_server
from tests.memory_store import Contents, MemoryStore
from tests.support import eventually
from worker.deadletters import from_delivery
from worker.errors import Misconfigured, OutcomeUnknown, PartlyAccepted, Rejected, SinkUnavailable
from worker.ledger import EntryState, Ledger, decode
from worker.metrics import Metrics
from worker.sinks.email import EmailSink
from worker.sinks.email_settings import EmailSettings

ALL = [ONCALL, LEAD, TEAM]
LATER, NEVER = "450 4.2.0 greylisted", "550 5.1.1 who"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


async def test_who_is_refused_for_now_does_not_keep_the_mail_from_the_others_and_gets_it_later(mailbox):
    mailbox.to_recipient = {LEAD: LATER}
    delivery = delivery_of()
    async with mail_server(mailbox) as port, sink_on(port, to=ALL) as sink:
        with pytest.raises(PartlyAccepted, match=rf"greylisted; 1 of 3 .*without it.*: {LEAD}$") as partly:
            await sink.deliver(delivery)
        assert partly.value.served == {ONCALL, TEAM}
        with pytest.raises(SinkUnavailable, match="1 of 3") as still:
            await sink.deliver(replace(delivery, served=partly.value.served))
        assert not isinstance(still.value, PartlyAccepted)
        mailbox.to_recipient = {}
        await sink.deliver(replace(delivery, served=partly.value.served))

    assert mailbox.recipients == [[ONCALL, TEAM], [LEAD]]
    first, second = mailbox.raw
    assert first == second


async def test_who_was_served_before_stays_served_when_more_are(mailbox):
    mailbox.to_recipient = {TEAM: LATER}
    async with mail_server(mailbox) as port, sink_on(port, to=ALL) as sink:
        with pytest.raises(PartlyAccepted) as partly:
            await sink.deliver(replace(delivery_of(), served=frozenset({ONCALL})))

    assert partly.value.served == {ONCALL, LEAD}
    assert mailbox.recipients == [[LEAD]]


async def test_a_recipient_that_does_not_exist_is_left_out_and_said_once(mailbox):
    mailbox.to_recipient = {LEAD: NEVER}
    with capture_logs() as logged:
        async with mail_server(mailbox) as port, sink_on(port, to=[LEAD, ONCALL]) as sink:
            await sink.deliver(delivery_of())
            await sink.deliver(replace(delivery_of(), served=frozenset({LEAD})))
            await sink.deliver(delivery_of())

    assert mailbox.recipients == [[ONCALL]] * 3
    assert [line["to"] for line in logged if line["log_level"] == "warning"] == [LEAD]


async def test_refused_for_good_are_left_out_also_beside_those_refused_for_now(mailbox):
    mailbox.to_recipient = {ONCALL: NEVER, LEAD: LATER}
    async with mail_server(mailbox) as port, sink_on(port, to=ALL) as sink:
        with pytest.raises(PartlyAccepted) as partly:
            await sink.deliver(delivery_of())
        mailbox.to_recipient = {ONCALL: NEVER, LEAD: NEVER}
        await sink.deliver(replace(delivery_of(), served=partly.value.served))

    assert mailbox.recipients == [[TEAM]]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({ONCALL: NEVER, LEAD: NEVER}, Rejected),
        ({ONCALL: NEVER, LEAD: LATER}, SinkUnavailable),
        ({ONCALL: LATER, LEAD: LATER}, SinkUnavailable),
        ({LEAD: "530 5.7.0 log in first"}, Misconfigured),
    ],
)
async def test_when_nobody_is_taken_the_answers_say_what_becomes_of_it(mailbox, answers, error):
    mailbox.to_recipient = answers
    async with mail_server(mailbox) as port, sink_on(port, to=[ONCALL, LEAD]) as sink:
        with pytest.raises(error) as refused:
            await sink.deliver(delivery_of())

    assert not isinstance(refused.value, PartlyAccepted)
    assert mailbox.messages == []


@pytest.mark.parametrize(("vanishes", "error"), [("before", SinkUnavailable), ("after", OutcomeUnknown)])
async def test_a_connection_that_is_lost_serves_nobody_for_sure(mailbox, vanishes, error):
    mailbox.to_recipient = {LEAD: LATER}
    mailbox.vanishes = vanishes
    async with mail_server(mailbox) as port, sink_on(port, to=ALL) as sink:
        with pytest.raises(error) as lost:
            await sink.deliver(delivery_of())

    assert not isinstance(lost.value, PartlyAccepted)


# --- with lane and ledger


def settings_on(port: int, **more) -> EmailSettings:
    given = {"name": "out", "host": "127.0.0.1", "port": port, "security": "none", "from": "ml@example.org", "to": ALL}
    return EmailSettings.model_validate(given | more)


@asynccontextmanager
async def process(port: int, contents: Contents, **more):
    """One process with one lane to the mail server, on a store that outlives it."""
    settings = settings_on(port)
    sink = EmailSink(settings)
    await sink.open()
    ledger = Ledger(MemoryStore(contents), settings, sink, by=f"process-{id(sink)}", metrics=Metrics())
    async with LaneScene(sink, ledger=ledger, concurrency=1, **more).running() as scene:
        yield scene
    await sink.aclose()


def stored(contents: Contents, key: str):
    return decode(contents.entries[key].payload)


async def test_the_lane_tries_again_for_those_without_it_only(mailbox):
    contents, owner = Contents(), FakeOwner()
    mailbox.to_recipient = {LEAD: LATER}
    async with mail_server(mailbox) as port, process(port, contents) as scene:
        job = job_of(owner, "a", "a1")
        scene.lane.submit(job)
        await eventually(lambda: mailbox.messages)
        mailbox.to_recipient = {}
        await eventually(lambda: owner.accepted_ids)

    assert mailbox.recipients == [[ONCALL, TEAM], [LEAD]]
    assert stored(contents, job.delivery.idempotency_key).state is EntryState.ACCEPTED


async def test_after_a_crash_another_process_knows_who_has_it(mailbox):
    contents = Contents()
    mailbox.to_recipient = {LEAD: LATER}
    job = job_of(FakeOwner(), "a", "a1")
    key = job.delivery.idempotency_key
    async with mail_server(mailbox) as port:
        async with process(port, contents) as scene:
            scene.lane.submit(job)
            await eventually(lambda: key in contents.entries and stored(contents, key).served)
        assert set(stored(contents, key).served) == {ONCALL, TEAM}
        mailbox.to_recipient = {}
        owner = FakeOwner()
        async with process(port, contents) as scene:
            scene.lane.submit(job_of(owner, "a", "a1"))
            await eventually(lambda: owner.accepted_ids)

    assert mailbox.recipients == [[ONCALL, TEAM], [LEAD]]


async def test_given_up_it_says_who_never_got_it_and_a_replay_goes_to_them_alone(mailbox):
    contents, owner = Contents(), FakeOwner()
    mailbox.to_recipient = {LEAD: LATER}
    async with mail_server(mailbox) as port:
        async with process(port, contents, retry={"max_attempts": 2}) as scene:
            job = job_of(owner, "a", "a1")
            scene.lane.submit(job)
            await eventually(lambda: owner.letters)
        [(reason, detail)] = owner.letters.values()
        assert reason == "retries_exhausted"
        assert f"1 of 3 recipients without it as far as is known: {LEAD}" in detail
        letter = from_delivery(job.delivery, reason=reason, detail=detail, attempts=2)
        assert letter.detail.endswith(f"(2 have it already: {ONCALL}, {TEAM})")

        mailbox.to_recipient = {}
        replayer = FakeOwner()
        async with process(port, contents) as scene:
            replay = job_of(replayer, "a", "a1")
            replay.delivery = replace(replay.delivery, replayed=True)
            scene.lane.submit(replay)
            await eventually(lambda: replayer.accepted_ids)

    assert mailbox.recipients == [[ONCALL, TEAM], [LEAD]]


async def test_one_full_mailbox_does_not_hold_up_the_mail_of_the_others(mailbox):
    contents, owner = Contents(), FakeOwner()
    mailbox.to_recipient = {LEAD: "452 4.2.2 mailbox full"}
    async with mail_server(mailbox) as port, process(port, contents) as scene:
        for number in range(12):
            scene.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
        async with asyncio.timeout(20):
            await eventually(lambda: len({mail["X-Event-Id"] for mail in mailbox.messages}) == 12)
        assert scene.count("worker_lane_down") == 0

    assert mailbox.recipients == [[ONCALL, TEAM]] * 12
