"""Hubs, their partitions and who reads them. Knows neither bytes on the wire nor connections.

A consumer group comes into being when it is first named. Within one, a partition has either one reader with an epoch or
at most five without.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from worker.local.log import HubFile, PartitionLog, file_logs, memory_logs
from worker.local.messages import Message
from worker.local.refusals import (
    ARGUMENT_OUT_OF_RANGE,
    LINK_STOLEN,
    NOT_FOUND,
    RESOURCE_LIMIT_EXCEEDED,
    Refused,
    entity_not_found,
)

MAX_READERS_WITHOUT_EPOCH = 5

_ADDRESS = re.compile(
    r"(?:[a-z]+://[^/]*)?/*(?P<hub>[^/]+)"
    r"(?:/ConsumerGroups/(?P<group>[^/]+))?"
    r"(?:/Partitions/(?P<partition>[^/]+))?"
    r"(?:/\$management)?/*",
    re.IGNORECASE,
)


class Reader(Protocol):
    """A consumer's link, as a consumer group sees it."""

    epoch: int | None
    receiver_name: str

    def disconnect(self, refusal: Refused) -> None:
        """Ends the link, whatever it is doing."""
        ...


class ConsumerGroup:
    """The readers of one partition in one consumer group."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []

    def admit(self, reader: Reader) -> None:
        """Lets a reader in, at the cost of those it outranks; raises Refused where it is outranked or one too many."""
        holder = next((other for other in self._readers if other.epoch is not None), None)
        if reader.epoch is None:
            self._check_room(reader, holder)
        elif holder is not None and holder.epoch is not None and holder.epoch > reader.epoch:
            raise Refused(LINK_STOLEN, _outranked(reader, holder))
        else:
            # An equal epoch steals too: the processors of all SDKs use 0.
            for other in self._readers:
                other.disconnect(Refused(LINK_STOLEN, _stolen(reader, other)))
            self._readers.clear()
        self._readers.append(reader)

    def _check_room(self, reader: Reader, holder: Reader | None) -> None:
        if holder is not None:
            raise Refused(LINK_STOLEN, _outranked(reader, holder))
        if len(self._readers) >= MAX_READERS_WITHOUT_EPOCH:
            names = ", ".join(other.receiver_name for other in self._readers)
            raise Refused(
                RESOURCE_LIMIT_EXCEEDED,
                "Exceeded the maximum number of allowed receivers per partition in a consumer group which is "
                f"{MAX_READERS_WITHOUT_EPOCH}. List of connected receivers - {names}.",
            )

    def leave(self, reader: Reader) -> None:
        """Forgets a reader; one that was outranked is forgotten already."""
        if reader in self._readers:
            self._readers.remove(reader)


def _epoch_text(epoch: int | None) -> str:
    return "" if epoch is None else str(epoch)


def _stolen(winner: Reader, loser: Reader) -> str:
    return (
        f"New receiver '{winner.receiver_name}' with higher epoch of '{winner.epoch}' is created hence current "
        f"receiver '{loser.receiver_name}' with epoch '{_epoch_text(loser.epoch)}' is getting disconnected. If you are "
        "recreating the receiver, make sure a higher epoch is used."
    )


def _outranked(loser: Reader, holder: Reader) -> str:
    return (
        f"Receiver '{holder.receiver_name}' with a higher epoch of '{holder.epoch}' already exists. Receiver "
        f"'{loser.receiver_name}' with epoch '{_epoch_text(loser.epoch)}' cannot be created. Make sure you are "
        "creating receiver with increasing epoch value to ensure connectivity, or ensure all old epoch receivers are "
        "closed or disconnected."
    )


@dataclass(eq=False)
class Partition:
    """One partition: its log, and whom to tell when it grows."""

    id: int
    log: PartitionLog
    groups: dict[str, ConsumerGroup] = field(default_factory=dict)
    listeners: set[Callable[[], None]] = field(default_factory=set)

    def group(self, name: str) -> ConsumerGroup:
        """The consumer group of this name; case does not count."""
        return self.groups.setdefault(name.casefold(), ConsumerGroup())

    def append(self, messages: Sequence[Message], now_ms: int) -> None:
        """Keeps messages and tells those who wait for them."""
        self.log.append(messages, now_ms)
        for tell in tuple(self.listeners):
            tell()


class Hub:
    """One event hub."""

    def __init__(
        self, name: str, logs: Iterable[PartitionLog], created_at_ms: int, file: HubFile | None = None
    ) -> None:
        self.name = name
        self.created_at_ms = created_at_ms
        self.partitions = [Partition(index, log) for index, log in enumerate(logs)]
        self._file = file
        self._in_turn = cycle(self.partitions)

    @classmethod
    def in_memory(cls, name: str, partitions: int, now_ms: int) -> "Hub":
        """A hub that ends with the process."""
        return cls(name, memory_logs(partitions), now_ms)

    @classmethod
    def on_disk(cls, folder: Path, name: str, partitions: int, now_ms: int) -> "Hub":
        """A hub that goes on where its file ends; raises ValueError where the file is another's or damaged."""
        file = HubFile(folder / f"{name}.log", hub=name, partitions=partitions, now_ms=now_ms)
        try:
            return cls(name, file_logs(file, partitions), file.created_at_ms, file)
        except BaseException:
            file.close()
            raise

    def partition(self, text: str) -> Partition:
        """The partition with this id; raises Refused where there is none."""
        if text.isascii() and text.isdigit() and int(text) < len(self.partitions):
            return self.partitions[int(text)]
        raise Refused(
            ARGUMENT_OUT_OF_RANGE,
            "The specified partition is invalid for an EventHub partition sender or receiver. It should be between 0 "
            f"and {len(self.partitions) - 1}.",
        )

    def partition_for(self, key: bytes | None) -> Partition:
        """The partition that messages with this key go to; without one they go to all in turn."""
        if key is not None:
            return self.partitions[zlib.crc32(key) % len(self.partitions)]
        return next(self._in_turn)

    def recreate(self, now_ms: int) -> None:
        """Deletes the hub and makes it anew: empty logs that count from 0. Its links are the caller's to end."""
        count = len(self.partitions)
        # Whoever remembers the old hub tells them apart by this, so it differs even within a millisecond.
        self.created_at_ms = max(now_ms, self.created_at_ms + 1)
        if self._file is not None:
            self._file.clear(hub=self.name, partitions=count, now_ms=self.created_at_ms)
        logs = memory_logs(count) if self._file is None else file_logs(self._file, count)
        for partition, log in zip(self.partitions, logs, strict=True):
            partition.log = log

    def close(self) -> None:
        """Gives the file back. Safe to call twice."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True)
class Address:
    """What a link or a token is for."""

    hub: str
    group: str | None
    partition: str | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Understands `amqps://host/hub/ConsumerGroups/group/Partitions/0` and all that is shorter."""
        found = _ADDRESS.fullmatch(unquote(text))
        if found is None:
            raise entity_not_found(text)
        return cls(found["hub"], found["group"], found["partition"])


