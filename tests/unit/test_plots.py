"""An hour of samples as points of drawings."""

from hypothesis import given
from hypothesis import strategies as st

from worker.plots import HEIGHT, SAMPLE_SECONDS, SPAN_SECONDS, WIDTH, Plot, Sample, plots

NOW = 10_000.0


def sample(at: float, value: float | None = 1.0, delivered: float = 0.0) -> Sample:
    return Sample(at, value, value, delivered, value)


def lag_of(*samples: Sample, now: float = NOW) -> Plot:
    return plots(samples, now)[0]


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


def test_now_is_on_the_right_an_hour_ago_on_the_left_and_nothing_is_at_the_bottom():
    between = [sample(NOW - SPAN_SECONDS + n * SAMPLE_SECONDS, 0.0) for n in range(240)]
    plot = lag_of(*between, sample(NOW, 10.0))

    [line] = plot.lines
    assert points(line)[0] == (0, HEIGHT)
    assert points(line)[-1] == (WIDTH, 0)
    assert (plot.now, plot.highest, plot.top) == (10, 10, 10)


def test_what_is_older_than_an_hour_is_not_drawn():
    plot = lag_of(sample(NOW - SPAN_SECONDS - 1, 900.0), sample(NOW - 15, 3.0), sample(NOW, 4.0))

    assert (plot.highest, plot.top) == (4, 5)
    assert len(points(plot.lines[0])) == 2


def test_a_gap_stays_a_gap():
    known = [sample(NOW - 90), sample(NOW - 75)]
    assert len(lag_of(*known, sample(NOW - 60, None), sample(NOW - 45), sample(NOW - 30)).lines) == 2
    assert len(lag_of(*known, sample(NOW - 15), sample(NOW)).lines) == 2, "the process hung, or slept, for a minute"


def test_one_sample_is_seen_too():
    [line] = lag_of(sample(NOW)).lines
    assert len(points(line)) == 2


def test_nothing_known_is_no_line_and_no_number():
    for known in ((), (sample(NOW, None),)):
        plot = lag_of(*known)
        assert (plot.now, plot.highest, plot.lines) == (None, None, ())


def test_deliveries_are_told_per_minute():
    seen = [sample(NOW - 30, delivered=100), sample(NOW - 15, delivered=130), sample(NOW, delivered=131)]
    plot = plots(seen, NOW)[2]
    assert (plot.unit, plot.now, plot.highest) == ("per minute", 4, 120)


@given(
    st.lists(st.tuples(st.floats(1, 60), st.none() | st.floats(-10, 1e15), st.floats(0, 1e6))),
    st.floats(0, 5000),
)
def test_every_point_is_inside_the_drawing(steps, later):
    at, delivered, samples = 0.0, 0.0, []
    for seconds, value, more in steps:
        at, delivered = at + seconds, delivered + more
        samples.append(sample(at, value, delivered))

    for plot in plots(samples, at + later):
        for line in plot.lines:
            for x, y in points(line):
                assert -2 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
        assert plot.highest is None or plot.highest <= plot.top * (1 + 1e-9)
