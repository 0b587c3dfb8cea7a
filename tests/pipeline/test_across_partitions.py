"""Expectations across subjects, at the shared table: who notes, who says how far it is, and who tells."""

import asyncio
from collections import Counter

import pytest

from tests.memory_store import MemoryStore
from tests.pipeline.table import DEPLOYED, SILENT, SOURCE, START, Table, event, rule
from tests.virtual_time import run
from worker import correlations
from worker.events import PartitionId
from worker.expect import ExpectRule
from worker.silences import row_name

HOUR = 3600.0


async def played(*, thens: tuple[float, ...] = ()) -> Table:
    table = Table(DEPLOYED)
    async with table.open():
        await table.note(event("Registered", 0, model="m:1"))
        for at in thens:
            await table.note(event("Deployed", at, models="x, m:1"), side=1, enqueued=at)
        await table.pass_by(through=HOUR + 1)
    return table


def test_what_did_not_come_is_told_once_by_the_home_of_its_row():
    table = run(played())

    (missed,) = table.told
    row = correlations.row_name("model-is-deployed", SOURCE_FOLDED, "m:1")
    assert missed in table.sides[int(table.sides[0].board.home(row) or "")].told
    assert (missed.rule, missed.key, missed.due) == ("model-is-deployed", "m:1", START + HOUR)
    assert missed.data["within"] == "1h"
    assert missed.data["after"]["id"] == "Registered-0"
    assert table.rows("correlation") == {row: f"telling/{table.sides[0].board.home(row)}"}


SOURCE_FOLDED = "/subscriptions/s/workspaces/prod"


@pytest.mark.parametrize("at", [0, 1800, 3600])
def test_what_came_in_time_is_not_told(at: float):
    table = run(played(thens=(at,)))

    assert table.told == []
    assert table.sides[1].count("met") == 1


@pytest.mark.parametrize("at", [3600.5, 4000])
def test_what_came_after_its_time_is_told(at: float):
    assert len(run(played(thens=(at,))).told) == 1


def test_a_backlog_of_one_partition_makes_no_false_alarm_and_shows_as_waiting():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            table.sides[0].through = 5 * HOUR
            table.sides[1].through = 0.0  # down, or hours behind
            await table.pass_by(5 * HOUR)
            assert table.told == []
            assert table.sides[0].waiting("0") == 0
            assert table.sides[0].waiting("1") == pytest.approx(4 * HOUR, abs=10)

            await table.note(event("Deployed", 1800, models="m:1"), side=1, enqueued=1800)
            await table.pass_by(through=5 * HOUR)
            assert table.told == []
            assert table.sides[0].waiting("1") == 0

    run(play())


def test_a_partition_that_does_not_know_how_far_it_is_says_nothing():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            table.sides[0].through, table.sides[1].through = 2 * HOUR, None
            await table.pass_by(2 * HOUR)
            assert (table.told, list(table.rows("clock"))) == ([], ["clock/0"])

    run(play())


def test_a_partition_says_no_more_than_what_its_stored_state_says():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            table.sides[1].may_save = False  # fenced, or the store is away
            await table.pass_by(60, through=2 * HOUR)
            assert (table.told, list(table.rows("clock"))) == ([], ["clock/0"])

    run(play())


def test_at_rest_nothing_is_written_and_nothing_but_the_list_is_asked():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR - 1)
            table.store.calls.clear()
            await table.pass_by(600)
            assert set(table.store.calls) == {"list_rows"}
            assert len(table.store.calls) <= 2 * 121
            assert sum(side.saves for side in table.sides) == 0

    run(play())


def test_each_partition_says_once_how_far_it_is_for_what_is_due():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            for number in range(5):
                await table.note(event("Registered", number, model=f"m:{number}"))
            await table.pass_by(through=2 * HOUR)
            assert len(table.told) == 5
            assert [side.saves for side in table.sides] == [1, 1]

    run(play())


