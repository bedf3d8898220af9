"""URLs, and the addresses that are not connected to."""

import socket

import pytest

from dwsps_channels.client import AddressNotAllowed, Client, Unreachable
from dwsps_channels.client.address import Address, is_link_local, take_since


@pytest.mark.parametrize(
    ("url", "uri", "shown", "host", "port", "secure"),
    [
        ("ws://a", "ws://a", "ws://a", "a", 80, False),
        ("wss://A/b", "wss://A/b", "wss://A/b", "a", 443, True),
        ("http://a:8000/", "ws://a:8000/", "ws://a:8000/", "a", 8000, False),
        ("https://a/?token=s", "wss://a/?token=s", "wss://a/", "a", 443, True),
        ("ws://[::1]:1/#part", "ws://[::1]:1/", "ws://[::1]:1/", "::1", 1, False),
        ("ws://☃.example/", "ws://☃.example/", "ws://☃.example/", "☃.example", 80, False),
    ],
)
def test_url_is_taken_apart(
    url: str, uri: str, shown: str, host: str, port: int, secure: bool
) -> None:
    assert Address.parse(url) == Address(uri, shown, secure, host, port)


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "//a", "/ws/", "ftp://a", "ws://", "ws:///secret", "ws://[::1", "ws://a:secret"),
        *(
            "ws://secret@a",
            "ws://me:secret@a",
            "ws://:secret@a",
            "ws://a/\r\nsecret",
            "ws://a/ secret",
        ),
    ],
)
def test_what_is_no_url_of_a_server_is_refused_and_not_repeated(url: str) -> None:
    for parse in (Address.parse, Client):
        with pytest.raises(ValueError, match="the server's URL") as caught:
            parse(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.0.0", "169.254.169.254", "169.254.255.255", "fe80::1", "febf::1", "fe80::1%1"),
        *("::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::169.254.169.254"),
    ],
)
def test_link_local_addresses(address: str) -> None:
    assert is_link_local(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "::1", "169.253.255.255", "169.255.0.0", "10.0.0.1", "fec0::1", "fd00::1"),
        *("::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2001:db8::169.254.169.254"),
    ],
)
def test_other_addresses(address: str) -> None:
    assert not is_link_local(address)


@pytest.mark.parametrize(
    "url",
    [
        *("ws://169.254.169.254/", "ws://[fe80::1]/", "ws://[::ffff:169.254.169.254]/"),
        *(
            "ws://2852039166/",
            "ws://0xa9fea9fe/",
            "ws://169.16689662/",
        ),  # other ways to write the first
    ],
)
async def test_link_local_hosts_are_refused(url: str) -> None:
    with pytest.raises(AddressNotAllowed, match="link-local") as caught:
        await Address.parse(url).resolve()
    assert is_link_local(caught.value.address)


class Names:
    """A resolver in place of the system's: names stand for what a test says."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    def __call__(self, host: object, port: int, *rest: object, **options: object) -> list[object]:
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)[: 4 if ":" in address else 2])
            for address in self.addresses
            for family in [socket.AF_INET6 if ":" in address else socket.AF_INET]
        ]


async def test_name_that_stands_for_a_link_local_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names("169.254.169.254", "::ffff:169.254.169.254"))
    with pytest.raises(AddressNotAllowed):
        await Address.parse("ws://metadata.example/").resolve()


async def test_of_a_name_for_several_addresses_the_others_remain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Names("fe80::1", "127.0.0.1", "169.254.0.1", "::1"))
    assert await Address.parse("ws://laptop.example:5/").resolve() == [
        (socket.AF_INET, ("127.0.0.1", 5)),
        (socket.AF_INET6, ("::1", 5, 0, 0)),
    ]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64, "a..b"])
async def test_unknown_names_are_unreachable(host: str) -> None:
    with pytest.raises((Unreachable, ValueError)) as caught:
        await Address.parse(f"ws://{host}/").resolve()
    assert isinstance(caught.value, Unreachable)


@pytest.mark.parametrize(
    ("url", "rest", "since"),
    [
        ("ws://a/", "ws://a/", ""),
        ("ws://a/?", "ws://a/?", ""),
        ("ws://a/?since=e:1", "ws://a/", "e:1"),
        ("ws://a/?since=e%3A1#part", "ws://a/#part", "e:1"),
        ("ws://a/?x=%20&since=e%3A1&y", "ws://a/?x=%20&y", "e:1"),
        ("ws://a/?since=", "ws://a/", ""),
        ("ws://a/?sincere=1&x=since", "ws://a/?sincere=1&x=since", ""),
        ("ws://a/#?since=e:1", "ws://a/#?since=e:1", ""),
    ],
)
def test_cursor_of_a_page_is_taken_out_of_the_url(url: str, rest: str, since: str) -> None:
    assert take_since(url) == (rest, since)
