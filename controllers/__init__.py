"""Loops: something changed, so recompute what is wanted and write it.

The only rooms that know both what the cluster says and what the maps hold. Programs are
not loaded here, and packets are never seen.
"""
