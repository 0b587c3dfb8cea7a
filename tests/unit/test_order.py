import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from worker.events import (
    Event,
    Message,
    OrderKey,
    OrderKind,
    PartitionId,
    Placed,
    Position,
    Released,
    Schema,
    Subject,
    UnixSeconds,
)
from worker.order import Orderer, Remembered

TIME, SEQUENCER, ARRIVAL = OrderKind.TIME, OrderKind.SEQUENCER, OrderKind.ARRIVAL
DAY = 86_400.0


def at(seconds: float) -> UnixSeconds:
    return UnixSeconds(float(seconds))


numbers = count()


def placed(key: int | None, subject: str = "run", kind: OrderKind = TIME, number: int | None = None) -> Placed:
    """An event whose id says what it is: subject and key. Each has a position of its own."""
    number = next(numbers) if number is None else number
    value = None if key is None else f"{key:04d}"
    event = Event(
        Schema.EVENT_GRID, f"{subject}:{key}", "t", "/WS", subject, None, None, {}, OrderKey(kind, value), None
    )
    message = Message(PartitionId("0"), number, str(number), at(0), b"")
    return Placed(event, message, Position(number, 0))


def ids(released: list[Released]) -> list[str]:
    return [one.placed.event.id for one in released]


def test_events_of_a_subject_that_arrive_within_the_window_come_out_in_key_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    for key in (3, 1, 2):
        assert orderer.add(placed(key), now=at(100)) is None

    assert orderer.due(now=at(104), at_most=10) == []
    assert ids(orderer.due(now=at(105), at_most=10)) == ["run:1", "run:2", "run:3"]
    assert (orderer.held, orderer.next_due()) == (0, None)


def test_a_larger_key_stays_until_it_is_due_itself():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.add(placed(2), now=at(100))
    orderer.add(placed(3), now=at(101))
    orderer.add(placed(1), now=at(102))

    assert ids(orderer.due(now=at(105), at_most=10)) == ["run:1", "run:2"]
    assert (orderer.held, orderer.next_due()) == (1, at(106))
    assert ids(orderer.due(now=at(106), at_most=10)) == ["run:3"]


def test_equal_keys_leave_together_in_arrival_order_and_are_not_late():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    first, second, third = (placed(1, number=number) for number in range(3))
    orderer.add(first, now=at(100))
    orderer.add(second, now=at(104))
    assert [one.placed for one in orderer.due(now=at(105), at_most=10)] == [first, second]

    assert orderer.add(third, now=at(106)) is None


def test_an_event_below_its_subjects_newest_released_one_is_late_and_says_by_how_much():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.add(placed(7), now=at(100))
    orderer.due(now=at(105), at_most=10)
    late = placed(6)

    assert orderer.add(late, now=at(107.25), data_digest="d") == Released(late, 2250, "d")
    assert orderer.held == 0
    assert orderer.add(placed(6, subject="other"), now=at(107.25)) is None


def test_a_late_event_does_not_change_what_later_ones_are_measured_against():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    orderer.add(placed(7), now=at(100))
    orderer.due(now=at(100), at_most=10)

    for key in (3, 6):
        late = orderer.add(placed(key), now=at(101))
        assert late is not None
        assert late.late_by_ms == 1000


def test_an_event_of_another_kind_than_its_subjects_last_is_never_late_and_is_counted():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    for kind, key in ((SEQUENCER, 9), (TIME, 1), (SEQUENCER, 1)):
        assert orderer.add(placed(key, kind=kind), now=at(100)) is None
        assert ids(orderer.due(now=at(100), at_most=10)) == [f"run:{key}"]

    assert orderer.kind_changes == 2


def test_kinds_of_one_subject_are_not_compared_and_take_turns_as_they_fall_due():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    for second, (kind, key) in enumerate([(TIME, 9), (SEQUENCER, 5), (TIME, 8), (SEQUENCER, 6)]):
        orderer.add(placed(key, kind=kind), now=at(100 + second))

    assert ids(orderer.due(now=at(110), at_most=10)) == ["run:8", "run:9", "run:5", "run:6"]


