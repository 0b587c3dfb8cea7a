"""The settings of a Data Factory sink: what is taken, what is a mistake and how it is said, and what a run is given."""

import orjson
import pytest
from pydantic import ValidationError

from tests.apis.datafactory import FACTORY
from tests.deliveries import ELEMENT, delivery_of
from worker.errors import Rejected
from worker.sinks.datafactory import DataFactorySettings, DataFactorySink
from worker.trial import destination

GOOD = {"name": "adf", "kind": "datafactory", "factory": FACTORY, "pipeline": "retrain"}


def settings_of(**change: object) -> DataFactorySettings:
    return DataFactorySettings.model_validate(GOOD | change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"factory": FACTORY.replace("/resourceGroups/ml/", "/resourcegroups/ML_(1).x-y/").replace("Data", "data")},
        {"pipeline": "Retrain the model (daily)"},
        {"parameters": {"drift": "{{ event.data.driftCoefficient }}", "tags": ["a", {"b": None}], "n": 1}},
        {"event_key_parameter": "idempotencyKey", "parameters": {"eventKey": "mine"}},
        {"on_unknown": "skip"},
        {"management_url": "https://management.chinacloudapi.cn"},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = settings_of(**change)
    assert settings.uses_ledger
    assert settings.needs_identity


def test_an_unknown_outcome_is_asked_for_unless_it_is_said_otherwise():
    assert settings_of().when_unknown == "verify"
    assert settings_of(on_unknown="resend").when_unknown == "resend"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"factory": "contoso-ml"}, ("factory",), "`az datafactory show --query id`"),
        ({"factory": FACTORY + "/pipelines/retrain"}, ("factory",), "is no ARM id of a factory"),
        ({"factory": FACTORY + "\n"}, ("factory",), "is no ARM id of a factory"),
        ({"factory": "https://management.azure.com" + FACTORY}, ("factory",), "is no ARM id of a factory"),
        ({"factory": FACTORY.replace("contoso-ml", "a")}, ("factory",), "is no ARM id of a factory"),
        ({"factory": FACTORY.replace("0000-", "", 1)}, ("factory",), "is no ARM id of a factory"),
        ({"factory": FACTORY.replace("DataFactory", "Synapse")}, ("factory",), "is no ARM id of a factory"),
        ({"factory": FACTORY + "?x=1"}, ("factory",), "is no ARM id of a factory"),
        ({"pipeline": "a/b"}, ("pipeline",), "is no name of a pipeline"),
        ({"pipeline": ""}, ("pipeline",), "is no name of a pipeline"),
        ({"parameters": {"eventKey": "mine"}}, (), "parameters.eventKey: gets the idempotency key from the sink"),
        ({"parameters": {"EVENTKEY": "mine"}}, (), "parameters.EVENTKEY: gets the idempotency key"),
        ({"parameters": {"a": "{{ evnt.id }}"}}, ("parameters", "a"), "did you mean event?"),
        ({"parameters": ["a"]}, ("parameters",), "valid dictionary"),
        ({"event_key_parameter": "event key"}, ("event_key_parameter",), "match pattern"),
        ({"api_version": "2018-06-01&x=1"}, ("api_version",), "match pattern"),
        ({"management_url": "https://management.azure.com/x"}, ("management_url",), "holds a path"),
        ({"pipline": "retrain"}, ("pipline",), "Extra inputs"),
    ],
)
def test_a_mistake_is_told_at_its_place_with_what_to_do(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        settings_of(**change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]


def shown(delivery=None, **change: object) -> tuple[str, dict[str, object]]:
    first, _, rest = DataFactorySink(settings_of(**change)).preview(delivery or delivery_of()).partition("\n")
    return first, orjson.loads(rest)


def test_parameters_keep_their_types_and_the_key_is_added():
    delivery = delivery_of(ELEMENT | {"data": {"Drift": 0.83, "big": True, "runs": [1, {"a": None}]}})
    parameters = {
        "drift": "{{ event.data.drift }}",
        "big": "{{ event.data.big }}",
        "runs": "{{ event.data.runs }}",
        "text": "{{ event.data.drift }} of {{ event.subject }}",
        "fixed": 7,
        "nested": {"list": ["{{ event.id }}"]},
    }
    assert shown(delivery, parameters=parameters) == (
        f"POST {FACTORY}/pipelines/retrain/createRun",
        {
            "drift": 0.83,
            "big": True,
            "runs": [1, {"a": None}],
            "text": "0.83 of experiments/exp/runs/run-1",
            "fixed": 7,
            "nested": {"list": ["e1"]},
            "eventKey": delivery.idempotency_key,
        },
    )


def test_the_parameter_of_the_key_can_be_another():
    delivery = delivery_of()
    _, parameters = shown(delivery, event_key_parameter="idempotencyKey", parameters={"eventKey": "mine"})
    assert parameters == {"eventKey": "mine", "idempotencyKey": delivery.idempotency_key}


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ event.data.missing }}", "parameters.a: "),
        ("{{ 10 ** 30 }}", "JSON cannot hold the value"),
        ("{{ {1: 2} }}", "JSON cannot hold the value"),
        ("{{ [notice] }}", "JSON cannot hold the value"),
    ],
)
def test_what_cannot_be_filled_in_or_written_as_json_is_a_dead_letter(template, reason):
    with pytest.raises(Rejected, match=f"sink out: .*{reason}"):
        shown(parameters={"a": template})


def test_a_trial_says_where_it_goes():
    assert destination(settings_of()) == "management.azure.com"
