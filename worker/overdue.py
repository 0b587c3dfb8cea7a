"""What one claim does about the shared table: says how far its partition is, and tells what is missed.

Each row has a home: the owner of that partition, and nobody else, tells what it has to tell, when every partition of
the hub is through its time. How far a partition is its owner writes into a row of its own, but only while another row
waits for that; so at rest nothing is written. It says no more than what is in the stored state: whoever takes over goes
on behind it.

A row that is being told says so before anybody is told, and which sinks know; it stays so until all do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

import structlog

from worker import correlations, silences
from worker.board import NEVER, Board, clock_name, clock_payload, is_silence, rule_of
from worker.errors import Conflict, StateFormatUnknown, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.marks import Mark, Say
from worker.metrics import Metrics
from worker.missed import Missed, missed_id, shown_key, time_text
from worker.silences import Signs, Silence
from worker.state import PartitionState
from worker.stores import StateVersion

_log = structlog.get_logger()

_AT_ONCE = 200
"""So many may be being told at one time; bounds memory, and what one look takes."""

_WRITES_AT_ONCE = 16
_OLD_AT_ONCE = 500
"""So many rows are deleted in one look."""

Row = correlations.Row | Silence


class Overdue:
    """The work of one claim at the table; also the book of what it tells (`missed.Book`)."""

    def __init__(
        self,
        partition: PartitionId,
        board: Board,
        signs: Signs,
        *,
        through: Callable[[], float],
        submit: Callable[[Missed], None],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """`through`: before when all that the hub had is seen and noted; minus infinity while that is not known."""
        self.save: Callable[[], Awaitable[bool]] = _saved
        """Writes the partition's state now; False: it could not be, or must not."""
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something to write with the state."""
        self._partition = partition
        self._board = board
        self._signs = signs
        self._through = through
        self._submit = submit
        self._metrics = metrics
        self._clock = clock
        self._looked = asyncio.Event()
        self._told_signs: dict[str, float] = {}
        """The signs of life that our row holds."""
        self._heard: dict[str, object] = {}
        """Silences that were told, and after which states of the partitions' rows no life was found."""
        self._checked: dict[str, float] = {}
        """Rows on silence, and the length for which their time was found right."""
        self._telling: dict[int, tuple[str, Missed]] = {}
        self._odd: set[str] = set()
        """Rows that cannot be read, and of which it was said."""
        self._numbers = 0
        self._noted: set[int] = set()
        """Of those, the ones of which there is something to write."""
        self._settled: set[int] = set()
        self._held: dict[int, set[str]] = {}
        """The sinks that hold one for a digest, as the state has it that is being written."""

    def look(self) -> None:
        """The table was listed."""
        self._looked.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            await self._looked.wait()
            self._looked.clear()
            try:
                await self._publish()
                await self._tend()
            except StoreUnavailable as error:
                _log.debug("the shared table waits for the store", partition=self._partition, error=str(error))

    # --- how far we are

    async def _publish(self) -> None:
        """Says how far the partition is, where that is asked for. Never more than what the stored state says."""
        board, name = self._board, clock_name(self._partition)
        through, published = self._through(), board.through(self._partition)
        if through == NEVER or not (board.asks_for(published, through) or self._has_life_to_tell()):
            return
        wanted = board.silences
        self._signs.keep(lambda name: name in wanted or name in board.rows)
        through, signs = max(through, published), self._signs.snapshot()
        if not await self.save():
            return
        listed, mark = board.rows.get(name), Mark(Say.THROUGH, through)
        try:
            version = await board.store.write_row(
                name, clock_payload(through, signs), mark=str(mark), expected=listed.version if listed else None
            )
        except Conflict:
            return  # a former owner's last word, or our own: the next list tells
        board.wrote(name, version, mark)
        self._told_signs = signs

    def _has_life_to_tell(self) -> bool:
        """Whether a silence was told that is over."""
        for name, at in self._signs.snapshot().items():
            mark = self._board.marks.get(name)
            if mark and mark.says is Say.TOLD and at > max(mark.time, self._told_signs.get(name, mark.time)):
                return True
        return False

    # --- the rows at home here

    async def _tend(self) -> None:
        board = self._board
        if not board.seen or not board.partitions():
            return
        await self._begin_silences()
        for name in self._wanted():
            try:
                mark = board.marks.get(name)
                if mark and (len(self._telling) < _AT_ONCE or mark.says is Say.OLD):
                    await self._tend_one(name, mark)
            except Conflict:
                continue  # somebody wrote meanwhile: the next list tells
            except StateFormatUnknown as problem:
                self._say_odd(name, problem)

    def _wanted(self) -> list[str]:
        """Rows at home here with which there is something to be done; those that nobody needs at last."""
        board = self._board
        due = [name for name in board.due(board.all_through) if self._is_home(name)]
        told = [name for name in due if board.marks[name].says is Say.DUE]
        old = [name for name in due if board.marks[name].says is Say.OLD]
        # Of these the length may be another one than it was when their time was written.
        doubted = [name for name, (rule, _) in board.silences.items() if self._checked.get(name) != rule.seconds]
        others = [name for name in (*board.others, *doubted) if self._is_home(name)]
        return list(dict.fromkeys([*told, *others, *old[:_OLD_AT_ONCE]]))

    def _say_odd(self, name: str, problem: StateFormatUnknown) -> None:
        if name not in self._odd:
            self._odd.add(name)
            _log.error("a row of the shared table is passed over", row=name, why=str(problem))

    def _is_home(self, name: str) -> bool:
        mark = self._board.marks.get(name)
        return mark is not None and self._tells(name, mark.home if mark.says is Say.TELLING else None)

    def _tells(self, name: str, teller: PartitionId | None) -> bool:
        """Whether this partition tells what the row has to tell; `teller` is what it says itself."""
        if teller is None or teller not in self._board.partitions():  # nobody yet, or of a hub that had more
            teller = self._board.home(name)
        return teller == self._partition

    async def _tend_one(self, name: str, mark: Mark) -> None:
        if mark.says is Say.TELLING:
            await self._go_on_telling(name)
        elif self._board.is_gone(name):
            await self._drop(name, mark)
        elif mark.says is Say.OLD:
            await self._delete(name)
        elif is_silence(name):
            await self._tend_silence(name, mark)
        elif (rule := self._board.rules.get(rule_of(name))) and rule.is_across_subjects:
            await self._tend_correlation(name)

    async def _drop(self, name: str, mark: Mark) -> None:
        await self._delete(name)
        if mark.says is Say.DUE and not is_silence(name):
            self._metrics.expectations.labels(rule_of(name), "dropped").inc()
            _log.warning("expectation dropped: its rule is gone", rule=rule_of(name), row=name)

    async def _delete(self, name: str) -> None:
        await self._board.store.delete_row(name, expected=self._board.rows[name].version)
        self._board.deleted(name)

    async def _tend_correlation(self, name: str) -> None:
        stored = await self._board.store.read_row(name)
        if stored is None:
            return
        row = correlations.decode(stored.payload)
        telling = correlations.tell(row, through=self._board.all_through, home=self._partition, now=self._clock())
        if telling is not None:
            await self._begin_telling(name, telling, stored.version)

    async def _begin_silences(self) -> None:
        """A row that is absent begins now."""
        for name, (rule, source) in self._board.silences.items():
            if name not in self._board.rows and self._board.home(name) == self._partition:
                row = Silence(rule.name, source, UnixSeconds(self._clock()))
                try:
                    await self._write(name, row, None)
                except Conflict:
                    continue

    async def _tend_silence(self, name: str, mark: Mark) -> None:
        if name not in self._board.silences:
            return
        rule, _ = self._board.silences[name]
        clocks = tuple(self._board.rows.get(clock_name(each)) for each in sorted(self._board.partitions()))
        if mark.says is Say.TOLD and self._heard.get(name) == clocks:
            return
        through = self._board.all_through
        signs = (await self._board.signs()).values()
        stored = await self._board.store.read_row(name)
        if stored is None:
            return
        row = silences.hear(silences.decode(stored.payload), [signs_of[name] for signs_of in signs if name in signs_of])
        self._heard[name], self._checked[name] = clocks, rule.seconds
        telling = silences.tell(
            row, every=rule.seconds, written=rule.written, through=through, home=self._partition, now=self._clock()
        )
        if telling is not None:
            await self._begin_telling(name, telling, stored.version)
        elif _mark(row, rule.seconds) != mark:
            await self._write(name, row, stored.version)

    # --- telling

    async def _begin_telling(self, name: str, row: Row, version: StateVersion) -> None:
        await self._write(name, row, version)
        self._metrics.expectations.labels(row.rule, "missed").inc()
        self._tell(name, row)

    async def _go_on_telling(self, name: str) -> None:
        """What this partition tells, in this life or since an earlier one."""
        if any(name == each for each, _ in self._telling.values()):
            return
        if (ours := await self._ours(name)) is not None:
            self._tell(name, ours[0])

    async def _ours(self, name: str) -> tuple[Row, StateVersion] | None:
        """The row, while this partition tells what it says."""
        stored = await self._board.store.read_row(name)
        try:
            row = _decode(name, stored.payload) if stored else None
        except StateFormatUnknown as problem:
            self._say_odd(name, problem)
            return None
        if stored is None or row is None or not row.telling or not self._tells(name, row.home):
            return None
        return row, stored.version

    def _tell(self, name: str, row: Row) -> None:
        self._numbers += 1
        missed = _missed(self._numbers, row, self)
        missed.served, missed.attempts = set(row.served), dict(row.attempts)
        self._telling[missed.number] = name, missed
        self._submit(missed)

    def note(self, missed: Missed) -> None:
        """A sink is done with it, or was tried."""
        self._noted.add(missed.number)

    def settled(self, missed: Missed) -> None:
        """Every sink is done with it."""
        self._settled.add(missed.number)

    # --- with each save of the partition's state (keep.Beside)

    async def restore(self, _state: PartitionState) -> None:
        """All stands in the table."""

    def snapshot(self) -> None:
        """What was noted is written as it is then; what is held for a digest, when the state that has it is stored."""
        self._held = {number: set(missed.held) for number, (_, missed) in self._telling.items() if missed.held}

    async def write(self, _taken: None) -> dict[str, Any]:
        """Writes who was told into the rows, before the state says anything of that time. Raises StoreUnavailable."""
        await self._write_down_all(self._noted | self._settled)
        return {}

    async def saved(self, _state: PartitionState) -> None:
        """What waited for that is written."""
        await self.stored()

    async def stored(self) -> None:
        """Writes of what is held for digests that its sinks are done with it: no crash can take it away any more."""
        held, self._held = self._held, {}
        for number in held.keys() & self._telling.keys():
            self._telling[number][1].held -= held[number]
            self._noted.add(number)
        try:
            await self._write_down_all(held.keys() & self._noted)
        except StoreUnavailable:
            self.changed()

    @property
    def waits_for_state(self) -> bool:
        """Whether something is to be written as soon as the state is stored."""
        return any(missed.held for _, missed in self._telling.values())

    async def _write_down_all(self, chosen: Collection[int]) -> None:
        numbers = sorted(chosen)
        for first in range(0, len(numbers), _WRITES_AT_ONCE):
            some = numbers[first : first + _WRITES_AT_ONCE]
            for problem in await asyncio.gather(*map(self._write_down, some), return_exceptions=True):
                if isinstance(problem, BaseException):
                    raise problem

    async def _write_down(self, number: int) -> None:
        while not await self._wrote_down(number):
            continue  # another event of its key was noted meanwhile

    async def _wrote_down(self, number: int) -> bool:
        name, missed = self._telling[number]
        settled, written = number in self._settled and not missed.held, False
        self._noted.discard(number)  # what is noted from here on is written the next time
        try:
            ours = await self._ours(name)
            # Another one is being told where a former owner has written that this one is over.
            if ours is not None and _identity(ours[0]) == missed.id:
                row, version = ours
                now = _told(row) if settled else _with_word_of(missed, row)
                if now != row:
                    await self._write(name, now, version)
            written = True
        except Conflict:
            return False
        finally:
            if not written:
                self._noted.add(number)
        if settled:
            self._noted.discard(number)
            self._settled.discard(number)
            del self._telling[number]
        return True

    async def _write(self, name: str, row: Row, version: StateVersion | None) -> None:
        rule = self._board.rules.get(row.rule)
        mark = _mark(row, rule.seconds if rule else 0.0)
        payload = silences.encode(row) if isinstance(row, Silence) else correlations.encode(row)
        written = await self._board.store.write_row(name, payload, mark=str(mark), expected=version)
        self._board.wrote(name, written, mark)


