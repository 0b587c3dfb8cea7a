"""Makes the faults that it is told to make: at once on what is there, or later when a connection or a link asks.

Connections and links ask only where they attach, send or connect, and look first whether there is any lasting fault,
so that a hub without faults is as quick as one that cannot have any.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

from worker.local.faults import (
    BlackHole,
    Counted,
    Delay,
    Detach,
    Drop,
    Duplicate,
    Epoch,
    Fault,
    Ignore,
    Lasting,
    Place,
    Recreate,
    Refuse,
    Reorder,
    Repeat,
    Scoped,
    SlowCredit,
    WrongFaultError,
)
from worker.local.hubs import Hub, Hubs
from worker.local.messages import Message
from worker.local.refusals import Refused, entity_not_found
from worker.local.wire import Wire

_F = TypeVar("_F", bound=Lasting)


class Client(Protocol):
    """A connection, as far as faults are concerned."""

    def places(self) -> Iterable[Place]:
        """What its links are for."""
        ...

    def abort(self) -> None:
        """Hangs up."""
        ...

    def detach(self, covers: Callable[[Place], bool], refusal: Refused) -> int:
        """Ends the links that are covered, and says how many they were."""
        ...

    def disturbed(self) -> Wire:
        """The way to its socket, to make it dead."""
        ...

    def delay(self, incoming_seconds: float, outgoing_seconds: float) -> None:
        """From now on, holds back for so long what comes and what goes."""
        ...


class Active(Generic[_F]):
    """A lasting fault that is on."""

    def __init__(self, number: int, fault: _F, ends_at: float | None) -> None:
        self.number = number
        self.fault = fault
        self.ends_at = ends_at
        """By the loop's clock; None where only lifting ends it."""
        self.hits = 0
        """How often it has happened."""
        self.frozen: list[Client] = []
        """The connections it holds still."""
        self.random = random.Random(getattr(fault, "seed", None))
        self.timer: asyncio.TimerHandle | None = None

    @property
    def used_up(self) -> bool:
        """Whether it has happened often enough."""
        return isinstance(self.fault, Counted) and self.fault.times is not None and self.hits >= self.fault.times


