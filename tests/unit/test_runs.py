"""Runs of forges: what they are given as texts, since when one may be the delivery's, and what a list of them shows."""

from dataclasses import replace

import pytest

from tests.deliveries import ELEMENT, delivery_of
from worker.events import UnixSeconds
from worker.sinks import Delivery
from worker.sinks.patterns import Pattern
from worker.sinks.rest import short_key
from worker.sinks.runs import Sighting, iso_time, same_name, texts_of, tried_since, unix_time

NOON = 1_700_000_000.0
CLOCKS, DAY = 600.0, 86_400.0


def delivery_at(enqueued_at: float, time: str | None = None) -> Delivery:
    delivery = delivery_of(ELEMENT | {"eventTime": time})
    placed = delivery.released.placed
    message = replace(placed.message, enqueued_at=UnixSeconds(enqueued_at))
    return replace(delivery, released=replace(delivery.released, placed=replace(placed, message=message)))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("churn", "churn"),
        (None, ""),
        (True, "true"),
        (0.83, "0.83"),
        (3, "3"),
        ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'),
    ],
)
def test_what_a_run_is_given_is_a_text_that_a_yaml_file_reads_as_the_same_value(data, text):
    given = texts_of({"value": Pattern("{{ event.data }}")}, delivery_of(ELEMENT | {"data": data}))
    assert given == {"value": text}


def test_the_keys_own_name_is_found_in_any_case():
    assert same_name(["a", "Event_Key"], "event_key") == "Event_Key"
    assert same_name(["event_keys"], "event_key") is None


@pytest.mark.parametrize(
    ("time", "since"),
    [
        (iso_time(NOON - 3), NOON - 3),
        ("2023-11-14T22:13:17.0000000Z", NOON - 3),
        (iso_time(NOON + 50), NOON),
        (iso_time(NOON - 10 * DAY), NOON - DAY),
        ("0001-01-01T00:00:00Z", NOON - DAY),
        ("yesterday", NOON - DAY),
        (None, NOON - DAY),
    ],
)
def test_nothing_was_tried_before_the_event_nor_a_day_before_its_last_copy(time, since):
    assert tried_since(delivery_at(NOON, time)) == since - CLOCKS


def test_the_first_seconds_of_all_time_are_no_reason_to_fail():
    assert iso_time(tried_since(delivery_of())) == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2023-11-14T22:13:20Z", NOON), ("2023-11-14T22:13:20.5Z", NOON + 0.5), ("soon", None), (None, None), (7, None)],
)
def test_times_of_apis_are_read(text, seconds):
    assert unix_time(text) == seconds


DELIVERY = delivery_of()
OTHER = "Retrain evt-" + "0" * 32


def test_a_run_that_carries_the_key_anywhere_is_the_deliverys():
    sighting = Sighting(DELIVERY)
    sighting.look("a.yml", (None, 7, f"Retrain {short_key(DELIVERY)}, please"), may_be_it=False)
    assert sighting.found


@pytest.mark.parametrize("text", [OTHER, DELIVERY.idempotency_key, short_key(DELIVERY)[:-1], "evt-", None])
def test_another_text_is_not(text):
    sighting = Sighting(DELIVERY)
    sighting.look("a.yml", (text,), may_be_it=True)
    assert not sighting.found


def test_a_pipeline_is_silent_when_none_of_its_runs_shows_a_key_whatever_others_do():
    sighting = Sighting(DELIVERY)
    sighting.look("shows.yml", ("Retrain",), may_be_it=True)
    sighting.look("shows.yml", (OTHER,), may_be_it=True)
    sighting.look("silent.yml", ("Retrain",), may_be_it=True)
    sighting.look("pushed.yml", ("Build",), may_be_it=False)
    assert sighting.silent == ["silent.yml"]


def test_a_pipeline_that_shows_keys_only_since_somebody_repaired_it_may_hide_the_deliverys_run():
    sighting = Sighting(DELIVERY)
    sighting.look("repaired.yml", (OTHER,), may_be_it=True)
    sighting.look("repaired.yml", ("Retrain",), may_be_it=True)
    assert sighting.silent == ["repaired.yml"]


def test_that_a_pipeline_showed_a_key_before_the_delivery_says_nothing_of_its_runs_since():
    sighting = Sighting(DELIVERY)
    sighting.look("changed.yml", ("Retrain",), may_be_it=True)
    sighting.look("changed.yml", (OTHER,), may_be_it=False)
    assert sighting.silent == ["changed.yml"]


@pytest.mark.parametrize("text", ["Retrain a long nam...", "Retrain a long name…", short_key(DELIVERY)[:-1], "x evt-"])
def test_a_name_that_was_cut_may_have_shown_the_key_though_others_show_theirs(text):
    sighting = Sighting(DELIVERY)
    sighting.look("cut.yml", (text, None), may_be_it=True)
    sighting.look("cut.yml", (OTHER,), may_be_it=True)
    assert sighting.silent == ["cut.yml"]


def test_what_stands_behind_a_key_may_be_cut():
    sighting = Sighting(DELIVERY)
    sighting.look("cut.yml", (f"{OTHER} a long nam...",), may_be_it=True)
    assert sighting.silent == []
