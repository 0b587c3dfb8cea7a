import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.events import Position
from worker.progress import Progress, SavedProgress, Watermark


def restarted(progress: Progress) -> Progress:
    """The same progress in a later life: through JSON, as the partition state keeps it."""
    return Progress.restore(json.loads(json.dumps(progress.snapshot())))


def begun(*numbers: int, elements: int = 1) -> Progress:
    progress = Progress()
    for number in numbers:
        progress.begin(number, f"@{number}", elements)
    return progress


def test_the_watermark_never_passes_an_unsettled_message():
    progress = begun(1, 2, 3)
    assert progress.watermark is None

    progress.settle(Position(2, 0))
    progress.settle(Position(3, 0))
    assert (progress.watermark, progress.oldest_unsettled, progress.unsettled) == (None, 1, 1)

    progress.settle(Position(1, 0))
    assert (progress.watermark, progress.oldest_unsettled, progress.unsettled) == (Watermark(3, "@3"), None, 0)


def test_a_message_settles_when_all_its_elements_have():
    progress = begun(1, 2, elements=3)
    for element in (2, 0):
        progress.settle(Position(1, element))
    assert progress.watermark is None

    progress.settle(Position(1, 1))
    assert progress.watermark == Watermark(1, "@1")


def test_a_message_without_elements_is_settled_at_once():
    progress = begun(5, elements=0)

    assert (progress.watermark, progress.read, progress.unsettled) == (Watermark(5, "@5"), 5, 0)


def test_nothing_read_means_no_watermark():
    progress = Progress()

    assert (progress.watermark, progress.read, progress.oldest_unsettled, progress.unsettled) == (None, None, None, 0)


def test_sequence_numbers_may_have_gaps():
    progress = begun(3, 70, 900)
    progress.settle(Position(3, 0))
    assert progress.watermark == Watermark(3, "@3")

    progress.settle(Position(900, 0))
    progress.settle(Position(70, 0))
    assert progress.watermark == Watermark(900, "@900")


@pytest.mark.parametrize("wrong", [Position(1, 0), Position(2, 1), Position(2, -1), Position(3, 0), Position(2, 2)])
def test_to_settle_a_position_twice_or_that_never_was_is_an_error(wrong: Position):
    progress = begun(1, elements=1)
    progress.begin(2, "@2", 2)
    progress.settle(Position(1, 0))
    progress.settle(Position(2, 1))

    with pytest.raises(ValueError, match="is not unsettled"):
        progress.settle(wrong)
    with pytest.raises(ValueError, match="is not unsettled"):
        progress.served(wrong, "mail")


@pytest.mark.parametrize("number", [4, 5])
def test_messages_begin_once_and_in_order(number: int):
    with pytest.raises(ValueError, match="in order, once"):
        begun(5).begin(number, "@", 1)


def test_whether_something_is_settled_is_only_known_of_messages_that_have_begun():
    with pytest.raises(ValueError, match="has not begun"):
        begun(5).already_settled(Position(6, 0))


def test_the_sinks_that_took_an_event_are_known_until_it_settles():
    progress = begun(1, elements=2)
    progress.served(Position(1, 0), "mail")
    progress.served(Position(1, 0), "teams")

    assert progress.served_by(Position(1, 0)) == {"mail", "teams"}
    assert progress.served_by(Position(1, 1)) == frozenset()
    progress.settle(Position(1, 0))
    assert progress.served_by(Position(1, 0)) == frozenset()


def test_what_is_saved_stays_small_however_much_settles_above_an_unsettled_message():
    progress = begun(*range(1, 10_001))
    for number in range(2, 9_001):
        progress.settle(Position(number, 0))
    progress.served(Position(1, 0), "mail")

    assert progress.snapshot() == SavedProgress(
        watermark=None, read=10_000, unsettled=[[1, 1], [9_001, 10_000]], parts=[], served=[[1, 0, "mail"]]
    )


def test_what_was_settled_above_the_watermark_is_skipped_after_a_restart():
    progress = begun(1, 2, 3, 4, elements=2)
    for position in (Position(1, 0), Position(1, 1), Position(3, 0), Position(3, 1), Position(4, 1)):
        progress.settle(position)
    progress.served(Position(4, 0), "mail")

    later_life = restarted(progress)
    assert (later_life.watermark, later_life.read) == (Watermark(1, "@1"), 4)
    for number in (2, 3, 4, 5):
        later_life.begin(number, f"@{number}", 2)
    settled = [(n, e) for n in (2, 3, 4, 5) for e in (0, 1) if later_life.already_settled(Position(n, e))]
    assert settled == [(3, 0), (3, 1), (4, 1)]
    assert later_life.served_by(Position(4, 0)) == {"mail"}
    assert (later_life.watermark, later_life.oldest_unsettled) == (Watermark(1, "@1"), 2)


def test_a_restart_before_anything_is_read_again_loses_nothing():
    progress = begun(1, 2, 3, elements=2)
    progress.settle(Position(2, 1))
    progress.served(Position(3, 0), "mail")

    assert restarted(restarted(progress)).snapshot() == progress.snapshot()


