"""pending.py: what is met, what is missed and when, over any order of events, saves and crashes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker import pending as module
from worker.about import Link, Severity
from worker.decode import decode
from worker.events import Event, Message, PartitionId, Placed, Position, UnixSeconds
from worker.expect import ExpectRule
from worker.filters import compile_filter
from worker.keys import duplicate_key, normal_time
from worker.missed import Missed, time_text
from worker.notice import notice_of
from worker.pending import FIRST_BYTES, Expectations, Outcome, Pending
from worker.samples import own_delivery

WITHIN = 100.0
WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


def rule(name: str = "r", after: str = "A", then: Any = "B", **more: Any) -> ExpectRule:
    return ExpectRule(
        **{
            "name": name,
            "written": "100s",
            "seconds": WITHIN,
            "listed": None,
            "sources": None,
            "after": compile_filter({"includedEventTypes": [after]}),
            "then": compile_filter({"includedEventTypes": [then]}) if isinstance(then, str) else then,
            **more,
        }
    )


def placed(type_: str, at: float = 0.0, subject: str = "s", enqueued: float | None = None, **more: Any) -> Placed:
    content = {"id": f"{type_}{at:g}", "eventType": type_, "topic": "/T", "subject": subject, "eventTime": "x", **more}
    message = Message(
        PartitionId("0"), 1, "1", UnixSeconds(at if enqueued is None else enqueued), orjson.dumps(content)
    )
    (event,) = decode(message)
    assert isinstance(event, Event)
    return Placed(event, message, Position(1, 0), duplicate_key(event))


def book(*rules: ExpectRule) -> Expectations:
    expectations = Expectations()
    expectations.exchange(rules or (rule(),))
    return expectations


def see(expectations: Expectations, type_: str, at: float, *, late: bool = False, **more: Any) -> list[str]:
    look = expectations.see(placed(type_, at, **more), at=UnixSeconds(at), late=late)
    return [outcome.value for _, outcome in look.outcomes]


def misses(expectations: Expectations, through: float) -> list[float]:
    return [each.due for each in expectations.miss(through, now=5000.0)]


def reborn(expectations: Expectations, rules: Iterable[ExpectRule] = (rule(),)) -> Expectations:
    """As a later life finds it: by way of the state's bytes."""
    saved = orjson.dumps([expectations.snapshot(), [each.to_row() for each in expectations.live.values()]])
    content, rows = orjson.loads(saved)
    other = Expectations()
    if content:
        other.restore(content, map(Pending.from_row, rows))
    other.exchange(rules)
    return other


def test_a_second_event_at_the_very_end_is_in_time():
    expectations = book()
    assert see(expectations, "A", 0) == []
    assert see(expectations, "B", 100) == ["met"]
    assert misses(expectations, 1000) == []


def test_one_after_the_end_is_not_and_it_is_missed_only_beyond_the_end():
    expectations = book()
    see(expectations, "A", 0)
    assert see(expectations, "B", 100.1) == []
    assert misses(expectations, 100) == []
    assert misses(expectations, 100.1) == [100]
    assert misses(expectations, 1000) == []


def test_another_first_event_while_one_is_pending_changes_nothing():
    expectations = book()
    see(expectations, "A", 0)
    see(expectations, "A", 50)
    assert misses(expectations, 149) == [100]
    assert misses(expectations, 1000) == []


def test_one_filter_may_be_both():
    expectations = book(rule(after="A", then="A"))
    for at in (0, 90, 180, 400):
        see(expectations, "A", at)
    assert misses(expectations, 10_000) == [280, 500]


def test_subjects_sources_and_rules_are_apart():
    expectations = book(rule(), rule("other", "A", "C"))
    see(expectations, "A", 0)
    see(expectations, "A", 0, subject="t")
    see(expectations, "A", 0, topic="/U")
    assert expectations.counts == {"r": 3, "other": 3}
    assert see(expectations, "B", 1, topic="/u") == ["met"]
    assert expectations.counts == {"r": 2, "other": 3}
    told = expectations.miss(1000, now=1.0)
    assert sorted((each.rule, each.key, each.data["source"]) for each in told) == [
        ("other", "s", "/T"),
        ("other", "s", "/U"),
        ("other", "t", "/T"),
        ("r", "s", "/T"),
        ("r", "t", "/T"),
    ]


def test_a_late_first_event_is_not_watched_and_a_late_second_one_counts_unless_it_was_before_the_first():
    expectations = book()
    assert see(expectations, "A", 0, late=True) == ["not_watched_late"]
    see(expectations, "A", 10)
    assert see(expectations, "B", 5, late=True) == []
    assert see(expectations, "B", 11, late=True) == ["met"]


def test_an_overdue_one_does_not_stand_in_the_way_of_the_next():
    expectations = book()
    see(expectations, "A", 0)
    see(expectations, "A", 200)
    assert see(expectations, "B", 250) == ["met"]
    assert misses(expectations, 1000) == [100]


