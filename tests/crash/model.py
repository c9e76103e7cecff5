"""What the file system should hold: one immutable state per operation, and what was promised when.

Inodes are numbered as on disk is irrelevant here: the model gives each a serial number and remembers the volume's
number beside it. A state maps serials to records; records are shared between states, so that a history of hundreds of
states costs little.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

ROOT = 0
FILE, DIR, LINK, OTHER = "file", "dir", "link", "other"
# FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of linux/fs.h and its flags
GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
SYNC, IMMUTABLE, APPEND, NOATIME, JOURNAL_DATA = 0x8, 0x10, 0x20, 0x80, 0x4000
FLAGS_SEEN = SYNC | IMMUTABLE | APPEND | NOATIME | JOURNAL_DATA


@dataclass(frozen=True, slots=True)
class Rec:
    """One inode: what it is and holds. `ino` is the volume's number of it."""

    kind: str
    ino: int
    mode: int
    content: bytes = b""        # of a file, or a symbolic link's target
    entries: tuple[tuple[bytes, int], ...] = ()     # of a directory: (name, serial), ascending
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    flags: int = 0              # of FLAGS_SEEN, as FS_IOC_GETFLAGS has them

    @property
    def jdata(self) -> bool:
        return bool(self.flags & JOURNAL_DATA)


State = dict[int, Rec]


class Seen(NamedTuple):
    """An inode as a walk of a mounted volume finds it; contents are read apart."""

    kind: str
    ino: int
    mode: int
    size: int
    nlink: int
    uid: int
    gid: int
    flags: int
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]


View = dict[bytes, Seen]        # by path


def see(rec: Rec) -> Seen:
    return Seen(rec.kind, rec.ino, rec.mode, len(rec.content) if rec.kind in (FILE, LINK) else 0, rec.nlink,
                rec.uid, rec.gid, rec.flags, rec.content if rec.kind == LINK else b"", rec.xattrs)


@dataclass(slots=True)
class Step:
    """One operation: when it began (boundaries completed before it) and what may be seen of it half done."""

    text: str
    began: int
    busy: int | None = None     # the file that this operation changes in more than one transaction


@dataclass(slots=True)
class Promise:
    """Something acknowledged: `state` is what it refers to; `serial` None: everything."""

    state: int
    epoch: int
    serial: int | None
    datasync: bool = False


@dataclass(slots=True)
class History:
    """States[i] is the file system after step i; states[0] is what was there and durable at the beginning."""

    states: list[State]
    steps: list[Step] = field(default_factory=lambda: [Step("start", 0)])
    promises: list[Promise] = field(default_factory=list)
    views: dict[int, View] = field(default_factory=dict)
    outside: set[int] = field(default_factory=set)      # files that left their dinodes though they are short enough

    @property
    def now(self) -> State:
        return self.states[-1]

    def add(self, state: State, step: Step) -> None:
        self.states.append(state)
        self.steps.append(step)

    def view(self, i: int) -> View:
        """The paths of state i."""
        if i not in self.views:
            self.views[i] = view_of(self.states[i])
        return self.views[i]

    def last_begun(self, epoch: int) -> int:
        """The last step that may have written anything that a cut in `epoch` shows."""
        i = len(self.steps) - 1
        while i > 0 and self.steps[i].began > epoch:
            i -= 1
        return i


def view_of(state: State) -> View:
    out: View = {}
    todo = [(b"", ROOT)]
    while todo:
        path, serial = todo.pop()
        rec = state[serial]
        out[path or b"/"] = see(rec)
        if rec.kind == DIR:
            todo += [(path + b"/" + name, child) for name, child in rec.entries]
    return out


def paths_of(state: State) -> dict[bytes, int]:
    """Serial by path."""
    out: dict[bytes, int] = {}
    todo = [(b"", ROOT)]
    while todo:
        path, serial = todo.pop()
        out[path or b"/"] = serial
        if state[serial].kind == DIR:
            todo += [(path + b"/" + name, child) for name, child in state[serial].entries]
    return out


def with_entry(state: State, parent: int, name: bytes, serial: int | None) -> State:
    """The state with one name made, changed or (None) removed."""
    entries = dict(state[parent].entries)
    if serial is None:
        del entries[name]
    else:
        entries[name] = serial
    return {**state, parent: replace(state[parent], entries=tuple(sorted(entries.items())))}


def with_content(state: State, serial: int, content: bytes) -> State:
    return {**state, serial: replace(state[serial], content=content)}


def with_links(state: State, serial: int, change: int) -> State:
    """One link more or less; the record of an inode without links goes."""
    rec = state[serial]
    if rec.nlink + change <= (1 if rec.kind == DIR else 0):
        return {k: v for k, v in state.items() if k != serial}
    return {**state, serial: replace(rec, nlink=rec.nlink + change)}