class Hubs:
    """All hubs of a broker, by name; case does not count."""

    def __init__(self, hubs: Iterable[Hub]) -> None:
        self._hubs = {hub.name.casefold(): hub for hub in hubs}

    def find(self, name: str, *, asked_for: str) -> Hub:
        """The hub of this name; raises Refused, in terms of what was asked for, where there is none."""
        hub = self._hubs.get(name.casefold())
        if hub is None:
            raise entity_not_found(asked_for)
        return hub

    def __iter__(self) -> Iterator[Hub]:
        return iter(self._hubs.values())

    def source(self, text: str) -> tuple[Partition, ConsumerGroup]:
        """What a consumer's address means."""
        address = Address.parse(text)
        hub = self.find(address.hub, asked_for=text)
        if address.group is None or address.partition is None:
            raise Refused(NOT_FOUND, f"'{text}' names no partition of a consumer group: a consumer needs both.")
        partition = hub.partition(address.partition)
        return partition, partition.group(address.group)

    def target(self, text: str) -> tuple[Hub, Partition | None]:
        """What a producer's address means: a hub, or one partition of it."""
        address = Address.parse(text)
        hub = self.find(address.hub, asked_for=text)
        return hub, None if address.partition is None else hub.partition(address.partition)

    def close(self) -> None:
        """Gives all files back."""
        for hub in self._hubs.values():
            hub.close()