def test_events_without_a_key_keep_their_order_of_arrival_and_are_never_late():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    events = [placed(None, kind=ARRIVAL, number=number) for number in range(20)]
    for second, event in enumerate(events):
        assert orderer.add(event, now=at(100 + second)) is None

    assert [one.placed for one in orderer.due(now=at(119), at_most=99)] == events[:15]
    assert [one.placed for one in orderer.due(now=at(200), at_most=99)] == events[15:]


def test_without_a_window_an_event_is_due_when_it_arrives():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    orderer.add(placed(1), now=at(100), data_digest="d")

    assert [(one.late_by_ms, one.data_digest) for one in orderer.due(now=at(100), at_most=10)] == [(None, "d")]


def test_another_window_counts_for_what_is_held_too_and_puts_nothing_out_of_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.add(placed(2), now=at(100))
    orderer.window_seconds = 20
    orderer.add(placed(3), now=at(101))
    assert (orderer.next_due(), orderer.due(now=at(119), at_most=10)) == (at(120), [])
    assert orderer.add(placed(1), now=at(119)) is None

    orderer.window_seconds = 18
    assert ids(orderer.due(now=at(119), at_most=10)) == ["run:1", "run:2", "run:3"]


def test_what_exceeds_at_most_stays_due_and_comes_next_in_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    for key in (4, 2, 2, 1):
        orderer.add(placed(key), now=at(100))
    orderer.add(placed(0, subject="other"), now=at(101))

    assert ids(orderer.due(now=at(107), at_most=2)) == ["run:1", "run:2"]
    orderer.add(placed(3), now=at(107))  # above what went out, below what is cut off: it goes in between
    assert orderer.next_due() == at(105)
    assert ids(orderer.due(now=at(107), at_most=2)) == ["run:2", "run:3"]
    assert ids(orderer.due(now=at(107), at_most=2)) == ["run:4", "other:0"]
    assert orderer.due(now=at(107), at_most=0) == []


def test_a_full_stage_releases_the_oldest_early_with_what_must_go_before_it_and_counts_them():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.add(placed(1, subject="due"), now=at(90))
    orderer.add(placed(2), now=at(100))
    orderer.add(placed(9, subject="other"), now=at(101))
    orderer.add(placed(1), now=at(102))

    assert ids(orderer.release_early(now=at(102), at_most=3)) == ["due:1", "run:1", "run:2"]
    assert (orderer.released_early, orderer.held) == (2, 1)
    assert orderer.next_due() == at(106)


def test_a_clock_that_steps_back_stands_still():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.add(placed(2), now=at(100))
    orderer.add(placed(1, subject="other"), now=at(50))
    assert ids(orderer.due(now=at(105), at_most=10)) == ["run:2", "other:1"]

    late = orderer.add(placed(1), now=at(60))
    assert late is not None
    assert late.late_by_ms == 0


def test_a_subject_is_forgotten_after_the_memory_time():
    orderer = Orderer(window_seconds=0, memory_seconds=10)
    orderer.add(placed(5), now=at(100))
    orderer.due(now=at(100), at_most=10)

    assert orderer.add(placed(4), now=at(110)) is not None
    assert orderer.add(placed(4), now=at(111)) is None
    orderer.due(now=at(111), at_most=10)
    assert [one.key.value for one in orderer.remembered()] == ["0004"]
    orderer.add(placed(1, subject="other"), now=at(122))
    orderer.due(now=at(122), at_most=10)
    assert [one.subject.subject for one in orderer.remembered()] == ["other"]


def test_the_subjects_released_longest_ago_are_forgotten_first():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY, memory_subjects=2)
    for subject in ("a", "b", "a", "c"):
        orderer.add(placed(5, subject=subject), now=at(100))
        orderer.due(now=at(100), at_most=10)

    assert [one.subject.subject for one in orderer.remembered()] == ["a", "c"]
    assert orderer.add(placed(4, subject="b"), now=at(100)) is None
    assert orderer.add(placed(4, subject="a"), now=at(100)) is not None


def test_a_subject_that_is_forgotten_while_it_holds_events_keeps_them_in_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY, memory_subjects=1)
    for second, (subject, key) in enumerate([("a", 1), ("b", 1), ("a", 9)]):
        orderer.add(placed(key, subject=subject), now=at(100 + second))
    assert ids(orderer.due(now=at(106), at_most=10)) == ["a:1", "b:1"]
    orderer.add(placed(8, subject="a"), now=at(106))

    assert ids(orderer.due(now=at(107), at_most=10)) == ["a:8", "a:9"]