def test_messages_at_or_below_the_watermark_that_come_again_do_not_move_it_back():
    progress = begun(1, 2)
    progress.settle(Position(1, 0))
    progress.settle(Position(2, 0))

    later_life = restarted(progress)
    later_life.begin(1, "@1", 1)
    assert later_life.already_settled(Position(1, 0))
    assert (later_life.watermark, later_life.read) == (Watermark(2, "@2"), 2)


def test_what_the_hub_no_longer_has_is_not_waited_for():
    progress = begun(1, 2, 3, elements=2)
    progress.settle(Position(1, 0))
    progress.served(Position(2, 0), "mail")

    later_life = restarted(progress)
    later_life.begin(9, "@9", 1)
    later_life.settle(Position(9, 0))
    assert later_life.snapshot() == SavedProgress(watermark=[9, "@9"], read=9, unsettled=[], parts=[], served=[])


def test_a_second_restart_in_the_middle_of_reading_again_keeps_what_settled_in_between():
    later_life = restarted(begun(1, 2, 3, 4))
    for number in (1, 2, 3):
        later_life.begin(number, f"@{number}", 1)
    later_life.settle(Position(2, 0))

    assert later_life.snapshot()["unsettled"] == [[1, 1], [3, 3], [4, 4]]


def test_a_message_that_is_read_again_as_fewer_elements_is_not_settled_by_those_it_no_longer_has():
    progress = begun(1, elements=3)
    progress.settle(Position(1, 0))
    progress.settle(Position(1, 2))

    later_life = restarted(progress)
    later_life.begin(1, "@1", 2)
    assert not later_life.already_settled(Position(1, 1))
    later_life.settle(Position(1, 1))
    assert later_life.watermark == Watermark(1, "@1")


@dataclass
class Model:
    """The same promises, from the whole log and the set of all settled positions."""

    log: list[tuple[int, int]] = field(default_factory=list)
    next: int = 0
    """Index in the log of what is to be begun next; a restart moves it back."""
    settled: set[Position] = field(default_factory=set)
    served: dict[Position, set[str]] = field(default_factory=dict)

    def open(self) -> list[Position]:
        begun = self.log[: self.next]
        return [Position(n, e) for n, elements in begun for e in range(elements) if Position(n, e) not in self.settled]

    def watermark(self) -> Watermark | None:
        first = self.open()[0].sequence_number if self.open() else None
        passed = [number for number, _ in self.log[: self.next] if first is None or number < first]
        return Watermark(passed[-1], f"@{passed[-1]}") if passed else None

    def restart(self) -> None:
        watermark = self.watermark()
        self.next = sum(1 for number, _ in self.log if watermark and number <= watermark.sequence_number)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["settle", "settle", "settle", "serve"]), st.integers(0, 100)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    min_size=20,
    max_size=80,
)


@given(actions, st.lists(st.integers(1, 3), min_size=80, max_size=80))
def test_any_order_of_settling_and_any_restarts_give_what_the_model_gives(
    actions: list[tuple[str, int]], gaps: list[int]
):
    progress, model = Progress(), Model()
    for action, argument in actions:
        choice = model.open()[argument % len(model.open())] if model.open() else None
        if action == "begin":
            if model.next == len(model.log):
                model.log.append(((model.log[-1][0] if model.log else 0) + gaps[len(model.log)], argument))
            number, elements = model.log[model.next]
            progress.begin(number, f"@{number}", elements)
            model.next += 1
        elif action == "restart":
            progress = restarted(progress)
            model.restart()
        elif choice and action == "settle":
            progress.settle(choice)
            model.settled.add(choice)
        elif choice:
            progress.served(choice, f"sink {argument % 2}")
            model.served.setdefault(choice, set()).add(f"sink {argument % 2}")
        check(progress, model)


def check(progress: Progress, model: Model) -> None:
    open_positions = model.open()
    open_messages = sorted({position.sequence_number for position in open_positions})
    assert progress.watermark == model.watermark()
    assert progress.read == (model.log[-1][0] if model.log else None)
    assert (progress.unsettled, progress.oldest_unsettled) == (
        len(open_messages),
        open_messages[0] if open_messages else None,
    )
    for number, elements in model.log[: model.next]:
        for element in range(elements):
            position = Position(number, element)
            assert progress.already_settled(position) == (position in model.settled)
    for position in open_positions:
        assert progress.served_by(position) == model.served.get(position, set())


def left_by_an_earlier_life() -> SavedProgress:
    """11 to 13 and 16 to 17 unsettled, of 13 and 17 a part; 11, 12, 13 and 17 served."""
    progress = begun(*range(10, 19), elements=2)
    for number in (10, 14, 15, 18):
        progress.settle(Position(number, 0))
        progress.settle(Position(number, 1))
    for number in (13, 17):
        progress.settle(Position(number, 1))
    for number in (11, 12, 13, 17):
        progress.served(Position(number, 0), "mail")
    return progress.snapshot()