def test_when_all_are_told_the_row_stays_for_a_while_and_is_then_deleted():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR + 1)
            (missed,) = table.told
            for side in table.sides:
                if missed in side.told:
                    side.done(missed)
            await table.pass_by()
            (mark,) = table.rows("correlation").values()
            assert mark.startswith("old/")

            await table.note(event("Registered", 0, model="m:1"))  # again, after a crash
            await table.pass_by(through=2 * HOUR)
            assert len(table.told) == 1
            await table.pass_by(through=4 * HOUR)
            assert (table.rows("correlation"), len(table.told)) == ({}, 1)

    run(play())


def test_whoever_takes_over_goes_on_telling_the_same_and_not_to_whom_it_was_told():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR + 1)
            (missed,) = table.told
            home = next(number for number, side in enumerate(table.sides) if side.told)
            missed.attempts = {"slow": 3}
            table.sides[home].done(missed, "quick")
            await table.pass_by()
            await table.kill(home)

            successor = table.begin(home)
            await table.pass_by()

            (again,) = successor.told
            assert (again.id, again.due, again.data) == (missed.id, missed.due, missed.data)
            assert (again.served, again.attempts, again.made_at) == ({"quick"}, {"slow": 3}, missed.made_at)
            await table.pass_by(60)
            assert len(successor.told) == 1

    run(play())


def test_a_late_first_event_is_not_watched_and_a_late_second_one_completes():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"), late_by_ms=5)
            assert (table.rows("correlation"), table.sides[0].count("not_watched_late")) == ({}, 1)
            await table.note(event("Registered", 1, model="m:1"))
            await table.note(event("Deployed", 2, models="m:1"), late_by_ms=5)
            await table.pass_by(through=2 * HOUR)
            assert table.told == []

    run(play())


def test_a_first_event_without_a_key_is_counted_and_a_second_one_meets_nothing():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, other=1))
            await table.note(event("Deployed", 0, models=" , "))
            assert (table.rows("correlation"), table.sides[0].count("not_watched_no_key")) == ({}, 1)

    run(play())


def test_keys_of_two_sources_are_two_unless_any_source_counts():
    anywhere = rule(
        name="anywhere",
        after={"includedEventTypes": ["Registered"]},
        then={"includedEventTypes": ["Deployed"]},
        correlate={"after": "{{ event.data.model }}", "then": "{{ event.data.models }}", "any_source": True},
        within="1h",
    )

    async def play() -> None:
        table = Table(DEPLOYED, anywhere)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.note(event("Deployed", 1, models="m:1", source="/elsewhere"))
            await table.pass_by(through=2 * HOUR)
            assert [missed.rule for missed in table.told] == ["model-is-deployed"]

    run(play())


def test_what_a_rule_left_that_is_gone_is_dropped_but_not_what_may_be_of_a_newer_configuration():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            for side in table.sides:
                side.rules = ()
            await table.pass_by(600, through=2 * HOUR)
            assert len(table.rows("correlation")) == 1
            await table.pass_by(400)
            assert (table.rows("correlation"), table.told) == ({}, [])
            assert sum(side.count("dropped") for side in table.sides) == 1

    run(play())


def test_what_is_being_told_is_told_to_its_end_though_its_rule_is_gone():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR + 1)
            home = next(number for number, side in enumerate(table.sides) if side.told)
            await table.kill(home)
            for side in table.sides:
                side.rules = ()
            successor = table.begin(home)
            await table.pass_by(2000)
            assert len(successor.told) == 1
            successor.done(successor.told[0])
            await table.pass_by(3000)
            assert table.rows("correlation") == {}

    run(play())


def test_beyond_so_many_rows_of_a_rule_first_events_are_not_watched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worker.noting._MOST_ROWS", 3)

    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.pass_by()
            for number in range(5):
                await table.note(event("Registered", number, model=f"m:{number}"))
            assert len(table.rows("correlation")) == 3
            assert table.sides[0].count("not_watched_full") == 2
            await table.note(event("Deployed", 7, models="m:0"))  # one that is there is met all the same
            assert table.sides[0].count("met") == 1

    run(play())


