"""How much a process asks for ahead, whatever the number of partitions it may come to own."""

import pytest

from worker.source import ahead


@pytest.mark.parametrize(
    ("prefetch", "partitions", "each"),
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
def test_all_partitions_together_are_asked_for_no_more_than_eight(prefetch, partitions, each):
    assert ahead(prefetch, partitions) == each
