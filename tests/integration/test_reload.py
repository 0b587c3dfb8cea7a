"""Rules that change under a real worker: files as Kubernetes mounts them, signals, and ten exchanges under load."""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.scene import Scene, scene, traffic
from tests.support import eventually
from worker.local.children import Child
from worker.local.receiver import AuditTail, Record
from worker.local.traffic import TrafficEvent
from worker.local.verdict import Arrival, judge

SWAPS = 10
SOME = "experiments/4c1a0000-0000-4000-8000-000000000002/"
"""What a part of the subjects begins with."""
EVENTS = int(os.environ.get("RELOAD_EVENTS", "40000" if os.environ.get("CI") == "true" else "20000"))
"""RELOAD_EVENTS=100000 plays the long form: a minute and a half of processor time, and CI has a quarter of an hour."""
RATE = 2_000 if EVENTS > 30_000 else 400
"""Messages a second: slow enough for ten exchanges while they come."""
LOOK_SECONDS = 0.2
"""Metrics cost whoever writes them and whoever reads them: asked for without a pause, more than the events do."""


def rules(*sinks: str, **keys: Any) -> str:
    """Every event to each of these files."""
    configured = [{"name": name, "kind": "file", "path": f"../{name}.jsonl", **keys} for name in sinks]
    return yaml.safe_dump({"sinks": configured, "routes": [{"name": "all", "sinks": list(sinks)}]})


async def reloads(stage: Scene, outcome: str) -> float:
    return (await stage.metrics("one")).get(f"worker_config_reloads_total['{outcome}']", 0)


async def until_reloaded(stage: Scene, outcome: str, times: int) -> None:
    async def reloaded() -> bool:
        return await reloads(stage, outcome) >= times

    await eventually(reloaded, 30, every_seconds=LOOK_SECONDS)


def written(stage: Scene, name: str) -> list[Arrival]:
    record = Record()
    AuditTail(record, stage.folder / f"{name}.jsonl").read()
    return record.arrivals


async def until_written(stage: Scene, name: str, count: int) -> None:
    await eventually(lambda: len(written(stage, name)) >= count, 60)


async def test_a_config_map_that_changes_is_in_force_and_a_bad_one_is_refused_and_said(tmp_path: Path):
    messages = traffic(60, seed=1, duplicates=0, malformed=0)
    async with scene(tmp_path) as stage:
        stage.config_map = True
        stage.routing = yaml.safe_load(rules("before"))
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(messages[:20])
        await until_written(stage, "before", len({each.id for one in messages[:20] for each in one.events}))

        stage.exchange_rules("one", rules("after"))
        await until_reloaded(stage, "applied", 1)
        await stage.send(messages[20:40])
        await until_written(stage, "after", len({each.id for one in messages[20:40] for each in one.events}))

        stage.exchange_rules("one", rules("after", concurrency="many") + "\nroots: []\n")
        await until_reloaded(stage, "refused", 1)
        assert (await stage.metrics("one"))["worker_config_last_reload_successful[]"] == 0
        said = await stage.readiness("one")
        assert said["ready"] is True
        assert "reload refused" in said["notes"]["rules"]
        assert "routes.yaml:" in said["notes"]["rules"]
        log = worker.log.read_text()
        assert "sinks[0].concurrency" in log
        assert "roots" in log
        await stage.send(messages[40:])
        await until_written(stage, "after", len({each.id for one in messages[20:] for each in one.events}))

        stage.exchange_rules("one", rules("after"))
        await until_reloaded(stage, "applied", 2)
        assert (await stage.metrics("one"))["worker_config_last_reload_successful[]"] == 1
        assert "refused" not in (await stage.readiness("one"))["notes"]["rules"]
        await stage.family.stop([worker])
        before, after = ({each.event_id for each in written(stage, name)} for name in ("before", "after"))
    assert before == {each.id for one in messages[:20] for each in one.events}
    assert after == {each.id for one in messages[20:] for each in one.events}


async def test_the_signal_reloads_at_once_and_never_ends_the_process(tmp_path: Path):
    async with scene(tmp_path) as stage:
        stage.routing = yaml.safe_load(rules("out"))
        worker = await stage.start_worker("one")
        async with asyncio.timeout(30):
            while "started" not in worker.log.read_text():  # from as soon as Python has begun
                if _hears_of_hangups(worker):
                    worker.process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.005)
        await stage.until_shared("one")
        already = await reloads(stage, "applied")
        worker.process.send_signal(signal.SIGHUP)
        await until_reloaded(stage, "applied", int(already) + 1)
        # The first sink that logs in with the identity of the process: it has none until now.
        archive = {"name": "archive", "kind": "blob", "account_url": "https://nobody.blob.core.windows.net"}
        more = yaml.safe_load(rules("out"))
        more["sinks"].append({**archive, "container": "events", "mode": "events"})
        stage.exchange_rules("one", yaml.safe_dump(more))
        # In force, and what `worker check` would say of it.
        await eventually(lambda: '"sinks_added":["archive"]' in worker.log.read_text().replace(" ", ""), 20)
        await eventually(lambda: "no route names" in worker.log.read_text(), 20)
        worker.terminate()
        worker.process.send_signal(signal.SIGHUP)
        assert await worker.ended() == 0


