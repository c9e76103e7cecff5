"""The machine room: a whole cluster on one Linux machine, for people and for tests. See docs/design/lab.md.

    with lab.Lab(lab.guide_topology(nodes=3)) as room:
        room.exec("web1", ["mkfs.gfs2", "-O", "/dev/sdb5"], check=True)
        room.power("off", "web2")

What a node starts with (its pid 1, the way into it) imports this package too, hence nothing is loaded here before
it is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lab.client import Lab
    from lab.errors import LabError
    from lab.topology import Node, Topology, guide_topology

__all__ = ["Lab", "LabError", "Node", "Topology", "guide_topology"]

_HOME = {"Lab": "lab.client", "LabError": "lab.errors", "Node": "lab.topology", "Topology": "lab.topology",
         "guide_topology": "lab.topology"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lab' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
