"""`worker doctor` beside a real hub, a real store and a real worker."""

from pathlib import Path

import yaml

from tests.integration.commands import Outcome, command
from tests.integration.scene import PARTITIONS, Scene, scene, traffic
from tests.support import free_port


def states(outcome: Outcome) -> dict[str, str]:
    """How each check ended; the worst counts where there are several."""
    found: dict[str, str] = {}
    for row in outcome.rows:
        place = row["check"] if row["check"] != "clock" else f"clock, {row['about']}"
        found[place] = max(found.get(place, ""), row["state"])
    return found


async def doctor(stage: Scene, azurite: str) -> Outcome:
    return await command(stage, "one", "doctor", "--json", azurite=azurite)


async def test_what_is_well_is_said_and_what_is_not_with_what_to_do(tmp_path: Path, azurite: str):
    messages = traffic(60, seed=9, duplicates=0, malformed=0)
    async with scene(tmp_path, azurite) as stage:
        one = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(messages)
        await stage.until_delivered(messages)
        live = await doctor(stage, azurite)
        assert live.code == 0, live.out
        assert states(live) | {"partition key": "", "configuration": ""} == {
            "configuration": "",
            "store": "ok",
            "clock, the store's": "ok",
            "hub": "ok",
            "partitions": "ok",
            "clock, the hub's": "unknown",
            "partition key": "",
            "sink": "ok",
            "dead letters": "ok",
        }
        assert f"all {PARTITIONS} are owned, by 1 workers" in live.out
        assert [await stage.owned("one")] == [PARTITIONS], "nobody lost anything by the look"

        await stage.family.stop([one])
        rules = stage._routes()
        rules["sinks"][1]["url"] = f"http://127.0.0.1:{free_port()}/events"
        stage.exchange_rules("one", yaml.safe_dump(rules))
        ill = await doctor(stage, azurite)
        assert ill.code == 1
        found = states(ill)
        assert (found["clock, the hub's"], found["partition key"]) == ("ok", "look"), "`worker local send` sends no key"
        [wrong] = [row for row in ill.rows if row["state"] == "wrong"]
        assert (wrong["check"], wrong["about"]) == ("sink", "out")
        assert "cannot be reached" in wrong["said"]
        assert wrong["to_do"]
