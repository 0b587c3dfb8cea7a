"""Hubs: addresses, partition keys, and who may read."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.local.broker import BrokerOptions
from worker.local.hubs import Address, ConsumerGroup, Hub, Hubs
from worker.local.messages import parse
from worker.local.refusals import (
    ARGUMENT_OUT_OF_RANGE,
    LINK_STOLEN,
    NOT_FOUND,
    RESOURCE_LIMIT_EXCEEDED,
    Refused,
)

MESSAGE = parse(b"\x00\x53\x75\xa0\x01x")


@dataclass(eq=False)
class FakeReader:
    epoch: int | None = None
    receiver_name: str = "nil"
    ends: list[Refused] = field(default_factory=list)

    def disconnect(self, refusal: Refused) -> None:
        self.ends.append(refusal)


def hubs() -> Hubs:
    return Hubs([Hub.in_memory("Hub", 4, 0)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub", Address("hub", None, None)),
        ("/hub/", Address("hub", None, None)),
        ("sb://127.0.0.1:5672/hub", Address("hub", None, None)),
        ("sb://127.0.0.1:5672/hub/$management", Address("hub", None, None)),
        ("hub/Partitions/3", Address("hub", None, "3")),
        ("hub/consumergroups/g/partitions/0", Address("hub", "g", "0")),
        ("amqps://h/hub/ConsumerGroups/$Default/Partitions/12", Address("hub", "$Default", "12")),
        ("amqps%3A%2F%2Fh%2Fhub", Address("hub", None, None)),
    ],
)
def test_addresses_come_in_several_forms(text, expected):
    assert Address.parse(text) == expected


@pytest.mark.parametrize("text", ["", "/", "sb://host", "sb://host/", "hub/what/0", "hub/Partitions/"])
def test_other_addresses_are_not_found(text):
    with pytest.raises(Refused) as raised:
        hubs().target(text)
    assert raised.value.condition == NOT_FOUND


@pytest.mark.parametrize("text", ["4", "-1", "x", "٣"])
def test_a_partition_that_is_not_there_is_out_of_range(text):
    with pytest.raises(Refused, match="between 0 and 3") as raised:
        hubs().target(f"hub/Partitions/{text}")
    assert raised.value.condition == ARGUMENT_OUT_OF_RANGE


def test_a_consumer_must_name_a_group_and_a_partition():
    partition, group = hubs().source("hub/ConsumerGroups/any/Partitions/2")
    assert partition.id == 2
    assert group is partition.group("ANY")
    for incomplete in ("hub", "hub/Partitions/0", "hub/ConsumerGroups/g"):
        with pytest.raises(Refused):
            hubs().source(incomplete)


@given(st.binary())
def test_a_key_always_means_the_same_partition(key):
    first, second = Hub.in_memory("a", 4, 0), Hub.in_memory("b", 4, 1)
    assert first.partition_for(key).id == second.partition_for(key).id


def test_without_keys_all_partitions_take_turns():
    hub = Hub.in_memory("hub", 3, 0)
    assert [hub.partition_for(None).id for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_listeners_hear_of_every_append_until_they_leave():
    partition = Hub.in_memory("hub", 1, 0).partitions[0]
    heard = []

    def listener() -> None:
        heard.append(len(partition.log))

    partition.listeners.add(listener)
    partition.append([MESSAGE, MESSAGE], 0)
    partition.append([MESSAGE], 0)
    partition.listeners.discard(listener)
    partition.append([MESSAGE], 0)
    assert heard == [2, 3]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 7), (None, 0)])
def test_a_reader_of_the_same_or_a_higher_epoch_takes_over(first, second):
    group, loser, winner = ConsumerGroup(), FakeReader(first), FakeReader(second)
    group.admit(loser)
    group.admit(winner)
    assert [end.condition for end in loser.ends] == [LINK_STOLEN]
    assert f"with higher epoch of '{second}'" in loser.ends[0].description
    assert not winner.ends


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, None), (7, 6)])
def test_a_reader_of_a_lower_epoch_or_none_is_refused(first, second):
    group, holder = ConsumerGroup(), FakeReader(first)
    group.admit(holder)
    with pytest.raises(Refused) as raised:
        group.admit(FakeReader(second))
    assert raised.value.condition == LINK_STOLEN
    assert not holder.ends


def test_an_epoch_is_free_again_when_its_reader_left():
    group, holder = ConsumerGroup(), FakeReader(5)
    group.admit(holder)
    group.leave(holder)
    group.admit(FakeReader(None))


def test_a_loser_that_leaves_late_does_not_free_the_winners_place():
    group, loser, winner = ConsumerGroup(), FakeReader(0), FakeReader(0)
    group.admit(loser)
    group.admit(winner)
    group.leave(loser)
    with pytest.raises(Refused):
        group.admit(FakeReader(None))


def test_five_readers_without_epoch_fit_and_a_sixth_does_not():
    group = ConsumerGroup()
    readers = [FakeReader(receiver_name=str(number)) for number in range(5)]
    for reader in readers:
        group.admit(reader)
    with pytest.raises(Refused, match="List of connected receivers - 0, 1, 2, 3, 4") as raised:
        group.admit(FakeReader())
    assert raised.value.condition == RESOURCE_LIMIT_EXCEEDED
    group.leave(readers[0])
    group.admit(FakeReader())


GOOD = {"port": 0, "hubs": ("hub",), "partitions": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"port": 70_000}, "--port 70000"),
        ({"port": -1}, "--port -1"),
        ({"partitions": 0}, "--partitions 0: a hub has 1 to 32"),
        ({"partitions": 33}, "--partitions 33"),
        ({"hubs": ()}, "name at least one hub"),
        ({"hubs": ("a/b",)}, "--hub 'a/b'"),
        ({"hubs": ("../x",)}, "--hub '../x'"),
        ({"hubs": ("hub", "HUB")}, "two hubs have the same name"),
        ({"keys": {"name": ""}}, "--key: give NAME=KEY"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_a_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        BrokerOptions(**(GOOD | change))


def test_a_file_as_data_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="that is a file"):
        BrokerOptions(**GOOD, data=tmp_path / "file")
