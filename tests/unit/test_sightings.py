from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from worker.events import PartitionId, Subject, UnixSeconds
from worker.sightings import Sample, Sighting, Sightings, Split, decode, encode, splits

START = 1_700_000_000.0
HOUR = 3600.0

Seen = tuple[str, str, float]
"""Partition, subject, and seconds after the start."""


def subject(name: str) -> Subject:
    return Subject("/ws", name)


def watched(seen: Iterable[Seen], *, size: int = 256) -> dict[PartitionId, Sightings]:
    found: dict[PartitionId, Sightings] = {}
    for partition, name, seconds in seen:
        there = found.setdefault(PartitionId(partition), Sightings(size=size))
        there.saw(subject(name), at=UnixSeconds(START + seconds), keyed=False)
    return found


def samples(seen: Iterable[Seen], *, size: int = 256) -> dict[PartitionId, Sample]:
    return {partition: there.sample() for partition, there in watched(seen, size=size).items()}


def on(found: list[Split]) -> set[tuple[str, ...]]:
    return {split.partitions for split in found}


def only(sample: Mapping[str, object]) -> str:
    (digest,) = sample
    return digest


def test_a_subject_that_comes_here_and_there_and_here_again_is_on_two_partitions():
    there = watched([("0", "run", 0), ("3", "run", 10), ("0", "run", 20)])

    (split,) = splits({partition: each.sample() for partition, each in there.items()})

    assert split.partitions == ("0", "3")
    assert there[PartitionId("3")].about(split.digest) == ("run", False)


def test_subjects_that_stay_where_they_are_are_on_no_two_partitions():
    assert splits(samples([("0", "a", 0), ("1", "b", 0), ("0", "a", 20), ("1", "b", 30)])) == []


def test_the_same_subject_of_two_sources_is_two_subjects():
    one, other = Sightings(), Sightings()
    for seconds in (0, 10):
        one.saw(Subject("/a", "run"), at=UnixSeconds(START + seconds), keyed=True)
        other.saw(Subject("/b", "run"), at=UnixSeconds(START + seconds), keyed=True)

    assert splits({PartitionId("0"): one.sample(), PartitionId("1"): other.sample()}) == []


def test_subjects_that_moved_when_the_hub_got_more_partitions_are_not_split():
    before = [("0", "a", 0.0), ("1", "b", 5.0), ("0", "c", 90.0)]
    after = [("2", "a", 110.0), ("3", "b", 500.0), ("1", "c", 105.0), ("2", "a", 600.0)]

    assert splits(samples(before + after)) == []


def test_subjects_that_moved_at_different_moments_are_split_though_each_of_them_moved_once():
    found = splits(samples([("0", "a", 0), ("1", "a", 10), ("1", "b", 20), ("0", "b", 30)]))

    assert on(found) == {("0", "1"), ("1", "0")}


def test_a_subject_on_three_partitions_is_split():
    found = splits(samples([("0", "a", 0), ("1", "a", 10), ("2", "a", 10.5)]))

    assert len(found) == 1, "one subject, however often it changes"


def test_clocks_of_partitions_that_are_a_little_apart_split_nothing():
    here = [("0", "a", 50.0), ("0", "a", 100.0), ("1", "a", 200.0)]

    assert splits(samples([*here, ("1", "a", 98.0)])) == []
    assert len(splits(samples([*here, ("1", "a", 97.0)]))) == 1


def test_what_was_split_an_hour_ago_is_said_no_more():
    early = [("0", "run", 0.0), ("1", "run", 5.0), ("0", "run", 10.0)]

    assert len(splits(samples([*early, ("2", "other", 5 + HOUR)]))) == 1
    assert splits(samples([*early, ("2", "other", 6 + HOUR)])) == []


def test_after_the_repair_a_subject_counts_for_an_hour_after_it_was_last_where_it_is_no_more():
    early = [("0", "run", 0.0), ("1", "run", 10.0), ("0", "run", 20.0)]
    repaired = [("1", "run", 30.0), ("1", "run", 20 + HOUR)]

    assert len(splits(samples(early + repaired))) == 1
    assert splits(samples([*early, *repaired, ("1", "run", 21 + HOUR)])) == []


def test_events_without_a_subject_are_passed_over():
    assert samples([("0", "", 0), ("1", "", 10), ("0", "", 20)]) == {"0": {}, "1": {}}


def test_of_a_subject_a_short_text_is_kept_and_whether_its_last_message_had_a_key():
    sightings = Sightings()
    for seconds, keyed in ((0, False), (1, True)):
        sightings.saw(subject("s" * 5000), at=UnixSeconds(START + seconds), keyed=keyed)

    assert sightings.about(only(sightings.sample())) == ("s" * 200, True)
    assert sightings.about("another") is None


def test_a_subject_is_forgotten_six_hours_after_its_last_event():
    sightings = Sightings()
    sightings.saw(subject("run"), at=UnixSeconds(START), keyed=True)
    digest = only(sightings.sample())
    sightings.saw(subject("other"), at=UnixSeconds(START + 6 * HOUR), keyed=True)
    assert digest in sightings.sample()

    sightings.saw(subject("other"), at=UnixSeconds(START + 6 * HOUR + 1), keyed=True)
    assert digest not in sightings.sample()
    assert sightings.about(digest) is None


