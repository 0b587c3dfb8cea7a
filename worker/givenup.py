"""Deliveries that were just given up: the next of their subject waits until that cannot be undone by a crash.

Otherwise the event would be tried again in the next life, after its successor had been delivered. Two things make it
final: its dead letter is kept, and the state that says so is saved. Pure; who writes either is decided elsewhere.
"""

from collections import Counter

from worker.events import Subject

Place = tuple[Subject, str]
"""A subject at a sink."""


class GivenUp:
    """The places at which something was given up and is not final."""

    def __init__(self) -> None:
        self._letters: Counter[Place] = Counter()
        """Dead letters on their way to the store."""
        self._unsaved: set[Place] = set()
        self._in_save: set[Place] = set()

    def __bool__(self) -> bool:
        return bool(self._letters or self._unsaved)

    def begin(self, place: Place) -> None:
        """A delivery there becomes a dead letter."""
        self._letters[place] += 1

    def kept(self, place: Place) -> None:
        """Its letter is in the store."""
        self._letters[place] -= 1
        if not self._letters[place]:
            del self._letters[place]
        self._unsaved.add(place)
        self._in_save.discard(place)

    def has_no_letter(self, place: Place) -> bool:
        """Whether something given up there is not kept yet."""
        return place in self._letters

    def is_unsaved(self, place: Place) -> bool:
        """Whether the stored state does not know yet what was given up there."""
        return place in self._unsaved

    def saving(self) -> None:
        """A state is being written that knows all that is kept by now."""
        self._in_save = set(self._unsaved)

    def saved(self) -> None:
        """It is stored."""
        self._unsaved -= self._in_save
