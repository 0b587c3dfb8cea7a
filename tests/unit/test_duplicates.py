from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from worker.duplicates import Duplicates, SettledKey, Verdict
from worker.events import Position, UnixSeconds

NEW, COPY, VARIANT = Verdict.NEW, Verdict.COPY, Verdict.VARIANT
DAY = 86_400.0
NOW = UnixSeconds(100.0)


def position(number: int) -> Position:
    return Position(number, 0)


def test_an_event_seen_again_at_another_position_is_a_copy():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)

    assert duplicates.see(b"a", "1", Position(1, 0), now=NOW) is NEW
    assert duplicates.see(b"a", "1", Position(1, 1), now=NOW) is COPY
    assert duplicates.see(b"a", "1", Position(2, 0), now=NOW) is COPY
    assert duplicates.see(b"b", "1", Position(3, 0), now=NOW) is NEW


def test_an_event_read_again_at_its_own_position_is_no_copy_of_itself():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.see(b"a", "1", position(1), now=NOW)
    duplicates.see(b"a", "2", position(2), now=NOW)

    assert duplicates.see(b"a", "1", position(1), now=NOW) is NEW
    assert duplicates.see(b"a", "2", position(2), now=NOW) is VARIANT


def test_an_event_with_a_known_key_and_other_data_is_a_variant_and_has_copies_of_its_own():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.see(b"a", "1", position(1), now=NOW)

    assert duplicates.see(b"a", "2", position(2), now=NOW) is VARIANT
    assert duplicates.see(b"a", "3", position(3), now=NOW) is VARIANT
    assert duplicates.see(b"a", "2", position(4), now=NOW) is COPY
    assert duplicates.see(b"a", "1", position(5), now=NOW) is COPY


def test_only_settled_events_are_given_out_for_writing_and_with_a_mark_those_settled_since():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    for number, key in enumerate([b"a", b"b", b"c", b"d"]):
        duplicates.see(key, "1", position(number), now=NOW)
    duplicates.settled(b"d", "1")
    mark = duplicates.changes
    for key in (b"a", b"c"):
        duplicates.settled(key, "1")

    assert [one.key for one in duplicates.settled_keys()] == [b"d", b"a", b"c"]
    assert [one.key for one in duplicates.settled_keys(since=mark)] == [b"a", b"c"]
    assert duplicates.settled_keys(since=duplicates.changes) == []


def test_a_settled_event_whose_copy_comes_is_given_out_again_with_the_later_time():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.see(b"a", "1", position(1), now=NOW)
    duplicates.settled(b"a", "1")
    mark, later = duplicates.changes, UnixSeconds(NOW + 50)
    duplicates.see(b"a", "1", position(2), now=later)

    assert duplicates.settled_keys(since=mark) == [SettledKey(b"a", "1", position(1), later, variant=False)]


def test_a_walk_gives_everything_settled_but_what_is_forgotten_meanwhile():
    duplicates = Duplicates(memory_seconds=DAY, limit=3)
    for number, key in enumerate([b"a", b"b", b"c"]):
        duplicates.see(key, "1", position(number), now=NOW)
        duplicates.settled(key, "1")
    walk = duplicates.walk()

    assert next(walk).key == b"a"
    duplicates.see(b"d", "1", position(3), now=NOW)
    duplicates.see(b"e", "1", position(4), now=NOW)
    duplicates.settled(b"e", "1")
    assert [one.key for one in walk] == [b"c"]


def test_a_verdict_of_an_earlier_life_stands_whatever_is_remembered():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.restore(
        [
            SettledKey(b"a", "1", position(1), NOW, variant=False),
            SettledKey(b"b", "1", position(2), NOW, variant=False),
        ]
    )

    assert duplicates.see(b"a", "1", position(7), now=NOW, earlier=NEW) is NEW
    assert duplicates.see(b"b", "2", position(8), now=NOW, earlier=NEW) is NEW
    assert duplicates.see(b"c", "1", position(9), now=NOW, earlier=VARIANT) is VARIANT
    duplicates.settled(b"b", "2")
    duplicates.settled(b"c", "1")
    for key, digest in ((b"a", "1"), (b"b", "2"), (b"c", "1")):
        assert duplicates.see(key, digest, position(20), now=NOW) is COPY


def test_a_settled_variant_leaves_the_unsettled_event_of_its_key_out():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.see(b"a", "1", position(1), now=NOW)
    duplicates.see(b"a", "2", position(2), now=NOW)
    duplicates.settled(b"a", "2")

    assert duplicates.settled_keys() == [SettledKey(b"a", "2", position(2), NOW, variant=True)]


def test_a_later_life_recognises_copies_of_what_was_settled():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.restore([SettledKey(b"a", "1", position(1), NOW, variant=False)])

    assert duplicates.see(b"a", "1", position(7), now=NOW) is COPY
    assert duplicates.see(b"a", "2", position(8), now=NOW) is VARIANT


