"""The partition state object, to and from bytes: what one generation leaves for the next. No I/O.

It stands beside the checkpoint, is written as a whole, conditionally, and doubles as the mailbox in which a new owner
asks the present one for the partition. What grows with the number of subjects is in the memory beside it: the state
names the parts that count, and holds what came since.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from worker import memory
from worker.duplicates import SettledKey
from worker.errors import StateFormatUnknown
from worker.events import Position, UnixSeconds
from worker.progress import SavedProgress, Watermark

FORMAT = 5
"""A format that is not read is refused with a sentence; earlier ones are read: a rolling update meets them. 3 is
written only while something waits in a digest, 4 only while an expectation is pending or missed, so that whoever has
neither may go back to the version before; 5 when bits say which of them are gone: whoever knows no bits would take them
for pending."""
_WITH_EXPECTATIONS = 4
_WITH_DIGESTS = 3
_WITHOUT_DIGESTS = 2


class HubIdentity(NamedTuple):
    """Which hub the sequence numbers are of. Another one counts from the beginning again."""

    created_at: str
    """ISO 8601, as the hub gives it."""
    epoch: int
    """x-opt-sequence-number-epoch: -1, and another number after a fail-over of a geo-replicated namespace."""


class LateVerdict(NamedTuple):
    """An unsettled event that was found late: it stays that when it is read again, and others do not become it."""

    position: Position
    late_by_ms: int


class Attempted(NamedTuple):
    """A delivery that was tried and is not settled."""

    position: Position
    sink: str
    attempts: int
    first_at: UnixSeconds


class Suspect(NamedTuple):
    """A message that was being worked on when a process died, and how many times in a row."""

    sequence_number: int
    deaths: int


class Again(NamedTuple):
    """Messages that are to have their effects a second time (`worker seek --again`)."""

    wish: str
    """Name of the wish: what was done for it is not done once more."""
    through: int
    """The last message that it is about; the first one is where the partition was put then."""


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
    hub: HubIdentity | None = None
    """None until it was learnt."""
    stopped: str | None = None
    """Why nothing is read until an operator or a new configuration says otherwise."""
    stopped_under: str = ""
    """Digest of the configuration under which it stopped."""
    progress: SavedProgress | None = None
    """The watermark, what is unsettled up to the highest number read, and who was served: `Progress.snapshot`."""
    late: list[LateVerdict] = field(default_factory=list)
    variants: list[Position] = field(default_factory=list)
    """Unsettled events that equal an earlier one in everything but `data`: their keys stay those of a variant."""
    attempts: list[Attempted] = field(default_factory=list)
    deaths: int = 0
    """How many generations in a row have ended without a word and without moving the watermark."""
    deaths_at: int | None = None
    """Where the watermark was when the last of them ended."""
    marked: list[int] = field(default_factory=list)
    """Messages that are being worked on right now: written only while the worker is careful (`caution`)."""
    suspects: list[Suspect] = field(default_factory=list)
    memory_parts: list[str] = field(default_factory=list)
    """The parts of the memory that count, oldest first."""
    memory_since: dict[str, Any] = field(default_factory=dict)
    """What has come to the memory since the last of them: a part's content."""
    values_from: int | None = None
    """The generation from which on every delivery was compared with what `changed` remembers: values that an earlier
    one wrote do not count, for a version that knows nothing of them may have delivered since. None: none count."""
    digests: dict[str, Any] = field(default_factory=dict)
    """The groups of events that are told together, and where their members are: `shelf`. Empty: there are none."""
    expectations: dict[str, Any] = field(default_factory=dict)
    """What is pending or missed of the expectations over one subject, and where its rows are: `shelf`. Empty: nothing
    is."""

    disorder: dict[str, Any] = field(default_factory=dict)
    """What the window `auto` has learnt: `AutoWindow.snapshot`. Not in every state; versions before it pass over it."""
    signs: dict[str, float] = field(default_factory=dict)
    """The last signs of life of sources that must not be silent, by the names of their rows: `Signs.snapshot`. Not in
    every state; versions before it pass over it, and know no such rules."""

    sought: bool = False
    """An operator has put the watermark there (`seek`), and the checkpoint may still be another: it follows."""
    again: Again | None = None
    """What an operator wants done a second time, whatever the ledger says; not in every state."""
    oldest_at: UnixSeconds | None = None
    """When the hub took the oldest message that is read and not settled; None: all that is read is settled, or it is
    not known."""

    @property
    def watermark(self) -> Watermark | None:
        """The last message with nothing unsettled at or before it."""
        saved = self.progress["watermark"] if self.progress else None
        return Watermark(*saved) if saved else None


