"""Chromium as a person uses it, driven through its own protocol: loads pages over HTTP, tells what it says and sees.

`chromium` shows and measures pages from files. This one is for pages that are served: headers, console, media queries,
a phone's screen, the tree that a screen reader gets.
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.chromium import needs_chromium
from tests.support import eventually

_PROGRAM = "/usr/bin/chromium"
_SECONDS = 30


class Tab:
    """One page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.said: list[str] = []
        """What the console has: messages, errors, what the policy of a page has forbidden."""
        self.requested: list[str] = []
        """Every address that was asked for."""
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loads = 0

    async def listen(self) -> None:
        """Works until it is cancelled."""
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            else:
                self._hear(told["method"], told["params"])

    def _hear(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loads += 1
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])
            case "Log.entryAdded":
                self.said.append(told["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Page.javascriptDialogOpening":
                self.said.append(str(told))

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_SECONDS):
            told = await answer
        assert "error" not in told, told
        return dict(told["result"])

    async def show(self, address: str, *, width: int = 1100, dark: bool = False) -> None:
        """Loads a page on a screen of this width."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.ask("Emulation.setDeviceMetricsOverride", **screen)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[theme])
        await self._loading(self.ask("Page.navigate", url=address))

    async def click(self, selector: str) -> None:
        """Clicks on a link, and waits for where it leads."""
        await self._loading(self.run(f"document.querySelector({selector!r}).click()"))

    async def _loading(self, begin: Any) -> None:
        before = self._loads
        await begin
        await eventually(lambda: self._loads > before, _SECONDS)

    async def run(self, expression: str) -> Any:
        """The value of an expression in the page, or of what it promises."""
        told = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def roles(self) -> dict[str, list[str]]:
        """What a screen reader gets: the names of what is there, by role."""
        found: dict[str, list[str]] = {}
        for node in (await self.ask("Accessibility.getFullAXTree"))["nodes"]:
            if not node["ignored"]:
                found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
        return found

    async def picture(self, file: Path, *, height: int) -> None:
        """The page down to this height, or to its end, as a PNG."""
        size = (await self.ask("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(height, size["height"]), "scale": 1}
        told = await self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(told["data"]))


@asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A browser with one page; skips where there is none. It asks the network for nothing by itself."""
    needs_chromium()
    profile = folder / "profile"
    process = await asyncio.create_subprocess_exec(
        _PROGRAM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        written = profile / "DevToolsActivePort"
        port = await eventually(lambda: written.exists() and written.read_text().split()[:1], _SECONDS)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port[0]}/json/list") as answer:
                [page] = [each for each in await answer.json(content_type=None) if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                shown = Tab(socket)
                listening = asyncio.create_task(shown.listen())
                for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                    await shown.ask(f"{domain}.enable")
                yield shown
                listening.cancel()
                with suppress(asyncio.CancelledError):
                    await listening
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