def test_a_subject_that_is_forgotten_while_it_holds_only_events_of_its_second_kind_keeps_them_in_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY, memory_subjects=1)
    orderer.add(placed(1, "a"), now=at(0))
    orderer.add(placed(3, "a", SEQUENCER), now=at(3))
    orderer.add(placed(1, "b"), now=at(3))
    assert ids(orderer.due(now=at(5), at_most=10)) == ["a:1"]
    assert ids(orderer.due(now=at(8), at_most=1)) == ["a:3"]
    orderer.add(placed(6, "a", SEQUENCER), now=at(8))
    assert ids(orderer.due(now=at(8), at_most=10)) == ["b:1"]  # only b is remembered now
    orderer.add(placed(5, "a", SEQUENCER), now=at(9))
    assert ids(orderer.due(now=at(13), at_most=10)) == ["a:5", "a:6"]


def test_nothing_is_kept_of_forgotten_subjects():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY, memory_subjects=10)

    def kilobytes_after(subjects: range) -> float:
        for number in subjects:
            orderer.add(placed(1, subject=f"run {number}"), now=at(100))
            orderer.due(now=at(100), at_most=1)
        return tracemalloc.get_traced_memory()[0] / 1024

    tracemalloc.start()
    try:
        before = kilobytes_after(range(1_000))
        after = kilobytes_after(range(1_000, 4_000))
    finally:
        tracemalloc.stop()
    assert after - before < 100


def test_nothing_is_kept_of_those_that_left_with_the_turn_of_another_also_when_they_were_read_again():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)

    def kilobytes_after(until: float) -> float:
        orderer.due(now=at(until), at_most=10_000)
        return tracemalloc.get_traced_memory()[0] / 1024

    def kilobytes_while_one_waits_and_afterwards(start: float) -> tuple[float, float]:
        for key in range(2_000, 0, -1):
            orderer.add(placed(key), now=at(start), in_order=True)
        orderer.add(placed(1, subject="waits"), now=at(start + 1), in_order=True)
        for key in range(2_000, 0, -1):
            orderer.add(placed(key), now=at(start + 2), in_order=True)
        return kilobytes_after(start + 5), kilobytes_after(start + 6)

    tracemalloc.start()
    try:
        rounds = [kilobytes_while_one_waits_and_afterwards(start) for start in (100, 200, 300, 400, 500)]
    finally:
        tracemalloc.stop()
    assert all(waiting - afterwards < 50 for waiting, afterwards in rounds)
    assert rounds[-1][1] - rounds[1][1] < 200, "tables of sets are made anew now and then"


def test_by_default_two_hundred_thousand_subjects_are_remembered():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    key = OrderKey(TIME, "1")
    orderer.restore(Remembered(Subject("/ws", str(number)), key, at(100)) for number in range(200_001))

    assert next(orderer.walk()).subject.subject == "1"


def test_all_of_the_memory_can_be_walked_while_it_changes():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY, memory_subjects=3)
    rows = [Remembered(Subject("/ws", name), OrderKey(TIME, "0005"), at(100)) for name in "abc"]
    orderer.restore(rows)
    assert list(orderer.walk()) == rows

    walk = orderer.walk()
    assert next(walk) == rows[0]
    orderer.add(placed(7, subject="c"), now=at(101))
    orderer.add(placed(1, subject="d"), now=at(101))
    orderer.due(now=at(101), at_most=10)

    assert list(walk) == [rows[1], Remembered(Subject("/ws", "c"), OrderKey(TIME, "0007"), at(101))]
    assert [row.subject.subject for row in orderer.walk()] == ["b", "c", "d"]


def test_who_is_forgotten_while_the_memory_is_walked_is_passed_over():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY, memory_subjects=2)
    orderer.restore([Remembered(Subject("/ws", name), OrderKey(TIME, "0005"), at(100)) for name in "ab"])
    walk = orderer.walk()
    next(walk)
    for name in "cd":
        orderer.add(placed(1, subject=name), now=at(101))
    orderer.due(now=at(101), at_most=10)

    assert list(walk) == []


