"""Judges a disk as a crash left it: mount (replay), check, and compare with the history.

What is demanded of the recovered file system S, for a cut in epoch e:

1. The checker finds nothing but inodes that wait to be freed.
2. There is a state i of the history, at least the last one that a full sync acknowledged before e, such that every name
   and every inode's attributes in S are those of state i. Operations are all or nothing and survive in their order. One
   exception: step i+1 may be half done if it takes several transactions (a long write, a truncation); then that one
   file's size may lie between.
3. What an fsync of one file or directory acknowledged is in S even if state i is older: nothing of it changed between.
4. Journaled and stuffed data are metadata: exactly as in state i.
5. Ordinary data, data=ordered: every sector of 512 bytes is as in one of the states from i (or the file's last fsync)
   to the last step begun before e. So nothing older than the metadata, nothing that was never written.
   data=writeback: sectors that did not change from the last acknowledgement on are intact; others may be anything.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from dataclasses import dataclass, field

from crash.model import (
    DIR,
    FILE,
    FLAGS_SEEN,
    GETFLAGS,
    LINK,
    OTHER,
    History,
    Promise,
    Rec,
    Seen,
    View,
    paths_of,
)
from gfs2py.block._device import BlockDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check

SECTOR = 512
KIND_OF_DTYPE = {4: DIR, 8: FILE, 10: LINK}
# A journal smaller than mkfs makes them is what these tests want.
FINE = frozenset({"di_unlinked", "di_trunc", "journal_size"})
# Where an I/O failed, an unmount may leave the folding of counters to the next mount.
FINE_HURT = FINE | {"statfs_pending"}
DINODE = 232


def keep_memory() -> None:
    """Every mount allocates and frees some megabytes: keep them instead of giving them back to the kernel."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)       # M_MMAP_THRESHOLD
    libc.mallopt(-1, 1 << 30)       # M_TRIM_THRESHOLD


class Lost(AssertionError):
    """A promise broken."""


@dataclass(slots=True)
class Recovered:
    """What a mount found: attributes by path, contents by inode number, and whether it replayed."""

    view: View
    contents: dict[int, bytes]
    replayed: int
    revoked: int = 0
    notes: frozenset[str] = frozenset()     # what the checker found besides nothing


def walk(volume: Volume) -> tuple[View, dict[int, bytes]]:
    """All names with their attributes, and all files' contents, of a mounted volume."""
    calls = volume.calls
    root = calls.getattr(1)
    view: View = {b"/": Seen(DIR, root.ino, root.mode & 0o7777, 0, root.nlink, root.uid, root.gid, flags_of(volume, 1),
                             b"", xattrs_of(volume, 1))}
    contents: dict[int, bytes] = {}
    todo = [(b"", 1)]
    while todo:
        path, parent = todo.pop()
        off = 0
        while batch := calls.readdir(parent, off):
            off = batch[-1].next_off
            for entry in batch:
                if entry.name in (b".", b".."):
                    continue
                node, attr = calls.lookup(parent, entry.name)
                kind = KIND_OF_DTYPE.get(attr.mode >> 12, OTHER)
                child = path + b"/" + entry.name
                target = b""
                if kind == FILE and attr.ino not in contents:
                    contents[attr.ino] = read_all(volume, node, attr.size)
                elif kind == DIR:
                    todo.append((child, node))
                elif kind == LINK:
                    target = calls.readlink(node)
                if child in view or entry.ino != attr.ino:
                    raise Lost(f"{child!r} twice in its directory, or its number is wrong")
                view[child] = Seen(kind, attr.ino, attr.mode & 0o7777, attr.size if kind in (FILE, LINK) else 0,
                                   attr.nlink, attr.uid, attr.gid, flags_of(volume, node) if kind != OTHER else 0,
                                   target, xattrs_of(volume, node))
                calls.forget(node)
    return view, contents


def xattrs_of(volume: Volume, node: int) -> tuple[tuple[bytes, bytes], ...]:
    names = volume.calls.listxattr(node)
    return tuple(sorted((name, volume.calls.getxattr(node, name)) for name in names)) if names else ()


def flags_of(volume: Volume, node: int) -> int:
    flags: int = struct.unpack("<I", volume.calls.ioctl(node, GETFLAGS, b"", 4))[0]
    return flags & FLAGS_SEEN


