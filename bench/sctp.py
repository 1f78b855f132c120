"""What SCTP costs where its ports change: nanoseconds of a known packet through from_pod.

    sudo .venv/bin/python -m bench.sctp

The same packet with its ports as they are, and with its client's port changed to another and
back in turns, so that it may come again. The difference is moving a CRC32c (bpf_src/sctp.h),
which grows with the number of bits in the packet's length. Takes some seconds.
"""

import statistics
import time

from bench.journeys import CLIENT, LOOPBACK, MAC, REMOTE, flow_key
from bench.packet import REPEAT, bench_home, loaded
from kpbpf import address
from kpbpf.datapath import frame
from maps import abi

ROUNDS = 200
PORTS = (1000, 1001)
FAR = 80
LENGTHS = (32, 64, 508, 1024, 1472, 3000)
"""Of the SCTP packet, headers and chunks."""

COMPLETE = 0x3
"""Type of a DATA chunk is 0, which opens nothing; its flags say that it is a whole message."""


def packet(client_port: int, length: int) -> bytes:
    """A DATA chunk from the client; its checksums are any, but SCTP's not 0: that means none."""
    ends = address.from_text(CLIENT[4]), address.from_text(REMOTE[4])
    made = frame.Packet(*ends, frame.SCTP, client_port, FAR, ttl=255)
    data = bytearray(frame.build(made, MAC, MAC)[:34])
    data += client_port.to_bytes(2, "big") + FAR.to_bytes(2, "big") + bytes(4) + b"\1\2\3\4"
    data += bytes((0, COMPLETE)) + (length - 12).to_bytes(2, "big") + bytes(length - 16)
    data[16:18] = (len(data) - 14).to_bytes(2, "big")
    return bytes(data)


def aliases(to: tuple[int, int], tick: int) -> list[tuple[abi.FlowKey, abi.Flow]]:
    """Records under which the client's two ports become those of `to`."""
    made = []
    for port, becomes in zip(PORTS, to, strict=True):
        key, high = flow_key(CLIENT[4], port, REMOTE[4], FAR)
        flags = abi.FlowFlag.ALIAS | abi.FlowFlag.TRANSLATED
        flow = abi.Flow(
            last_seen_ns=time.monotonic_ns(),
            nat_addr=address.from_text(REMOTE[4]),
            nat_port=FAR,
            client_port=becomes,
            state=abi.State.SCTP_ESTABLISHED,
            flags=flags | (abi.FlowFlag.CLIENT_IS_HIGH if high else 0),
            tick=tick,
            client_ifindex=LOOPBACK,
            backend_ifindex=0,
            client_mac=MAC,
            backend_mac=MAC,
            epoch=1,
            service=1,
            created_sec=0,
            masq_addr=address.from_text(CLIENT[4]),
        )
        made.append((key._replace(proto=frame.SCTP), flow))
    return made


def main() -> None:
    """Measure and print."""
    print(f"{'BYTES':>6} {'SAME NS':>8} {'OTHER NS':>9} {'CRC NS':>7}")
    with bench_home() as home, loaded(home) as bench:
        bench.fill(1)
        for length in LENGTHS:
            data = packet(PORTS[0], length)
            times: dict[tuple[int, int], list[int]] = {PORTS: [], PORTS[::-1]: []}
            for _ in range(ROUNDS):
                for to, runs in times.items():
                    for key, flow in aliases(to, bench.tick()):
                        bench.tables.flows.put(key, flow)
                    runs.append(bench.run("from_pod", data, REPEAT))
            same, other = (statistics.median(runs) for runs in times.values())
            print(f"{length:6} {same:8.0f} {other:9.0f} {other - same:7.0f}")


if __name__ == "__main__":
    main()
