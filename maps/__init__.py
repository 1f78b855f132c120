"""The kernel's tables: their layout, typed access to them, and rows of them for people.

`layout` and the generated `abi` say what an entry is; `bpf` is the one place that calls bpf(2);
`table` opens, checks and reads and writes; `fake` is the same in memory; `show` turns entries
into rows. What an entry should be is decided elsewhere: nothing here knows Kubernetes.
"""
