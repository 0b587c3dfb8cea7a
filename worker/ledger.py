"""The ledger: what was done under which idempotency key, for sinks whose effects cost something and cannot deduplicate.

Intent, act, outcome. The intent is written before the act, on condition that nobody else is at it; the outcome after
it, before the delivery counts as accepted. So whoever comes next, after a crash too, reads one of three things: it was
accepted, it may be done, or it is not known, and then the sink's `on_unknown` decides. It cannot make a destination act
exactly once; it can tell where nobody knows, and never acts blindly there unless it is told to.

An intent without outcome is unknown only after its deadline, because until then somebody may be acting.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

import orjson
import structlog

from worker.errors import (
    Conflict,
    InProgress,
    Misconfigured,
    OutcomeUnknown,
    PartlyAccepted,
    Rejected,
    SinkUnavailable,
    StoreUnavailable,
    WorkerError,
)
from worker.metrics import Metrics
from worker.retry import patiently
from worker.settings import OnUnknown, SinkSettings
from worker.sinks import Delivery, Sink, VerifyingSink
from worker.stores import StateVersion, Store, StoredEntry

_log = structlog.get_logger()

_OVERRUN_SECONDS = 5.0
"""An attempt that takes longer than its bound by this is ended: its outcome is then unknown."""
_CLOCKS_SECONDS = 5.0
"""How far the clocks of two machines may differ."""
_WRITE_SECONDS = 5.0
"""How long the store may take to keep an intent; after that it is too late to act on it."""
_LOOK_AGAIN_SECONDS = 5.0
"""Most attempts end long before their deadline: who waits for somebody else's looks at it so often."""
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 5.0

_T = TypeVar("_T")


class Later(WorkerError):
    """Nothing was done, because somebody else may be at it: try again, no sooner than `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class Skipped(WorkerError):
    """An earlier attempt may have taken effect, and the sink says `on_unknown: skip`: it becomes a dead letter."""


class EntryState(StrEnum):
    """What an entry says."""

    INTENT = "intent"
    ACCEPTED = "accepted"
    FAILED = "failed"
    """The attempt surely had no effect; or only on those in `served`."""
    SKIPPED = "skipped"
    """The outcome was unknown, and it was decided not to act again."""


class Entry(NamedTuple):
    """What stands in the store under one idempotency key."""

    state: EntryState
    by: str
    """Whose intent: unique to one delivery in one process."""
    deadline: float
    """Unix time after which the attempt has surely ended."""
    attempt: int
    served: tuple[str, ...] = ()
    """The recipients who have it, of several (errors.PartlyAccepted); an intent that follows keeps them."""
    again: str = ""
    """The operator's wish (`Delivery.again`) for which it is there; what was done before it does not count for it."""


def encode(entry: Entry) -> bytes:
    """The entry as JSON. What may be empty is left out then: so it was before there was such a thing."""
    content = entry._asdict()
    for name in ("served", "again"):
        if not content[name]:
            del content[name]
    return orjson.dumps(content)


def decode(payload: bytes) -> Entry:
    """The entry in these bytes. What cannot be read is an intent whose time is over: an unknown outcome."""
    try:
        content = orjson.loads(payload)
        return Entry(
            EntryState(content["state"]),
            content["by"],
            float(content["deadline"]),
            int(content["attempt"]),
            tuple(str(each) for each in content.get("served", ())),
            str(content.get("again", "")),
        )
    except (ValueError, TypeError, KeyError):
        return Entry(EntryState.INTENT, "", 0.0, 0)


@dataclass(slots=True)
class Memo:
    """What this process knows of a delivery's own attempts, beyond what the store says."""

    by: str = ""
    """What its intents are signed with here; empty before the first."""
    unknown: bool = False
    """The last attempt did not end in a definite way, whether it was begun here or by somebody who is gone."""
    unknown_since: float = 0.0
    """When that attempt ended, or has surely ended; Unix time. One that was cancelled has ended too."""
    served: frozenset[str] = frozenset()
    """Who has it already, by what this process did and by what the store said before an attempt."""


