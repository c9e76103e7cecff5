"""What the machine tells and what it is told, as plain data.

Units: times in ns of any monotonic clock, lengths in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlm.core.packets import Slot


@dataclass(frozen=True, slots=True)
class Node:
    """A member as start() names it. `comm_seq` differs from the last start's if the node was away in between."""

    nodeid: int
    weight: int = 1
    comm_seq: int = 0


@dataclass(frozen=True, slots=True)
class Cast:
    """An operation has ended. status: 0, -errno, -EUNLOCK or -ECANCEL; mode: what is granted now, -1 for nothing.

    `value` is the lock value block for locks that have one.
    """

    lkid: int
    cookie: int
    status: int
    flags: int
    mode: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Bast:
    """This lock is in the way of a request for `mode`."""

    lkid: int
    cookie: int
    mode: int


@dataclass(frozen=True, slots=True)
class RecoverPrep:
    """Locking has stopped; GFS2 uses no lock from here on that is not its own already."""


@dataclass(frozen=True, slots=True)
class RecoverSlot:
    """A member has failed that had this slot (0: none yet): its journal is slot - 1."""

    nodeid: int
    slot: int


@dataclass(frozen=True, slots=True)
class RecoverDone:
    """Locking goes on. Our own slot and those of all members, in the order of their ids."""

    generation: int
    our_slot: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class RecoverFailed:
    """Recovery cannot go on: `errno`, because of that node. Another stop and start may."""

    errno: int
    nodeid: int


Event = Cast | Bast | RecoverPrep | RecoverSlot | RecoverDone | RecoverFailed


@dataclass(frozen=True, slots=True)
class LockDump:
    """One lock or request. `kind`: "local", "process" (mastered elsewhere) or "master" (owned by `nodeid`)."""

    lkid: int
    remid: int
    nodeid: int
    kind: str
    queue: str
    grmode: int
    rqmode: int
    exflags: int
    flags: int
    pid: int
    wait_type: int
    since_ns: int
    lvbseq: int


@dataclass(frozen=True, slots=True)
class ResourceDump:
    """One resource; `master` 0 is unknown. `tossed`: unused, or only known to the directory."""

    name: bytes
    master: int
    directory: int
    tossed: bool
    value: bytes | None
    lvbseq: int
    value_invalid: bool
    locks: tuple[LockDump, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start, and sizes now."""

    requests: int
    converts: int
    unlocks: int
    cancels: int
    casts: int
    basts: int
    sent: int
    received: int
    refused: int
    lookups: int
    lookup_retries: int
    removes: int
    recoveries: int
    recovered_locks: int
    parked: int
    locks: int
    resources: int
    tossed: int
    waiting: int
    queued_messages: int
    queued_events: int
