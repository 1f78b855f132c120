"""What the cluster says, as small frozen values: Services, endpoints, nodes, pods.

Here live the objects and the pure choice of endpoints. Nothing here does I/O, knows a
map, a file or the API server.
"""
