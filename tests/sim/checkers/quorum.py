"""At most one component works at any time: quorate, with everybody else confirmed dead or gone.

Nodes that are paused or cut off still count as working until their power is off: that is what fencing is for.
"""

from __future__ import annotations

from typing import Any

from sim.checkers import Violation
from sim.cluster_stack import Active
from sim.kernel import Kernel, SimNode


class QuorumChecker:
    """Watches Active; looks at power by itself."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # node -> its life, and its component as it last said.
        self.working: dict[int, tuple[int, Active]] = {}
        self.times = 0

    def __call__(self, node: SimNode, what: Any, now_ns: int) -> None:
        if not isinstance(what, Active):
            return
        if not what.active:
            self.working.pop(node.node_id, None)
            return
        self.times += 1
        self.working[node.node_id] = (node.life, what)
        for other, (life, said) in list(self.working.items()):
            there = self.kernel.nodes[other]
            if there.process is None or there.life != life:
                del self.working[other]
            elif other not in what.members and (node.node_id not in said.members or said.ring_id < what.ring_id):
                # With a newer ring that we belong to it is only ahead of us; an older one is a zombie's.
                raise Violation(f"nodes {node.node_id} in {what} and {other} in {said} both work")