def test_a_checkpoint_further_on_than_the_state_is_where_it_goes_on():
    progress = Progress.restore(left_by_an_earlier_life(), checkpoint=Watermark(12, "@of the checkpoint"))

    assert progress.snapshot() == SavedProgress(
        watermark=[12, "@of the checkpoint"],
        read=18,
        unsettled=[[13, 13], [16, 17]],
        parts=[[13, 1], [17, 1]],
        served=[[13, 0, "mail"], [17, 0, "mail"]],
    )


def test_what_ends_where_the_checkpoint_is_is_left_no_more():
    progress = Progress.restore(left_by_an_earlier_life(), checkpoint=Watermark(13, "@13"))

    assert progress.snapshot() == SavedProgress(
        watermark=[13, "@13"], read=18, unsettled=[[16, 17]], parts=[[17, 1]], served=[[17, 0, "mail"]]
    )
    progress.begin(16, "@16", 2)
    assert progress.missing == 0


def test_of_a_state_that_the_checkpoint_has_left_behind_nothing_stays():
    progress = Progress.restore(left_by_an_earlier_life(), checkpoint=Watermark(30, "@30"))

    assert progress.snapshot() == SavedProgress(watermark=[30, "@30"], read=30, unsettled=[], parts=[], served=[])
    assert progress.served_by(Position(31, 0)) == frozenset()


def test_a_checkpoint_at_or_behind_the_state_changes_nothing():
    saved = left_by_an_earlier_life()
    for number in (9, 10):
        assert Progress.restore(saved, checkpoint=Watermark(number, "@of the checkpoint")).snapshot() == saved


def test_without_a_state_it_goes_on_from_the_checkpoint_and_from_before_all_messages_there_is_no_watermark():
    assert Progress.restore(None, checkpoint=Watermark(7, "@7")).watermark == Watermark(7, "@7")
    assert Progress.restore(None, checkpoint=Watermark(-1, "-1")).watermark is None


def test_the_message_of_the_watermark_that_comes_again_leaves_it_as_it_is():
    progress = Progress.restore(None, checkpoint=Watermark(7, "@of the checkpoint"))
    progress.begin(7, "@7", 1)

    assert progress.watermark == Watermark(7, "@of the checkpoint")


def test_a_message_that_is_to_start_over_has_nothing_settled_or_served_and_the_others_keep_theirs():
    progress = Progress.restore(left_by_an_earlier_life())
    progress.start_over(13)
    progress.start_over(99)
    for number in range(11, 18):
        progress.begin(number, f"@{number}", 2)

    settled = {number: progress.already_settled(Position(number, 1)) for number in (13, 17)}
    assert settled == {13: False, 17: True}
    served = [number for number in range(11, 18) if progress.served_by(Position(number, 0))]
    assert served == [11, 12, 17]


def test_a_message_is_held_from_its_beginning_until_all_of_it_is_settled():
    progress = begun(1, elements=2)
    held = [progress.holds(1), progress.holds(2)]
    for element in (0, 1):
        progress.settle(Position(1, element))
        held.append(progress.holds(1))

    assert held == [True, False, True, False]


def test_what_was_left_and_has_come_again_is_in_the_state_no_more():
    progress = Progress.restore(begun(1, 2, 3).snapshot())
    for number in (1, 2, 3):
        progress.begin(number, f"@{number}", 1)
        progress.settle(Position(number, 0))

    assert progress.snapshot() == SavedProgress(watermark=[3, "@3"], read=3, unsettled=[], parts=[], served=[])


def test_who_was_served_for_an_element_that_its_message_no_longer_has_is_forgotten_with_the_message():
    earlier = begun(1, elements=2)
    earlier.served(Position(1, 1), "mail")
    progress = restarted(earlier)
    progress.begin(1, "@1", 1)
    progress.settle(Position(1, 0))

    assert progress.snapshot()["served"] == []


def test_what_was_left_unsettled_and_does_not_come_again_is_counted():
    first = Progress()
    for number in range(1, 7):
        first.begin(number, str(number), 1)
    for number in (1, 4):
        first.settle(Position(number, 0))
    later = Progress.restore(first.snapshot())
    later.begin(2, "2", 1)
    assert later.missing == 0
    later.begin(6, "6", 1)
    assert later.missing == 1, "3; whether there ever was a 5 is not known: numbers may have gaps"
    later.begin(9, "9", 1)
    assert later.missing == 1


def test_what_comes_beyond_all_that_was_read_shows_everything_missing():
    first = Progress()
    for number in (1, 2, 3):
        first.begin(number, str(number), 1)
    later = Progress.restore(first.snapshot())
    later.begin(7, "7", 1)
    assert later.missing == 3


def test_what_comes_again_in_order_is_not_missing():
    first = Progress()
    for number in (1, 2, 5, 6):
        first.begin(number, str(number), 1)
    first.settle(Position(5, 0))
    later = Progress.restore(first.snapshot())
    for number in (1, 2, 5, 6, 7):
        later.begin(number, str(number), 1)
    assert later.missing == 0
