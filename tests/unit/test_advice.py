"""advice.py: what `worker check` warns of, and that it keeps still about what is right."""

import pytest

from tests.unit.configurations import WORKER, loaded
from worker.advice import warnings

ML = "Microsoft.MachineLearningServices"
RETRAIN = """
  - name: retrain
    kind: github
    repository: octo/models
    workflow: retrain.yml
    token_env: TOKEN
    inputs: {{ what: "{}" }}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(routes: str) -> list[str]:
    config = loaded(WORKER, routes, secrets=False)
    return [str(warning).removeprefix("routes.yaml:") for warning in warnings(config)]


def retrain(template: str, *types: str, more: str = "") -> list[str]:
    named = ", ".join(f"{ML}.{each}" if "." not in each else each for each in types)
    route = f"routes:\n  - {{name: r, filter: {{includedEventTypes: [{named}]}}, sinks: [retrain]}}\n"
    return said(f"sinks:{RETRAIN.format(template)}{more}{route}")


def test_a_good_configuration_has_no_warnings():
    assert warnings(loaded()) == []


def test_a_sink_that_no_route_names_gets_nothing():
    routes = "sinks:\n  - {name: a, kind: log}\n  - {name: archive, kind: log}\nroutes:\n  - {name: r, sinks: [a]}\n"
    assert said(routes) == [
        "3:5: sinks[1]: no route names archive: it gets nothing; name it in a route, or remove it",
    ]


def test_a_route_whose_events_have_all_been_sent_before_does_nothing():
    routes = """\
        sinks: [{name: a, kind: log}, {name: b, kind: log}]
        routes:
          - {name: all, sinks: [a]}
          - {name: failed, filter: {includedEventTypes: [T]}, sinks: [a]}
          - {name: others, filter: {includedEventTypes: [T]}, sinks: [a, b]}
        """
    assert said(routes) == [
        (
            "4:5: routes[1]: it does nothing, because all its events have been sent before: to a by all; put it first, "
            "narrow the other, or remove it"
        )
    ]


def test_a_filter_that_no_event_can_pass_is_told_by_its_key_and_operators():
    routes = """\
        sinks: [{name: a, kind: log}]
        routes:
          - name: none
            sinks: [a]
            filter:
              advancedFilters:
                - {operatorType: NumberGreaterThan, key: data.n, value: 5}
                - {operatorType: NumberLessThan, key: data.n, value: 3}
        """
    assert said(routes) == [
        (
            "5:5: routes[0].filter: no event can pass (data.n: NumberGreaterThan and NumberLessThan exclude each "
            "other); correct one, or use any_of for one or the other"
        )
    ]


def test_a_type_that_azure_ml_does_not_send_is_told_with_the_one_that_was_meant():
    routes = f"""\
        sinks: [{{name: a, kind: log}}]
        routes:
          - name: r
            sinks: [a]
            filter:
              includedEventTypes:
                - {ML}.RunCompletd
                - {ML.lower()}.runstatuschanged
                - Microsoft.Storage.BlobInvented
        """
    assert said(routes) == [
        (
            "7:11: routes[0].filter.includedEventTypes[0]: Azure ML sends no events of this type; did you mean "
            "RunCompleted?"
        )
    ]


def test_a_template_that_fails_for_every_sample_of_its_types_is_told_with_the_reason():
    assert retrain("{{ event.data.runIdd }}", "RunCompleted", "RunStatusChanged") == [
        (
            "2:5: sinks[0]: it fails for each sample of the events that its routes let through (RunStatusChanged, "
            "RunCompleted): inputs.what: there is no runIdd in the event's data; correct the name, or say what "
            'stands for what is missing: {{ … | default("") }}'
        )
    ]


@pytest.mark.parametrize(
    ("template", "types"),
    [
        ("{{ event.data.runId }}", ["RunCompleted"]),
        ("{{ event.data.runStatus }}", ["RunCompleted", "RunStatusChanged"]),
        ("{{ event.data.url }}", ["Microsoft.Storage.BlobCreated"]),
        ("{{ event.data.url }}", []),
        ("{{ event.data.whatever }}", ["Contoso.Things.Happened"]),
    ],
)
def test_a_template_that_works_for_one_sample_or_that_no_sample_is_for_is_not_mentioned(template, types):
    assert retrain(template, *types) == []


def test_a_template_that_only_works_for_digests_is_right_for_a_sink_that_gets_them():
    assert retrain("{{ event.data.count }}", "RunCompleted", more="    quiet: {group_by: []}\n") == []
    assert len(retrain("{{ event.data.count }}", "RunCompleted")) == 1


def test_warnings_stand_in_the_order_of_the_file():
    routes = """\
        sinks: [{name: a, kind: log}, {name: b, kind: log}]
        routes: [{name: x, sinks: [a]}, {name: y, sinks: [a]}]
        """
    assert [warning.partition(": ")[0] for warning in said(routes)] == ["1:31", "2:33"]


KEYS = """\
sinks: [{name: a, kind: log}]
routes:
  - name: r
    sinks: [a]
    filter:
      includedEventTypes: [TYPE]
      advancedFilters: [{operatorType: IsNotNull, key: "KEY"}]
      any_of: [{advancedFilters: [{operatorType: IsNotNull, key: "KEY"}]}]
