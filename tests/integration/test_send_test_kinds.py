"""`worker send-test` works for every kind: what it previews arrives, and nothing secret is shown."""

import os

import pytest
from structlog.testing import capture_logs

from tests.contract.rigs.table import RIGS, Place
from tests.identity_service import identity_service
from tests.integration.test_send_test import send_test
from worker.sinks.table import KINDS


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"discard", "log"}))
async def test_it_is_sent_shown_and_accepted(kind, request, tmp_path, monkeypatch):
    with capture_logs() as logged:
        place = Place(tmp_path, monkeypatch, logged, lambda: request.getfixturevalue("azurite"))
        async with identity_service(None, monkeypatch), RIGS[kind](place) as rig:
            environment = {
                name: value
                for name, value in os.environ.items()
                if name.startswith(("CONTRACT_", "IDENTITY_", "AZURE_TOKEN_"))
            }
            code, text = await send_test(tmp_path, {"kind": kind, **rig.settings()}, **environment)

            assert code == 0, text
            [arrived] = rig.arrived()
            assert arrived["id"].startswith("worker-send-test-")
            lines = [line.split() for line in text.splitlines()]
            assert ["key", arrived["key"]] in lines
            assert ["kind", kind] in lines
            assert ["destination", "-"] not in lines, "it says where it goes"
            assert lines[-1][0] == "accepted"


async def test_a_log_sink_writes_its_line_between_what_is_said(tmp_path):
    code, text = await send_test(tmp_path, {"kind": "log"})
    assert code == 0
    assert '"event":"event delivered"' in text


async def test_a_discard_sink_accepts_what_nobody_will_see(tmp_path):
    code, text = await send_test(tmp_path, {"kind": "discard"})
    assert code == 0
    assert text.splitlines()[-1].startswith("accepted")
