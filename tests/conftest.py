"""Settings for every test: Hypothesis without deadlines, since build machines are noisy."""

from hypothesis import settings

settings.register_profile("kpbpf", deadline=None, print_blob=True)
settings.load_profile("kpbpf")
