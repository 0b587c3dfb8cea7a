"""Sends the Blob client's requests and counts each: also second tries, pages of lists, and those nobody answers."""

from typing import Any

from azure.core.pipeline.transport import AioHttpTransport

from worker.counted import Count

_OUTCOMES = {304: "conflict", 401: "refused", 403: "refused", 404: "missing", 409: "conflict", 412: "conflict"}
_OUTCOMES |= {429: "throttled", 503: "throttled"}
_OPERATIONS = {"GET": "read", "HEAD": "read", "DELETE": "delete"}


class CountingTransport(AioHttpTransport):  # type: ignore[misc] # exported lazily: its type is unknown
    """The client's own transport. What it counts is what the service bills: reads, writes, lists, deletes."""

    def __init__(self, count: Count, **options: Any) -> None:
        super().__init__(**options)
        self._count = count

    async def send(self, request: Any, *, stream: bool = False, proxies: Any = None, **config: Any) -> Any:
        """As the transport does, one request."""
        outcome = "no_answer"
        try:
            response = await super().send(request, stream=stream, proxies=proxies, **config)
            outcome = _outcome(response.status_code)
        finally:
            self._count(_operation(request), outcome)
        return response


def _operation(request: Any) -> str:
    if request.method == "GET" and request.query.get("comp") == "list":
        return "list"
    return _OPERATIONS.get(request.method, "write")


def _outcome(status: int) -> str:
    return "ok" if status < 300 else _OUTCOMES.get(status, "failed")
