"""Silent sources, at the shared table: signs of life of all partitions, told once, and again only after life."""

from tests.pipeline.table import SILENT, SOURCE, START, Table, rule
from tests.virtual_time import run
from worker.silences import row_name

HOUR = 3600.0
ROW = row_name("silent", "/subscriptions/s/workspaces/prod")


def test_a_source_is_told_silent_once_and_again_only_after_life_was_seen():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by()
            assert list(table.rows("silence")) == [ROW]  # it begins when the rule is first seen
            table.sides[0].signs.see(ROW, START + 1800)
            table.sides[1].signs.see(ROW, START + 900)
            await table.pass_by(through=HOUR + 60)
            assert table.told == []  # it was alive since

            await table.pass_by(through=1800 + HOUR + 60)
            (missed,) = table.told
            assert (missed.due, missed.key) == (START + 1800 + HOUR, SOURCE)
            assert missed.data == {"every": "1h", "source": SOURCE, "last_seen": "2023-11-14T22:43:20.0000000Z"}
            next(side for side in table.sides if side.told).done(missed)

            await table.pass_by(60, through=9 * HOUR)
            assert len(table.told) == 1

            table.sides[1].signs.see(ROW, START + 10 * HOUR)
            await table.pass_by(through=10 * HOUR + 60)
            assert len(table.told) == 1
            await table.pass_by(through=11 * HOUR + 60)
            assert [each.due for each in table.told] == [missed.due, START + 11 * HOUR]

    run(play())


def test_a_source_that_never_said_anything_is_told_from_when_the_rule_was_first_seen():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by(through=HOUR + 60)
            (missed,) = table.told
            assert missed.data["last_seen"] is None

    run(play())


def test_at_rest_nothing_is_written():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by()
            table.store.calls.clear()
            for number in range(60):
                table.sides[0].signs.see(ROW, START + 10 * number)
                await table.pass_by(10, through=10 * number)
            assert set(table.store.calls) == {"list_rows"}

    run(play())


def test_a_silence_that_is_told_is_not_told_anew_by_whoever_takes_over():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by(through=HOUR + 60)
            (missed,) = table.told
            home = next(number for number, side in enumerate(table.sides) if side.told)
            await table.kill(home)
            successor = table.begin(home)
            await table.pass_by()
            assert [each.id for each in successor.told] == [missed.id]
            successor.done(successor.told[0])
            await table.pass_by()
            await table.kill(home)
            last = table.begin(home)
            await table.pass_by(60, through=3 * HOUR)
            assert last.told == []

    run(play())


def test_life_that_is_seen_while_the_silence_is_told_ends_it():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by(through=HOUR + 60)
            (missed,) = table.told
            table.sides[0].signs.see(ROW, START + HOUR + 30)
            await table.pass_by(through=HOUR + 90)
            next(side for side in table.sides if side.told).done(missed)
            await table.pass_by(60, through=HOUR + 120)
            assert table.rows("silence")[ROW] == f"due/{START + 2 * HOUR + 30!r}"

    run(play())


def test_another_length_counts_from_the_same_sign_of_life():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by()
            for side in table.sides:
                side.rules = (rule(name="silent", sources=[SOURCE], every="10m"),)
            await table.pass_by(30, through=700)
            (missed,) = table.told
            assert missed.data["every"] == "10m"

    run(play())


def test_a_source_that_is_not_listed_any_more_is_forgotten():
    async def play() -> None:
        table = Table(SILENT)
        async with table.open():
            await table.pass_by()
            for side in table.sides:
                side.rules = (rule(name="silent", sources=["/other"], every="1h"),)
            await table.pass_by(1000)
            assert list(table.rows("silence")) == [row_name("silent", "/other")]

    run(play())
