"""Who is in a group, and why somebody came or went: the words that the groups and their clients share.

Apart from cman.cpg, because a client need not load the protocol below it: every shared mount is one.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Reason(enum.IntEnum):
    """Why a member came or went; the numbers are libcpg's."""

    JOIN = 1
    LEAVE = 2
    NODEDOWN = 3
    NODEUP = 4
    PROCDOWN = 5


class Member(NamedTuple):
    """A process in a group: pid is whatever number its node knows it by."""

    node: int
    pid: int
