"""What a partition has of a limit, whatever the number of partitions that one process may come to own."""

import pytest

from worker.room import share


@pytest.mark.parametrize(
    ("limit", "partitions", "each"),
    [
        (3000, 1, 3000),
        (3000, 8, 3000),
        (3000, 16, 1500),
        (3000, 32, 750),
        (3000, 1024, 300),
        (10, 32, 10),
        (1000, 0, 1000),
    ],
)
def test_all_partitions_together_have_no_more_than_eight_of_them(limit, partitions, each):
    assert share(limit, partitions, least=300) == each
