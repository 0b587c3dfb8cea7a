"""Metrics that cost nothing: of all that is counted, only how full a partition ever was is kept, and one alarm."""

from collections.abc import Callable
from typing import Any

from tests.simulation.history import History, Load

_KEPT = frozenset({"in_flight", "held", "spread_subjects"})


class _Silent:
    """Any metric, with any labels."""

    def labels(self, *_: object, **__: object) -> "_Silent":
        return self

    def inc(self, amount: float = 1) -> None:
        pass

    def dec(self, amount: float = 1) -> None:
        pass

    def set(self, value: float) -> None:
        pass

    def set_function(self, f: Callable[[], float]) -> None:
        pass

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        pass

    def remove(self, *_: object) -> None:
        pass


_SILENT = _Silent()


class _Highest(_Silent):
    def __init__(self, name: str, life: str, history: History, clock: Callable[[], float]) -> None:
        self._name, self._life, self._history, self._clock = name, life, history, clock
        self._highest = 0.0

    def set(self, value: float) -> None:
        if value > self._highest:
            self._highest = value
            self._history.entries.append(Load(self._history.tick(), self._clock(), self._life, self._name, value))


class SilentMetrics:
    """Stands in for `worker.metrics.Metrics`."""

    def __init__(self, life: str, history: History, clock: Callable[[], float]) -> None:
        self._kept = {name: _Highest(name, life, history, clock) for name in _KEPT}

    def __getattr__(self, name: str) -> Any:
        return self._kept.get(name, _SILENT)

    def begin_partition(self, partition: str, generation: int) -> None:
        pass

    def forget_sink(self, sink: str) -> None:
        pass

    def forget_partition(self, partition: str) -> None:
        pass
