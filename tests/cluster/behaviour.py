"""What differs between API servers in good order: versions, flags, patience.

Each may be changed while the server runs; the next request sees it. Faults are in faults.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Behaviour:
    """The defaults are a current server's, but for the times, which suit tests."""

    watch_list: bool = True
    """Off: sendInitialEvents is refused with 422, as by servers without the feature gate."""
    bookmark_sec: float = 60.0
    """How often a watch with allowWatchBookmarks gets one."""
    watch_timeout_sec: float = 1800.0
    """The length of a watch that asks for none."""
    fresh_wait_sec: float = 3.0
    """How long a request for a version that is not there yet waits before it gets 504."""
    gone_as_status: bool = False
    """What is wrong with a watch's version is an HTTP status, instead of 200 and an ERROR event."""
    page_limit_at_zero: bool = False
    """Honour `limit` at resourceVersion=0 too; servers with a watch cache send all instead."""
    compress: bool = True
    """Lists over 128 KiB are compressed for clients that accept gzip."""
    anonymous: bool = False
    """Requests without credentials are system:anonymous, instead of refused with 401."""
