from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from worker import memory
from worker import state as codec
from worker.duplicates import Verdict
from worker.events import (
    Event,
    Message,
    OrderKey,
    OrderKind,
    PartitionId,
    Placed,
    Position,
    Released,
    Schema,
    Subject,
    UnixSeconds,
)
from worker.judge import Judge, Mark
from worker.progress import Progress
from worker.state import PartitionState

DAY = 86_400.0
WINDOW = 3.0


def placed(
    number: int,
    *,
    key: int,
    subject: str = "s",
    data: str = "1",
    kind: OrderKind = OrderKind.TIME,
    copy_of: int | None = None,
) -> Placed:
    """The event of the message with this number; `copy_of` gives it the duplicate key of another one's."""
    value = f"{key:064x}" if kind is OrderKind.SEQUENCER else f"{key:04d}"
    event = Event(Schema.EVENT_GRID, str(number), "t", "src", subject, None, None, {}, OrderKey(kind, value))
    message = Message(PartitionId("0"), number, str(number), UnixSeconds(float(number)), b"")
    identity = number if copy_of is None else copy_of
    return Placed(event, message, Position(number, 0), identity.to_bytes(16, "big"), data.ljust(32, "0"))


def a_judge() -> Judge:
    return Judge(window_seconds=WINDOW, memory_seconds=DAY)


def saved(judge: Judge, progress: Progress) -> bytes:
    """The partition state, as it is stored."""
    watermark = progress.watermark
    state = PartitionState(
        generation=1,
        owner="a",
        progress=progress.snapshot(),
        **judge.snapshot(watermark.sequence_number if watermark else None),
        memory_since=memory.encode(judge.since(Mark())),
    )
    return codec.encode(state)


def restored(payload: bytes) -> tuple[Judge, Progress]:
    """What a later life knows."""
    state, judge = codec.decode(payload), a_judge()
    judge.restore(state)
    judge.remember(memory.decode(state.memory_since))
    return judge, Progress.restore(state.progress)


def test_a_late_event_that_is_read_again_is_late_by_as_much_as_before():
    judge, progress = a_judge(), Progress()
    for event in (placed(0, key=7), placed(1, key=5)):
        progress.begin(event.position.sequence_number, "0", 1)
        judge.see(event, now=UnixSeconds(float(event.position.sequence_number * 10)))
        late = judge.add(event, now=UnixSeconds(float(event.position.sequence_number * 10)))
        judge.orderer.due(now=UnixSeconds(event.position.sequence_number * 10 + 5.0), at_most=9)
    assert late is not None
    later, _ = restored(saved(judge, progress))

    for event in (placed(0, key=7), placed(1, key=5)):
        later.see(event, now=UnixSeconds(500.0))
    assert later.add(placed(0, key=7), now=UnixSeconds(500.0)) is None
    assert later.add(placed(1, key=5), now=UnixSeconds(500.0)) is None
    after = later.orderer.due(now=UnixSeconds(500.0 + WINDOW), at_most=9)
    assert after == [Released(placed(0, key=7), None), Released(placed(1, key=5), late.late_by_ms)]


def test_what_the_watermark_has_passed_is_not_carried_on():
    """The hub may have dropped a message before it was read again: nothing would ever settle it."""
    judge, progress = a_judge(), Progress()
    progress.begin(0, "0", 1)
    judge.see(placed(0, key=7), now=UnixSeconds(0.0))
    judge.add(placed(0, key=7), now=UnixSeconds(0.0))
    judge.orderer.due(now=UnixSeconds(10.0), at_most=9)
    progress.begin(1, "1", 1)
    judge.see(placed(1, key=1, data="2", copy_of=0), now=UnixSeconds(10.0))
    assert judge.add(placed(1, key=1, data="2", copy_of=0), now=UnixSeconds(10.0)) is not None
    later, _ = restored(saved(judge, progress))

    assert [len(fields) for fields in later.snapshot(0).values()] == [1, 1]
    assert [len(fields) for fields in later.snapshot(1).values()] == [0, 0]


