"""The groups of one partition: who joins, when they are told, and that nothing is lost, doubled or out of order."""

from collections import Counter
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deliveries import ELEMENT, delivery_of
from worker.about import Severity
from worker.digests import Because, Digest, Member, expanded, ranges
from worker.groups import HELD_EVENTS, Groups, Step
from worker.quiet import QuietSettings
from worker.sinks import Delivery

NIGHT = 1_700_006_400.0
"""Two hours after midnight, UTC."""
MIDNIGHT = NIGHT - NIGHT % 86_400
NIGHT_WINDOW = {"from": "00:00", "to": "06:00", "let_through": "error"}
REPEATS = {"group_interval_seconds": 60, "repeat_interval_seconds": 14_400}


def groups(**section: Any) -> Groups:
    return Groups({"out": QuietSettings.model_validate(section)})


def delivery(event_id: str, *, subject: str | None = None, status: str = "Failed", experiment: str = "e") -> Delivery:
    data = {"runStatus": status, "experimentName": experiment}
    return delivery_of(ELEMENT | {"id": event_id, "subject": subject or f"runs/{event_id}", "data": data})


def ids(digest: Digest) -> list[str]:
    return [entry.id for entry in digest.entries]


def meet_all(stage: Groups, *event_ids: str, now: float, **given: Any) -> list[Step]:
    return [stage.meet(delivery(each, **given), now=now) for each in event_ids]


def test_events_of_one_group_are_told_together_after_the_wait():
    stage = groups(group_by=["experiment"], group_wait_seconds=30)
    assert meet_all(stage, "1", "2", now=1000) == [Step.JOINED] * 2
    assert meet_all(stage, "3", now=1010, experiment="f") == [Step.JOINED]
    assert stage.close(1029.9) == []
    [digest] = stage.close(1030)
    assert (ids(digest), digest.values, digest.because) == (["1", "2"], (("experiment", "e"),), Because.GROUP)
    stage.sent(digest)
    [other] = stage.close(1040)
    assert ids(other) == ["3"]


def test_a_group_that_was_told_keeps_its_interval_and_a_repetition_its_own():
    stage = groups(group_by=[], group_wait_seconds=0, group_interval_seconds=60, repeat_interval_seconds=600)
    meet_all(stage, "1", now=1000)
    stage.sent(*stage.close(1000))
    meet_all(stage, "2", now=1010)
    assert stage.close(1599) == []
    meet_all(stage, "3", now=1599, status="Completed")  # news: and what was held goes with it
    [digest] = stage.close(1599)
    assert ids(digest) == ["2", "3"]


def test_while_a_digest_is_unsent_what_comes_waits_and_comes_together():
    stage = groups(group_by=["experiment"], group_wait_seconds=0)
    meet_all(stage, "1", now=1000)
    [first] = stage.close(1000)
    meet_all(stage, "2", "3", now=1001, experiment="f")
    assert stage.close(5000) == []
    stage.sent(first)
    [second] = stage.close(5000)
    assert ids(second) == ["2", "3"]


def test_without_groups_events_go_alone():
    stage = groups()
    assert meet_all(stage, "1", "2", now=1000) == [Step.ALONE] * 2


def test_a_sink_without_a_section_is_told_of_each():
    assert Groups({}).meet(delivery("1"), now=1000) is Step.ALONE


def test_what_exceeds_the_limit_becomes_one_digest():
    stage = groups(limit={"messages": 3, "per_seconds": 60}, group_interval_seconds=120)
    steps = meet_all(stage, *"12345", now=1000)
    assert steps == [Step.ALONE] * 3 + [Step.JOINED] * 2
    # Tokens are back, but what is held goes first, and together.
    assert meet_all(stage, "6", now=1060) == [Step.JOINED]
    [digest] = stage.close(1120)
    assert (ids(digest), digest.because) == (["4", "5", "6"], Because.LIMIT)
    stage.sent(digest)
    assert meet_all(stage, "7", now=1121) == [Step.ALONE]