def read_all(volume: Volume, node: int, size: int) -> bytes:
    if size <= 1 << 20:
        return volume.calls.read(node, 0, size) if size else b""
    return b"".join(volume.calls.read(node, off, min(1 << 20, size - off)) for off in range(0, size, 1 << 20))


def recover(device: BlockDevice, *, flags: tuple[str, ...] = ("rdonly", "acl"), quota: bool = False,
            fine: frozenset[str] = FINE) -> Recovered:
    """Mount read-only (which replays), read everything, unmount, check."""
    try:
        volume = Volume(device, flags=flags, background=False, quiet=True, cache_bytes=1 << 20, inodes=256,
                        commit_ms=0)
    except OSError as e:
        raise Lost(f"it cannot be mounted: {e}") from e
    try:
        view, contents = walk(volume)
        found = volume.fs.withdrawn
        replayed = sum(r["replayed"] for r in volume.fs.recovered)
        revoked = sum(r["revoked"] for r in volume.fs.recovered)
    except OSError as e:
        raise Lost(f"it cannot be read: {e} ({volume.fs.withdrawn})") from e
    finally:
        volume.abandon()
    if found:
        raise Lost(f"reading the recovered volume withdrew it: {found}")
    report = check(device, quota=quota)
    bad = [f.text for f in report.findings if f.code not in fine]
    if bad or not report.checked:
        raise Lost("the checker: " + "; ".join(bad[:5]))
    return Recovered(view, contents, replayed, revoked, frozenset(f.code for f in report.findings))


