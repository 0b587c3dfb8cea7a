"""From a changed file to rules in force, or to the old ones and a sentence: real files, virtual time, fake sinks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.pipeline.stage import in_turn
from tests.virtual_time import run, settle_down
from worker.deliver import Lane
from worker.errors import SinkUnavailable
from worker.health import Health
from worker.lanes import Lanes
from worker.loading import load
from worker.metrics import Metrics
from worker.reload import Reloads
from worker.rules import Rules, RuleSet
from worker.settings import SinkSettings
from worker.way import Way

LOOK = 3.5
AGAIN = 16.0
WORKER = {
    "source": {"namespace": "hub.servicebus.windows.net", "hub": "events"},
    "store": {"kind": "sqlite", "path": "worker.db"},
}


def sink(name: str, **section: Any) -> dict[str, Any]:
    return {"name": name, "kind": "file", "path": f"{name}.jsonl", **section}


def mail(name: str, **section: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "email",
        "host": "mail.test",
        "from": "worker@mail.test",
        "to": ["ops@mail.test"],
        "security": "tls",
        **section,
    }


def rules(*sinks: dict[str, Any], **route: Any) -> str:
    """A routes.yaml with these sinks, and one route to all of them."""
    names = [each["name"] for each in sinks]
    return yaml.safe_dump({"sinks": list(sinks), "routes": [{"name": "all", "sinks": names, **route}]})


BAD = {
    "unknown operator": rules(
        sink("out"),
        filter={"advancedFilters": [{"operatorType": "NumberIsOdd", "key": "data.x", "values": [1]}]},
    ),
    "wrong type": rules(sink("out", concurrency="many")),
    "impossible range": rules(
        sink("out"),
        filter={"advancedFilters": [{"operatorType": "NumberInRange", "key": "data.x", "values": [[9, 1]]}]},
    ),
    "template that fails": rules(mail("out", text_template="{{ 1 / 0 }}")),
    "unknown key": rules(sink("out", colour="red")),
    "unknown sink": rules(sink("out")).replace("- out", "- nowhere"),
    "no YAML": "sinks: [",
    "empty": "",
    "nested without end": "sinks: " + "[" * 5000,
    "no text": "\x00\x01",
    "half written": rules(sink("out"))[:-20],
}


@dataclass
class Built:
    """The sinks that were built, and what goes wrong with the next ones."""

    sinks: dict[str, list[FakeSink]] = field(default_factory=dict)
    problem: Callable[[], Exception | None] = lambda: None
    never_opens: bool = False

    async def build(self, settings: SinkSettings) -> Way:
        made = FakeSink()
        if self.never_opens:
            await asyncio.sleep(1e9)
        if (error := self.problem()) is not None:
            raise error
        self.sinks.setdefault(settings.name, []).append(made)
        return Way(settings, made)

    async def close(self, closed: FakeSink) -> None:
        await closed.aclose()

    def count(self, name: str) -> tuple[int, int]:
        """How many were built, and how many of them are closed."""
        made = self.sinks.get(name, [])
        return len(made), sum(each.closed for each in made)


class Scene:
    """A worker's rules on files, without the rest of it."""

    def __init__(self, folder: Path, text: str, worker: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.routes = folder / "routes.yaml"
        self.routes.write_text(text)
        (folder / "worker.yaml").write_text(yaml.safe_dump(worker or WORKER))
        self.asked = asyncio.Event()
        self.metrics = Metrics()
        self.health = Health(limit_seconds=30)
        self.built = Built()
        self.config = load(folder / "worker.yaml", secrets=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Scene"]:
        reloads = Reloads(
            self.config,
            self.built,
            asked=self.asked,
            metrics=self.metrics,
            health=self.health,
            offload=in_turn,
            clock=lambda: 1_700_000_000.0 + asyncio.get_running_loop().time(),
        )
        await reloads.begin()
        ways = [await self.built.build(each) for each in self.config.sinks]
        lanes = {
            each.settings.name: Lane(each.settings, each.sink, give_up_after_seconds=9, metrics=self.metrics)
            for each in ways
        }
        self.rules = Rules(RuleSet.of(self.config, lanes))
        fleet = Lanes(self.rules, drain_seconds=1, metrics=self.metrics, close=self.built.close)
        tasks = [asyncio.create_task(fleet.run())]
        await settle_down()
        tasks.append(asyncio.create_task(reloads.run(fleet)))
        try:
            yield self
        finally:
            for task in reversed(tasks):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def write(self, text: str, seconds: float = LOOK) -> None:
        self.routes.write_text(text)
        await asyncio.sleep(seconds)

    @property
    def outcomes(self) -> tuple[float, float, float]:
        """Applied, refused, and whether the last one was successful."""
        value = self.metrics.registry.get_sample_value
        of = [value("worker_config_reloads_total", {"outcome": each}) or 0 for each in ("applied", "refused")]
        return of[0], of[1], value("worker_config_last_reload_successful") or 0

    @property
    def in_force(self) -> list[str]:
        return sorted(self.rules.lanes)

    @property
    def note(self) -> str:
        return self.health.notes()["rules"]


def test_a_changed_file_is_in_force_within_seconds_and_said_in_log_metric_and_readiness(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"), sink("both"))).running() as stage:
            before = stage.rules.digest
            assert (stage.outcomes, stage.note) == ((0, 0, 1), f"{before} in force since 2023-11-14T22:30:00Z")
            with capture_logs() as lines:
                await stage.write(rules(sink("both", concurrency=3), sink("two")))
            assert stage.in_force == ["both", "two"]
            assert stage.outcomes == (1, 0, 1)
            assert stage.rules.digest == load(tmp_path / "worker.yaml", secrets=False).digest != before
            assert stage.rules.digest in stage.note
            [line] = [line for line in lines if line["event"] == "rules reloaded"]
            said = {key: line[key] for key in ("sinks_added", "sinks_removed", "sinks_changed", "routes_changed")}
            assert said == {
                "sinks_added": ["two"],
                "sinks_removed": ["one"],
                "sinks_changed": ["both"],
                "routes_changed": ["all"],
            }
            value = stage.metrics.registry.get_sample_value
            assert value("worker_config_info", {"digest": stage.rules.digest}) == 1
            assert value("worker_config_info", {"digest": before}) is None
            assert value("worker_config_last_reload_timestamp_seconds") == pytest.approx(1_700_001_002, abs=3)
            assert stage.health.not_ready() == {}

    run(scene())


def test_a_sink_that_did_not_change_is_not_built_again(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            await stage.write(rules(sink("one"), sink("two")))
            await stage.write("# a comment\n" + rules(sink("one"), sink("two")))
            assert (stage.built.count("one"), stage.built.count("two")) == ((1, 0), (1, 0))
            assert stage.outcomes == (2, 0, 1)
            await asyncio.sleep(600)
            assert stage.outcomes == (2, 0, 1)

    run(scene())


def test_a_config_map_is_noticed_though_its_path_and_links_stay(tmp_path: Path):
    """The kubelet writes a new folder and renames a link to it over `..data`; routes.yaml is a link into that."""

    def mount(number: int, text: str) -> None:
        folder = tmp_path / f"..version{number}"
        folder.mkdir()
        (folder / "routes.yaml").write_text(text)
        (folder / "worker.yaml").write_text(yaml.safe_dump(WORKER))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    async def scene():
        mount(1, rules(sink("one")))
        for name in ("routes.yaml", "worker.yaml"):
            (tmp_path / name).symlink_to(Path("..data") / name)
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            mount(2, rules(sink("two")))
            await asyncio.sleep(LOOK)
            assert stage.in_force == ["two"]
            assert "worker.yaml" not in stage.health.notes()

    run(scene())


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_file_changes_nothing_is_said_once_and_a_good_one_ends_it(tmp_path: Path, text: str):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            before = stage.rules.routes
            with capture_logs() as lines:
                await stage.write(text, 600)
            assert stage.rules.routes is before
            assert (stage.outcomes, stage.built.count("out")) == ((0, 1, 0), (1, 0))
            [summary] = [line for line in lines if line["event"] == "rules not reloaded, the old ones stay"]
            mistakes = [line["mistake"] for line in lines if line["event"] == "mistake in the rules"]
            assert (summary["log_level"], summary["mistakes"]) == ("error", len(mistakes))
            assert all(mistake.startswith(str(stage.routes)) for mistake in mistakes)
            assert mistakes[0] in stage.note
            assert "stays in force, reload refused" in stage.note
            assert stage.health.not_ready() == {}
            await stage.write(rules(sink("out"), sink("new")))
            assert (stage.outcomes, stage.in_force) == ((1, 1, 1), ["new", "out"])
            assert "refused" not in stage.note

    run(scene())


def test_what_is_half_written_is_not_taken_though_it_is_valid(tmp_path: Path):
    """Without its last route, events would be settled that it is for."""

    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            seen: list[list[str]] = []
            await asyncio.sleep(1.5)  # it looks in half a second
            with stage.rules.followed_by(lambda: seen.append(stage.in_force)):
                for names in (["one"], ["one", "two"], ["one", "two", "three"]):
                    await stage.write(rules(*map(sink, names)), 0.7)
                await asyncio.sleep(LOOK)
            assert seen == [["out"], ["one", "three", "two"]]
            assert stage.outcomes == (1, 0, 1)

    run(scene())


def test_a_file_that_is_written_all_the_time_is_taken_all_the_same(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            for number in range(100):
                await stage.write(rules(sink(f"out{number}")), 0.3)
            assert stage.in_force != ["out"]

    run(scene())


def test_whoever_asks_does_not_wait_until_nothing_changes_any_more(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            await stage.write(rules(sink("new")), 2.1)
            assert stage.in_force == ["out"]  # noticed, and perhaps half written
            stage.asked.set()
            await settle_down()
            assert stage.in_force == ["new"]
            await asyncio.sleep(60)
            assert (stage.outcomes, stage.built.count("new")) == ((1, 0, 1), (1, 0))

    run(scene())


def test_the_old_file_put_back_ends_a_refusal_too(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            await stage.write("nonsense")
            await stage.write("other nonsense")
            assert stage.outcomes == (0, 2, 0)
            await stage.write(rules(sink("out")))
            assert (stage.outcomes, stage.built.count("out")) == ((1, 2, 1), (1, 0))

    run(scene())


def test_a_file_that_is_away_for_a_while_changes_nothing(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            stage.routes.unlink()
            await asyncio.sleep(LOOK)
            assert (stage.outcomes, stage.in_force) == ((0, 1, 0), ["out"])
            assert "there is no such file" in stage.note
            await stage.write(rules(sink("out")))
            assert stage.outcomes == (1, 1, 1)

    run(scene())


def test_whoever_asks_has_every_sink_built_anew_at_once(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"), sink("two"))).running() as stage:
            stage.asked.set()
            await settle_down()
            assert stage.outcomes == (1, 0, 1)
            assert [stage.built.count(each) for each in ("one", "two")] == [(2, 1), (2, 1)]
            assert not stage.asked.is_set()

    run(scene())


def test_whoever_asks_is_told_each_time_that_the_file_is_bad(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            await stage.write("nonsense")
            for _ in range(2):
                stage.asked.set()
                await settle_down()
            assert stage.outcomes == (0, 3, 0)

    run(scene())


@pytest.mark.parametrize("problem", [SinkUnavailable("sink two: no disk"), ValueError("a bug"), OSError("no")])
def test_a_sink_that_cannot_be_opened_keeps_the_old_rules_until_it_can(tmp_path: Path, problem: Exception):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            problems = [None, problem, None, problem]
            stage.built.problem = lambda: problems.pop(0) if problems else None
            await stage.write(rules(sink("one", concurrency=2), sink("two")))
            assert (stage.outcomes, stage.in_force) == ((0, 1, 0), ["one"])
            assert stage.built.count("one") == (2, 1)  # built for nothing, and closed
            said = str(problem) if isinstance(problem, SinkUnavailable) else type(problem).__name__
            assert said in stage.note
            await asyncio.sleep(AGAIN)
            assert (stage.outcomes, stage.built.count("one")) == ((0, 1, 0), (3, 2))  # said once
            await asyncio.sleep(AGAIN)
            assert (stage.outcomes, stage.in_force) == ((1, 1, 1), ["one", "two"])

    run(scene())


def test_a_sink_that_does_not_open_in_time_is_refused(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            stage.built.never_opens = True
            await stage.write(rules(sink("two")), 40)
            assert (stage.outcomes, stage.in_force) == ((0, 1, 0), ["one"])
            assert "sink two: it did not open within 30 s" in stage.note

    run(scene())


def test_stopping_in_the_middle_of_a_reload_closes_what_was_built_for_it(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("one"))).running() as stage:
            original = stage.built.build

            async def build(settings: SinkSettings) -> Way:
                if settings.name == "three":
                    await asyncio.sleep(1e9)
                return await original(settings)

            stage.built.build = build
            await stage.write(rules(sink("two"), sink("three")))
            assert stage.built.count("two") == (1, 0)
        assert stage.built.count("two") == (1, 1)

    run(scene())


def test_a_template_that_changed_has_its_sink_built_anew_and_no_other(tmp_path: Path):
    async def scene():
        template = tmp_path / "mail.txt"
        template.write_text("one")
        text = rules(mail("mail", text_template_file="mail.txt"), sink("out"))
        async with Scene(tmp_path, text).running() as stage:
            template.write_text("two")
            await asyncio.sleep(LOOK)
            assert (stage.built.count("mail"), stage.built.count("out")) == ((2, 1), (1, 0))
            template.write_text("{{ three")
            await asyncio.sleep(600)
            assert (stage.outcomes, stage.built.count("mail")) == ((1, 1, 0), (2, 1))
            await stage.write(text + "# and the rules too\n")
            assert stage.outcomes == (1, 2, 0)
            template.write_text("three")
            await asyncio.sleep(LOOK)
            assert (stage.outcomes, stage.built.count("mail")) == ((2, 2, 1), (3, 2))

    run(scene())


def test_a_template_that_changed_while_the_rules_were_bad_counts_when_they_are_good_again(tmp_path: Path):
    async def scene():
        template = tmp_path / "mail.txt"
        template.write_text("one")
        text = rules(mail("mail", text_template_file="mail.txt"))
        async with Scene(tmp_path, text).running() as stage:
            template.write_text("two")
            await stage.write("nonsense")
            await stage.write(text)
            assert (stage.outcomes, stage.built.count("mail")) == ((1, 1, 1), (2, 1))

    run(scene())


def test_a_file_that_was_missing_is_found_when_it_comes(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            await stage.write(rules(mail("mail", text_template_file="mail.txt")))
            assert stage.outcomes == (0, 1, 0)
            (tmp_path / "mail.txt").write_text("here")
            await asyncio.sleep(AGAIN)
            assert (stage.outcomes, stage.in_force) == ((1, 1, 1), ["mail"])

    run(scene())


def test_a_worker_yaml_that_changed_waits_for_a_restart_and_is_said_once(tmp_path: Path):
    async def scene():
        async with Scene(tmp_path, rules(sink("out"))).running() as stage:
            before = stage.rules.digest
            with capture_logs() as lines:
                changed = {**WORKER, "limits": {"in_flight": 7}}
                (tmp_path / "worker.yaml").write_text(yaml.safe_dump(changed))
                await asyncio.sleep(60)
            assert [line["event"] for line in lines] == ["worker.yaml has changed, and a restart applies it"]
            assert stage.health.notes()["worker.yaml"].endswith("has changed; a restart applies it")
            assert (stage.outcomes, stage.rules.digest) == ((0, 0, 1), before)
            await stage.write(rules(sink("out"), sink("new")))
            assert stage.in_force == ["new", "out"]
            assert stage.rules.digest not in (before, load(tmp_path / "worker.yaml", secrets=False).digest)
            (tmp_path / "worker.yaml").write_text(yaml.safe_dump(WORKER))
            await asyncio.sleep(LOOK)
            assert "worker.yaml" not in stage.health.notes()
            assert stage.rules.digest == load(tmp_path / "worker.yaml", secrets=False).digest

    run(scene())


def test_what_changed_while_the_worker_started_is_not_missed(tmp_path: Path):
    async def scene():
        stage = Scene(tmp_path, rules(sink("out")))
        stage.routes.write_text(rules(sink("new")))
        async with stage.running():
            await asyncio.sleep(LOOK)
            assert stage.in_force == ["new"]

    run(scene())


def test_what_looks_wrong_is_said_at_the_start_and_with_each_reload(tmp_path: Path):
    async def scene():
        unused = yaml.safe_dump({"sinks": [sink("out"), sink("idle")], "routes": [{"name": "all", "sinks": ["out"]}]})
        with capture_logs() as lines:
            async with Scene(tmp_path, unused).running() as stage:
                await stage.write("# again\n" + unused)
        said = [line["what"] for line in lines if line["event"] == "this looks wrong"]
        assert len(said) == 2
        assert all("no route names" in each for each in said)

    run(scene())
