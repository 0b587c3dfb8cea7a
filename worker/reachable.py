"""Whether a destination can be reached from here: its name is known and it takes a connection, or its folder is there.

What it answers, only a delivery tells (`trial`); nothing is sent here.
"""

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from yarl import URL

from worker.settings import SinkSettings
from worker.trial import where

_SECONDS = 5.0
_HTTPS, _AMQPS = 443, 5671
_PORTS = {"https": _HTTPS, "http": 80, "sb": _AMQPS, "amqps": _AMQPS}


class Place(NamedTuple):
    """Where a sink connects to."""

    host: str
    port: int


def place_of(settings: SinkSettings) -> Place | None:
    """Where the sink connects to; None where its settings do not say, or it writes into a folder."""
    text = where(settings)
    if text is None:
        return None
    if "/" not in text:
        usual = _AMQPS if text == getattr(settings, "namespace", None) else _HTTPS
        return Place(text, getattr(settings, "connects_to_port", usual))
    url = URL(text, encoded=True)
    return Place(url.host, url.port or _PORTS.get(url.scheme, _HTTPS)) if url.host else None


async def hindrance(settings: SinkSettings) -> str | None:
    """Why the destination cannot be reached from here; None: it can, as far as that can be seen without sending."""
    place = place_of(settings)
    if place is not None:
        return await _connects(place)
    path = dict(settings).get("path")
    return _may_write(path) if isinstance(path, Path) else None


async def _connects(place: Place) -> str | None:
    at = f"{place.host}:{place.port}"
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(place.host, place.port)
    except TimeoutError:
        return f"{at} does not answer within {_SECONDS:g} s"
    except OSError as error:
        return f"{at} cannot be reached: {error.strerror or error}"
    writer.close()
    return None


def _may_write(path: Path) -> str | None:
    try:
        return _is_writable(path)
    except OSError as error:  # a folder above it may not even be looked into
        return f"{path} cannot be reached: {error.strerror or error}"


def _is_writable(path: Path) -> str | None:
    folder = path if path.is_dir() else path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # what is missing is made when the sink is opened
    place = path if path.is_file() else folder
    return None if os.access(place, os.W_OK) else f"{place} may not be written"
