"""Keys to partitions: as the service and its clients hash them."""

import pytest
from azure.eventhub._buffered_producer._partition_resolver import PartitionResolver, generate_hash_code
from hypothesis import given
from hypothesis import strategies as st

from worker.sinks.partitioning import partition_of

COUNTS = (1, 2, 4, 5, 32)


def partitions(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", (0, 0, 0, 0, 0)),
        ("a", (0, 0, 0, 0, 28)),
        ("subject-1", (0, 0, 2, 4, 10)),
        ("exactly12byt", (0, 1, 1, 4, 1)),
        ("naïve ☃", (0, 0, 0, 0, 4)),
        ("experiments/exp/runs/run-1", (0, 0, 2, 2, 14)),
        ("/blobServices/default/containers/training/blobs/2026/a.parquet", (0, 1, 3, 1, 3)),
    ],
)
def test_a_key_is_where_the_javascript_sdk_6_0_4_puts_it(key, expected):
    assert tuple(int(partition_of(key, partitions(count))) for count in COUNTS) == expected


@given(st.text(st.characters(max_codepoint=127), min_size=1, max_size=60), st.integers(1, 32))
def test_the_hash_is_the_python_sdks_wherever_its_remainder_is_that_of_the_others(key, count):
    if generate_hash_code(key) >= 0:  # below, Python's % is not that of the service
        theirs = PartitionResolver(partitions(count)).get_partition_id_by_partition_key(key)
        assert partition_of(key, partitions(count)) == theirs


@given(st.text(), st.integers(1, 2000))
def test_every_key_has_a_partition(key, count):
    assert partition_of(key, partitions(count)) in partitions(count)
