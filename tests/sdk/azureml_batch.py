"""Invokes a batch endpoint with azure-ai-ml, as its users do. Run by a test.

python azureml_batch.py
"""

from azure.ai.ml import Input, MLClient, Output
from azure.core.credentials import AccessToken

from tests.tokens import token_for


class Credential:
    """Gives out tokens that say what they are for."""

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        return AccessToken(token_for(scopes[0]), 4_000_000_000)


if __name__ == "__main__":
    where = ("01234567-89ab-cdef-0123-456789abcdef", "ml", "ws")
    client = MLClient(Credential(), *where, enable_telemetry=False, retry_total=0)
    client.batch_endpoints.invoke(
        endpoint_name="scoring",
        deployment_name="pipeline",
        experiment_name="scoring",
        inputs={
            "data": Input(type="uri_folder", path="https://account.blob.core.windows.net/c/e1"),
            "mode": Input(type="string", default="append"),
            "rounds": Input(type="integer", default=3),
        },
        outputs={"score": Output(type="uri_file", path="azureml://datastores/ds/paths/e1/out.csv")},
    )
