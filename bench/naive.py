"""The loop that people write by hand, to compare with: `python -m bench.naive`, configured by the environment.

receive_batch, POST each event, checkpoint. With the care that is usual: an event is tried three times, an error is
logged and does not stop the loop, what cannot be read is logged and skipped.
"""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import aiohttp
from azure.eventhub import EventData
from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient, PartitionContext
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

TRIES = 3
AGAIN_SECONDS = 0.5
TIMEOUT_SECONDS = 3
BATCH = 100

log = logging.getLogger("naive")


class SqliteCheckpointStore(CheckpointStore):
    """What the SDK's BlobCheckpointStore does, in a file: ownership by ETag, checkpoints as they come."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> Iterable[dict[str, Any]]:
        """All ownership of the group."""
        return await asyncio.to_thread(
            self._list, "ownership", fully_qualified_namespace, eventhub_name, consumer_group
        )

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> Iterable[dict[str, Any]]:
        """All checkpoints of the group."""
        return await asyncio.to_thread(
            self._list, "checkpoint", fully_qualified_namespace, eventhub_name, consumer_group
        )

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> Iterable[dict[str, Any]]:
        """Those of the list that nobody changed meanwhile, as they are now."""
        return await asyncio.to_thread(lambda: [each for one in ownership_list if (each := self._claim(one))])

    async def update_checkpoint(self, checkpoint: dict[str, Any], **_: Any) -> None:
        """Writes it, whatever was there."""
        await asyncio.to_thread(self._put, "checkpoint", checkpoint)

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        database.execute("CREATE TABLE IF NOT EXISTS rows (kind TEXT, key TEXT, row TEXT, PRIMARY KEY (kind, key))")
        return database

    def _list(self, kind: str, *scope: str) -> list[dict[str, Any]]:
        with closing(self._connect()) as database:
            rows = database.execute("SELECT row FROM rows WHERE kind = ?", (kind,)).fetchall()
        return [row for (text,) in rows if _scope(row := json.loads(text)) == scope]

    def _claim(self, ownership: dict[str, Any]) -> dict[str, Any] | None:
        claimed = {**ownership, "etag": uuid.uuid4().hex, "last_modified_time": time.time()}
        with closing(self._connect()) as database:
            database.execute("BEGIN IMMEDIATE")
            found = database.execute(
                "SELECT row FROM rows WHERE kind = 'ownership' AND key = ?", (_key(ownership),)
            ).fetchone()
            if found and json.loads(found[0])["etag"] != ownership.get("etag"):
                database.execute("ROLLBACK")
                return None
            database.execute(
                "INSERT OR REPLACE INTO rows VALUES ('ownership', ?, ?)", (_key(claimed), json.dumps(claimed))
            )
            database.execute("COMMIT")
        return claimed

    def _put(self, kind: str, row: dict[str, Any]) -> None:
        with closing(self._connect()) as database:
            database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (kind, _key(row), json.dumps(row)))


def _scope(row: dict[str, Any]) -> tuple[str, ...]:
    return row["fully_qualified_namespace"], row["eventhub_name"], row["consumer_group"]


def _key(row: dict[str, Any]) -> str:
    return json.dumps([*_scope(row), row["partition_id"]])


class Loop:
    """The hand-written part."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def on_event_batch(self, partition_context: PartitionContext, events: list[EventData]) -> None:
        """The SDK calls it with each batch of a partition."""
        for event in events:
            for item in self._read(event):
                await self._post(item)
        if events:
            await partition_context.update_checkpoint(events[-1])

    def _read(self, event: EventData) -> list[dict[str, Any]]:
        try:
            body = json.loads(event.body_as_str())
            return [each for each in (body if isinstance(body, list) else [body]) if each["id"]]
        except Exception:  # a message that cannot be read must not stop the partition
            log.exception("cannot read a message")
            return []

    async def _post(self, item: dict[str, Any]) -> None:
        for number in range(TRIES):
            try:
                async with self._session.post(self._url, json=item) as response:
                    response.raise_for_status()
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                log.warning("try %d of %s: %r", number + 1, item["id"], error)
                await asyncio.sleep(AGAIN_SECONDS)
        log.error("gave up %s", item["id"])


def _store() -> CheckpointStore:
    if path := os.environ.get("NAIVE_SQLITE"):
        return SqliteCheckpointStore(path)
    return BlobCheckpointStore.from_connection_string(os.environ["NAIVE_BLOB"], os.environ["NAIVE_CONTAINER"])


async def main() -> None:
    """Works until SIGTERM."""
    logging.basicConfig(level=logging.WARNING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    client = EventHubConsumerClient.from_connection_string(
        os.environ["EVENTHUB_CONNECTION_STRING"],
        consumer_group=os.environ.get("NAIVE_GROUP", "$Default"),
        checkpoint_store=_store(),
        # As quick as the worker is in this run: the SDK's own 30 s and 180 s would only make the waiting longer.
        load_balancing_interval=float(os.environ["NAIVE_BALANCE_SECONDS"]),
        partition_ownership_expiration_interval=float(os.environ["NAIVE_EXPIRY_SECONDS"]),
    )
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with client, aiohttp.ClientSession(timeout=timeout) as session:
        loop = Loop(session, os.environ["NAIVE_URL"])
        receiving = asyncio.ensure_future(
            client.receive_batch(loop.on_event_batch, max_batch_size=BATCH, max_wait_time=1, starting_position="-1")
        )
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(receiving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
