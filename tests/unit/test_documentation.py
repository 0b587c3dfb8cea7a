"""The pages lead where they say: every relative link and anchor resolves, every command that they name exists.

Commands are looked up where `worker … --help` gets them from. What error messages, alerts and comments name counts too.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from worker.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT)
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
)
OTHERS = sorted(
    file.relative_to(ROOT)
    for folder, pattern in [("worker", "*.py"), ("config", "*.yaml"), ("deploy", "*.yaml")]
    for file in (ROOT / folder).rglob(pattern)
)
"""Not pages, but people read commands in them."""

_FENCE = re.compile(r"\s*(?:\d+\.\s+|[-*]\s+)?```")
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CALL = re.compile(r"(?:^|[\s/(])worker +([a-z][^\n]*)")
_INNER = re.compile(r"\$\([^)]*\)")
"""What another program is asked for within a call."""
_ENDS_A_COMMAND = {"|", "||", "&&", ";", ">", "<", "&"}


def parted(text: str) -> tuple[str, str]:
    """What is written, and what stands between fences, lines that go on joined and without comments."""
    prose, code, fenced = [], [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        else:
            (code if fenced else prose).append(line)
    joined = "\n".join(code).replace("\\\n", " ")
    return "\n".join(prose), re.sub(r"(?:^|\s)#(?:\s.*)?$", "", joined, flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """As GitHub makes them: of two headings that are alike the second gets a number."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.findall(parted(text)[0]):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(text: str) -> list[str]:
    """Where its links and pictures lead, those to other servers left out."""
    targets: list[str] = _LINK.findall(_SPAN.sub("", parted(text)[0]))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for target in links(text):
        path, _, place = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (place and place not in anchors(text if file == page else file.read_text())):
            wrong.append(target)
    return wrong


def calls(text: str) -> Iterator[list[str]]:
    """The words after `worker` of every call, in code and between backticks."""
    prose, code = parted(text)
    spans = [" ".join(span.split()) for span in _SPAN.findall(prose)]
    for line in [*code.splitlines(), *spans]:
        for call in _CALL.findall(_INNER.sub("…", line)):
            yield _until_it_ends(call.split())


def _until_it_ends(words: list[str]) -> list[str]:
    end = next((place for place, word in enumerate(words) if word in _ENDS_A_COMMAND), len(words))
    return [word.rstrip("`.,;:)\"'") for word in words[:end]]


@cache
def root() -> click.Command:
    return typer.main.get_command(app)


def unknown(words: list[str]) -> str | None:
    """What of a call the worker does not know: a command, or an option of it."""
    commands = [root()]
    while words and not words[0].startswith("-") and (below := _below(commands)):
        names, words = words[0].split("|"), words[1:]
        if missing := [name for name in names if name not in below]:
            return missing[0]
        commands = [below[name] for name in names]
    known = {option for each in commands for parameter in each.params for option in (*parameter.opts, "--help", "-h")}
    asked = [word.split("=")[0] for word in words if re.match(r"--[a-z]", word)]
    return next((option for option in asked if option not in known), None)


def _below(commands: list[click.Command]) -> dict[str, click.Command]:
    return {name: each for group in commands for name, each in getattr(group, "commands", {}).items()}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    assert broken(ROOT / page, (ROOT / page).read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_that_a_page_names_exists_and_has_its_options(page: Path):
    assert [" ".join(words) for words in calls((ROOT / page).read_text()) if unknown(words)] == []


def test_every_command_that_a_message_an_alert_or_a_comment_names_exists():
    named = [
        (str(file), call)
        for file in OTHERS
        for call in re.findall(r"`worker ([a-z][^`\n]*)`", (ROOT / file).read_text())
    ]
    assert len(named) > 20
    assert [each for each in named if unknown(_until_it_ends(each[1].split()))] == []


def test_every_command_is_on_some_page():
    on_pages = {words[0] for page in PAGES for words in calls((ROOT / page).read_text()) if words}
    assert _below([root()]).keys() <= on_pages


def test_pages_are_found_from_the_readme():
    """Each is linked from the README, or from a page that is."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = [(page.parent / target.partition("#")[0]).resolve() for target in links(page.read_text())]
            waiting += [target for target in targets if target.suffix == ".md"]
    assert [page for page in PAGES if (ROOT / page).resolve() not in reached] == []


@pytest.mark.parametrize(
    "call",
    ["lagg", "deadletter lst", "deadletter list|shw", "seek --to 2h --forced", "resume --partition 3 --dryrun"],
)
def test_a_command_that_is_not_there_would_be_noticed(call: str):
    code = f"1. ```\n   .venv/bin/worker \\\n {call}\n   ```"
    written = [f"See `worker {call}`.", f"```\nin_pod worker {call}\n```", code]
    assert [[bool(unknown(words)) for words in calls(text)] for text in written] == [[True]] * 3


def test_a_link_that_leads_nowhere_would_be_noticed():
    text = "# A `b` c\n## Same\n## Same\n```\n# no heading\n```\n[x](#a-b-c) [x](#same-1) [x](#no-heading) [x](gone.md)"
    page = ROOT / "docs" / "operations.md"
    assert broken(page, text) == ["#no-heading", "gone.md"]
    assert broken(page, "[`x`](runbook.md#workerabsent) [y](runbook.md#workerabsint)") == ["runbook.md#workerabsint"]
