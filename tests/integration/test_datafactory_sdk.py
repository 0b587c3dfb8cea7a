"""What our sink sends, compared field by field with what the vendor's own client sends for the same run."""

from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from tests.api_service import Asked, served
from tests.apis.datafactory import FACTORY, DataFactory, Parameter
from tests.deliveries import delivery_of
from tests.integration.datafactory import Clock, opened, settings_for
from tests.sdk import run_sdk

DELIVERY = delivery_of()
_, _, SUBSCRIPTION, _, GROUP, _, _, _, NAME = FACTORY.split("/")
PARAMETERS = {"drift": 0.83, "tags": ["a", {"b": None}], "note": "{{ event.data.note }}"}

ONLY_THEIRS = {
    "x-ms-client-request-id",  # random: for who asks the vendor about one request
}
DIFFERENT = {
    "accept-encoding",  # an answer is read as it comes
    "content-length",  # of JSON with other white space
    "user-agent",
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock) -> AsyncIterator[DataFactory]:
    service = DataFactory(clock)
    service.page_size = 1
    declared = {"drift": Parameter("Float"), "tags": Parameter("Array"), "note": Parameter(), "eventKey": Parameter()}
    service.pipelines = {"retrain": declared, "Retrain the model (daily)": declared}
    async with served(service):
        yield service


@pytest.mark.parametrize("pipeline", ["retrain", "Retrain the model (daily)"])
async def test_the_requests_are_those_that_the_vendors_client_makes(service, clock, tmp_path, pipeline):
    values = {"drift": 0.83, "tags": [], "note": "", "eventKey": "f" * 64}
    service.start(pipeline, values)
    clock.now += 1
    async with opened(settings_for(service, pipeline=pipeline, parameters=PARAMETERS), clock) as sink:
        await sink.deliver(DELIVERY)
        service.runs[-1].started_at -= 10  # so that it stands on the second page
        assert await sink.verify(DELIVERY) is True
    ours, service.asked[:], service.runs[1:] = list(service.asked), [], []
    window = [ours[1].body[name] for name in ("lastUpdatedAfter", "lastUpdatedBefore")]
    await run_sdk(
        "datafactory.py",
        *(service.url, SUBSCRIPTION, GROUP, NAME, pipeline, DELIVERY.idempotency_key, *window),
        folder=tmp_path,
    )

    theirs = service.asked
    assert [each.path.rpartition("/")[2] for each in ours] == ["createRun", "queryPipelineRuns", "queryPipelineRuns"]
    assert len(ours) == len(theirs)
    for our_request, their_request in zip(ours, theirs, strict=True):
        _compare(our_request, their_request)


def _compare(ours: Asked, theirs: Asked) -> None:
    assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    assert _with_times(ours.body) == _with_times(theirs.body)
    assert theirs.headers.keys() - ours.headers.keys() <= ONLY_THEIRS | {"connection"}
    assert ours.headers.keys() - theirs.headers.keys() <= {"connection"}
    same = ours.headers.keys() & theirs.headers.keys() - DIFFERENT - {"connection"}
    assert {name: ours.headers[name] for name in same} == {name: theirs.headers[name] for name in same}
    assert {"authorization", "content-type", "accept", "host"} <= same


def _with_times(body: dict[str, object]) -> dict[str, object]:
    """The same time may be written with more digits or fewer, and is always in UTC."""
    times = {name: value for name, value in body.items() if name.startswith("lastUpdated")}
    assert all(str(value).endswith("Z") for value in times.values())
    return body | {name: datetime.fromisoformat(str(value)) for name, value in times.items()}
