"""Telling systemd how we are (sd_notify(3), sd_watchdog_enabled(3)); silent where nobody asked.

One datagram for each message, to the socket that $NOTIFY_SOCKET names. The environment is left
as it is: what the daemon starts (the loader) may not speak for it, as NotifyAccess=main says.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def notify(*states: str, sentence: str = "", environment: Mapping[str, str] = os.environ) -> bool:
    """Send states, and a sentence for `systemctl status`; tell whether somebody was told.

    Never blocks for long and never raises: a supervisor that is gone is no reason to stop.
    """
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    # "@" stands for the zero byte of a name that is no file (unix(7), abstract).
    place = "\0" + path[1:] if path.startswith("@") else path
    lines = [*states, f"STATUS={' '.join(sentence.split())}"] if sentence else states
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.sendto("\n".join(lines).encode(), place)
    except OSError:
        return False
    return True


def watchdog_sec(environment: Mapping[str, str] = os.environ) -> float | None:
    """Tell how often WATCHDOG is to be sent, in seconds: half of what systemd allows.

    None when it does not watch, or watches another process.
    """
    try:
        allowed = int(environment.get("WATCHDOG_USEC", "0"))
        watched = int(environment.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    if allowed <= 0 or watched != os.getpid():
        return None
    return allowed / 2 / 1_000_000
