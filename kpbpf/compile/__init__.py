"""Model to map entries, as pure functions.

Nothing here reads or writes a map, a file or the API: it says what should be there.
"""