def test_an_event_read_again_keeps_its_plain_key_although_its_variant_was_settled_first():
    duplicates = Duplicates(memory_seconds=DAY, limit=10)
    duplicates.restore([SettledKey(b"a", "2", position(2), NOW, variant=True)])

    assert duplicates.see(b"a", "1", position(1), now=NOW) is NEW
    assert duplicates.see(b"a", "2", position(3), now=NOW) is COPY


def test_to_settle_what_is_forgotten_does_nothing():
    duplicates = Duplicates(memory_seconds=DAY, limit=1)
    duplicates.see(b"a", "1", position(1), now=NOW)
    duplicates.see(b"b", "1", position(2), now=NOW)
    duplicates.settled(b"a", "1")

    assert duplicates.settled_keys() == []


def test_an_event_is_forgotten_the_memory_time_after_it_was_seen_last():
    duplicates = Duplicates(memory_seconds=10, limit=10)
    verdicts = [duplicates.see(b"a", "1", position(now), now=UnixSeconds(float(now))) for now in (100, 110, 120, 131)]

    assert verdicts == [NEW, COPY, COPY, NEW]


def test_an_event_is_remembered_as_long_as_its_variants_come():
    duplicates = Duplicates(memory_seconds=10, limit=3)
    verdicts = [duplicates.see(b"a", str(now), position(now), now=UnixSeconds(float(now))) for now in range(100, 150)]

    assert verdicts == [NEW] + [VARIANT] * 49


@dataclass
class Record:
    key: bytes
    digest: str
    position: Position
    seen_at: float
    variant: bool


@dataclass
class Model:
    """The same promises, from one list that is searched from end to end."""

    memory: float
    limit: int
    records: list[Record] = field(default_factory=list)

    def see(self, key: bytes, digest: str, position: Position, now: float) -> Verdict:
        self.records = [one for one in self.records if one.seen_at >= now - self.memory]
        first = next((one for one in self.records if one.key == key and not one.variant), None)
        same = next((one for one in self.records if (one.key, one.digest) == (key, digest)), None)
        record = same or Record(key, digest, position, now, variant=first is not None)
        self.to_end(record, now)
        del self.records[: -self.limit]
        if record.variant and first in self.records:
            self.to_end(first, now)
        if record.position != position:
            return COPY
        return VARIANT if record.variant else NEW

    def to_end(self, record: Record, now: float) -> None:
        self.records = [one for one in self.records if one is not record] + [record]
        record.seen_at = now


sightings = st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from("123"), st.integers(0, 4))


@given(
    st.lists(st.tuples(sightings, st.booleans()), min_size=10, max_size=60),
    st.integers(1, 6),
    st.sampled_from([6.0, 20.0, DAY]),
)
def test_any_stream_is_judged_as_the_model_judges_it_within_the_same_bounds(
    stream: list[tuple[tuple[bytes, str, int], bool]], limit: int, memory: float
):
    duplicates, model = Duplicates(memory_seconds=memory, limit=limit), Model(memory, limit)
    now, seen_at = 100.0, []
    for (key, digest, step), again in stream:
        now += step
        if not again or not seen_at:
            seen_at.append(position(len(seen_at)))
        assert duplicates.see(key, digest, seen_at[-1], now=UnixSeconds(now)) is model.see(
            key, digest, seen_at[-1], now
        )
        assert len(duplicates) == len(model.records) <= limit


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from("123"), st.booleans()), min_size=5, max_size=40)
)
def test_what_was_unsettled_is_judged_after_a_restart_as_before_it(stream: list[tuple[bytes, str, bool]]):
    duplicates, unsettled = Duplicates(memory_seconds=DAY, limit=1_000), []
    for number, (key, digest, settles) in enumerate(stream):
        verdict = duplicates.see(key, digest, position(number), now=NOW)
        if not settles:
            unsettled.append((key, digest, position(number), verdict))
        elif verdict is not COPY:
            duplicates.settled(key, digest)
    later_life = Duplicates(memory_seconds=DAY, limit=1_000)
    later_life.restore(duplicates.settled_keys())

    for key, digest, place, verdict in unsettled:
        assert later_life.see(key, digest, place, now=NOW) is verdict


@given(st.lists(sightings, max_size=30), st.integers(0, 30))
def test_what_is_given_out_in_two_parts_survives_a_restart(stream: list[tuple[bytes, str, int]], cut: int):
    duplicates = Duplicates(memory_seconds=DAY, limit=8)
    part, mark = list[SettledKey](), 0
    for number, (key, digest, _) in enumerate(stream):
        if number == cut:
            part, mark = duplicates.settled_keys(), duplicates.changes
        duplicates.see(key, digest, position(number), now=UnixSeconds(100.0 + number))
        if number % 3:
            duplicates.settled(key, digest)
    later_life = Duplicates(memory_seconds=DAY, limit=100)
    later_life.restore(part)
    later_life.restore(duplicates.settled_keys(since=mark))

    remembered = {(one.key, one.digest, one.variant): one for one in later_life.settled_keys()}
    settled = duplicates.settled_keys()
    assert all(remembered[one.key, one.digest, one.variant] == one for one in settled)
    assert list(duplicates.walk()) == settled
    assert len(settled) <= 8