"""


def test_a_key_of_azures_events_that_lacks_its_data_is_told_wherever_it_stands():
    hint = "key: no event of these types has runStatus beside its data; did you mean data.runStatus?"
    routes = KEYS.replace("TYPE", f"{ML}.RunStatusChanged")
    assert [each.rpartition("].")[2] for each in said(routes.replace("KEY", "runStatus"))] == [hint, hint]
    assert said(routes.replace("KEY", "runStatus"))[0].startswith("7:51: routes[0].filter.advancedFilters[0].key: ")
    assert "has runTags beside its data; did you mean data.runTags?" in said(routes.replace("KEY", "runTags['a.b']"))[0]


@pytest.mark.parametrize("key", ["data.runStatus", "Data.x", "subject", "EVENTTYPE", "source", "dataschema", "['x']"])
def test_a_key_that_an_event_of_azure_may_have_is_not_mentioned(key):
    assert said(KEYS.replace("TYPE", f"{ML}.RunStatusChanged").replace("KEY", key)) == []


def test_other_producers_may_have_attributes_of_their_own():
    assert said(KEYS.replace("TYPE", f"{ML}.RunStatusChanged, Some.Type").replace("KEY", "tenant")) == []
    assert said(KEYS.replace("TYPE", "All").replace("KEY", "tenant")) == []


MISSED = "Worker.ExpectationMissed"
EXPECT = """\
sinks: [{name: a, kind: log}]
routes:
  - {name: r, filter: {includedEventTypes: [TYPE]}, sinks: [a]}
expect:
  - {name: e, after: {includedEventTypes: [A]}, then: THEN, within: 1h}
