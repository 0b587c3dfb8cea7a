"""What a sink's `quiet` section says: groups, mute windows, limits, and what is refused."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.deliveries import ELEMENT, delivery_of
from worker.about import Severity
from worker.events import Event
from worker.quiet import Bucket, Mute, Quiet, QuietSettings


def quiet(**section: Any) -> Quiet:
    return Quiet(QuietSettings.model_validate(section))


def event_of(element: dict[str, Any]) -> Event:
    return delivery_of(ELEMENT | element).released.placed.event


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "Microsoft.MachineLearningServices.RunStatusChanged"),
        ("source", "/subscriptions/s/workspaces/ws"),
        ("subject", "experiments/exp/runs/run-1"),
        ("state", "Failed"),
        ("severity", "error"),
        ("experiment", "train"),
        ("model", ""),
        ("data.runTags['azureml.pipelineid']", "p-7"),
        ("data.RUNTYPE", "sweep"),
        ("data.attempt", "3"),
        ("data.nothing", ""),
    ],
)
def test_events_are_grouped_by_words_and_by_any_key_of_a_filter(key: str, value: str):
    data = {
        "runStatus": "failed",
        "experimentName": "train",
        "runTags": {"azureml.pipelineid": "p-7"},
        "runType": "sweep",
        "attempt": 3,
    }
    assert quiet(group_by=[key]).values_of(event_of({"data": data})) == ((key, value),)


def test_models_are_grouped_by_name_without_their_version():
    element = {"eventType": "Microsoft.MachineLearningServices.ModelRegistered", "subject": "models/m:7", "data": {}}
    assert quiet(group_by=["model"]).values_of(event_of(element)) == (("model", "m"),)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"group_by": ["experimnt"]}, "nothing to group by; write one of type, source"),
        ({"group_by": ["data.a["]}, "cannot be read"),
        ({"group_by": ["dataset"]}, "nothing to group by"),
        ({"mute": [{"let_through": "error"}]}, "no time of the week"),
        ({"mute": [{"from": "08:00", "to": "08:00"}]}, "no time of the week"),
        ({"mute": [{"to": "12:00"}, {"from": "12:00", "then": "drop"}]}, "no time of the week"),
        ({"mute": [{"from": "22"}]}, "no time of day"),
        ({"mute": [{"to": "25:00"}]}, "no time of day"),
        ({"mute": [{"timezone": "Mars/Base"}]}, "no time zone"),
        ({"mute": [{"timezone": "../etc/passwd"}]}, "no time zone"),
        ({"mute": [{"days": ["someday"]}]}, "Input should be"),
        ({"group_interval_seconds": 60, "repeat_interval_seconds": 30}, "must not be shorter"),
        ({"limit": {"messages": 0, "per_seconds": 60}}, "greater than or equal to 1"),
        ({"max_events": 100_000}, "less than or equal to 1000"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(section: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match="(?s)" + says.replace("(", "\\(")):
        quiet(**section)


# --- mute windows

NIGHT = {"from": "22:00", "to": "07:00", "timezone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-01-14T20:59", None),
        ("2026-01-14T21:00", "2026-01-15T06:00"),  # 22:00 in Berlin
        ("2026-01-15T05:59", "2026-01-15T06:00"),
        ("2026-01-15T06:00", None),
        ("2026-07-14T20:00", "2026-07-15T05:00"),  # in summer it is two hours
        ("2026-03-28T22:00", "2026-03-29T05:00"),  # the night in which the clocks go forward
    ],
)
def test_a_window_follows_the_wall_clock_of_its_zone(now: str, until: str | None):
    mute = quiet(mute=[NIGHT]).muted(Severity.INFO, at(now))
    assert mute == (until and Mute(at(until), "hold"))


def test_a_window_that_begins_on_friday_night_ends_on_saturday():
    weekend = quiet(mute=[{"days": ["fri"], "from": "18:00", "to": "06:00"}])
    assert weekend.muted(Severity.INFO, at("2026-01-16T17:59")) is None  # a Friday
    assert weekend.muted(Severity.INFO, at("2026-01-17T05:00")) == Mute(at("2026-01-17T06:00"), "hold")
    assert weekend.muted(Severity.INFO, at("2026-01-17T18:00")) is None


def test_windows_that_touch_are_one():
    windows = [{"days": ["sat", "sun"]}, {"days": ["mon"], "from": "00:00", "to": "08:00"}]
    mute = quiet(mute=windows).muted(Severity.INFO, at("2026-01-17T12:00"))
    assert mute == Mute(at("2026-01-19T08:00"), "hold")


def test_a_window_that_is_always_open_still_has_an_end():
    assert quiet(mute=[{"then": "drop"}]).muted(Severity.INFO, at("2026-01-17T12:00")) is not None


@pytest.mark.parametrize(
    "windows",
    [
        [{"days": ["mon", "tue", "wed", "thu", "fri", "sat"]}],
        [{"from": f"{hour:02}:00", "to": f"{hour + 1:02}:00"} for hour in range(20)],
        [{"to": "23:59"}],
        [{"then": "dead_letter", "let_through": "error"}],
        [{"let_through": "info"}],
    ],
)
def test_windows_that_leave_a_moment_to_tell_what_they_hold_are_accepted(windows: list[dict[str, Any]]):
    assert quiet(mute=windows)


def test_severe_events_are_let_through():
    night = quiet(mute=[NIGHT | {"let_through": "error", "then": "drop"}])
    now = at("2026-01-14T23:00")
    assert night.muted(Severity.ERROR, now) is None
    assert night.muted(Severity.WARNING, now) == Mute(at("2026-01-15T06:00"), "drop")


@given(st.integers(0, 2 * 366 * 24 * 60), st.integers(0, 1439), st.integers(0, 1439))
def test_a_window_ends_in_the_future_and_is_closed_then(minute: int, start: int, end: int):
    window = {"from": f"{start // 60:02}:{start % 60:02}", "to": f"{end // 60:02}:{end % 60:02}"}
    muted = quiet(mute=[window | {"timezone": "America/New_York", "then": "drop"}])
    now = at("2026-01-01T00:00") + minute * 60
    mute = muted.muted(Severity.INFO, now)
    if mute is not None:
        assert now < mute.until <= now + 16 * 25 * 3600
        assert start == end or muted.muted(Severity.INFO, mute.until) is None


# --- when a group is due, and what a limit leaves


def test_a_new_group_waits_and_a_known_one_keeps_its_interval():
    settings = quiet(group_wait_seconds=30, group_interval_seconds=300, repeat_interval_seconds=3600)
    assert settings.due(now=1000, told_at=None, news=True) == 1030
    assert settings.due(now=1000, told_at=900, news=True) == 1200
    assert settings.due(now=1000, told_at=900, news=False) == 4500
    assert settings.due(now=9000, told_at=900, news=False) == 9030


def test_without_a_repeat_interval_a_repetition_is_as_good_as_news():
    settings = quiet(group_wait_seconds=0, group_interval_seconds=300)
    assert settings.due(now=1000, told_at=900, news=False) == 1200


def test_a_bucket_fills_again_up_to_its_size():
    settings = quiet(limit={"messages": 10, "per_seconds": 60})
    assert settings.filled(None, 1000) == Bucket(10, 1000)
    assert settings.filled(Bucket(0, 1000), 1006) == Bucket(1, 1006)
    assert settings.filled(Bucket(0, 1000), 9000) == Bucket(10, 9000)
    assert settings.filled(Bucket(3, 1000), 900) == Bucket(3, 900)
    assert quiet().filled(None, 1000) is None
