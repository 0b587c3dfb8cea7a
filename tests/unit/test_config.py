"""config.py and loading.py: what good files become. What is said about bad ones is in test_mistakes.py."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.unit.configurations import ENVIRON, ROUTES, WORKER, loaded
from worker.config import BlobStoreSettings, SqliteStoreSettings
from worker.loading import load, load_routes
from worker.mistakes import Mistakes
from worker.route import Late
from worker.sinks.file import FileSettings
from worker.sinks.webhook_settings import WebhookSettings


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_keys_that_are_left_out_have_the_documented_defaults():
    worker = loaded().worker
    assert worker.source.model_dump(exclude={"connection_string_env", "hub"}) == {
        "connection_string_file": None,
        "namespace": None,
        "consumer_group": "$Default",
        "start": "earliest",
        "balance_interval_seconds": 2,
        "ownership_expiry_seconds": 20,
        "retention_hours": 24,
        "prefetch": 3000,
        "idle_timeout_seconds": 60,
        "stall_seconds": 60,
        "on_invalid_offset": "stop",
    }
    assert worker.store == SqliteStoreSettings(
        kind="sqlite", path=Path("data/worker.db"), state_interval_seconds=1, checkpoint_interval_seconds=5
    )
    assert worker.order.model_dump() == {
        "window_seconds": 5,
        "late_target": 0.001,
        "min_seconds": 1,
        "max_seconds": 60,
        "memory_hours": 24,
        "late": Late.DELIVER,
    }
    assert worker.limits.model_dump() == {
        "in_flight": 2000,
        "held": 50_000,
        "drain_seconds": 20,
        "hand_over_seconds": 5,
    }
    assert worker.http.model_dump() == {
        "host": "127.0.0.1",
        "port": 8080,
        "status_page": True,
        "status_port": None,
        "status_host": None,
    }
    assert worker.routes_file == Path("routes.yaml")


def test_every_key_can_be_set():
    worker = loaded(
        """
        source:
          namespace: team.servicebus.windows.net
          hub: h
          consumer_group: group-1
          start: 2026-01-31T06:00:00+01:00
          balance_interval_seconds: 1
          ownership_expiry_seconds: 4
          retention_hours: 1.5
          prefetch: 300
          idle_timeout_seconds: 30
        store:
          kind: blob
          account_url: https://acc.blob.core.windows.net/
          container: worker
          state_interval_seconds: 0.5
          checkpoint_interval_seconds: 10
        order: {window_seconds: 0, memory_hours: 2, late: dead_letter}
        limits: {in_flight: 1, held: 1, drain_seconds: 0, hand_over_seconds: 1.5}
        http: {host: 0.0.0.0, port: 0}
        routes_file: routes.yaml
        """
    ).worker
    assert worker.source.start == datetime(2026, 1, 31, 5, tzinfo=UTC)
    assert worker.source.retention_seconds == 5400
    assert isinstance(worker.store, BlobStoreSettings)
    assert worker.store.account_url == "https://acc.blob.core.windows.net"
    assert worker.order.late is Late.DEAD_LETTER
    assert worker.http.port == 0


@pytest.mark.parametrize(
    ("start", "value"),
    [
        ("latest", "latest"),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T06:00:00Z", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ("'2026-01-31 06:00'", datetime(2026, 1, 31, 6, tzinfo=UTC)),
    ],
)
def test_a_start_is_a_word_or_a_time_and_no_zone_means_utc(start, value):
    assert loaded(WORKER.replace("hub: ml-events", f"hub: ml-events\n  start: {start}")).worker.source.start == value


def test_sinks_and_routes_keep_the_order_of_the_file():
    config = loaded()
    assert [type(sink) for sink in config.sinks] == [WebhookSettings, FileSettings]
    assert [(spec.name, spec.sinks, spec.late) for spec in config.routing.specs] == [
        ("failed", ("out",), Late.DELIVER),
        ("all", ("audit", "out"), Late.DROP),
    ]
    assert config.routing.specs[0].filter is not None
    assert config.routing.specs[1].filter is None


def test_a_route_that_does_not_say_what_happens_to_late_events_follows_order_late():
    config = loaded(WORKER + "order: {late: dead_letter}\n")
    assert [spec.late for spec in config.routing.specs] == [Late.DEAD_LETTER, Late.DROP]


def test_the_window_may_be_learnt_and_then_the_longest_one_bounds_giving_up():
    order = "order: {window_seconds: auto, late_target: 0.01, min_seconds: 0.5, max_seconds: 20}\n"
    settings = loaded(WORKER + order).worker.order
    assert (settings.window_seconds, settings.late_target) == ("auto", 0.01)
    assert (settings.min_seconds, settings.max_seconds) == (0.5, 20)

    routes = ROUTES.replace("path: audit.jsonl", "path: audit.jsonl\n    retry: {give_up_after_seconds: 86385}")
    with pytest.raises(Mistakes, match=r"must be less than 86380 \(source.retention_hours, less order.max_seconds\)"):
        loaded(WORKER + order, routes=routes)


def test_giving_up_is_half_the_retention_unless_the_sink_says_otherwise():
    routes = ROUTES.replace("path: audit.jsonl", "path: audit.jsonl\n    retry: {give_up_after_seconds: 60}")
    config = loaded(routes=routes)
    assert [config.give_up_after_seconds(sink) for sink in config.sinks] == [12 * 3600, 60]


@pytest.mark.parametrize(
    ("more", "days"), [("", 7), ("  retention_hours: 168\n", 8), ("  retention_hours: 2160\n", 91)]
)
def test_the_ledger_outlives_the_hubs_retention_unless_it_is_told_how_long(more, days):
    worker = WORKER.replace("  hub: ml-events\n", "  hub: ml-events\n" + more)
    assert loaded(worker).ledger_keep_days == days
    assert loaded(worker + "ledger: {keep_days: 200}\n").ledger_keep_days == 200


def test_a_webhook_uses_the_ledger_when_it_says_what_happens_to_an_unknown_outcome():
    routes = ROUTES.replace("url_env: OUT", "url_env: OUT\n    on_unknown: resend\n    timeout_seconds: 5")
    assert [sink.uses_ledger for sink in loaded().sinks] == [False, False]
    webhook, file = loaded(routes=routes).sinks
    assert (webhook.uses_ledger, webhook.attempt_seconds) == (True, 5)
    assert not file.uses_ledger


def test_paths_are_relative_to_the_file_they_stand_in():
    Path("conf/more").mkdir(parents=True)
    Path("conf/worker.yaml").write_text(WORKER + "routes_file: more/r.yaml\n")
    Path("conf/more/r.yaml").write_text(ROUTES)
    config = load(Path("conf/worker.yaml"), environ=ENVIRON)
    assert config.routing.file == Path("conf/more/r.yaml")
    assert isinstance(config.worker.store, SqliteStoreSettings)
    assert config.worker.store.path == Path("conf/data/worker.db")
    assert isinstance(config.sinks[1], FileSettings)
    assert config.sinks[1].path == Path("conf/more/audit.jsonl")


def test_a_configuration_cannot_be_changed():
    config = loaded()
    with pytest.raises(ValidationError):
        config.worker.http.port = 1  # type: ignore[misc]  # the point of the test
    with pytest.raises(AttributeError):
        config.file = Path("other")  # type: ignore[misc]  # as above


def test_anchors_save_repetition():
    routes = """
        sinks:
          - &out {name: out, kind: log, concurrency: 3}
          - {<<: *out, name: other}
        routes:
          - {name: a, sources: &topics [/t/1], sinks: [out]}
          - {name: b, sources: *topics, sinks: [other]}
        """
    config = loaded(routes=routes)
    assert [(sink.name, sink.concurrency) for sink in config.sinks] == [("out", 3), ("other", 3)]
    assert [spec.sources for spec in config.routing.specs] == [("/t/1",), ("/t/1",)]


def test_explaining_needs_no_secrets():
    assert loaded(environ={}, secrets=False).routing.specs[0].name == "failed"


def test_routes_are_read_again_alone_with_the_settings_that_stand():
    config = loaded(WORKER + "order: {late: dead_letter}\n")
    Path("routes.yaml").write_text("sinks: [{name: x, kind: log}]\nroutes: [{name: r, sinks: [x]}]\n")
    routing = load_routes(config.routing.file, config.worker, environ={})
    assert [spec.late for spec in routing.specs] == [Late.DEAD_LETTER]
    Path("routes.yaml").write_text(
        "sinks:\n  - {name: x, kind: log, retry: {give_up_after_seconds: 86400}}\nroutes:\n  - {name: r, sinks: [y]}\n"
    )
    with pytest.raises(Mistakes) as caught:
        load_routes(config.routing.file, config.worker, environ={})
    assert [(mistake.line, mistake.message.partition(":")[0]) for mistake in caught.value.found] == [
        (2, "sinks[0].retry.give_up_after_seconds"),
        (4, "routes[0].sinks[0]"),
    ]
