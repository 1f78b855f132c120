"""Addresses: text to 16 bytes and back."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf import address


@given(st.ip_addresses())
def test_text_comes_back_as_it_was(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    read = address.from_text(str(ip))
    assert len(read) == 16
    assert ipaddress.ip_address(address.to_text(read)) == (getattr(ip, "ipv4_mapped", None) or ip)


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "010.0.0.1", "fe80::1%eth0", "10.0.0.1 ", "a.b.c.d", "::g"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        address.from_text(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("172.30.0.041", "172.30.0.41"), ("010.0.00.000", "10.0.0.0"), ("fd00::1", "fd00::1")],
)
def test_leading_zeros_are_decimal_when_read_sloppily(text: str, plain: str) -> None:
    assert address.to_text(address.from_text_sloppy(text)) == plain


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.-4", "1..2.3", "1.2.3.0400"])
def test_sloppy_is_not_careless(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        address.from_text_sloppy(text)


def test_family() -> None:
    assert address.is_ipv4(address.from_text("10.0.0.1"))
    assert address.is_ipv4(address.from_text("::ffff:10.0.0.1"))
    assert not address.is_ipv4(address.from_text("fd00::1"))
    assert not address.is_ipv4(address.ZERO)


def test_port_is_set_apart_from_an_ipv6_address() -> None:
    assert address.with_port(address.from_text("10.0.0.1"), 80) == "10.0.0.1:80"
    assert address.with_port(address.from_text("fd00::1"), 80) == "[fd00::1]:80"


def test_mac_comes_back_as_it_was() -> None:
    assert address.mac_text(address.mac_bytes("02:00:5e:00:00:ff")) == "02:00:5e:00:00:ff"


@pytest.mark.parametrize("text", ["", "02:00:5e:00:00", "02-00-5e-00-00-ff", "02:00:5e:00:00:gg"])
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - either of two sentences
        address.mac_bytes(text)
