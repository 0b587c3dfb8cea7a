"""Dead letters, and the requests to replay them, as blobs: one each."""

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from azure.storage.blob.aio import BlobClient

from worker.errors import StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores import DeadLetter, ReplayRequest
from worker.stores.container import Changed, Container, batches, delete, read, read_metadata, together, write
from worker.stores.layout import (
    is_older,
    is_understood,
    letter_from_json,
    letter_name,
    letter_to_json,
    name_after,
    without_body,
)

_LETTERS_PER_PAGE = 1_000
"""With their metadata over 1 MB: the service would send five times that, and parsing it is part of the time limit."""
_EXPIRING_PER_PAGE = 100
_REPLAYS_PER_PAGE = 250
"""Small, because a page of thousands would hold up the event loop of a worker while it is parsed."""

_PARTITION = "partition"
_SUMMARY = "letter"
_LONGEST_SUMMARY = 7_000
"""The service takes 8 KiB of metadata for a blob."""


class _Listed(NamedTuple):
    """A letter as a list request gives it; the summary only where it was asked for and is not too long."""

    name: str
    etag: str
    summary: bytes | None


class BlobLetters:
    """The part of the Store protocol that is about dead letters."""

    def __init__(self, container: Container, prefix: str) -> None:
        self._container = container
        self._letters = f"{prefix}/deadletters/"
        self._replays = f"{prefix}/replays/"

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """One blob each, some at a time. After an error those that were written stay, and are met again next time."""
        for some in batches(letters):
            await together(self._put_dead_letter(letter) for letter in some)

    async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        """Oldest first, by when the hub took the message; on request without bodies and properties.

        Without, a list request brings a thousand; with, each letter costs a request of its own.
        """
        include = None if bodies else ["metadata"]
        async for page in self._pages(include=include, results_per_page=_LETTERS_PER_PAGE):
            for some in batches(page):
                for letter in await together(self._dead_letter(listed, bodies=bodies) for listed in some):
                    if letter is not None:
                        yield letter

    async def read_dead_letter(self, name: str) -> DeadLetter | None:
        """One request."""
        async with self._container.reaching("read a dead letter"):
            found = await read(self._letter_blob(name))
        return self._parsed(name, found[0]) if found else None

    async def drop_dead_letters(self, names: Sequence[str]) -> int:
        """Three requests each, some at a time. Needs the right to delete."""
        dropped = 0
        for some in batches(names):
            dropped += sum(await together(self._drop(name) for name in some))
        return dropped

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """A list request for each hundred, and a request for each that is deleted. Needs the right to delete."""
        expired, end = 0, f"{self._letters}{name_after(before)}"
        async for page in self._pages(end, include=["metadata"], results_per_page=_EXPIRING_PER_PAGE):
            for some in batches(page):
                expired += sum(await together(self._expire(listed, before) for listed in some))
        return expired

    async def request_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """One blob each, some at a time. After an error those that were written stay, and are met again next time."""
        for some in batches(requests):
            await together(self._request_replay(request) for request in some)

    async def replays(self) -> list[ReplayRequest]:
        """A list request for each 250."""
        found: list[ReplayRequest] = []
        options = {"include": ["metadata"], "results_per_page": _REPLAYS_PER_PAGE}
        async for page in self._container.pages(self._replays, "list the requests to replay", **options):
            found += (
                ReplayRequest(PartitionId(blob.metadata[_PARTITION]), blob.name.removeprefix(self._replays))
                for blob in page
                if _PARTITION in (blob.metadata or {})  # anything else is no request
            )
        return sorted(found, key=lambda request: request.letter)

    async def end_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """One request each, some at a time. Needs the right to delete."""
        for some in batches(requests):
            await together(self._end_replay(request.letter) for request in some)

    async def _put_dead_letter(self, letter: DeadLetter) -> None:
        blob = self._letter_blob(letter_name(letter))
        async with self._container.reaching("write a dead letter"):
            try:
                await write(blob, letter_to_json(letter), _summary(letter), expected=None)
            except Changed:
                return  # it is there already

    async def _pages(self, end: str | None = None, **options: Any) -> AsyncIterator[list[_Listed]]:
        """All letters in the order of their names, or only those before `end`."""
        async for page in self._container.pages(self._letters, "list the dead letters", **options):
            wanted = [_listed(blob.name, blob.etag, blob.metadata) for blob in page if end is None or blob.name < end]
            yield wanted
            if len(wanted) < len(page):
                return

    async def _dead_letter(self, listed: _Listed, *, bodies: bool) -> DeadLetter | None:
        row = await self._row(listed)
        if row is None:
            return None  # dropped since it was listed
        letter = self._parsed(listed.name, row)
        return letter if bodies else without_body(letter)

    async def _row(self, listed: _Listed) -> bytes | None:
        """What is known of the letter from the list, else the whole of it."""
        if listed.summary is not None:
            return listed.summary
        async with self._container.reaching("read a dead letter"):
            found = await read(self._container.client.get_blob_client(listed.name))
        return found[0] if found else None

    async def _expire(self, listed: _Listed, before: UnixSeconds) -> bool:
        row = await self._row(listed)
        return row is not None and is_older(row, before) and await self._delete(listed)

    async def _drop(self, name: str) -> bool:
        async with self._container.reaching("read a dead letter"):
            found = await read_metadata(self._letter_blob(name))
        dropped = False
        if found.etag is not None:
            listed = _listed(f"{self._letters}{name}", found.etag, found.values)
            row = await self._row(listed)
            if row is not None and not is_understood(row):
                return False
            dropped = await self._delete(listed)
        await self._end_replay(name)  # last: a request without its letter is ended by who meets it
        return dropped

    async def _delete(self, listed: _Listed) -> bool:
        async with self._container.reaching("delete a dead letter"):
            try:
                await delete(self._container.client.get_blob_client(listed.name), expected=listed.etag)
            except Changed:
                return False  # dropped since it was looked at, or even written anew
        return True

    async def _request_replay(self, request: ReplayRequest) -> None:
        blob = self._replay_blob(request.letter)
        async with self._container.reaching("write a request to replay"):
            try:
                await write(blob, b"", {_PARTITION: request.partition}, expected=None)
            except Changed:
                return  # it is there already

    async def _end_replay(self, name: str) -> None:
        async with self._container.reaching("delete a request to replay"):
            try:
                await delete(self._replay_blob(name), expected=None)
            except Changed:
                return  # it is gone already

    def _letter_blob(self, name: str) -> BlobClient:
        return self._container.client.get_blob_client(f"{self._letters}{name}")

    def _replay_blob(self, name: str) -> BlobClient:
        return self._container.client.get_blob_client(f"{self._replays}{name}")

    def _parsed(self, name: str, row: bytes) -> DeadLetter:
        try:
            return letter_from_json(row)
        except ValueError as error:
            raise StoreUnavailable(
                f"The dead letter {name} in {self._container.where} cannot be read: {error}"
            ) from error


def _listed(name: str, etag: str, metadata: dict[str, str] | None) -> _Listed:
    summary = (metadata or {}).get(_SUMMARY)
    return _Listed(name, etag, None if summary is None else base64.b64decode(summary))


def _summary(letter: DeadLetter) -> dict[str, str]:
    """The letter as a list shows it, in metadata; left out when it is too long for that."""
    encoded = base64.b64encode(letter_to_json(without_body(letter))).decode("ascii")
    return {_SUMMARY: encoded} if len(encoded) <= _LONGEST_SUMMARY else {}
