"""Measures gfs2py beside other file systems, in one run, on the same disk.

  python -m bench [--smoke] [--only ROW,...] [--peers NAME,...] [--repeats N] [--dir DIR]

  peers.py    how each file system is made, mounted and unmounted
  rows.py     what is measured: one function per row
  report.py   JSON lines, and a markdown table with ratios
  tools.py    mkfs.gfs2 and fsck.gfs2 beside gfs2-utils (python -m bench.tools)
  population.py   an image with many files, made in process
  cluster/    several nodes of the lab and one file system, beside GlusterFS (python -m bench.cluster)
  bench_kernels.py   the engine's kernels alone, by pytest-benchmark
"""
