"""Certificates made by the `openssl` command, and the TLS context of the server.

One Authority is one directory: its CA, the server's certificate, certificates of clients.
"""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

_DAYS = "2"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Pair(NamedTuple):
    """The files of a certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of its own, in a directory that the caller removes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._made = 0
        self.ca = Pair(directory / "ca.crt", directory / "ca.key")
        extensions = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl(
            *("req", "-x509", *_KEY, "-days", _DAYS, "-subj", "/CN=kubernetes", *extensions),
            *("-keyout", self.ca.key, "-out", self.ca.certificate),
        )

    def server(self, *hosts: str) -> Pair:
        """A server's certificate for these addresses or names, localhost included."""
        names = {"DNS:localhost", "DNS:kubernetes.default.svc", "IP:127.0.0.1", "IP:::1"}
        for host in hosts:
            is_address = ":" in host or host.replace(".", "").isdigit()
            names.add(f"{'IP' if is_address else 'DNS'}:{host}")
        alternatives = f"subjectAltName={','.join(sorted(names))}"
        return self._issue("/CN=kube-apiserver", alternatives, "extendedKeyUsage=serverAuth")

    def client(self, name: str, *groups: str) -> Pair:
        """A client's certificate: the user is its CN, the groups its O."""
        organizations = "".join(f"/O={group}" for group in groups)
        return self._issue(f"{organizations}/CN={name}", "extendedKeyUsage=clientAuth")

    def context(self, pair: Pair) -> ssl.SSLContext:
        """The server's TLS context; client certificates of this authority are optional."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        context.load_verify_locations(self.ca.certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _issue(self, subject: str, *extensions: str) -> Pair:
        self._made += 1
        stem = self._directory / f"certificate-{self._made}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        wanted = [part for extension in extensions for part in ("-addext", extension)]
        _openssl(
            *("req", "-x509", *_KEY, "-days", _DAYS, "-subj", subject, *wanted),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", self.ca.certificate, "-CAkey", self.ca.key),
            *("-keyout", pair.key, "-out", pair.certificate),
        )
        return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
