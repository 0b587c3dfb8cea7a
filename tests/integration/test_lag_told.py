"""What a real worker tells of itself at a real hub, over HTTP."""

from pathlib import Path

from tests.integration.scene import PARTITIONS, Scene, scene, traffic
from tests.support import eventually


async def lags(stage: Scene, name: str) -> list[float]:
    samples = await stage.metrics("one")
    return [value for sample, value in samples.items() if sample.startswith(name)]


async def test_the_lag_of_every_partition_is_known_though_nothing_was_ever_sent(tmp_path: Path):
    async with scene(tmp_path) as stage:
        worker = await stage.start_worker("one")

        async def known() -> bool:
            return len(await lags(stage, "worker_lag_seconds")) == PARTITIONS

        await eventually(known, 60)
        assert await lags(stage, "worker_lag_events") == await lags(stage, "worker_lag_seconds") == [0.0] * PARTITIONS
        samples = await stage.metrics("one")
        await stage.family.stop([worker])
    assert samples["worker_hub_partitions[]"] == samples["worker_partitions_owned[]"] == PARTITIONS
    assert samples["worker_hub_requests_total['ok', 'partition_properties']"] >= PARTITIONS
    assert samples["worker_store_requests_total['ok', 'write']"] > PARTITIONS
    assert samples["worker_source_retention_seconds[]"] == 24 * 3600


async def test_what_is_held_is_lag_message_by_message(tmp_path: Path):
    messages = traffic(300, seed=7)
    async with scene(tmp_path) as stage:
        await stage.send(messages, rate=2000)
        worker = await stage.start_worker("one", order={"window_seconds": 3600})

        async def held() -> bool:
            return sum(await lags(stage, "worker_held_events")) > 200

        await eventually(held, 60)
        events, seconds = await lags(stage, "worker_lag_events"), await lags(stage, "worker_lag_seconds")
        await stage.family.stop([worker])
    assert 200 < sum(events) <= len(messages)
    assert min(seconds) > 0
