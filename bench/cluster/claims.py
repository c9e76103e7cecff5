"""Ratios that the project promises, from the figures of one run, with kernel GFS2's own beside them.

The kernel's are of two guests with lock_dlm against one with lock_nolock (tests/interop/kernel-gfs2): ratios travel
between machines, figures do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench.report import OURS, Results, short

ALONE = "lock_nolock"


@dataclass(frozen=True)
class Claim:
    """What is promised: at least this much."""

    name: str
    value: Callable[[Results], float]
    least: float
    kernel: str


def median(results: Results, row: str, peer: str = OURS) -> float:
    """Raises KeyError when the row was not measured."""
    return statistics.median(results[row][peer].values)


def of_alone(row: str, alone_row: str = "") -> Callable[[Results], float]:
    return lambda r: median(r, row) / median(r, alone_row or row, ALONE)


def slowed(nodes: int) -> Callable[[Results], float]:
    """What each node keeps of its rate when so many work, in directories of their own."""
    return lambda r: median(r, f"create, own directories, {nodes} nodes") / nodes / median(
        r, "create, own directories, 1 node")


def dearer(nodes: int) -> Callable[[Results], float]:
    """The same by processor time: what a create cost with one node, of what it costs with so many."""
    return lambda r: median(r, "create, own directories, 1 node: processor") / median(
        r, f"create, own directories, {nodes} nodes: processor")


ONE = "create, own directories, 1 node"
CLAIMS = (
    Claim("creates with lock_dlm, one active node / lock_nolock", of_alone(ONE), 0.8, "0.086"),
    Claim("creates of two nodes in own directories, in sum / lock_nolock", of_alone("create, own directories, 2 nodes",
                                                                                    ONE), 1.2, "0.10"),
    Claim("creates of two nodes in one directory, in sum / lock_nolock", of_alone("create, one directory, 2 nodes",
                                                                                  ONE), 0.09, "0.09"),
    Claim("fcntl lock + write + unlock / lock_nolock", of_alone("fcntl + write + unlock, 1 node"), 0.5, "0.004"),
    Claim("flock + write + unlock / lock_nolock", of_alone("flock + write + unlock, 1 node"), 0.5, "1"),
    Claim("turns on one file, per second and node", lambda r: median(r, "turns on one file, 2 nodes, of each"), 300,
          "5.1"),
    *(Claim(f"creates in own directories: rate of each of {n} nodes / of one alone", slowed(n), 0, "-")
      for n in (2, 3, 4)),
    *(Claim(f"creates in own directories: processor time of one with 1 node / with {n}", dearer(n), 0.8, "-")
      for n in (2, 3, 4)),
    Claim("power loss to the next create, 3 s / measured",
          lambda r: 3000 / median(r, "power loss to the next create in its directory"), 1, "-"),
)


def table(results: Results) -> str:
    """What was measured of them."""
    out = ["| promise | measured | at least | kernel GFS2 |", "| --- | ---: | ---: | ---: |"]
    for claim in CLAIMS:
        try:
            value = claim.value(results)
        except (KeyError, ZeroDivisionError):
            continue
        out.append(f"| {claim.name} | {short(value)} | {claim.least or '-'} | {claim.kernel} |")
    return "\n".join(out)
