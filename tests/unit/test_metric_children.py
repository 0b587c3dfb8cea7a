"""Metrics are found quickly, and are what the client's own way to them finds."""

from pathlib import Path

import pytest

from tests.unit.configurations import loaded
from worker.metrics import Metrics
from worker.outcomes import Outcome


def test_a_child_is_the_same_whichever_way_it_is_asked_for():
    metrics = Metrics()
    first = metrics.deliveries.labels("out", Outcome.ACCEPTED)
    for child in (
        metrics.deliveries.labels("out", "accepted"),
        metrics.deliveries.labels("out", Outcome.ACCEPTED),
        metrics.deliveries.labels(outcome="accepted", sink="out"),
    ):
        assert child is first
    first.inc()
    labels = {"sink": "out", "outcome": "accepted"}
    assert metrics.registry.get_sample_value("worker_deliveries_total", labels) == 1
    assert metrics.event_seconds.labels("out") is metrics.event_seconds.labels("out")


def test_what_was_forgotten_begins_anew_and_wrong_labels_are_refused():
    metrics = Metrics()
    metrics.held.labels("0").set(7)
    metrics.forget_partition("0")
    assert metrics.registry.get_sample_value("worker_held_events", {"partition": "0"}) is None
    metrics.held.labels("0").set(3)
    assert metrics.registry.get_sample_value("worker_held_events", {"partition": "0"}) == 3
    with pytest.raises(ValueError, match="label"):
        metrics.held.labels("0", "1")


def test_before_the_store_was_reached_no_rules_were_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = Metrics()
    metrics.describe(loaded().worker)
    assert metrics.registry.get_sample_value("worker_config_last_reload_successful") == 1
