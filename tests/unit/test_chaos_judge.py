"""The judge of `make chaos`: each broken promise is seen, and nothing else is held against the worker."""

from dataclasses import replace

import pytest

from bench.chaos.judge import Result, judge_run
from bench.chaos.receivers import Book, Mood
from worker.events import PartitionId, UnixSeconds
from worker.local.send import SEEDED_START
from worker.local.traffic import TrafficEvent, TrafficOptions, generate
from worker.local.verdict import Arrival
from worker.stores import DeadLetter

SENT = generate(TrafficOptions(count=300, started_at=SEEDED_START, subjects=10, malformed_percent=1, seed=5))
EVENTS = [event for message in SENT for event in message.events]
MALFORMED = [message for message in SENT if message.damage]
PLAIN, MAIL = "plain", "mail"


def expects(_: TrafficEvent) -> list[str]:
    return [PLAIN, MAIL]


def letter_of(*, sink: str | None, event: TrafficEvent | None = None, body: bytes = b"", **more) -> DeadLetter:
    letter = DeadLetter(
        id="1",
        time=UnixSeconds(100.0),
        reason="unknown_outcome" if sink else "not_json",
        detail="",
        route=None,
        sink=sink,
        attempts=1,
        partition=PartitionId("0"),
        sequence_number=1,
        index=None,
        event_id=event.id if event else None,
        type=None,
        subject=None,
        source=None,
        body=body,
        content_type=None,
        properties={},
        enqueued_at=UnixSeconds(90.0),
        idempotency_key=f"key {event.id}" if event else None,
    )
    return replace(letter, **more)


class Scene:
    """A run in which all went well, until a test changes something."""

    def __init__(self) -> None:
        self.books = {PLAIN: Book(), MAIL: Book()}
        for book in self.books.values():
            for event in EVENTS:
                book.note(self.arrival(event), Mood.TAKEN)
        self.letters = [letter_of(sink=None, body=message.body) for message in MALFORMED]
        self.disturbed: list[float] = []

    @staticmethod
    def arrival(event: TrafficEvent) -> Arrival:
        return Arrival(event.id, f"key {event.id}", late=False)

    def leave_out(self, sink: str, event: TrafficEvent) -> None:
        book = self.books[sink]
        number = book.arrivals.index(self.arrival(event))
        del book.arrivals[number], book.times[number]

    def judge(self) -> Result:
        return judge_run(SENT, expects, self.books, self.letters, disturbed=self.disturbed, may_double={PLAIN: 1.0})


@pytest.fixture
def scene() -> Scene:
    return Scene()


def of(result: Result, sink: str):
    return next(each for each in result.sinks if each.seen.sink == sink)


def test_a_run_in_which_everything_arrived_once_is_right(scene):
    assert scene.judge().is_right


@pytest.mark.parametrize("sink", [PLAIN, MAIL])
def test_an_event_that_is_nowhere_is_lost(scene, sink):
    scene.leave_out(sink, EVENTS[3])
    result = scene.judge()
    assert of(result, sink).lost == 1
    assert not result.is_right


def test_an_event_that_is_an_explained_dead_letter_is_given_up_and_not_lost(scene):
    scene.leave_out(MAIL, EVENTS[3])
    scene.letters.append(letter_of(sink=MAIL, event=EVENTS[3]))
    scene.books[MAIL].unanswered.add(f"key {EVENTS[3].id}")
    result = scene.judge()
    assert (of(result, MAIL).lost, of(result, MAIL).given_up) == (0, 1)
    assert result.is_right


@pytest.mark.parametrize(("moment", "explained"), [(89.9, False), (90.0, True), (100.0, True), (100.1, False)])
def test_a_kill_explains_an_unknown_outcome_only_while_the_event_was_on_its_way(scene, moment, explained):
    scene.letters.append(letter_of(sink=MAIL, event=EVENTS[3]))
    scene.disturbed = [moment]
    assert scene.judge().is_right is explained


@pytest.mark.parametrize("reason", ["rejected", "retries_exhausted", "overflow", "late"])
def test_a_dead_letter_for_another_reason_is_not_explained_and_is_listed(scene, reason):
    scene.letters.append(letter_of(sink=MAIL, event=EVENTS[3], reason=reason))
    scene.disturbed = [95.0]
    scene.books[MAIL].unanswered.add(f"key {EVENTS[3].id}")
    [listed] = scene.judge().unexplained
    assert reason in listed
    assert EVENTS[3].id in listed


def test_a_malformed_message_that_was_not_kept_and_a_sound_one_that_was_are_faults(scene):
    body = scene.letters.pop().body
    assert not scene.judge().is_right
    scene.letters.append(letter_of(sink=None, body=body + b" "))
    assert scene.judge().unexpected_letters == 1


def test_a_doubled_effect_is_a_fault_where_there_is_a_key_or_a_ledger(scene):
    scene.books[MAIL].note(scene.arrival(EVENTS[3]), Mood.TAKEN)
    assert not scene.judge().is_right


@pytest.mark.parametrize(("doubled", "right"), [(2, True), (3, False)])
def test_a_plain_destination_may_see_less_than_one_percent_twice(scene, doubled, right):
    for event in EVENTS[:doubled]:
        scene.books[PLAIN].note(scene.arrival(event), Mood.TAKEN)
    assert scene.judge().is_right is right


def test_a_doubled_event_under_another_key_is_a_fault_even_once(scene):
    scene.books[PLAIN].note(Arrival(EVENTS[3].id, "another key", late=False), Mood.TAKEN)
    assert not scene.judge().is_right


def test_what_the_destination_caused_by_keeping_its_answer_to_itself_is_told_apart(scene):
    scene.leave_out(PLAIN, EVENTS[3])
    scene.books[PLAIN].note(scene.arrival(EVENTS[3]), Mood.LOST_AFTER)
    scene.books[PLAIN].note(scene.arrival(EVENTS[3]), Mood.TAKEN)
    scene.books[PLAIN].note(scene.arrival(EVENTS[4]), Mood.TAKEN)
    seen = of(scene.judge(), PLAIN)
    assert (seen.seen.doubled, seen.untold, seen.disturbed) == (2, 1, 0)


def test_what_a_kill_between_the_two_may_have_caused_is_told_apart(scene):
    book = scene.books[PLAIN]
    book.note(scene.arrival(EVENTS[3]), Mood.TAKEN)
    book.note(scene.arrival(EVENTS[4]), Mood.TAKEN)
    book.times[:] = [float(number) for number in range(len(book.times))]
    for kill, disturbed in ((10.0, 2), (1.0, 0), (book.times[-2] + 0.5, 1)):
        scene.disturbed = [kill]
        assert of(scene.judge(), PLAIN).disturbed == disturbed


def test_events_of_a_subject_that_came_in_another_order_are_a_fault(scene):
    subject = EVENTS[0].subject
    first, second = [event for event in EVENTS if event.subject == subject][:2]
    scene.leave_out(PLAIN, first)
    scene.books[PLAIN].note(scene.arrival(first), Mood.TAKEN)
    result = scene.judge()
    assert of(result, PLAIN).seen.out_of_order == 1
    assert second.index > first.index
    assert not result.is_right
