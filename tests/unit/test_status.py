"""The status page: values in, HTML out. How a browser shows it is in tests/integration/test_status_page.py."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pages import HOSTILE, NOON, hostile, noon
from worker.status import LaneView, PartitionView, Status, headers, render

TAGS = {
    *("html", "head", "meta", "link", "title", "style", "body", "header", "main", "section"),
    *("h1", "h2", "p", "span", "a", "code", "time", "bdi", "strong", "ul", "li", "dl", "div", "dt", "dd"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "path", "polyline"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "rel", "href", "class", "id", "role", "scope", "datetime"),
    *("aria-labelledby", "aria-label", "aria-hidden", "data-label", "viewbox", "preserveaspectratio", "d", "points"),
}


class Page(HTMLParser):
    """The page in pieces."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str | None] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def empty(**more) -> Status:
    return Status("w", "1", "hub", "$Default", "d", now=NOON, started_at=NOON, **more)


def page(status: Status) -> Page:
    return Page(render(status, refreshing=True))


def test_whatever_comes_from_outside_is_text():
    shown = page(hostile())

    assert shown.tags == TAGS
    assert shown.attributes <= ATTRIBUTES
    assert shown.links == ["data:,", "?refresh=off"]
    for text in HOSTILE[:5]:
        assert shown.text.count(text) >= 10


@settings(deadline=None)  # the first page compiles the template
@given(st.text())
def test_no_text_becomes_markup(text):
    shown = page(
        replace(
            noon(),
            notes={text: text},
            not_ready={text: text},
            stale=[text],
            lanes=[LaneView(text, text, "free", "good", error=text)],
            attempts=[replace(each, subject=text, event_id=text, error=text) for each in noon().attempts],
            letters=[replace(each, subject=text, event_id=text, detail=text, reason=text) for each in noon().letters],
        )
    )
    assert shown.tags == TAGS
    assert shown.attributes <= ATTRIBUTES


def test_what_would_turn_the_text_around_or_is_not_seen_is_shown():
    html = render(empty(notes={"a": "x\u202egnp.exe\x00"}), refreshing=True)
    assert "x\\u202egnp.exe\\x00" in html


def test_the_policy_lets_this_style_in_and_nothing_else():
    [style] = re.findall(r"<style>(.*?)</style>", render(noon(), refreshing=True), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert headers()["Content-Security-Policy"].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    assert "style=" not in render(noon(), refreshing=True), "the policy lets none of these in"
    assert "url(" not in style
    assert "@import" not in style


def test_a_process_that_has_just_begun_says_that_there_is_nothing_yet():
    text = page(empty(not_ready={"starting": "not reading yet"})).text
    assert text.count("None yet.") == 2
    assert text.count("None since this process started.") == 2
    assert "not reading yet" in text


@pytest.mark.parametrize(
    ("status", "headline"),
    [
        (empty(), ("ready", "good")),
        (empty(partitions=[PartitionView("0", "being taken", "note")]), ("ready", "good")),
        (empty(partitions=[PartitionView("0", "stopped", "bad")]), ("ready, needs a look", "note")),
        (empty(lanes=[LaneView("a", "log", "gone", "bad")]), ("ready, needs a look", "note")),
        (empty(not_ready={"hub": "not reached"}), ("not ready", "bad")),
        (empty(not_ready={"hub": "x", "stopping": "draining"}), ("stopping", "note")),
        (empty(not_ready={"hub": "x"}, stale=["requests"]), ("not moving", "bad")),
    ],
)
def test_the_headline_says_the_worst_of_it(status, headline):
    assert status.headline == headline
    assert headline[0] in page(status).text


def test_numbers_are_short_and_what_is_not_known_is_none():
    known = PartitionView("0", "reading", "good", "", 3, 1234567, 7300.0, 12, 0, 2.5)
    text = page(empty(partitions=[known, replace(known, lag_events=None, lag_seconds=90_000.0 * 3)])).text
    for shown in ("1,234,567", "2.0 h", "2.5 s", "\N{EN DASH}", "3.1 d"):
        assert shown in text


def test_it_stands_still_when_it_is_to():
    assert 'http-equiv="refresh" content="15"' in render(noon(), refreshing=True)
    assert "http-equiv" not in render(noon(), refreshing=False)