def test_what_came_long_after_it_happened_is_watched_for_a_while_all_the_same():
    expectations = book()
    see(expectations, "A", 0, enqueued=5000)
    assert misses(expectations, 5100) == []
    assert see(expectations, "B", 60, enqueued=5101) == ["met"]
    see(expectations, "A", 0, enqueued=6000)
    assert misses(expectations, 6100.1) == [100]


def test_beyond_the_limit_more_is_not_watched(monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 2)
    expectations = book()
    assert [see(expectations, "A", 0, subject=str(n)) for n in range(3)] == [[], [], ["not_watched_full"]]
    see(expectations, "B", 1, subject="0")
    assert see(expectations, "A", 2, subject="3") == []
    for missed in expectations.miss(1000, now=0.0):
        expectations.settled(missed)
    assert see(expectations, "A", 2000, subject="4") == []


def test_whether_it_matters_that_it_is_not_seen_again():
    expectations = book()
    for type_, matched in (("A", True), ("B", True), ("C", False)):
        assert expectations.see(placed(type_), at=UnixSeconds(0), late=False).matched is matched


def test_types_that_no_rule_names_are_nobodys_concern():
    def concerns(expectations: Expectations) -> list[str]:
        return [each for each in "ABCD" if expectations.concerns(placed(each.lower()).event)]

    assert concerns(book(rule(), rule("other", "A", "C"))) == ["A", "B", "C"]
    assert concerns(book(rule(), rule("all", then=compile_filter({})))) == ["A", "B", "C", "D"]
    assert concerns(book(rule(is_silence=True))) == []
    assert concerns(Expectations()) == []


def test_the_event_that_tells_of_it_is_the_same_in_every_life():
    def told(expectations: Expectations, now: float) -> dict[str, Any]:
        (missed,) = expectations.miss(1000, now=now)
        return missed.event("/worker/h/g")

    first = book()
    see(first, "A", 0, data={"x": 1})
    second = reborn(first)
    third = reborn(second)
    assert told(first, 1.0) == told(second, 2.0) == told(third, 3.0)
    (unsettled,) = reborn(first).unsettled
    assert unsettled.event("/worker/h/g") == first.unsettled[0].event("/worker/h/g")


def test_what_it_tells():
    expectations = book()
    see(expectations, "A", 0, data={"x": 1})
    (missed,) = expectations.miss(1000, now=1.0)
    event = missed.event("/worker/h/g")
    assert event["subject"] == "expectations/r/s"
    assert event["time"] == time_text(100.0) == "1970-01-01T00:01:40.0000000Z"
    assert event["data"]["after"]["data"] == {"x": 1}
    assert "cut" not in event["data"]


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"data": {"x": "y" * FIRST_BYTES}}, {"id", "eventType", "topic", "subject", "eventTime"}),
        ({"data": 1, "extra": "y" * FIRST_BYTES}, {"id", "eventType", "topic", "subject", "eventTime"}),
        ({"data": orjson.loads("[" * 150 + "]" * 150)}, {"id", "eventType", "topic", "subject", "eventTime"}),
    ],
)
def test_a_first_event_that_is_too_large_or_too_deep_is_kept_without_its_data_and_says_so(more, kept):
    expectations = book()
    see(expectations, "A", 0, **more)
    (missed,) = reborn(expectations).miss(1000, now=1.0)
    event = missed.event("/w")
    assert event["data"]["after"].keys() == kept
    assert "too large" in event["data"]["cut"]
    (decoded,) = decode(Message(PartitionId("0"), 1, "", UnixSeconds(0), orjson.dumps(event)))
    assert isinstance(decoded, Event)


def test_people_are_told_what_was_expected_of_what_and_since_when():
    expectations = book()
    see(expectations, "A", 0, topic=WORKSPACE, data={"x": 1})
    (missed,) = expectations.miss(1000, now=1.0)
    notice = notice_of(own_delivery(orjson.dumps(missed.event("/w")), "out", now=UnixSeconds(1.0)))
    assert notice.title == "Expectation missed: r, s"
    assert notice.severity is Severity.WARNING
    facts = dict(notice.facts)
    assert facts["Within"] == "100s"
    assert facts["First event"] == "A"
    assert facts["Due"].startswith("1970-01-01T00:01:40")
    assert notice.link == Link("Open the workspace", f"https://ml.azure.com/home?wsid={WORKSPACE}")


def test_an_event_of_the_first_year_is_missed_under_a_time_that_can_be_read():
    assert normal_time(time_text(-62_135_596_800.0)) == "0001-01-01T00:00:00.0000000Z"


@pytest.mark.parametrize("subject", ["", "x" * 300, "a\nb"])
def test_an_odd_subject_is_shown_as_a_digest(subject):
    expectations = book()
    see(expectations, "A", 0, subject=subject)
    (missed,) = expectations.miss(1000, now=1.0)
    assert len(missed.key) == 16
    assert missed.data["after"]["subject"] == subject


