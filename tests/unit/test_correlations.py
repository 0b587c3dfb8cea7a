"""Rows of expectations across subjects: whatever comes first, and however often, each is met or told once."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from worker.correlations import First, Row, Then, decode, encode, note_first, note_then, row_name, tell, told
from worker.errors import StateFormatUnknown
from worker.events import PartitionId, UnixSeconds

HOME = PartitionId("3")
WITHIN = 5
EMPTY = Row("rule", "", "model:1")


def first(at: float, name: str = "a") -> First:
    return First(UnixSeconds(at), f"{name}{at}", UnixSeconds(at + WITHIN), at + WITHIN, "5s", {"id": f"{name}{at}"})


def then(at: float, name: str = "b") -> Then:
    return Then(UnixSeconds(at), f"{name}{at}", UnixSeconds(at))


def noted(*events: First | Then, row: Row = EMPTY) -> Row:
    for each in events:
        row, _ = note_first(row, each) if isinstance(each, First) else note_then(row, each, WITHIN)
    return row


def test_a_first_event_is_pending_until_its_due_time():
    row = noted(first(10))

    assert row.pending == first(10)
    assert tell(row, through=15, home=HOME) is None
    assert tell(row, through=15.001, home=HOME) is not None


@pytest.mark.parametrize("at", [10, 12, 15])
def test_a_second_event_in_time_meets_it_whichever_comes_first(at: float):
    assert noted(first(10), then(at)).pending is None
    assert noted(then(at), first(10)).pending is None


@pytest.mark.parametrize("at", [9.999, 15.001])
def test_a_second_event_before_the_first_or_after_the_due_time_meets_nothing(at: float):
    assert noted(first(10), then(at)).pending == first(10)
    assert noted(then(at), first(10)).pending == first(10)


def test_another_first_event_while_one_is_pending_leaves_its_due_time():
    assert noted(first(12), first(10), first(11)).pending == first(10)


def test_a_first_event_after_the_one_that_met_the_last_is_pending():
    assert noted(first(10), first(14), then(12)).pending == first(14)


def test_an_event_of_both_kinds_meets_the_last_and_not_itself():
    both = [
        (First(UnixSeconds(at), f"h{at}", UnixSeconds(at + WITHIN), at + WITHIN, "5s", {}), then(at, "h"))
        for at in (10, 13)
    ]
    row = noted(both[0][1], both[0][0])
    assert row.pending == both[0][0]

    row = noted(both[1][1], both[1][0], row=row)

    assert row.pending == both[1][0]


def test_what_was_told_is_concluded_up_to_its_due_time():
    telling = tell(noted(first(10), then(17), first(14)), through=20, home=HOME)
    assert telling is not None
    assert (telling.telling, telling.home) == (first(10), HOME)
    assert tell(telling, through=20, home=HOME) is None

    row = told(telling)

    assert row.telling is None
    assert noted(first(10), first(15), then(14), row=row) == row
    assert noted(first(16), row=row).pending is None
    assert noted(first(18), row=row).pending == first(18)


def test_a_second_event_that_comes_while_the_missed_one_is_handed_over_takes_nothing_back():
    telling = tell(noted(first(10)), through=16, home=HOME)
    assert telling is not None

    assert noted(then(12), row=telling).telling == first(10)
    assert told(noted(then(12), row=telling)).pending is None


def test_the_newest_of_many_first_events_is_kept_and_some_between_are_not():
    row = noted(*(first(10 + number / 10) for number in range(40)))

    assert len(row.firsts) == 8
    assert (row.firsts[0].at, row.firsts[-1]) == (10, first(13.9))
    assert noted(then(13.8), row=row).pending == first(13.9)


def test_a_row_that_holds_nothing_pending_ends_on_the_hour_after_its_rules_time_and_an_hour_more():
    assert noted(then(7201)).expires_at(5) == 4 * 3600
    assert noted(then(7201)).expires_at(3 * 3600) == 7 * 3600
    assert noted(then(7200)).expires_at(90 * 86_400) == 27 * 3600
    late = Then(UnixSeconds(5), "late", UnixSeconds(7200))
    assert noted(late).expires_at(0) == 3 * 3600
    assert EMPTY.expires_at(5) == -math.inf


def test_a_name_tells_the_rule_and_not_the_key():
    name = row_name("model-is-deployed", "/source", "secret:1")

    assert name.startswith("correlation/model-is-deployed.")
    assert "secret" not in name
    assert len({name, row_name("model-is-deployed", "", "secret:1"), row_name("x", "/source", "secret:1")}) == 3


def test_a_row_survives_as_bytes_and_another_format_is_refused():
    telling = tell(noted(first(10), first(12), then(18)), through=16, home=HOME)
    assert telling is not None
    for row in (EMPTY, telling, told(telling)):
        assert decode(encode(row)) == row
    for payload in (b"", b"[]", b"{}", b'{"format":2}', encode(EMPTY).replace(b'"firsts":[]', b'"firsts":3')):
        with pytest.raises(StateFormatUnknown):
            decode(payload)


# --- properties

TIMES = some.integers(0, 20)
EVENTS = some.lists(some.tuples(some.sampled_from("abh"), TIMES), max_size=7, unique=True)


def parts(kind: str, at: int) -> list[First | Then]:
    """a: begins; b: meets; h: both. What meets is noted before what begins."""
    both: list[First | Then] = [then(at, kind), first(at, kind)]
    return both if kind == "h" else [both["ba".index(kind)]]


def missed(events: list[tuple[str, int]]) -> list[str]:
    """By definition, of all events at once in the order of their times: which first events nothing followed in time."""
    firsts = sorted(first(at, kind) for kind, at in events if kind in "ah")
    thens = sorted(then(at, kind) for kind, at in events if kind in "bh")
    found, until, by = list[str](), -math.inf, ""
    for each in firsts:
        if each.at <= until and each.id != by:
            continue
        meets = [other for other in thens if each.at <= other.at <= each.due and other.id != each.id]
        if meets:
            until, by, _ = meets[0]
        else:
            found.append(each.id)
            until, by = each.due, ""
    return found


@given(EVENTS, some.randoms(use_true_random=False))
def test_in_any_order_and_however_often_noted_each_is_met_or_told_exactly_once(
    events: list[tuple[str, int]], random: Random
):
    """Partitions come at their own pace, and again after a crash; they are through a time when all until it came."""
    coming = sorted(events, key=lambda each: each[1] + random.choice((0, 0, 3, 30)))
    row, tells = EMPTY, list[str]()
    for number in range(len(coming) + 1):
        left = coming[number:]
        through = min((at for _, at in left), default=1000)
        again = random.sample(coming[:number], random.randint(0, number))
        row = noted(*(part for event in again for part in parts(*event)), row=row)
        while (telling := tell(row, through=through, home=HOME)) is not None:
            assert telling.telling is not None
            tells.append(telling.telling.id)
            row = told(telling)
        if left:
            row = noted(*parts(*left[0]), row=row)
        row = decode(encode(row))
    assert tells == missed(events)


MANY = some.lists(
    some.tuples(some.integers(0, 32 * WITHIN), some.sampled_from("bcdh")), min_size=65, max_size=140, unique=True
)


@given(MANY, some.integers(0, 32 * WITHIN), some.sampled_from("ah"))
def test_a_first_event_that_comes_last_is_met_by_what_followed_it_however_many_came_since(
    times: list[tuple[int, str]], at: int, kind: str
):
    """Its partition was behind, and the others were not. One of both kinds does not meet itself."""
    row = noted(*(then(each, name) for each, name in times))
    assert len(row.thens) <= 64
    met = any(at <= each <= at + WITHIN and (each, name) != (at, kind) for each, name in times)
    assert (noted(first(at, kind), row=row).pending is None) == met
