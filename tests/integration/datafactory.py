"""What the tests of the Data Factory sink share: a factory on a clock by hand, and sinks that are opened for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.apis.datafactory import FACTORY, DataFactory
from tests.tokens import FakeCredential
from worker.identity import Tokens
from worker.sinks.datafactory import DataFactorySettings, DataFactorySink


class Clock:
    """Soon after the events of `tests.deliveries` reached the hub."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def settings_for(service: DataFactory, kind: type[DataFactorySettings] = DataFactorySettings, **given: Any) -> Any:
    place = {"factory": FACTORY, "pipeline": "retrain", "management_url": service.url, "scope": service.scope}
    return kind.model_validate({"name": "adf", **place, **given})


def sink_of(settings: DataFactorySettings, clock: Callable[[], float]) -> DataFactorySink:
    return DataFactorySink(settings, Tokens(FakeCredential()), clock=clock)


@asynccontextmanager
async def opened(settings: DataFactorySettings, clock: Callable[[], float]) -> AsyncIterator[DataFactorySink]:
    sink = sink_of(settings, clock)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()
