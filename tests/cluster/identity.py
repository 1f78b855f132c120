"""Who sends a request: bearer tokens and client certificates.

What they may do is decided in rbac.py.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from tests.cluster import failures
from tests.cluster.rbac import ADMIN, ANONYMOUS, User


class Tokens:
    """The bearer tokens that count now. Nobody is asked for one until the first is set."""

    def __init__(self) -> None:
        self._users: dict[str, User] | None = None

    @property
    def asked(self) -> bool:
        """Must requests say who sends them?"""
        return self._users is not None

    def set(self, users: dict[str, User]) -> None:
        """These tokens count from now on, and no others."""
        self._users = dict(users)

    def add(self, token: str, user: User) -> None:
        """This token counts too."""
        self._users = {**(self._users or {}), token: user}

    def remove(self, token: str) -> None:
        """This token counts no more."""
        self._users = {known: user for known, user in (self._users or {}).items() if known != token}

    def user(self, authorization: str, certified: User | None, anonymous: bool) -> User:
        """Who a request with this header and certificate comes from; Failure 401 when unknown."""
        if authorization:
            kind, _, token = authorization.partition(" ")
            found = (self._users or {}).get(token.strip()) if kind.lower() == "bearer" else None
            if found:
                return found
            if self.asked:
                raise failures.unauthorized()
        if certified:
            return certified
        if not self.asked:
            return ADMIN
        if anonymous:
            return ANONYMOUS
        raise failures.unauthorized()


def certified_user(sock: socket.socket) -> User | None:
    """The user that a connection's client certificate names: CN the name, O the groups."""
    peer: Any = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    if not peer:
        return None
    parts = [pair for group in peer["subject"] for pair in group]
    groups = tuple(value for key, value in parts if key == "organizationName")
    name = next((value for key, value in parts if key == "commonName"), "")
    return User(name, (*groups, "system:authenticated"))
