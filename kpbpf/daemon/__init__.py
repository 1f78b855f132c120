"""The daemon of a node: its life, what it tells of itself, and its two servers.

Wires sources, controllers and programs together and decides nothing about Services or packets.
"""

from kpbpf.daemon.life import prepare, run

__all__ = ["prepare", "run"]
