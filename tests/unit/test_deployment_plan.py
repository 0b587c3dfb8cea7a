"""What is done next about a registered model, from how the endpoint looks: the rule, without a server."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.sinks.deployment_plan import Broken, Deploy, Done, Failed, Refuse, Shift, Step, Wait, Wanted, next_step
from worker.sinks.deployment_state import (
    Deployment,
    Endpoint,
    Incomparable,
    Version,
    deployment_name,
    endpoint_body,
    is_newer,
    read_deployment,
    read_endpoint,
)

WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/ws"


def at(second: int) -> str:
    return f"2026-01-01T00:00:{second:02}.0000000Z"


def version(text: str, second: int | None = None) -> Version:
    return Version(text, "" if second is None else at(second))


def serving(text: str, state: str = "Succeeded", **more: Any) -> Deployment:
    """A deployment of the model that a sink of ours has made."""
    name = deployment_name("fraud", text)
    return replace(Deployment(name, state, "fraud", version(text, 1), f"key of {text}", "spec"), **more)


def endpoint(*deployments: Deployment, served: Version | None = None, **more: Any) -> Endpoint:
    nobody = served or Version("", "")
    plain = Endpoint("e", "Succeeded", "west", {}, "fraud" if served else "", nobody, deployments)
    return replace(plain, **more)


def wanted(text: str, *, shift: bool = True, **more: Any) -> Wanted:
    name = deployment_name("fraud", text)
    return replace(Wanted("fraud", version(text, 1), name, f"key of {text}", "spec", shift), **more)


def shifted_to(step: Step) -> str:
    assert isinstance(step, Shift), step
    return step.to.name


# --- which version is newer


def test_whole_numbers_are_compared_as_numbers_whenever_they_were_registered():
    assert is_newer(version("10", 1), version("9", 2))
    assert not is_newer(version("9", 2), version("10", 1))
    assert is_newer(version("10"), version("9"))


def test_other_versions_are_compared_by_when_they_were_registered():
    assert is_newer(version("alpha", 2), version("beta", 1))
    assert is_newer(version("3", 2), version("rc4", 1))
    assert is_newer(version("b", 1), version("a", 1))
    assert not is_newer(version("a", 2), version("a", 1))
    for one, other in ((version("rc1"), version("rc2", 1)), (version("1"), version("rc2", 1))):
        with pytest.raises(Incomparable, match="time of registration"):
            is_newer(one, other)


_VERSIONS = st.builds(version, st.sampled_from(["1", "2", "03", "3", "10", "a", "b", "rc-1"]), st.integers(0, 3))


@given(_VERSIONS, _VERSIONS)
def test_of_two_versions_one_is_newer_and_not_both(one, other):
    assert is_newer(one, other) + is_newer(other, one) == (one.text != other.text)


# --- names


@pytest.mark.parametrize(
    ("model", "text", "name"),
    [
        ("fraud", "4", "fraud-4"),
        ("fraud-scores", "12", "fraud-scores-12"),
        ("Fraud", "4", "fraud-4-"),
        ("fraud_scores", "4", "fraud-scores-4-"),
        ("4cast", "1", "m-4cast-1-"),
        ("模型", "1", "m-1-"),
        ("fraud", "1.0", "fraud-1-0-"),
        ("fraud", "a-b", "fraud-a-b-"),
        ("a" * 40, "7", "a" * 21 + "-7-"),
        ("fraud", "0a1b2c3d", "fraud-0a1b2c3d-"),
    ],
)
def test_a_deployment_is_called_after_model_and_version(model, text, name):
    made = deployment_name(model, text)
    assert made == name if not name.endswith("-") else made.startswith(name) and len(made) == len(name) + 8


_TEXTS = st.text("aB3-_. é", min_size=1, max_size=40)


@given(st.lists(st.tuples(_TEXTS, _TEXTS), min_size=2, max_size=2, unique=True))
def test_every_name_is_legal_and_no_two_versions_have_the_same(pairs):
    names = [deployment_name(*pair) for pair in pairs]
    for name in names:
        assert 3 <= len(name) <= 32
        assert name[0].isalpha()
        assert name[-1] != "-"
        assert "--" not in name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(set(names)) == 2


def test_models_and_versions_that_read_alike_when_they_are_put_together_have_names_of_their_own():
    assert len({deployment_name("a-1", "2"), deployment_name("a", "1-2")}) == 2
    hashed = deployment_name("Fraud", "4")
    model, _, text = hashed.rpartition("-")
    assert deployment_name(model, text) != hashed


# --- the deployment


def test_a_version_that_is_not_there_is_deployed_and_waited_for():
    assert next_step(endpoint(), wanted("4")) == Deploy()
    assert isinstance(next_step(endpoint(serving("4", "Creating")), wanted("4")), Wait)
    assert isinstance(next_step(endpoint(serving("4", "Updating")), wanted("4")), Wait)
    assert isinstance(next_step(endpoint(serving("4", "SomethingNew")), wanted("4")), Wait)
    assert next_step(endpoint(serving("4")), wanted("4", shift=False)) == Done()


@pytest.mark.parametrize("state", ["Creating", "Updating", "Scaling", "Succeeded", "SomethingNew"])
def test_a_newer_version_overtakes_in_every_state_in_which_it_serves_or_will(state):
    step = next_step(endpoint(serving("4", state)), wanted("3", shift=False))
    assert step == Done("overtaken by version 4 (fraud-4)")


@pytest.mark.parametrize("state", ["Failed", "Canceled", "Deleting"])
def test_a_newer_version_that_serves_nobody_and_will_not_overtakes_nothing(state):
    assert next_step(endpoint(serving("4", state)), wanted("3")) == Deploy()


def test_who_was_begun_before_the_newer_one_is_waited_for_so_that_something_serves_should_that_fail():
    both = endpoint(serving("3", "Creating"), serving("4", "Creating"), serving("2"), traffic={"fraud-2": 100})
    assert isinstance(next_step(both, wanted("3")), Wait)
    ready = replace(both, deployments=[serving("3"), serving("4", "Creating"), serving("2")])
    assert shifted_to(next_step(ready, wanted("3"))) == "fraud-3"


def test_a_failure_of_this_delivery_is_final_until_somebody_asks_for_it_again():
    failed = endpoint(serving("4", "Failed"))
    assert isinstance(next_step(failed, wanted("4")), Failed)
    assert next_step(failed, wanted("4", try_again=True)) == Deploy()
    assert next_step(failed, wanted("4", key="key of another event")) == Deploy()


def test_only_its_own_deployment_is_brought_up_to_date_or_two_sinks_would_undo_each_others_for_ever():
    assert next_step(endpoint(serving("4")), wanted("4", spec="new", shift=False)) == Deploy()
    other = endpoint(serving("4", key="key of another sink"))
    assert next_step(other, wanted("4", spec="new", shift=False)) == Done()


def test_a_version_that_somebody_has_deployed_by_hand_is_not_deployed_a_second_time():
    by_hand = serving("4", name="blue", key="", spec="")
    assert shifted_to(next_step(endpoint(by_hand), wanted("4"))) == "blue"
    assert next_step(endpoint(replace(by_hand, state="Failed")), wanted("4")) == Deploy()


def test_a_deployment_that_has_the_name_and_serves_something_else_is_not_overwritten():
    for other in (serving("4", model="other"), serving("4", version=version("3", 1)), serving("4", model=None)):
        step = next_step(endpoint(other), wanted("4", shift=False))
        assert isinstance(step, Refuse)
        assert "not overwritten" in step.why


def test_names_of_deployments_are_the_same_in_any_case():
    written_otherwise = serving("4", name="Fraud-4", model="other")
    assert isinstance(next_step(endpoint(written_otherwise), wanted("4", shift=False)), Refuse)
    live = endpoint(serving("3", name="Fraud-3"), serving("4"), traffic={"FRAUD-3": 100})
    assert shifted_to(next_step(live, wanted("4"))) == "fraud-4"
    assert next_step(replace(live, traffic={"Fraud-4": 100}), wanted("4")) == Done()


def test_where_nobody_can_tell_which_version_is_newer_nothing_is_done_and_that_is_said():
    step = next_step(endpoint(serving("rc1", version=version("rc1"))), wanted("rc2"))
    assert isinstance(step, Refuse)
    assert "nobody can tell which is newer" in step.why


@pytest.mark.parametrize(
    ("state", "step"), [("Updating", Wait), ("Creating", Wait), ("Failed", Broken), ("Deleting", Broken)]
)
def test_an_endpoint_that_is_busy_is_waited_for_and_one_that_is_broken_is_a_matter_for_people(state, step):
    assert isinstance(next_step(endpoint(state=state), wanted("4")), step)
    assert isinstance(next_step(endpoint(serving("4"), state=state), wanted("4")), step)
    assert next_step(endpoint(serving("4"), state=state), wanted("4", shift=False)) == Done()


# --- the traffic


def test_traffic_goes_to_the_newest_version_that_is_ready_whatever_the_event_is_about():
    three = [serving("2"), serving("3"), serving("4", "Creating")]
    for deployments in permutations(three):
        for event in ("2", "3"):
            step = next_step(endpoint(*deployments, traffic={"fraud-2": 100}), wanted(event))
            assert shifted_to(step) == "fraud-3"
    live = endpoint(*three, traffic={"fraud-3": 100})
    assert isinstance(next_step(live, wanted("3")), Done)
    assert isinstance(next_step(replace(live, state="Updating"), wanted("3")), Wait)


def test_an_older_version_whose_event_comes_late_after_its_deployment_was_deleted_changes_nothing():
    live = endpoint(serving("4"), traffic={"fraud-4": 100}, served=version("4", 1))
    assert next_step(live, wanted("3")) == Done("overtaken by version 4 (fraud-4)")


def test_traffic_that_somebody_has_moved_by_hand_stays_there_until_a_newer_version_comes():
    back = endpoint(serving("3"), serving("4"), traffic={"fraud-3": 100}, served=version("4", 1))
    step = next_step(back, wanted("4"))
    assert isinstance(step, Done)
    assert "somebody has moved it" in step.why
    newer = replace(back, deployments=[serving("3"), serving("4"), serving("5")])
    assert shifted_to(next_step(newer, wanted("5"))) == "fraud-5"
    deleted = replace(back, deployments=[serving("3")], traffic={})
    assert isinstance(next_step(deleted, wanted("3")), Done)
    of_another_model = replace(back, served_model="other")
    assert shifted_to(next_step(of_another_model, wanted("4"))) == "fraud-4"


@pytest.mark.parametrize("state", ["Updating", "Scaling", "Failed"])
@pytest.mark.parametrize("served", [None, version("3", 1)])
def test_a_newer_version_that_somebody_gave_the_traffic_keeps_it_also_while_it_is_being_changed(state, served):
    by_hand = serving("5", state, name="Green", key="", spec="")
    live = endpoint(serving("4"), by_hand, traffic={"green": 100}, served=served)
    for event in ("3", "4"):
        assert isinstance(next_step(live, wanted(event)), Done)
    newer = replace(live, deployments=[*live.deployments, serving("6")])
    assert shifted_to(next_step(newer, wanted("6"))) == "fraud-6"


def test_a_share_that_somebody_gave_by_hand_before_this_sink_shifted_anything_becomes_all():
    canary = endpoint(serving("3"), serving("4"), traffic={"fraud-3": 90, "fraud-4": 10}, served=version("3", 1))
    assert shifted_to(next_step(canary, wanted("4"))) == "fraud-4"


def test_traffic_of_another_model_is_not_taken_and_nothing_is_deployed_beside_it():
    for other in (serving("9", model="other"), serving("9", model=None)):
        shared = endpoint(other, traffic={other.name: 100})
        step = next_step(shared, wanted("4"))
        assert isinstance(step, Refuse)
        assert "give each model an endpoint" in step.why
        assert next_step(shared, wanted("4", shift=False)) == Deploy()
    unseen = endpoint(traffic={"gone": 100})
    assert isinstance(next_step(unseen, wanted("4")), Wait)


def test_where_the_order_of_versions_has_a_circle_traffic_stays_where_it_is():
    circle = [serving("4", version=version("4", 1)), serving("rc1", version=version("rc1", 2))]
    circle.append(serving("3", version=version("3", 3)))
    for each in circle:
        own = wanted(each.version.text, version=each.version)
        assert isinstance(next_step(endpoint(*circle, traffic={"fraud-3": 100}), own), Done)


_STATES = st.sampled_from(["Creating", "Updating", "Succeeded", "Failed", "Deleting"])
_FLEETS = st.dictionaries(st.sampled_from(["1", "2", "3", "4"]), _STATES)


@given(_FLEETS, st.sampled_from(["1", "2", "3", "4"]), st.sampled_from(["1", "2", "3", "4", None]))
def test_no_step_takes_traffic_from_a_newer_version_or_deploys_an_older_one_beside_it(fleet, event, live):
    deployments = [serving(text, state) for text, state in fleet.items()]
    has_it = live if live in fleet else None
    now = endpoint(*deployments, traffic={f"fraud-{has_it}": 100} if has_it else {})
    match next_step(now, wanted(event)):
        case Shift(to):
            assert has_it is None or int(to.version.text) > int(has_it)
            assert to.state == "Succeeded"
        case Deploy():
            assert not [
                text for text, state in fleet.items() if text > event and state in {"Creating", "Updating", "Succeeded"}
            ]


# --- as the service shows and takes things


def test_what_a_deployment_serves_stands_in_its_tags_else_in_the_id_of_its_model():
    properties = {"provisioningState": "Succeeded", "model": f"{WORKSPACE.upper()}/models/fraud/versions/4"}
    by_id = read_deployment({"name": "blue", "properties": properties}, WORKSPACE)
    assert (by_id.model, by_id.version) == ("fraud", version("4"))
    tags = {"model": "fraud", "version": "5", "eventTime": "2026-01-01T00:00:01Z", "eventKey": "k", "spec": "s"}
    for model in (
        f"{WORKSPACE}/models/Fraud/versions/5",
        "azureml://locations/west/workspaces/w/models/fraud/versions/5",
    ):
        by_tags = read_deployment(
            {"name": "blue", "tags": tags, "properties": properties | {"model": model}}, WORKSPACE
        )
        assert by_tags == Deployment("blue", "Succeeded", "fraud", version("5", 1), "k", "s")
    changed_by_hand = read_deployment({"name": "blue", "tags": tags, "properties": properties}, WORKSPACE)
    assert changed_by_hand == Deployment("blue", "Succeeded", "fraud", version("4"), "k", "s")
    registry = {"model": "azureml://registries/r/models/fraud/versions/4"}
    assert read_deployment({"name": "blue", "properties": registry}, WORKSPACE).model == registry["model"]
    assert read_deployment({"name": "blue"}, WORKSPACE).model is None


RESOURCE = {
    "id": "/…/e",
    "name": "e",
    "type": "t",
    "location": "west",
    "kind": "Managed",
    "tags": {"team": "ml", "servedModel": "fraud", "servedVersion": "3", "servedEventTime": at(0)},
    "systemData": {"createdAt": at(0)},
    "identity": {
        "type": "UserAssigned",
        "principalId": "p",
        "tenantId": "t",
        "userAssignedIdentities": {"/id": {"principalId": "p", "clientId": "c"}},
    },
    "properties": {
        "authMode": "Key",
        "keys": None,
        "description": "scores",
        "publicNetworkAccess": "Disabled",
        "provisioningState": "Succeeded",
        "scoringUri": "u",
        "swaggerUri": "u",
        "traffic": {"fraud-3": 100, "fraud-2": 0},
        "mirrorTraffic": {"fraud-4": 10, "fraud-2": 5},
        "newerThanThisSink": {"a": 1},
    },
}


def test_the_whole_endpoint_is_put_with_nothing_lost_but_what_only_the_service_writes():
    assert endpoint_body(RESOURCE, serving("4")) == {
        "location": "west",
        "kind": "Managed",
        "tags": {"team": "ml", "servedModel": "fraud", "servedVersion": "4", "servedEventTime": at(1)},
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {"/id": {}}},
        "properties": {
            "authMode": "Key",
            "description": "scores",
            "publicNetworkAccess": "Disabled",
            "traffic": {"fraud-4": 100},
            "mirrorTraffic": {"fraud-2": 5},
            "newerThanThisSink": {"a": 1},
        },
    }


def test_an_endpoint_is_read_with_the_traffic_that_it_gives_and_the_version_that_was_given_it():
    read = read_endpoint("e", RESOURCE, [], WORKSPACE)
    assert (read.state, read.location, read.traffic) == ("Succeeded", "west", {"fraud-3": 100})
    assert (read.served_model, read.served) == ("fraud", version("3", 0))
    assert read_endpoint("e", {}, [], WORKSPACE) == Endpoint("e", "", "", {}, "", Version("", ""), [])
