"""The programs' source in C, and where it lies: nothing here runs in Python.

`abi.h` and `maps.h` are the contract with the rest; `stub` is what bcc wants to find of a
kernel's headers.
"""

from pathlib import Path

SOURCE = Path(__file__).resolve().parent
