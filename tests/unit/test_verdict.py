"""`worker.local.verdict` must find each fault that is planted, and nothing where there is none."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from worker.local.traffic import TrafficEvent, TrafficMessage, TrafficOptions, generate
from worker.local.verdict import Arrival, Letter, SinkVerdict, Verdict, judge

SENT = generate(
    TrafficOptions(
        count=400,
        started_at=datetime(2024, 3, 11, 8, tzinfo=UTC),
        disorder=30,
        duplicates_percent=5,
        malformed_percent=5,
    )
)
FAULTS = ("missing", "unexpected", "out_of_order", "doubled", "doubled_under_another_key", "late", "wrongly_late")


def expects(event: TrafficEvent) -> list[str]:
    """Everything is for `all`; `ends` gets only every second event of a subject."""
    return ["all", "ends"] if event.index % 2 else ["all"]


def true_order() -> list[TrafficEvent]:
    events = {event.id: event for message in SENT for event in message.events}
    return sorted(events.values(), key=lambda event: (event.subject, event.index))


def right_arrivals() -> dict[str, list[Arrival]]:
    arrivals = {"all": [], "ends": []}
    for event in true_order():
        for sink in expects(event):
            arrivals[sink].append(Arrival(event.id, f"key of {event.id}", late=False))
    return arrivals


def right_letters() -> list[Letter]:
    return [Letter(message.body, None) for message in SENT if message.damage]


def judged(arrivals=None, letters=None, sent: list[TrafficMessage] = SENT) -> Verdict:
    return judge(sent, expects, arrivals or right_arrivals(), right_letters() if letters is None else letters)


def faults(verdict: SinkVerdict) -> dict[str, int]:
    return {name: count for name in FAULTS if (count := getattr(verdict, name))}


def with_all(change) -> Verdict:
    """The verdict after `change` was made to the record of the sink that gets everything."""
    arrivals = right_arrivals()
    change(arrivals["all"])
    return judged(arrivals)


def in_the_middle() -> int:
    """Where in the record of `all` a second event of a subject stands that has a later one."""
    events = true_order()
    return next(
        number
        for number, (event, following) in enumerate(pairwise(events))
        if event.index == 1 and following.subject == event.subject
    )


def last_of_a_subject() -> TrafficEvent:
    """One that `ends` gets too."""
    last = {event.subject: event for event in true_order()}
    return next(event for event in last.values() if event.index % 2)


def flagged(arrival: Arrival) -> Arrival:
    return Arrival(arrival.event_id, arrival.key, late=True)


def test_a_faultless_run_is_right_and_counted():
    verdict = judged()
    assert verdict.is_right
    assert (verdict.sent_events, verdict.resent, verdict.malformed, verdict.malformed_kept) == (400, 20, 20, 20)
    assert verdict.sent_messages == 440
    assert [faults(sink) for sink in verdict.sinks] == [{}, {}]
    assert [(sink.sink, sink.expected == sink.delivered > 0) for sink in verdict.sinks] == [
        ("all", True),
        ("ends", True),
    ]


def test_a_missing_event_is_found():
    verdict = with_all(lambda record: record.pop(7))
    assert faults(verdict.sinks[0]) == {"missing": 1}
    assert verdict.sinks[0].delivered == 399
    assert not verdict.is_right


def test_nothing_delivered_is_all_missing():
    verdict = judged({"all": [], "ends": []})
    assert verdict.sinks[0].missing == 400
    assert not verdict.is_right


def test_two_swapped_events_of_a_subject_are_one_out_of_order():
    def swap(record):
        at = in_the_middle()
        record[at], record[at + 1] = record[at + 1], record[at]

    verdict = with_all(swap)
    assert faults(verdict.sinks[0]) == {"out_of_order": 1}
    assert not verdict.is_right


def test_events_of_different_subjects_may_come_in_any_order():
    first_subject = [event for event in true_order() if event.subject == true_order()[0].subject]

    verdict = with_all(lambda record: record.extend(record.pop(0) for _ in first_subject))
    assert verdict.is_right


def test_a_swapped_event_that_says_it_is_late_is_late_and_no_fault():
    def swap_and_say(record):
        at = in_the_middle()
        record[at], record[at + 1] = record[at + 1], flagged(record[at])

    verdict = with_all(swap_and_say)
    assert faults(verdict.sinks[0]) == {"late": 1}
    assert verdict.is_right


def test_an_event_in_its_place_that_says_it_is_late_is_found():
    def say(record):
        record[in_the_middle()] = flagged(record[in_the_middle()])

    verdict = with_all(say)
    assert faults(verdict.sinks[0]) == {"late": 1, "wrongly_late": 1}
    assert not verdict.is_right


def test_an_event_late_behind_one_that_is_not_for_the_sink_is_believed():
    arrivals = right_arrivals()
    overtaken = true_order()[in_the_middle()]
    arrivals["ends"] = [
        flagged(arrival) if arrival.event_id == overtaken.id else arrival for arrival in arrivals["ends"]
    ]
    verdict = judged(arrivals)
    assert faults(verdict.sinks[1]) == {"late": 1}
    assert verdict.is_right


def test_the_last_event_of_a_subject_is_never_late_for_any_sink():
    arrivals = right_arrivals()
    last = last_of_a_subject()
    arrivals["ends"] = [flagged(arrival) if arrival.event_id == last.id else arrival for arrival in arrivals["ends"]]
    assert faults(judged(arrivals).sinks[1]) == {"late": 1, "wrongly_late": 1}


def test_a_doubled_delivery_is_counted_and_allowed_wherever_it_comes():
    verdict = with_all(lambda record: record.append(record[0]))
    assert faults(verdict.sinks[0]) == {"doubled": 1}
    assert verdict.is_right


def test_a_doubled_delivery_under_another_key_is_a_fault():
    verdict = with_all(lambda record: record.append(Arrival(record[0].event_id, "another key", late=False)))
    assert faults(verdict.sinks[0]) == {"doubled": 1, "doubled_under_another_key": 1}
    assert not verdict.is_right


@pytest.mark.parametrize("event_id", ["never sent", true_order()[0].id])
def test_an_event_that_is_not_for_the_sink_is_found(event_id):
    arrivals = right_arrivals()
    arrivals["ends"].append(Arrival(event_id, "key", late=False))
    verdict = judged(arrivals)
    assert verdict.sinks[1].unexpected == 1
    assert not verdict.is_right


@pytest.mark.parametrize(
    ("change", "kept", "unexpected"),
    [
        pytest.param(lambda letters: letters.pop(), 19, 0, id="one is missing"),
        pytest.param(lambda letters: letters.append(letters[0]), 20, 1, id="one stands there twice"),
        pytest.param(lambda letters: letters.append(Letter(SENT[0].body, None)), 20, 1, id="a sound one is there"),
        pytest.param(lambda letters: letters.append(Letter(letters.pop().body[:-1], None)), 19, 1, id="a byte is gone"),
    ],
)
def test_dead_letters_must_be_the_malformed_messages_byte_for_byte(change, kept, unexpected):
    letters = right_letters()
    change(letters)
    verdict = judged(letters=letters)
    assert (verdict.malformed_kept, verdict.unexpected_dead_letters) == (kept, unexpected)
    assert not verdict.is_right


def test_an_event_that_a_sink_gave_up_is_missing_there_and_said_to_be_a_dead_letter():
    arrivals = right_arrivals()
    given_up = arrivals["all"].pop(3).event_id
    body = next(message.body for message in SENT if any(event.id == given_up for event in message.events))
    verdict = judged(arrivals, [*right_letters(), Letter(body, "all")])
    assert (verdict.sinks[0].missing, verdict.sinks[0].dead_lettered) == (1, 1)
    assert verdict.unexpected_dead_letters == 0
    assert not verdict.is_right
