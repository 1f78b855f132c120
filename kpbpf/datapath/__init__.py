"""Programs and interfaces: what is loaded into the kernel, and where it is attached.

`kernel` says whether this machine will do; `build` compiles and loads, in a process of its own,
and is the only module that knows bcc; `programs` runs it when something changed; `attach` puts
programs on interfaces and takes them off; `netns` looks into a pod's network namespace. What the
programs decide lives in `bpf_src`, what they look up in `maps`.
"""
