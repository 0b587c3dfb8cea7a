import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver
from pydantic import ValidationError

from worker.errors import Misconfigured
from worker.settings import SinkSettings
from worker.sinks.addresses import CheckedUrl, PublicResolver, checked_url, is_loopback, is_public

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "168.63.129.16",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::10.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:a00:1::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "20.50.2.1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2603:1030::1", "2606:4700:4700::1111"]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_only_this_network_reaches_are_neither_public_nor_loopback(address):
    assert not is_public(ipaddress.ip_address(address))
    assert not is_loopback(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_open_internet_are_public(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", LOOPBACK)
def test_the_loopback_is_known_in_every_form(address):
    assert is_loopback(ipaddress.ip_address(address))


def bracketed(address: str) -> str:
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


@pytest.mark.parametrize("address", PRIVATE)
def test_a_url_with_a_private_literal_is_refused_unless_allowed(address):
    url = f"https://{bracketed(address)}/in"

    with pytest.raises(ValueError, match="allow_private: true"):
        checked_url(url, allow_private=False)
    assert str(checked_url(url, allow_private=True)) == url


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.org/in?sig=a%2Bb%2F&x=%C3%BC",
        *(f"https://{bracketed(address)}/in" for address in [*PUBLIC, *LOOPBACK]),
        *(f"http://{bracketed(address)}:8080/in" for address in LOOPBACK),
        "http://localhost:8080/in",
        "http://hooks.localhost/in",
    ],
)
def test_other_urls_are_taken_exactly_as_they_are(url):
    assert str(checked_url(url, allow_private=False)) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.org/", "without encryption"),
        ("http://1.1.1.1/", "without encryption"),
        ("http://localhost.example.org/", "without encryption"),
        ("https://127.1/", "usual form"),
        ("https://2130706433/", "usual form"),
        ("https://user:hunter2@hooks.example.org/", "user name"),
        ("https://hunter2@hooks.example.org/", "user name"),
        ("ftp://hooks.example.org/", "begin with https://"),
        ("/hunter2", "begin with https://"),
        ("https://", "URL"),
        ("https://hooks.example.org:hunter2/", "URL"),
        ("https://hooks.example.org/hunter2\r\nHost: x", "percent-encoded"),
        ("https://hooks.example.org/hunter2 x", "percent-encoded"),
        ("https://h\u00fcks.example.org/hunter2", "percent-encoded"),
        ("", "URL"),
    ],
)
def test_a_url_that_is_refused_is_told_why_and_not_repeated(url, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        checked_url(url, allow_private=False)

    assert "hunter2" not in str(refused.value)


class Names(AbstractResolver):
    """A resolver that knows one name."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.closed = False

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in self._addresses
        ]

    async def close(self):
        self.closed = True


async def test_a_name_keeps_only_its_public_and_loopback_addresses():
    resolver = PublicResolver(Names("10.0.0.1", "1.1.1.1", "127.0.0.1", "fe80::1%eth0"), sink="out")

    assert [found["host"] for found in await resolver.resolve("h", 443)] == ["1.1.1.1", "127.0.0.1"]


async def test_a_name_with_private_addresses_only_is_the_operators_mistake():
    resolver = PublicResolver(Names("10.0.0.1", "::ffff:169.254.169.254"), sink="out")

    with pytest.raises(Misconfigured, match=r"sink out: internal resolves to 10\.0\.0\.1.*allow_private: true"):
        await resolver.resolve("internal", 443)


async def test_a_name_without_addresses_stays_without():
    assert await PublicResolver(Names(), sink="out").resolve("h") == []


async def test_closing_closes_the_resolver_behind():
    names = Names()
    await PublicResolver(names, sink="out").close()
    assert names.closed


class Here(SinkSettings):
    url: CheckedUrl


class Anywhere(SinkSettings):
    allow_private: bool = False
    url: CheckedUrl


def test_a_url_in_settings_may_be_private_only_where_they_say_so():
    given = {"name": "out", "kind": "x", "url": "http://10.0.0.1/x?y=%2F"}
    for model in (Here, Anywhere):
        with pytest.raises(ValidationError, match="not a public address"):
            model.model_validate(given)
    assert Anywhere.model_validate(given | {"allow_private": True}).url == given["url"]
    assert Here.model_validate(given | {"url": "http://127.0.0.1:9/"}).url == "http://127.0.0.1:9/"
