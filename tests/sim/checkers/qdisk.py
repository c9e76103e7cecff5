"""The quorum disk: never have two masters the votes to give, nor two rings that know nothing of each other got them."""

from __future__ import annotations

from typing import Any

from sim.checkers import Violation
from sim.kernel import Kernel, SimNode
from sim.qdisk_stack import DiskCounts, Promise


class QdiskChecker:
    """Times are the cluster's, not a node's: what a node promised ends when it would have by its clock of then."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # node -> its life, and until when it has the votes.
        self.promises: dict[int, tuple[int, int]] = {}
        self.counting: dict[int, tuple[int, DiskCounts]] = {}
        self.masters: set[tuple[int, int]] = set()
        self.rings = 0

    def __call__(self, node: SimNode, what: Any, now_ns: int) -> None:
        if isinstance(what, Promise):
            self.promised(node, what, now_ns)
        elif isinstance(what, DiskCounts):
            self.counted(node, what)

    def promised(self, node: SimNode, what: Promise, now_ns: int) -> None:
        self.masters.add((node.node_id, node.life))
        for other, (life, until_ns) in self.promises.items():
            there = self.kernel.nodes[other]
            if other != node.node_id and there.process is not None and there.life == life and until_ns > now_ns:
                raise Violation(f"nodes {node.node_id} and {other} are both masters of the quorum disk: the latter has "
                                f"the votes for {(until_ns - now_ns) / 1e9:.3f} s more")
        self.promises[node.node_id] = node.life, node.globally(what.until_ns)

    def counted(self, node: SimNode, what: DiskCounts) -> None:
        """Who has not noticed yet that the master has gone to another ring is late, but in the same master's hand."""
        self.counting[node.node_id] = node.life, what
        if not what.holder:
            return
        self.rings += 1
        if what.holder not in what.members:
            raise Violation(f"node {node.node_id} counts the quorum disk's votes without its master: {what}")
        for other, (life, said) in self.counting.items():
            there, master = self.kernel.nodes[other], self.kernel.nodes.get(said.holder)
            if there.process is None or there.life != life or there.paused or said.holder in (0, what.holder):
                continue
            # The word of a master that has died since is heard by nobody any more; its ring breaks.
            alive = master is not None and self.promises.get(said.holder, (0, 0))[0] == master.life
            if alive and other not in what.members and node.node_id not in said.members:
                raise Violation(f"the quorum disk's votes count on node {node.node_id} in {what} and on {other} in "
                                f"{said}")
