"""What the tests of digests share: settings of quiet sinks, runs of events, and what was told."""

from tests.pipeline.stage import Stage, blob_event, message
from worker.claim import Claim
from worker.events import Message
from worker.sinks import Delivery

GROUPED = {"out": {"group_by": [], "group_wait_seconds": 10, "group_interval_seconds": 60}}


def told(delivery: Delivery) -> list[str]:
    """The ids of the events that a delivery tells of."""
    event = delivery.released.placed.event
    return [row["id"] for row in event.data["events"]] if event.type == "Worker.Digest" else [event.id]


def all_told(stage: Stage, sink: str = "out") -> list[str]:
    return [each for delivery in stage.sinks[sink].accepted for each in told(delivery)]


AT_ONCE = {"out": {"group_by": [], "group_wait_seconds": 0, "group_interval_seconds": 1}}


def run_of(count: int, *, first: int = 0) -> list[Message]:
    return [message(number, blob_event(f"s{number}", 1)) for number in range(first, first + count)]


async def begin(stage: Stage, claimant: str = "first", *messages: Message) -> Claim:
    claim = await stage.begin(claimant)
    if messages:
        await stage.play(claim, *messages)
    return claim