def test_each_change_of_the_memory_is_counted():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    counted = [orderer.releases]
    for key in (1, 2):
        orderer.add(placed(key), now=at(100))
        orderer.due(now=at(100), at_most=10)
        counted.append(orderer.releases)

    assert counted == [0, 1, 2]


def test_an_event_that_is_settled_is_late_no_more():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    orderer.restore([Remembered(Subject("/ws", "run"), OrderKey(TIME, "0007"), at(90))])
    late, other = placed(5), placed(6)
    for each in (late, other):
        orderer.add(each, now=at(100))
    orderer.settled(late.position)
    orderer.settled(placed(8).position)

    assert orderer.late == {other.position: 10_000}


def test_an_event_is_superseded_when_a_later_one_of_its_subject_is_here_at_its_turn():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    for key in (1, 2):
        orderer.add(placed(key), now=at(100 + key))
    (first,) = orderer.due(now=at(106), at_most=10)
    (last,) = orderer.due(now=at(107), at_most=10)

    assert (first.superseded, last.superseded) == (True, False)


def test_the_case_of_a_source_makes_no_other_subject():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    orderer.add(placed(5), now=at(100))
    orderer.due(now=at(100), at_most=10)

    assert orderer.remembered() == [Remembered(Subject("/ws", "run"), OrderKey(TIME, "0005"), at(100))]


def test_a_restored_memory_finds_the_same_events_late():
    orderer = Orderer(window_seconds=0, memory_seconds=DAY)
    orderer.restore(
        [
            Remembered(Subject("/ws", "run"), OrderKey(TIME, "0003"), at(90)),
            Remembered(Subject("/ws", "quiet"), OrderKey(ARRIVAL, None), at(91)),
            Remembered(Subject("/ws", "run"), OrderKey(TIME, "0007"), at(100)),
        ]
    )
    late = orderer.add(placed(6), now=at(102))

    assert late is not None
    assert late.late_by_ms == 2000
    assert orderer.add(placed(None, subject="quiet", kind=ARRIVAL), now=at(102)) is None


def test_an_event_judged_in_order_before_a_restart_is_not_late_after_it_and_leaves_the_memory_alone():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    memory = [Remembered(Subject("/ws", "run"), OrderKey(TIME, "0007"), at(100))]
    orderer.restore(memory)

    assert orderer.add(placed(6), now=at(98), in_order=True) is None
    assert orderer.add(placed(5), now=at(99), in_order=True) is None
    assert ids(orderer.due(now=at(103), at_most=10)) == ["run:5", "run:6"]
    assert orderer.remembered() == memory
    assert orderer.add(placed(6), now=at(104)) is not None


def test_many_that_leave_with_one_event_leave_the_others_in_order():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    for second, key in enumerate(range(9_999, 5_999, -1)):
        orderer.add(placed(key, subject="falling"), now=at(second / 1000))
        if key % 1_000 == 0:
            orderer.add(placed(key, subject="rare"), now=at(second / 1000))
    expected = [f"falling:{key}" for key in range(6_000, 10_000)]

    assert ids(orderer.due(now=at(5), at_most=10_000)) == expected
    assert orderer.held == 4
    assert ids(orderer.due(now=at(50), at_most=10_000)) == ["rare:6000", "rare:7000", "rare:8000", "rare:9000"]


@dataclass
class Entry:
    arrival: int
    placed: Placed
    arrived_at: float
    key: tuple[object, ...]

    @property
    def queue(self) -> tuple[object, ...]:
        return self.placed.event.key, self.placed.event.order_key.kind


