"""datafactory_runs.py: what is asked about runs, and when runs say that one is ours, that none is, or nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sinks.datafactory_runs import Trace, Window, question, runs_of, traces_in, verdict

KEY, OTHER = "a" * 64, "b" * 64
NOW = 1_700_000_000.0
WINDOW = Window.since(NOW - 3600, NOW)


def run(shown: Any = KEY, **more: Any) -> dict[str, Any]:
    parameters = {} if shown is None else {"eventKey": shown}
    started = {"runStart": "2023-11-14T22:00:00.1234567Z", "invokedBy": {"name": "Manual", "invokedByType": "Manual"}}
    return {"runId": "r", "status": "Succeeded", "parameters": parameters, **started, **more}


def triggered(shown: Any) -> dict[str, Any]:
    return run(shown, invokedBy={"name": "nightly", "invokedByType": "ScheduleTrigger"})


BEFORE = "2023-11-14T21:08:19Z"
"""A second before the window begins."""


def decided(*runs: Any, parameter: str = "eventKey") -> bool | None:
    return verdict(traces_in(runs, key=KEY, parameter=parameter, window=WINDOW))


@pytest.mark.parametrize("status", ["Queued", "InProgress", "Succeeded", "Failed", "Canceling", "Cancelled"])
def test_a_run_with_the_key_was_started_however_it_stands(status):
    assert decided(run(OTHER), run(status=status), run(None)) is True


def test_a_rerun_has_the_key_of_the_run_before_it():
    assert decided(run(runGroupId="another", isLatest=False), run()) is True
    assert decided(run(OTHER, runGroupId="another")) is False


def test_the_name_of_the_parameter_is_found_in_any_case():
    assert decided(run(), parameter="EventKey") is True
    assert decided(run(), parameter="other") is None


@pytest.mark.parametrize(
    "runs",
    [
        (),
        (run(OTHER),),
        (run(OTHER), triggered(None), triggered("")),
        (triggered(""),),
        (triggered("by hand"),),
        (run(OTHER), run(None, runStart=BEFORE)),
        (run(OTHER), run("", runStart=BEFORE)),
    ],
)
def test_it_was_not_started_where_every_run_is_anothers_and_the_pipeline_has_the_parameter(runs):
    assert decided(*runs) is False


@pytest.mark.parametrize(
    "runs",
    [
        (run(None),),
        (run(OTHER), run(None)),
        (run(OTHER), run("")),
        (run(OTHER), run("*****")),
        (run(OTHER), run(KEY.upper())),
        (run(OTHER), run(None, runStart=None)),
        (run(OTHER), run(None, runStart="soon")),
        (run(OTHER), run(None, invokedBy=None)),
        (run(OTHER), run(None, invokedBy={"name": "Manual"})),
        (run(OTHER), run(parameters=None)),
        (run(OTHER), "a run"),
        (triggered(None),),
        (run(None, runStart=BEFORE),),
    ],
)
def test_nothing_is_told_by_runs_that_may_be_ours_and_show_no_key_or_of_a_pipeline_without_the_parameter(runs):
    assert decided(*runs) is None


def test_it_asks_for_all_runs_of_the_pipeline_since_the_event_came_in_an_order_that_stays():
    assert question("retrain", WINDOW, None) == {
        "lastUpdatedAfter": "2023-11-14T21:13:20.000Z",
        "lastUpdatedBefore": "2023-11-15T22:13:20.000Z",
        "filters": [{"operand": "PipelineName", "operator": "Equals", "values": ["retrain"]}],
        "orderBy": [{"orderBy": "RunStart", "order": "DESC"}],
    }
    assert question("retrain", WINDOW, "next")["continuationToken"] == "next"
    assert "filters" not in question(None, WINDOW, None)


def test_a_run_is_of_the_pipeline_in_any_case_and_one_without_a_name_may_be():
    runs = [run(pipelineName="ReTrain"), run(pipelineName="retrain-all"), run(), "a run"]
    assert runs_of("retrain", runs) == [runs[0], *runs[2:]]


def test_a_window_knows_whether_all_of_it_is_remembered():
    day = 86_400
    assert Window.since(NOW - 44 * day, NOW).is_remembered
    assert not Window.since(NOW - 45 * day, NOW).is_remembered
    assert Window.since(0.0, NOW).begins == 0.0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(
            st.sampled_from(["parameters", "eventKey", "invokedBy", "invokedByType", "name", "runStart"]),
            each,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(st.lists(JSON, max_size=4))
def test_whatever_is_listed_beside_it_ours_is_seen_and_what_is_no_run_is_never_taken_for_anothers(listed):
    assert decided(*listed, run()) is True
    traces = traces_in(listed, key=KEY, parameter="eventKey", window=WINDOW)
    assert Trace.HIDDEN in traces or all(isinstance(each, dict) for each in listed)