def _hears_of_hangups(worker: Child) -> bool:
    """Whether the process has come so far that it does something about SIGHUP."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt")))
    return any(int(mask, 16) & 1 << (signal.SIGHUP - 1) for mask in masks.values())


@pytest.mark.timeout(600)
async def test_ten_exchanges_under_load_lose_double_and_overtake_nothing(tmp_path: Path):
    """Each version of the rules has a sink of its own, so that it can be seen by which one an event went.

    A part of the subjects goes to a sink that stays, too, and is configured anew each time.
    """
    messages = traffic(EVENTS, seed=3, duplicates=1, malformed=0.01, arrays=50)
    versions = [f"v{number}" for number in range(SWAPS + 1)]
    async with scene(tmp_path) as stage:
        stage.routing = yaml.safe_load(_version(0))
        sending = asyncio.create_task(stage.send(messages, rate=RATE))
        # Little enough in flight for a sink that is removed to have had it all when its drain ends.
        worker = await stage.start_worker("one", limits={"in_flight": 200, "drain_seconds": 20})
        for number in range(1, SWAPS + 1):
            await _until_settled(stage, number * EVENTS // (SWAPS + 4))
            stage.exchange_rules("one", _version(number))
            if number % 4:  # the others are noticed, which takes a little longer
                worker.process.send_signal(signal.SIGHUP)
            await until_reloaded(stage, "applied", number)
        at_last_swap = await _settled(stage)
        events = {event.id: event for message in messages for event in message.events}
        assert at_last_swap < len(events)
        await sending
        await _until_settled(stage, len(events))
        await stage.family.stop([worker])
        letters = await stage.letters()
        arrivals = {name: written(stage, name) for name in ("some", *versions)}
    assert [letter for letter in letters if letter.sink is not None] == []
    by_version = {each.event_id: name for name in versions for each in arrivals[name]}
    assert min(Counter(by_version.values())[name] for name in versions) > 0  # each was in force for a while

    def expected(event: TrafficEvent) -> list[str]:
        version = by_version.get(event.id, "nowhere")
        return [version, "some"] if event.subject.startswith(SOME) else [version]

    verdict = judge(messages, expected, {**arrivals, "nowhere": []}, letters)
    for sink in verdict.sinks:
        faults = (sink.missing, sink.unexpected, sink.out_of_order, sink.wrongly_late, sink.doubled)
        assert faults == (0, 0, 0, 0, 0), sink
    delivered = {sink.sink: sink.delivered for sink in verdict.sinks}
    assert delivered.pop("some") > len(events) / 10
    assert sum(delivered.values()) == len(events)
    assert verdict.malformed == verdict.malformed_kept
    _judge_versions(events, by_version, {each.event_id for name in versions for each in arrivals[name] if each.late})


def _version(number: int) -> str:
    """Rules with a sink of their own, and one that stays."""
    content = yaml.safe_load(rules(f"v{number}", "some", concurrency=8 + 8 * (number % 2)))
    filters = {f"v{number}": {}, "some": {"filter": {"subjectBeginsWith": SOME}}}
    content["routes"] = [{"name": name, "sinks": [name], **filter_} for name, filter_ in filters.items()]
    return yaml.safe_dump(content)


def _judge_versions(events: dict[str, TrafficEvent], by_version: dict[str, str], late: set[str]) -> None:
    """Once the rules were exchanged, no later event of a subject goes by the ones before."""
    of_subject: dict[str, list[TrafficEvent]] = defaultdict(list)
    for event in events.values():
        if event.id not in late:
            of_subject[event.subject].append(event)
    for line in of_subject.values():
        went = [int(by_version[event.id][1:]) for event in sorted(line, key=lambda event: event.index)]
        assert went == sorted(went)


async def _settled(stage: Scene) -> float:
    samples = await stage.metrics("one")
    return sum(
        value
        for name, value in samples.items()
        if name.startswith("worker_settled_events_total") and "'delivered'" in name
    )


async def _until_settled(stage: Scene, count: int) -> None:
    async def settled() -> bool:
        return await _settled(stage) >= count

    await eventually(settled, 500, every_seconds=LOOK_SECONDS)