def test_a_full_sample_forgets_too_though_none_of_the_new_subjects_fits_in():
    sightings = Sightings(size=1)
    names = sorted((str(number) for number in range(50)), key=lambda name: only(samples([("0", name, 0)])["0"]))
    sightings.saw(subject(names[0]), at=UnixSeconds(START), keyed=True)
    for name in names[1:]:
        sightings.saw(subject(name), at=UnixSeconds(START + 7 * HOUR), keyed=True)

    assert sightings.sample() == {}
    sightings.saw(subject(names[-1]), at=UnixSeconds(START + 7 * HOUR), keyed=True)
    assert len(sightings.sample()) == 1, "there is room again"


def test_what_the_sample_of_a_partition_without_an_owner_has_kept_too_long_does_not_count():
    stored = samples([("0", "run", 0), ("1", "new", 0)])
    late = samples([("1", "run", 7 * HOUR), ("1", "run", 7 * HOUR + 1), ("2", "run", 7 * HOUR + 10)])

    assert splits(stored | late) == [], "of the earlier one nothing is known any more: one move"
    at_last = [("1", "run", 6 * HOUR), ("2", "run", 6 * HOUR)]
    assert len(splits(samples([("0", "run", 0), *at_last]))) == 1


def test_a_sample_is_the_same_after_it_was_stored_and_holds_no_text():
    sample = samples([("0", "secret", 0), ("0", "b", 1), ("0", "secret", 2.5)])[PartitionId("0")]

    assert decode(encode(sample)) == sample
    assert encode({"a1": Sighting(UnixSeconds(1.0), UnixSeconds(2.5))}) == b'{"format":1,"seen":{"a1":[1.0,2.5]}}'
    assert b"secret" not in encode(sample)


def test_the_hash_of_a_subject_is_the_same_in_every_process_and_version():
    assert list(samples([("0", "run", 0)])[PartitionId("0")]) == ["d584b1553005c20c"]


def test_a_subject_that_is_no_proper_text_is_a_subject_too():
    assert len(samples([("0", "\ud800", 0)])[PartitionId("0")]) == 1


def test_what_is_no_sample_of_this_version_is_an_empty_one():
    for payload in (b"", b"[]", b"{}", b'{"format":2,"seen":{"a":[1,2]}}', b'{"format":1,"seen":{"a":[1]}}'):
        assert decode(payload) == {}
    assert decode(b'{"format":1,"seen":[]}') == {}


def test_by_default_a_sample_has_two_hundred_and_fifty_six_subjects():
    sightings = Sightings()
    for number in range(300):
        sightings.saw(subject(str(number)), at=UnixSeconds(START), keyed=True)

    assert len(sightings.sample()) == 256


# --- properties

events = st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5 * HOUR)), max_size=60)
"""Which subject, and when."""
partitions = st.lists(st.integers(0, 7), min_size=31, max_size=31)
"""Of each subject."""


@given(events, partitions, st.integers(1, 40))
def test_where_each_subject_has_its_partition_none_is_split(came: list[tuple[int, float]], of: list[int], size: int):
    seen = [(str(of[number]), f"subject {number}", seconds) for number, seconds in sorted(came, key=lambda it: it[1])]

    assert splits(samples(seen, size=size)) == []


@given(events, partitions, partitions, st.floats(0, 5 * HOUR), st.integers(1, 40))
def test_where_all_subjects_move_at_one_moment_none_is_split(
    came: list[tuple[int, float]], before: list[int], after: list[int], moment: float, size: int
):
    seen = [
        (str((before if seconds < moment else after)[number]), f"subject {number}", seconds)
        for number, seconds in sorted(came, key=lambda it: it[1])
    ]

    assert splits(samples(seen, size=size)) == []


@given(st.lists(st.integers(0, 7), min_size=20, max_size=200))
def test_without_keys_a_subject_shows_as_soon_as_it_comes_back(turns: list[int]):
    """Ten subjects in turn, each event on any partition."""
    seen = [(str(turn), f"subject {number % 10}", number * 10.0) for number, turn in enumerate(turns)]
    ways: dict[str, list[str]] = {}
    for partition, name, _ in seen:
        ways.setdefault(only(samples([("0", name, 0)])[PartitionId("0")]), []).append(partition)

    came_back = {digest for digest, way in ways.items() if _comes_back(way)}
    assert came_back <= {split.digest for split in splits(samples(seen))}


def _comes_back(way: list[str]) -> bool:
    """Whether a partition follows on another one that follows on it."""
    without_repeats = [each for number, each in enumerate(way) if number == 0 or way[number - 1] != each]
    return len(set(without_repeats)) < len(without_repeats)


@given(st.sets(st.text(min_size=1), max_size=60), st.integers(1, 20))
def test_samples_are_bounded_and_pick_the_same_subjects_wherever_those_come(names: set[str], size: int):
    forth = samples((("0", name, 0) for name in sorted(names)), size=size)
    back = samples((("0", name, 0) for name in sorted(names, reverse=True)), size=size)

    assert forth == back
    assert all(len(sample) == min(size, len(names)) for sample in forth.values())
