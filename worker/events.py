"""The values that travel: from a raw Message of the hub to the Event that is decoded, ordered, routed and delivered.

No I/O, no clock, no decisions: who decides is in the module named after the verb.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, NewType, TypeVar, dataclass_transform

PartitionId = NewType("PartitionId", str)
"""The hub's name of a partition: "0" to "31"."""

UnixSeconds = NewType("UnixSeconds", float)
"""Seconds since 1970-01-01 UTC."""


_T = TypeVar("_T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_T]) -> type[_T]:
    """A frozen dataclass to whoever reads and checks the code; at run time without the guard.

    The guard makes each field three times as dear to set, and five of these are made for each event.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


MADE_HERE = -1
"""The element of an event that stands in no message of the hub: the worker made it."""


class Position(NamedTuple):
    """Where an event stands in its partition: the message's sequence number, then the element's index in its array."""

    sequence_number: int
    element: int


@value
class Message:
    """What the hub handed over, before anything is understood."""

    partition: PartitionId
    sequence_number: int
    offset: str
    """As the hub gave it. Opaque: in geo-replicated namespaces it is no number."""
    enqueued_at: UnixSeconds
    body: bytes
    content_type: str | None = None
    properties: Mapping[Any, object] | None = None
    """AMQP application properties as the SDK gives them, names as bytes; None where there are none."""
    keyed: bool = False
    """Whether the sender gave a partition key. One that chose the partition itself gave none."""
    defect: str | None = None
    """Why the body cannot be an event whatever its bytes say, for instance an AMQP map; it is then kept as JSON."""


DIGEST_TYPE = "Worker.Digest"
"""The type of an event that the worker makes itself and that stands for several."""
MISSED_TYPE = "Worker.ExpectationMissed"
"""The type of an event that the worker makes itself when something that was expected has not come."""


class Schema(StrEnum):
    """The two envelopes that Event Grid delivers; the values are the words of `worker explain`."""

    EVENT_GRID = "eventgrid"
    CLOUD_EVENTS = "cloudevents"


class OrderKind(StrEnum):
    """What an event is ordered by, strongest first."""

    SEQUENCER = "sequencer"
    TIME = "time"
    ARRIVAL = "arrival"


class OrderKey(NamedTuple):
    """Two keys of one kind stand in the order of their texts and tie when equal; keys of two kinds have no order.

    sequencer: 64 lower-case hex digits. time: UTC with seven fraction digits, then for Azure ML runs "/" and the rank
    of the run state. arrival: None.
    """

    kind: OrderKind
    value: str | None


class Subject(NamedTuple):
    """What order is kept for: source with its case folded (ARM ids change case), subject as it came."""

    source: str
    subject: str


@value
class Event:
    """One element of a message, understood."""

    schema: Schema
    id: str
    type: str
    source: str | None
    """`topic` or `source` as it came; None where absent or null."""
    subject: str | None
    """As it came; None where absent or null."""
    time: str | None
    """As it came; None where absent or null. The comparable form is in `order_key`."""
    data: Any
    """The decoded `data`; None where absent or null; text or bytes where the producer sent neither JSON nor null."""
    envelope: Mapping[str, Any]
    """The whole element as it came, `data` included: what filters look names up in and what sinks convert."""
    order_key: OrderKey
    order_defect: str | None = None
    """Why a stronger order key that is present could not be used ("sequencer", "time"); counted, not an error."""
    key: Subject = field(init=False, repr=False, compare=False)
    """Its place in the order stage. Every stage asks for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", Subject((self.source or "").casefold(), self.subject or ""))


@dataclass(frozen=True, slots=True)
class BadEvent:
    """An element, or a whole message, that is not an event; it becomes a dead letter."""

    reason: str
    """A short stable word for metrics and filters, such as "not_json" or "missing_id"."""
    detail: str
    """One sentence for the operator: what is wrong and where. Never the payload itself."""
    whole_message: bool = False
    """The message is given up whatever is in it: its letter must not be taken for that of an element."""


@value
class Placed:
    """An event with its place in the partition: what the order stage holds and releases."""

    event: Event
    message: Message
    position: Position
    duplicate_key: bytes = b""
    digest: str = ""
    """What re-sent copies are recognised by: `keys.duplicate_key` and `keys.data_digest`."""


@value
class Released:
    """An event whose turn has come."""

    placed: Placed
    late_by_ms: int | None = None
    """None: in order. Else milliseconds from the release of its subject's newest event to this one's arrival."""
    data_digest: str = ""
    """Set on an event that equals an earlier one in everything but `data`: it is delivered under a key of its own."""
    superseded: bool = field(default=False, compare=False)
    """When its turn came, a later event of its subject was here already. To be told, not to be decided by: after a
    restart it may be otherwise."""
