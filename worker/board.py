"""The shared table as this process last saw it: one list for all of its partitions. Reads no row itself.

What expectations across subjects and silent sources need of each other's partitions stands there: a row for each rule
and key (`correlations`), for each rule and source (`silences`), and for each partition how far it is through. A list
tells a mark of each row (`marks`), and a row is read only when its mark says that something is to be done.
"""

import asyncio
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from hashlib import sha256

import orjson
import structlog

from worker import correlations, silences
from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.expect import ExpectRule
from worker.marks import Mark, Say, parse
from worker.metrics import Metrics
from worker.route import folded_source
from worker.stores import ListedRow, StateVersion, Store

_log = structlog.get_logger()

_LOOK_SECONDS = 5.0
_LOOK_SHARE = 20
"""Looking takes at most this part (a twentieth) of the time, however many rows there are…"""
_LONGEST_REST_SECONDS = 60.0
"""…unless it takes longer than three seconds."""
_UNKNOWN_SECONDS = 900.0
"""A rule that is not known here may be new: of the configuration of a process that is updated before this one."""

CLOCK = "clock"
"""What the name of a partition's row begins with."""
NEVER = -math.inf


class Board:
    """What stands in the table."""

    def __init__(
        self,
        store: Store,
        rules: Callable[[], Iterable[ExpectRule]],
        partitions: Callable[[], Collection[PartitionId]],
        *,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """`rules` and `partitions` are those of the configuration and of the hub, as they are now."""
        self.store = store
        self.partitions = partitions
        self.rows: dict[str, ListedRow] = {}
        self.marks: dict[str, Mark] = {}
        """Of the rows whose mark is understood."""
        self.seen = False
        """Whether there was a list at all."""
        self._due: list[tuple[float, str]] = []
        """The rows that wait for a time, and that time, the next one first."""
        self.others: list[str] = []
        """The rows that wait for no time and with which there is something to be done."""
        self._signs: dict[str, tuple[StateVersion, dict[str, float]]] = {}
        self._rules = rules
        self._metrics = metrics
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._unknown_since: dict[str, float] = {}
        """Rules, and rows on silence, that are not of the configuration."""
        self._shown: set[str] = set()

    @property
    def rules(self) -> dict[str, ExpectRule]:
        """The rules whose rows are here, by name."""
        return {rule.name: rule for rule in self._rules() if not rule.is_of_one_subject}

    async def look(self) -> None:
        """One list. Raises StoreUnavailable."""
        self.rows = await self.store.list_rows()
        self.marks = {name: mark for name, row in self.rows.items() if (mark := parse(row.mark)) is not None}
        self._counts = Counter(rule_of(name) for name in self.rows if name.startswith(f"{correlations.KIND}/"))
        self._due = sorted((mark.time, name) for name, mark in self.marks.items() if mark.says in (Say.DUE, Say.OLD))
        self.seen = True
        self._know_rules(asyncio.get_running_loop().time())
        at_work = (Say.TELLING, Say.TOLD)
        self.others = [name for name, mark in self.marks.items() if mark.says in at_work or self.is_gone(name)]
        self.show()

    @property
    def is_used(self) -> bool:
        """Whether there is any row that is not a partition's own."""
        return any(not name.startswith(f"{CLOCK}/") for name in self.rows)

    def count(self, rule: str) -> int:
        """How many rows of a rule there are."""
        return self._counts[rule]

    def created(self, rule: str) -> None:
        """A row was written that is in no list yet."""
        self._counts[rule] += 1

    @property
    def silences(self) -> dict[str, tuple[ExpectRule, str]]:
        """The rows that rules on silence ask for, by name: the rule, and the source as it stands there."""
        return {
            silences.row_name(rule.name, folded_source(source)): (rule, source)
            for rule in self._rules()
            if rule.is_silence
            for source in rule.listed or ()
        }

    def wrote(self, name: str, version: StateVersion, mark: Mark) -> None:
        """A row was written since the list."""
        self.rows[name], self.marks[name] = ListedRow(version, str(mark)), mark

    def deleted(self, name: str) -> None:
        """A row was deleted since the list."""
        self.rows.pop(name, None)
        self.marks.pop(name, None)

    def due(self, through: float) -> list[str]:
        """The rows whose time lies before this, the oldest first; without what has changed since the list."""
        due = self._due[: bisect_left(self._due, (through, ""))]
        return [name for time, name in due if name in self.marks and self.marks[name].time == time]

    @property
    def next_due(self) -> float | None:
        """The first time that a row waits for, as of the last list."""
        return self._due[0][0] if self._due else None

    def asks_for(self, published: float, through: float) -> bool:
        """Whether a row waits for a time that a partition is through, and has not said so."""
        first = bisect_left(self._due, (published, ""))
        return first < len(self._due) and self._due[first][0] < through

    async def signs(self) -> dict[PartitionId, dict[str, float]]:
        """The last signs of life that the partitions have told; reads what has changed. Raises StoreUnavailable."""
        found: dict[PartitionId, dict[str, float]] = {}
        for partition in self.partitions():
            name = clock_name(partition)
            listed, known = self.rows.get(name), self._signs.get(name)
            if listed is None:
                continue
            if known is None or known[0] != listed.version:
                stored = await self.store.read_row(name)
                known = self._signs[name] = (listed.version, _signs_in(stored.payload if stored else b"{}"))
            found[partition] = known[1]
        return found

    def through(self, partition: PartitionId) -> float:
        """How far a partition says that it is."""
        mark = self.marks.get(clock_name(partition))
        return NEVER if mark is None else mark.time

    @property
    def all_through(self) -> float:
        """How far every partition of the hub says that it is."""
        return min((self.through(each) for each in self.partitions()), default=NEVER)

    def home(self, name: str) -> PartitionId | None:
        """The partition whose owner tells what a row has to tell; None before the hub's partitions are known."""
        partitions = sorted(self.partitions())
        if not partitions:
            return None
        return partitions[int.from_bytes(sha256(name.encode()).digest()[:8], "big") % len(partitions)]

    def is_gone(self, name: str) -> bool:
        """Whether what a row is about has not been in the configuration for so long that it is not just new."""
        since = self._unknown_since.get(name if is_silence(name) else rule_of(name))
        return since is not None and asyncio.get_running_loop().time() - since >= _UNKNOWN_SECONDS

    def _know_rules(self, now: float) -> None:
        known = self.silences.keys() | {rule.name for rule in self._rules() if rule.is_across_subjects}
        about = {name if is_silence(name) else rule_of(name) for name in self.rows if not name.startswith(f"{CLOCK}/")}
        self._unknown_since = {each: self._unknown_since.get(each, now) for each in about - known}

    def show(self) -> None:
        """For how long something is overdue because a partition is not through its time; how many rows there are."""
        now = self._clock()
        due = sorted(mark.time for mark in self.marks.values() if mark.says is Say.DUE and mark.time < now)
        for partition in self.partitions():
            waits = due[bisect_left(due, self.through(partition)) :]
            self._metrics.expectations_waiting.labels(partition).set(now - waits[0] if waits else 0.0)
        rules = self.rules.keys()
        for rule in self._shown - rules:
            self._metrics.expectations_rows.remove(rule)
        for rule in rules:
            self._metrics.expectations_rows.labels(rule).set(self._counts[rule])
        self._shown = set(rules)


def clock_name(partition: PartitionId) -> str:
    """The name of a partition's row."""
    return f"{CLOCK}/{partition}"


def clock_payload(through: float, signs: dict[str, float]) -> bytes:
    """What stands in it."""
    return orjson.dumps({"through": through, "signs": signs})


def rule_of(name: str) -> str:
    """The rule in a row's name."""
    return name.partition("/")[2].rpartition(".")[0]


def is_silence(name: str) -> bool:
    """Whether a row is of a rule on silence."""
    return name.startswith(f"{silences.KIND}/")


def _signs_in(payload: bytes) -> dict[str, float]:
    try:
        return dict(orjson.loads(payload).get("signs", {}))
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return {}


async def watch(board: Board, tell: Callable[[], None]) -> None:
    """Looks at the table and tells whoever works with it, as long as anything is expected. Works until cancelled."""
    loop = asyncio.get_running_loop()
    rest = _LOOK_SECONDS
    while True:
        # Once in any case: for what a rule has left that is gone.
        if board.rules or board.is_used or not board.seen:
            began, rest = loop.time(), _LOOK_SECONDS
            try:
                await board.look()
                tell()
                rest = min(max(_LOOK_SECONDS, _LOOK_SHARE * (loop.time() - began)), _LONGEST_REST_SECONDS)
            except StoreUnavailable as error:
                _log.debug("the shared table was not seen", error=str(error))  # the keeper says that the store is away
        else:
            board.show()  # else the last numbers stand for ever
        await asyncio.sleep(rest)
