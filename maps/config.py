"""The one entry of kp_configs: defaults, and the epochs that make programs judge flows again.

Writers hold the home's writer lock: the entry is read, changed and written back in whole.
"""

from typing import NamedTuple, Self

from kpbpf import address
from maps.abi import STATES, Config, ConfigFlag, State
from maps.layout import U32
from maps.table import Tables

ONLY = U32(0)
"""The key of the one entry of an array."""

REFUSALS_PER_SEC = 500
"""Answers to refused packets, per CPU: enough for honest clients, too few to be a weapon."""

TIMEOUT_SEC = {
    State.TCP_NEW: 60,
    State.TCP_ESTABLISHED: 86_400,
    State.TCP_CLOSING: 30,
    State.UDP_NEW: 30,
    State.UDP_STREAM: 120,
    State.SCTP_NEW: 60,
    State.SCTP_ESTABLISHED: 86_400,
    State.SCTP_CLOSING: 30,
    State.ICMP: 30,
    State.OTHER: 120,
}
"""How long a flow may be silent; kube-proxy's defaults where it has one."""

HAIRPIN4 = address.from_text("169.254.107.112")
HAIRPIN6 = address.from_text("fd6b:7062:7066::1")

MASQUERADE_PORTS = (10240, 29999)
"""Source ports of masqueraded connections: below NodePorts and the ports of local sockets."""


class Span(NamedTuple):
    """Numbers from the first to the last; both 0 for none."""

    first: int = 0
    last: int = 0

    @classmethod
    def over(cls, *numbers: int) -> Self:
        """The smallest that holds them all; 0 is no number."""
        some = [number for number in numbers if number]
        return cls(min(some), max(some)) if some else cls()


def default_config() -> Config:
    """Return what a node starts with."""
    timeouts = [0] * STATES
    for state, seconds in TIMEOUT_SEC.items():
        timeouts[state] = seconds
    return Config(
        flags=ConfigFlag.READY | ConfigFlag.LOCAL_FAST_PATH,
        epoch=1,
        udp_epoch=1,
        refusals_per_sec=REFUSALS_PER_SEC,
        timeout_sec=tuple(timeouts),
        hairpin4=HAIRPIN4,
        hairpin6=HAIRPIN6,
        node4=address.ZERO,
        node6=address.ZERO,
        node_netns=0,
        uplink_ifindex=0,
        node_port_first=0,
        node_port_last=0,
        masquerade_first=MASQUERADE_PORTS[0],
        masquerade_last=MASQUERADE_PORTS[1],
    )


def read(tables: Tables) -> Config:
    """Read the configuration; all zero before anybody wrote it."""
    return tables.configs.get(ONLY) or Config.unpack(bytes(Config.SIZE))


def write(tables: Tables, config: Config) -> None:
    """Replace the configuration."""
    tables.configs.put(ONLY, config)


def ensure(tables: Tables) -> Config:
    """Write the defaults unless a configuration is there; return the one in force."""
    config = read(tables)
    if not config.flags & ConfigFlag.READY:
        # Services may have been written before.
        first, last = config.node_port_first, config.node_port_last
        config = default_config()._replace(node_port_first=first, node_port_last=last)
        write(tables, config)
    return config


def node_ports(tables: Tables) -> Span:
    """Between which numbers the programs look for NodePorts."""
    config = read(tables)
    return Span(config.node_port_first, config.node_port_last)


def set_node_ports(tables: Tables, span: Span) -> None:
    """Have the programs look for NodePorts between these numbers, and leave the rest as it is."""
    config = read(tables)
    write(tables, config._replace(node_port_first=span.first, node_port_last=span.last))


def set_hand_over(tables: Tables, on: bool) -> bool:
    """Have new connections to Services be another proxy's, or ours again; whether that is new."""
    config = read(tables)
    flags = config.flags & ~ConfigFlag.HAND_OVER
    if on:
        flags |= ConfigFlag.HAND_OVER
    if flags == config.flags:
        return False
    write(tables, config._replace(flags=flags))
    return True


def raise_epoch(tables: Tables, udp: bool = False) -> None:
    """Have the programs judge known flows once more: all of them, or with `udp` those of UDP."""
    config = read(tables)
    changed = config._replace(udp_epoch=_next(config.udp_epoch))
    write(tables, changed if udp else changed._replace(epoch=_next(config.epoch)))


def _next(epoch: int) -> int:
    return (epoch + 1) & 0xFFFFFFFF
