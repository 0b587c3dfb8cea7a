"""What follows a given-up event waits for its dead letter, and for the state that knows of it."""

from worker.events import Subject
from worker.givenup import GivenUp

A, B = (Subject("src", "a"), "out"), (Subject("src", "b"), "out")


def test_a_place_is_open_before_anything_was_given_up_there():
    given_up = GivenUp()
    given_up.begin(A)
    assert not given_up.has_no_letter(B)
    assert not given_up.is_unsaved(B)


def test_a_place_waits_for_every_letter():
    given_up = GivenUp()
    given_up.begin(A)
    given_up.begin(A)
    given_up.kept(A)
    assert given_up.has_no_letter(A)
    given_up.kept(A)
    assert not given_up.has_no_letter(A)


def test_a_place_waits_for_a_state_that_was_begun_after_the_letter_was_kept():
    given_up = GivenUp()
    given_up.begin(A)
    given_up.saving()
    given_up.kept(A)
    given_up.saved()
    assert given_up.is_unsaved(A)
    given_up.saving()
    given_up.saved()
    assert not given_up.is_unsaved(A)


def test_a_save_that_failed_makes_nothing_final():
    given_up = GivenUp()
    given_up.begin(A)
    given_up.kept(A)
    given_up.saving()
    given_up.begin(B)
    given_up.kept(B)
    given_up.saving()
    given_up.saved()
    assert not given_up.is_unsaved(A)
    assert not given_up.is_unsaved(B)


def test_a_second_letter_that_is_kept_during_a_save_waits_for_the_next():
    given_up = GivenUp()
    given_up.begin(A)
    given_up.kept(A)
    given_up.saving()
    given_up.begin(A)
    given_up.kept(A)
    given_up.saved()
    assert given_up.is_unsaved(A)
