"""Creates pipeline jobs with azure-ai-ml: with its generated REST client, and as its users do. Run by a test.

    python azureml_job.py URL NAME EVENT_KEY

The jobs are written by hand, as the vendor's documents say. With the REST client the job has the name, and is asked
for; with the client of users it has the name and -ml behind it.
"""

import sys

import jwt
from azure.ai.ml import Input, MLClient
from azure.ai.ml._restclient.arm_ml_service import MachineLearningServicesMgmtClient, models
from azure.ai.ml.entities import PipelineJob
from azure.core.credentials import AccessToken

from tests.tokens import token_for

SUBSCRIPTION, GROUP, WORKSPACE = "01234567-89ab-cdef-0123-456789abcdef", "ml", "ws"
ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
    f"/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)
COMPONENT, COMPUTE = f"{ID}/components/retrain/versions/3", f"{ID}/computes/cpu"
DATA = "azureml://datastores/ds/paths/e1/"
_FOREVER = 4_000_000_000


class Credential:
    """Gives out tokens that say what they are for; the client of users looks into the one for Azure ML."""

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        if scopes[0] == "https://ml.azure.com/.default":
            return AccessToken(jwt.encode({"aud": "https://ml.azure.com"}, "no secret" * 4), _FOREVER)
        return AccessToken(token_for(scopes[0]), _FOREVER)


def by_rest_client(url: str, name: str, key: str) -> None:
    job = models.PipelineJob(
        component_id=COMPONENT,
        experiment_name="retrain",
        display_name="Retrain after e1",
        inputs={
            "data": models.UriFolderJobInput(uri=DATA, mode="ReadOnlyMount"),
            "rate": models.LiteralJobInput(value="0.1"),
            "rounds": models.LiteralJobInput(value="3"),
            "warm": models.LiteralJobInput(value="True"),
        },
        settings={"default_compute": COMPUTE},
        tags={"reason": "Failed", "eventKey": key},
        properties={"event": "e1"},
    )
    where = {"resource_group_name": GROUP, "workspace_name": WORKSPACE, "id": name}
    more = {"enforce_https": False}  # the loopback speaks http
    with MachineLearningServicesMgmtClient(Credential(), SUBSCRIPTION, base_url=url, retry_total=0) as client:
        client.jobs.create_or_update(**where, body=models.JobBase(properties=job), **more)
        client.jobs.get(**where, **more)


def as_users_do(name: str, key: str) -> None:
    job = PipelineJob(
        component=COMPONENT,
        name=f"{name}-ml",
        experiment_name="retrain",
        display_name="Retrain after e1",
        inputs={
            "data": Input(type="uri_folder", path=DATA, mode="ro_mount"),
            "rate": 0.1,
            "rounds": 3,
            "warm": True,
        },
        tags={"reason": "Failed", "eventKey": key},
        properties={"event": "e1"},
    )
    job.settings.default_compute = "serverless"  # a name would be looked up
    client = MLClient(Credential(), SUBSCRIPTION, GROUP, WORKSPACE, enable_telemetry=False, retry_total=0)
    client.jobs.create_or_update(job, skip_validation=True)


if __name__ == "__main__":
    by_rest_client(*sys.argv[1:])
    as_users_do(*sys.argv[2:])
