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

from worker.errors import Rejected, Throttled, WorkerError

_PATIENCE_SECONDS = 1.0
"""Well below the two balance intervals that a lease keeps in hand (`lease`)."""

_T = TypeVar("_T")


class _Waiting(NamedTuple, Generic[_T]):
    item: _T
    since: float
    done: asyncio.Future[None]


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
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, self._clock(), done))
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
        while self._waiting:
            first = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = self._fresh(first)
            size = self._cut([each.item for each in batch]) if batch else 0
            self._waiting.extendleft(reversed(batch[size:]))
            if batch:
                await self._send_batch(batch[:size])
        self._sender = None

    async def _send_batch(self, batch: list[_Waiting[_T]]) -> None:
        try:
            await self._send([each.item for each in batch])
        except Rejected as error:
            if len(batch) == 1:
                _tell(batch, error)
                return
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if fresh := self._fresh(half):
                    await self._send_batch(fresh)
        except WorkerError as error:
            _tell(batch, error)
        except BaseException as error:
            # A bug, which must come out where the lane sees it; or the end, for those too who wait for this request.
            _tell(batch, error)
            raise
        else:
            _tell(batch, None)

    def _fresh(self, batch: list[_Waiting[_T]]) -> list[_Waiting[_T]]:
        """Those that are still wanted, and not too old to be sent."""
        now = self._clock()
        old = [each for each in batch if now - each.since > _PATIENCE_SECONDS]
        _tell(
            old, Throttled(f"{self._name}: its turn came too late, it has to be asked for again", retry_after_seconds=0)
        )
        return [each for each in batch if not each.done.done()]


def _tell(batch: list[_Waiting[_T]], error: BaseException | None) -> None:
    for each in batch:
        if each.done.done():
            continue  # cancelled meanwhile
        if error is None:
            each.done.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            each.done.cancel()
        else:
            each.done.set_exception(error)
