"""The faults that the local hub can be told to make: what each does, what it is about, how it is asked for.

Values only; `injector` makes them happen, `admin` takes the requests.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from proton import Link
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from worker.local.hubs import Address
from worker.local.management import CBS, MANAGEMENT
from worker.local.refusals import DETACH_FORCED, SERVER_BUSY
from worker.mistakes import dotted, finding

LinkKind = Literal["receiver", "sender", "cbs", "management"]


class Place(NamedTuple):
    """What one link is for; None where its kind has no such thing."""

    link: LinkKind
    hub: str | None = None
    partition: str | None = None
    group: str | None = None

    @classmethod
    def of(cls, link: Link) -> Self:
        """Where a client's link leads; raises Refused where its address makes no sense."""
        text: str = (link.remote_source if link.is_sender else link.remote_target).address or ""
        if text.rpartition("/")[2] == CBS:
            return cls("cbs")
        address = Address.parse(text)
        if text.rpartition("/")[2] == MANAGEMENT:
            return cls("management", None if address.hub == MANAGEMENT else address.hub)
        return cls("receiver" if link.is_sender else "sender", address.hub, address.partition, address.group)


class Fault(BaseModel):
    """Something that goes wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)

    kind: str


class Scoped(Fault):
    """A fault about some links, or about the connections that hold one of them. Names ignore case."""

    hub: str | None = Field(None, description="of this hub only")
    partition: str | None = Field(None, description="of this partition only")
    group: str | None = Field(None, description="of this consumer group only")
    link: LinkKind | None = Field(None, description="links of this kind only: receiver, sender, cbs or management")

    @property
    def is_about_all(self) -> bool:
        """Whether it is about every connection, also one that holds no link yet."""
        return self.hub is self.partition is self.group is self.link is None

    def covers(self, place: Place) -> bool:
        """Whether it is about a link to this place."""
        return (
            self.link in (None, place.link)
            and self.partition in (None, place.partition)
            and _same(self.hub, place.hub)
            and _same(self.group, place.group)
        )


def _same(wanted: str | None, name: str | None) -> bool:
    return wanted is None or (name is not None and wanted.casefold() == name.casefold())


class Lasting(Scoped):
    """A fault that stays until its time is over, or until it is lifted."""

    seconds: float | None = Field(None, gt=0, description="how long it lasts; until it is lifted where left out")


class Counted(Lasting):
    """A lasting fault that is also over when it has happened often enough."""

    times: int | None = Field(None, ge=1, description="how often it happens at most")


class Drop(Scoped):
    """Hangs up on clients: their TCP connections are reset."""

    kind: Literal["drop"]


class Detach(Scoped):
    """Closes links with a condition; their connections stay."""

    kind: Literal["detach"]
    condition: str = Field(
        DETACH_FORCED, pattern=r"^(amqp|com\.microsoft):[a-z:-]+$", description="amqp:… or com.microsoft:…"
    )
    description: str = Field("The local hub was told to detach this link.", description="the sentence with it")


class Ignore(Counted):
    """Never answers: takes new TCP connections (connect) or attaches (attach) and stays silent about them.

    When it is over, the connections are answered after all; the attaches never are.
    """

    kind: Literal["ignore"]
    on: Literal["connect", "attach"] = Field(description="connect or attach")

    @model_validator(mode="after")
    def _check_scope(self) -> Self:
        if self.on == "connect" and not self.is_about_all:
            raise ValueError("what connects has no link yet: leave hub, partition, group and link out, or say attach")
        return self


class BlackHole(Lasting):
    """Stops reading from and writing to the connections that there are; new ones work. Nothing is lost meanwhile."""

    kind: Literal["blackhole"]


class Delay(Lasting):
    """Holds every frame back for a while; their order stays."""

    kind: Literal["delay"]
    milliseconds: float = Field(gt=0, le=60_000, description="how long each frame waits")
    direction: Literal["both", "incoming", "outgoing"] = Field(
        "both", description="as the hub sees it: incoming, outgoing or both"
    )


class Repeat(Counted):
    """A receiver that attaches gets so many messages before its position once more."""

    kind: Literal["repeat"]
    messages: int = Field(ge=1, description="how many messages it goes back")


class Refuse(Counted):
    """Says no to attaches, or to what is sent; to attaches to $cbs and $management only where `link` names them."""

    kind: Literal["refuse"]
    on: Literal["attach", "send"] = Field(description="attach or send")
    condition: str = Field(
        SERVER_BUSY, pattern=r"^(amqp|com\.microsoft):[a-z:-]+$", description="amqp:… or com.microsoft:…"
    )
    description: str = Field(
        "The service is busy. Please retry the operation after 4 seconds.", description="the sentence with it"
    )

    def covers(self, place: Place) -> bool:
        """As every fault; but a busy hub still checks tokens, and the SDKs would wait a minute for that answer."""
        return super().covers(place) and (place.link in ("receiver", "sender") or self.link == place.link)


class SlowCredit(Lasting):
    """Gives senders little credit, and late; a link that is open first uses up the credit it has."""

    kind: Literal["slow_credit"]
    credit: int = Field(1, ge=1, le=300, description="how many messages at a time")
    milliseconds: float = Field(gt=0, le=60_000, description="how long a sender waits for credit")


class Duplicate(Counted):
    """Keeps messages twice that were sent once, as if their sender had tried again."""

    kind: Literal["duplicate"]
    probability: float = Field(gt=0, le=1, description="of each message")
    seed: int = Field(0, description="the same seed doubles the same messages of the same traffic")


class Reorder(Counted):
    """Within what is sent in one batch, lets a message change places with the one before it."""

    kind: Literal["reorder"]
    probability: float = Field(gt=0, le=1, description="of each message but the first")
    seed: int = Field(0, description="the same seed moves the same messages of the same traffic")


class Recreate(Fault):
    """Deletes a hub and makes it anew: no messages, numbers from 0, another created_at. Its links are detached."""

    kind: Literal["recreate"]
    hub: str = Field(description="which hub")


class Epoch(Fault):
    """Gives the messages that come from now on another x-opt-sequence-number-epoch, as after a fail-over."""

    kind: Literal["epoch"]
    hub: str = Field(description="which hub")
    value: int = Field(ge=-1, le=2**31, description="the epoch; -1 is that of a hub that was never failed over")


KINDS: tuple[type[Fault], ...] = (
    Drop, Detach, Ignore, BlackHole, Delay, Repeat, Refuse, SlowCredit, Duplicate, Reorder, Recreate, Epoch,
)  # fmt: skip


def kind_of(model: type[Fault]) -> str:
    """The name by which a kind is asked for."""
    return str(model.model_fields["kind"].annotation.__args__[0])  # type: ignore[union-attr]  # a Literal has them


class WrongFaultError(ValueError):
    """What was asked for is no fault: the text says why, and what to write instead."""


def parse(request: object) -> Fault:
    """The fault that a request describes; raises WrongFaultError with a sentence."""
    by_name = {kind_of(model): model for model in KINDS}
    if not isinstance(request, Mapping):
        raise WrongFaultError('a fault is a JSON object such as {"kind": "drop", "partition": "0"}')
    model = by_name.get(str(request.get("kind")))
    if model is None:
        raise WrongFaultError(f"kind: there is no such fault; give one of {', '.join(by_name)}")
    try:
        return model.model_validate(request)
    except ValidationError as error:
        raise WrongFaultError("; ".join(_sentence(model, request, found) for found in error.errors())) from None


def _sentence(model: type[Fault], request: Mapping[str, Any], error: ErrorDetails) -> str:
    found = finding(model, request, error)
    field = model.model_fields.get(dotted(found.place))
    meaning = f" ({field.description})" if field and field.description else ""
    return f"{dotted(found.place)} {found.message}{meaning}".strip()
