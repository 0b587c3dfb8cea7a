"""target.py: what `worker seek --to` says, and which place of a partition that is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.target import Number, OutOfReach, Since, Span, parse, place

NOW = 1_770_000_000.0
SOME = Span(100, 199, "o199", NOW - 10, empty=False)
NEVER_USED = Span(0, -1, "-1", 0.0, empty=True)
FORGOTTEN = Span(200, 199, "o199", NOW - 1000, empty=True)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("earliest", "earliest"),
        (" latest ", "latest"),
        ("0", Number(0)),
        ("20260131", Number(20_260_131)),  # digits are a number, never a date
        ("2026-01-31T06:00:00Z", Since(1_769_839_200.0)),
        ("2026-01-31T06:00:00", Since(1_769_839_200.0)),
        ("2h", Since(NOW - 7200)),
    ],
)
def test_what_can_be_written(text, target):
    assert parse(text, now=NOW) == target


@pytest.mark.parametrize("text", ["", "Earliest", "-1", "@latest", "yesterday", "1.5", "²"])
def test_what_is_no_place_is_said_with_what_would_be(text):
    with pytest.raises(ValueError, match="earliest, latest, a sequence number, a time"):
        parse(text, now=NOW)


def test_a_time_to_come_is_refused():
    with pytest.raises(ValueError, match="still to come"):
        parse("2030-01-01T00:00:00Z", now=NOW)


@pytest.mark.parametrize(
    ("target", "span", "expected"),
    [
        ("earliest", SOME, (99, "-1")),
        ("latest", SOME, (199, "o199")),
        ("earliest", NEVER_USED, (-1, "-1")),
        ("latest", NEVER_USED, (-1, "-1")),
        ("latest", FORGOTTEN, (199, "-1")),
        (Number(150), SOME, (149, "")),
        (Number(101), SOME, (100, "")),
        (Number(100), SOME, (99, "-1")),
        (Number(7), SOME, (99, "-1")),  # forgotten: what is there comes
        (Number(200), SOME, (199, "o199")),
        (Number(0), NEVER_USED, (-1, "-1")),
        (Since(NOW - 5), SOME, (199, "o199")),  # nothing came since
        (Since(NOW - 10), SOME, None),
        (Since(NOW - 9999), SOME, None),
        (Since(NOW - 5), NEVER_USED, (-1, "-1")),
    ],
)
def test_places(target, span, expected):
    assert place(target, span) == expected


@pytest.mark.parametrize(("number", "span"), [(201, SOME), (1, NEVER_USED)])
def test_a_number_that_no_message_has_yet_is_refused(number, span):
    with pytest.raises(OutOfReach, match=f"there is no {number} yet"):
        place(Number(number), span)


@given(st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**12))
def test_the_first_message_to_be_read_is_the_one_asked_for_or_the_oldest_that_is_there(first, count, number):
    span = Span(first, first + count, "o", NOW, empty=False)
    if number > span.last + 1:
        return
    found = place(Number(number), span)
    assert found is not None
    assert found.sequence_number + 1 == max(number, first)
    assert found.offset != "" or first < number <= span.last
