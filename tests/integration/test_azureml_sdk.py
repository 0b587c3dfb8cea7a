"""What our sinks send, compared field by field with what the vendor's own clients send for the same jobs.

The jobs of the vendor's side are written by hand in `tests/sdk`, not made by our code.
"""

from pathlib import Path
from typing import Any

from tests.api_service import Asked
from tests.apis.azureml import COMPONENT, COMPUTE, WORKSPACE, AzureMl, azureml
from tests.deliveries import delivery_of
from tests.sdk import run_sdk
from tests.tokens import FakeCredential
from worker.identity import Tokens
from worker.sinks.azureml_batch import AzureMlBatchSettings, AzureMlBatchSink
from worker.sinks.azureml_job import AzureMlJobSettings, AzureMlJobSink
from worker.sinks.rest import short_key

DELIVERY = delivery_of()
NAME, KEY = short_key(DELIVERY), DELIVERY.idempotency_key

ONLY_THEIRS = {
    "connection",
    "x-ms-client-request-id",  # random: for who asks the vendor about one request
}
DIFFERENT = {
    "accept-encoding",  # an answer is read as it comes
    "content-length",  # of JSON with other white space
    "user-agent",
}
LOCAL = "AZUREML_DEV_URL_MFE"
"""Where azure-ai-ml looks for another Resource Manager."""


async def our_job(service: AzureMl, **change: Any) -> None:
    settings = AzureMlJobSettings.model_validate(
        {
            "name": "out",
            "management_url": service.url,
            "scope": "https://management.azure.com/.default",
            "workspace": WORKSPACE,
            "component": COMPONENT,
            "experiment": "retrain",
            "display_name": "Retrain after {{ event.id }}",
            "inputs": {
                "data": {
                    "type": "uri_folder",
                    "uri": "azureml://datastores/ds/paths/{{ event.id }}/",
                    "mode": "ro_mount",
                },
                "rate": 0.1,
                "rounds": "{{ 1 + 2 }}",
                "warm": True,
            },
            "compute": COMPUTE,
            "tags": {"reason": "{{ event.data.runStatus }}"},
            "properties": {"event": "{{ event.id }}"},
            **change,
        }
    )
    sink = AzureMlJobSink(settings, Tokens(FakeCredential()))
    await sink.open()
    try:
        await sink.deliver(DELIVERY)
    finally:
        await sink.aclose()


async def test_the_requests_are_those_that_the_vendors_rest_client_makes(tmp_path: Path):
    async with azureml() as service:
        await run_sdk("azureml_job.py", service.url, NAME, KEY, folder=tmp_path, **{LOCAL: service.url})
        await our_job(service)
        await our_job(service, experiment="another")  # is refused, and followed by the question

        theirs, their_question, _, ours, _, our_question = service.asked
        assert (theirs.method, their_question.method) == ("PUT", "GET")
        _compare(ours, theirs)
        assert ours.body == theirs.body
        _compare(our_question, their_question)
        # The service takes one for a repetition of the other.
        assert service.started == [NAME, f"{NAME}-ml"]


async def test_the_job_is_the_one_that_users_of_the_vendors_client_get(tmp_path: Path):
    async with azureml() as service:
        await run_sdk("azureml_job.py", service.url, NAME, KEY, folder=tmp_path, **{LOCAL: service.url})
        await our_job(service)

        *_, theirs, ours = service.asked
        assert theirs.path == f"{ours.path}-ml"
        # The client of users keeps to an older version for jobs of this type.
        assert (theirs.query, ours.query) == ({"api-version": "2024-01-01-preview"}, {"api-version": "2025-12-01"})
        # With this token a step may do what its user may do: a worker has none, its jobs run as their compute.
        assert theirs.headers.keys() - ours.headers.keys() == ONLY_THEIRS | {"x-azureml-token"}
        their_job, our_job_ = theirs.body["properties"], ours.body["properties"]
        # They say what is so without being said; `_source` is for the vendor's statistics.
        assert {name: their_job.pop(name) for name in ("jobs", "outputs", "isArchived")} == {
            "jobs": {},
            "outputs": {},
            "isArchived": False,
        }
        assert their_job.pop("settings").keys() == {"default_compute", "_source"}
        assert our_job_.pop("settings").keys() == {"default_compute"}
        assert our_job_ == their_job


async def test_a_batch_endpoint_is_asked_as_the_vendors_client_asks(tmp_path: Path):
    async with azureml() as service:
        await run_sdk("azureml_batch.py", folder=tmp_path, **{LOCAL: service.url})
        settings = AzureMlBatchSettings.model_validate(
            {
                "name": "out",
                "endpoint_url": service.endpoint_url,
                "deployment": "pipeline",
                "experiment": "scoring",
                "inputs": {
                    "data": {"type": "uri_folder", "uri": "https://account.blob.core.windows.net/c/{{ event.id }}"},
                    "mode": "append",
                    "rounds": 3,
                },
                "outputs": {
                    "score": {"type": "uri_file", "uri": "azureml://datastores/ds/paths/{{ event.id }}/out.csv"}
                },
            }
        )
        sink = AzureMlBatchSink(settings, Tokens(FakeCredential()))
        await sink.open()
        try:
            await sink.deliver(DELIVERY)
        finally:
            await sink.aclose()

        *_, theirs, ours = service.asked
        _compare(
            ours,
            theirs,
            only_theirs=frozenset(
                {"repeatability_request-id"}
            ),  # undocumented, and random: it makes no two requests one
            different=frozenset({"accept"}),  # theirs takes anything
        )
        # The documents write names with a capital, the client does not; the service takes both.
        one, other = service.batch_jobs
        assert one["deployment"] == other["deployment"] == "pipeline"
        assert one["properties"] == other["properties"]
        assert one["name"] != other["name"]


def _compare(
    ours: Asked, theirs: Asked, only_theirs: frozenset[str] = frozenset(), different: frozenset[str] = frozenset()
) -> None:
    assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    assert theirs.headers.keys() - ours.headers.keys() <= ONLY_THEIRS | only_theirs
    assert ours.headers.keys() - theirs.headers.keys() == set()
    same = ours.headers.keys() - DIFFERENT - different
    assert {name: ours.headers[name] for name in same} == {name: theirs.headers[name] for name in same}
    assert {"authorization", "host"} <= same
