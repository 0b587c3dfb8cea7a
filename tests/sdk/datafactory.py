"""Starts a run of a pipeline and looks for runs with azure-mgmt-datafactory: as its documents say, by hand.

python tests/sdk/datafactory.py URL SUBSCRIPTION RESOURCE_GROUP FACTORY PIPELINE KEY AFTER BEFORE
"""

import sys
from datetime import datetime

from azure.core.credentials import AccessToken
from azure.mgmt.datafactory import DataFactoryManagementClient
from azure.mgmt.datafactory.models import RunFilterParameters, RunQueryFilter, RunQueryOrderBy

from tests.tokens import token_for

URL, SUBSCRIPTION, GROUP, FACTORY, PIPELINE, KEY, AFTER, BEFORE = sys.argv[1:]
LOOPBACK = {"enforce_https": False}
"""Which speaks http."""


class Credential:
    def get_token(self, *scopes: str, **_more: object) -> AccessToken:
        return AccessToken(token_for(scopes[0]), 4_000_000_000)


# Without retry_total=0 the client sends a POST up to four times.
with DataFactoryManagementClient(Credential(), SUBSCRIPTION, base_url=URL, retry_total=0) as client:
    parameters = {"drift": 0.83, "tags": ["a", {"b": None}], "note": "naïve ☃", "eventKey": KEY}
    run = client.pipelines.create_run(GROUP, FACTORY, PIPELINE, parameters=parameters, **LOOPBACK)
    assert run.run_id
    question = RunFilterParameters(
        last_updated_after=datetime.fromisoformat(AFTER),
        last_updated_before=datetime.fromisoformat(BEFORE),
        filters=[RunQueryFilter(operand="PipelineName", operator="Equals", values_property=[PIPELINE])],
        order_by=[RunQueryOrderBy(order_by="RunStart", order="DESC")],
    )
    runs = []
    while not runs or question.continuation_token:
        page = client.pipeline_runs.query_by_factory(GROUP, FACTORY, question, **LOOPBACK)
        runs += page.value
        question.continuation_token = page.continuation_token
    assert KEY in [each.parameters["eventKey"] for each in runs]
    assert {each.status for each in runs} == {"Queued"}
