"""Adding and removing Services by hand: write the manifest, see to it that it takes effect.

With a daemon, wait until the maps show it. Without one, compile and write it here, in the same
way and under the same lock; other Services are left alone.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kpbpf.address import is_ipv4, to_text, with_port
from kpbpf.cli import byhand, options
from kpbpf.cli.byhand import ByHand
from kpbpf.errors import KpbpfError, NotFound, Usage
from kpbpf.home import Home
from kpbpf.status import daemon_pid
from maps import show, show_services
from maps.abi import FrontendKey, NameKey, NameKind
from maps.table import Tables, open_tables

WAIT_SEC = 5.0


def asked_for(arguments: argparse.Namespace) -> ByHand:
    """Read the flags of `svc add`; Usage says which contradict each other."""
    addr, port = options.ip_and_port(arguments.service)
    proto = options.PROTOCOLS[arguments.protocol]
    backends = tuple(dict.fromkeys(options.ip_and_port(text) for text in arguments.backend))
    for backend in backends:
        shown = with_port(*backend)
        if is_ipv4(backend[0]) != is_ipv4(addr):
            raise Usage(f"--backend={shown} is of another address family than the Service")
    namespace, name = byhand.NAMESPACE, byhand.default_name(addr, port, proto)
    if arguments.name:
        namespace, name = _split_name(arguments.name)
    return ByHand(namespace, name, addr, port, proto, backends, arguments.affinity)


def add(home: Home, service: ByHand) -> int:
    """Make a Service, or give one of that name other properties."""
    from kpbpf.cli import ready

    with ready.tables(home) as tables:
        _refuse_taken(tables, service)
        before = {found.path: found for _, found in byhand.read_all(home.by_hand)}
        byhand.write(home.by_hand, service)
        _take_effect(home, tables, service, lambda: _serves(tables, service))
    backends = ", ".join(with_port(*backend) for backend in service.backends) or "nothing: refused"
    verb = "changed" if service.path in before else "added"
    print(f"Service {service.path} {verb}: {_frontend(service)} leads to {backends}")
    return 0


def remove(home: Home, asked: str, protocol: str | None = None) -> int:
    """Remove a Service that was made by hand, by name or address, and protocol if need be."""
    with open_tables(home) as tables:
        path, service = _find(home, tables, asked, protocol)
        path.unlink()
        _take_effect(home, tables, service, lambda: _owner(tables, service) != service.path)
    print(f"Service {service.path} removed: {_frontend(service)}")
    return 0


def _take_effect(home: Home, tables: Tables, service: ByHand, in_force: Callable[[], bool]) -> None:
    """Wait for the daemon, or write the maps ourselves when there is none."""
    deadline = time.monotonic() + WAIT_SEC
    while not in_force():
        with home.writer_lock():
            # A daemon reads the maps once, under this lock, after it has made itself known.
            daemon = daemon_pid(home)
            if not daemon:
                _sync(home, tables, service)
                return
        if time.monotonic() > deadline:
            raise KpbpfError(
                f"the daemon (process {daemon}) has not taken it up within {WAIT_SEC:.0f} s; "
                "`kpbpf status` may say why"
            )
        time.sleep(0.005)


def _sync(home: Home, tables: Tables, service: ByHand) -> None:
    """Have the maps hold this Service as its manifest says now, or not at all; under the lock."""
    from kpbpf.compile.services import compile_service
    from kpbpf.kube.parse import parse
    from kpbpf.model.endpoint import EndpointSlice
    from kpbpf.model.objects import Node
    from kpbpf.model.service import Service
    from maps.sync import ServiceSync

    wanted = []
    if any(found == service for _, found in byhand.read_all(home.by_hand)):
        models = [parse(raw).model for raw in byhand.manifest(service)["items"]]
        slices = [model for model in models if isinstance(model, EndpointSlice)]
        for model in models:
            if isinstance(model, Service):
                wanted += compile_service(model, slices, Node(os.uname().nodename)).wanted
    gone = {f"{service.path}/{family}" for family in ("IPv4", "IPv6")}
    gone -= {port.name for port in wanted}
    sync = ServiceSync(tables)
    sync.load()
    report = sync.apply(wanted, gone)
    for name, error in report.failed.items():
        raise KpbpfError(f"Service {name} could not be written: {error}")


def _serves(tables: Tables, service: ByHand) -> bool:
    """Whether the maps hold just what was asked for."""
    if _owner(tables, service) != service.path:
        return False
    place = _place(service)
    (row,) = (
        row
        for row in show_services.service(tables, _owner_port(tables, service))
        if (row["address"], row["port"], row["protocol"]) == place
    )
    wanted = sorted(with_port(*backend) for backend in service.backends)
    return sorted(row["backends"]) == wanted and (row["affinity_sec"] or 0) == service.affinity_sec


def _place(service: ByHand) -> tuple[str, int, str]:
    return to_text(service.addr), service.port, show.protocol(service.proto)


def _owner_port(tables: Tables, service: ByHand) -> str:
    """Name the Service port that the maps serve at this frontend, "" for none."""
    frontend = tables.frontends.get(FrontendKey(service.addr, service.port, service.proto))
    if frontend is None:
        return ""
    name = tables.names.get(NameKey(NameKind.SERVICE, frontend.service))
    return name.text if name else f"service {frontend.service}"


def _owner(tables: Tables, service: ByHand) -> str:
    """Name the Service, as namespace/name."""
    return _owner_port(tables, service).rpartition("/")[0].partition(":")[0]


def _refuse_taken(tables: Tables, service: ByHand) -> None:
    owner = _owner(tables, service)
    if owner and owner != service.path:
        raise KpbpfError(
            f"{_frontend(service)} is already served, as Service {owner}; "
            f"change that one with --name={owner} if it was made by hand, or use another address"
        )


def _find(home: Home, tables: Tables, asked: str, protocol: str | None) -> tuple[Path, ByHand]:
    """Find the one Service by hand that is meant."""
    place = options.ip_and_port_or_none(asked)
    made = [
        (path, service)
        for path, service in byhand.read_all(home.by_hand)
        if protocol in (None, show.protocol(service.proto).lower())
    ]
    found = [
        (path, service)
        for path, service in made
        if ((service.addr, service.port) == place if place else asked in _handles(service))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise Usage(
            f"{asked} may mean {_listed(service for _, service in found)}: "
            "use a name, or --protocol"
        )
    served = any(
        f"{row['address']}:{row['port']}" == asked or options.names(asked, row["name"])
        for row in show_services.services(tables)
    )
    if served:
        raise NotFound(f"Service {asked} was not made by hand: take it out of its manifest")
    raise NotFound(f"there is no Service {asked}; made by hand: {_listed(s for _, s in made)}")


def _handles(service: ByHand) -> set[str]:
    family = "IPv4" if is_ipv4(service.addr) else "IPv6"
    return {service.path, service.name, f"{service.path}/{family}"}


def _listed(services: Iterable[ByHand]) -> str:
    return ", ".join(service.path for service in services) or "none"


def _frontend(service: ByHand) -> str:
    return f"{with_port(service.addr, service.port)}/{show.protocol(service.proto)}"


def _split_name(text: str) -> tuple[str, str]:
    namespace, slash, name = text.rpartition("/")
    if not slash:
        namespace = "default"
    for part in (namespace, name):
        if not byhand.is_label(part):
            raise Usage(
                f"--name={text}: {part!r} is not a DNS label, "
                "such as web or my-service: small letters, digits and '-', at most 63"
            )
    return namespace, name
