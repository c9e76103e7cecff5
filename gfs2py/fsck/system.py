"""The system files behind the master directory: journals, statfs, quota, per-node files.

Source of the rules: gfs2-utils gfs2/fsck/main.c check_statfs, pass2.c check_pernode_for, fs_recovery.c;
fs/gfs2/super.c and quota.c for what the numbers mean.
"""

import re
import struct

from gfs2py.fsck._check import Checker
from gfs2py.fsck._state import Kind
from gfs2py.fsck.report import Report

MAX_JOURNALS = 1024
SEQUENCE_TOLERANCE = 10  # sequence errors gfs2-utils lets pass
HEAD_UNMOUNT = 1
QC_FLAGS_KNOWN = 1
QUOTA_BYTES = 88


def _missing(ck: Checker, where: int, name: str) -> None:
    ck.add(Kind.K_SYS_MISSING, where, where, 0, 0, name.encode())


def _size(ck: Checker, addr: int, name: str, wanted: int) -> bool:
    """Has the system file its one right size?"""
    di = ck.dinode(addr)
    if di is None:
        return False
    if di[1] != wanted:
        ck.add(Kind.K_SYS_SIZE, addr, addr, wanted, di[1], name.encode())
        return False
    return True


def _journal_count(ck: Checker, jindex: int, per_node: int) -> int:
    """How many journals there are: three per-node files for each; without per_node what jindex has."""
    for addr, per in ((per_node, 3), (jindex, 1)):
        di = ck.dinode(addr)
        if di is not None and di[2] > 2:
            return min((di[2] - 2) // per, MAX_JOURNALS)
    return 0


def check_journals(ck: Checker, report: Report, master: int, *, full: bool) -> None:
    """Every journal's form and head; a dirty one is a warning, as the file system is checked as it is."""
    jindex = ck.lookup(master, b"jindex")
    per_node = ck.lookup(master, b"per_node")
    if not jindex:
        _missing(ck, master, "jindex")
        return
    n = _journal_count(ck, jindex, per_node)
    di = ck.dinode(jindex)
    if di is not None and di[2] - 2 > n:
        n = min(di[2] - 2, MAX_JOURNALS)
    for entry in ck.names(jindex):
        if entry not in (b".", b"..") and not re.fullmatch(rb"journal[0-9]+", entry):
            ck.add(Kind.K_JINDEX_NAME, jindex, jindex, 0, 0, entry)
    for jid in range(n):
        name = f"journal{jid}"
        addr = ck.lookup(jindex, name.encode())
        if not addr:
            _missing(ck, jindex, name)
            continue
        info = ck.journal(addr, full)
        info["jid"], info["addr"] = jid, addr
        report.journals.append(info)
        raw = name.encode()
        if not info["found"]:
            ck.add(Kind.K_JOURNAL_NO_HEAD, addr, addr, 0, 0, raw)
            continue
        if full and info["n_bad"]:
            ck.add(Kind.K_JOURNAL_HEADER, addr, addr, 0, info["n_bad"], raw)
        if info["n_drops"] > 1 + SEQUENCE_TOLERANCE:
            ck.add(Kind.K_JOURNAL_SEQ, addr, addr, 1, info["n_drops"] - 1, raw)
        if not info["flags"] & HEAD_UNMOUNT:
            report.dirty_journals.append(jid)
            ck.add(Kind.K_JOURNAL_DIRTY, info["head_block"], addr, HEAD_UNMOUNT, info["flags"], raw)


def _statfs_numbers(raw: bytes | None) -> tuple[int, int, int] | None:
    return struct.unpack(">qqq", raw) if raw is not None and len(raw) == 24 else None


def check_statfs(ck: Checker, report: Report, master: int, counts: dict[str, int]) -> None:
    """The master statfs file plus what nodes have not yet added to it, against the bitmaps.

    With a dirty journal the numbers are in motion (the log head carries part of them): nothing is said then.
    """
    addr = ck.lookup(master, b"statfs")
    if not addr:
        _missing(ck, master, "statfs")
        return
    if not _size(ck, addr, "statfs", 24):
        return
    now = _statfs_numbers(ck.read_file(addr, 0, 24))
    per_node = ck.lookup(master, b"per_node")
    if now is None:
        return
    total = list(now)
    for j in report.journals:
        name = f"statfs_change{j['jid']}"
        file = ck.lookup(per_node, name.encode()) if per_node else 0
        change = _statfs_numbers(ck.read_file(file, 0, 24))
        if change is not None and any(change):
            ck.add(Kind.K_STATFS_PENDING, addr, addr, 0, 0, name.encode())
            total = [a + b for a, b in zip(total, change, strict=True)]
    if report.dirty_journals:
        return
    wanted = (counts["total"], counts["free"], counts["dinodes"] + counts["unlinked"])
    mask = (1 << 64) - 1
    for name, want, got in zip(("sc_total", "sc_free", "sc_dinodes"), wanted, total, strict=True):
        if want != got:
            ck.add(Kind.K_STATFS, addr, addr, want, got & mask, name.encode())


def _quota_changes(ck: Checker, addr: int, name: str) -> dict[tuple[int, int], int]:
    """The records of a quota_change file, added up by (is_group, id)."""
    out: dict[tuple[int, int], int] = {}
    di = ck.dinode(addr)
    if di is None:
        return out
    size = di[1]
    if size == 0 or size % (1 << 20):
        ck.add(Kind.K_SYS_SIZE, addr, addr, 1 << 20, size, name.encode())
    for change, flags, ident in ck.quota_changes(addr, name.encode()):
        if flags & ~QC_FLAGS_KNOWN:
            ck.add(Kind.K_QC_FLAGS, addr, addr, 0, flags, name.encode())
        key = (0 if flags & 1 else 1, ident)
        out[key] = out.get(key, 0) + change
    return out


def check_per_node(ck: Checker, report: Report, master: int) -> dict[tuple[int, int], int]:
    """Each journal's inum_range, statfs_change and quota_change file. Returns the quota changes, added up."""
    changes: dict[tuple[int, int], int] = {}
    per_node = ck.lookup(master, b"per_node")
    if not per_node:
        _missing(ck, master, "per_node")
        return changes
    for j in report.journals:
        for stem, size in (("inum_range", 16), ("statfs_change", 24)):
            name = f"{stem}{j['jid']}"
            addr = ck.lookup(per_node, name.encode())
            if addr:
                _size(ck, addr, name, size)
            else:
                _missing(ck, per_node, name)
        name = f"quota_change{j['jid']}"
        addr = ck.lookup(per_node, name.encode())
        if not addr:
            _missing(ck, per_node, name)
            continue
        for key, n in _quota_changes(ck, addr, name).items():
            changes[key] = changes.get(key, 0) + n
    return changes


def check_quota(ck: Checker, report: Report, master: int, changes: dict[tuple[int, int], int]) -> None:
    """The quota file's usage (plus changes not yet in it) against the blocks of each user and group.

    Kernels only keep the numbers on mounts with quota=on or account, so a difference is a note, not an error.
    """
    addr = ck.lookup(master, b"quota")
    if not addr:
        _missing(ck, master, "quota")
        return
    usage = ck.usage()
    if usage is None or report.dirty_journals:
        return
    for (group, ident), blocks in sorted(usage.items()):
        raw = ck.read_file(addr, (2 * ident + group) * QUOTA_BYTES, 24)
        value = struct.unpack(">QQQ", raw)[2] if raw is not None and len(raw) == 24 else 0
        value += changes.get((group, ident), 0)
        if value != blocks:
            who = f"{'group' if group else 'user'} {ident}"
            ck.add(Kind.K_QUOTA_USAGE, addr, addr, blocks, value & ((1 << 64) - 1), who.encode())


def check_system(ck: Checker, report: Report, counts: dict[str, int], *, full_journals: bool,
                 quota: bool) -> None:  # fmt: skip
    """All system files."""
    master = counts["master"]
    check_journals(ck, report, master, full=full_journals)
    inum = ck.lookup(master, b"inum")
    if inum:
        _size(ck, inum, "inum", 8)
    else:
        _missing(ck, master, "inum")
    changes = check_per_node(ck, report, master)
    check_statfs(ck, report, master, counts)
    if quota:
        check_quota(ck, report, master, changes)
