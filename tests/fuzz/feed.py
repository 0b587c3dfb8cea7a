"""Feeds hostile inputs through all that judges them, and notices crashes, hangs and growth."""

import faulthandler
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import hostile
from tests.unit.configurations import ENVIRON, write
from worker import deadletters
from worker.decode import decode
from worker.duplicates import Duplicates
from worker.errors import ConfigError
from worker.events import BadEvent, Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.filters import FilterMistakes, compile_filter
from worker.keys import data_digest, duplicate_key, idempotency_key
from worker.loading import load
from worker.operators import OPERATORS
from worker.order import Orderer
from worker.route import Routes, RouteSpec
from worker.sinks import Delivery
from worker.sinks.cloudevents import structured_json
from worker.stores.layout import letter_from_json, letter_to_json

_HANG_SECONDS = 60
"""For a batch of inputs that takes a second at the most."""
_BATCH = 1_000
_GROWTH = 1.05
"""Allocated blocks at the end, against those when the caches were warm."""
_GROWTH_BLOCKS = 50_000


@dataclass
class Report:
    """What became of the inputs."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    slowest_input: int = 0
    grown: bool = False

    def add(self, other: "Report") -> None:
        """Takes in another share."""
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        if other.slowest_seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest_input = other.slowest_seconds, other.slowest_input
        self.grown = self.grown or other.grown


def feed(seed: int, inputs: range) -> Report:
    """Feeds these inputs. Whatever is raised, but for the errors that say what is wrong, ends it with the number."""
    report, way = Report(), _Way()
    warm, blocks = inputs[len(inputs) // 5], 0
    try:
        for number in inputs:
            if number % _BATCH == 0:
                faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
            began = time.perf_counter()
            try:
                report.outcomes[way.take(number, random.Random(f"{seed}/{number}"))] += 1
            except Exception as error:
                raise AssertionError(f"input {number} of seed {seed}: {error!r}") from error
            seconds = time.perf_counter() - began
            if seconds > report.slowest_seconds:
                report.slowest_seconds, report.slowest_input = seconds, number
            if number == warm:
                blocks = _allocated()
    finally:
        faulthandler.cancel_dump_traceback_later()
    report.inputs = len(inputs)
    report.grown = _allocated() > blocks * _GROWTH + _GROWTH_BLOCKS
    return report


def _allocated() -> int:
    gc.collect()
    return sys.getallocatedblocks()


class _Way:
    """The pure parts in their order, small, so that what they keep is soon full."""

    def __init__(self) -> None:
        self._duplicates = Duplicates(memory_seconds=60, limit=200)
        self._orderer = Orderer(window_seconds=5, memory_seconds=60, memory_subjects=200)
        self._routes = Routes(_specs())
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def take(self, number: int, chance: random.Random) -> str:
        """What became of one input."""
        kind = number % 200
        if kind == 0:
            return self._configuration(chance)
        return self._filter(chance) if kind % 10 == 1 else self._message(number, chance)

    def _message(self, number: int, chance: random.Random) -> str:
        properties = None
        if chance.random() < 0.1:  # binary mode of CloudEvents
            names = ("id", "type", "source", "time", "specversion", "data", "x")
            properties = {
                f"cloudEvents:{name}": chance.choice(("1.0", "", 7, None, b"\xff", "a" * 300)) for name in names
            }
        content_type = chance.choice((None, "application/json", "text/plain", "application/cloudevents+json", "\xff;;"))
        now = UnixSeconds(1_700_000_000.0 + number)
        message = Message(PartitionId("0"), number, str(number), now, hostile.body(chance), content_type, properties)
        elements = decode(message)
        for index, element in enumerate(elements[:50]):
            if isinstance(element, BadEvent):
                self._refused(message, index, element)
            else:
                self._event(
                    Placed(element, message, Position(number, index), duplicate_key(element), data_digest(element))
                )
        kinds = {type(element).__name__ for element in elements}
        return "message: " + ("nothing in it" if not kinds else " and ".join(sorted(kinds)))

    def _event(self, placed: Placed) -> None:
        now = placed.message.enqueued_at
        self._duplicates.see(placed.duplicate_key, placed.digest, placed.position, now=now)
        late = self._orderer.add(placed, now=now)
        for released in [*([late] if late else []), *self._orderer.due(now=now, at_most=100)]:
            self._deliver(released)

    def _deliver(self, released: Released) -> None:
        event: Event = released.placed.event
        self._orderer.settled(released.placed.position)
        self._routes.explain(event)
        for target in self._routes.match(event):
            structured_json(Delivery(released, target.route, target.sink, idempotency_key(event, target.sink)))

    def _refused(self, message: Message, index: int, bad: BadEvent) -> None:
        letter = deadletters.from_bad_event(message, index, bad)
        assert letter_from_json(letter_to_json(letter)).body == message.body

    def _filter(self, chance: random.Random) -> str:
        try:
            compiled = compile_filter(hostile.filter_(chance))
        except FilterMistakes:
            return "filter: refused"
        routes = Routes([RouteSpec("r", ("s",), compiled)])
        for element in decode(Message(PartitionId("0"), 0, "0", UnixSeconds(0.0), hostile.body(chance))):
            if isinstance(element, Event):
                routes.match(element)
                routes.explain(element)
        return "filter: compiled"

    def _configuration(self, chance: random.Random) -> str:
        worker, routes = hostile.files(chance)
        try:
            load(write(self._folder, worker, routes), environ=ENVIRON)
        except ConfigError as error:
            said = str(error)
        else:
            return "configuration: accepted"
        assert said, "refused without a word"
        assert "hunter2" not in said, "a secret in a message"
        return "configuration: refused"


def _specs() -> list[RouteSpec]:
    """A route for each operator and key, so that every event meets them all."""
    operands = {"value": 5, "values": ["a", "Completed"]}
    specs = [RouteSpec("all", ("all",))]
    for name, operator in OPERATORS.items():
        condition = {"operatorType": name, "key": "data.runStatus"}
        if operator.operand_field is not None:
            condition[operator.operand_field] = _operand(operator.operand_field, name, operands)
        raw = {"advancedFilters": [condition], "enableAdvancedFilteringOnArrays": True, "subjectBeginsWith": "/e"}
        specs.append(RouteSpec(name, (name,), compile_filter(raw)))
    return specs


def _operand(field_name: str, operator: str, texts: dict[str, object]) -> object:
    if "Range" in operator:
        return [[1, 5]]
    if operator.startswith("Number"):
        return 5 if field_name == "value" else [5, 7.5]
    return True if operator.startswith("Bool") else texts[field_name]


def share(seed: int, inputs: int, part: int, parts: int) -> Report:
    """One process's part of the work."""
    os.environ.pop("HUB", None)
    step = -(-inputs // parts)
    return feed(seed, range(part * step, min(inputs, (part + 1) * step)))
