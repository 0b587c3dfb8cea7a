"""What hangs on a connection: consumers' links, producers' links, and the two request nodes.

Each turns what Proton tells about its link into reads and writes of a log, or an answer. They neither flush nor
schedule: that is the connection's.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

# Proton's own C binding: its Python wrapper of a delivery costs six times what sending the delivery costs.
from cproton import pn_delivery, pn_delivery_settle, pn_link_send
from proton import Condition, Delivery, Link, Message, ProtonException, symbol

from worker.local.encoding import MalformedError
from worker.local.faults import Place
from worker.local.frames import BATCH_FORMAT
from worker.local.hubs import ConsumerGroup, Hub, Partition
from worker.local.injector import Injector
from worker.local.management import Answer, Node
from worker.local.messages import parse, runtime_metric, unwrap, with_delivery_annotations
from worker.local.positions import StartPosition
from worker.local.refusals import DECODE_ERROR, INTERNAL_ERROR, MESSAGE_SIZE_EXCEEDED, Refused

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 1_048_576
PRODUCER_CREDIT = 300
NODE_CREDIT = 100
_NODE_MAX_MESSAGE_BYTES = 2**64 - 1
_TIMEOUT_MS = 65_000

# The SDK keeps every tag it has ever seen, so a tag of its own for each delivery would look like a leak of ours.
_TAG = b"\x00"


def unix_ms() -> int:
    """Now, as AMQP counts it."""
    return time.time_ns() // 1_000_000


class Endpoint(Protocol):
    """The broker's end of one link."""

    link: Link

    def close(self) -> None:
        """Forgets whatever the link held. Safe to call twice."""
        ...


