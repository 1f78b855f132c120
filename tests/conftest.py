"""Settings for every test: Hypothesis without deadlines, since build machines are noisy.

KPBPF_EXAMPLES=2000 makes each of its tests try so many cases instead of the usual few.
"""

import os

from hypothesis import settings

USUAL_EXAMPLES = 50

settings.register_profile(
    "kpbpf",
    deadline=None,
    print_blob=True,
    max_examples=int(os.environ.get("KPBPF_EXAMPLES", USUAL_EXAMPLES)),
)
settings.load_profile("kpbpf")
