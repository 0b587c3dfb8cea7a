"""What an event about a registered model asks of an online endpoint, computed from what the endpoint looks like now.

Pure: no request, no clock. `next_step` says the one thing to do next, and says it again whenever it is asked about the
same endpoint: nothing of what was done before is remembered here. Whoever asks makes the change, and looks again.
"""

from dataclasses import dataclass

from worker.sinks.deployment_state import (
    GIVEN_UP,
    GONE,
    SUCCEEDED,
    Deployment,
    Endpoint,
    Incomparable,
    Version,
    is_newer,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a delivery asks for."""

    model: str
    version: Version
    name: str
    key: str
    spec: str
    shift_traffic: bool
    try_again: bool = False
    """An operator asks for it again, and nothing was done about that yet."""


# --- steps


@dataclass(frozen=True, slots=True)
class Done:
    """There is nothing to do; `why` where that is not what one would expect."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """The service is at work: look again later."""

    why: str


@dataclass(frozen=True, slots=True)
class Deploy:
    """Create the deployment, or put it anew."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Give all traffic to this deployment."""

    to: Deployment


@dataclass(frozen=True, slots=True)
class Failed:
    """The service could not make the deployment of this delivery."""

    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The event must not be carried out."""

    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing can be done on the endpoint before somebody repairs it."""

    why: str


Step = Done | Wait | Deploy | Shift | Failed | Refuse | Broken


def next_step(endpoint: Endpoint, wanted: Wanted) -> Step:
    """What is to be done next about the delivery."""
    try:
        return _other_models(endpoint, wanted) or _deployment_step(endpoint, wanted) or _traffic_step(endpoint, wanted)
    except Incomparable as error:
        return Refuse(f"endpoint {endpoint.name}, model {wanted.model}: {error}; delete one of their deployments")


def _other_models(endpoint: Endpoint, wanted: Wanted) -> Step | None:
    """Traffic that is not this model's is nobody's to take."""
    if not wanted.shift_traffic:
        return None
    known = {each.name.lower(): each for each in endpoint.deployments}
    for name in endpoint.traffic:
        other = known.get(name.lower())
        if other is None:
            return Wait(f"endpoint {endpoint.name} gives traffic to {name}, which is not among its deployments")
        if other.model != wanted.model:
            return Refuse(
                f"endpoint {endpoint.name} gives traffic to {name}, a deployment of {_model(other)}, and shift_traffic "
                f"would take it away for {wanted.model}; give each model an endpoint, or remove shift_traffic"
            )
    return None


def _deployment_step(endpoint: Endpoint, wanted: Wanted) -> Step | None:
    """What is to be done about the deployment; None when it is as it should be."""
    mine = _existing(endpoint, wanted)
    if mine is not None and (mine.model, mine.version.text) != (wanted.model, wanted.version.text):
        return Refuse(
            f"endpoint {endpoint.name} has a deployment {mine.name} already, of {_model(mine)}: it is not "
            f"overwritten with version {wanted.version.text} of {wanted.model}; delete it, or use another endpoint"
        )
    if mine is not None and mine.state not in {SUCCEEDED, *GIVEN_UP}:
        return Wait(f"deployment {mine.name} is {mine.state}")
    if _overtaker(endpoint, wanted) is not None:
        return None
    if mine is None:
        return _if_free(endpoint, Deploy())
    if mine.state in GIVEN_UP and mine.key == wanted.key and not wanted.try_again:
        return Failed(f"deployment {mine.name} is {mine.state}")
    # Of those that succeeded only the one of this very delivery is brought up to date: two sinks that disagree would do
    # it to each other for ever, and whoever changed a deployment by hand would find that undone.
    outdated = mine.key == wanted.key and mine.spec != wanted.spec
    return _if_free(endpoint, Deploy()) if mine.state in GIVEN_UP or outdated else None


def _traffic_step(endpoint: Endpoint, wanted: Wanted) -> Step:
    overtaker = _overtaker(endpoint, wanted)
    why = f"overtaken by version {overtaker.version.text} ({overtaker.name})" if overtaker else ""
    newest = _newest_ready(endpoint, wanted) if wanted.shift_traffic else None
    if newest is None:
        return Done(why)
    if {name.lower(): share for name, share in endpoint.traffic.items()} == {newest.name.lower(): 100}:
        return Done(why) if endpoint.state == SUCCEEDED else _if_free(endpoint, Done(why))
    if (live := _newer_with_traffic(endpoint, newest)) is not None:
        return Done(f"version {live.version.text} ({live.name}) is {live.state} and has traffic, which it keeps")
    free = _if_free(endpoint, Shift(newest))
    if (
        isinstance(free, Shift)
        and endpoint.served_model == wanted.model
        and not is_newer(newest.version, endpoint.served)
    ):
        return Done(
            f"version {endpoint.served.text} was given the traffic before, and somebody has moved it since: it is left "
            "where it is"
        )
    return free


def _if_free(endpoint: Endpoint, step: Done | Deploy | Shift) -> Step:
    """The step, unless the endpoint cannot be changed now."""
    if endpoint.state == SUCCEEDED:
        return step
    if endpoint.state in GONE:
        return Broken(f"endpoint {endpoint.name} is {endpoint.state}: repair it, or create it anew")
    return Wait(f"endpoint {endpoint.name} is {endpoint.state}")


def _existing(endpoint: Endpoint, wanted: Wanted) -> Deployment | None:
    """The deployment of this version: the one that has our name, else one that somebody made under another."""
    for each in endpoint.deployments:
        if each.name.lower() == wanted.name:
            return each
    same = (each for each in _living(endpoint, wanted) if each.version.text == wanted.version.text)
    return next(same, None)


def _overtaker(endpoint: Endpoint, wanted: Wanted) -> Deployment | None:
    return next((each for each in _living(endpoint, wanted) if is_newer(each.version, wanted.version)), None)


def _newest_ready(endpoint: Endpoint, wanted: Wanted) -> Deployment | None:
    """The newest version of the model that can be given traffic; of two deployments of it, the one that has some.

    Where the order of versions has a circle (numbers by number, others by time), there is none.
    """
    ready = [each for each in _living(endpoint, wanted) if each.state == SUCCEEDED]
    newest = [each for each in ready if not any(is_newer(other.version, each.version) for other in ready)]
    traffic = {name.lower(): share for name, share in endpoint.traffic.items()}
    return min(newest, key=lambda each: (-traffic.get(each.name.lower(), 0), each.name), default=None)


def _newer_with_traffic(endpoint: Endpoint, newest: Deployment) -> Deployment | None:
    """One that has traffic and is not ready now, as while somebody changes it: it may serve on."""
    traffic = {name.lower() for name in endpoint.traffic}
    live = (each for each in endpoint.deployments if each.name.lower() in traffic)
    return next((each for each in live if is_newer(each.version, newest.version)), None)


def _living(endpoint: Endpoint, wanted: Wanted) -> list[Deployment]:
    return [each for each in endpoint.deployments if each.model == wanted.model and not each.is_gone]


def _model(deployment: Deployment) -> str:
    if deployment.model is None:
        return "an unknown model"
    return f"model {deployment.model}, version {deployment.version.text}"
