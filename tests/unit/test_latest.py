"""Who is superseded of those that are released together."""

from dataclasses import replace

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
    UnixSeconds,
)
from worker.latest import superseded
from worker.route import Late, Target

MESSAGE = Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), b"")
LATEST = Target("newest", "out", Late.DELIVER, only_latest=True)
ALL = Target("all", "audit", Late.DELIVER)
NONE = frozenset[str]()
TIME, SEQUENCER = OrderKind.TIME, OrderKind.SEQUENCER


def released(subject: str, *, kind: OrderKind = SEQUENCER, late: int | None = None) -> Released:
    event = Event(Schema.EVENT_GRID, "1", "t", None, subject, None, None, {}, OrderKey(kind, "1"))
    return Released(Placed(event, MESSAGE, Position(1, 0)), late)


def test_of_a_subject_the_last_one_stays_and_others_go_their_way():
    together = [released("a"), released("b"), released("a")]
    assert superseded(together, [(LATEST, ALL)] * 3) == [{"out"}, NONE, NONE]


def test_only_what_the_route_matches_counts():
    together = [released("a"), released("a")]
    assert superseded(together, [(LATEST,), (ALL,)]) == [NONE, NONE]


def test_one_that_another_route_brings_to_the_sink_supersedes_nothing():
    other = replace_route(LATEST, "other")
    assert superseded([released("a"), released("a")], [(LATEST,), (other,)]) == [NONE, NONE]


def replace_route(target: Target, route: str) -> Target:
    return target._replace(route=route)


def test_a_late_one_supersedes_nothing_and_is_not_superseded():
    together = [released("a", late=5), released("a"), released("a", late=7)]
    assert superseded(together, [(LATEST,)] * 3) == [NONE, NONE, NONE]


def test_of_each_kind_of_key_the_newest_stays():
    together = [released("a"), released("a", kind=TIME), released("a"), released("a", kind=TIME)]
    assert superseded(together, [(LATEST,)] * 4) == [{"out"}, {"out"}, NONE, NONE]


targets = st.lists(
    st.sampled_from([LATEST, ALL, LATEST._replace(sink="other"), LATEST._replace(route="second", sink="third")]),
    unique_by=lambda each: each.sink,
)
some = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([SEQUENCER, TIME]), st.booleans(), targets))


@given(some)
def test_whoever_is_superseded_has_a_newer_one_that_goes_the_same_way_and_every_newest_goes(rows):
    together = [
        replace(released(subject, kind=kind), late_by_ms=1 if late else None) for subject, kind, late, _ in rows
    ]
    found = superseded(together, [targets for *_, targets in rows])
    for index, (subject, kind, late, targets) in enumerate(rows):
        for target in targets:
            newer = [
                each
                for each, other_kind, other_late, others in rows[index + 1 :]
                if (each, other_kind, other_late) == (subject, kind, False) and target in others
            ]
            assert (target.sink in found[index]) == (target.only_latest and not late and bool(newer))
