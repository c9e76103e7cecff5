"""Measures several nodes at once: one shared file system mounted by one to four nodes of the lab.

  python -m bench.cluster [--smoke] [--only ROW,...] [--peers NAME,...] [--nodes N] [--repeats N] [--seconds S]

  worker.py   runs in a node: does what it is told at the moment that it is told, all nodes at once
  crew.py     the workers of a room, as one object
  peers.py    how each file system is made and mounted on the nodes
  rows.py     what is measured: one function per group of rows
  claims.py   ratios that the project promises, with kernel GFS2's beside them
"""