@dataclass
class Model:
    """The same promises, from lists and without a thought for speed."""

    window: float
    memory: float
    clock: float = 0.0
    arrivals: int = 0
    early: int = 0
    kind_changes: int = 0
    held: list[Entry] = field(default_factory=list)
    serving: Entry | None = None
    newest: dict[Subject, tuple[OrderKind, tuple[object, ...], float]] = field(default_factory=dict)

    def add(self, one: Placed, now: float) -> Released | None:
        self.clock = max(self.clock, now)
        kind, value = one.event.order_key
        self.arrivals += 1
        key = (self.arrivals,) if value is None else (value,)
        newest = self.newest.get(one.event.key)
        if newest and newest[0] is kind and key < newest[1] and self.clock - newest[2] <= self.memory:
            return Released(one, round((self.clock - newest[2]) * 1000))
        self.held.append(Entry(self.arrivals, one, self.clock, key))
        return None

    def first(self) -> Entry | None:
        return self.serving or (self.held[0] if self.held else None)

    def release(self, until: float, at_most: int) -> Iterator[Released]:
        for _ in range(at_most):
            first = self.first()
            if first is None or first.arrived_at + self.window > until:
                return
            before = [entry for entry in self.held if entry.queue == first.queue and entry.key <= first.key]
            entry = min(before, key=lambda entry: (entry.key, entry.arrival))
            self.held.remove(entry)
            self.serving = first if len(before) > 1 else None
            self.remember(entry)
            yield Released(entry.placed)

    def remember(self, entry: Entry) -> None:
        subject, kind = entry.placed.event.key, entry.placed.event.order_key.kind
        newest = self.newest.pop(subject, None)
        if newest and newest[0] is not kind and self.clock - newest[2] <= self.memory:
            self.kind_changes += 1
        self.newest[subject] = (kind, entry.key, self.clock)


kinds = st.sampled_from([TIME, TIME, SEQUENCER, ARRIVAL])
events = st.builds(
    lambda subject, kind, key: placed(None if kind is ARRIVAL else key, subject, kind),
    st.sampled_from("ab"),
    kinds,
    st.integers(0, 8),
)
steps = st.sampled_from([0.0, 0.0, 1.0, 2.0, 5.0, -3.0])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), steps, events),
        st.tuples(st.sampled_from(["due", "due", "early"]), steps, st.integers(0, 4)),
        st.tuples(st.just("window"), steps, st.sampled_from([0.0, 1.0, 6.0])),
    ),
    min_size=15,
    max_size=60,
)


@given(actions, st.sampled_from([0.0, 2.0, 4.0]), st.sampled_from([3.0, DAY]))
def test_any_arrivals_clock_steps_and_cuts_give_what_the_model_gives(
    actions: list[tuple[str, float, object]], window: float, memory: float
):
    orderer, model = Orderer(window_seconds=window, memory_seconds=memory), Model(window, memory)
    now, added, out = 100.0, [], []
    for name, step, argument in actions:
        now += step
        if isinstance(argument, Placed):
            late = orderer.add(argument, now=at(now))
            assert late == model.add(argument, now)
            added.append(argument)
            out += [late] if late else []
        elif isinstance(argument, float):
            orderer.window_seconds = model.window = argument
        elif isinstance(argument, int):
            model.clock = max(model.clock, now)
            expected = list(model.release(model.clock, argument))
            if name == "early":
                early = list(model.release(float("inf"), argument - len(expected)))
                model.early += len(early)
                expected += early
            take = orderer.due if name == "due" else orderer.release_early
            released = take(now=at(now), at_most=argument)
            assert released == expected
            out += released
        first = model.first()
        assert orderer.next_due() == (first.arrived_at + model.window if first else None)
        assert orderer.held == len(model.held) == len(added) - len(out)
        assert (orderer.released_early, orderer.kind_changes) == (model.early, model.kind_changes)
    out += orderer.due(now=at(1_000_000), at_most=1_000)
    assert sorted(map(id, (one.placed for one in out))) == sorted(map(id, added))
    assert (orderer.held, orderer.next_due()) == (0, None)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 10)), min_size=5, max_size=60),
    st.data(),
)
def test_an_event_that_is_delayed_by_no_more_than_the_window_is_never_late(
    sent: list[tuple[str, int, int]], data: st.DataObject
):
    orderer = Orderer(window_seconds=10, memory_seconds=DAY)
    released = []
    for arrival, subject, key in sorted((key + delay, subject, key) for subject, key, delay in sent):
        released += orderer.due(now=at(arrival), at_most=data.draw(st.integers(0, 5)))
        assert orderer.add(placed(key, subject), now=at(arrival)) is None
    released += orderer.due(now=at(1_000), at_most=1_000)

    for subject in "abc":
        expected = [f"{subject}:{key}" for key in sorted(key for of, key, _ in sent if of == subject)]
        assert [one for one in ids(released) if one.startswith(subject)] == expected


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), steps), min_size=10, max_size=60),
    st.integers(1, 4),
    st.integers(0, 30),
)
def test_the_memory_is_bounded_and_its_changes_complete_an_earlier_reading(
    arrivals: list[tuple[str, int, float]], limit: int, reading: int
):
    orderer = Orderer(window_seconds=1, memory_seconds=20, memory_subjects=limit)
    now, mark, earlier = 100.0, 0, []
    for number, (subject, key, step) in enumerate(arrivals):
        now += step
        orderer.due(now=at(now), at_most=3)
        orderer.add(placed(key, subject), now=at(now))
        assert len(orderer.remembered()) <= limit
        if number == reading:
            mark, earlier = orderer.releases, orderer.remembered()
    assert orderer.remembered(since=orderer.releases) == []
    later_life = Orderer(window_seconds=1, memory_seconds=20, memory_subjects=limit)
    later_life.restore(earlier + orderer.remembered(since=mark))

    current = orderer.remembered()
    assert later_life.remembered()[len(later_life.remembered()) - len(current) :] == current
    assert all(one in current or one in earlier for one in later_life.remembered())


