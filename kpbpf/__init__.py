"""kpbpf: Kubernetes Services in eBPF, for the pods of one node.

Here live the ground modules (errors, log, address, home, metrics) and, in packages, the rooms
that a change walks through: kube, model, compile, datapath, and the doors cli and daemon. The
kernel tables live in `maps`, the loops in `controllers`, the C in `bpf_src`. Importing this
package imports none of them.
"""
