"""One client's TCP connection: bytes in, Proton as the AMQP engine, bytes out.

Proton does the protocol and no I/O; asyncio does the I/O. Frames go into the engine one at a time, so that what the
engine makes of a frame can be seen together with what the frame itself says.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

from proton import (
    Collector,
    Condition,
    Connection,
    Data,
    Delivery,
    Event,
    EventType,
    Link,
    Session,
    Terminus,
    Transport,
    TransportException,
)

from worker.local import frames
from worker.local.cbs import TokenCheck
from worker.local.encoding import MalformedError
from worker.local.faults import Place
from worker.local.frames import FrameCutter
from worker.local.hubs import Hubs
from worker.local.injector import Injector
from worker.local.links import (
    AnswerLink,
    ConsumerLink,
    Disturbance,
    Endpoint,
    Intake,
    ProducerLink,
    RequestLink,
    Wish,
    end,
    refuse,
)
from worker.local.management import CBS, MANAGEMENT, CbsNode, ManagementNode, Node
from worker.local.positions import FROM_THE_START, StartPosition, parse_selector
from worker.local.refusals import CONNECTION_FORCED, UNAUTHORIZED_ACCESS, Refused
from worker.local.wire import Wire

_log = logging.getLogger(__name__)

CHANNEL_MAX = 4999
IDLE_TIMEOUT_SECONDS = 120
_SELECTOR_FILTER = "apache.org:selector-filter:string"
_EPOCH = "com.microsoft:epoch"
_RECEIVER_NAME = "com.microsoft:receiver-name"

# One turn of one consumer: about 64 kB, so that many consumers share the loop and the socket evenly.
_MESSAGES_A_TURN = 64
_WRITE_BUFFER_BYTES = 256 * 1024


class ClientConnection(asyncio.Protocol):
    """The broker's side of one connection."""

    def __init__(
        self,
        hubs: Hubs,
        tokens: TokenCheck,
        injector: Injector,
        on_opened: Callable[["ClientConnection"], None],
        on_closed: Callable[["ClientConnection"], None],
    ) -> None:
        self._hubs = hubs
        self._injector = injector
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._cbs = CbsNode(hubs, tokens)
        self._management = ManagementNode(hubs, tokens)
        self._incoming = FrameCutter(frames.MAX_FRAME_BYTES)
        self._outgoing = FrameCutter()
        self._endpoints: dict[Link, Endpoint] = {}
        self._message_formats: dict[tuple[int, int], int] = {}
        self._frame = b""
        self._wake_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.Handle | None = None
        self._writable = True
        self._wire: Wire | None = None
        self._open_engine()

    def _open_engine(self) -> None:
        self._engine = Transport(Transport.SERVER)
        self._engine.max_frame_size = frames.MAX_FRAME_BYTES
        self._engine.channel_max = CHANNEL_MAX
        # Proton tells the peer half of what it tolerates itself.
        self._engine.idle_timeout = 2 * IDLE_TIMEOUT_SECONDS
        self._engine.sasl().allowed_mechs("ANONYMOUS")
        self._collector = Collector()
        self._amqp = Connection()
        self._amqp.container = "local-hub"
        self._amqp.collect(self._collector)
        self._engine.bind(self._amqp)
        # Each is given what its event is about: a connection, a session, a link, a delivery.
        self._handlers: dict[EventType, Callable[[Any], None]] = {
            Event.CONNECTION_REMOTE_OPEN: self._on_connection_open,
            Event.CONNECTION_REMOTE_CLOSE: Connection.close,
            Event.SESSION_REMOTE_OPEN: Session.open,
            Event.SESSION_REMOTE_CLOSE: self._on_session_close,
            Event.LINK_REMOTE_OPEN: self._on_attach,
            Event.LINK_REMOTE_CLOSE: self._on_detach,
            Event.LINK_REMOTE_DETACH: self._on_detach,
            Event.LINK_FLOW: self._on_flow,
            Event.DELIVERY: self._on_delivery,
        }

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client has connected."""
        self._socket = cast("asyncio.Transport", transport)
        self._socket.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._socket.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._write: Callable[[bytes], None] = self._socket.write
        self._hang_up = self._socket.close
        self._on_opened(self)  # not before: nobody can hang up on whom nobody has
        if self._injector.active:
            self._injector.connected(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._wire is None:
            self._take(data)
        else:
            self._wire.incoming.put(data)

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._incoming.cut(data):
                self._take_frame(frame)
        except (MalformedError, TransportException) as error:
            _log.warning("Connection closed: %s", error)
            self._flush()
            self._socket.close()
            return
        self._flush()

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable = True
        self.wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's; how it ended does not matter
        """Nothing more comes or goes."""
        for endpoint in self._endpoints.values():
            endpoint.close()
        self._endpoints.clear()
        for handle in (self._wake_handle, self._tick_handle):
            if handle is not None:
                handle.cancel()
        if self._wire is not None:
            self._wire.discard()
        self._engine.unbind()
        self._collector.release()
        self._on_closed(self)

    # From the broker and the logs.

    def close(self) -> None:
        """Says goodbye: the broker stops."""
        self._amqp.condition = Condition(CONNECTION_FORCED, "The broker stops.")
        self._amqp.close()
        self._flush()
        self._socket.close()

    @property
    def consumers(self) -> int:
        """How many consumers' links it holds."""
        return sum(isinstance(endpoint, ConsumerLink) for endpoint in self._endpoints.values())

    def abort(self) -> None:
        """Hangs up."""
        self._socket.abort()

    def wake(self) -> None:
        """Looks, once the loop is free, whether there is something to deliver or to say."""
        if self._wake_handle is None:
            self._wake_handle = self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._wake_handle = None
        unfinished = False
        if self._writable:
            consumers = [endpoint for endpoint in self._endpoints.values() if isinstance(endpoint, ConsumerLink)]
            # Everyone gets a turn, so this is no `any`, which would stop at the first.
            unfinished = sum(consumer.deliver(_MESSAGES_A_TURN) for consumer in consumers) > 0
        self._flush()  # Also to a client that does not keep up: it must learn that its link has ended.
        if unfinished:
            self.wake()

    # From the faults.

    def places(self) -> list[Place]:
        """What its links are for."""
        return [Place.of(link) for link in self._endpoints]

    def detach(self, covers: Callable[[Place], bool], refusal: Refused) -> int:
        """Ends the links that are covered, and says how many they were."""
        covered = [link for link in self._endpoints if covers(Place.of(link))]
        for link in covered:
            self._endpoints.pop(link).close()
            end(link, refusal)
        self.wake()
        return len(covered)

    def disturbed(self) -> Wire:
        """The way to the socket, for whoever is to make it slow or dead; from now on everything passes there."""
        if self._wire is None:
            self._wire = Wire(self._socket, self._take)
            self._write, self._hang_up = self._wire.outgoing.put, self._wire.close
        return self._wire

    def delay(self, incoming_seconds: float, outgoing_seconds: float) -> None:
        """From now on, holds back for so long what comes and what goes."""
        if self._wire is not None or incoming_seconds or outgoing_seconds:
            self.disturbed().delay(incoming_seconds, outgoing_seconds)

    # Bytes to and from the engine.

    def _take_frame(self, frame: bytes) -> None:
        performative = frames.performative_of(frame)
        if performative == frames.OPEN:
            frame = frames.with_room_for_padding(frame)
        elif performative == frames.TRANSFER:
            self._note_message_format(frame)
        self._frame = frame
        while frame and (capacity := self._engine.capacity()) > 0:
            self._engine.push(frame[:capacity])
            frame = frame[capacity:]
        self._handle_events()

    def _note_message_format(self, transfer: bytes) -> None:
        handle, message_format = frames.transfer_of(transfer)
        if message_format is not None:
            self._message_formats[frames.channel_of(transfer), handle] = message_format

    def _message_format(self) -> int:
        handle, _ = frames.transfer_of(self._frame)
        return self._message_formats.get((frames.channel_of(self._frame), handle), 0)

    def _handle_events(self) -> None:
        while (event := self._collector.peek()) is not None:
            handler = self._handlers.get(event.type)
            if handler is not None:
                handler(event.context)
            self._collector.pop()

    def _flush(self) -> None:
        if self._socket.is_closing():
            return
        output = []
        while (pending := self._engine.pending()) > 0:
            output += [frames.padded(frame) for frame in self._outgoing.cut(self._engine.peek(pending) or b"")]
            self._engine.pop(pending)
        if output:
            self._write(b"".join(output))
        self._handle_events()
        if self._engine.closed:
            self._hang_up()

    def _tick(self) -> None:
        """Lets the engine send a heartbeat, or give up a client that sends none."""
        now = self._loop.time()
        deadline = self._engine.tick(now)
        self._flush()
        if deadline and not self._socket.is_closing():
            self._tick_handle = self._loop.call_at(deadline, self._tick)

    # From the engine.

    def _on_connection_open(self, connection: Connection) -> None:
        connection.open()
        self._tick_handle = self._loop.call_soon(self._tick)

    def _on_session_close(self, session: Session) -> None:
        for link in [link for link in self._endpoints if link.session == session]:
            self._endpoints.pop(link).close()
        session.close()

    def _on_detach(self, link: Link) -> None:
        endpoint = self._endpoints.pop(link, None)
        if endpoint is not None:
            endpoint.close()
        link.close()
        link.free()

    def _on_flow(self, _link: Link) -> None:
        self.wake()

    def _on_delivery(self, delivery: Delivery) -> None:
        endpoint = self._endpoints.get(delivery.link)
        if isinstance(endpoint, Intake) and (delivery.readable or delivery.aborted):
            endpoint.receive(delivery, self._message_format())

    def _on_attach(self, link: Link) -> None:
        try:
            place = Place.of(link)
            if self._injector.active and self._injector.ignores(place):
                return
            endpoint = self._endpoint(link, place)
            endpoint.open()
        except Refused as refusal:
            refuse(link, refusal)
        else:
            self._endpoints[link] = endpoint
            self.wake()
            if self._injector.active:
                self._injector.attached(self)

    def _endpoint(self, link: Link, place: Place) -> ConsumerLink | ProducerLink | AnswerLink | RequestLink:
        if self._injector.active:
            self._injector.check("attach", place)
        terminus: Terminus = link.remote_source if link.is_sender else link.remote_target
        address: str = terminus.address or ""
        node = self._node(address)
        if node is not None:
            return AnswerLink(link) if link.is_sender else RequestLink(link, node, self._answers_from(address))
        if not self._cbs.admits(address):
            raise Refused(UNAUTHORIZED_ACCESS, f"Unauthorized access to '{address}': no token was put for it.")
        if link.is_sender:
            return self._consumer(link, address, place)
        return ProducerLink(link, *self._hubs.target(address), self._disturbance(link, place))

    def _disturbance(self, link: Link, place: Place) -> Disturbance:
        def later(seconds: float, action: Callable[[], None]) -> None:
            def act() -> None:
                if link in self._endpoints:
                    action()
                    self.wake()

            self._loop.call_later(seconds, act)

        return Disturbance(self._injector, place, later)

    def _node(self, address: str) -> Node | None:
        nodes: dict[str, Node] = {CBS: self._cbs, MANAGEMENT: self._management}
        return nodes.get(address.rpartition("/")[2])

    def _answers_from(self, address: str) -> Callable[[str | None], AnswerLink | None]:
        def find(reply_to: str | None) -> AnswerLink | None:
            candidates = [
                endpoint
                for endpoint in self._endpoints.values()
                if isinstance(endpoint, AnswerLink) and endpoint.link.remote_source.address == address
            ]
            named = [one for one in candidates if one.link.remote_target.address == reply_to]
            return next(iter(named or candidates), None)

        return find

    def _consumer(self, link: Link, address: str, place: Place) -> ConsumerLink:
        partition, group = self._hubs.source(address)
        properties = link.remote_properties or {}
        epoch = properties.get(_EPOCH)
        wish = Wish(
            partition,
            group,
            position=_start_position(link),
            epoch=epoch if isinstance(epoch, int) else None,
            receiver_name=str(properties.get(_RECEIVER_NAME, "nil")),
            runtime_metric=frames.wants_runtime_metric(self._frame),
            go_back=self._injector.go_back(place),
        )
        return ConsumerLink(link, wish, self.wake)


def _start_position(link: Link) -> StartPosition:
    data: Data = link.remote_source.filter
    data.rewind()
    filters = data.get_object() if data.next() is not None else None
    selector = filters.get(_SELECTOR_FILTER) if isinstance(filters, dict) else None
    return FROM_THE_START if selector is None else parse_selector(str(getattr(selector, "value", selector)))
