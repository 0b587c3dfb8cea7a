"""The partition state object, to and from bytes: what one generation leaves for the next. No I/O.

It stands beside the checkpoint, is written as a whole, conditionally, and doubles as the mailbox in which a new owner
asks the present one for the partition.
"""

from dataclasses import dataclass, field

import orjson

from worker.duplicates import SettledKey
from worker.errors import WorkerError
from worker.events import Position, UnixSeconds
from worker.progress import SavedProgress, Watermark

FORMAT = 1


class StateFormatUnknown(WorkerError):
    """The state was written by a newer version of the worker, or by something else."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What is known of a partition."""

    generation: int
    """Grows with every take. Whose number is lower is a former owner."""
    owner: str
    """Name of the process and claim that wrote this generation; for people and for the log."""
    request: str | None = None
    """Name of the claim that asks for the partition."""
    acknowledged: str | None = None
    """The request that the owner has seen: it has stopped starting deliveries and is draining."""
    released: bool = False
    """Nothing of this generation runs any more: whoever asks may take it at once."""
    progress: SavedProgress | None = None
    """The watermark, what is unsettled up to the highest number read, and who was served: `Progress.snapshot`."""
    recent: list[SettledKey] = field(default_factory=list)
    """Settled events by which re-sent ones are recognised: `Duplicates.settled_keys`."""

    @property
    def watermark(self) -> Watermark | None:
        """The last message with nothing unsettled at or before it."""
        saved = self.progress["watermark"] if self.progress else None
        return Watermark(*saved) if saved else None


def encode(state: PartitionState) -> bytes:
    """The state as JSON."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "generation": state.generation,
            "owner": state.owner,
            "request": state.request,
            "acknowledged": state.acknowledged,
            "released": state.released,
            "progress": state.progress,
            "recent": [
                [key.hex(), digest, *position, seen_at, int(variant)]
                for key, digest, position, seen_at, variant in state.recent
            ],
        }
    )


def decode(payload: bytes) -> PartitionState:
    """The state in these bytes. Raises StateFormatUnknown: what cannot be read is never taken for an empty state."""
    try:
        content = orjson.loads(payload)
        written_by = content["format"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise StateFormatUnknown(
            "The partition state is not the worker's: is the store shared with something else?"
        ) from None
    if written_by != FORMAT:
        raise StateFormatUnknown(
            f"The partition state has format {written_by}, this version reads {FORMAT}: run the version that wrote it."
        )
    return PartitionState(
        generation=content["generation"],
        owner=content["owner"],
        request=content["request"],
        acknowledged=content["acknowledged"],
        released=content["released"],
        progress=content["progress"],
        recent=[
            SettledKey(bytes.fromhex(key), digest, Position(number, element), UnixSeconds(seen_at), bool(variant))
            for key, digest, number, element, seen_at, variant in content["recent"]
        ],
    )