def test_an_event_of_several_keys_that_is_of_both_kinds_meets_others_and_begins_its_own():
    both = rule(
        name="chain",
        after={"includedEventTypes": ["Step"]},
        then={"includedEventTypes": ["Step"]},
        correlate={"after": "{{ event.data.next }}", "then": "{{ event.data.this }}"},
        within="1h",
    )

    async def play() -> None:
        table = Table(both)
        async with table.open():
            await table.note(event("Step", 0, this="a", next="b"))
            await table.note(event("Step", 1, this="b", next="b"))
            await table.pass_by(through=2 * HOUR)
            assert [(missed.key, missed.data["after"]["id"]) for missed in table.told] == [("b", "Step-1")]

    run(play())


def test_a_row_of_another_version_is_passed_over_and_the_rest_is_told():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.store.write_row(
                "correlation/model-is-deployed.00", b'{"format":9}', mark=f"due/{START + 5}", expected=None
            )
            await table.pass_by(through=2 * HOUR)
            assert len(table.told) == 1

    run(play())


def test_homes_are_spread_over_the_partitions():
    table = Table(DEPLOYED, partitions=4)
    homes = {table.sides[0].board.home(correlations.row_name("rule", "", str(number))) for number in range(100)}

    assert homes == {PartitionId(str(number)) for number in range(4)}


def test_of_an_event_with_very_many_keys_some_are_noted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worker.noting._MOST_KEYS", 3)

    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Deployed", 0, models=",".join(map(str, range(50)))))
            assert len(table.rows("correlation")) == 3

    run(play())


def test_what_a_partition_told_that_the_hub_does_not_have_any_more_another_one_tells_to_its_end():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR + 1)
            (home,) = (number for number, side in enumerate(table.sides) if side.told)
            await table.kill(home)
            table.partitions.remove(PartitionId(str(home)))
            await table.pass_by(30)
            other = table.sides[1 - home]
            assert len(other.told) == 1
            other.done(other.told[0])
            await table.pass_by()
            assert all(mark.startswith("old/") for mark in table.rows("correlation").values())

    run(play())


def test_a_key_that_nobody_can_read_is_told_as_its_digest():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="x" * 5000))
            await table.pass_by(through=HOUR + 1)
            (missed,) = table.told
            assert len(missed.key) == len(missed.data["key"]) == 16

    run(play())


def test_who_is_told_while_a_row_is_being_written_is_written_the_next_time():
    class Slow(MemoryStore):
        async def _answered(self, name: str) -> None:
            if name == "write_row":
                await asyncio.sleep(1)

    async def play() -> None:
        table = Table(DEPLOYED, store=Slow())
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(30, through=HOUR + 1)
            (missed,) = table.told
            (home,) = (number for number, side in enumerate(table.sides) if side.told)
            table.sides[home].done(missed, "quick")
            await asyncio.sleep(0.5)
            table.sides[home].done(missed, "meanwhile")
            await table.pass_by()
            await table.kill(home)
            successor = table.begin(home)
            await table.pass_by()
            assert [each.served for each in successor.told] == [{"quick", "meanwhile"}]

    run(play())


def test_a_former_owners_last_word_does_not_end_what_is_told_next():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(through=HOUR + 1)
            (missed,) = table.told
            (home,) = (number for number, side in enumerate(table.sides) if side.told)
            former = table.sides[home]
            await table.kill(home)  # or frozen: it has told everybody, and not written it
            successor = table.begin(home)
            await table.pass_by()
            (again,) = successor.told
            former.overdue.settled(missed)
            await former.overdue.write(None)
            await table.note(event("Registered", 2 * HOUR, model="m:1"), enqueued=2 * HOUR)
            await table.pass_by(through=3 * HOUR + 1)
            assert [each.due for each in successor.told] == [START + HOUR, START + 3 * HOUR]
            successor.done(again)
            await table.pass_by()
            assert list(table.rows("correlation").values()) == [f"telling/{home}"]

    run(play())


