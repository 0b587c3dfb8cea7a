"""The local hub, as the JavaScript SDK sees it: another AMQP engine, with habits of its own."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

NODE = Path(__file__).parents[1] / "node"


@pytest.fixture
def script() -> Path:
    if not (NODE / "node_modules" / "@azure" / "event-hubs").exists():
        message = "@azure/event-hubs is not installed: run `make node`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return NODE / "event_hubs.mjs"


@pytest.mark.parametrize("keys", [{}, {"root": "secret"}], ids=["any token", "signed tokens"])
async def test_the_javascript_sdk_sends_and_subscribes(start_broker, script, keys):
    broker = await start_broker(keys=keys)
    result = json.loads(await run(script, broker.connection_string("hub")))

    assert result["hub"]["partitionIds"] == ["0", "1", "2", "3"]
    assert result["partition"]["lastEnqueuedSequenceNumber"] == 1
    keyed = [event for event in result["received"] if event.get("partitionKey") == "key-1"]
    assert [event["body"] for event in keyed] == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]
    assert len({event["partition"] for event in keyed}) == 1
    assert all(event["contentType"] == "application/json" for event in keyed)
    assert all(event["properties"] == {"n": event["body"]["n"], "text": "ü"} for event in keyed)
    pinned = [event for event in result["received"] if "partitionKey" not in event]
    assert [event["body"] for event in pinned] == ["pinned", {"base64": "AP8="}]
    assert {event["partition"] for event in pinned} == {"3"}
    assert all(event["lastSequenceNumber"] >= event["sequenceNumber"] for event in result["received"])


async def test_the_javascript_sdk_hears_of_a_wrong_key(start_broker, script):
    broker = await start_broker(keys={"root": "secret"})
    with pytest.raises(AssertionError, match="InvalidSignature"):
        await run(script, broker.connection_string("hub").replace("secret", "guess"))


async def run(script: Path, connection_string: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(script),
        env={**os.environ, "EVENT_HUB": connection_string},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, errors.decode()
    return output
