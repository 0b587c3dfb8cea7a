"""Cases are played by the pipeline itself: what comes of events, in virtual time."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.configurations import WORKER, write
from worker.casebook import Expectation
from worker.events import UnixSeconds
from worker.expected import differences, told_together
from worker.loading import load
from worker.rehearsal import Came, Performance, Rehearsals

MONDAY_NOON = UnixSeconds(1_767_614_400)
HOUR = 3600.0
ROUTES = """\
sinks:
  - { name: out, kind: log }
  - { name: audit, kind: log }
routes:
  - name: runs
    filter: { subjectBeginsWith: runs/ }
    sinks: [out]
    late: LATE
  - name: all
    sinks: [audit]
"""


def event(event_id: str, *, at: int = 0, subject: str = "runs/1", **more: Any) -> bytes:
    return orjson.dumps(
        {
            "id": event_id,
            "eventType": "Some.Type",
            "subject": subject,
            "eventTime": f"2026-01-05T12:00:{at:02}Z",
            **more,
        }
    )


@pytest.fixture
def play(tmp_path: Path):
    def play(*given: bytes | float, routes: str = ROUTES, late: str = "deliver", window: float = 5) -> Performance:
        worker = f"{WORKER}order: {{window_seconds: {window}}}\n"
        config = load(write(tmp_path, worker, routes.replace("LATE", late)), secrets=False)
        return Rehearsals(config).play(given, starts_at=MONDAY_NOON)

    return play


def ids(performance: Performance, sink: str = "out") -> list[str]:
    return [each.event.id for each in performance.came if each.sink == sink and each.event]


def only(performance: Performance, sink: str = "out") -> Came:
    [came] = [each for each in performance.came if each.sink == sink]
    return came


def test_events_of_a_subject_come_in_order_after_the_configured_window(play):
    performance = play(event("b", at=2), event("a", at=1), window=7)
    assert ids(performance) == ["a", "b"]
    assert [round(each.at_seconds, 1) for each in performance.came] == [7.0] * 4
    assert performance.settled == {"delivered": 2}


def test_what_comes_after_the_window_is_late_as_its_route_says(play):
    given = event("b", at=2), 60.0, event("a", at=1)
    assert [each.late_by_ms for each in play(*given).came if each.sink == "out"] == [None, 55_001]
    dropped = play(*given, late="drop")
    assert (ids(dropped), ids(dropped, "audit")) == (["b"], ["b", "a"])
    letter = next(each for each in play(*given, late="dead_letter").came if each.dead_letter)
    assert (letter.sink, letter.dead_letter, letter.route) == ("out", "late", "runs")
    assert letter.event is not None
    assert letter.event.id == "a"


def test_what_is_sent_again_comes_once_and_is_counted(play):
    performance = play(event("a"), HOUR, event("a"))
    assert ids(performance) == ["a"]
    assert performance.settled == {"delivered": 1, "duplicate": 1}
    assert [each.id for each in performance.routed] == ["a"]


def test_each_case_begins_with_a_worker_that_knows_nothing(tmp_path):
    rehearsals = Rehearsals(load(write(tmp_path, WORKER, ROUTES.replace("LATE", "drop")), secrets=False))
    for _ in range(2):
        assert ids(rehearsals.play([event("a")], starts_at=MONDAY_NOON)) == ["a"]


def test_a_route_is_reached_also_where_others_have_its_sinks_already(play):
    both = ROUTES.replace("sinks: [audit]", "sinks: [out, audit]")
    assert play(event("a"), routes=both).reached == {"runs", "all"}
    assert play(event("a", subject="other"), routes=both).reached == {"all"}


def test_what_is_no_event_is_a_dead_letter_and_the_rest_of_its_message_goes_on(play):
    performance = play(b"[" + event("a") + b", 5]", b"nonsense")
    assert ids(performance) == ["a"]
    letters = [each for each in performance.came if each.dead_letter]
    assert [(each.dead_letter, each.sink, each.event) for each in letters] == [
        ("not_an_object", None, None),
        ("not_json", None, None),
    ]


QUIET = ROUTES.replace(
    "{ name: out, kind: log }", "{ name: out, kind: log, quiet: { group_by: [], group_wait_seconds: 30 } }"
)


def test_events_of_a_quiet_sink_are_told_together_when_their_group_is_due(play):
    performance = play(event("b", at=2), event("a", at=1), event("c", subject="runs/2"), routes=QUIET)
    told = only(performance)
    assert [each["id"] for each in told_together(told) or ()] == ["a", "b", "c"]
    assert 34.9 < told.at_seconds < 37
    members = [{"id": "a"}, {"id": "b", "type": "Some.Type"}, {"id": "c"}]
    assert list(differences(Expectation.model_validate({"sink": "out", "digest": members}), told)) == []
    other = Expectation.model_validate({"sink": "out", "digest": members[1:]})
    assert "digest has 3 items, not 2" in list(differences(other, told))
    assert performance.settled.total() == 3


def test_a_mute_window_ends_by_the_clock_of_the_case(play):
    mute = 'mute: [{ from: "11:00", to: "13:00" }]'
    performance = play(event("a"), event("b"), routes=QUIET.replace("group_by: []", f"group_by: [], {mute}"))
    assert HOUR <= only(performance).at_seconds < HOUR + 2


def test_a_template_that_cannot_be_filled_in_makes_its_dead_letter(play):
    factory = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/g/providers"
    keys = f"factory: {factory}/Microsoft.DataFactory/factories/f-1, pipeline: p"
    parameters = "parameters: { x: '{{ event.data.drift }}' }"
    routes = ROUTES.replace("kind: log", f"kind: datafactory, {keys}, {parameters}", 1)
    performance = play(event("a", data={"drift": 1}), event("b", subject="runs/2", data={"shift": 1}), routes=routes)
    delivered, letter = [each for each in performance.came if each.sink == "out"]
    assert (delivered.dead_letter, letter.dead_letter) == (None, "rejected")
    assert "drift" in letter.detail


def test_a_paused_or_limited_sink_is_played_as_if_it_were_not(play):
    for keys in ("paused: true", "dry_run: true", "rate: 0.001", "concurrency: 1"):
        routes = ROUTES.replace("{ name: out, kind: log }", f"{{ name: out, kind: log, {keys} }}")
        assert ids(play(event("a"), event("b", subject="runs/2"), routes=routes)) == ["a", "b"]


def test_more_events_than_may_be_in_flight_all_come(tmp_path):
    worker = f"{WORKER}limits: {{in_flight: 3, held: 5}}\n"
    config = load(write(tmp_path, worker, ROUTES.replace("LATE", "drop")), secrets=False)
    body = b"[" + b",".join(event(str(number), subject=f"runs/{number}") for number in range(100)) + b"]"
    assert len(ids(Rehearsals(config).play([body], starts_at=MONDAY_NOON))) == 100


EXPECTING = """\
sinks:
  - { name: out, kind: log }