def test_groups_that_are_due_beyond_the_limit_are_told_in_one():
    stage = groups(group_by=["experiment"], group_wait_seconds=0, limit={"messages": 2, "per_seconds": 600})
    for number in range(5):
        meet_all(stage, f"{number}", now=1000 + number, experiment=f"e{number}")
    first, rest = stage.close(1010)
    assert (ids(first), ids(rest)) == (["0"], ["1", "2", "3", "4"])
    assert (first.because, rest.because, rest.values) == (Because.GROUP, Because.LIMIT, ())
    stage.sent(first)
    stage.sent(rest)
    meet_all(stage, "5", now=1011, experiment="new")
    assert stage.close(1011) == []
    [later] = stage.close(1310)
    assert ids(later) == ["5"]


def test_what_comes_in_a_mute_window_is_told_when_it_ends():
    stage = groups(mute=[{"from": "00:00", "to": "03:00"}])
    midnight = NIGHT - NIGHT % 86_400
    assert meet_all(stage, "1", "2", now=midnight + 60) == [Step.JOINED] * 2
    assert stage.close(midnight + 3 * 3600 - 1) == []
    [digest] = stage.close(midnight + 3 * 3600)
    assert (ids(digest), digest.because) == (["1", "2"], Because.MUTE)


def test_a_window_may_drop_or_refuse():
    for policy, step in (("drop", Step.DROPPED), ("dead_letter", Step.REFUSED)):
        assert meet_all(groups(mute=[{"then": policy}]), "1", now=NIGHT) == [step]


def test_a_group_from_before_the_window_waits_for_its_end_too():
    midnight = NIGHT - NIGHT % 86_400
    stage = groups(group_by=[], group_wait_seconds=30, mute=[{"from": "00:00", "to": "03:00"}])
    meet_all(stage, "1", now=midnight - 10)
    assert stage.close(midnight + 60) == []
    assert [ids(each) for each in stage.close(midnight + 3 * 3600)] == [["1"]]


def test_a_severe_event_is_told_at_once_with_what_was_held_of_its_subject():
    stage = groups(mute=[{"from": "00:00", "to": "03:00", "let_through": "error"}])
    night = NIGHT - NIGHT % 86_400 + 60
    meet_all(stage, "other", now=night, status="Running")
    stage.meet(delivery("run-running", subject="run", status="Running"), now=night)
    assert stage.meet(delivery("free", subject="free"), now=night) is Step.ALONE
    assert stage.meet(delivery("run-failed", subject="run"), now=night) is Step.JOINED
    [digest] = stage.close(night)
    assert (ids(digest), digest.because) == (["run-running", "run-failed"], Because.ORDER)
    assert [entry.superseded for entry in digest.entries] == [True, False]


def test_a_digest_takes_along_what_was_held_of_its_subjects_in_other_groups():
    stage = groups(group_by=["state"], group_wait_seconds=30, group_interval_seconds=3600)
    meet_all(stage, "r0", now=900, status="Running")
    stage.sent(*stage.close(930))
    stage.meet(delivery("a-running", subject="a", status="Running"), now=1000)  # due after an hour
    stage.meet(delivery("b-running", subject="b", status="Running"), now=1000)
    stage.meet(delivery("a-failed", subject="a"), now=1001)  # due after the wait
    [digest] = stage.close(1031)
    assert ids(digest) == ["a-running", "a-failed"]


def test_a_digest_stands_for_at_most_so_many_and_a_full_group_does_not_wait():
    stage = groups(group_by=[], group_wait_seconds=3600, max_events=3)
    meet_all(stage, *"12345", now=1000)
    [first] = stage.close(1000)
    stage.sent(first)
    [second] = stage.close(1000)
    assert (ids(first), ids(second)) == (["1", "2", "3"], ["4", "5"])


