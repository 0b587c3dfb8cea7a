"""How a mail looks: in a browser, narrow and wide, with what events may hold."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chromium import measured, needs_chromium, picture
from tests.deliveries import delivery_of
from tests.emails import HOSTILE, RUN, digest, hostile_delivery
from worker.sinks import Delivery
from worker.sinks.mail_text import render

DOCS = Path(__file__).parents[2] / "docs" / "sinks"
LONG = {
    "subject": "experiments/" + "x" * 3000 + "/runs/" + "y" * 300,
    "data": RUN["data"] | {"experimentName": "x" * 3000, "log": "z" * 5000, "runTags": {"k" * 300: "v" * 300}},
}
DELIVERIES = {
    "failed run": delivery_of(RUN, late_by_ms=5300),
    "digest": digest(230),
    "hostile": hostile_delivery(),
    "long": delivery_of(RUN | LONG),
}
MEASURE = """
const seen = id => { const e = view.document.getElementById(id); if (!e) return null;
    const r = e.getBoundingClientRect(); return [r.left, r.right, r.width > 0 && r.height > 0, e.textContent]; };
return {width: view.document.documentElement.scrollWidth,
        tags: [...new Set([...view.document.querySelectorAll("*")].map(e => e.tagName.toLowerCase()))],
        outside: [...view.document.querySelectorAll("[src],[srcset],[background],link,form")].length,
        handlers: [...view.document.querySelectorAll("*")].filter(
            e => [...e.attributes].some(a => a.name.startsWith("on"))).length,
        title: seen("title"), severity: seen("severity"), link: seen("link"), top: view.document.title,
        links: [...view.document.links].map(a => a.protocol)};
"""
TAGS = {
    *("html", "head", "meta", "title", "body"),
    *("table", "tbody", "tr", "td", "p", "span", "h1", "h2", "a", "pre", "br"),
}


@pytest.mark.parametrize("width", [320, 600])
@pytest.mark.parametrize("what", DELIVERIES)
def test_it_fits_shows_what_counts_first_and_nothing_of_an_event_is_live(tmp_path, what, width):
    needs_chromium()
    mail = render(DELIVERIES[what])

    found = measured(mail.html, tmp_path, MEASURE, width=width)

    assert found["width"] <= width
    assert set(found["tags"]) <= TAGS
    assert (found["outside"], found["handlers"]) == (0, 0)
    assert set(found["links"]) <= {"https:"}
    assert found["top"] == found["title"][3] == mail.subject
    assert found["severity"][3] in {"ERROR", "WARNING", "SUCCESS", "INFO"}
    for place in ("title", "severity", *(["link"] if what != "hostile" else [])):
        left, right, visible, _ = found[place]
        assert visible
        assert left >= 0
        assert right <= width


def test_a_page_that_is_too_wide_or_live_would_be_noticed(tmp_path):
    needs_chromium()
    found = measured(f'<table width="900"><tr><td>{HOSTILE}</td></tr></table>', tmp_path, MEASURE, width=320)
    assert found["width"] > 320
    assert {"script", "img"} <= set(found["tags"])
    assert found["outside"]
    assert found["handlers"]
    assert found["top"] == "owned"


def _single() -> Delivery:
    return delivery_of(RUN, sink="oncall-mail")


def _digest() -> Delivery:
    return replace(digest(12), sink="team-mail")


@pytest.mark.parametrize(("name", "delivery", "height"), [("email", _single, 1195), ("email-digest", _digest, 1560)])
def test_its_picture_can_be_taken(tmp_path, name, delivery, height):
    needs_chromium()
    file = tmp_path / f"{name}.png"

    picture(render(delivery()).html, file, width=640, height=height)

    assert file.read_bytes().startswith(b"\x89PNG")
    if os.environ.get("UPDATE_PICTURES") == "1":
        DOCS.mkdir(exist_ok=True)
        (DOCS / file.name).write_bytes(file.read_bytes())