def test_rules_that_are_gone_take_what_is_pending_with_them_and_not_what_was_missed():
    expectations = book(rule(), rule("other", seconds=1000.0))
    see(expectations, "A", 0)
    (missed,) = expectations.miss(500, now=1.0)
    assert expectations.exchange([rule("new")]) == {"other": 1}
    assert expectations.unsettled == [missed]
    assert reborn(expectations, [rule("new")]).unsettled[0].event("/w") == missed.event("/w")
    expectations.settled(missed)
    assert expectations.snapshot() == {}


def test_a_rule_across_subjects_of_the_same_name_is_another_rule():
    expectations = book()
    see(expectations, "A", 0)
    silence = rule(after="A", then="B", is_silence=True)
    assert expectations.exchange([silence]) == {"r": 1}
    assert see(expectations, "A", 0) == []
    assert expectations.live == {}


def test_a_changed_time_counts_for_what_comes():
    expectations = book()
    see(expectations, "A", 0)
    expectations.exchange([rule(seconds=10.0)])
    see(expectations, "A", 0, subject="t")
    assert misses(expectations, 50) == [10]
    assert misses(expectations, 101) == [100]


def test_who_was_told_and_how_often_others_were_tried_is_known_to_the_next_life():
    expectations = book()
    see(expectations, "A", 0)
    (missed,) = expectations.miss(1000, now=7.0)
    missed.served.add("out")
    missed.attempts["slow"] = 3
    (again,) = reborn(expectations).unsettled
    assert (again.served, again.attempts, again.made_at) == ({"out"}, {"slow": 3}, 7.0)


# --- any order of events, saves and crashes


@dataclass
class Life:
    """A partition's log, read by one life after the other; each goes on from what the one before had saved."""

    log: list[tuple[str, float, str]]
    expectations: Expectations = field(default_factory=book)
    at: int = 0
    saved: tuple[Expectations, int] = field(default_factory=lambda: (book(), 0))
    told: dict[str, set[str]] = field(default_factory=dict)
    met: list[tuple[str, Outcome]] = field(default_factory=list)

    def read(self) -> None:
        if self.at < len(self.log):
            type_, at, subject = self.log[self.at]
            self.at += 1
            self.expectations.see(placed(type_, at, subject), at=UnixSeconds(at), late=False)

    def through(self) -> float:
        return self.log[self.at - 1][1] if self.at else 0.0

    def save(self) -> None:
        self.saved = reborn(self.expectations), self.at

    def miss(self) -> None:
        """What is missed is told only once it is saved."""
        missed = self.expectations.miss(self.through(), now=0.0)
        self.save()
        for each in missed:
            self.tell(each)

    def tell(self, missed: Missed) -> None:
        self.told.setdefault(missed.id, set()).add(f"{missed.key}@{missed.due:g}")

    def crash(self) -> None:
        expectations, self.at = self.saved
        self.expectations = reborn(expectations)
        for each in self.expectations.unsettled:
            self.tell(each)

    def settle(self) -> None:
        for each in self.expectations.unsettled:
            self.expectations.settled(each)


def expected(log: list[tuple[str, float, str]]) -> set[str]:
    """What must be told, by going through the log once."""
    pending: dict[str, float] = {}
    told = set()
    for type_, at, subject in [*log, ("C", 1e6, "")]:
        for other, due in list(pending.items()):
            if due < at:
                told.add(f"{other}@{due:g}")
                del pending[other]
        if type_ == "B" and subject in pending:
            del pending[subject]
        if type_ == "A":
            pending.setdefault(subject, at + WITHIN)
    return told


STEPS = st.lists(st.sampled_from(["read", "read", "read", "save", "miss", "crash", "settle"]), max_size=60)
EVENTS = st.lists(st.tuples(st.sampled_from("AABC"), st.integers(0, 60), st.sampled_from("st")), max_size=25)


@settings(max_examples=300)
@given(events=EVENTS, steps=STEPS)
def test_whatever_is_saved_and_whenever_it_dies_each_is_told_or_met_and_never_both(events, steps):
    log, time = [], 0.0
    for type_, gap, subject in events:
        time += gap
        log.append((type_, time, subject))
    life = Life(log)
    for step in steps:
        getattr(life, step)()
    while life.at < len(log):
        life.read()
    log.append(("C", 1e6, ""))
    life.read()
    life.miss()
    assert {what for each in life.told.values() for what in each} == expected(log[:-1])
    assert all(len(each) == 1 for each in life.told.values())


def test_a_rule_that_is_gone_is_not_counted_any_more():
    expectations = book()
    see(expectations, "A", 0)
    expectations.exchange((rule("other"),))
    assert expectations.counts == {"other": 0}
    see(expectations, "A", 0)
    other = reborn(expectations, (rule("third"),))
    assert other.counts == {"third": 0}