def test_what_is_held_is_bounded_and_more_has_to_wait():
    stage = groups(group_by=[], group_wait_seconds=3600)
    assert set(meet_all(stage, *map(str, range(HELD_EVENTS)), now=1000)) == {Step.JOINED}
    assert meet_all(stage, "more", now=1000) == [Step.WAIT]
    [first] = stage.close(1000)
    assert meet_all(stage, "more", now=1000) == [Step.WAIT]
    stage.sent(first)
    assert meet_all(stage, "more", now=1000) == [Step.JOINED]


def test_a_full_mute_window_refuses_more_but_what_it_lets_through_is_told():
    stage = groups(group_by=["experiment"], mute=[NIGHT_WINDOW])
    running = [delivery(str(number), status="Running") for number in range(HELD_EVENTS)]
    assert {stage.meet(each, now=MIDNIGHT) for each in running} == {Step.JOINED}
    assert meet_all(stage, "more", now=MIDNIGHT, status="Running") == [Step.OVERFLOWS]
    assert meet_all(stage, "boom", now=MIDNIGHT, status="Failed", experiment="other") == [Step.JOINED]
    [digest] = stage.close(MIDNIGHT + 60)
    assert ids(digest) == ["boom"]


def test_what_must_come_before_counts_towards_the_size_of_a_digest():
    stage = groups(group_by=["severity"], group_wait_seconds=0, max_events=10, mute=[NIGHT_WINDOW])
    before = [str(number) for number in range(25)]
    meet_all(stage, *before, now=MIDNIGHT, status="Running", subject="one")
    meet_all(stage, "boom", now=MIDNIGHT, status="Failed", subject="one")
    told = []
    while digests := stage.close(MIDNIGHT + 60):
        [digest] = digests
        told.append(ids(digest))
        stage.sent(digest)
    assert [len(each) for each in told] == [10, 10, 6]
    assert [each for one in told for each in one] == [*before, "boom"]


def test_a_group_remembers_what_was_told_of_itself_and_not_of_others_in_the_same_message():
    stage = groups(group_by=["experiment"], group_wait_seconds=0, limit={"messages": 1, "per_seconds": 60}, **REPEATS)
    meet_all(stage, "1", now=1000, experiment="x", status="Completed")
    meet_all(stage, "2", now=1000, experiment="y", status="Failed")
    [both] = stage.close(1000)
    assert ids(both) == ["1", "2"]
    stage.sent(both)
    meet_all(stage, "3", now=1100, experiment="x", status="Failed")
    assert [ids(each) for each in stage.close(1200)] == [["3"]]


def test_a_failure_after_a_recovery_that_was_told_is_news():
    stage = groups(group_by=["experiment"], group_wait_seconds=0, **REPEATS)
    for now, status in ((1000, "Failed"), (1100, "Completed")):
        meet_all(stage, status, now=now, status=status)
        stage.sent(*stage.close(now))
    meet_all(stage, "again", now=1200, status="Failed")
    assert [ids(each) for each in stage.close(1200)] == [["again"]]


def test_groups_are_bounded_and_the_events_of_more_are_told_together():
    stage = groups(group_by=["experiment"], group_wait_seconds=0)
    for number in range(300):
        meet_all(stage, f"{number}", now=1000, experiment=f"{number}")
    sizes = Counter[int]()
    while digests := stage.close(1000):
        for each in digests:
            sizes[len(each.members)] += 1
            stage.sent(each)
    assert sizes == {1: 200, 100: 1}


def test_what_nobody_needs_is_forgotten():
    stage = groups(group_by=["experiment"], group_wait_seconds=0, group_interval_seconds=60)
    for number in range(50):
        meet_all(stage, f"{number}", now=1000 + 100 * number, experiment=f"{number}")
        stage.sent(*stage.close(1000 + 100 * number))
    stage.close(9000)
    assert stage.snapshot() == {}


