"""Judges a history by the promises, and by nothing of the worker's: what was in the hub, what arrived, what was stored.

Each check says what the promise means exactly, with its exceptions: what a history cannot prove is not held against it.
A generation is known by the state write that begins it; what a process starts belongs to the last one it has begun.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from tests.simulation.facts import CONDEMNED, Facts, Knowledge, Place, told_by, was_saved
from tests.simulation.history import (
    SILENCE,
    Attempt,
    CheckpointWrite,
    Element,
    History,
    LedgerWrite,
    LifeEvent,
    Load,
)
from tests.simulation.loop import WALL_CLOCK_OFFSET
from tests.simulation.traffic import DIGEST, IDEMPOTENT, LEDGER, MISSED, SILENT_SECONDS, WITHIN_SECONDS
from worker.missed import time_text

_ATTEMPTS_PER_LIFE = 40
_ARRAY = 3
"""A message is taken in whole: its elements may exceed a limit that was not reached before it."""
_GIVING_UP_SECONDS = 3.0
"""An event that was tried for less than this was not given up for want of time."""
_DONE = frozenset({"accepted", "rejected"})


class Violation(NamedTuple):
    """A promise that was not kept."""

    promise: str
    time: float
    text: str


def check(history: History) -> list[Violation]:
    """Everything in it that breaks a promise."""
    facts = Facts(history)
    found: list[Violation] = []
    for judge in (
        _nothing_lost,
        _checkpoint_passes_nothing_unsettled,
        _ends_with_the_newest_value,
        _in_order,
        _one_at_a_time,
        _late_is_said,
        _late_stays_late,
        _keys_are_stable,
        _skip_never_repeats,
        _ledger_is_kept,
        _idempotent_acts_once,
        _told_under_one_key,
        _told_in_order,
        _nothing_saved_acts_again,
        _missed_is_told,
        _nothing_met_is_told,
        _silence_is_told,
        _no_false_silence,
        _generations_follow,
        _checkpoint_is_fenced,
        _nothing_starts_after_the_end,
        _released_is_over,
        _bounded,
        _no_false_alarm,
        _bad_input_is_a_letter,
        _nothing_fails,
    ):
        found += judge(facts)
    return found


# --- 1. nothing lost


def _nothing_lost(facts: Facts) -> Iterable[Violation]:
    history = facts.history
    if not history.settled:
        yield Violation("1 nothing lost", history.virtual_seconds, "not everything was settled in time")
    for message in facts.messages.values():
        for element in message.elements:
            for sink in element.sinks:
                if (element.uid, sink) not in facts.done and not facts.may_be_left_out(element, sink):
                    yield Violation("1 nothing lost", message.time, f"{element.uid} is nowhere: sink {sink!r}")


def _checkpoint_passes_nothing_unsettled(facts: Facts) -> Iterable[Violation]:
    """At every moment: what stands at or before the stored checkpoint is done."""
    numbers = {
        partition: sorted(number for each, number in facts.messages if each == partition)
        for partition in {each for each, _ in facts.messages}
    }
    passed: dict[str, int] = defaultdict(int)
    for write in facts.history.of(CheckpointWrite):
        known = numbers.get(write.partition, [])
        while passed[write.partition] < len(known) and known[passed[write.partition]] <= write.number:
            number = known[passed[write.partition]]
            passed[write.partition] += 1
            for element in facts.messages[write.partition, number].elements:
                for sink in element.sinks:
                    if sink == DIGEST:
                        continue  # settled when it has joined a group: that it is told is seen at the end
                    done_at = facts.done.get((element.uid, sink))
                    if (done_at is None or done_at > write.at) and not facts.may_be_left_out(element, sink):
                        text = f"checkpoint {write.number} of {write.partition} by {write.life} passes {element.uid}"
                        yield Violation("1 nothing lost", write.time, f"{text} at {number}: sink {sink!r}")


def _ends_with_the_newest_value(facts: Facts) -> Iterable[Violation]:
    """Who is sent only what has changed has the value of the newest event at the end.

    Provable where nothing came late or became a dead letter: what the sink has then is not what was sent it last. Nor
    while some process knew no such sink.
    """
    for sink in facts.history.changed:
        last: dict[tuple[str, str], Attempt] = {}
        for attempt in facts.attempts:
            if attempt.sink == sink and attempt.acted:
                place = attempt.partition, attempt.element.subject
                last[place] = max(last.get(place, attempt), attempt, key=lambda each: each.landed_at or 0)
        for (partition, subject, _), rivals in facts.rivals.items():
            elements = [each for _, each in rivals if sink in each.sinks]
            doubtful = any(
                facts.may_ever_be_late(each) or facts.may_be_missing(each, sink) or (each.uid, sink) in facts.lettered
                for each in elements
            )
            if not elements or doubtful:
                continue
            newest = max(elements, key=lambda each: each.order)
            has = last.get((partition, subject))
            if has is None or has.element.value != newest.value:
                text = f"{sink} ends with {has and has.element.uid} of {subject}, and the newest is {newest.uid}"
                yield Violation("1 nothing lost", facts.history.virtual_seconds, text)


# --- 2. in order per subject


def _by_subject(facts: Facts) -> Iterable[list[Attempt]]:
    """The attempts of one subject of one partition at one sink."""
    grouped: dict[tuple[str, str, str], list[Attempt]] = defaultdict(list)
    for attempt in facts.attempts:
        grouped[attempt.sink, attempt.partition, attempt.element.subject].append(attempt)
    return grouped.values()


def _in_order(facts: Facts) -> Iterable[Violation]:
    """No event begins after a later one of its subject has, unless it is said to be late.

    Provable where one generation began both, and where the checkpoint had passed the later one before the generation
    that began the earlier one. Else the owner died before it had saved what it had released: then the next one reads
    both again, and order among itself is all it can give.
    """
    checkpoints = facts.history.of(CheckpointWrite)
    for attempts in _by_subject(facts):
        first: dict[str, Attempt] = {}
        for attempt in attempts:
            if attempt.element.uid in first:
                continue
            for other in first.values():
                if (
                    attempt.late_by_ms is None
                    and other.element.kind == attempt.element.kind
                    and other.element.order > attempt.element.order
                    and _proved(facts, other, attempt, checkpoints)
                ):
                    text = f"{attempt.element.uid} begins at {attempt.sink} after {other.element.uid}, and is not late"
                    yield Violation("2 in order", attempt.time, text)
            first[attempt.element.uid] = attempt
        yield from _waits(facts, attempts)


def _proved(facts: Facts, other: Attempt, attempt: Attempt, checkpoints: list[CheckpointWrite]) -> bool:
    mine, theirs = facts.of_attempt[id(attempt)], facts.of_attempt[id(other)]
    if mine is theirs or mine is None:
        return True
    return any(
        write.partition == attempt.partition and write.at < mine.began_at and write.number >= other.number
        for write in checkpoints
    )


def _waits(facts: Facts, attempts: list[Attempt]) -> Iterable[Violation]:
    """Within a generation, an event begins when the earlier ones that were begun are done with, or given up."""
    last: dict[tuple[int, str], Attempt] = {}
    began: dict[tuple[int, str], float] = {}
    for attempt in attempts:
        generation = id(facts.of_attempt[id(attempt)])
        for (whose, uid), other in last.items():
            if (
                whose == generation
                and uid != attempt.element.uid
                and other.outcome not in _DONE
                and (uid, attempt.sink) not in facts.lettered
                and not _given_up_unseen(facts, other, attempt, began[whose, uid])
            ):
                text = f"{attempt.element.uid} begins at {attempt.sink} while {uid} is being tried"
                yield Violation("2 in order", attempt.time, text)
        last[generation, attempt.element.uid] = attempt
        began.setdefault((generation, attempt.element.uid), attempt.time)


def _given_up_unseen(facts: Facts, other: Attempt, attempt: Attempt, began: float) -> bool:
    """Whether it may have been given up by a process that died before the letter was written."""
    skipped = other.sink in facts.history.skips and other.outcome in ("unknown", "aborted")
    long_enough = skipped or attempt.time - began >= _GIVING_UP_SECONDS or facts.history.sheds
    generation = facts.of_attempt[id(other)]
    last = facts.generations[other.partition][-1]
    return long_enough and generation is not last


def _one_at_a_time(facts: Facts) -> Iterable[Violation]:
    """An attempt that a generation has not ended (or aborted at its end) is its only one of the subject."""
    for attempts in _by_subject(facts):
        under_way: dict[int, Attempt] = {}
        for attempt in attempts:
            generation = id(facts.of_attempt[id(attempt)])
            other = under_way.get(generation)
            if other is not None and (other.ended_at is None or other.ended_at > attempt.at):
                text = f"{attempt.element.uid} begins at {attempt.sink} during an attempt of {other.element.uid}"
                yield Violation("2 in order", attempt.time, text)
            under_way[generation] = attempt


# --- 3. late is said


def _late_is_said(facts: Facts) -> Iterable[Violation]:
    """What is said to be late stands behind a later one of its subject; that it is said, `_in_order` sees."""
    for attempt in facts.attempts:
        place = Place(attempt.partition, attempt.number, attempt.index)
        if attempt.late_by_ms is not None and not facts.may_be_late(place, attempt.element):
            yield Violation("3 late is said", attempt.time, f"{attempt.element.uid} is called late and cannot be")
        policy = facts.history.late_policy[attempt.sink]
        if attempt.late_by_ms is not None and policy != "deliver":
            yield Violation("3 late is said", attempt.time, f"{attempt.element.uid} is late: the route says {policy}")
    for letter in facts.letters:
        if letter.reason == "late":
            place = Place(letter.partition, letter.number, letter.index or 0)
            element = facts.messages[letter.partition, letter.number].elements[letter.index or 0]
            if not facts.may_be_late(place, element) or facts.history.late_policy[letter.sink] != "dead_letter":
                yield Violation("3 late is said", letter.time, f"{element.uid} is a late letter and cannot be")


def _late_stays_late(facts: Facts) -> Iterable[Violation]:
    """The verdict of an event stands once a state was written after it was tried."""
    said: dict[tuple[str, int, int], list[Attempt]] = defaultdict(list)
    for attempt in facts.attempts:
        position = attempt.partition, attempt.number, attempt.index
        mine = facts.of_attempt[id(attempt)]
        for other in said[position]:
            theirs = facts.of_attempt[id(other)]
            changed = (other.late_by_ms is None) is not (attempt.late_by_ms is None)
            saved_before = mine.began_at if mine else attempt.at
            known = mine is theirs or (theirs and was_saved(theirs, after=other.at, before=saved_before))
            if changed and known and mine and theirs and mine.number >= theirs.number:
                text = f"{attempt.element.uid} was {_verdict(other)} and is {_verdict(attempt)} when it is read again"
                yield Violation("3 late is said", attempt.time, text)
                break
        said[position].append(attempt)


def _verdict(attempt: Attempt) -> str:
    return "in time" if attempt.late_by_ms is None else "late"


# --- 4. duplicates


def _keys_are_stable(facts: Facts) -> Iterable[Violation]:
    """One event has one key at a sink, wherever its copies stand; no other event has it.

    But for the event that ends processes: once its message is condemned it is not understood any more, so that
    another one with its id and other data is the first of its id.
    """
    keys: dict[tuple[str, str], str] = {}
    owners: dict[str, tuple[str, str]] = {}
    for attempt in facts.attempts:
        event = attempt.element.uid, attempt.sink
        if keys.setdefault(event, attempt.key) != attempt.key:
            yield Violation("4 duplicates", attempt.time, f"{event} is delivered under a second key")
        if attempt.element.uid != facts.history.poison and owners.setdefault(attempt.key, event) != event:
            yield Violation("4 duplicates", attempt.time, f"{event} has the key of {owners[attempt.key]}")


def _skip_never_repeats(facts: Facts) -> Iterable[Violation]:
    """Where an unknown outcome becomes a dead letter, nothing takes effect twice."""
    landed: set[str] = set()
    for attempt in facts.attempts:
        if attempt.sink in facts.history.skips and attempt.landed_at is not None:
            if attempt.element.uid in landed:
                yield Violation("4 duplicates", attempt.time, f"{attempt.element.uid} acts twice at {attempt.sink}")
            landed.add(attempt.element.uid)


def _ledger_is_kept(facts: Facts) -> Iterable[Violation]:
    """What the ledger says was accepted is never tried again."""
    accepted: dict[str, int] = {}
    for write in facts.history.of(LedgerWrite):
        if write.state == "accepted":
            accepted.setdefault(write.key, write.at)
    for attempt in facts.attempts:
        if attempt.at > accepted.get(attempt.key, attempt.at):
            text = f"{attempt.element.uid} is tried at {attempt.sink} though the ledger says accepted"
            yield Violation("4 duplicates", attempt.time, text)


def _idempotent_acts_once(facts: Facts) -> Iterable[Violation]:
    """At a sink that knows the key an event takes effect once."""
    acted: set[str] = set()
    for attempt in facts.attempts:
        if attempt.sink == IDEMPOTENT and attempt.acted:
            if attempt.element.uid in acted:
                yield Violation("4 duplicates", attempt.time, f"{attempt.element.uid} acts twice at {attempt.sink}")
            acted.add(attempt.element.uid)


def _told_under_one_key(facts: Facts) -> Iterable[Violation]:
    """An event is told of alone or in one digest, whoever sends it and however often: joining doubles none."""
    keys: dict[str, str] = {}
    for attempt in facts.attempts:
        if attempt.sink == DIGEST and attempt.landed_at is not None:
            for uid, _ in told_by(attempt):
                if keys.setdefault(uid, attempt.key) != attempt.key:
                    yield Violation("4 duplicates", attempt.time, f"{uid} is told under a second key")


def _told_in_order(facts: Facts) -> Iterable[Violation]:
    """What a sink is told of one subject, alone and in digests, is in order but for what is said to be late."""
    elements = {each.uid: each for message in facts.messages.values() for each in message.elements}
    told: dict[tuple[str, str], dict[str, Attempt]] = defaultdict(dict)
    checkpoints = facts.history.of(CheckpointWrite)
    for attempt in facts.attempts:
        for uid, late in told_by(attempt) if attempt.sink == DIGEST else ():
            element = elements[uid]
            before = told[attempt.partition, element.subject]
            if uid in before:
                continue
            for other_uid, other in before.items():
                later = elements[other_uid].order > element.order and elements[other_uid].kind == element.kind
                if later and not late and (attempt.members or _proved(facts, other, attempt, checkpoints)):
                    text = f"{uid} is told after {other_uid}, and is not said to be late"
                    yield Violation("2 in order", attempt.time, text)
            before[uid] = attempt


def _nothing_saved_acts_again(facts: Facts) -> Iterable[Violation]:
    """What was accepted is not delivered again: never by the same generation, nor by a later one once it was saved.

    Saved: the owner wrote its state since it had heard of the acceptance. That bounds what a plain sink sees twice,
    re-sent copies included. But for what stood in a message that was condemned before all of it was settled: a copy of
    it in another message is the first of its id, and what is told of it may be told again.
    """
    accepted: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in facts.attempts:
        event = attempt.element.uid, attempt.sink
        mine = facts.of_attempt[id(attempt)]
        for other in accepted[event]:
            theirs = facts.of_attempt[id(other)]
            if mine is None or theirs is None or other.ended_at is None or other.ended_at > attempt.at:
                continue
            again = mine is theirs
            saved = mine.number > theirs.number and was_saved(theirs, after=other.ended_at, before=mine.began_at)
            if (again or saved) and not _may_come_again(facts, other, attempt):
                how = "by the same owner" if again else f"though generation {theirs.number} had saved it"
                yield Violation("4 duplicates", attempt.time, f"{event} is delivered again {how}")
                break
        # Ledger and digests have their own: see above.
        if attempt.outcome == "accepted" and attempt.sink not in (LEDGER, DIGEST):
            accepted[event].append(attempt)


def _may_come_again(facts: Facts, before: Attempt, attempt: Attempt) -> bool:
    """Whether it was delivered from a message that was condemned later, and comes from another one now."""
    if (attempt.about or attempt.element.uid) not in facts.poisoned:
        return False
    if attempt.about:
        return True
    given_up = {(letter.partition, letter.number) for letter in facts.letters if letter.reason == CONDEMNED}
    return (before.partition, before.number) in given_up and (attempt.partition, attempt.number) not in given_up


# --- expectations


def _missed_is_told(facts: Facts) -> Iterable[Violation]:
    """A first event whose second did not happen in time is told to every sink that wants to know.

    But for one that may have been late, which is not watched, and for those of the message that ends processes; and in
    runs in which some process knew no such sink for a while, when it may have been missed.
    """
    for first, second in _expecting(facts):
        places = facts.places[first.element.uid]
        late = any(facts.may_be_late(place, first.element) for place in places)
        if late or first.element.uid in facts.poisoned or (second and second.element.happened <= first.due):
            continue
        for sink in MISSED:
            if (f"missed {first.element.uid}", sink) not in facts.done and not facts.was_missing(sink):
                yield Violation("8 expectations", first.time, f"{first.element.uid} is missed: {sink!r} is not told")


def _nothing_met_is_told(facts: Facts) -> Iterable[Violation]:
    """Nobody is told of a first event whose second happened in time, and was in the hub while it was watched.

    How long it is watched is counted from its own time, and from when the hub had it first.
    """
    told = {each.about: each for each in facts.attempts if each.about and not each.about.startswith(SILENCE)}
    watched = {first.element.uid: (first, second) for first, second in _expecting(facts)}
    for uid, attempt in told.items():
        if uid not in watched:
            yield Violation("8 expectations", attempt.time, f"{uid} is told of as missed, and is no first event")
            continue
        first, second = watched[uid]
        in_time = second and second.element.happened <= first.due and second.enqueued <= first.until
        if in_time and second and second.element.uid not in facts.poisoned:
            text = f"{uid} is told of as missed, though {second.element.uid} came in time"
            yield Violation("8 expectations", attempt.time, text)


class _Watched(NamedTuple):
    element: Element
    time: float
    enqueued: float
    """When the hub had it first: wall clock."""

    @property
    def due(self) -> float:
        return self.element.happened + WITHIN_SECONDS

    @property
    def until(self) -> float:
        return max(self.due, self.enqueued + WITHIN_SECONDS)


def _expecting(facts: Facts) -> Iterable[tuple[_Watched, _Watched | None]]:
    """The first events, each with its second where there is one."""
    found: dict[tuple[str, str], _Watched] = {}
    for message in facts.messages.values():
        for element in message.elements:
            if element.expects:
                one = _Watched(element, message.time, WALL_CLOCK_OFFSET + message.time)
                found.setdefault((element.pair or element.subject, element.expects), one)
    for (pair, role), first in found.items():
        if role == "first":
            yield first, found.get((pair, "second"))


def _silence_is_told(facts: Facts) -> Iterable[Violation]:
    """The silence in which a run ends is told to every sink that wants to know.

    Without a time where the last sign of life came before any process had looked at the rule.
    """
    last = max(_signs(facts), default=(0.0, 0.0))[0]
    for sink in MISSED:
        if not any((f"missed {SILENCE}{since}", sink) in facts.done for since in (time_text(last), None)):
            text = f"{sink!r} is not told of the silence in which it ends"
            yield Violation("8 expectations", facts.history.virtual_seconds, text)


def _no_false_silence(facts: Facts) -> Iterable[Violation]:
    """Nobody is told of a silence in which there was a sign of life, or that began with none; of each once."""
    signs = _signs(facts)
    for attempt in facts.attempts:
        if not attempt.about.startswith(SILENCE) or attempt.about == f"{SILENCE}None":
            continue
        since = next((at for at, _ in signs if time_text(at) == attempt.about.removeprefix(SILENCE)), None)
        if since is None:
            yield Violation("8 expectations", attempt.time, f"{attempt.about}: there was no sign of life then")
        elif any(since < at and enqueued <= since + SILENT_SECONDS for at, enqueued in signs):
            yield Violation("8 expectations", attempt.time, f"{attempt.about}, and there was life")


def _signs(facts: Facts) -> list[tuple[float, float]]:
    """Of each sign of life, when it was, and when the hub had it."""
    found: dict[str, tuple[float, float]] = {}
    for message in facts.messages.values():
        enqueued = WALL_CLOCK_OFFSET + message.time
        for element in message.elements:
            if element.expects and element.uid not in facts.poisoned:
                found.setdefault(element.uid, (min(element.happened, enqueued), enqueued))
    return list(found.values())


# --- 5. a former owner cannot harm


def _generations_follow(facts: Facts) -> Iterable[Violation]:
    """Each generation is followed by the next; between, only its owner changes more than who asks."""
    for partition, generations in facts.generations.items():
        numbers = [each.number for each in generations]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation("5 former owner", 0.0, f"generations of partition {partition}: {numbers}")
        for generation in generations:
            before = None
            for write in generation.writes:
                if write.owner != generation.owner:
                    text = f"{write.life} wrote into generation {write.generation} of {generation.owner}"
                    yield Violation("5 former owner", write.time, text)
                changed = before and (before.read, before.watermark, before.released) != (
                    write.read,
                    write.watermark,
                    write.released,
                )
                foreign = write.life != generation.life or write not in generation.saves
                if changed and foreign:
                    text = f"{write.life} changed the progress of generation {write.generation} of {generation.life}"
                    yield Violation("5 former owner", write.time, text)
                before = write


def _checkpoint_is_fenced(facts: Facts) -> Iterable[Violation]:
    """It never moves back, and once a generation has written it, no former one does."""
    highest: dict[str, tuple[int, int]] = {}
    for write in facts.history.of(CheckpointWrite):
        generation = facts.generation(write.life, write.partition, write.at)
        number = generation.number if generation else 0
        last = highest.get(write.partition, (0, -1))
        if write.number < last[1]:
            text = f"checkpoint of {write.partition} moves back from {last[1]} to {write.number} by {write.life}"
            yield Violation("5 former owner", write.time, text)
        if number < last[0]:
            text = f"generation {number} ({write.life}) writes the checkpoint of {write.partition} after {last[0]}"
            yield Violation("5 former owner", write.time, text)
        highest[write.partition] = max(number, last[0]), max(write.number, last[1])


def _nothing_starts_after_the_end(facts: Facts) -> Iterable[Violation]:
    """No attempt begins without a generation, nor after its release was being written; after the next one has begun
    only where the owner cannot know: it has read of no newer one, and its lease is valid or its link still up.
    """
    last_life = {event.life: event.at for event in facts.history.of(LifeEvent) if event.what == "stopped"}
    knows = Knowledge(facts.history)
    for attempt in facts.attempts:
        mine = facts.of_attempt[id(attempt)]
        say = partial(Violation, "5 former owner", attempt.time)
        what = f"{attempt.life} begins {attempt.element.uid} at {attempt.sink}"
        if mine is None:
            yield say(f"{what} without a generation")
            continue
        if last_life.get(attempt.life, attempt.at) < attempt.at:
            yield say(f"{what} after it has stopped")
        if any(write.released and write.life == mine.life and write.called_at < attempt.at for write in mine.writes):
            yield say(f"{what} after generation {mine.number} was released")
        newer = [each for each in facts.generations[attempt.partition] if each.number > mine.number]
        if newer and newer[0].began_at < attempt.at:
            if knows.of_newer(attempt, mine.number):
                yield say(f"{what} though it has read of generation {newer[0].number}")
            elif not knows.may_believe(attempt):
                yield say(f"{what} without a lease, in generation {newer[0].number}")


def _released_is_over(facts: Facts) -> Iterable[Violation]:
    """When a generation is released, every attempt of it has ended, or was aborted: so a hand-over doubles nothing."""
    for attempt in facts.attempts:
        mine = facts.of_attempt[id(attempt)]
        for write in mine.saves if mine else ():
            if write.released and attempt.at < write.at and (attempt.ended_at is None or attempt.ended_at > write.at):
                text = f"generation {write.generation} is released while {attempt.element.uid} is at {attempt.sink}"
                yield Violation("5 former owner", write.time, text)


# --- 6. bounded, 7. bad input


def _bounded(facts: Facts) -> Iterable[Violation]:
    limits = dict(facts.history.limits)
    limits["held"] += limits["in_flight"]  # what was in flight is held when it is read again
    for load in facts.history.of(Load):
        if load.what in limits and load.value > limits[load.what] + _ARRAY:
            text = f"{load.what} is {load.value:g} in {load.life}, the limit {limits[load.what]:g}"
            yield Violation("6 bounded", load.time, text)
    tries: dict[tuple[str, str, str], int] = defaultdict(int)
    for attempt in facts.attempts:
        tries[attempt.life, attempt.element.uid, attempt.sink] += 1
        if tries[attempt.life, attempt.element.uid, attempt.sink] == _ATTEMPTS_PER_LIFE:
            yield Violation("6 bounded", attempt.time, f"{attempt.element.uid} is tried for ever at {attempt.sink}")
    yield from _concurrency(facts)


def _no_false_alarm(facts: Facts) -> Iterable[Violation]:
    """Each subject has its partition here, whoever owns that: none may be said to be on several."""
    for load in facts.history.of(Load):
        if load.what == "spread_subjects":
            yield Violation("a false alarm", load.time, f"{load.life} says that subjects are on several partitions")


def _concurrency(facts: Facts) -> Iterable[Violation]:
    changes: dict[tuple[str, str], list[tuple[int, int, float]]] = defaultdict(list)
    for attempt in facts.attempts:
        if attempt.ended_at is not None:
            lane = changes[attempt.life, attempt.sink]
            lane += [(attempt.at, 1, attempt.time), (attempt.ended_at, -1, attempt.time)]
    for (life, sink), lane in changes.items():
        under_way = 0
        for _, change, time in sorted(lane):
            under_way += change
            if under_way > facts.history.limits["concurrency"]:
                yield Violation("6 bounded", time, f"{under_way} attempts at one time at {sink} in {life}")
                break


def _bad_input_is_a_letter(facts: Facts) -> Iterable[Violation]:
    for letter in facts.letters:
        if letter.members:
            continue  # a digest's: it stands for no message
        if letter.reason == CONDEMNED:
            if all(element.uid != facts.history.poison for element in facts.elements_of(letter)):
                text = f"message {letter.partition}/{letter.number} is condemned and kills nobody"
                yield Violation("7 bad input", letter.time, text)
            continue
        bad = all(element.sinks == ("",) for element in facts.elements_of(letter))
        if bad is not (letter.sink == ""):
            text = f"letter of {letter.partition}/{letter.number}/{letter.index} with reason {letter.reason}"
            yield Violation("7 bad input", letter.time, f"{text} and sink {letter.sink!r}")


def _nothing_fails(facts: Facts) -> Iterable[Violation]:
    for event in facts.history.of(LifeEvent):
        if event.what == "failed":
            yield Violation("a bug", event.time, f"{event.life} failed: {event.detail}")
    for error in facts.history.errors:
        yield Violation("a bug", facts.history.virtual_seconds, error)
