"""Benchmarks: programs with --help that print figures. Nothing here is asserted, nothing ships."""
