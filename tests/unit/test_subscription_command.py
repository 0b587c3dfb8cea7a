"""`worker subscription`: its mistakes have words, and docs/subscription.md shows what it prints for config/."""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.configurations import ROUTES, WORKER, write
from tests.unit.event_grid import filter_of, read_as_az, run_script
from tests.unit.test_subscription_text import CONTAINER, GROUP, HUB, WORKSPACE
from worker.cli import main
from worker.filters import compile_filter

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "subscription.md").read_text()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def subscription(monkeypatch, capsys, tmp_path):
    """The command, over the configuration of the tests, of which no secret is there."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, WORKER, ROUTES)

    def subscription(*more: str, config: str = "worker.yaml", source: str = WORKSPACE, hub: str = HUB) -> Outcome:
        ids = ("--config", config, "--source-resource-id", source, "--hub-resource-id", hub)
        monkeypatch.setattr(sys, "argv", ["worker", "subscription", *ids, *more])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text

    return subscription


def with_routes(routes: str) -> None:
    write(Path(), WORKER, f"sinks:\n  - {{ name: audit, kind: log }}\nroutes:\n{routes}")


def test_the_page_shows_what_is_printed_for_the_shipped_configuration(subscription, monkeypatch):
    monkeypatch.chdir(PROJECT)
    routes = (PROJECT / "config" / "routes.yaml").read_text()
    assert "name: everything" in routes
    shown = subscription("--dead-letter", CONTAINER, config="config/worker.yaml")
    assert shown.code == 0, shown.err
    assert f"```sh\n{shown.out}```" in PAGE


def test_the_page_shows_what_is_printed_when_no_route_takes_everything(subscription, monkeypatch, tmp_path):
    monkeypatch.chdir(PROJECT)
    routes = (PROJECT / "config" / "routes.yaml").read_text()
    narrowed = routes.replace("  - name: everything\n    sinks: [audit]\n", "")
    assert narrowed != routes
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "routes.yaml").write_text(narrowed)
    (tmp_path / "config" / "worker.yaml").write_text((PROJECT / "config" / "worker.yaml").read_text())
    shown = subscription("--data-conditions", config="config/worker.yaml")
    assert shown.code == 0, shown.err
    assert f"```sh\n{shown.out[shown.out.index('az eventgrid event-subscription create') :]}```" in PAGE


def test_every_option_stands_on_the_page():
    for option in re.findall(r'"(--[a-z-]+)"', (PROJECT / "worker/commands/subscription.py").read_text()):
        assert option in PAGE
    assert "--max-delivery-attempts" in PAGE
    assert "--event-ttl" in PAGE


def test_rows_of_json_hold_filters_that_the_worker_reads(subscription):
    group = "{ advancedFilters: [{ operatorType: IsNotNull, key: id }] }"
    filter_ = f"{{ includedEventTypes: [A], subjectBeginsWith: x, any_of: [{group}] }}"
    with_routes(f"  - {{ name: r, filter: {filter_}, sinks: [audit] }}\n")
    done = subscription("--json", source=f"{GROUP}/Microsoft.KeyVault/vaults/v")
    first, stays = [json.loads(line) for line in done.out.splitlines()]
    compile_filter(first["filter"])
    assert first["filter"]["includedEventTypes"] == ["A"]
    assert stays["stays_in_worker"] == "any_of"


def test_the_printed_command_is_a_script_and_bicep_is_no_script(subscription):
    [words] = run_script(subscription("--name", "mine", "--event-ttl", "60", "--max-delivery-attempts", "5").out)
    read = read_as_az(words)
    assert (read.name, read.event_ttl, read.max_delivery_attempts) == ("mine", "60", "5")
    assert filter_of(read) == {}
    assert subscription("--bicep").out.startswith("// From routes.yaml")


@pytest.mark.parametrize(
    ("more", "ids", "message"),
    [
        ((), {"source": "ml-workspace"}, "--source-resource-id: is no ARM id; write /subscriptions/…"),
        ((), {"source": HUB}, "is where events go, not where they come from"),
        ((), {"source": f"{GROUP}/Microsoft.EventGrid/partnerTopics/p"}, "az has another command"),
        ((), {"hub": WORKSPACE}, "--hub-resource-id: is no ARM id of an event hub"),
        ((), {"hub": HUB.removesuffix("/eventhubs/ml-events")}, "eventhubs/ml-events"),
        ((), {"hub": HUB.replace("ml-events", "other")}, "source.hub says that the worker reads ml-events"),
        (("--dead-letter", HUB), {}, "--dead-letter: is no ARM id of a blob container"),
        (("--name", "a b"), {}, "--name: must be 3 to 60 letters"),
        (("--bicep", "--json"), {}, "excludes --json"),
        (("--event-ttl", "1441"), {}, "1440"),
    ],
)
def test_a_mistake_in_the_options_is_said_with_what_to_write(subscription, more, ids, message):
    done = subscription(*more, **ids)
    assert (done.code, done.out) == (2, "")
    assert message in re.sub(r"[\s│]+", " ", done.err)


def test_all_mistakes_are_said_at_once(subscription):
    done = subscription("--name", "x", source="w", hub="h")
    assert [line.split(":")[0] for line in done.err.splitlines()] == [
        "--name",
        "--source-resource-id",
        "--hub-resource-id",
    ]


def test_a_source_of_which_no_route_takes_an_event_is_no_mistake_and_no_success(subscription):
    with_routes("  - { name: r, filter: { includedEventTypes: [Microsoft.Storage.BlobCreated] }, sinks: [audit] }\n")
    done = subscription()
    assert (done.code, done.out) == (1, "")
    assert done.err == "worker: no route takes an event of this source; the routes name Microsoft.Storage.BlobCreated\n"


def test_what_az_cannot_say_is_the_users_to_change(subscription):
    with_routes('  - { name: r, filter: { includedEventTypes: ["@a"] }, sinks: [audit] }\n')
    done = subscription(source=f"{GROUP}/Microsoft.EventGrid/topics/t")
    assert (done.code, done.out) == (2, "")
    assert "take --bicep" in done.err


EXPECTING = """\
  - {{ name: alarm, filter: {{ includedEventTypes: [{types}] }}, sinks: [audit] }}
expect:
  - name: run-ends
    after: {{ includedEventTypes: [Microsoft.MachineLearningServices.RunStatusChanged] }}
    then: {{ includedEventTypes: [Microsoft.MachineLearningServices.RunCompleted] }}
    within: 6h
  - {{ name: quiet, events: {{ includedEventTypes: [Microsoft.MachineLearningServices.ModelRegistered] }}, every: 1h,
      sources: ["{source}"] }}
"""


def test_what_expectations_look_at_is_sent_and_what_the_worker_makes_itself_is_not_asked_for(subscription):
    with_routes(EXPECTING.format(types="Worker.ExpectationMissed, Worker.Digest", source=WORKSPACE))
    row, *_ = [json.loads(line) for line in subscription("--json").out.splitlines()]
    types = row["filter"]["includedEventTypes"]
    assert sorted(each.rpartition(".")[2] for each in types) == ["ModelRegistered", "RunCompleted", "RunStatusChanged"]


def test_an_expectation_of_a_whole_source_asks_for_everything(subscription):
    with_routes(
        "  - { name: alarm, filter: { includedEventTypes: [Worker.ExpectationMissed] }, sinks: [audit] }\n"
        f"expect:\n  - {{ name: quiet, every: 1h, sources: ['{WORKSPACE}'] }}\n"
    )
    row, *_ = [json.loads(line) for line in subscription("--json").out.splitlines()]
    assert "includedEventTypes" not in row["filter"]