class Ledger:
    """The ledger as one sink uses it."""

    def __init__(
        self,
        store: Store,
        settings: SinkSettings,
        sink: Sink,
        *,
        by: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`by` is the name of the process; no other has it, nor had."""
        self._store = store
        self._sink = settings.name
        self._by = by
        self._numbers = count(1)
        self._on_unknown: OnUnknown = settings.when_unknown
        self._settles_seconds = settings.settled_after_seconds
        self._verify = sink.verify if isinstance(sink, VerifyingSink) else None
        self._act_seconds = settings.attempt_seconds + _OVERRUN_SECONDS
        self._metrics = metrics
        self._clock = clock

    async def once(self, delivery: Delivery, memo: Memo, act: Callable[[], Awaitable[None]], *, attempt: int) -> bool:
        """Acts, unless the ledger says that it is done. Returning means accepted; False: without having acted now.

        Raises what `act` raises; Later or StoreUnavailable when nothing was done; Skipped when nothing will be.
        Cancellation in the middle of the act leaves the intent, whose outcome is then unknown to all.
        """
        intent = await self._intend(delivery, memo, attempt)
        if intent is None:
            return False
        entry, version = intent
        try:
            await self._begin(memo, act)
        except PartlyAccepted as error:
            memo.unknown = False
            memo.served |= error.served
            await self._record_served(delivery, entry, version, memo.served)
            raise
        except (SinkUnavailable, Rejected, Misconfigured, Later):
            memo.unknown = False
            await self._note_failure(delivery, entry, version)
            raise
        except OutcomeUnknown as error:
            if self._on_unknown == "skip":
                await self._skip_own(delivery, entry, version, error)
            raise
        await self._record_accepted(delivery, entry, version)
        memo.unknown = False
        return True

    async def knows(self, delivery: Delivery) -> bool:
        """Whether the delivery was ever tried: after a failure too, before which an attempt may have had its effect."""
        stored = await self._store.read_entry(delivery.idempotency_key)
        return stored is not None and not _is_of_before(delivery, decode(stored.payload))

    # --- before the act

    async def _intend(self, delivery: Delivery, memo: Memo, attempt: int) -> tuple[Entry, StateVersion] | None:
        """Writes the intent; None where it was accepted already."""
        if not memo.by:  # most deliveries are new: then there is nothing to read
            with suppress(Conflict):
                return await self._write_intent(delivery, memo, attempt, expected=None)
        stored = await self._store.read_entry(delivery.idempotency_key)
        if stored is not None and not await self._may_act(delivery, memo, stored):
            return None
        try:
            return await self._write_intent(delivery, memo, attempt, expected=stored.version if stored else None)
        except Conflict:
            raise Later(f"sink {self._sink}: somebody else is at this delivery") from None

    async def _may_act(self, delivery: Delivery, memo: Memo, stored: StoredEntry) -> bool:
        entry = decode(stored.payload)
        if not _is_of_before(delivery, entry):
            memo.served |= frozenset(entry.served)
        elif entry.state is not EntryState.INTENT or entry.deadline <= self._clock():
            return True
        return await self._says_go(delivery, memo, stored, entry)

    async def _says_go(self, delivery: Delivery, memo: Memo, stored: StoredEntry, entry: Entry) -> bool:
        own = entry.by == memo.by
        match entry.state:
            case EntryState.ACCEPTED:
                self._count("already_accepted")
                return False
            case EntryState.FAILED:
                return True
            case EntryState.SKIPPED if delivery.replayed and not own:
                return True
            case EntryState.INTENT if own and not memo.unknown:
                return True  # the store's answer was lost, or the failure could not be recorded
            case EntryState.INTENT if not own and entry.deadline > self._clock():
                left = min(entry.deadline - self._clock(), _LOOK_AGAIN_SECONDS)
                raise Later(f"sink {self._sink}: somebody may be at this delivery", retry_after_seconds=left)
        if not own:
            memo.unknown, memo.unknown_since = True, entry.deadline
        self._let_settle(memo.unknown_since)
        return await self._may_act_again(delivery, stored, entry)

    def _let_settle(self, ended_at: float) -> None:
        """A destination that is asked too soon says that it has not done what it has: it would be done twice."""
        left = ended_at + self._settles_seconds - self._clock()
        if self._on_unknown == "verify" and left > 0:
            # No longer than that at once: a clock that was set back may be set right meanwhile.
            wait_seconds = min(left, self._settles_seconds)
            raise Later(f"sink {self._sink}: the destination may not know yet", retry_after_seconds=wait_seconds)

    async def _may_act_again(self, delivery: Delivery, stored: StoredEntry, entry: Entry) -> bool:
        """The outcome is unknown: what the sink says about that."""
        match self._on_unknown:
            case "resend":
                self._count("resent")
                return True
            case "skip":
                await self._write(delivery, entry._replace(state=EntryState.SKIPPED), expected=stored.version)
                raise self._skipped()
            case "verify":
                return await self._is_missing(delivery, stored, entry)

    async def _is_missing(self, delivery: Delivery, stored: StoredEntry, entry: Entry) -> bool:
        assert self._verify is not None, "the configuration refuses verify where a kind cannot"
        try:
            found = await self._bounded(partial(self._verify, delivery))
        except (Rejected, InProgress) as error:
            # Of the question, not of the delivery: nothing is known of that.
            said = f"sink {self._sink}: asked whether it took the delivery: {error}"
            raise OutcomeUnknown(said, of_before=True) from None
        if found is None:
            said = f"sink {self._sink}: the destination cannot say yet whether it took the delivery"
            raise OutcomeUnknown(said, of_before=True)
        if found:
            self._count("verified")
            await self._record_accepted(delivery, entry, stored.version)
            return False
        self._count("verified_missing")
        return True

    async def _write_intent(
        self, delivery: Delivery, memo: Memo, attempt: int, *, expected: StateVersion | None
    ) -> tuple[Entry, StateVersion]:
        began = self._clock()
        deadline = began + _WRITE_SECONDS + self._act_seconds + _CLOCKS_SECONDS
        memo.by = memo.by or f"{self._by}/{next(self._numbers)}"
        entry = Entry(EntryState.INTENT, memo.by, deadline, attempt, tuple(sorted(memo.served)), delivery.again)
        version = await self._write(delivery, entry, expected=expected)
        memo.unknown = False
        if self._clock() > began + _WRITE_SECONDS:
            raise Later(f"sink {self._sink}: the store took too long to keep the intent")
        return entry, version

    # --- the act, and after it

    async def _begin(self, memo: Memo, act: Callable[[], Awaitable[None]]) -> None:
        memo.unknown = True
        try:
            await self._bounded(act)
        finally:
            memo.unknown_since = self._clock()

    async def _bounded(self, act: Callable[[], Awaitable[_T]]) -> _T:
        limit = asyncio.timeout(self._act_seconds)
        try:
            async with limit:
                return await act()
        except TimeoutError:
            if not limit.expired():
                raise  # the sink's own: a bug there
            raise OutcomeUnknown(f"sink {self._sink}: no end after {self._act_seconds:g} s") from None

    async def _record_accepted(self, delivery: Delivery, entry: Entry, version: StateVersion | None) -> None:
        """Keeps at it until it is cancelled: an effect whose outcome is not written is one that nobody knows of."""
        accepted = entry._replace(state=EntryState.ACCEPTED)
        while True:
            try:
                await self._patiently(partial(self._write, delivery, accepted, expected=version))
            except Conflict:
                # Our own write, whose answer was lost; or somebody took us for dead: it is still true.
                stored = await self._patiently(partial(self._store.read_entry, delivery.idempotency_key))
                if stored is not None and decode(stored.payload).state is EntryState.ACCEPTED:
                    return
                version = stored.version if stored else None
            else:
                return

    async def _record_served(
        self, delivery: Delivery, entry: Entry, version: StateVersion | None, served: frozenset[str]
    ) -> None:
        """Keeps at it as well: who has it must never get it again."""
        partly = entry._replace(state=EntryState.FAILED, served=tuple(sorted(served)))
        while True:
            try:
                await self._patiently(partial(self._write, delivery, partly, expected=version))
            except Conflict:
                # Our own write, whose answer was lost; or somebody took us for dead and is at it: then it is told them.
                stored = await self._patiently(partial(self._store.read_entry, delivery.idempotency_key))
                there = decode(stored.payload) if stored else entry
                if there.state is EntryState.ACCEPTED or (there.by == entry.by and there.state is EntryState.FAILED):
                    return
                state = EntryState.FAILED if there.by == entry.by else there.state
                partly = there._replace(state=state, served=tuple(sorted(served.union(there.served))))
                version = stored.version if stored else None
            else:
                return

    async def _note_failure(self, delivery: Delivery, entry: Entry, version: StateVersion) -> None:
        """As well as can be: the next attempt of this process knows it anyway, another one's waits for the deadline."""
        try:
            await self._write(delivery, entry._replace(state=EntryState.FAILED), expected=version)
        except (Conflict, StoreUnavailable) as error:
            _log.debug("failure not recorded", sink=self._sink, error=str(error))

    async def _skip_own(self, delivery: Delivery, entry: Entry, version: StateVersion, error: OutcomeUnknown) -> None:
        skipped = entry._replace(state=EntryState.SKIPPED)
        try:
            await self._patiently(partial(self._write, delivery, skipped, expected=version))
        except Conflict:
            return  # our own write, whose answer was lost, or somebody else's: the next look at it tells
        raise self._skipped() from error

    async def _patiently(self, action: Callable[[], Awaitable[_T]]) -> _T:
        return await patiently(
            action,
            partial(_log.warning, "an outcome waits for the store", sink=self._sink),
            first_seconds=_FIRST_RETRY_SECONDS,
            longest_seconds=_LONGEST_RETRY_SECONDS,
        )

    async def _write(self, delivery: Delivery, entry: Entry, *, expected: StateVersion | None) -> StateVersion:
        return await self._store.write_entry(delivery.idempotency_key, encode(entry), expected=expected)

    def _skipped(self) -> Skipped:
        self._count("skipped")
        return Skipped("an earlier attempt may have reached the destination, and on_unknown is skip")

    def _count(self, decision: str) -> None:
        self._metrics.ledger_decisions.labels(self._sink, decision).inc()


def _is_of_before(delivery: Delivery, entry: Entry) -> bool:
    """Whether the entry tells of what was done before an operator wished to have it again."""
    return delivery.again not in {"", entry.again}
