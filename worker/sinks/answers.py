"""What destinations answer, for whoever listens. `worker send-test` does; in a running worker nobody does.

`deliver` returns nothing: to a lane, accepted is accepted. A person who tries a sink wants to know what it said.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Heard(NamedTuple):
    """One answer. It may hold anything, also what was sent: who shows it masks the secrets."""

    status: str
    body: bytes


_listener: ContextVar[list[Heard] | None] = ContextVar("listener", default=None)


def note_answer(status: int | str, body: bytes = b"") -> None:
    """Tells whoever listens what the destination answered: a code, and as much of the rest as is at hand."""
    heard = _listener.get()
    if heard is not None:
        heard.append(Heard(str(status), body))


@contextmanager
def listening() -> Iterator[list[Heard]]:
    """Collects what is answered to deliveries that are begun in the block."""
    heard: list[Heard] = []
    token = _listener.set(heard)
    try:
        yield heard
    finally:
        _listener.reset(token)