routes:
  - name: alarm
    filter: { includedEventTypes: [Worker.ExpectationMissed] }
    sinks: [out]
expect:
  - name: run-ends
    after: { includedEventTypes: [Some.Type] }
    then: { includedEventTypes: [The.End] }
    within: 2h
"""


def test_what_does_not_follow_is_missed_when_the_time_that_is_waited_is_over(play):
    performance = play(event("a"), 3 * HOUR, routes=EXPECTING)
    came = only(performance)
    assert came.event is not None
    assert came.event.subject == "expectations/run-ends/runs/1"
    assert came.event.data["after"]["id"] == "a"
    assert 2 * HOUR < came.at_seconds < 2 * HOUR + 6
    assert performance.reached == {"alarm"}


def test_what_follows_in_time_is_not_missed_and_the_end_of_a_case_is_not_waited_for(play):
    assert play(event("a"), 60.0, event("b", at=2, eventType="The.End"), 3 * HOUR, routes=EXPECTING).came == []
    assert play(event("a"), 1.9 * HOUR, routes=EXPECTING).came == []


def test_a_time_that_an_event_does_not_say_is_when_it_comes(play):
    given = {"id": "a", "eventType": "Some.Type", "subject": "runs/1"}
    late = orjson.dumps({**given, "id": "b", "eventType": "The.End"})
    performance = play(HOUR, orjson.dumps(given), 2.5 * HOUR, late, HOUR, routes=EXPECTING)
    assert 3 * HOUR < only(performance).at_seconds < 3 * HOUR + 6


def test_the_newest_alone_and_what_is_unchanged_are_played_and_counted(play):
    routes = ROUTES.replace("late: LATE", "only: latest\n    changed: etag\n    late: drop").replace("[audit]", "[]")
    routes = routes.partition("  - name: all")[0].replace("  - { name: audit, kind: log }\n", "")

    def write(event_id: str, at: int, etag: str) -> bytes:
        return event(event_id, at=at, data={"eTag": etag})

    performance = play(
        event("before", data={"eTag": "X"}, subject="runs/2"),
        write("b", 2, "B"),
        orjson.dumps([orjson.loads(write(each, at, etag)) for each, at, etag in (("d", 4, "D"), ("c", 3, "C"))]),
        10.0,
        write("e", 5, "D"),
        write("f", 6, "F"),
        routes=routes,
    )
    assert ids(performance) == ["before", "b", "d", "f"]
    assert performance.settled == {"delivered": 4, "superseded": 1, "unchanged": 1}


ACROSS = """\
sinks:
  - { name: out, kind: log }
