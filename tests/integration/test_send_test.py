"""`worker send-test` against real destinations: what arrives, what is shown, and that no secret is."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import free_port

PROJECT = Path(__file__).parents[2]
SECRETS = {"SIGNING": "hidden-signing-key", "AUTH": "Bearer hidden-token-4711", "PASSWORD": "hidden-password"}
OWN = {"id": "e1", "eventType": "Some.Type", "subject": "s", "topic": "t", "data": {"n": 1}}


class Door:
    """An HTTP server that keeps what comes and answers as it is told, with all that it was sent."""

    def __init__(self) -> None:
        self.status = 202
        self.headers: dict[str, str] = {}
        self.came: list[tuple[Any, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.came.append((body, dict(request.headers)))
        echo = f"{request.path_qs} {request.headers.get('Authorization')}"
        return web.Response(status=self.status, text=f"thanks for {echo}", headers=self.headers)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def url(door):
    app = web.Application()
    app.router.add_post("/{path:.*}", door.handle)
    async with TestServer(app, host=HOST) as server:
        yield str(server.make_url("/hidden-path-4711?sig=hidden-signature"))


async def send_test(folder: Path, sink: dict[str, Any], *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and all that was printed."""
    routes = {"sinks": [{"name": "out", **sink}], "routes": [{"name": "all", "sinks": ["out"]}]}
    source = {"connection_string_env": "NO_HUB", "hub": "h"}
    (folder / "worker.yaml").write_text(yaml.safe_dump({"source": source, "store": {"kind": "sqlite", "path": "x.db"}}))
    (folder / "routes.yaml").write_text(yaml.safe_dump(routes))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "send-test", "--config", str(folder / "worker.yaml")),
        *("--sink", "out", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", **SECRETS, **environment},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    text = printed.decode()
    assert "Traceback" not in text
    assert "hidden" not in text
    assert not (folder / "x.db").exists()
    return process.returncode, text


WEBHOOK = {
    "kind": "webhook",
    "url_env": "URL",
    "secret_env": "SIGNING",
    "headers_env": {"Authorization": "AUTH"},
    "headers": {"X-Team": "ml"},
}


async def test_a_webhook_gets_the_sample_and_its_answer_is_shown_without_secrets(door, url, tmp_path):
    code, text = await send_test(tmp_path, WEBHOOK, "--sample", "model-registered", URL=url)

    [(body, headers)] = door.came
    assert body["id"].startswith("worker-send-test-")
    assert body["data"]["modelName"] == "worker send-test"
    assert headers["Authorization"] == SECRETS["AUTH"]
    assert code == 0
    lines = text.splitlines()
    assert f"destination {url.split('/')[2]}" in lines
    assert f"  webhook-id: {headers['webhook-id']}" in lines
    assert "  X-Team: ml" in lines
    assert f'    "id": "{body["id"]}",' in lines
    assert any(line.startswith("answer      202: thanks for ***") for line in lines)
    assert lines[-1].startswith("accepted in ")


async def test_what_is_previewed_is_what_arrives(door, url, tmp_path):
    _, text = await send_test(tmp_path, WEBHOOK, "--json", URL=url)
    [(body, _)] = door.came
    assert json.loads(json.loads(text)["preview"].partition("\n\n")[2]) == body


async def test_each_time_it_is_another_event(door, url, tmp_path):
    for _ in range(2):
        await send_test(tmp_path, WEBHOOK, URL=url)
    (first, first_headers), (second, second_headers) = door.came
    assert first["id"] != second["id"]
    assert first_headers["webhook-id"] != second_headers["webhook-id"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, "try again, after"), (400, "rejected, after"), (401, "misconfigured, after"), (302, "rejected, after")],
)
async def test_what_a_webhook_refuses_is_said_with_its_answer_and_exits_1(door, url, tmp_path, status, said):
    door.status = status
    code, text = await send_test(tmp_path, WEBHOOK, URL=url)
    assert code == 1
    assert f"answered {status}: thanks for ***" in text
    assert any(line.startswith(said) for line in text.splitlines())


async def test_an_event_of_ones_own_arrives_as_it_is(door, url, tmp_path):
    (tmp_path / "own.json").write_bytes(orjson.dumps(OWN))
    code, _ = await send_test(tmp_path, WEBHOOK, "--event", str(tmp_path / "own.json"), URL=url)
    assert code == 0
    assert door.came[0][0]["id"] == "e1"


