"""The handshake before the first event: asks the destination whether it wants events at all, and how fast.

As the CloudEvents specification of webhooks has it ("abuse protection"): OPTIONS with the name of the sender, and the
destination consents in a header, whatever the status. It is asked once, by whoever comes first, and again when it has
changed its mind (401, 403) or the URL is another one. The rate that it allows is kept by each process for itself.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from hashlib import sha256

from yarl import URL

from worker.errors import Gone, Misconfigured, OutcomeUnknown, SinkUnavailable, Throttled, WorkerError
from worker.sinks.limiter import Rate, TokenBuckets
from worker.sinks.posting import Answer, Poster

REQUEST_ORIGIN = "WebHook-Request-Origin"
_ALLOWED_ORIGIN = "WebHook-Allowed-Origin"
_ALLOWED_RATE = "WebHook-Allowed-Rate"
_FOR_NOW = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of a destination, or of something before it, that cannot answer for the moment. It may be asked again."""


class Handshake:
    """The consent of one sink's destination."""

    def __init__(self, poster: Poster, *, sink: str, origin: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`origin` names the sender, all its processes together."""
        self._poster = poster
        self._sink = sink
        self._origin = origin
        self._buckets = TokenBuckets(clock)
        self._rates: tuple[Rate, ...] = ()
        self._agreed: bytes | None = None
        """A digest of the URL that has consented."""
        self._asking: asyncio.Task[None] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What each request says of its sender."""
        return {REQUEST_ORIGIN: self._origin}

    async def agree(self, url: URL, headers: Mapping[str, str], secrets: tuple[str, ...]) -> None:
        """Returns when the destination has consented, perhaps earlier. Asks at most once at a time, for all who wait.

        Raises Misconfigured where it does not consent, SinkUnavailable where it cannot be asked, Gone.
        """
        destination = sha256(str(url).encode()).digest()
        while self._agreed != destination:
            if self._asking is None:
                asking = self._ask(url, {**headers, **self.headers}, secrets, destination)
                self._asking = asyncio.create_task(asking, name=f"sink {self._sink}, handshake")
                self._asking.add_done_callback(self._asked)
            # Shielded: who is cancelled takes nobody along who waits for the same answer.
            await asyncio.shield(self._asking)

    def forget(self) -> None:
        """The destination refuses the worker: it is asked anew."""
        self._agreed = None

    def wait_seconds(self) -> float:
        """How long nothing can be sent to keep the rate that was allowed."""
        return self._buckets.wait_seconds(self._rates)

    def take_turn(self) -> None:
        """Counts a request. Raises Throttled where the rate leaves nothing for it now."""
        if wait_seconds := self._buckets.take(self._rates):
            raise Throttled(
                f"sink {self._sink}: nothing more is sent now, to keep the rate that the destination allows",
                retry_after_seconds=wait_seconds,
            )

    async def aclose(self) -> None:
        """Ends a question that is under way."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, url: URL, headers: Mapping[str, str], secrets: tuple[str, ...], destination: bytes) -> None:
        try:
            answer = await self._poster.request("OPTIONS", url, None, headers)
        except OutcomeUnknown as error:
            raise SinkUnavailable(str(error)) from None  # no event was sent: whatever was done with this does no harm
        if not self._consents(answer):
            raise self._refusal(answer, secrets)
        self._rates = _rates(answer.headers.get(_ALLOWED_RATE, "*"))
        self._agreed = destination

    def _asked(self, asking: asyncio.Task[None]) -> None:
        if self._asking is asking:
            self._asking = None
        if not asking.cancelled():
            asking.exception()  # whoever waited has it; perhaps all were cancelled

    def _consents(self, answer: Answer) -> bool:
        allowed = answer.headers.get(_ALLOWED_ORIGIN, "").strip()
        return allowed == "*" or allowed.casefold() == self._origin.casefold()

    def _refusal(self, answer: Answer, secrets: tuple[str, ...]) -> WorkerError:
        said = answer.said(secrets)
        if answer.status == 410:
            return Gone(said)
        if answer.status in _FOR_NOW:
            return SinkUnavailable(said, retry_after_seconds=answer.retry_after_seconds)
        how = "names another one in" if _ALLOWED_ORIGIN in answer.headers else "has no"
        return Misconfigured(
            f"{answer.where} does not consent to events from {self._origin}: its answer to OPTIONS ({answer.status}) "
            f"{how} {_ALLOWED_ORIGIN}; let it consent, or remove handshake"
        )


def _rates(allowed: str) -> tuple[Rate, ...]:
    """A number of requests per minute, spread evenly; nothing that can be kept is no limit."""
    text = allowed.strip()
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
    return (Rate(1.0, 60.0 / number),) if number else ()
