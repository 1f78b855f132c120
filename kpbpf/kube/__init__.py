"""Where objects come from: raw Kubernetes objects become model values here.

Manifest directories, and later the API server. Nothing here decides about traffic or
writes a map.
"""
