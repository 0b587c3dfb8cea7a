"""Creates an online deployment with azure-ai-ml and gives it the traffic, as its users do. Run by a test.

    python azureml_deployment.py URL NAME TAGS

The deployment is written by hand, as the vendor's documents say, and turned into a request by the client of users; the
requests are made by the generated REST client, which does not wait for the service here. TAGS are JSON.
"""

import json
import sys

from azure.ai.ml._restclient.arm_ml_service import MachineLearningServicesMgmtClient
from azure.ai.ml.entities import CodeConfiguration, ManagedOnlineDeployment
from azure.ai.ml.entities._endpoint.online_endpoint import OnlineEndpoint
from azure.core.credentials import AccessToken

from tests.tokens import token_for

SUBSCRIPTION, GROUP, WORKSPACE = "00000000-0000-0000-0000-000000000001", "ml", "team-ml"
ID = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
    f"/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)
ENDPOINT = "scoring"
_FOREVER = 4_000_000_000


class Credential:
    """Gives out tokens that say what they are for."""

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken(token_for(scopes[0]), _FOREVER)


def main(url: str, name: str, tags: str) -> None:
    deployment = ManagedOnlineDeployment(
        name=name,
        endpoint_name=ENDPOINT,
        model=f"{ID}/models/fraud/versions/4",
        environment=f"{ID}/environments/sklearn/versions/1",
        code_configuration=CodeConfiguration(code=f"{ID}/codes/score/versions/1", scoring_script="score.py"),
        instance_type="Standard_DS3_v2",
        instance_count=2,
        environment_variables={"STAGE": "production"},
        tags=json.loads(tags),
    )
    where = {"resource_group_name": GROUP, "workspace_name": WORKSPACE, "endpoint_name": ENDPOINT}
    more = {"enforce_https": False}  # the loopback speaks http
    with MachineLearningServicesMgmtClient(Credential(), SUBSCRIPTION, base_url=url, retry_total=0) as client:
        found = client.online_endpoints.get(**where, **more)
        list(client.online_deployments.list(**where, **more))
        body = deployment._to_rest_object(location=found.location)
        client.online_deployments.begin_create_or_update(
            **where, deployment_name=name, body=body, polling=False, **more
        )
        endpoint = OnlineEndpoint._from_rest_object(found)
        endpoint.traffic = {name: 100}
        changed = endpoint._to_rest_online_endpoint(found.location)
        client.online_endpoints.begin_create_or_update(**where, body=changed, polling=False, **more)


if __name__ == "__main__":
    main(*sys.argv[1:])
