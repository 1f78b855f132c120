"""Which pod holds an address, when two of them say so: the one that claimed it last.

For a moment that is usual: an address is given again while its former pod's object still says
that it has it. Pure; knows no interfaces.
"""

from __future__ import annotations

from collections.abc import Iterable

from kpbpf.address import Address, to_text
from kpbpf.model.objects import Key


class Holders:
    """The addresses of pods."""

    def __init__(self) -> None:
        self._addresses: dict[Key, tuple[Address, ...]] = {}
        self._claims: dict[Address, list[Key]] = {}
        """The last one holds it."""

    def change(self, key: Key, addresses: Iterable[Address]) -> set[Key]:
        """A pod has these addresses now; return the pods that hold others than before by it."""
        before, now = self._addresses.get(key), tuple(dict.fromkeys(addresses))
        if before == now:
            return set()
        touched = {key}
        for address in before or ():
            if address not in now:
                touched.update(self._leave(address, key))
        for address in now:
            if address not in (before or ()):
                claims = self._claims.setdefault(address, [])
                touched.update(claims)
                claims.append(key)
        self._addresses[key] = now
        if not now:
            del self._addresses[key]
        return touched

    def _leave(self, address: Address, key: Key) -> list[Key]:
        left = [other for other in self._claims.pop(address) if other != key]
        if left:
            self._claims[address] = left
        return left[-1:]

    def holder(self, address: Address) -> Key | None:
        """The pod that holds an address."""
        claims = self._claims.get(address)
        return claims[-1] if claims else None

    def held(self, key: Key) -> tuple[Address, ...]:
        """A pod's addresses without those that a later pod claimed."""
        claimed = self._addresses.get(key, ())
        return tuple(address for address in claimed if self.holder(address) == key)

    def why_none(self, key: Key) -> str:
        """Say why a pod holds no address."""
        claimed = self._addresses.get(key, ())
        if not claimed:
            return "it has no address yet"
        holders = sorted({holder.path for address in claimed if (holder := self.holder(address))})
        texts = ", ".join(map(to_text, claimed))
        return f"its address {texts} was given to {', '.join(holders)}"
