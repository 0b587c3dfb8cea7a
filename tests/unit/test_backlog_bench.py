import zlib
from collections import Counter

import orjson

from bench.backlog import MARK, afterwards, backlog, marks, routing
from worker.decode import decode
from worker.events import Message, PartitionId, UnixSeconds
from worker.filters import compile_filter


def event_of(body: bytes):
    [event] = decode(Message(PartitionId("0"), 0, "0", UnixSeconds(0.0), body))
    return event


def test_bodies_have_the_size_that_is_asked_for_and_the_same_arguments_give_the_same_bodies():
    first, again = backlog(300, subjects=40), backlog(300, subjects=40)
    assert {len(message.body) for message in first} == {900}
    assert first == again
    assert len({orjson.loads(message.body)[0]["id"] for message in first}) == 300


def test_each_event_is_for_one_route_and_each_route_but_one_has_events():
    routes = routing([], "out", "marks")["routes"]
    filters = {route["name"]: compile_filter(route["filter"]) for route in routes}
    messages = [*backlog(300, subjects=40), *marks(4)]
    matched = [[name for name, each in filters.items() if each.matches(event_of(m.body))] for m in messages]
    assert {len(names) for names in matched} == {1}
    assert len(routes) == 10
    assert Counter(name for [name] in matched).keys() == filters.keys() - {"part-8"}


def test_every_partition_has_its_mark_and_what_comes_afterwards_goes_nowhere():
    ends, after = marks(4), afterwards(4)
    for messages in (ends, after):
        assert sorted(zlib.crc32(each.partition_key.encode()) % 4 for each in messages) == [0, 1, 2, 3]
    assert {event_of(each.body).type for each in ends} == {MARK}
    filters = [compile_filter(route["filter"]) for route in routing([], "out", "marks")["routes"]]
    assert not [each for each in after if any(one.matches(event_of(each.body)) for one in filters)]
