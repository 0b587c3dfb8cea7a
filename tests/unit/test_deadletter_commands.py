"""`worker deadletter`: what is listed, shown, requested and dropped, and the exit codes; on a real SQLite store."""

import asyncio
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from tests.contract.store_helpers import letter as plain_letter
from tests.unit.configurations import ENVIRON, write
from worker.cli import main
from worker.events import PartitionId, UnixSeconds
from worker.letters import Filters, time_of
from worker.stores import DeadLetter, HubScope, ReplayRequest
from worker.stores.layout import letter_name
from worker.stores.sqlite import SqliteStore

SCOPE = HubScope("127.0.0.1:5672", "ml-events", "$Default")
NOON = 1_764_000_000.0
HOUR = 3600.0
FIELDS = [
    *("id", "time", "reason", "detail", "route", "sink", "attempts"),
    *("partition", "sequence_number", "index", "event_id", "type", "subject", "source"),
]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def events(self) -> list[str]:
        return [row["event_id"] for row in self.rows]


Worker = Callable[..., Outcome]


@pytest.fixture
def worker(monkeypatch, capsys, tmp_path) -> Worker:
    """`worker deadletter …`; only the hub's secret is there, no sink's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB", ENVIRON["HUB"])
    monkeypatch.delenv("OUT", raising=False)
    config = write(tmp_path)

    def worker(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["worker", "deadletter", *map(str, arguments), "--config", str(config)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text

    return worker


def in_store(work: Callable[[SqliteStore], Any]) -> Any:
    """What the work gives, on the store of the configuration in this folder."""

    async def opened() -> Any:
        store = SqliteStore(Path("data/worker.db"), SCOPE)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.aclose()

    return asyncio.run(opened())


def keep(*letters: DeadLetter) -> None:
    in_store(lambda store: store.put_dead_letters(list(letters)))


def requested() -> list[ReplayRequest]:
    return in_store(lambda store: store.replays())


def letter(number: int, **changes: object) -> DeadLetter:
    """The letter of event `e<number>`, given up `number` hours after noon."""
    values: dict[str, Any] = {
        "id": hashlib.sha256(str(number).encode()).hexdigest()[:32],
        "time": UnixSeconds(NOON + number * HOUR),
        "enqueued_at": UnixSeconds(NOON - HOUR + number),
        "reason": "rejected",
        "detail": "400: no",
        "route": "all",
        "sink": "out",
        "attempts": 2,
        "index": 0,
        "event_id": f"e{number}",
        "type": "Microsoft.Storage.BlobCreated",
        "subject": f"blobs/{number}",
        "source": "/subscriptions/s",
        "body": orjson.dumps([{"id": f"e{number}", "big": 1}]),
        "idempotency_key": "ab" * 32,
    }
    return plain_letter(number, **{**values, **changes})


def id_of(number: int) -> str:
    return letter(number).id


# ---- list


def test_a_list_has_the_promised_fields_oldest_first_and_needs_no_secret_of_a_sink(worker):
    keep(letter(2), letter(1))
    outcome = worker("list", "--json")
    assert outcome.code == 0
    assert outcome.events == ["e1", "e2"]
    assert list(outcome.rows[0]) == FIELDS
    first = outcome.rows[0]
    assert first["time"] == "2025-11-24T17:00:00.000Z"
    assert (first["partition"], first["sequence_number"], first["index"], first["attempts"]) == ("0", 1, 0, 2)
    assert outcome.err == "2 dead letters.\n"


def test_an_empty_list_says_so(worker):
    assert worker("list") == Outcome(0, "0 dead letters.\n", "")
    assert worker("list", "--json") == Outcome(0, "", "0 dead letters.\n")


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (["--sink", "audit"], ["e3"]),
        (["--reason", "late"], ["e2"]),
        (["--route", "other"], ["e3"]),
        (["--partition", "1"], ["e4"]),
        (["--type", "microsoft.storage.blobdeleted"], ["e4"]),
        (["--subject", "blobs/3"], ["e3"]),
        (["--since", "2025-11-24T19:00:00Z"], ["e3", "e4"]),
        (["--until", "2025-11-24T19:00:00+00:00"], ["e1", "e2"]),
        (["--since", "2025-11-24T18:00:00", "--until", "2025-11-24T19:00:00", "--sink", "out"], ["e2"]),
        (["--limit", "2"], ["e1", "e2"]),
        (["--sink", "out", "--limit", "1"], ["e1"]),
        (["--sink", "nobody"], []),
    ],
)
def test_filters_choose(worker, options, events):
    keep(
        letter(1),
        letter(2, reason="late"),
        letter(3, sink="audit", route="other"),
        letter(4, partition=PartitionId("1"), type="Microsoft.Storage.BlobDeleted"),
    )
    assert worker("list", "--json", *options).events == events


def test_an_age_counts_from_now(worker):
    now = time.time()
    keep(letter(1, time=UnixSeconds(now - 3 * HOUR)), letter(2, time=UnixSeconds(now - HOUR)))
    assert worker("list", "--json", "--since", "2h").events == ["e2"]
    assert worker("list", "--json", "--until", "90m").events == ["e1"]


def test_ages_and_times():
    assert time_of("90s", now=100) == 10
    assert [time_of(f"1{unit}", now=0) for unit in "smhdw"] == [-1, -60, -3600, -86_400, -604_800]
    assert time_of("1.5h", now=0) == -5400
    assert time_of("1970-01-02", now=0) == 86_400
    assert time_of("1970-01-01T01:00:00+01:00", now=0) == 0


@pytest.mark.parametrize("text", ["yesterday", "2 fortnights", "-3d", "", "2026-13-01"])
def test_what_is_no_time_is_the_users_mistake(worker, text):
    outcome = worker("list", f"--since={text}")
    assert outcome.code == 2
    assert "--since" in outcome.err
    assert "2h" in re.sub(r"\W+", " ", outcome.err)


def test_a_table_shows_each_letter_on_a_line_and_nothing_in_it_steers_the_terminal(worker):
    keep(*(letter(number) for number in range(250)), letter(250, subject="a\x1b[31m\nb", detail="[bold]x[/bold]"))
    lines = worker("list").out.splitlines()
    assert lines[0].split()[0] == "id"
    assert len(lines) == 252
    assert sum("time (UTC)" in line for line in lines) == 1
    assert "\\x1b[31m\\nb" in lines[-1]
    assert "[bold]x[/bold]" in lines[-1]
    assert lines[1].split()[0] == id_of(0)[:12]


# ---- show


def test_show_says_everything_and_takes_the_beginning_of_an_id(worker):
    keep(letter(1, properties={"k": b"\x00", "t": "ü"}, content_type="application/json"), letter(2))
    outcome = worker("show", id_of(1)[:10].upper())
    assert outcome.code == 0
    values = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in outcome.out.splitlines()[:16]}
    assert values.keys() >= {*FIELDS, "idempotency_key", "enqueued"}
    assert values["idempotency_key"] == "ab" * 32
    assert 't = "ü"' in outcome.out
    assert '{"$bytes": "AA=="}' in outcome.out
    assert '    "id": "e1",\n' in outcome.out


@pytest.mark.parametrize(
    ("body", "encoding", "shown"),
    [
        (b'\xef\xbb\xbf{"n": 123456789012345678901234567890}', "json", {"n": 123456789012345678901234567890}),
        ("{ü".encode(), "text", "{ü"),
        (b"NaN", "text", "NaN"),
        (b"[" * 100_000, "text", "[" * 100_000),
        (b"", "text", ""),
        (b"\xff\x00", "base64", "/wA="),
    ],
)
def test_a_body_is_shown_as_what_it_is(worker, body, encoding, shown):
    keep(letter(1, body=body))
    row = worker("show", id_of(1), "--json").rows[0]
    assert (row["body_encoding"], row["body"]) == (encoding, shown)


def test_raw_writes_the_bytes_and_nothing_else(monkeypatch, tmp_path, capfdbinary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB", ENVIRON["HUB"])
    config = write(tmp_path)
    keep(letter(1, body=bytes(range(256))))
    monkeypatch.setattr(sys, "argv", ["worker", "deadletter", "show", id_of(1), "--raw", "--config", str(config)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capfdbinary.readouterr() == (bytes(range(256)), b"")


def test_an_id_that_is_not_there_or_not_clear_is_said(worker):
    keep(letter(1, id="aaaa1"), letter(2, id="aaaa2"))
    assert worker("show", "bb").code == 1
    ambiguous = worker("show", "aaaa")
    assert ambiguous.code == 2
    assert "aaaa1, aaaa2" in ambiguous.err
    assert worker("show", "").code == 2
    assert worker("show", "aaaa1", "--raw", "--json").code == 2


# ---- replay and drop


@pytest.mark.parametrize("command", [["replay"], ["drop", "--yes"]])
def test_without_ids_and_filters_nothing_happens_unless_all_is_asked_for(worker, command):
    keep(letter(1), letter(2))
    refused = worker(*command)
    assert refused.code == 2
    assert "--all" in refused.err
    assert worker(*command, "--limit", "1").code == 2
    assert worker(*command, "--all", "--sink", "out").code == 2
    assert requested() == []
    assert worker("list", "--json").events == ["e1", "e2"]
    assert worker(*command, "--all").code == 0
    assert len(requested()) == 2 or worker("list", "--json").events == []


def test_replay_requests_what_was_chosen_and_says_that_no_worker_runs(worker):
    keep(letter(1), letter(2, partition=PartitionId("1")), letter(3, sink="audit"))
    outcome = worker("replay", "--sink", "out")
    assert outcome.code == 0
    assert outcome.out.startswith("2 dead letters to be delivered again. No worker is running")
    chosen = [letter(1), letter(2, partition=PartitionId("1"))]
    assert requested() == [ReplayRequest(each.partition, letter_name(each)) for each in chosen]
    assert worker("list", "--json").events == ["e1", "e2", "e3"]


def test_replay_knows_a_worker_that_runs_from_one_that_died(worker):
    def own(owner: str, age_seconds: float) -> None:
        async def work(store: SqliteStore) -> None:
            row = {"fully_qualified_namespace": SCOPE[0], "eventhub_name": SCOPE[1], "consumer_group": SCOPE[2]}
            listed = await store.checkpoints.list_ownership(*SCOPE)
            etag = next((each["etag"] for each in listed), None)
            await store.checkpoints.claim_ownership([{**row, "partition_id": "0", "owner_id": owner, "etag": etag}])
            store_file = store._database  # the clock of a row cannot be set through the protocol
            await store_file.execute("UPDATE ownership SET modified = ?", [(time.time() - age_seconds,)])

        in_store(work)

    keep(letter(1))
    own("somebody", 0)
    assert "No worker" not in worker("replay", "--all").out
    own("somebody", 60)
    assert "No worker is running" in worker("replay", "--all").out
    own("", 0)
    assert "No worker is running" in worker("replay", "--all").out


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_dry_run_prints_which_letters_and_changes_nothing(worker, command):
    keep(letter(1), letter(2, sink="audit"))
    outcome = worker(command, "--sink", "out", "--dry-run", "--json")
    assert (outcome.code, outcome.events) == (0, ["e1"])
    assert "would be" in outcome.err
    assert requested() == []
    assert worker("list", "--json").events == ["e1", "e2"]


def test_drop_deletes_what_was_chosen_with_the_requests_for_it(worker):
    keep(letter(1), letter(2), letter(3, sink="audit"))
    worker("replay", "--all")
    outcome = worker("drop", id_of(2)[:8], "--yes")
    assert (outcome.code, outcome.out) == (0, "1 dead letter dropped.\n")
    assert worker("list", "--json").events == ["e1", "e3"]
    assert len(requested()) == 2
    dropped = worker("drop", "--sink", "out", "--yes", "--json")
    assert dropped.events == ["e1"]
    assert worker("list", "--json").events == ["e3"]


def test_drop_asks_on_a_terminal_and_refuses_where_it_cannot(worker, monkeypatch):
    keep(letter(1), letter(2))
    outcome = worker("drop", "--all")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked: list[str] = []

    def answer(yes: bool) -> None:
        def readline(*_: object) -> str:
            asked.append("asked")
            return "y\n" if yes else "n\n"

        monkeypatch.setattr(sys.stdin, "readline", readline)

    answer(False)
    refused = worker("drop", "--all")
    assert refused.code == 1
    assert "Drop 2 dead letters for good?" in refused.err
    assert worker("list", "--json").events == ["e1", "e2"]
    answer(True)
    assert worker("drop", "--all").code == 0
    assert worker("list", "--json").events == []
    assert asked == ["asked"] * 2


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_ids_that_are_there_are_done_and_the_others_said_so_that_it_can_be_repeated(worker, command):
    keep(letter(1), letter(2))
    yes = ["--yes"] if command == "drop" else []
    outcome = worker(command, id_of(1), "feed", *yes)
    assert outcome.code == 1
    assert "feed" in outcome.err
    assert outcome.out.startswith("1 dead letter ")


def test_an_id_is_narrowed_by_filters_and_an_unclear_one_stops_everything(worker):
    keep(letter(1, id="aaaa1"), letter(2, id="aaaa2"), letter(3, id="b", sink="audit"))
    assert worker("drop", "aaaa", "b", "--yes").code == 2
    assert worker("drop", "aaaa1", "b", "--sink", "audit", "--yes").out == "1 dead letter dropped.\n"
    assert worker("list", "--json").events == ["e1", "e2"]


def test_a_thousand_letters_are_requested_and_dropped_in_batches(worker):
    keep(*(letter(number) for number in range(1000)))
    assert worker("replay", "--all").code == 0
    assert len(requested()) == 1000
    assert worker("drop", "--all", "--yes").out == "1,000 dead letters dropped.\n"
    assert worker("list", "--json").rows == []
    assert requested() == []


# ---- Around the commands


def test_what_is_wrong_with_the_configuration_is_said_with_its_line(worker, monkeypatch):
    monkeypatch.delenv("HUB")
    outcome = worker("list")
    assert outcome.code == 2
    assert "worker.yaml:2:3: source.connection_string_env" in outcome.err


def test_a_store_that_cannot_be_used_is_a_failure_with_a_sentence(worker):
    Path("data").mkdir()
    Path("data/worker.db").mkdir()
    outcome = worker("list")
    assert outcome.code == 1
    assert "data/worker.db" in outcome.err
    assert "Traceback" not in outcome.err


def test_filters_without_a_value_let_everything_through():
    assert Filters().empty
    assert Filters().match(plain_letter(1))
    assert not Filters(until=UnixSeconds(math.inf)).empty
    assert not Filters(subject="x").match(plain_letter(1, subject=None))
