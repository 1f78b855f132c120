"""`python -m kpbpf` is the same as the `kpbpf` command."""

import sys

from kpbpf.cli.main import main

sys.exit(main())
