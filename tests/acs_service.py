"""Azure Communication Services' e-mail for tests: a local server that holds requests to the documented contract.

Written from the documents of the service (API 2025-09-01: the two operations, the schema of a message, the signing of
requests, the guideline about `Operation-Id`), not from the sink: what the sink signs is verified here by another hand.
It is stricter in one thing: it insists on an Operation-Id. What the vendor leaves open is decided as follows: an
operation is remembered until `forget` is called, and the error code of a reused Operation-Id is made up, because none
is documented.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AccessToken
from jsonschema import Draft202012Validator

API_VERSIONS = {"2023-03-31", "2025-09-01"}
SCOPES = {"https://communication.azure.com//.default", "https://communication.azure.com/.default"}
MOST_BYTES = 10_000_000
MOST_RECIPIENTS = 50
_SIGNED = ["x-ms-date", "host", "x-ms-content-sha256"]
_CLOCKS_SECONDS = 300.0


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


_TEXT = {"type": "string"}
_ADDRESSES = _list(
    _object(["address"], address={"type": "string", "pattern": r"^[^@\s<>]+@[^@\s<>]+$"}, displayName=_TEXT)
)
MESSAGE = _object(
    ["senderAddress", "content", "recipients"],
    senderAddress={"type": "string", "pattern": r"^[^@\s<>]+@[^@\s<>]+$"},
    content=_object(["subject"], subject={"type": "string", "minLength": 1}, plainText=_TEXT, html=_TEXT),
    recipients=_object(["to"], to=_ADDRESSES | {"minItems": 1}, cc=_ADDRESSES, bcc=_ADDRESSES),
    replyTo=_ADDRESSES,
    headers={"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[\x20-\x7e]*$"}},
    attachments=_list(
        _object(
            ["name", "contentType", "contentInBase64"],
            name=_TEXT,
            contentType=_TEXT,
            contentInBase64=_TEXT,
            contentId=_TEXT,
        )
    ),
    userEngagementTrackingDisabled={"type": "boolean"},
)
_VALIDATOR = Draft202012Validator(MESSAGE)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers

    def response(self) -> web.Response:
        return web.json_response(
            {"error": {"code": self.code, "message": str(self)}},
            status=self.status,
            headers={"x-ms-error-code": self.code, **self.headers},
        )


@dataclass
class Received:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def message(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Fault:
    """What happens to one request instead of, or around, the ordinary."""

    status: int | None = None
    """Answered at once, without an effect."""
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    before: str = ""
    """"drop" or "stall" before there is any effect."""
    after: str = ""
    """"drop" or "stall" when the effect has happened, or "error": 500."""


@dataclass
class Operation:
    """What the service remembers of a send."""

    message: Any
    status: str = "Running"


class Credential:
    """Mints tokens that name their scope, as the identity of a process would."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        if self.error is not None:
            raise self.error
        self.asked += scopes
        return AccessToken(self.token_for(scopes[0]), int(time.time()) + 3600)

    @staticmethod
    def token_for(scope: str) -> str:
        return "hidden-token-" + base64.urlsafe_b64encode(scope.encode()).decode().rstrip("=")

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class AcsService:
    """The service: what came, what took effect, and what is to go wrong."""

    def __init__(self, *, key: str = "", clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.key = key or base64.b64encode(os.urandom(64)).decode()
        """Unless given made for this run, so that no key stands anywhere."""
        self.url = ""
        self.received: list[Received] = []
        self.accepted: list[Received] = []
        """The sends that were answered with 202, repetitions too."""
        self.sent: list[tuple[str, Any]] = []
        """The effects: operation and message of each mail that went out."""
        self.operations: dict[str, Operation] = {}
        self.faults: list[Fault] = []
        """For the next sends, one each; then all is well."""
        self.status_faults: list[Fault] = []
        """The same for the next questions about an operation."""
        self.fault_for: Callable[[Received], Fault] = lambda _: Fault()
        """For every other request."""
        self.sends_per_minute: int | None = None
        self.resume = asyncio.Event()
        """Ends what stalls."""
        self.stalled = asyncio.Event()
        self._busy = 0
        self._begun: list[float] = []

    @property
    def connection_string(self) -> str:
        return f"endpoint={self.url}/;accesskey={self.key}"

    @property
    def sends(self) -> list[Received]:
        return [each for each in self.received if each.method == "POST"]

    @property
    def questions(self) -> list[Received]:
        return [each for each in self.received if each.method == "GET"]

    def forget(self) -> None:
        """As after whatever time the service remembers operations for."""
        self.operations.clear()

    def start_anew(self) -> None:
        """As if nothing had come yet."""
        for record in (self.received, self.accepted, self.sent, self.operations):
            record.clear()

    async def idle(self) -> None:
        """Returns when no request is being handled."""
        while self._busy:
            await asyncio.sleep(0.001)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self._busy += 1
        try:
            return await self._handle(request)
        finally:
            self._busy -= 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        received = Received(
            request.method,
            request.path,
            dict(request.query),
            {name.lower(): value for name, value in request.headers.items()},
            body,
        )
        self.received.append(received)
        sending = request.method == "POST"
        faults = self.faults if sending else self.status_faults
        fault = faults.pop(0) if faults else self.fault_for(received)
        await self._befall(request, fault.before)
        if fault.before == "drop":
            return web.Response()  # which nobody gets
        if fault.status is not None:
            return web.Response(status=fault.status, text=fault.text, headers=fault.headers)
        try:
            self._authenticate(request, body)
            answer = self._send(request, received) if sending else self._status(request)
        except Refusal as refusal:
            answer = refusal.response()
        await self._befall(request, fault.after)
        if fault.after == "error":
            return Refusal(500, "InternalServerError", "Something went wrong.").response()
        return answer

    async def _befall(self, request: web.Request, what: str) -> None:
        if what == "drop":
            assert request.transport is not None
            request.transport.abort()
        if what == "stall":
            self.stalled.set()
            await self.resume.wait()

    # --- who asks

    def _authenticate(self, request: web.Request, body: bytes) -> None:
        scheme, _, proof = request.headers.get("Authorization", "").partition(" ")
        if scheme == "HMAC-SHA256":
            self._verify(request, body, proof)
        elif scheme != "Bearer" or proof not in {Credential.token_for(scope) for scope in SCOPES}:
            raise Refusal(401, "Denied", "Denied by the resource provider.")

    def _verify(self, request: web.Request, body: bytes, proof: str) -> None:
        names, _, signature = proof.removeprefix("SignedHeaders=").partition("&Signature=")
        if names.split(";") != _SIGNED or any(name not in request.headers for name in _SIGNED):
            raise Refusal(401, "Denied", "Date, host and content digest must be there and be signed.")
        if base64.b64encode(hashlib.sha256(body).digest()).decode() != request.headers["x-ms-content-sha256"]:
            raise Refusal(401, "Denied", "The digest is not that of the content.")
        date = request.headers["x-ms-date"]
        if abs(parsedate_to_datetime(date).timestamp() - self.clock()) > _CLOCKS_SECONDS:
            raise Refusal(401, "Denied", "The request's date is too far from this server's: time drift.")
        values = ";".join(request.headers[name] for name in _SIGNED)
        text = f"{request.method}\n{request.raw_path}\n{values}"
        expected = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        if base64.b64encode(expected).decode() != signature:
            raise Refusal(401, "Denied", "The signature is wrong.")

    # --- what is asked

    def _send(self, request: web.Request, received: Received) -> web.Response:
        self._check_address(request, "/emails:send")
        message = self._message(request, received.body)
        operation_id = _uuid(request, "Operation-Id")
        self._count_send()
        known = self.operations.get(operation_id)
        if known is not None and known.message != message:
            raise Refusal(400, "OperationIdInUse", "The operation id was used for another request.")
        if known is None:
            known = self.operations[operation_id] = Operation(message)
            self.sent.append((operation_id, message))
        self.accepted.append(received)
        location = f"{self.url}/emails/operations/{operation_id}?api-version={request.query['api-version']}"
        return web.json_response(
            {"id": operation_id, "status": known.status},
            status=202,
            headers={"Operation-Location": location, "retry-after": "30"},
        )

    def _status(self, request: web.Request) -> web.Response:
        operation_id = request.path.rpartition("/")[2]
        self._check_address(request, f"/emails/operations/{operation_id}")
        known = self.operations.get(operation_id)
        if known is None:
            raise Refusal(404, "NotFound", "There is no such operation.")
        return web.json_response({"id": operation_id, "status": known.status})

    def _check_address(self, request: web.Request, path: str) -> None:
        if request.path != path:
            raise Refusal(404, "NotFound", "There is nothing here.")
        if request.query.get("api-version") not in API_VERSIONS:
            raise Refusal(400, "UnsupportedApiVersionValue", "The api-version is missing or not supported.")

    def _message(self, request: web.Request, body: bytes) -> Any:
        if request.content_type != "application/json":
            raise Refusal(415, "UnsupportedMediaType", "The content must be application/json.")
        if len(body) > MOST_BYTES:
            raise Refusal(413, "RequestEntityTooLarge", "The request is larger than 10 MB.")
        try:
            message = orjson.loads(body)
        except ValueError:
            raise Refusal(400, "BadRequest", "The content is no JSON.") from None
        if mistakes := [f"{each.json_path}: {each.message}" for each in _VALIDATOR.iter_errors(message)]:
            raise Refusal(400, "BadRequest", "; ".join(mistakes))
        if sum(map(len, message["recipients"].values())) > MOST_RECIPIENTS:
            raise Refusal(400, "BadRequest", "There are more than 50 recipients.")
        _check_content(message)
        return message

    def _count_send(self) -> None:
        """Throttled calls count too."""
        now = self.clock()
        self._begun = [*(at for at in self._begun if at > now - 60), now]
        if self.sends_per_minute is not None and len(self._begun) > self.sends_per_minute:
            raise Refusal(429, "TooManyRequests", "The quota is used up.", **{"Retry-After": "60"})


def _check_content(message: Any) -> None:
    if not message["content"].get("plainText") and not message["content"].get("html"):
        raise Refusal(400, "BadRequest", "There is neither plainText nor html.")
    for attachment in message.get("attachments", []):
        try:
            base64.b64decode(attachment["contentInBase64"], validate=True)
        except binascii.Error:
            raise Refusal(400, "BadRequest", "An attachment is not base64.") from None


def _uuid(request: web.Request, header: str) -> str:
    text = request.headers.get(header, "")
    try:
        if str(UUID(text)) == text and UUID(text).version in {1, 2, 3, 4, 5}:
            return text
    except ValueError:
        pass
    raise Refusal(400, "BadRequest", f"{header} is no UUID of RFC 4122.")


@asynccontextmanager
async def acs_service(**given: Any) -> AsyncIterator[AcsService]:
    """Serves on a free port of this machine."""
    service = AcsService(**given)
    app = web.Application(client_max_size=4 * MOST_BYTES)
    app.router.add_route("*", "/{path:.*}", service.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        service.url = str(server.make_url("")).rstrip("/")
        try:
            yield service
        finally:
            service.resume.set()
