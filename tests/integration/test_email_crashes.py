"""The e-mail sink with a ledger, real SMTP, and processes that die at every step between the intent and its outcome."""

from typing import Any

import pytest

from tests.emails import settings_on
from tests.fate import Fate, Scene, die_at_every_step
from tests.mailbox import Mailbox, mail_server
from worker.ledger import EntryState
from worker.settings import OnUnknown
from worker.sinks.email import EmailSink

LOST = {"accepted": None, "the answer is lost": "after", "the connection is lost before": "before"}


class OnceLost(Mailbox):
    """Only the first connection goes as `vanishes` says."""

    def begin(self, vanishes: str | None) -> None:
        self.messages.clear()
        self.greeted_as.clear()
        self.vanishes = vanishes

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802 - aiosmtpd's name
        if len(self.greeted_as) > 1:
            self.vanishes = None
        return await super().handle_MAIL(server, session, envelope, address, options)

    def meet(self, fate: Fate) -> None:
        self.step = fate.step


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("policy", ["resend", "skip"])
async def test_dying_at_any_step_resend_mails_at_least_once_skip_at_most_once_and_neither_after_it_is_known(
    policy: OnUnknown, lost: str
):
    mailbox = OnceLost()
    async with mail_server(mailbox) as port:
        settings = settings_on(port, on_unknown=policy)
        held = await die_at_every_step(
            Scene(
                settings,
                sink=lambda: EmailSink(settings),
                begin=lambda: mailbox.begin(LOST[lost]),
                meet=mailbox.meet,
                effects=lambda: len(mailbox.messages),
            )
        )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held
