"""A receiver of webhooks, in each of the three modes."""

from typing import Any

from tests.api_service import Scripted
from tests.contract.rigs import ApiRig
from tests.webhook_receiver import Receiver
from worker.errors import OutcomeUnknown, SinkUnavailable


class WebhookRig(ApiRig):
    kind = "webhook"

    def __init__(self, receiver: Receiver, *, mode: str = "structured") -> None:
        self._receiver = receiver
        self._mode = mode
        self.lost = SinkUnavailable if mode == "batched" else OutcomeUnknown

    def settings(self) -> dict[str, Any]:
        settings = {
            "mode": self._mode,
            "url_env": "CONTRACT_URL",
            "secret_env": "CONTRACT_SECRET",
            "headers_env": {"Authorization": "CONTRACT_AUTH"},
            "functions_key_env": "CONTRACT_KEY",
        }
        return settings if self._mode == "batched" else settings | {"on_unknown": "resend"}

    def answer_next(self, answer: Scripted) -> None:
        self._receiver.script.append(answer)

    def arrived(self) -> list[dict[str, Any]]:
        assert self._receiver.refusals == []
        return [{"id": each.event["id"], "key": each.key} for each in self._receiver.taken]
