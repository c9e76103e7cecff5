"""A stock Debian kernel's DLM to talk to: one guest in QEMU that a test drives step by step.

  image.py    a small initramfs made from the oracle's, with the agent in it
  agent.py    runs in the guest: lockspaces by configfs and sysfs, locks by /dev/dlm_NAME
  net.py      a network namespace with a tap for the guest and an address for each node of ours
  guest.py    QEMU and the line to the agent

One boot (5 to 10 s under TCG) serves many steps: every step takes a lockspace of its own.
"""
