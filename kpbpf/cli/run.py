"""`kpbpf run`: the daemon in the foreground.

Reads flags and starts `kpbpf.daemon`; everything else is there.
"""

import argparse
import os
from pathlib import Path

from kpbpf.cli import options
from kpbpf.errors import Usage
from kpbpf.log import LEVELS

METRICS = "127.0.0.1:10249"

_EXAMPLES = """
kpbpf run --manifests /etc/kpbpf/manifests
kpbpf run --manifests ./services --node worker-1 --log-level debug
kpbpf run --manifests ./services --metrics-bind-address ''
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the daemon's flags."""
    parser.add_argument(
        "--manifests",
        metavar="DIR",
        action="append",
        required=True,
        help="directory of YAML and JSON to watch; repeat it for several, the first one wins",
    )
    parser.add_argument(
        "--node",
        metavar="NAME",
        default=os.uname().nodename.lower(),
        help="this node's name in the manifests (the host name)",
    )
    parser.add_argument(
        "--metrics-bind-address",
        metavar="ADDRESS:PORT",
        default=METRICS,
        help=f"where Prometheus may scrape ({METRICS}); '' for nowhere",
    )
    parser.add_argument(
        "--no-local-fast-path",
        action="store_true",
        help="pass packets between two pods of this node through its network stack",
    )
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="how much to log (info)"
    )
    options.command(
        parser,
        "Watch manifests and serve this node. Ends orderly on SIGTERM; traffic goes on without it.",
        _call,
        _EXAMPLES,
    )


def _call(arguments: argparse.Namespace) -> int:
    from kpbpf import daemon, log

    settings = daemon.Settings(
        manifests=tuple(_directory(text) for text in arguments.manifests),
        node=arguments.node,
        metrics=_bind_address(arguments.metrics_bind_address),
        local_fast_path=not arguments.no_local_fast_path,
    )
    log.start(arguments.log_level)
    daemon.run(options.home(arguments), settings)
    return 0


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if path.exists() and not path.is_dir():
        raise Usage(f"--manifests {text}: not a directory")
    return path


def _bind_address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Usage(f"--metrics-bind-address {text}: not an address with a port, as in {METRICS}")
    return host.strip("[]") or "0.0.0.0", int(port)
