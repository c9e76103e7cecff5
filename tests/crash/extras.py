"""Operations of the workload beyond names and plain data: flags, ACLs, unnamed and unlinked files, scattered files."""

from __future__ import annotations

import struct
from dataclasses import replace

from crash.model import APPEND, DIR, FILE, IMMUTABLE, JOURNAL_DATA, LINK, NOATIME, OTHER, SETFLAGS, SYNC, with_content

FITRIM = 0xC0185879
KEEP_SIZE = 1
COMB_BLOCKS = 1500


def acl(owner: int, group: int, other: int, *, user: int = 7) -> bytes:
    """A POSIX ACL value with a named user, as setxattr takes it."""
    entries = [(1, owner, 0xFFFFFFFF), (2, group, user), (4, group, 0xFFFFFFFF), (16, group, 0xFFFFFFFF),
               (32, other, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


class Extras:
    """Part of Workload: needs its drawing and bookkeeping."""

    # -- flags

    def set_flags(self, path: bytes, flags: int) -> bool:
        """chattr; the record follows."""
        node = self.volume.node(path)
        try:
            if not self.attempt(f"chattr {path!r} {flags:#x}",
                                lambda: self.volume.calls.ioctl(node, SETFLAGS, struct.pack("<I", flags)) or True):
                return False
        finally:
            self.volume.calls.forget(node)
        serial = self.tree[path]
        self.done({**self.state, serial: replace(self.state[serial], flags=flags)})
        return True

    def thaw(self) -> None:
        """What a crash left immutable can be worked on again."""
        self.tree = self.paths_now()
        for path, serial in self.tree.items():
            if self.state[serial].flags & (IMMUTABLE | APPEND):
                self.set_flags(path, self.state[serial].flags & ~(IMMUTABLE | APPEND))

    def do_chattr(self) -> None:
        """Flags that forbid nothing; on a directory also: what is made in it is journaled."""
        path = self.movable()
        if path is None or self.state[self.tree[path]].kind in (LINK, OTHER):
            return
        rec = self.state[self.tree[path]]
        flags = self.rng.choice((0, NOATIME, SYNC, NOATIME | SYNC))
        if rec.kind == DIR and self.rng.random() < 0.5:
            flags |= JOURNAL_DATA
        elif rec.kind == FILE:
            flags |= rec.flags & JOURNAL_DATA
        self.set_flags(path, flags)

    def do_frozen(self) -> None:
        """Immutable or append-only for a while."""
        path = self.pick(FILE)
        if path is None:
            return
        before = self.state[self.tree[path]].flags
        if self.set_flags(path, before | self.rng.choice((IMMUTABLE, APPEND))):
            if self.rng.random() < 0.5:
                self.some_sync()
            self.set_flags(path, before)

    def empty_file(self) -> bytes | None:
        """A new one, None if there was no room for it."""
        path = self.new_path()
        attr = self.attempt(f"create {path!r}", lambda: self.volume.create(path))
        if attr is None:
            return None
        self.done(self.enter(path, self.record(path, FILE, attr)))
        self.tree = self.paths_now()
        return path

    def do_jdata(self) -> None:
        """chattr +j on a file while it is empty: its data go through the journal."""
        path = self.empty_file()
        if path is None:
            return
        self.set_flags(path, JOURNAL_DATA)
        self.write(path, 0, self.content(self.size()))

    def do_rejournal(self) -> None:
        """chattr +j or -j on a file with content."""
        path = self.pick(FILE)
        if path is not None and self.set_flags(path, self.state[self.tree[path]].flags ^ JOURNAL_DATA):
            self.write(path, 0, self.content(self.size()))

    def do_trim(self) -> None:
        """fstrim: what it gives back must be nobody's, also after a power cut."""
        want = struct.pack("=QQQ", 0, 1 << 62, 0)
        if self.attempt("fstrim", lambda: self.volume.calls.ioctl(1, FITRIM, want, 24)):
            self.done(self.state)

    # -- attributes

    def do_acl(self) -> None:
        """An access ACL: the mode changes with it."""
        path = self.movable()
        if path is None or self.state[self.tree[path]].kind in (LINK, OTHER):
            return
        value = acl(self.rng.randrange(8), self.rng.randrange(8), self.rng.randrange(8))
        if self.attempt(f"acl {path!r}",
                        lambda: self.volume.setxattr(path, b"system.posix_acl_access", value) or True):
            self.set_xattrs(path)

    def do_chgrp(self) -> None:
        path = self.movable()
        if path is not None:
            gid = self.rng.randrange(4)
            if self.attempt(f"chgrp {path!r}", lambda: self.volume.setattr(path, gid=gid)):
                serial = self.tree[path]
                self.done({**self.state, serial: replace(self.state[serial], gid=gid)})
                self.set_xattrs(path)

    # -- files without a name

    def do_tmpfile(self) -> None:
        """A file without a name: it must never be seen."""
        made = self.attempt("tmpfile", self.make_unnamed)
        if made is not None:
            self.volume.calls.release(*made)
            self.volume.calls.forget(made[0])
            self.volume.fs.drain()
            self.done(self.state)

    def make_unnamed(self) -> tuple[int, int]:
        node, fh, _ = self.volume.calls.tmpfile(1)
        self.volume.calls.write(node, 0, self.content(9000))
        return node, fh

    def do_tmplink(self) -> None:
        """O_TMPFILE, written, then given a name: the name comes with the content or not at all."""
        made = self.attempt("tmpfile", self.make_unnamed)
        if made is None:
            return
        self.done(self.state)
        path = self.new_path()
        up, name = self.split(path)
        calls = self.volume.calls
        parent = self.volume.node(up)
        linked = self.attempt(f"link {path!r}", lambda: calls.link(made[0], parent, name))
        if linked is not None:
            calls.forget(made[0])
            content = calls.read(made[0], 0, 9000)
            self.done(self.enter(path, self.record(path, FILE, linked[1], content)))
        if parent != 1:
            calls.forget(parent)
        calls.release(*made)
        calls.forget(made[0])
        self.volume.fs.drain()

    def do_use_held(self) -> None:
        """Work on a file that was unlinked while someone knows it: nothing of it may come back."""
        if not self.held:
            return
        node, serial = self.rng.choice(self.held)
        calls, rng = self.volume.calls, self.rng
        what = rng.choice(("write", "truncate", "punch", "xattr"))
        size = calls.getattr(node).size
        call = {
            "write": lambda: calls.write(node, rng.randrange(size + 1), self.content(self.size())),
            "truncate": lambda: calls.setattr(node, size=rng.randrange(size + 2000)),
            "punch": lambda: calls.fallocate(node, 3, rng.randrange(size + 1), rng.randrange(1, size + 2)) or True,
            "xattr": lambda: calls.setxattr(node, b"user.x", self.content(rng.choice((10, 3000)))) or True,
        }[what]
        made = self.attempt(f"held {what}", call, serial)
        size = calls.getattr(node).size
        if serial in self.state and (made is not None or size != len(self.state[serial].content)):
            state = with_content(self.state, serial, calls.read(node, 0, size) if size else b"")
            if self.state[serial].nlink:
                names = calls.listxattr(node)
                xattrs = tuple(sorted((name, calls.getxattr(node, name)) for name in names))
                state[serial] = replace(state[serial], xattrs=xattrs)
            self.done(state)

    # -- space

    def do_prealloc(self) -> None:
        """Blocks beyond the end, which stays where it is."""
        path = self.pick(FILE)
        if path is None:
            return
        serial = self.tree[path]
        size = len(self.state[serial].content)
        off = self.rng.choice((0, size, size + 4000))
        length = self.rng.choice((1, 3000, 40_000))
        self.history.outside.add(serial)
        if self.attempt(f"prealloc {path!r} {off} {length}",
                        lambda: self.volume.fallocate(path, KEEP_SIZE, off, length) or True, serial):
            self.done(self.state)

    def do_comb(self) -> None:
        """A file whose blocks lie in no order on the disk: taking it apart needs several transactions."""
        path = self.empty_file()
        if path is None:
            return
        bsize = self.volume.fs.block_size
        content = self.content(COMB_BLOCKS * bsize)
        order = list(range(COMB_BLOCKS))
        self.rng.shuffle(order)
        node = self.volume.node(path)

        def scatter() -> bool:
            fh = self.volume.calls.open(node)
            try:
                for i in order:
                    self.volume.calls.write(node, i * bsize, content[i * bsize:(i + 1) * bsize], fh)
            finally:
                self.volume.calls.release(node, fh)
            return True

        whole = self.attempt(f"comb {path!r}", scatter, self.tree[path])
        self.volume.calls.forget(node)
        if not whole:
            self.read_back(path)
            return
        self.done(with_content(self.state, self.tree[path], content))
        if self.rng.random() < 0.3:
            self.sync()
        size = self.rng.choice((0, self.rng.randrange(len(content) // 4)))
        if self.attempt(f"truncate {path!r} {size}", lambda: self.volume.truncate(path, size) or True, self.tree[path]):
            self.done(with_content(self.state, self.tree[path], content[:size]))
        else:
            self.read_back(path)
