"""The log: numbers, offsets and times, and what a file still knows after a crash."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.local.hubs import Hub
from worker.local.log import HubFile, PartitionLog, file_logs, memory_logs
from worker.local.messages import parse

NOW_MS = 1_700_000_000_000


def message(text: str):
    body = text.encode()
    return parse(b"\x00\x53\x75\xa0" + bytes([len(body)]) + body)


def bodies(log: PartitionLog) -> list[str]:
    return [parse(log[number]).rest[5:].decode() for number in range(len(log))]


@pytest.fixture
def open_hub(tmp_path):
    hubs = []

    def open_hub(partitions: int = 2, now_ms: int = NOW_MS) -> Hub:
        for hub in hubs:
            hub.close()
        hubs.append(Hub.on_disk(tmp_path, "hub", partitions, now_ms))
        return hubs[-1]

    yield open_hub
    for hub in hubs:
        hub.close()


def test_an_empty_log_has_no_last_message():
    [log] = memory_logs(1)
    assert (len(log), log.last, log.last_offset) == (0, None, -1)


def test_numbers_have_no_gaps_and_offsets_grow():
    [log] = memory_logs(1)
    log.append([message("a"), message("b")], NOW_MS)
    log.append([message("c")], NOW_MS + 1)
    assert bodies(log) == ["a", "b", "c"]
    assert log.last is not None
    assert log.last.sequence_number == 2
    assert 0 < log.first_at_offset(1) < log.first_at_offset(log.last_offset) == 2


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_enqueued_times_never_run_backwards(moments):
    [log] = memory_logs(1)
    for moment in moments:
        log.append([message("x")], moment)
    assert log.last is not None
    assert log.last.enqueued_ms == max(moments)
    assert log.first_at_time(max(moments) + 1) == len(log)
    assert log.first_at_time(min(moments[0], 0)) == 0


def test_a_file_gives_back_what_it_was_given(open_hub):
    hub = open_hub()
    hub.partitions[0].append([message("a"), message("b")], NOW_MS + 1)
    hub.partitions[1].append([message("c")], NOW_MS + 2)
    before = [(partition.log.last, bodies(partition.log)) for partition in hub.partitions]
    again = open_hub(now_ms=NOW_MS + 99)
    assert [(partition.log.last, bodies(partition.log)) for partition in again.partitions] == before
    assert again.created_at_ms == NOW_MS
    again.partitions[0].append([message("d")], NOW_MS)
    assert bodies(open_hub().partitions[0].log) == ["a", "b", "d"]


def test_a_record_torn_at_any_byte_is_cut_and_said(open_hub, tmp_path, caplog):
    path = tmp_path / "hub.log"
    hub = open_hub()
    hub.partitions[0].append([message("kept")], NOW_MS)
    whole = path.stat().st_size
    hub.partitions[0].append([message("torn")], NOW_MS)
    content = path.read_bytes()
    for end in range(whole + 1, len(content)):
        path.write_bytes(content[:end])
        caplog.clear()
        again = open_hub()
        assert bodies(again.partitions[0].log) == ["kept"]
        assert path.stat().st_size == whole
        assert f"cut {end - whole} bytes" in caplog.text
    again.partitions[0].append([message("next")], NOW_MS)
    assert bodies(open_hub().partitions[0].log) == ["kept", "next"]


def test_a_last_record_with_wrong_bytes_is_cut(open_hub, tmp_path):
    hub = open_hub()
    hub.partitions[0].append([message("kept")], NOW_MS)
    hub.partitions[0].append([message("torn")], NOW_MS)
    path = tmp_path / "hub.log"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert bodies(open_hub().partitions[0].log) == ["kept"]


def test_damage_in_the_middle_is_an_error_that_says_where(open_hub, tmp_path):
    hub = open_hub()
    hub.partitions[0].append([message("first")], NOW_MS)
    hub.partitions[0].append([message("second")], NOW_MS)
    path = tmp_path / "hub.log"
    path.write_bytes(path.read_bytes().replace(b"first", b"fIrst"))
    with pytest.raises(ValueError, match=r"hub\.log is damaged at byte \d+, and more follows"):
        open_hub()


def test_another_number_of_partitions_is_refused(open_hub):
    open_hub(partitions=2)
    with pytest.raises(ValueError, match="has 2 partitions, not 3: ask for --partitions 2"):
        open_hub(partitions=3)


def test_two_brokers_do_not_share_a_file(open_hub, tmp_path):
    open_hub()
    with pytest.raises(ValueError, match="is used by another broker"):
        Hub.on_disk(tmp_path, "hub", 2, NOW_MS)


@pytest.mark.parametrize("content", [b"hello\n", b"[]\n", b'{"format": 1}\n', b"\x00" * 50])
def test_a_file_that_is_no_log_is_left_alone(tmp_path, content):
    path = tmp_path / "hub.log"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a hub's log"):
        Hub.on_disk(tmp_path, "hub", 2, NOW_MS)
    assert path.read_bytes() == content


def test_a_newer_format_is_refused(tmp_path):
    (tmp_path / "hub.log").write_bytes(b'{"format": 2, "hub": "hub", "partitions": 2, "created_at_ms": 0}\n')
    with pytest.raises(ValueError, match="has format 2, and this broker reads 1"):
        Hub.on_disk(tmp_path, "hub", 2, NOW_MS)


def test_a_write_that_fails_keeps_nothing(tmp_path, monkeypatch):
    file = HubFile(tmp_path / "hub.log", hub="hub", partitions=1, now_ms=NOW_MS)
    [log] = file_logs(file, 1)
    log.append([message("kept")], NOW_MS)
    size = (tmp_path / "hub.log").stat().st_size
    monkeypatch.setattr("worker.local.log.os.write", full_disk(after_bytes=10))
    with pytest.raises(OSError, match="No space"):
        log.append([message("a"), message("b")], NOW_MS)
    monkeypatch.undo()
    assert (tmp_path / "hub.log").stat().st_size == size
    log.append([message("next")], NOW_MS)
    assert bodies(log) == ["kept", "next"]
    file.close()


def full_disk(after_bytes: int):
    write = os.write
    calls = []

    def failing(descriptor: int, content) -> int:
        calls.append(content)
        if len(calls) == 1:
            return write(descriptor, bytes(content[:after_bytes]))
        raise OSError(28, "No space left on device")

    return failing