def test_rows_that_another_home_does_not_delete_keep_nobody_from_deleting_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worker.overdue._OLD_AT_ONCE", 2)

    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            names = {}
            for number in range(12):
                await table.note(event("Deployed", number, models=f"m:{number}"))
                names = table.rows("correlation")
            homes = {name: table.sides[0].board.home(name) for name in names}
            await table.pass_by()
            stuck = str(next(iter(homes.values())))
            await table.kill(int(stuck))
            clock = table.sides[int(stuck)].overdue
            for side in table.sides:
                side.through = 4 * HOUR
            await clock._publish()  # it was through, and died since
            await table.pass_by(60)
            assert {homes[name] for name in table.rows("correlation")} == {PartitionId(stuck)}

    run(play())


def test_while_as_many_are_told_as_may_be_what_nobody_needs_is_deleted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worker.overdue._AT_ONCE", 1)

    async def play() -> None:
        table = Table(DEPLOYED, partitions=1)
        async with table.open():
            await table.note(event("Deployed", 0, models="m:9"))
            for number in range(3):
                await table.note(event("Registered", number, model=f"m:{number}"))
            await table.pass_by(60, through=5 * HOUR)
            assert len(table.told) == 1
            assert sorted(mark.partition("/")[0] for mark in table.rows("correlation").values()) == [
                "due",
                "due",
                "telling",
            ]

    run(play())


def test_what_is_pending_of_a_rule_that_has_become_one_on_silence_is_dropped_and_not_told():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            for side in table.sides:
                side.rules = (rule(name="model-is-deployed", sources=[SOURCE], every="9h"),)
            await table.pass_by(60, through=HOUR + 1)
            assert table.told == []
            await table.pass_by(1000)
            assert (table.told, table.rows("correlation")) == ([], {})

    run(play())


def test_when_the_rules_are_gone_nothing_is_said_to_wait_or_to_be_there():
    async def play() -> None:
        table = Table(DEPLOYED)
        async with table.open():
            await table.note(event("Registered", 0, model="m:1"))
            await table.pass_by(3 * HOUR)
            rows = ("worker_expectations_rows", {"rule": "model-is-deployed"})
            for side in table.sides:
                assert side.waiting("0") > 0
                assert side.metrics.registry.get_sample_value(*rows) == 1
                side.rules = ()
            await table.pass_by(1000)
            for side in table.sides:
                assert (side.waiting("0"), side.waiting("1")) == (0, 0)
                assert side.metrics.registry.get_sample_value(*rows) is None
            table.store.calls.clear()
            await table.pass_by(1000)
            assert table.store.calls == []

    run(play())


DAY = 24 * HOUR


async def requests_of_a_day(*rules: ExpectRule, life: str = "") -> Counter[str]:
    """Of two processes with a partition each; `life`: a source has a sign of life every ten minutes."""
    table = Table(*rules)
    async with table.open():
        for _ in range(6 * 24):
            now = table.clock() - START
            if life:
                table.sides[0].signs.see(life, START + now)
            await table.pass_by(600, through=now)
        table.store.calls += ["write_state"] * sum(side.saves for side in table.sides)
        return Counter(table.store.calls)


def test_without_such_rules_the_table_costs_each_process_one_request():
    assert run(requests_of_a_day()) == {"list_rows": 2}


def test_with_rules_and_nothing_pending_the_table_costs_a_list_every_five_seconds():
    assert run(requests_of_a_day(DEPLOYED)) == {"list_rows": pytest.approx(2 * DAY / 5, rel=0.01)}


def test_a_source_that_lives_costs_besides_some_requests_each_time_it_would_be_silent():
    spent = run(requests_of_a_day(SILENT, life=row_name("silent", SOURCE_FOLDED)))

    assert spent.pop("list_rows") == pytest.approx(2 * DAY / 5, rel=0.01)
    # Each time (once an hour and ten minutes at most): two partitions say how far they are, and the row moves on.
    assert spent.total() <= 24 * (2 * 2 + 2 + 2) + 4
    assert spent["write_state"] <= 2 * 25