"""


def test_a_missed_expectation_that_no_route_takes_is_told_to_nobody():
    assert said(EXPECT.replace("TYPE", "Some.Type").replace("THEN", "{}")) == [
        (
            "4:1: expect: no route takes Worker.ExpectationMissed, so that nobody is told of what is missed; name the "
            "type in a route's includedEventTypes"
        )
    ]
    assert said(EXPECT.replace("TYPE", "worker.expectationmissed").replace("THEN", "{}")) == []


def test_a_missed_expectation_whose_source_no_route_names_is_told_to_nobody():
    routes = EXPECT.replace("TYPE", "Worker.ExpectationMissed").replace("THEN", "{}")
    assert said(routes.replace("sinks: [a]}", "sinks: [a], sources: [/some]}")) == [
        (
            "4:1: expect: no route takes Worker.ExpectationMissed, so that nobody is told of what is missed; name "
            "/worker/ml-events/$Default in the `sources` of r, or remove them"
        )
    ]
    assert said(routes.replace("sinks: [a]}", "sinks: [a], sources: [/Worker/ml-events/$default/]}")) == []


@pytest.mark.parametrize("key", ["after", "then"])
def test_an_expectation_of_what_the_worker_says_itself_is_in_vain(key):
    routes = EXPECT.replace("TYPE", "Worker.ExpectationMissed").replace("THEN", "{includedEventTypes: [A]}")
    [found] = said(routes.replace(f"{key}: {{includedEventTypes: [A]}}", f"{key}: {{includedEventTypes: [{MISSED}]}}"))
    assert f"expect[0].{key}: no event can pass: no expectation looks at {MISSED}; name another type" in found


def test_an_expectation_that_no_event_can_begin_or_meet_is_told():
    one, other = (f"{{operatorType: StringIn, key: subject, values: [{value}]}}" for value in "ab")
    never = f"{{advancedFilters: [{one}, {other}]}}"
    found = said(EXPECT.replace("TYPE", "Worker.ExpectationMissed").replace("THEN", never))
    assert found == [
        (
            "5:49: expect[0].then: no event can pass (subject: StringIn and StringIn exclude each other); correct one, "
            "or use any_of for one or the other"
        )
    ]
    typed = said(
        EXPECT.replace("TYPE", "Worker.ExpectationMissed").replace(
            "THEN", f"{{includedEventTypes: [{ML}.RunComplete]}}"
        )
    )
    assert "expect[0].then.includedEventTypes[0]: Azure ML sends no events of this type; did you mean" in typed[0]


@pytest.mark.parametrize("correlate", ["data.modelName", "{after: '{{ event.subject }}', then: data.modelName}"])
def test_a_key_that_is_the_same_for_all_events_is_told_once(correlate):
    routes = EXPECT.replace("TYPE", MISSED).replace("THEN", "{}")
    assert [
        each.partition("expect[0].")[2] for each in said(routes.replace("1h}", f"1h, correlate: {correlate}}}"))
    ] == ['correlate: data.modelName is no template, so that all events have one key; write "{{ event.data.… }}"']
    assert said(routes.replace("1h}", "1h, correlate: '{{ event.data.modelName }}'}")) == []


# --- only and changed


def options(route: str, *, before: str = "", worker: str = WORKER) -> list[str]:
    routes = (
        f"sinks: [{{name: a, kind: log}}, {{name: b, kind: log}}]\nroutes:\n{before}  - name: r\n    sinks: [a, b]\n"
    )
    config = loaded(worker, routes + route, secrets=False)
    return [str(warning).removeprefix("routes.yaml:") for warning in warnings(config)]


LATE = (
    "an older event that comes late is delivered all the same, after a newer one; add late: drop, or late: dead_letter"
)


def test_the_newest_alone_and_late_ones_too_is_a_contradiction():
    assert options("    only: latest\n") == [f"5:5: routes[0].only: {LATE}"]
    assert options("    changed: etag\n") == [f"5:5: routes[0].changed: {LATE}"]
    assert options("    only: latest\n    changed: etag\n    late: dead_letter\n") == []
    assert options("    changed: etag\n", worker=f"{WORKER}order: {{late: drop}}\n") == []


def test_where_nothing_waits_little_is_released_together():
    [warning] = options("    only: latest\n    late: drop\n", worker=f"{WORKER}order: {{window_seconds: 0}}\n")
    assert warning == (
        "5:5: routes[0].only: with order.window_seconds: 0 no event waits, and only those of one message are released "
        "together; give it a window"
    )


def test_an_option_means_nothing_at_a_sink_that_has_the_events_by_an_earlier_route():
    [warning] = options("    only: latest\n    late: drop\n", before="  - {name: all, sinks: [a]}\n")
    assert warning == (
        "6:5: routes[1].only: it means nothing at a, because all sends all these events there before; put it first"
    )


def test_what_can_never_be_unchanged_is_said():
    types = f"    filter: {{includedEventTypes: [{ML}.RunCompleted]}}\n"
    assert options(f"{types}    changed: etag\n    late: drop\n") == [
        (
            "6:5: routes[0].changed: events of Azure ML have no etag, so that none is unchanged; name another key, or "
            "remove it"
        )
    ]
    assert options(f"{types}    changed: data.runStatus\n    late: drop\n") == []
    assert options("    changed: data.Sequencer\n    late: drop\n") == [
        "5:5: routes[0].changed: each event has another sequencer, so that none is unchanged; write etag"
    ]