def test_a_late_event_does_not_overtake_what_it_is_late_to_when_that_is_read_again():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.restore([Remembered(placed(6).event.key, OrderKey(TIME, "0006"), at(90))])
    for key in (4, 2, 6):
        assert orderer.add(placed(key), now=at(100), in_order=True) is None
    late = placed(5)
    assert orderer.add(late, now=at(101)) is None
    assert orderer.add(placed(7), now=at(101)) is None

    released = orderer.due(now=at(110), at_most=10)
    assert ids(released) == ["run:2", "run:4", "run:6", "run:5", "run:7"]
    assert [one.late_by_ms for one in released] == [None, None, None, 11_000, None]
    assert orderer.add(placed(3), now=at(111)) is not None, "nothing of it is read again any more"


def test_a_late_event_that_is_read_again_itself_does_not_overtake_either():
    orderer = Orderer(window_seconds=5, memory_seconds=DAY)
    orderer.restore([Remembered(placed(6).event.key, OrderKey(TIME, "0006"), at(90))])
    late = placed(5)
    orderer.late[late.position] = 1_234
    orderer.add(placed(6), now=at(100), in_order=True)
    assert orderer.add(late, now=at(100), in_order=False) is None

    released = orderer.due(now=at(110), at_most=10)
    assert [(one.placed.event.id, one.late_by_ms) for one in released] == [("run:6", None), ("run:5", 1_234)]


def enqueued(key: int, when: float, subject: str = "run") -> Placed:
    one = placed(key, subject)
    return replace(one, message=replace(one.message, enqueued_at=at(when)))


def test_the_oldest_of_the_held_is_known_by_when_the_hub_had_it():
    orderer = Orderer(window_seconds=10, memory_seconds=DAY)
    assert orderer.oldest_enqueued() is None
    for key, when in ((3, 1.0), (1, 2.0), (2, 3.0)):
        orderer.add(enqueued(key, when), now=at(5))
    assert orderer.oldest_enqueued() == 1.0
    orderer.add(enqueued(1, 4.0, "other"), now=at(6))
    orderer.due(now=at(15), at_most=10)
    assert orderer.oldest_enqueued() == 4.0
    orderer.due(now=at(16), at_most=10)
    assert orderer.oldest_enqueued() is None


def test_the_oldest_of_the_held_is_known_while_some_of_one_key_found_no_room():
    orderer = Orderer(window_seconds=10, memory_seconds=DAY)
    orderer.add(enqueued(1, 1.0), now=at(5))
    orderer.add(enqueued(1, 2.0), now=at(5))
    assert len(orderer.due(now=at(15), at_most=1)) == 1
    assert orderer.oldest_enqueued() == 2.0


def test_the_oldest_of_the_held_is_known_behind_what_left_with_others():
    orderer = Orderer(window_seconds=10, memory_seconds=DAY)
    for one in (
        enqueued(5, 1.0, "b"),
        enqueued(1, 2.0, "c"),
        enqueued(3, 3.0, "b"),  # leaves with b:5, and nothing of its subject is left
        enqueued(1, 4.0, "c"),
    ):
        orderer.add(one, now=at(5))
    assert ids(orderer.due(now=at(15), at_most=3)) == ["b:3", "b:5", "c:1"]
    assert orderer.oldest_enqueued() == 4.0
