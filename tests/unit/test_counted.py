"""What is asked is counted by how it ended; what the hub is asked too."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from worker.config import OrderSettings, SourceSettings, WorkerSettings
from worker.counted import counted
from worker.errors import Conflict, HubUnavailable, StoreUnavailable
from worker.events import PartitionId
from worker.hub import Hub
from worker.metrics import Metrics


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (Conflict("other"), "conflict"),
        (StoreUnavailable("away"), "failed"),
        (TimeoutError(), "no_answer"),
        (asyncio.CancelledError(), "no_answer"),
    ],
)
def test_a_request_is_counted_once_and_its_error_goes_on(error: BaseException | None, outcome: str):
    seen: list[tuple[str, str]] = []

    def ask() -> None:
        with counted(lambda *each: seen.append(each), "read"):
            if error is not None:
                raise error

    if error is None:
        ask()
    else:
        with pytest.raises(type(error)):
            ask()
    assert seen == [("read", outcome)]


class FakeClient:
    """Answers questions about partitions; "1" breaks."""

    async def get_partition_properties(self, partition: str) -> dict[str, Any]:
        if partition == "1":
            raise OSError("connection reset")
        return {
            "last_enqueued_sequence_number": 7,
            "last_enqueued_time_utc": datetime(2026, 1, 1, tzinfo=UTC),
            "is_empty": False,
        }

    async def get_eventhub_properties(self) -> dict[str, Any]:
        return {"created_at": datetime(2026, 1, 1, tzinfo=UTC), "partition_ids": ["0", "1"]}

    async def close(self) -> None:
        pass


class CountedHub(Hub):
    """The worker's own, with that client."""

    def connect(self, *_: Any, **__: Any) -> Any:
        return FakeClient()


def test_questions_to_the_hub_are_counted():
    metrics = Metrics()
    settings = SourceSettings(namespace="n.servicebus.windows.net", hub="h")
    hub = CountedHub(settings, None, count=metrics.hub_request)

    async def scene() -> None:
        await hub.identify()
        await hub.ends([PartitionId("0")])
        with pytest.raises(HubUnavailable):
            await hub.ends([PartitionId("0"), PartitionId("1")])

    asyncio.run(scene())

    def asked(operation: str, outcome: str) -> float | None:
        labels = {"operation": operation, "outcome": outcome}
        return metrics.registry.get_sample_value("worker_hub_requests_total", labels)

    assert asked("hub_properties", "ok") == 1
    assert asked("partition_properties", "ok") == 2
    assert asked("partition_properties", "failed") == 1


@pytest.mark.parametrize(("window", "target"), [("auto", 0.01), (5, 0.01), (0, 1)])
def test_what_alerts_compare_with_is_as_configured(window: Any, target: float):
    metrics = Metrics()
    settings: WorkerSettings = SimpleNamespace(  # only what it looks at
        source=SourceSettings(namespace="n.servicebus.windows.net", hub="h", retention_hours=48),
        order=OrderSettings(window_seconds=window, late_target=0.01),
    )
    metrics.describe(settings)
    assert metrics.registry.get_sample_value("worker_source_retention_seconds") == 48 * 3600
    assert metrics.registry.get_sample_value("worker_order_late_target") == target