async def test_an_answer_that_does_not_come_ends_with_the_sinks_time(tmp_path):
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    async with await asyncio.start_server(silent, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        sink = {"kind": "webhook", "url": f"http://{HOST}:{port}/", "timeout_seconds": 0.3, "on_unknown": "skip"}
        code, text = await send_test(tmp_path, sink)
        ended.set()
    assert code == 1
    assert "outcome unknown, after 0." in text
    assert "did not answer within 0.3 s" in text
    assert "A worker would go by on_unknown: skip." in text


def mail(port: int) -> dict[str, Any]:
    return {
        "kind": "email",
        "host": HOST,
        "port": port,
        "security": "none",
        "from": "ML <ml@example.org>",
        "to": ["oncall@example.org"],
        "username": "ml",
        "password_env": "PASSWORD",
    }


async def test_mail_arrives_and_its_headers_and_text_are_shown(tmp_path):
    mailbox = Mailbox()
    login = base64.b64encode(f"\0ml\0{SECRETS['PASSWORD']}".encode()).decode()
    mailbox.to_data = f"250 queued as 4711 for {SECRETS['PASSWORD']} {login}"
    async with mail_server(mailbox, password=SECRETS["PASSWORD"]) as port:
        code, text = await send_test(tmp_path, mail(port))

    [message] = mailbox.messages
    assert message["X-Event-Id"].startswith("worker-send-test-")
    assert code == 0
    lines = text.splitlines()
    assert f"destination {HOST}" in lines
    for name in ("From", "To", "Subject"):
        assert f"  {name}: {message[name]}" in lines
    assert login not in text
    assert "answer      250: queued as 4711 for *** ***" in lines


@pytest.mark.parametrize(
    ("refuses", "said"),
    [("550 no such user", "rejected, after"), ("450 later", "try again, after")],
)
async def test_what_a_mail_server_refuses_is_said_with_its_answer_and_exits_1(tmp_path, refuses, said):
    mailbox = Mailbox()
    mailbox.to_recipient = {"oncall@example.org": refuses}
    async with mail_server(mailbox, password=SECRETS["PASSWORD"]) as port:
        code, text = await send_test(tmp_path, mail(port))
    assert code == 1
    assert any(line.startswith(said) and line.endswith(refuses.partition(" ")[2]) for line in text.splitlines())


async def test_a_wrong_password_is_a_misconfiguration(tmp_path):
    async with mail_server(Mailbox(), password="another") as port:
        code, text = await send_test(tmp_path, mail(port))
    assert code == 1
    assert any(line.startswith("misconfigured, after") for line in text.splitlines())


async def test_a_server_that_is_not_there_is_to_be_tried_again(tmp_path):
    code, text = await send_test(tmp_path, mail(free_port()))
    assert code == 1
    assert "try again, after" in text


async def test_a_file_gets_the_line_that_is_shown(tmp_path):
    code, text = await send_test(tmp_path, {"kind": "file", "path": "out.jsonl"}, "--sample", "digest")
    assert code == 0
    line = (tmp_path / "out.jsonl").read_text().rstrip()
    assert orjson.loads(line)["type"] == "Worker.Digest"
    assert f"  {line}" in text.splitlines()
    assert f"destination {tmp_path}/out.jsonl" in text.splitlines()


async def test_the_log_gets_its_line_on_stderr(tmp_path):
    code, text = await send_test(tmp_path, {"kind": "log"})
    assert code == 0
    [line] = [line for line in text.splitlines() if line.startswith("{")]
    assert orjson.loads(line)["route"] == "worker send-test"


async def test_a_sample_without_what_a_template_names_is_said_with_how_to_choose_another(tmp_path):
    factory = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/ml/providers/Microsoft.DataFactory"
    sink = {
        "kind": "datafactory",
        "factory": f"{factory}/factories/contoso-ml",
        "pipeline": "retrain",
        "parameters": {"drift": "{{ event.data.driftCoefficient }}"},
    }
    code, text = await send_test(tmp_path, sink, "--dry-run")
    assert code == 1
    assert "sink out: parameters.drift: there is no driftCoefficient in the event's data; " in text
    assert "of the sample failed-run; --sample and --event choose another event" in text
    code, text = await send_test(tmp_path, sink, "--dry-run", "--sample", "drift")
    assert (code, '"drift": 0.83' in text) == (0, True)
