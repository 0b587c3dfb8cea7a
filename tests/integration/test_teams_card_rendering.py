"""Cards in a browser, by the published renderer: all that matters is there, and nothing of an event is alive."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cards import WORKSPACE, browser, card_in, digest_of, entries_of, picture, run_event, shown
from tests.deliveries import delivery_of
from worker.notice import notice_of
from worker.sinks import Delivery
from worker.sinks.cards import message_of

PICTURES = Path(__file__).parents[2] / "docs" / "sinks"
NARROW, WIDE = 340, 800
OWN_MARKUP = re.compile(r"<strong>[^<]*:</strong>")
"""The name before a fact."""


@pytest.fixture(autouse=True)
def _has_browser() -> None:
    browser()


def card_of(delivery: Delivery) -> dict[str, Any]:
    return card_in(message_of(notice_of(delivery), key=delivery.idempotency_key))


def failed_run() -> Delivery:
    return delivery_of(run_event(7, "Failed"), late_by_ms=5300)


def morning() -> Delivery:
    entries = entries_of(["Completed", "Failed", "Completed", "Running", "Canceled", "Failed"])
    entries[1] = replace(entries[1], superseded=True)
    entries[3] = replace(entries[3], late_by_ms=5300)
    return digest_of(entries, group={"experiment": "daily-forecast"})


def assert_sound(seen: dict[str, Any]) -> None:
    """No card may have what the renderer does not know, or what makes a reader scroll sideways."""
    assert seen["events"] == []
    assert seen["scrollWidth"] <= seen["width"]
    assert seen["overflowing"] == []


def visible(found: list[dict[str, Any]]) -> list[str]:
    return [each["text"] for each in found if each["visible"]]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_a_single_event_shows_its_title_its_facts_and_one_button(tmp_path, width):
    seen = shown(card_of(failed_run()), tmp_path, width=width)

    assert_sound(seen)
    paragraphs = visible(seen["paragraphs"])
    assert paragraphs[:2] == ["Error", "Run Failed: daily-forecast / forecast_0007"]
    for text in ("Status", "Failed", "forecast_0007", f"Source: {WORKSPACE}", "5f000007-0000-4000-8000-000000000000"):
        assert text in paragraphs
    assert [text for text in paragraphs if text.startswith("This is late")]
    assert visible(seen["buttons"]) == ["Open the run"]
    assert seen["anchors"] == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_a_digest_shows_its_counts_and_links_each_event(tmp_path, width):
    seen = shown(card_of(morning()), tmp_path, width=width)

    assert_sound(seen)
    titles = [
        f"Run {state}: daily-forecast / forecast_000{number}"
        for number, state in enumerate(["Completed", "Failed", "Completed", "Running", "Canceled", "Failed"], 1)
    ]
    assert visible(seen["anchors"]) == titles
    assert {anchor["href"] for anchor in seen["anchors"]} == {
        f"https://ml.azure.com/runs/forecast_000{number}?wsid={WORKSPACE}" for number in range(1, 7)
    }
    assert "Error · 2026-11-22 06:02:12 UTC · superseded" in visible(seen["paragraphs"])
    assert visible(seen["buttons"]) == ["Open the workspace"]


def test_a_digest_of_a_thousand_says_how_many_it_leaves_out(tmp_path):
    seen = shown(card_of(digest_of(entries_of(["Failed", "Running"] * 500))), tmp_path, width=NARROW)

    assert_sound(seen)
    left = 1000 - len(seen["anchors"])
    assert f"… and {left} more, not listed here. The gravest are listed." in visible(seen["paragraphs"])


HOSTILE = [
    "[click](https://evil.example/) ![x](https://evil.example/x.png) <https://evil.example>",
    "</p><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "<a href='https://evil.example'>x</a> <at>everyone</at> &lt;b&gt;x&lt;/b&gt; &#42;&#42;x&#42;&#42;",
    "**bold** __bold__ *it* _it_ ~~gone~~ `code` \\[a\\](https://evil.example) \\\\[b](https://evil.example)",
    "- item",
    "1. item",
    "# heading",
    "> quoted",
    "{{DATE(2026-11-22T06:07:12Z, LONG)}} {{TIME(2026-11-22T06:07:12Z)}}",
    "</script><script>document.title='owned'</script>",
    "\u05d0\u05d1\u05d2 _x_ **y** \u0627\u0644",
]


def hostile_event(text: str) -> Delivery:
    data = {"runStatus": text, "runId": text, "experimentName": text, "runTags": {text: text}}
    return delivery_of(run_event(1, "", subject=text, topic=text, id=text, eventType=text, eventTime=text, data=data))


def hostile_digest(text: str) -> Delivery:
    entry = replace(entries_of(["Failed"])[0], title=text, time=text, url="https://ml.azure.com/x")
    odd = replace(entry, url="https://a.example/)[y](https://evil.example/")
    return digest_of([entry, odd], group={text: text})


@pytest.mark.parametrize("delivery", [hostile_event, hostile_digest])
def test_nothing_of_an_event_becomes_alive_or_markup_and_all_of_it_is_read_as_it_was(tmp_path, delivery):
    cards = [card_of(delivery(text)) for text in HOSTILE]
    # One page for all: a browser takes its time to start.
    seen = shown(cards[0] | {"body": [element for card in cards for element in card["body"]]}, tmp_path, width=NARROW)

    assert_sound(seen)
    assert (seen["alive"], seen["handlers"]) == ([], [])
    assert [each for each in seen["markup"] if not OWN_MARKUP.fullmatch(each)] == []
    assert {anchor["href"] for anchor in seen["anchors"]} <= {
        "https://ml.azure.com/x",
        "https://a.example/%29%5By%5D%28https://evil.example/",
    }
    read = " ".join(paragraph["text"] for paragraph in seen["paragraphs"])
    for text in HOSTILE:
        assert read.count(text) >= 3


def test_the_pictures_of_the_manual_are_of_these_cards(tmp_path):
    """Written anew with UPDATE_PICTURES=1; otherwise only that they are there."""
    for name, delivery in (("teams", failed_run()), ("teams-digest", morning())):
        file = PICTURES / f"{name}.png"
        if os.environ.get("UPDATE_PICTURES") == "1":
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(card_of(delivery), tmp_path, file)
        assert file.read_bytes().startswith(b"\x89PNG")