def accept(link: Link, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
    """Answers an attach the way it was asked."""
    link.source.copy(link.remote_source)
    link.target.copy(link.remote_target)
    link.max_message_size = max_message_bytes
    link.properties = {
        symbol("com.microsoft:timeout"): _TIMEOUT_MS,
        symbol("com.microsoft:tracking-id"): uuid4().hex,
    }
    link.open()


def end(link: Link, refusal: Refused) -> None:
    """Closes a link with a reason."""
    link.condition = Condition(refusal.condition, refusal.description)
    link.close()


def refuse(link: Link, refusal: Refused) -> None:
    """Answers an attach with no: an attach in return, as AMQP wants it, then the reason."""
    accept(link)
    end(link, refusal)


class Wish(NamedTuple):
    """What a consumer's attach asks for."""

    partition: Partition
    group: ConsumerGroup
    position: StartPosition
    epoch: int | None
    receiver_name: str
    runtime_metric: bool
    """Whether every delivery shall tell how far the log goes."""
    go_back: int = 0
    """How many messages before the position are to come again."""


class ConsumerLink:
    """A consumer of one partition: hands on what the log holds, as far as the credit goes."""

    def __init__(self, link: Link, wish: Wish, wake: Callable[[], None]) -> None:
        self.link = link
        self.epoch = wish.epoch
        self.receiver_name = wish.receiver_name
        self._impl = link._impl  # noqa: SLF001 - what Proton's C binding takes; see the import
        self._partition = wish.partition
        self._group = wish.group
        self._next = max(0, wish.position.resolve(wish.partition.log) - wish.go_back)
        self._runtime_metric = wish.runtime_metric
        self._wake = wake
        self._ended = False

    def open(self) -> None:
        """Joins the consumer group, or raises Refused; from then on new messages wake the connection."""
        self._group.admit(self)
        self._partition.listeners.add(self.grown)
        self.link.snd_settle_mode = Link.SND_SETTLED
        accept(self.link)

    def grown(self) -> None:
        """The partition has more."""
        self._wake()

    def deliver(self, limit: int) -> bool:
        """Sends at most `limit` messages; True when more could follow at once."""
        if self._ended:
            return False
        available = len(self._partition.log) - self._next
        credit = self.link.credit if available else 0
        count = min(available, credit, limit)
        if count > 0:
            self._send(count)
        if self.link.drain_mode and count == available:
            self.link.drained()
        return count == limit and count < min(available, credit)

    def _send(self, count: int) -> None:
        log, impl = self._partition.log, self._impl
        last = log.last if self._runtime_metric else None
        metric = None if last is None else runtime_metric(last, unix_ms())
        for sequence_number in range(self._next, self._next + count):
            encoded = log[sequence_number]
            if metric is not None:
                encoded = with_delivery_annotations(encoded, metric)
            delivery = pn_delivery(impl, _TAG)
            pn_link_send(impl, encoded)
            pn_delivery_settle(delivery)
        self._next += count

    def disconnect(self, refusal: Refused) -> None:
        """Ends the link, and has the connection say so."""
        self._partition.listeners.discard(self.grown)
        self._ended = True
        end(self.link, refusal)
        self._wake()

    def close(self) -> None:
        """Leaves the consumer group."""
        self._partition.listeners.discard(self.grown)
        self._group.leave(self)


class Intake(ABC):
    """A link on which messages arrive."""

    credit: int
    """How many may come before the first is settled."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._dropped_bytes = 0

    def open(self) -> None:
        """Lets messages come."""
        accept(self.link, self.max_message_bytes)
        self.give_credit(self.credit)

    def give_credit(self, missing: int) -> None:
        """Lets so many more come."""
        self.link.flow(missing)

    @property
    def max_message_bytes(self) -> int:
        """What the client is told; it is held to MAX_MESSAGE_BYTES."""
        return MAX_MESSAGE_BYTES

    @abstractmethod
    def take(self, encoded: bytes, message_format: int) -> None:
        """Does what a whole message asks for; raises Refused where it cannot be taken."""

    def receive(self, delivery: Delivery, message_format: int) -> None:
        """Takes a delivery as far as it has arrived; once it is complete, says what became of it."""
        if self._dropped_bytes + delivery.pending > MAX_MESSAGE_BYTES:
            # It will be refused, so nothing of it is kept.
            self._dropped_bytes += delivery.pending
            self.link.recv(delivery.pending)
        if not delivery.partial:
            encoded = bytes(self.link.recv(delivery.pending) or b"")
            aborted = delivery.aborted
            self.link.advance()
            if not aborted:
                self._answer(delivery, self._refusal(encoded, message_format))
            delivery.settle()
            self._dropped_bytes = 0
            if self.link.credit <= self.credit // 2:
                self.give_credit(self.credit - self.link.credit)

    def _refusal(self, encoded: bytes, message_format: int) -> Refused | None:
        if self._dropped_bytes:
            return Refused(
                MESSAGE_SIZE_EXCEEDED,
                f"The received message (size:{self._dropped_bytes + len(encoded)} bytes) exceeds the limit "
                f"({MAX_MESSAGE_BYTES} bytes) currently allowed on the link.",
            )
        try:
            self.take(encoded, message_format)
        except Refused as refusal:
            return refusal
        return None

    def _answer(self, delivery: Delivery, refusal: Refused | None) -> None:
        if refusal is None:
            delivery.update(Delivery.ACCEPTED)
        else:
            delivery.local.condition = Condition(refusal.condition, refusal.description)
            delivery.update(Delivery.REJECTED)

    def close(self) -> None:  # noqa: B027 - holding nothing is what most do
        """Forgets whatever the link held."""


class Disturbance(NamedTuple):
    """What a producer's link asks about faults, and how it waits when one makes it wait."""

    injector: Injector
    place: Place
    later: Callable[[float, Callable[[], None]], None]
    """Does something after so many seconds, if the link is still there."""


class ProducerLink(Intake):
    """A producer of a hub, or of one partition of it."""

    credit = PRODUCER_CREDIT

    def __init__(self, link: Link, hub: Hub, partition: Partition | None, disturbance: Disturbance) -> None:
        super().__init__(link)
        self._hub = hub
        self._partition = partition
        self._disturbance = disturbance
        self._waits = False

    def give_credit(self, missing: int) -> None:
        """Lets so many more come; where credit is slow, fewer, and only once there is none left."""
        injector, place, later = self._disturbance
        slow = injector.slow_credit(place) if injector.active else None
        if slow is None:
            super().give_credit(missing)
        elif not self._waits and self.link.credit == 0:
            self._waits = True
            later(slow.milliseconds / 1000, lambda: self._give_late(slow.credit))

    def _give_late(self, count: int) -> None:
        self._waits = False
        self.link.flow(count)

    def take(self, encoded: bytes, message_format: int) -> None:
        """Appends a message, or all messages of a batch, to one partition."""
        try:
            # By format, not by looks: a message may well hold an encoded message.
            messages = unwrap(encoded) if message_format == BATCH_FORMAT else [parse(encoded)]
        except MalformedError as error:
            raise Refused(DECODE_ERROR, f"The message is malformed: {error}.") from None
        injector, place, _ = self._disturbance
        if injector.active:
            messages = injector.on_send(place, messages)
        if messages:
            partition = self._partition or self._hub.partition_for(messages[0].partition_key)
            try:
                partition.append(messages, unix_ms())
            except OSError as error:
                _log.error("The log of hub %s cannot be written: %s", self._hub.name, error.strerror)
                raise Refused(INTERNAL_ERROR, f"The log cannot be written: {error.strerror}.") from None


class AnswerLink:
    """The way back from a request node to the client."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def open(self) -> None:
        """Lets answers flow."""
        self.link.snd_settle_mode = Link.SND_SETTLED
        accept(self.link, _NODE_MAX_MESSAGE_BYTES)

    def send(self, answer: Answer, request: Message) -> None:
        """Answers one request."""
        reply = Message(body=answer.body, properties=answer.properties(), correlation_id=request.id)
        if request.reply_to:
            reply.address = request.reply_to
        delivery = self.link.delivery(_TAG.decode())
        self.link.send(reply.encode())
        delivery.settle()

    def close(self) -> None:
        """Holds nothing."""


class RequestLink(Intake):
    """The way to a request node. The answer goes out on the link that comes from the same node."""

    credit = NODE_CREDIT

    def __init__(self, link: Link, node: Node, answer_link: Callable[[str | None], AnswerLink | None]) -> None:
        super().__init__(link)
        self._node = node
        self._answer_link = answer_link

    @property
    def max_message_bytes(self) -> int:
        """What the real nodes tell."""
        return _NODE_MAX_MESSAGE_BYTES

    def take(self, encoded: bytes, message_format: int) -> None:  # noqa: ARG002 - requests have one format
        """Answers a request."""
        request = Message()
        try:
            request.decode(encoded)
        except ProtonException as error:
            raise Refused(DECODE_ERROR, f"The request is malformed: {error}.") from None
        back = self._answer_link(request.reply_to)
        if back is not None:
            back.send(self._answered(request), request)

    def _answered(self, request: Message) -> Answer:
        properties: Any = request.properties
        try:
            return self._node.answer(properties or {}, request.body, time.time())
        except Refused as refusal:
            return Answer.refusing(refusal)
