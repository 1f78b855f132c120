"""The command line: `kpbpf OBJECT VERB`, one module for each object.

Every module has `configure(parser)`, which adds its verbs and names the function to call, and
imports nothing slow before that function runs. Reading commands need only the pins, and work
while the daemon is down. Nothing here decides about traffic.
"""
