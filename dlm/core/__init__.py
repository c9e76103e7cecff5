"""The lock engine: the algorithms and messages of the Linux kernel's DLM as machines without I/O or clock.

Compiled: `dlm.core._lockspace` is the machine, `dlm.core._wire` the packets; `dlm.core.packets` and
`dlm.core.events` are the plain data that they take and give.
"""
