"""GitHub, for a sink that starts a workflow."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.apis.github import REPOSITORY, TOKEN, GitHubService, github_service
from tests.contract.rigs import ApiRig

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place


class GitHubRig(ApiRig):
    kind = "github"
    service: GitHubService

    def settings(self) -> dict[str, Any]:
        return {
            "api_url": self.service.url,
            "repository": REPOSITORY,
            "workflow": "retrain.yml",
            "token_env": "CONTRACT_AUTH",
            "inputs": {"event_id": "{{ event.id }}", "key": "{{ delivery.idempotency_key }}"},
        }

    def arrived(self) -> list[dict[str, Any]]:
        for run in self.service.runs:
            assert run.given["event_key"] == f"evt-{run.given['key'][:32]}"
        return [{"id": run.given["event_id"], "key": run.given["key"]} for run in self.service.runs]


@asynccontextmanager
async def github(place: "Place") -> AsyncIterator[GitHubRig]:
    place.monkeypatch.setenv("CONTRACT_AUTH", TOKEN)
    async with github_service() as service:
        yield GitHubRig(service)