def test_a_digest_of_severe_events_says_so():
    stage = groups(group_by=[], group_wait_seconds=0)
    meet_all(stage, "1", now=1000, status="Completed")
    meet_all(stage, "2", now=1000)
    [digest] = stage.close(1000)
    assert [entry.severity for entry in digest.entries] == [Severity.SUCCESS, Severity.ERROR]


@given(st.lists(st.integers(0, 200)))
def test_ranges_are_the_numbers(numbers: list[int]):
    assert list(expanded(ranges(set(numbers)))) == sorted(set(numbers))


# --- from life to life


def next_life(stage: Groups, **section: Any) -> Groups:
    """By way of JSON, as it is stored."""
    content = orjson.loads(orjson.dumps(stage.snapshot()))
    rows = [Member.from_row(orjson.loads(orjson.dumps(member.to_row()))) for member in stage.live.values()]
    following = groups(**section)
    following.restore(content, rows)
    return following


def test_an_unsent_digest_is_the_same_in_the_next_life():
    section = {"group_by": ["experiment"], "group_wait_seconds": 0}
    stage = groups(**section)
    meet_all(stage, "1", "2", now=1000)
    [digest] = stage.close(1000)
    meet_all(stage, "3", now=1001)
    following = next_life(stage, **section)
    [[again]] = [list(each.unsent) for each in following]
    assert (again.id, again.entries, again.values) == (digest.id, digest.entries, digest.values)
    following.sent(again)
    assert [ids(each) for each in following.close(9000)] == [["3"]]


def test_what_was_held_for_a_sink_that_is_no_longer_quiet_is_told_at_once():
    stage = groups(group_by=[], group_wait_seconds=3600)
    meet_all(stage, "1", now=1000)
    following = Groups({})
    following.restore(orjson.loads(orjson.dumps(stage.snapshot())), list(stage.live.values()))
    assert [ids(each) for each in following.close(1001)] == [["1"]]


SECTIONS = [
    {"group_by": ["state"], "group_wait_seconds": 5, "group_interval_seconds": 20},
    {"group_by": ["experiment", "state"], "group_wait_seconds": 0, "group_interval_seconds": 20, "max_events": 2},
    {"group_by": ["state"], "group_wait_seconds": 1, "limit": {"messages": 2, "per_seconds": 30}, "max_events": 3},
    {"limit": {"messages": 2, "per_seconds": 10}, "group_interval_seconds": 15},
    {"mute": [{"from": "02:00", "to": "02:01", "let_through": "error"}], "group_interval_seconds": 15},
]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), section=st.sampled_from(SECTIONS))
def test_any_events_at_any_times_over_any_lives_are_told_once_and_in_order_of_each_subject(data, section):
    stage, now, told = groups(**section), NIGHT, list[str]()
    states = st.sampled_from(["Running", "Failed", "Completed"])
    count = data.draw(st.integers(1, 25))
    for number in range(count):
        now += data.draw(st.sampled_from([0, 1, 4, 30]))
        subject = data.draw(st.sampled_from("abc"))
        given_delivery = delivery(f"{subject}-{number}", subject=subject, status=data.draw(states))
        step = stage.meet(given_delivery, now=now)
        if step is Step.ALONE:
            told.append(f"{subject}-{number}")
        if data.draw(st.booleans()):
            stage.close(now)
        if data.draw(st.booleans()):
            stage = next_life(stage, **section)
        if data.draw(st.booleans()):
            told += _send(stage)
    for _ in range(count + 5):
        told += _send(stage)
        now += 60
        stage.close(now)
    told += _send(stage)
    assert sorted(told) == sorted(set(told))
    assert len(told) == count
    for subject in "abc":
        mine = [int(each[2:]) for each in told if each[0] == subject]
        assert mine == sorted(mine)
    assert stage.live == {}


def _send(stage: Groups) -> list[str]:
    told = []
    for each in stage:
        for digest in list(each.unsent):
            told += ids(digest)
            stage.sent(digest)
    return told
