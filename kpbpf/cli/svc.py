"""`kpbpf svc`: Services, as the programs see them; and Services made by hand.

Listing reads the maps, and asks a running daemon what only it knows. Adding and removing writes a
manifest, which a running daemon applies; without one, it is applied here, in the same way.
"""

import argparse

from kpbpf.cli import options
from kpbpf.cli.output import NAME, add_output

_LS = """
kpbpf svc ls
kpbpf svc ls -n kube-system -o wide
kpbpf svc ls -l 'app=web,tier in (front,back)'
kpbpf svc ls -w
kpbpf svc ls -A -o json
"""
_GET = """
kpbpf svc get default/web
kpbpf svc get -n default web
kpbpf svc get 10.96.0.100:5201
kpbpf svc get default/web -o yaml
"""
_ADD = """
kpbpf svc add --service=10.96.0.100:5201 --backend=192.168.10.10:5201
kpbpf svc add --service=10.96.0.53:53 --protocol udp --backend=10.42.0.2:53 --backend=10.42.0.3:53
kpbpf svc add --service=[fd00::1]:80 --backend=[fd42::2]:8080 --affinity 600 --name default/web
"""
_RM = """
kpbpf svc rm 10.96.0.100:5201
kpbpf svc rm default/web
kpbpf svc rm --service=10.96.0.53:53 --protocol udp
"""
_NAMED = "name (namespace/name) or address (10.96.0.10:80) of a Service"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_ls(options.verb(verbs, "ls", "list what Services are served at, by name", _ls, _LS))
    about = "show all of a Service: where it is served, and why an endpoint is not used"
    get = options.verb(verbs, "get", about, _get, _GET)
    get.add_argument("service", metavar="NAME|ADDRESS:PORT", help=_NAMED)
    get.add_argument("-n", "--namespace", metavar="NAMESPACE", help="of a name without one")
    add_output(get)
    add = options.verb(verbs, "add", "make a Service by hand, or change one", _add, _ADD)
    add.add_argument(
        "--service", metavar="ADDRESS:PORT", required=True, help="where clients reach it"
    )
    add.add_argument(
        "--backend",
        metavar="ADDRESS:PORT",
        action="append",
        default=[],
        help="where it leads; repeat it for several, leave it out for a Service that refuses",
    )
    add.add_argument(
        "--protocol", choices=options.PROTOCOLS, default="tcp", type=str.lower, help="(tcp)"
    )
    add.add_argument(
        "--affinity",
        metavar="SECONDS",
        nargs="?",
        const=options.AFFINITY_SEC,
        default=0,
        type=options.affinity,
        help=f"keep a client on its backend for so long ({options.AFFINITY_SEC})",
    )
    add.add_argument("--name", metavar="NAMESPACE/NAME", help="what to call it")
    rm = options.verb(verbs, "rm", "remove a Service that was made by hand", _rm, _RM)
    which = rm.add_mutually_exclusive_group(required=True)
    which.add_argument("service", metavar="NAME|ADDRESS:PORT", nargs="?", help=_NAMED)
    which.add_argument(
        "--service", metavar="ADDRESS:PORT", dest="address", help="the address, as for svc add"
    )
    rm.add_argument("--protocol", choices=options.PROTOCOLS, type=str.lower, help="(any)")


def _add_ls(ls: argparse.ArgumentParser) -> None:
    """Add the flags of `svc ls`, called as kubectl calls them."""
    where = ls.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", metavar="NAMESPACE", help="only of this namespace")
    where.add_argument(
        "-A", "--all-namespaces", action="store_true", help="of all namespaces, as without -n"
    )
    ls.add_argument(
        "-l", "--selector", metavar="LABELS", help="only with labels such as app=web,tier!=cache"
    )
    ls.add_argument("-w", "--watch", action="store_true", help="go on with a line for each change")
    add_output(ls, NAME)


def _ls(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_list

    if arguments.selector is not None:
        from kpbpf.cli import selector

        arguments.selector = selector.read(arguments.selector)
    return svc_list.ls(arguments)


def _get(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_get

    return svc_get.get(arguments)


def _add(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_change

    return svc_change.add(options.home(arguments), svc_change.asked_for(arguments))


def _rm(arguments: argparse.Namespace) -> int:
    from kpbpf.cli import svc_change

    asked = arguments.service or arguments.address
    return svc_change.remove(options.home(arguments), asked, arguments.protocol)
