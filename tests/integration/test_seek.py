"""`worker seek` and `worker lag` beside real workers: what is read again comes once more, and nothing else happens."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.integration.commands import command
from tests.integration.scene import HUB, PARTITIONS, Scene, scene, traffic
from tests.support import eventually
from worker.config import SourceSettings
from worker.hub import Hub
from worker.local.traffic import TrafficMessage
from worker.overview import overview

EVENTS = 80


def with_ledger(stage: Scene) -> None:
    """The file takes what comes; the webhook has a ledger."""
    stage.routing = {
        "sinks": [
            {"name": "audit", "kind": "file", "path": "../audit.jsonl"},
            {"name": "out", "kind": "webhook", "url": stage.url, "concurrency": 32, "on_unknown": "resend"},
        ],
        "routes": [{"name": "everything", "sinks": ["audit", "out"]}],
    }


def some(seed: int, count: int = EVENTS) -> list[TrafficMessage]:
    return traffic(count, seed=seed, malformed=0)


def ids(messages: Sequence[TrafficMessage]) -> set[str]:
    return {event.id for message in messages for event in message.events}


def came(stage: Scene, sink: str) -> Counter[str]:
    """How often each event has come there."""
    stage._audit.read()
    return Counter(arrival.event_id for arrival in stage.records[sink].arrivals)


async def until_read(stage: Scene) -> None:
    """Nothing waits in the hub any more."""
    file = stage.folder / "connection"
    file.write_text(stage.connection_string)
    hub = Hub(SourceSettings(connection_string_file=file, hub=HUB), None)

    async def read() -> bool:
        async with stage.store() as store:
            views = await overview(hub, store, expiry_seconds=6, now=time.time())
        return all(view.lag_events == 0 for view in views)

    await eventually(read, 60)


async def test_what_is_sought_comes_once_more_and_to_a_sink_with_a_ledger_where_that_is_wished(
    tmp_path: Path, azurite: str
):
    messages = some(1)
    once = Counter(ids(messages))
    async with scene(tmp_path, azurite) as stage:
        with_ledger(stage)
        first = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(messages)
        await stage.until_delivered(messages)
        await until_read(stage)

        refused = await command(stage, "one", "seek", "--to", "earliest", "--yes", azurite=azurite)
        assert refused.code == 1
        assert "--force" in refused.err
        [owner] = {row["owner"] for row in (await command(stage, "one", "lag", "--json", azurite=azurite)).rows}
        assert f"partition 0: {owner}" in refused.err
        await stage.family.stop([first])
        assert came(stage, "audit") == came(stage, "out") == once, "a refusal changes nothing"

        moved = await command(stage, "one", "seek", "--to", "earliest", "--yes", "--json", azurite=azurite)
        assert (moved.code, [row["outcome"] for row in moved.rows]) == (0, ["moved"] * PARTITIONS), moved.err
        waiting = (await command(stage, "one", "lag", "--json", azurite=azurite)).rows
        assert sum(row["lag_events"] for row in waiting) == len(messages)
        assert {(row["owner"], row["checkpoint"]) for row in waiting} == {(None, -1)}
        second = await stage.start_worker("two")
        await until_read(stage)
        await stage.family.stop([second])
        assert (came(stage, "audit"), came(stage, "out")) == (once + once, once)

        assert (await command(stage, "one", "seek", "--to", "0", "--again", "--yes", azurite=azurite)).code == 0
        third = await stage.start_worker("three")
        await until_read(stage)
        await stage.family.stop([third])
    assert (came(stage, "audit"), came(stage, "out")) == (once + once + once, once + once)


async def test_a_live_worker_drains_and_goes_on_from_a_time_and_what_is_passed_over_never_comes(tmp_path: Path):
    before, after, skipped, last = some(2), some(3), some(4), some(5)
    async with scene(tmp_path) as stage:
        with_ledger(stage)
        one = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(before)
        await stage.until_delivered(before)
        await until_read(stage)
        middle = datetime.now(UTC).isoformat()
        await stage.send(after)
        await stage.until_delivered([*before, *after])

        shown = await command(stage, "one", "seek", "--to", middle, "--force", "--dry-run")
        assert (shown.code, "not looked for" in shown.out) == (0, True)
        moved = await command(stage, "one", "seek", "--to", middle, "--force", "--yes")
        assert moved.code == 0, moved.err

        async def all_twice() -> bool:
            return all(came(stage, "audit")[each] == 2 for each in ids(after))

        await eventually(all_twice, 60)
        await until_read(stage)
        await stage.family.stop([one])
        expected = Counter({**dict.fromkeys(ids(before), 1), **dict.fromkeys(ids(after), 2)})
        assert (came(stage, "audit"), came(stage, "out")) == (expected, Counter(ids(before) | ids(after)))

        await stage.send(skipped)
        passed = await command(stage, "one", "seek", "--to", "latest", "--yes")
        assert (passed.code, "passed over" in passed.out) == (0, True)
        await until_read(stage)
        await stage.send(last)
        two = await stage.start_worker("two")
        await until_read(stage)
        await stage.family.stop([two])
    assert came(stage, "audit") == expected + Counter(ids(last))
