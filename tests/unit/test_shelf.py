"""What waits in a partition, in the store: whatever goes in whatever order, and how much is written for it."""

import asyncio
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_store import MemoryStore
from worker import shelf as module
from worker.events import PartitionId
from worker.metrics import Metrics
from worker.shelf import Kind, Shelf
from worker.state import PartitionState, decode, encode
from worker.stores import Store

PARTITION = PartitionId("0")


@dataclass(frozen=True)
class Row:
    number: int
    text: str

    @property
    def size(self) -> int:
        return len(self.text) + 10

    def to_row(self) -> list[Any]:
        return [self.number, self.text]


@dataclass
class Book:
    """Rows that wait, and nothing that they mean."""

    live: dict[int, Row] = field(default_factory=dict)
    last: int = 0

    def add(self, text: str) -> None:
        self.last += 1
        self.live[self.last] = Row(self.last, text)

    def change(self, step: float | str) -> None:
        """So many come, or the one goes that stands at this fraction of all; anything else changes nothing."""
        if isinstance(step, int):
            for _ in range(step):
                self.add("x" * step)
        elif isinstance(step, float) and self.live:
            del self.live[list(self.live)[int(step * (len(self.live) - 1))]]

    def snapshot(self) -> dict[str, Any]:
        return {"last": self.last} if self.live else {}

    def restore(self, content: Mapping[str, Any], rows: Iterable[Row]) -> None:
        self.last = content["last"]
        for row in rows:
            assert row.number not in self.live
            self.live[row.number] = row


class CountingStore(MemoryStore):
    written = 0

    async def write_memory(self, partition: PartitionId, name: str, payload: bytes) -> None:
        self.written += len(payload)
        await super().write_memory(partition, name, payload)


async def _at_once(work: Any, *args: Any) -> Any:
    return work(*args)


def shelf(book: Book, store: Store, *, generation: int = 1, at_random: bool = True) -> Shelf[Row]:
    kind = Kind("expectations", lambda row: Row(*row), "lost", at_random=at_random)
    return Shelf(PARTITION, generation, kind, book, store, offload=_at_once, metrics=Metrics())


async def save(shelf: Shelf[Row], state: PartitionState) -> PartitionState:
    state = replace(state, **await shelf.write(shelf.snapshot()))
    await shelf.saved(state)
    return state


_steps = st.lists(st.one_of(st.integers(1, 12), st.floats(0, 1), st.sampled_from(["save", "die", "save and die"])))


@given(_steps, st.booleans(), st.integers(1, 6), st.integers(0, 8))
def test_what_was_live_at_the_last_save_is_what_the_next_life_finds(
    steps: list[Any], at_random: bool, many_parts: int, many_holes: int
):
    async def scene(patch: pytest.MonkeyPatch) -> None:
        for name, value in ("_INLINE_BYTES", 60), ("_MANY_PARTS", many_parts), ("_MANY_HOLES", many_holes):
            patch.setattr(module, name, value)
        patch.setattr(module, "_SMALLER_PARTS", 1 + many_parts // 2)
        store, book, generation = MemoryStore(), Book(), 1
        keeper, state, saved = shelf(book, store, at_random=at_random), PartitionState(1, "me"), dict[int, Row]()
        for step in steps:
            book.change(step)
            if step in ("save", "save and die"):
                state, saved = await save(keeper, state), dict(book.live)
            if step in ("die", "save and die"):
                book, generation = Book(), generation + 1
                keeper = shelf(book, store, generation=generation, at_random=at_random)
                await keeper.restore(state)
                assert book.live == saved

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(scene(patch))


def test_a_version_that_knows_no_bits_refuses_a_state_in_which_they_say_what_is_gone(monkeypatch: pytest.MonkeyPatch):
    async def scene() -> None:
        monkeypatch.setattr(module, "_INLINE_BYTES", 0)
        store, book, before = MemoryStore(), Book(), {1, 2, 3, 4}
        keeper, state = shelf(book, store), PartitionState(1, "me")
        book.change(3)
        state = await save(keeper, state)
        assert orjson.loads(encode(state))["format"] in before
        del book.live[2]
        state = await save(keeper, state)
        assert orjson.loads(encode(state))["format"] not in before
        assert decode(encode(state)) == state
        old = replace(state, expectations={**state.expectations, "gone": [[2, 2]]})
        del old.expectations["holes"]  # as the version before has written it
        next_book = Book()
        await shelf(next_book, store, generation=2).restore(decode(encode(old)))
        assert next_book.live == book.live

    asyncio.run(scene())


def test_where_ten_thousand_wait_and_go_at_random_a_few_times_what_comes_is_written():
    async def scene() -> None:
        chance, store, book = random.Random(1), CountingStore(), Book()
        keeper, state = shelf(book, store), PartitionState(1, "me")

        def come(count: int) -> None:
            for _ in range(count):
                book.add(f"{chance.getrandbits(3000):x}")

        while len(book.live) < 10_000:
            come(500)
            state = await save(keeper, state)
        per_row, store.written = store.written / 10_000, 0
        for _ in range(200):
            for number in chance.sample(list(book.live), 50):
                del book.live[number]
            come(50)
            state = await save(keeper, state)
            assert len(encode(state)) < 24_000
        assert store.written < 5 * 200 * 50 * per_row

    asyncio.run(scene())