class Injector:
    """The faults of one broker: what is on, and what it does to connections, attaches and messages."""

    def __init__(self, hubs: Hubs, clients: Collection[Client], now_ms: Callable[[], int]) -> None:
        self.active: list[Active[Any]] = []
        """Lasting faults that are on, oldest first."""
        self._hubs = hubs
        self._clients = clients
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)

    # From the admin port.

    def make(self, fault: Fault) -> tuple[Active[Any] | None, int]:
        """Makes a fault: what lasts of it, and how many connections or links it has hit at once.

        Raises WrongFaultError where it is about a hub or a partition that there is not.
        """
        self._check(fault)
        match fault:
            case Lasting():
                return self._start(fault)
            case Drop():
                hit = self._covered(fault)
                for client in hit:
                    client.abort()
                return None, len(hit)
            case Detach():
                return None, self._detach(fault.covers, Refused(fault.condition, fault.description))
            case Recreate():
                return None, self._recreate(self._hub(fault.hub))
            case Epoch():
                for partition in self._hub(fault.hub).partitions:
                    partition.log.epoch = fault.value
                return None, 0
        raise AssertionError(f"{type(fault).__name__} is made by nobody")

    def lift(self, number: int) -> bool:
        """Ends a lasting fault; False where there is none with this number."""
        found = next((each for each in self.active if each.number == number), None)
        if found is not None:
            self._end(found)
        return found is not None

    def lift_all(self) -> int:
        """Ends all lasting faults and says how many they were."""
        count = len(self.active)
        for each in tuple(self.active):
            self._end(each)
        return count

    # From connections and links.

    def connected(self, client: Client) -> None:
        """A client has connected."""
        ignoring = next((each for each in self._about(Ignore) if each.fault.on == "connect"), None)
        if ignoring is not None:
            client.disturbed().freeze()
            ignoring.frozen.append(client)
            self._count(ignoring)
        self._delay(client)

    def attached(self, client: Client) -> None:
        """A client has a new link, by which a delay may know it."""
        self._delay(client)

    def ignores(self, place: Place) -> bool:
        """Whether an attach to this place gets no answer."""
        ignoring = next((each for each in self._about(Ignore, place) if each.fault.on == "attach"), None)
        if ignoring is not None:
            self._count(ignoring)
        return ignoring is not None

    def check(self, on: Literal["attach", "send"], place: Place) -> None:
        """Raises Refused where this is to be refused."""
        refusing = next((each for each in self._about(Refuse, place) if each.fault.on == on), None)
        if refusing is not None:
            self._count(refusing)
            raise Refused(refusing.fault.condition, refusing.fault.description)

    def go_back(self, place: Place) -> int:
        """How many messages before its position a receiver gets again."""
        repeating = next(self._about(Repeat, place), None)
        if repeating is None:
            return 0
        self._count(repeating)
        return repeating.fault.messages

    def slow_credit(self, place: Place) -> SlowCredit | None:
        """How a sender gets its credit; None: at once."""
        slowing = next(self._about(SlowCredit, place), None)
        if slowing is None:
            return None
        self._count(slowing)
        return slowing.fault

    def on_send(self, place: Place, messages: list[Message]) -> list[Message]:
        """What is kept of messages that were sent; raises Refused."""
        self.check("send", place)
        for doubling in tuple(self._about(Duplicate, place)):
            messages = self._doubled(doubling, messages)
        for moving in tuple(self._about(Reorder, place)):
            messages = self._reordered(moving, messages)
        return messages

    # Within.

    def _check(self, fault: Fault) -> None:
        name = getattr(fault, "hub", None)
        hub = None if name is None else self._hub(name)
        partition = fault.partition if isinstance(fault, Scoped) else None
        if partition is not None and not any(_has(each, partition) for each in ([hub] if hub else self._hubs)):
            raise WrongFaultError(f"partition: no hub that is meant has a partition {partition!r}")

    def _hub(self, name: str) -> Hub:
        try:
            return self._hubs.find(name, asked_for=name)
        except Refused:
            names = ", ".join(hub.name for hub in self._hubs)
            raise WrongFaultError(f"hub: this broker has no {name!r}; it has {names}") from None

    def _covered(self, fault: Scoped) -> list[Client]:
        return [client for client in self._clients if _covers(fault, client)]

    def _detach(self, covers: Callable[[Place], bool], refusal: Refused) -> int:
        return sum(client.detach(covers, refusal) for client in tuple(self._clients))

    def _recreate(self, hub: Hub) -> int:
        name = hub.name.casefold()
        hit = self._detach(lambda place: (place.hub or "").casefold() == name, entity_not_found(hub.name))
        hub.recreate(self._now_ms())
        return hit

    def _start(self, fault: Lasting) -> tuple[Active[Any], int]:
        ends_at = None if fault.seconds is None else self._loop.time() + fault.seconds
        active = Active(next(self._numbers), fault, ends_at)
        self.active.append(active)
        if ends_at is not None:
            active.timer = self._loop.call_at(ends_at, self._end, active)
        hit = self._covered(fault) if isinstance(fault, BlackHole | Delay) else []
        for client in hit:
            if isinstance(fault, BlackHole):
                client.disturbed().freeze()
                active.frozen.append(client)
            else:
                self._delay(client)
        active.hits = len(hit)
        return active, len(hit)

    def _end(self, ended: Active[Any]) -> None:
        self.active.remove(ended)
        if ended.timer is not None:
            ended.timer.cancel()
        for client in ended.frozen:
            client.disturbed().thaw()
        if isinstance(ended.fault, Delay):
            for client in tuple(self._clients):
                self._delay(client)

    def _delay(self, client: Client) -> None:
        """Tells a connection the delays that it has now; several add up."""
        delays = [each.fault for each in self.active if isinstance(each.fault, Delay) and _covers(each.fault, client)]
        incoming = sum(delay.milliseconds for delay in delays if delay.direction != "outgoing")
        outgoing = sum(delay.milliseconds for delay in delays if delay.direction != "incoming")
        client.delay(incoming / 1000, outgoing / 1000)

    def _about(self, kind: type[_F], place: Place | None = None) -> Iterator[Active[_F]]:
        """The faults of a kind that are on and may happen here."""
        for each in self.active:
            if isinstance(each.fault, kind) and not each.used_up and (place is None or each.fault.covers(place)):
                yield cast("Active[_F]", each)

    def _count(self, active: Active[Any]) -> None:
        """It has happened once more, perhaps for the last time."""
        active.hits += 1
        # Connections that are being ignored stay so until the time is over: only no further one is.
        if active.used_up and not active.frozen:
            self._end(active)

    def _doubled(self, doubling: Active[Duplicate], messages: list[Message]) -> list[Message]:
        kept = []
        for message in messages:
            kept.append(message)
            if not doubling.used_up and doubling.random.random() < doubling.fault.probability:
                kept.append(message)
                self._count(doubling)
        return kept

    def _reordered(self, moving: Active[Reorder], messages: list[Message]) -> list[Message]:
        kept = messages[:]
        for index in range(1, len(kept)):
            if not moving.used_up and moving.random.random() < moving.fault.probability:
                kept[index - 1], kept[index] = kept[index], kept[index - 1]
                self._count(moving)
        return kept


def _covers(fault: Scoped, client: Client) -> bool:
    return fault.is_about_all or any(fault.covers(place) for place in client.places())


def _has(hub: Hub, partition: str) -> bool:
    return any(str(each.id) == partition for each in hub.partitions)
