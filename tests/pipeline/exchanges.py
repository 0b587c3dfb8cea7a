"""What the tests of reloading share: configurations made by hand, and their exchange on a stage."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.fakes import FakeSink
from tests.pipeline.stage import Stage
from tests.virtual_time import settle_down
from worker.config import Config, Routing, WorkerSettings
from worker.filters import compile_filter
from worker.ledger import Ledger
from worker.route import Routes, RouteSpec
from worker.settings import SinkSettings
from worker.way import Way

WORKER = WorkerSettings.model_validate(
    {"source": {"namespace": "hub.test", "hub": "events"}, "store": {"kind": "sqlite", "path": Path("x.db")}}
)


def to(sink: str, **filter_: Any) -> RouteSpec:
    """A route to one sink, named after it."""
    return RouteSpec(f"to-{sink}", (sink,), compile_filter(filter_) if filter_ else None)


def configuration(
    sinks: Iterable[SinkSettings], specs: Iterable[RouteSpec] | None = None, *, digest: str = "other"
) -> Config:
    """One in which every event goes to every sink, unless `specs` says otherwise."""
    sinks = tuple(sinks)
    specs = tuple(specs) if specs is not None else tuple(to(each.name) for each in sinks)
    file = Path("routes.yaml")
    return Config(Path("worker.yaml"), WORKER, Routing(file, sinks, specs, Routes(specs)), digest)


def settings(name: str, **section: Any) -> SinkSettings:
    return SinkSettings.model_validate({"name": name, "kind": "fake", **section})


def exchange(
    stage: Stage,
    sinks: Mapping[str, Mapping[str, Any]],
    fresh: Mapping[str, FakeSink] | None = None,
    *,
    specs: Iterable[RouteSpec] | None = None,
    digest: str = "other",
    ledger: bool = False,
) -> None:
    """These sinks with these settings; `fresh`: the objects of those that are new or changed."""
    configured = [settings(name, **section) for name, section in sinks.items()]
    ways = {}
    for each in configured:
        if fresh and each.name in fresh:
            sink = fresh[each.name]
            kept = Ledger(stage.store, each, sink, by="anew", metrics=stage.metrics) if ledger else None
            ways[each.name] = Way(each, sink, kept)
    stage.fleet.exchange(configuration(configured, specs, digest=digest), ways)


async def exchanged(stage: Stage, *arguments: Any, **options: Any) -> None:
    """The same, and what it needs no time for."""
    exchange(stage, *arguments, **options)
    await settle_down()
