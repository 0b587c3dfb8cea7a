"""Where a sink may connect to: public addresses and the loopback, unless its settings allow more.

Against requests that reach what only this machine can see: a cloud's metadata service, a node's kubelet, a database. A
literal address is checked when the URL is read; a name when it has been resolved for the connection, on the very
addresses that are then connected to, so that it cannot change its mind in between. It sends nothing.
"""

import ipaddress
import os
import socket
import ssl
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import AfterValidator, ValidationInfo
from yarl import URL

from worker.errors import Misconfigured

# Private in effect, though the address library counts them as public.
_ALSO_PRIVATE = (
    IPv4Network("168.63.129.16/32"),  # Azure's platform endpoint: only virtual machines reach it, with what is theirs
    IPv6Network("fec0::/10"),  # site-local: deprecated, and still routed inside some networks
)

# Where a network speaks IPv6 only, public IPv4 hosts resolve into this prefix (RFC 6052): judge the address inside.
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address, or the IPv4 address inside it, is one of the open internet."""
    inner = _inside(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in _ALSO_PRIVATE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def is_loopback(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address is this machine's own."""
    return (_inside(address) or address).is_loopback


def checked_url(text: str, *, allow_private: bool) -> URL:
    """The URL, exactly as it is written. Raises ValueError, whose text never holds more of it than the host."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the URL holds a character that must be percent-encoded (in a host name: written as xn--…)")
    try:
        url = URL(text, encoded=True)  # nothing is quoted anew: a signature in the query must arrive as it is
    except ValueError:
        raise ValueError("the URL cannot be read as one") from None  # the parser's words may quote it
    if url.scheme not in {"https", "http"} or not url.host:
        raise ValueError("the URL must begin with https:// and a host")
    if url.user is not None or url.password is not None:
        raise ValueError(
            "the URL holds a user name or password: send them as an Authorization header, from headers_env"
        )
    if not allow_private:
        _refuse_private(url)
    return url


def _check_url(text: str, info: ValidationInfo) -> str:
    checked_url(text, allow_private=info.data.get("allow_private", False))
    return text


CheckedUrl = Annotated[str, AfterValidator(_check_url)]
"""A URL as a key of a sink's settings, for all to see; a key `allow_private`, where there is one, stands before it."""


def _refuse_private(url: URL) -> None:
    host = url.host or ""
    here = check_host(host, what="the URL goes", allow_private=False)
    if url.scheme == "http" and not here:
        host = host.casefold().rstrip(".")
        raise ValueError(
            f"the URL goes to {host} over http://, without encryption; use https://, or allow_private: true"
        )


def check_host(host: str, *, what: str, allow_private: bool) -> bool:
    """Whether the host is this machine. Raises ValueError when it is written as a private address of another one."""
    host = host.casefold().rstrip(".")
    literal = _literal(host, what)
    if literal is None:
        return host == "localhost" or host.endswith(".localhost")
    here = is_loopback(literal)
    if not (here or allow_private or is_public(literal)):
        raise ValueError(f"{what} to {host}, which is not a public address; allow_private: true permits it")
    return here


def _literal(host: str, what: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    if ":" in host or host.replace(".", "").isdigit():  # 127.1, 2130706433: addresses to some, names to others
        raise ValueError(f"{what} to {host}, which is neither a name nor an address in its usual form")
    return None


def _inside(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, Teredo or NAT64."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def why_not_connected(error: OSError) -> str:
    """In the system's words; asyncio's own name the call and the address."""
    if error.errno is not None and not isinstance(error, ssl.SSLError | socket.gaierror):  # those count otherwise
        return os.strerror(error.errno)
    return error.strerror or type(error).__name__


class PublicResolver(AbstractResolver):
    """Resolves names, and passes on only the addresses that a sink may connect to."""

    def __init__(self, inner: AbstractResolver, *, sink: str) -> None:
        self._inner = inner
        self._sink = sink

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses. Raises Misconfigured where the name has others only."""
        found = await self._inner.resolve(host, port, family)
        allowed = [result for result in found if _may_connect(result["host"])]
        if found and not allowed:
            raise Misconfigured(
                f"sink {self._sink}: {host} resolves to {found[0]['host']}, which is not a public address; "
                "allow_private: true in the sink's settings permits it"
            )
        return allowed

    async def close(self) -> None:
        """Closes the resolver it asks."""
        await self._inner.close()


def _may_connect(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return is_loopback(address) or is_public(address)
