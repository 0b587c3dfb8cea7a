"""Counts what is asked of the hub and of the store, by kind and by how it ended: both have quotas, and cost money."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.errors import Conflict

Count = Callable[[str, str], None]
"""Called with the kind of a request and its outcome, once for each."""


def uncounted(_operation: str, _outcome: str) -> None:
    """For commands, which have no metrics."""


@contextmanager
def counted(count: Count, operation: str) -> Iterator[None]:
    """One request: ok, conflict, failed; no_answer when nobody waited for its end any more."""
    outcome = "no_answer"
    try:
        yield
        outcome = "ok"
    except Conflict:
        outcome = "conflict"
        raise
    except TimeoutError:  # as when we are cancelled
        raise
    except Exception:
        outcome = "failed"
        raise
    finally:
        count(operation, outcome)
