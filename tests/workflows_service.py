"""A workflow of Power Automate for tests, as far as its contract is documented: refuses what the real one refuses.

It takes a message with one card at one secret URL, answers 202, and posts. It counts how fast it is asked and how large
the message becomes when the workflow writes it into another one. It keeps what it posted by `eventKey`, so that a
doubled effect is seen. What it answers, or when it drops the connection, can be told in advance.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

PATH = "/powerautomate/automations/direct/workflows/hidden-flow-4711/triggers/manual/paths/invoke"
SIGNATURE = "hidden%2Dsignature_0815-abc"
QUERY = f"?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig={SIGNATURE}"
HIDDEN = ("hidden-flow-4711", "hidden%2Dsignature", "hidden-signature")
"""What no error, log line or repr may hold."""

MESSAGE_BYTES = 28 * 1024
CARD = "application/vnd.microsoft.card.adaptive"

Step = Callable[[], Awaitable[None]]


async def _no_step() -> None:
    pass


@dataclass
class Answer:
    """One scripted answer."""

    status: int = 202
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    posts: bool | None = None
    """Whether the card is posted; None: with a 2xx."""
    drops: bool = False
    """The connection goes instead of the answer, with or without the effect."""
    stalls: bool = False
    """The answer never comes."""

    @property
    def takes_effect(self) -> bool:
        return 200 <= self.status < 300 if self.posts is None else self.posts


class Workflow:
    """One workflow and the channel it posts to."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        """Answers to the next requests that are in order; after them, 202."""
        self.requests: list[web.BaseRequest] = []
        self.messages: list[dict[str, Any]] = []
        """What was posted."""
        self.refusals: list[str] = []
        self.per_hour: int | None = None
        """Requests that are taken; the next is told to wait."""
        self.before: Step = _no_step
        self.after: Step = _no_step
        """Moments before and after the effect, for processes that die there."""
        self.base = ""

    @property
    def url(self) -> str:
        return f"{self.base}{PATH}{QUERY}"

    @property
    def posted(self) -> Counter[str]:
        """How often each delivery was posted."""
        return Counter(message["eventKey"] for message in self.messages)

    @property
    def cards(self) -> list[dict[str, Any]]:
        return [message["attachments"][0]["content"] for message in self.messages]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        body = await request.read()
        if refusal := self._refusal(request, body):
            status, code = refusal
            self.refusals.append(code)
            headers = {"Retry-After": "30"} if status == 429 else {}
            return web.json_response({"error": {"code": code}}, status=status, headers=headers)
        answer = self.script.pop(0) if self.script else Answer()
        await self.before()
        if answer.takes_effect:
            self.messages.append(orjson.loads(body))
        await self.after()
        if answer.stalls:
            await asyncio.Event().wait()
        if answer.drops and request.transport is not None:
            request.transport.abort()
        return web.Response(status=answer.status, text=answer.text or None, headers=answer.headers)

    def _refusal(self, request: web.Request, body: bytes) -> tuple[int, str] | None:
        """The first thing that is wrong with a request."""
        wrong = (
            (request.path != PATH, 404, "WorkflowNotFound"),
            (request.raw_path != f"{PATH}{QUERY}", 401, "WorkflowTriggerUrlSignatureInvalid"),
            ("Authorization" in request.headers, 401, "DirectApiAuthorizationRequired"),
            (request.method != "POST", 405, "MethodNotAllowed"),
            (request.content_type != "application/json", 415, "UnsupportedMediaType"),
            (self.per_hour is not None and len(self.messages) >= self.per_hour, 429, "WorkflowTriggerThrottled"),
            (len(orjson.dumps(body.decode())) > MESSAGE_BYTES, 413, "MessageSizeExceeded"),
        )
        for applies, status, code in wrong:
            if applies:
                return status, code
        problem = problem_of(orjson.loads(body))
        return (400, problem) if problem else None


def problem_of(message: Any) -> str:
    """What is wrong with the envelope; empty where nothing is."""
    if not isinstance(message, dict) or message.get("type") != "message":
        return "NoMessage"
    attachments = message.get("attachments")
    if not isinstance(attachments, list) or len(attachments) != 1:
        return "NotOneAttachment"
    content = attachments[0].get("content")
    if attachments[0].get("contentType") != CARD or not isinstance(content, dict):
        return "NoAdaptiveCard"
    if content.get("type") != "AdaptiveCard":
        return "PropertyTypeMustBeAdaptiveCard"
    if tuple(int(part) for part in str(content.get("version", "9")).split(".")) > (1, 4):
        return "CardVersionNotSupported"
    return ""


@asynccontextmanager
async def workflow_service(workflow: Workflow) -> AsyncIterator[Workflow]:
    """Serves the workflow on a free port of this machine."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", workflow.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        workflow.base = str(server.make_url("")).rstrip("/")
        yield workflow
