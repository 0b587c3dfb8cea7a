"""Several deliveries in one request: what comes while a request is under way goes together in the next.

Nobody waits for a batch to fill: a delivery that finds nothing under way goes at once, alone. Each learns how its own
batch ended. A batch that is rejected goes again in halves, so that one bad event does not take the others with it.
The lane has one delivery of a subject under way at a time, so order is kept whatever is in a batch.

Who waited too long is not sent: the lane asked the lease before it handed the delivery over, and has to ask again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from worker.errors import Gone, Rejected, Throttled, WorkerError
from worker.tracing import Span, current, together

PATIENCE_SECONDS = 1.0
"""No more than the two balance intervals that a lease keeps in hand (`lease`): 4 s unless set, 1 s at least."""
_COMING_BACK_SECONDS = 0.05
"""How long a batch waits for those that were just sent back to the lane: else, where a request takes longer than the
patience, the first of them to return would go alone each time, and all others too late again."""

_T = TypeVar("_T")


class _Waiting(NamedTuple, Generic[_T]):
    item: _T
    since: float
    done: asyncio.Future[None]
    span: Span | None = None


class Batcher(Generic[_T]):
    """One stream of requests, one after the other."""

    def __init__(
        self,
        send: Callable[[Sequence[_T]], Awaitable[None]],
        *,
        name: str,
        most: int,
        cut: Callable[[Sequence[_T]], int] = len,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`send` makes one request and raises as a sink's `deliver` does, for all of it.

        `name` is for its task. A request holds `most` at most, and of the first `most` as many as `cut` says: one or
        more, those that are small enough together.
        """
        self._send = send
        self._name = name
        self._most = most
        self._limit = most
        """What a request holds for now: half of what was rejected, until something is accepted."""
        self._cut = cut
        self._clock = clock
        self._waiting: deque[_Waiting[_T]] = deque()
        self._sender: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._sender is None

    async def put(self, item: _T) -> None:
        """Returns when it was accepted, and raises what its request ended with.

        Raises Throttled when it was not sent because its turn came too late. Cancelled while it waits, it is not sent.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, self._clock(), done, current()))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name=self._name)
        await done

    async def aclose(self) -> None:
        """Ends what is under way. Whoever still waits is cancelled."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft().done.cancel()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                if self._turn_away_the_late():
                    await asyncio.sleep(_COMING_BACK_SECONDS)
                    # Not waited for again: while events keep coming, somebody has always just become late.
                    self._turn_away_the_late()
                if batch := self._next_batch():
                    await self._send_batch(batch)
        finally:
            if self._sender is asyncio.current_task():  # not closed, nor closed and begun anew
                self._sender = None

    def _turn_away_the_late(self) -> bool:
        """Whether anybody had waited too long to be sent, and was told to ask again."""
        now, found = self._clock(), False
        while self._waiting and now - self._waiting[0].since > PATIENCE_SECONDS:  # the oldest are in front
            late = self._waiting.popleft()
            if not late.done.done():
                found = True
                error = Throttled(f"{self._name}: its turn came too late; it is asked for again", retry_after_seconds=0)
                late.done.set_exception(error)
        return found

    def _next_batch(self) -> list[_Waiting[_T]]:
        """The first ones that are still wanted, as many as go together."""
        first: list[_Waiting[_T]] = []
        while self._waiting and len(first) < self._limit:
            each = self._waiting.popleft()
            if not each.done.done():
                first.append(each)
        size = max(1, self._cut([each.item for each in first])) if first else 0
        self._waiting.extendleft(reversed(first[size:]))
        return first[:size]

    async def _send_batch(self, batch: list[_Waiting[_T]]) -> None:
        try:
            with together("send", [each.span for each in batch]):
                await self._send([each.item for each in batch])
        except Rejected as error:
            if len(batch) == 1 or isinstance(error, Gone):  # which is not about what is in it
                _tell(batch, error)
            else:
                # In halves, and not at once: by now its turn may be over, and then it has to come back, to a batch that
                # is smaller all the same.
                self._limit = len(batch) // 2
                self._waiting.extendleft(reversed(batch))
        except WorkerError as error:
            _tell(batch, error)
        except asyncio.CancelledError:
            for each in batch:
                each.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a bug: it comes out in those who wait, where the lane sees it
            _tell(batch, error)
        else:
            self._limit = min(self._most, self._limit * 2)
            _tell(batch, None)


def _tell(batch: list[_Waiting[_T]], error: Exception | None) -> None:
    for each in batch:
        if each.done.done():
            continue  # cancelled meanwhile
        if error is None:
            each.done.set_result(None)
        else:
            each.done.set_exception(error)
