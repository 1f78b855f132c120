"""Checksums are right whoever computes them: the sender's kernel or, with offload, nobody yet.

With tx checksum offload off, packets leave a pod with full checksums, and the receiving kernel
verifies what the programs made of them; with it on they are left partial and often segmented
late, and the programs must not break that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.sockets import Connection, ask_tcp, ask_udp, digest, pattern
from tests.lab.world import Place


@pytest.fixture(params=["on", "off"])
def offload(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    places = (lab.client, lab.a, lab.remote)
    for place in places:
        place.run("ethtool", "-K", "eth0", "tx", request.param)
    yield request.param
    for place in places:
        place.run("ethtool", "-K", "eth0", "tx", "on")


def checksum_errors(place: Place) -> int:
    """Packets that the place's kernel refused for their TCP or UDP checksum, both families."""
    with place.inside():
        table = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        table6 = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
    errors = 0
    for names, values in zip(table[::2], table[1::2], strict=True):
        row = dict(zip(names.split(), values.split(), strict=True))
        errors += int(row.get("InCsumErrors", 0))
    return errors + sum(int(x.split()[1]) for x in table6 if "InCsumErrors" in x)


def test_checksums_are_right_with_tx_offload(lab: Lab, family: int, offload: str) -> None:
    places = (lab.client, lab.a, lab.remote)
    before = [checksum_errors(place) for place in places]
    payload = pattern(500_000)
    for client, backend in ((lab.client, lab.a), (lab.client, lab.remote), (lab.a, lab.a)):
        with lab.service(backend) as service:
            address = service.addresses[family]
            with Connection(client, address, service.port) as connection:
                assert connection.take(payload) == digest(payload), offload
                assert connection.give(len(payload)) == payload, offload
            for size in (0, 1, 100, 1400, 5000):
                answer = ask_udp(client, address, service.port, pattern(size))
                assert answer.server == backend.name
    with lab.service() as nobody, pytest.raises(ConnectionRefusedError):
        ask_tcp(lab.client, nobody.addresses[family], nobody.port)
    assert [checksum_errors(place) for place in places] == before