@dataclass(slots=True)
class Judge:
    """Compares recovered volumes with one history."""

    history: History
    bsize: int
    writeback: bool = False
    hurt: bool = False              # an I/O failed: bytes that no acknowledgement covers may be as old as the last one
    unknown: int | None = None      # serial of a file that a failed operation left half changed
    told: dict[int, int] = field(default_factory=dict)      # serial: the state at which an error of its data was told
    # What the files' blocks held at first, also behind their ends: once a write to such a block has failed, and its
    # error was told, growth uncovers it. It is what somebody wrote there, to this file, before the crash.
    behind: dict[int, bytes] = field(default_factory=dict)
    marks: Counter[str] = field(default_factory=Counter)

    def judge(self, epoch: int, got: Recovered) -> int:
        """The number of the state that was found; raises Lost with what was wrong with the best candidates."""
        last = self.history.last_begun(epoch)
        acked = [p for p in self.history.promises if p.epoch <= epoch]
        first = max((p.state for p in acked if p.serial is None), default=0)
        single = {}
        for p in acked:
            if p.serial is not None and p.state > first:
                single[(p.serial, p.datasync)] = p
        why: list[tuple[int, str]] = []
        for i in range(last, first - 1, -1):
            wrong = self.names_differ(i, got)
            if wrong is None:
                wrong = self.promise_broken(i, single) or self.data_wrong(i, last, single, got)
                if wrong is None:
                    return i
                wrong = "names are right, but " + wrong
            why.append((int(wrong.split()[0]) if wrong[0].isdigit() else 0, f"state {i}: {wrong}"))
        why.sort()
        raise Lost(f"no state of {first}..{last} is what the disk holds:\n" + "\n".join(w for _, w in why[:6]))

    # -- rule 2

    def names_differ(self, i: int, got: Recovered) -> str | None:
        want = self.history.view(i)
        if want == got.view:
            return None
        busy = self.history.steps[i + 1].busy if i + 1 < len(self.history.steps) else self.unknown
        odd = [p for p in want.keys() | got.view.keys() if want.get(p) != got.view.get(p)]
        if busy is not None and busy in self.history.states[i]:
            before = self.history.states[i][busy]
            if i + 1 < len(self.history.steps):
                after = self.history.states[i + 1].get(busy, before)
                low, high = sorted((len(before.content), len(after.content)))
            else:
                low, high = 0, 1 << 40
            if all(self.half_done(want.get(p), got.view.get(p), before, low, high) for p in odd):
                self.marks["seen half done"] += 1
                return None
        p = min(odd)
        return f"{len(odd)} names differ, {p!r}: wanted {brief(want.get(p))}, found {brief(got.view.get(p))}"

    def half_done(self, want: Seen | None, seen: Seen | None, before: Rec, low: int, high: int) -> bool:
        if want is None or seen is None or want.ino != before.ino or not low <= seen.size <= high:
            return False
        return want._replace(size=seen.size) == seen

    # -- rule 3

    def promise_broken(self, i: int, single: dict[tuple[int, bool], Promise]) -> str | None:
        state = self.history.states[i]
        for (serial, datasync), p in single.items():
            if p.state <= i:
                continue
            want, have = self.history.states[p.state].get(serial), state.get(serial)
            if want is None or want is have:
                continue
            if datasync and have is not None:
                same = len(have.content) == len(want.content) and (
                    have.content == want.content or not self.journaled(serial, have, p.state))
            else:
                same = have == want
            if not same:
                return f"step {p.state} ({self.history.steps[p.state].text}) was acknowledged and is not there"
        return None

    # -- rules 4 and 5

    def data_wrong(self, i: int, last: int, single: dict[tuple[int, bool], Promise], got: Recovered) -> str | None:
        state = self.history.states[i]
        busy = self.history.steps[i + 1].busy if i + 1 < len(self.history.steps) else None
        done = set()
        for path, serial in paths_of(state).items():
            rec = state[serial]
            if rec.kind != FILE or serial in done or serial == self.unknown:
                continue
            done.add(serial)
            data = got.contents[rec.ino]
            if data == rec.content:
                low = self.durable_from(i, serial, single)
                if low <= i:
                    continue
            wrong = self.file_wrong(i, last, serial, single, data, busy == serial)
            if wrong:
                return f"{path!r} (inode {rec.ino}): {wrong}"
        return None

    def durable_from(self, i: int, serial: int, single: dict[tuple[int, bool], Promise]) -> int:
        return max([i] + [p.state for (s, _), p in single.items() if s == serial])

    def journaled(self, serial: int, rec: Rec, last: int) -> bool:
        """Content that commits carry: always jdata, or a file that has never been longer than a dinode can hold."""
        recs = [state[serial] for state in self.history.states[:last + 1] if serial in state]
        if rec.jdata and all(r.jdata or not r.content for r in recs):
            return True
        # Of a file that was there before, nobody knows how long it once was.
        if serial in self.history.states[0] or serial in self.history.outside:
            return False
        return max(len(r.content) for r in recs) <= self.bsize - DINODE

    def file_wrong(self, i: int, last: int, serial: int, single: dict[tuple[int, bool], Promise], data: bytes,
                   busy: bool) -> str | None:
        rec = self.history.states[i][serial]
        low = self.durable_from(i, serial, single)
        journaled = self.journaled(serial, rec, last)
        loose = self.writeback and not journaled
        safe = 0            # data=writeback: bytes that an acknowledgement covers
        if loose or (self.hurt and not journaled):
            low = 0 if serial in self.told else max((p.state for p in self.history.promises if p.state <= low and
                                                     p.serial in (None, serial)), default=0)
            if serial in self.history.states[low] and serial not in self.told:
                safe = len(self.history.states[low][serial].content)
        if journaled:
            last = i + 1 if busy and rec.jdata else i
            low = i if low <= i else low
        versions = self.versions(serial, min(low, last), max(low, last))
        if serial in self.told and serial in self.behind and not journaled:
            versions.append(self.behind[serial])
        size = len(data)
        for off in range(0, size, SECTOR):
            sector = data[off:off + SECTOR]
            fitting = {v[off:off + len(sector)].ljust(len(sector), b"\0") for v in versions}
            if sector in fitting:
                continue
            if self.hurt and not journaled and all(b in {f[i] for f in fitting} for i, b in enumerate(sector)):
                continue        # a change of a part, on top of one that could not be written
            if loose and (len(fitting) > 1 or off + len(sector) > safe or not any(fitting.copy().pop())):
                continue
            return (f"bytes {off}+{len(sector)} of {size} are in none of {len(versions)} versions of states "
                    f"{low}..{last}: {sector[:24].hex()}..., versions {[f[:24].hex() for f in list(fitting)[:4]]}")
        return None

    def versions(self, serial: int, first: int, last: int) -> list[bytes]:
        found: list[bytes] = []
        for k in range(first, last + 1):
            rec = self.history.states[k].get(serial)
            if rec is not None and (not found or rec.content is not found[-1]):
                found.append(rec.content)
        return found


def brief(seen: Seen | None) -> str:
    if seen is None:
        return "nothing"
    return (f"{seen.kind} ino {seen.ino} mode {seen.mode:o} size {seen.size} nlink {seen.nlink} uid {seen.uid} "
            f"xattrs {[(n, len(v)) for n, v in seen.xattrs]}")
