"""Fixtures of the contract suites."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.contract.store_helpers import blob_store
from worker.stores.blob import BlobStore


@pytest.fixture
def container() -> str:
    return f"test-{uuid4().hex}"


@pytest.fixture
async def store(azurite: str, container: str) -> AsyncIterator[BlobStore]:
    opened = blob_store(azurite, container)
    await opened.open()
    yield opened
    await opened.aclose()
