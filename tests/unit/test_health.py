from worker.health import Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_is_stale_only_after_it_has_not_moved_for_longer_than_the_limit():
    clock = Clock()
    health = Health(limit_seconds=30, clock=clock)
    health.beat("partition 0")

    clock.now += 30
    assert health.stale() == []
    clock.now += 0.001
    assert health.stale() == ["partition 0"]


def test_a_beat_ends_staleness_and_concerns_its_own_loop_only():
    clock = Clock()
    health = Health(limit_seconds=30, clock=clock)
    health.beat("b")
    health.beat("a")
    clock.now += 31
    assert health.stale() == ["a", "b"]

    health.beat("a")
    assert health.stale() == ["b"]


def test_a_loop_that_ended_as_it_should_is_not_missed():
    clock = Clock()
    health = Health(limit_seconds=30, clock=clock)
    health.beat("a")
    health.forget("a")
    health.forget("never seen")

    assert health.stale(now=clock.now + 3600) == []


def test_it_is_ready_when_every_stated_condition_holds():
    health = Health(limit_seconds=30)
    assert health.not_ready() == {}

    health.set_ready("store", ok=False, detail="no connection")
    health.set_ready("hub", ok=False)
    assert health.not_ready() == {"hub": "", "store": "no connection"}

    health.set_ready("store", ok=True)
    health.set_ready("hub", ok=True, detail="connected")
    assert health.not_ready() == {}


def test_a_note_is_kept_until_it_is_taken_back_and_makes_nothing_unready():
    health = Health(limit_seconds=30)
    health.note("subjects", "seen on two partitions")
    health.note("rules", "refused")
    health.note("rules", "refused again")
    assert health.notes() == {"rules": "refused again", "subjects": "seen on two partitions"}
    assert health.not_ready() == {}

    health.note("rules", "")
    health.note("never said", "")
    assert health.notes() == {"subjects": "seen on two partitions"}
