"""The packets of the kernel's DLM protocol 3.2 as plain data: what `_wire.unpack` gives and `_wire.pack` takes.

Units: lengths in bytes; modes as in LockMode, -1 for none.
Source: fs/dlm/dlm_internal.h (struct dlm_header, dlm_message, dlm_rcom and the rcom_ structures), kernel 6.1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Command(enum.IntEnum):
    """h_cmd of the header. The engine sees MSG and RCOM only; the others belong to the transport."""

    MSG = 1
    RCOM = 2
    OPTS = 3
    ACK = 4
    FIN = 5


class MsgType(enum.IntEnum):
    REQUEST = 1
    CONVERT = 2
    UNLOCK = 3
    CANCEL = 4
    REQUEST_REPLY = 5
    CONVERT_REPLY = 6
    UNLOCK_REPLY = 7
    CANCEL_REPLY = 8
    GRANT = 9
    BAST = 10
    LOOKUP = 11
    REMOVE = 12
    LOOKUP_REPLY = 13
    PURGE = 14


class RcomType(enum.IntEnum):
    STATUS = 1
    NAMES = 2
    LOOKUP = 3
    LOCK = 4
    STATUS_REPLY = 5
    NAMES_REPLY = 6
    LOOKUP_REPLY = 7
    LOCK_REPLY = 8


class LockMode(enum.IntEnum):
    IV = -1
    NL = 0
    CR = 1
    CW = 2
    PR = 3
    PW = 4
    EX = 5


class Flag(enum.IntFlag):
    """Flags of lock and unlock (DLM_LKF_): the same numbers as the kernel's, for they travel."""

    NOQUEUE = 0x1
    CANCEL = 0x2
    CONVERT = 0x4
    VALBLK = 0x8
    QUECVT = 0x10
    IVVALBLK = 0x20
    CONVDEADLK = 0x40
    PERSISTENT = 0x80
    NODLCKWT = 0x100
    NODLCKBLK = 0x200
    EXPEDITE = 0x400
    NOQUEUEBAST = 0x800
    HEADQUE = 0x1000
    NOORDER = 0x2000
    ORPHAN = 0x4000
    ALTPR = 0x8000
    ALTCW = 0x10000
    FORCEUNLOCK = 0x20000
    TIMEOUT = 0x40000


class StatusFlag(enum.IntFlag):
    """Flags of a completed operation (DLM_SBF_)."""

    DEMOTED = 0x1
    VALNOTVALID = 0x2
    ALTMODE = 0x4


class RecoverStatus(enum.IntFlag):
    """How far a node's recovery is: rc_result of STATUS_REPLY."""

    NODES = 0x1
    NODES_ALL = 0x2
    DIR = 0x4
    DIR_ALL = 0x8
    LOCKS = 0x10
    LOCKS_ALL = 0x20
    DONE = 0x40
    DONE_ALL = 0x80


# Completion codes that are no errno.
ECANCEL = 0x10001
EUNLOCK = 0x10002

VERSION = 0x00030002
RESNAME_MAX = 64
LVB_MAX = 512


@dataclass(frozen=True, slots=True)
class Message:
    """One DLM_MSG. `extra` is the name of the resource or the lock value block, by type."""

    lockspace: int
    nodeid: int
    type: MsgType
    m_nodeid: int = 0
    pid: int = 0
    lkid: int = 0
    remid: int = 0
    exflags: int = 0
    sbflags: int = 0
    flags: int = 0
    lvbseq: int = 0
    hash: int = 0
    status: int = 0
    grmode: int = 0
    rqmode: int = 0
    bastmode: int = 0
    asts: int = 0
    result: int = 0
    extra: bytes = b""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Slot:
    """Which journal slot (from 1) a node has."""

    nodeid: int
    slot: int


@dataclass(frozen=True, slots=True)
class Config:
    """What a node says of itself in STATUS_REPLY; slots only when they were asked for."""

    lvblen: int
    lsflags: int
    our_slot: int = 0
    generation: int = 0
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class RcomLock:
    """A lock on its way to a new master (LOCK) and the answer (LOCK_REPLY)."""

    lkid: int
    name: bytes
    ownpid: int = 0
    remid: int = 0
    exflags: int = 0
    flags: int = 0
    lvbseq: int = 0
    result: int = 0
    rqmode: int = -1
    grmode: int = -1
    status: int = 0
    asts: int = 0
    wait_type: int = 0
    lvb: bytes = b""


@dataclass(frozen=True, slots=True)
class Rcom:
    """One DLM_RCOM.

    `body` by type: need_slots (STATUS), Config (STATUS_REPLY), a name (NAMES: the last one seen; LOOKUP), the raw
    block of names (NAMES_REPLY), RcomLock (LOCK, LOCK_REPLY), nothing (LOOKUP_REPLY).
    """

    lockspace: int
    nodeid: int
    type: RcomType
    result: int = 0
    id: int = 0
    seq: int = 0
    seq_reply: int = 0
    body: bool | bytes | Config | RcomLock | None = None
    version: int = VERSION
