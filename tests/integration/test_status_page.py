"""The status page as it is served, in a browser: what it says, that nothing is alive in it, that all can read it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from tests.devtools import Tab, tab
from tests.integration.scene import scene, traffic
from tests.pages import HOSTILE, hostile, noon
from tests.support import eventually
from worker import status
from worker.errors import ConfigError
from worker.health import Health
from worker.http import Endpoints
from worker.status import Status, render
from worker.terminal import printable

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PHONE = 320
SECRET = "s3cr3t-of-the-picky-one"

# For each element with text of its own: its colour and what is behind it, and how they differ (WCAG 2, 1.4.3).
CONTRAST = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const seen = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    seen.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 100)]);
  }
  return seen;
})()
"""
LIVE = """
[document.scripts.length,
 document.querySelectorAll("img, iframe, object, embed, form, input, svg svg, link:not([rel=icon])").length,
 [...document.querySelectorAll("*")].filter(e => [...e.attributes].some(a => a.name.startsWith("on"))).length,
 [...document.links].map(a => a.getAttribute("href"))]
"""

AXE = Path(__file__).parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"

Serve = Callable[[Status], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a page as the worker does; gives its address."""
    running = []

    async def begin(shown: Status) -> str:
        endpoints = Endpoints(
            host="127.0.0.1",
            port=0,
            registry=CollectorRegistry(),
            health=Health(limit_seconds=10),
            page=lambda *, refreshing: render(shown, refreshing=refreshing),
        )
        running.append(endpoints)
        return f"http://127.0.0.1:{await endpoints.start()}/"

    yield begin
    for each in running:
        await each.aclose()


@pytest.fixture
async def browser(tmp_path) -> AsyncIterator[Tab]:
    async with tab(tmp_path) as shown:
        yield shown


async def fits(browser: Tab, width: int) -> bool:
    return bool(await browser.run("document.documentElement.scrollWidth") <= width)


async def test_it_says_how_it_stands_and_the_browser_has_nothing_to_complain_about(serve, browser):
    address = await serve(noon())
    await browser.show(address)

    text = await browser.run("document.body.innerText")
    for words in (
        "ready, needs a look",
        "68 of its last 100 messages cannot be decoded",
        "paused: the destination refuses this worker",
        "management.azure.com answered 403",
        "experiments/daily-forecast/runs/forecast_0123",
        "2/7102",
        "3f1c9a7be2d0 in force since",
        "run-ends",
    ):
        assert words in text
    assert await browser.run("document.title") == "ready, needs a look \N{EN DASH} worker worker-6d9f7c-x2x8q-1-4ac01f"
    assert await browser.run("document.querySelectorAll('svg polyline').length") == 8  # two a drawing, around the gap
    assert browser.said == []
    assert {each for each in browser.requested if not each.startswith("data:")} == {address}


async def test_a_page_that_breaks_its_policy_would_be_noticed(serve, browser, monkeypatch):
    real = status.render
    monkeypatch.setitem(globals(), "render", lambda *args, **more: real(*args, **more) + "<script>1</script>")
    await browser.show(await serve(noon()))

    assert any("Content Security Policy" in each for each in browser.said)


async def test_hostile_text_is_read_as_it_is_and_nothing_of_it_is_alive(serve, browser):
    address = await serve(hostile())
    await browser.show(address)

    scripts, alive, handlers, links = await browser.run(LIVE)
    assert (scripts, alive, handlers, links) == (0, 0, 0, ["?refresh=off"])
    assert "owned" not in (await browser.run("document.title")).split(" \N{EN DASH} ")[0]
    texts = await browser.run("[...document.querySelectorAll('bdi')].map(e => e.textContent)")
    for text in HOSTILE:
        assert texts.count(printable(text)) >= 12
    assert browser.said == []
    for width in (PHONE, 801, 1100):
        await browser.show(address, width=width)
        assert await fits(browser, width)


async def test_no_screen_has_to_be_scrolled_sideways(serve, browser):
    address = await serve(noon())
    outside = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    for width in (PHONE, 390, 801, 1100):
        await browser.show(address, width=width)
        assert await fits(browser, width)
        assert await browser.run(f"{outside}.map(e => e.outerHTML.slice(0, 80))") == []


async def test_a_page_that_is_too_wide_would_be_noticed(serve, browser):
    await browser.show(await serve(replace(noon(), version="1" * 40)), width=PHONE)
    assert await fits(browser, PHONE)
    await browser.run("document.querySelector('main').style.width = '600px'")
    assert not await fits(browser, PHONE)


async def test_it_is_readable_by_day_and_by_night(serve, browser):
    address = await serve(noon())
    for dark, paper in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 23, 26)")):
        for width in (PHONE, 1100):
            await browser.show(address, width=width, dark=dark)
            assert await browser.run("getComputedStyle(document.body).backgroundColor") == paper
            seen = await browser.run(CONTRAST)
            assert len(seen) > 80
            assert [each for each in seen if each[0] < 4.5] == []


async def test_who_hears_it_gets_the_same_tables(serve, browser):
    """On a phone too, where the rows are boxes: that takes the tables from many a screen reader."""
    address = await serve(noon())
    for width in (PHONE, 1100):
        await browser.show(address, width=width)
        await assert_tables(browser)


async def assert_tables(browser: Tab) -> None:
    roles = await browser.roles()
    tables = [
        "Partitions of this process",
        "Lanes",
        "Expectations",
        "Dead letters, newest first",
        "Deliveries, newest first",
    ]
    assert roles["table"] == tables
    assert len(roles["row"]) == 5 + 4 + 4 + 2 + 2 + 4
    assert len(roles["columnheader"]) == 8 + 6 + 3 + 7 + 6
    assert len(roles["rowheader"]) == 4 + 4 + 2 + 2 + 4
    assert all(roles["columnheader"])
    assert len([name for name in roles["image"] if name]) == 4
    assert len(roles["main"]) == len(roles["banner"]) == 1
    assert await browser.run("document.documentElement.lang") == "en"
    levels = await browser.run("[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)")
    assert levels == ["H1", *["H2"] * 7]
    scopes = await browser.run("[...document.querySelectorAll('th')].filter(e => !e.scope).length")
    assert scopes == 0
    assert await browser.run("document.querySelectorAll('table > caption').length") == len(tables)


def axe() -> str:
    """The checker of accessibility; skips where it is not installed, unless this is CI."""
    if not AXE.exists() and os.environ.get("CI") != "true":
        pytest.skip("the node packages are not installed: make node")
    return AXE.read_text(encoding="utf-8")


async def test_a_checker_of_accessibility_finds_nothing_but_that_it_loads_itself_again(serve, browser):
    """It must, without a script; who reads slowly can stop that by the first link of the page."""
    checker = axe()

    async def found() -> list[str]:
        await browser.run(f"{checker};0")
        return list(await browser.run("axe.run().then(r => r.violations.map(v => v.id))"))

    for shown in (noon(), hostile()):
        address = await serve(shown)
        for width, dark in ((PHONE, False), (1100, True)):
            await browser.show(f"{address}?refresh=off", width=width, dark=dark)
            assert await found() == []
    await browser.show(address)
    assert await found() == ["meta-refresh"]
    assert await browser.run("document.links[0].getAttribute('href')") == "?refresh=off"

    await browser.show(f"{address}?refresh=off")
    await browser.run("document.documentElement.lang = ''")
    assert await found() == ["html-has-lang"]


async def test_it_loads_itself_again(serve, browser, monkeypatch):
    monkeypatch.setattr(status, "REFRESH_SECONDS", 1)
    address = await serve(noon())
    await browser.show(address)
    await eventually(lambda: browser.requested.count(address) >= 3, 30)


async def test_it_can_be_told_to_stand_still_and_to_go_on(serve, browser):
    await browser.show(await serve(noon()))
    assert await browser.run("document.querySelector('meta[http-equiv=refresh]').content") == "15"

    await browser.click(".again a")
    assert await browser.run("document.querySelectorAll('meta[http-equiv=refresh]').length") == 0
    assert "Stands still" in await browser.run("document.querySelector('.again').innerText")

    await browser.click(".again a")
    assert await browser.run("document.querySelectorAll('meta[http-equiv=refresh]').length") == 1
    assert browser.said == []


async def test_its_picture_can_be_taken(serve, browser, tmp_path):
    """Written anew with UPDATE_PICTURES=1."""
    address = await serve(noon())
    for name, width, height, dark in (("status-page", 1000, 3000, False), ("status-page-phone", 390, 1000, True)):
        file = tmp_path / f"{name}.png"
        await browser.show(address, width=width, dark=dark)
        await browser.picture(file, height=height)
        assert file.read_bytes().startswith(b"\x89PNG")
        if os.environ.get("UPDATE_PICTURES") == "1":
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / file.name).write_bytes(file.read_bytes())


# --- without a browser


async def answer(address: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    async with aiohttp.ClientSession() as session, session.request(method, address) as response:
        return response.status, dict(response.headers), await response.text()


async def test_nothing_may_run_in_it_frame_it_or_keep_it_and_nothing_can_be_changed(serve):
    address = await serve(noon())
    code, headers, _ = await answer(address)

    assert code == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    for method in ("POST", "PUT", "DELETE"):
        assert (await answer(address, method))[0] == 405


async def test_half_a_character_in_an_error_does_not_take_the_page_away():
    lone = replace(noon(), notes={"a": "caf\udce9"})
    endpoints = Endpoints(
        host="127.0.0.1",
        port=0,
        registry=CollectorRegistry(),
        health=Health(limit_seconds=10),
        page=lambda *, refreshing: render(lone, refreshing=refreshing),
    )
    code, _, text = await answer(f"http://127.0.0.1:{await endpoints.start()}/")
    await endpoints.aclose()
    assert (code, "caf" in text) == (200, True)


async def test_on_a_port_of_its_own_it_is_only_there_and_nothing_else_is():
    endpoints = Endpoints(
        host="127.0.0.1",
        port=0,
        registry=CollectorRegistry(),
        health=Health(limit_seconds=10),
        page=lambda *, refreshing: render(noon(), refreshing=refreshing),
        page_port=0,
    )
    port = await endpoints.start()
    assert endpoints.page_port not in (0, port)
    for address, code in (
        (f"http://127.0.0.1:{port}/", 404),
        (f"http://127.0.0.1:{port}/readyz", 200),
        (f"http://127.0.0.1:{endpoints.page_port}/", 200),
        (f"http://127.0.0.1:{endpoints.page_port}/metrics", 404),
    ):
        assert (await answer(address))[0] == code
    other = Endpoints(
        host="127.0.0.1",
        port=0,
        registry=CollectorRegistry(),
        health=Health(limit_seconds=10),
        page=lambda *, refreshing: str(refreshing),
        page_port=endpoints.page_port,
    )
    with pytest.raises(ConfigError, match=r"http\.status_port"):
        await other.start()
    await endpoints.aclose()


# --- of a real worker


async def test_a_worker_shows_what_it_has_done_and_nothing_of_what_was_in_it(tmp_path: Path):
    messages = traffic(60, seed=4, malformed=0)
    events = {event.id: event for message in messages for event in message.events}
    async with scene(tmp_path) as stage, tab(tmp_path) as browser:
        stage.routing = {
            "sinks": [
                {"name": "out", "kind": "webhook", "url": stage.url},
                {"name": "later", "kind": "webhook", "url": stage.url, "paused": True},
                {"name": "picky", "kind": "webhook", "url_env": "PICKY_URL", "retry": {"max_attempts": 1}},
            ],
            "routes": [
                {"name": "all", "sinks": ["out", "later"]},
                {
                    "name": "completed",
                    "filter": {"includedEventTypes": [min(each.type for each in events.values())]},
                    "sinks": ["picky"],
                },
            ],
        }
        stage.environment["PICKY_URL"] = f"http://127.0.0.1:9/{SECRET}?sig={SECRET}"
        worker = await stage.start_worker("one", limits={"drain_seconds": 1})
        await stage.until_shared("one")
        await stage.send(messages)
        await eventually(lambda: stage.records["out"].events >= len(events), 60)
        address = stage.address("one", "/?refresh=off")

        async def letters() -> bool:
            await browser.show(address)
            return "retries_exhausted" in await browser.run("document.body.innerText")

        await eventually(letters, 60)
        text = await browser.run("document.body.innerText")
        states = await browser.run(
            "[...document.querySelectorAll('[aria-labelledby=partitions] [data-label=State]')].map(e => e.innerText)"
        )
        assert states == ["reading"] * 4
        assert "held by its configuration" in text
        assert "worker_" not in text
        assert "accepted" in text
        assert "in force since" in text
        shown = await browser.run("[...document.querySelectorAll('[data-label=Event]')].map(e => e.innerText)")
        assert len(shown) >= 10
        assert set(shown) <= events.keys()
        html = await browser.run("document.documentElement.outerHTML")
        payload = {str(value) for event in events.values() for value in event.data.values()}
        told = " ".join(f"{event.subject} {event.source}" for event in events.values())
        hidden = {each for each in payload if len(each) >= 8 and each not in told}
        assert len(hidden) >= 5
        assert {each for each in hidden if each in html} == set()
        assert "127.0.0.1" in html  # what the sink said
        assert SECRET not in html
        assert browser.said == []
        await stage.start_worker("two", http={"status_page": False})
        await eventually(lambda: stage.readiness("two"), 30)
        assert await stage.status("two", "/") == 404
        worker.terminate()
        assert await worker.ended() == 0