routes:
  - name: alarm
    filter: { includedEventTypes: [Worker.ExpectationMissed] }
    sinks: [out]
expect:
  - name: deployed
    after: { includedEventTypes: [Some.Type] }
    then: { includedEventTypes: [The.End] }
    correlate: { after: "{{ event.data.model }}", then: "{{ event.data.models }}", split: "," }
    within: 2h
"""
SILENT = """\
sinks:
  - { name: out, kind: log }
routes:
  - name: alarm
    filter: { includedEventTypes: [Worker.ExpectationMissed] }
    sinks: [out]
expect:
  - { name: silent, sources: [/workspace], every: 1h }
"""


def test_what_does_not_follow_on_another_subject_is_missed(play):
    given = event("a", subject="models/1", data={"model": "m:1"}), event("b", subject="models/2", data={"model": "m:2"})
    then = event("c", at=2, subject="endpoints/e", eventType="The.End", data={"models": "x, m:2"})
    came = only(play(*given, 60.0, then, 3 * HOUR, routes=ACROSS))
    assert came.event is not None
    assert came.event.subject == "expectations/deployed/m:1"
    assert 2 * HOUR < came.at_seconds < 2 * HOUR + 6
    assert play(*given, 1.9 * HOUR, routes=ACROSS).came == []


def test_a_silence_is_told_when_it_has_lasted_long_enough_and_again_after_life(play):
    first, second = ("2026-01-05T12:54:00", "2026-01-05T15:54:00")
    alive = [
        orjson.dumps({"id": time, "topic": "/Workspace/", "eventType": "Any", "eventTime": f"{time}Z"})
        for time in (first, second)
    ]
    performance = play(0.9 * HOUR, alive[0], 3 * HOUR, alive[1], 1.5 * HOUR, routes=SILENT)
    events = [each.event for each in performance.came if each.event]
    assert [each.data["last_seen"] for each in events] == [f"{first}.0000000Z", f"{second}.0000000Z"]
    assert [round(each.at_seconds / HOUR, 1) for each in performance.came] == [1.9, 4.9]


def test_what_is_told_in_digests_is_told_too(play):
    quiet = SILENT.replace("kind: log", "kind: log, quiet: { group_by: [], group_wait_seconds: 30 }")
    alive = [
        orjson.dumps({"id": time, "topic": "/Workspace/", "eventType": "Any", "eventTime": f"{time}Z"})
        for time in ("2026-01-05T12:54:00", "2026-01-05T15:54:00")
    ]
    performance = play(0.9 * HOUR, alive[0], 3 * HOUR, alive[1], 1.5 * HOUR, routes=quiet)
    assert [round(each.at_seconds / HOUR, 1) for each in performance.came] == [1.9, 4.9]
