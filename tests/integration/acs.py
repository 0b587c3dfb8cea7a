"""A service for mail, and sinks that send through it: what the tests of acs_email share.

`service` and `sink_to` are fixtures; the modules that use them import them.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.acs_service import AcsService, Credential, acs_service
from tests.deliveries import ELEMENT, delivery_of
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.identity import Tokens
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink

DEFINITE = (SinkUnavailable, OutcomeUnknown, Rejected, Misconfigured)
OTHER = ELEMENT | {"id": "e2"}


@pytest.fixture
async def service() -> AsyncIterator[AcsService]:
    async with acs_service() as service:
        yield service


OpenSink = Callable[..., Awaitable[AcsEmailSink]]


@pytest.fixture
async def sink_to(monkeypatch) -> AsyncIterator[OpenSink]:
    """Opens a sink to this service, by its connection string unless told otherwise."""
    opened = []

    async def open_sink(
        service: AcsService, credential: Credential | None = None, *, slow_by: float = 0, **settings: Any
    ) -> AcsEmailSink:
        monkeypatch.setenv("ACS", service.connection_string)
        monkeypatch.setenv("ACS_KEY", service.key)
        given = {"name": "out", "from": "ml@example.org", "to": ["oncall@example.org"]}
        if credential is not None:
            given |= {"auth": "identity", "endpoint": service.url}
        elif "access_key_env" not in settings:
            given |= {"connection_string_env": "ACS"}
        tokens = Tokens(credential) if credential is not None else None
        sink = AcsEmailSink(
            AcsEmailSettings.model_validate(given | settings), tokens, clock=lambda: time.time() - slow_by
        )
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: AcsEmailSink, delivery=None) -> Exception:
    with pytest.raises(DEFINITE) as raised:
        await sink.deliver(delivery or delivery_of())
    error = raised.value
    assert str(error).startswith("sink out: ")
    assert str(error).isprintable()
    assert error.__cause__ is None
    return error