@dataclass
class Life:
    """One process: what it judges, and settles in any order."""

    judge: Judge = field(default_factory=a_judge)
    progress: Progress = field(default_factory=Progress)
    released: dict[int, Placed] = field(default_factory=dict)
    """Not settled, by number."""
    newest: dict[Subject, OrderKey] = field(default_factory=dict)

    def read(self, event: Placed) -> tuple[Verdict, int | None] | None:
        """The verdict, and by how much it is late; None: it was settled before."""
        number, now = event.position.sequence_number, event.message.enqueued_at
        for each in self.judge.orderer.due(now=now, at_most=1_000):
            self.release(each)
        self.progress.begin(number, str(number), 1)
        if self.progress.already_settled(event.position):
            return None
        verdict = self.judge.see(event, now=now)
        if verdict is Verdict.COPY:
            self.progress.settle(event.position)
            return verdict, None
        late = self.judge.add(event, now=now)
        if late is not None:
            self.release(late)
        return verdict, self.judge.orderer.late.get(event.position)

    def release(self, released: Released) -> None:
        """Nothing comes unflagged after a larger one of its subject that this life has released."""
        event = released.placed.event
        key, newest = event.order_key, self.newest.get(event.key, event.order_key)
        assert released.late_by_ms is not None or newest.kind is not key.kind or key >= newest
        self.newest[event.key] = max(key, newest) if newest.kind is key.kind else key
        self.released[released.placed.position.sequence_number] = released.placed

    def settle(self, which: int) -> None:
        if self.released:
            event = self.released.pop(sorted(self.released)[which % len(self.released)])
            self.progress.settle(event.position)
            self.judge.settled(event.position, event.duplicate_key, event.digest)

    @property
    def next(self) -> int:
        watermark = self.progress.watermark
        return watermark.sequence_number + 1 if watermark else 0


kinds = st.sampled_from([OrderKind.TIME, OrderKind.TIME, OrderKind.SEQUENCER])
fresh = st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.sampled_from("12"), kinds)
steps = st.one_of(
    st.just("read"), st.just("read"), st.just("read"), st.integers(0, 9), st.just("save"), st.just("crash")
)


def messages_of(stream: list[tuple[tuple[int, str, str, OrderKind], int]]) -> list[Placed]:
    messages: list[Placed] = []
    for number, ((key, subject, data, kind), back) in enumerate(stream):
        original = messages[number - back] if 0 < back <= number else None
        again = placed(number, key=key, subject=subject, data=data, kind=kind)
        if original is not None:  # the same event once more, with the same data or other
            again = replace(again, event=original.event, duplicate_key=original.duplicate_key)
        messages.append(again)
    return messages


@settings(max_examples=300)
@given(
    st.lists(st.tuples(fresh, st.integers(0, 6)), min_size=5, max_size=25),
    st.lists(steps, min_size=15, max_size=80),
)
def test_no_verdict_that_was_saved_changes_by_being_read_again_whenever_a_process_dies(
    stream: list[tuple[tuple[int, str, str, OrderKind], int]], plan: list[str | int]
):
    messages = messages_of(stream)
    life, verdicts = Life(), dict[int, tuple[Verdict, int | None]]()
    state, stands, at = saved(life.judge, life.progress), dict(verdicts), 0
    for step in plan:
        if step == "read" and at < len(messages):
            verdict = life.read(messages[at])
            if verdict is not None:
                assert stands.get(at, verdict) == verdict
                verdicts[at] = verdict
            at += 1
        elif step == "save":
            state, stands = saved(life.judge, life.progress), dict(verdicts)
        elif step == "crash":
            life = Life(*restored(state))
            verdicts, at = dict(stands), life.next
        elif isinstance(step, int):
            life.settle(step)
