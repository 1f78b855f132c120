"""What the operator may choose: kube-proxy's flags and configuration file, and our own section.

Reads words and files to one `Settings`; does nothing with it. Knows no map, no API server.
"""

from kpbpf.settings.effective import read
from kpbpf.settings.settings import (
    Address,
    Api,
    Asked,
    DetectLocal,
    NodePortAddresses,
    Settings,
)

__all__ = ["Address", "Api", "Asked", "DetectLocal", "NodePortAddresses", "Settings", "read"]