def encode(state: PartitionState) -> bytes:
    """The state as JSON."""
    return orjson.dumps(
        {
            "format": _format(state),
            "generation": state.generation,
            "owner": state.owner,
            "request": state.request,
            "acknowledged": state.acknowledged,
            "released": state.released,
            "hub": list(state.hub) if state.hub else None,
            "stopped": state.stopped,
            "stopped_under": state.stopped_under,
            "progress": state.progress,
            "late": [[*position, late_by_ms] for position, late_by_ms in state.late],
            "variants": [list(position) for position in state.variants],
            "attempts": [[*position, *rest] for position, *rest in state.attempts],
            "deaths": state.deaths,
            "deaths_at": state.deaths_at,
            "marked": state.marked,
            "suspects": [list(suspect) for suspect in state.suspects],
            "memory_parts": state.memory_parts,
            "memory_since": state.memory_since,
            **({"digests": state.digests} if state.digests else {}),
            **({"expectations": state.expectations} if state.expectations else {}),
            **({"disorder": state.disorder} if state.disorder else {}),
            **({"values_from": state.values_from} if state.values_from is not None else {}),
            **({"signs": state.signs} if state.signs else {}),
            **({"sought": True} if state.sought else {}),
            **({"again": list(state.again)} if state.again else {}),
            **({"oldest_at": state.oldest_at} if state.oldest_at is not None else {}),
        }
    )


def _format(state: PartitionState) -> int:
    """The lowest that says all of it."""
    if state.expectations:
        return FORMAT if state.expectations.get("holes") else _WITH_EXPECTATIONS
    return _WITH_DIGESTS if state.digests else _WITHOUT_DIGESTS


def decode(payload: bytes) -> PartitionState:
    """The state in these bytes. Raises StateFormatUnknown: what cannot be read is never taken for an empty state."""
    try:
        content = orjson.loads(payload)
        written_by = content["format"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise StateFormatUnknown(
            "The partition state is not the worker's: is the store shared with something else?"
        ) from None
    if written_by not in (1, _WITHOUT_DIGESTS, _WITH_DIGESTS, _WITH_EXPECTATIONS, FORMAT):
        raise StateFormatUnknown(
            f"The partition state has format {written_by}, this version reads {FORMAT}: run the version that wrote it."
        )
    try:
        return _state(content, _of_format_1(content) if written_by == 1 else _since_format_2(content))
    except (KeyError, TypeError, ValueError) as error:
        raise StateFormatUnknown(
            f"The partition state says that it has format {written_by} and has not ({error!r}): did something else "
            "write it?"
        ) from None


def _state(content: dict[str, Any], rest: dict[str, Any]) -> PartitionState:
    return PartitionState(
        generation=content["generation"],
        owner=content["owner"],
        request=content["request"],
        acknowledged=content["acknowledged"],
        released=content["released"],
        progress=content["progress"],
        **rest,
    )


def _since_format_2(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "hub": HubIdentity(*content["hub"]) if content["hub"] else None,
        "stopped": content["stopped"],
        "stopped_under": content["stopped_under"],
        "late": [LateVerdict(Position(number, element), ms) for number, element, ms in content["late"]],
        "variants": [Position(*position) for position in content["variants"]],
        "attempts": [
            Attempted(Position(number, element), sink, attempts, UnixSeconds(first_at))
            for number, element, sink, attempts, first_at in content["attempts"]
        ],
        "deaths": content["deaths"],
        "deaths_at": content["deaths_at"],
        "marked": content["marked"],
        "suspects": [Suspect(*suspect) for suspect in content["suspects"]],
        "memory_parts": content["memory_parts"],
        "memory_since": content["memory_since"],
        "digests": content.get("digests", {}),
        "expectations": content.get("expectations", {}),
        "disorder": content.get("disorder", {}),
        "values_from": content.get("values_from"),
        "signs": content.get("signs", {}),
        "sought": content.get("sought", False),
        "again": Again(*content["again"]) if "again" in content else None,
        "oldest_at": content.get("oldest_at"),
    }


def _of_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """It had the newest keys of duplicates, and nothing else that is remembered."""
    recent = [
        SettledKey(bytes.fromhex(key), digest, Position(number, element), UnixSeconds(seen_at), bool(variant))
        for key, digest, number, element, seen_at, variant in content["recent"]
    ]
    return {"memory_since": memory.encode(memory.Rows(events=recent))}
