"""Dead letters as an operator handles them: chosen, looked at, dropped, or asked to be delivered again.

Behind `worker deadletter`. It works on the store alone, while workers run and when none does; it delivers nothing: a
replay is a request that the owner of the letter's partition carries out (`replay`). Letters are taken one page after
the other, so that a store full of them needs no more memory than a few.
"""

import base64
import json
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from worker.errors import ConfigError
from worker.events import UnixSeconds
from worker.stores import DeadLetter, HubScope, ReplayRequest, Store
from worker.stores.layout import letter_name, letter_to_json

Row = dict[str, Any]
"""What `worker deadletter list --json` prints for one letter."""

_BATCH = 200
_SHOWN_CANDIDATES = 5
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNIT_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@dataclass(frozen=True, slots=True)
class Filters:
    """What letters are chosen by; None: anything."""

    sink: str | None = None
    reason: str | None = None
    route: str | None = None
    partition: str | None = None
    type: str | None = None
    """In any case, as in a route's filter."""
    subject: str | None = None
    """What the subject begins with."""
    since: UnixSeconds | None = None
    until: UnixSeconds | None = None
    """When it became a dead letter; `until` itself is not included."""

    @property
    def empty(self) -> bool:
        """Whether every letter passes."""
        return self == Filters()

    def match(self, letter: DeadLetter) -> bool:
        """Whether the letter passes all that is given."""
        exact = (
            (self.sink, letter.sink),
            (self.reason, letter.reason),
            (self.route, letter.route),
            (self.partition, letter.partition),
            (_folded(self.type), _folded(letter.type)),
        )
        return (
            all(wanted is None or wanted == value for wanted, value in exact)
            and (self.subject is None or (letter.subject or "").startswith(self.subject))
            and (self.since is None or letter.time >= self.since)
            and (self.until is None or letter.time < self.until)
        )


def _folded(text: str | None) -> str | None:
    return None if text is None else text.casefold()


class Found(NamedTuple):
    """What short forms of ids stand for."""

    letters: list[DeadLetter]
    """Oldest first, without bodies."""
    missing: list[str]
    """Those that no letter's id begins with."""


async def find(store: Store, ids: Iterable[str]) -> Found:
    """The letters with these ids, each given whole or by its beginning.

    Raises ConfigError when a beginning is that of several: nothing is guessed.
    """
    candidates: dict[str, list[DeadLetter]] = {each.lower(): [] for each in ids}
    if "" in candidates:
        raise ConfigError(["an ID is empty: `worker deadletter list` shows them"])
    async for letter in store.dead_letters(bodies=False):
        for given, found in candidates.items():
            if letter.id.lower().startswith(given) and len(found) <= _SHOWN_CANDIDATES:
                found.append(letter)
    if mistakes := [mistake for given, found in candidates.items() if (mistake := _ambiguity(given, found))]:
        raise ConfigError(mistakes)
    letters = {letter_name(letter): letter for found in candidates.values() for letter in found}
    return Found(
        [letters[name] for name in sorted(letters)], [given for given, found in candidates.items() if not found]
    )


def _ambiguity(given: str, found: list[DeadLetter]) -> str | None:
    if len(found) < 2:
        return None
    shown = ", ".join(letter.id for letter in found[:_SHOWN_CANDIDATES])
    more = ", …" if len(found) > _SHOWN_CANDIDATES else ""
    return f"the ID {given} is the beginning of several: {shown}{more}; write more of it"


async def choose(
    letters: AsyncIterable[DeadLetter], filters: Filters, *, limit: int | None = None
) -> AsyncIterator[DeadLetter]:
    """Those that pass, in their order; at most `limit`."""
    left = limit
    if left == 0:
        return
    async for letter in letters:
        if filters.match(letter):
            yield letter
            if left is not None:
                left -= 1
                if left == 0:
                    return


async def request_replays(store: Store, letters: AsyncIterable[DeadLetter], done: Callable[[DeadLetter], None]) -> int:
    """Asks for each to be delivered again, and says so; returns how many. May be interrupted and repeated."""

    async def request(batch: list[DeadLetter]) -> None:
        await store.request_replays([ReplayRequest(letter.partition, letter_name(letter)) for letter in batch])

    return await _in_batches(letters, request, done)


async def drop(store: Store, letters: AsyncIterable[DeadLetter], done: Callable[[DeadLetter], None]) -> int:
    """Deletes each, and says so; returns how many. May be interrupted and repeated."""

    async def delete(batch: list[DeadLetter]) -> None:
        await store.drop_dead_letters([letter_name(letter) for letter in batch])

    return await _in_batches(letters, delete, done)


async def _in_batches(
    letters: AsyncIterable[DeadLetter],
    act: Callable[[list[DeadLetter]], Awaitable[None]],
    done: Callable[[DeadLetter], None],
) -> int:
    count = 0
    async for batch in _batches(letters):
        await act(batch)
        for letter in batch:
            done(letter)
        count += len(batch)
    return count


async def _batches(letters: AsyncIterable[DeadLetter]) -> AsyncIterator[list[DeadLetter]]:
    batch: list[DeadLetter] = []
    async for letter in letters:
        batch.append(letter)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def someone_works(
    store: Store, scope: HubScope, *, expiry_seconds: float, clock: Callable[[], float] = time.time
) -> bool:
    """Whether a worker holds a partition, as far as the store knows: one that died a moment ago may still count."""
    fresh = clock() - expiry_seconds
    rows = await store.checkpoints.list_ownership(*scope)
    return any(row["owner_id"] and row["last_modified_time"] > fresh for row in rows)


# --- as rows


def row_of(letter: DeadLetter) -> Row:
    """The letter as a list shows it."""
    return {
        "id": letter.id,
        "time": time_text(letter.time),
        "reason": letter.reason,
        "detail": letter.detail,
        "route": letter.route,
        "sink": letter.sink,
        "attempts": letter.attempts,
        "partition": letter.partition,
        "sequence_number": letter.sequence_number,
        "index": letter.index,
        "event_id": letter.event_id,
        "type": letter.type,
        "subject": letter.subject,
        "source": letter.source,
    }


def whole_row_of(letter: DeadLetter) -> Row:
    """All of the letter; the body as JSON, as text, or as base64, whichever it can be."""
    encoding, body = _readable(letter.body)
    return {
        **row_of(letter),
        "idempotency_key": letter.idempotency_key,
        "enqueued": time_text(letter.enqueued_at),
        "content_type": letter.content_type,
        # As they are kept: a property that JSON has no word for is an object with one `$` key.
        "properties": json.loads(letter_to_json(letter))["properties"],
        "body_encoding": encoding,
        "body": body,
    }


def _readable(body: bytes) -> tuple[str, Any]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "base64", base64.b64encode(body).decode("ascii")
    try:
        # The standard library, not orjson: it keeps integers of any size as they are.
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, indent=2)  # what nests too deep to be written is shown as it came
    except (ValueError, RecursionError):
        return "text", text
    return "json", value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def time_text(seconds: UnixSeconds) -> str:
    """ISO 8601, UTC, with milliseconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def time_of(text: str, *, now: float) -> UnixSeconds:
    """A point in time, given as ISO 8601 (no zone means UTC) or as an age such as 2h. Raises ValueError."""
    if age := _AGE.fullmatch(text.strip()):
        return UnixSeconds(now - float(age[1]) * _UNIT_SECONDS[age[2]])
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write an age such as 30m, 2h or 3d, or a time such as 2026-01-31T06:00:00Z"
        ) from None
    return UnixSeconds((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