def _mark(row: Row, seconds: float) -> Mark:
    return silences.mark_of(row, seconds) if isinstance(row, Silence) else correlations.mark_of(row, seconds)


def _decode(name: str, payload: bytes) -> Row:
    return silences.decode(payload) if is_silence(name) else correlations.decode(payload)


def _told(row: Row) -> Row:
    return silences.told(row) if isinstance(row, Silence) else correlations.told(row)


def _with_word_of(missed: Missed, row: Row) -> Row:
    served, attempts = tuple(sorted(missed.served - missed.held)), tuple(sorted(missed.attempts.items()))
    return replace(row, served=served, attempts=attempts)


def _missed(number: int, row: Row, book: Overdue) -> Missed:
    """What is told of a row; the same in every life."""
    data: dict[str, Any]
    if isinstance(row, Silence):
        data = {"every": row.every, "source": row.source, "last_seen": time_text(row.since) if row.seen else None}
        return Missed(number, row.rule, shown_key(row.source), _identity(row), row.due, data, row.made_at, book)
    first = row.telling
    assert first is not None, "whoever tells it has looked"
    data = {
        "within": first.within,
        "key": row.key,
        "source": row.source or None,
        "after": first.event,
        **({"cut": "the first event was too large, and its data is left out"} if first.cut else {}),
    }
    return Missed(number, row.rule, shown_key(row.key), _identity(row), first.due, data, row.made_at, book)


def _identity(row: Row) -> str:
    if isinstance(row, Silence):
        return missed_id(row.rule, row.source, repr(row.since))
    assert row.telling is not None, "whoever tells it has looked"
    return missed_id(row.rule, row.source, row.key, row.telling.id)


async def _saved() -> bool:
    return True
