"""A share of the hostile inputs that `make fuzz` feeds by the million."""

import os

from tests.fuzz.feed import feed

INPUTS = 20_000 if os.environ.get("CI") == "true" else 5_000  # CI has a quarter of an hour for everything


def test_no_hostile_input_crashes_hangs_or_leaves_something_behind() -> None:
    report = feed(1, range(INPUTS))
    assert report.inputs == INPUTS
    assert not report.grown
    kinds = {outcome.partition(":")[0] for outcome in report.outcomes}
    assert kinds == {"message", "filter", "configuration"}
    assert report.outcomes["message: Event"] > INPUTS / 10, "most inputs must get past the first byte"
