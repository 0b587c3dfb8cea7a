"""What destinations answer: as much of it as is safe to show, and all of it for whoever listens.

`deliver` returns nothing: to a lane, accepted is accepted. A person who tries a sink wants to know what it said, so
`worker send-test` listens; in a running worker nobody does.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from worker.logs import redact

LONG_CHARACTERS = 8
"""Shorter pieces of a secret (v1, api, 1.0) are none themselves, and errors without them would be unreadable."""
_LOOKED_AT_CHARACTERS = 1024
_EXCERPT_CHARACTERS = 200


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


def to_hide(pieces: Iterable[str], whole: Iterable[str] = ()) -> tuple[str, ...]:
    """What no error may repeat, longest first: the long ones of these pieces, and secrets as they are."""
    return tuple(sorted({*whole, *(piece for piece in pieces if len(piece) >= LONG_CHARACTERS)}, key=len, reverse=True))


def excerpt(answer: str, secrets: Iterable[str]) -> str:
    """An answer as one short line that is safe to show, with a colon before it; or nothing."""
    for secret in filter(None, secrets):
        answer = answer.replace(secret, "***")
    # The first cut comes before white space is folded: the end of the text may be half a secret.
    visible = "".join(c if c.isprintable() else " " for c in redact(answer)[:_LOOKED_AT_CHARACTERS])
    line = " ".join(visible.split())
    return f": {line[:_EXCERPT_CHARACTERS]}" if line else ""
