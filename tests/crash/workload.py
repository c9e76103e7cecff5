"""Seeded mixes of operations on a volume, with the model kept in step.

Everything is drawn from one random.Random, the volume runs without background threads, and queued deletions are waited
for after every step: the same seed gives the same operations and, but for time stamps, the same writes.
"""

from __future__ import annotations

import errno
import random
import struct
from collections import Counter
from dataclasses import replace

from crash.extras import Extras, acl
from crash.mixes import Mix
from crash.model import (
    DIR,
    FILE,
    LINK,
    OTHER,
    ROOT,
    History,
    Promise,
    Rec,
    State,
    Step,
    paths_of,
    with_content,
    with_entry,
    with_links,
)
from crash.oracle import flags_of
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine._calls import Attr
from gfs2py.engine.volume import Volume

EXCHANGE, NOREPLACE = 2, 1
KEEP_SIZE, PUNCH, ZERO_RANGE = 1, 2, 16
WRITE_CACHE = 1
ALLOWED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NAMES_MAX = 90              # inodes of the tree, about


class Workload(Extras):
    """Carries out drawn steps on a volume and keeps the history."""

    allowed = ALLOWED

    def __init__(self, volume: Volume, device: RecordingDevice | None, rng: random.Random, mix: Mix,
                 known: State | None = None) -> None:
        self.volume = volume
        self.device = device
        self.rng = rng
        self.mix = mix
        self.serials = 1
        self.held: list[tuple[int, int]] = []       # (node, serial) known by a lookup, maybe unlinked
        self.history = History([self.adopt() if known is None else known])
        self.serials = 1 + max(self.history.now)
        self.kinds = list(mix.weights)
        self.weights = list(mix.weights.values())
        self.step_now = Step("start", 0)
        self.marks: Counter[str] = Counter()
        self.told: dict[int, int] = {}

    def adopt(self, previous: State | None = None) -> State:
        """What the volume holds now, as a state; inodes that `previous` knows keep their serials."""
        volume, state, by_ino = self.volume, {}, {}
        before = {rec.ino: serial for serial, rec in (previous or {}).items()}

        def take(path: bytes) -> int:
            attr = volume.stat(path or b"/")
            kind = {4: DIR, 8: FILE, 10: LINK}.get(attr.mode >> 12, OTHER)
            if kind != DIR and attr.ino in by_ino:
                return by_ino[attr.ino]
            serial = before.get(attr.ino, self.serials) if path else ROOT
            self.serials += serial == self.serials
            by_ino[attr.ino] = serial
            entries: tuple[tuple[bytes, int], ...] = ()
            content = b""
            if kind == DIR:
                entries = tuple(sorted((name, take(path + b"/" + name)) for name in volume.listdir(path or b"/")))
            elif kind == FILE:
                content = volume.read(path)
            elif kind == LINK:
                content = volume.readlink(path)
            state[serial] = self.record(path or b"/", kind, attr, content, entries)
            return serial
        take(b"")
        return state

    # -- drawing

    @property
    def state(self) -> State:
        return self.history.now

    def paths(self, kind: str) -> list[bytes]:
        state = self.state
        return [path for path, serial in self.tree.items() if state[serial].kind == kind]

    def pick(self, kind: str) -> bytes | None:
        found = self.paths(kind)
        return self.rng.choice(found) if found else None

    def new_path(self) -> bytes:
        """A name that is free, in any directory."""
        parent = self.rng.choice(self.paths(DIR))
        while True:
            length = self.rng.choice((1, 2, 3, 8, 8, 20, 60, 200))
            name = b"".join(self.rng.choice((b"a", b"b", b"c", b"x", b"7")) for _ in range(length))
            path = parent.rstrip(b"/") + b"/" + name
            if path not in self.tree:
                return path

    def parent_of(self, path: bytes) -> int:
        return self.tree[path.rpartition(b"/")[0] or b"/"]

    def content(self, size: int) -> bytes:
        """Text that differs in every sector of every call; now and then it begins like a metadata block."""
        tag = self.rng.randrange(1 << 32)
        line = struct.pack(">IQ", tag, len(self.history.states))
        body = b"".join(line + struct.pack(">I", i) for i in range(size // 16 + 1))[:size]
        if self.rng.random() < 0.2:
            # The magic number of metadata: journaled data must escape it.
            body = (b"\x01\x16\x19\x70" + body)[:size]
        return body

    def size(self) -> int:
        r = self.rng.random()
        if r < 0.35:
            return self.rng.randrange(0, 400)
        if r < 0.8:
            return self.rng.randrange(1, 12_000)
        return self.rng.randrange(1, self.mix.file_max)

    # -- running

    def run(self, steps: int) -> History:
        self.thaw()
        for _ in range(steps):
            self.step()
        return self.history

    def step(self) -> None:
        """One operation and, now and then, a sync of some kind."""
        self.tree = paths_of(self.state)
        kind = self.rng.choices(self.kinds, self.weights)[0]
        if kind in ("create", "mkdir", "fill_dir") and len(self.state) > NAMES_MAX:
            kind = self.rng.choice(("unlink", "rmdir"))
        getattr(self, "do_" + kind)()
        self.tree = paths_of(self.state)
        if self.rng.random() < self.mix.sync_share * 2:
            self.some_sync()

    def attempt(self, text: str, call, busy: int | None = None):   # type: ignore[no-untyped-def]
        """Carry out one call; None when it failed for lack of space (then the model is read back)."""
        self.marks[text.split()[0]] += 1
        self.step_now = Step(text, self.device.epochs if self.device is not None else 0, busy)
        try:
            result = call()
            self.volume.fs.drain()
        except OSError as e:
            if e.errno not in ALLOWED:
                raise AssertionError(f"step {len(self.history.states)}, {text}: {e}") from e
            self.marks["no space for " + text.split()[0]] += 1
            self.volume.fs.drain()
            if busy is not None:
                self.history.outside.add(busy)      # it may have come as far as that
            return None
        return result

    def done(self, state: State) -> None:
        for _, serial in self.held:
            if serial not in state and serial in self.state:
                # Nameless, but what is written to it may be seen if the power cut undoes the unlink.
                state = {**state, serial: replace(self.state[serial], nlink=0)}
        self.history.add(state, self.step_now)

    def record(self, path: bytes, kind: str, attr: Attr, content: bytes = b"",
               entries: tuple[tuple[bytes, int], ...] = ()) -> Rec:
        return Rec(kind, attr.ino, attr.mode & 0o7777, content, entries, self.live_xattrs(path), attr.nlink,
                   attr.uid, attr.gid, self.live_flags(path) if kind != OTHER else 0)

    def live_xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        names = self.volume.listxattr(path)
        return tuple(sorted((name, self.volume.getxattr(path, name)) for name in names))

    def live_flags(self, path: bytes) -> int:
        node = self.volume.node(path)
        try:
            return flags_of(self.volume, node)
        finally:
            if node != 1:
                self.volume.calls.forget(node)

    def paths_now(self) -> dict[bytes, int]:
        return paths_of(self.state)

    def split(self, path: bytes) -> tuple[bytes, bytes]:
        up, _, name = path.rpartition(b"/")
        return up or b"/", name

    def enter(self, path: bytes, rec: Rec) -> State:
        """The state with a new inode at path."""
        serial = self.serials
        self.serials += 1
        parent = self.parent_of(path)
        state = with_entry(self.state, parent, path.rpartition(b"/")[2], serial)
        state[serial] = rec
        if rec.kind == DIR:
            state = with_links(state, parent, 1)
        return state

    # -- names

    def do_create(self) -> None:
        path = self.new_path()
        attr = self.attempt(f"create {path!r}", lambda: self.volume.create(path))
        if attr is None:
            return
        self.done(self.enter(path, self.record(path, FILE, attr)))
        self.tree = paths_of(self.state)
        if self.rng.random() < 0.8:
            self.write(path, 0, self.content(self.size()))

    def do_mkdir(self) -> None:
        path = self.new_path()
        attr = self.attempt(f"mkdir {path!r}", lambda: self.volume.mkdir(path))
        if attr is not None:
            self.done(self.enter(path, self.record(path, DIR, attr)))

    def do_fill_dir(self) -> None:
        """Many entries in one directory: growth to a hash table, splits."""
        parent = self.rng.choice(self.paths(DIR))
        for i in range(self.rng.randrange(5, 40)):
            name = b"n%d-%d" % (len(self.history.states), i) + b"y" * self.rng.choice((0, 5, 80))
            path = parent.rstrip(b"/") + b"/" + name
            if path in self.tree:
                continue
            attr = self.attempt(f"create {path!r}", lambda path=path: self.volume.mknod(path, 0o100640))
            if attr is None:
                return
            self.done(self.enter(path, self.record(path, FILE, attr)))
            self.tree = paths_of(self.state)

    def do_empty_dir(self) -> None:
        parent = self.rng.choice(self.paths(DIR)).rstrip(b"/")
        for path in list(self.tree):
            if path.rpartition(b"/")[0] == parent and self.state[self.tree[path]].kind == FILE:
                self.remove(path)

    def do_symlink(self) -> None:
        path, target = self.new_path(), b"t" * self.rng.choice((1, 30, 200))
        attr = self.attempt(f"symlink {path!r}", lambda: self.volume.symlink(target, path))
        if attr is not None:
            self.done(self.enter(path, self.record(path, LINK, attr, target)))

    def do_mknod(self) -> None:
        path = self.new_path()
        attr = self.attempt(f"mknod {path!r}", lambda: self.volume.mknod(path, 0o010644))
        if attr is not None:
            self.done(self.enter(path, self.record(path, OTHER, attr)))

    def remove(self, path: bytes) -> None:
        parent, serial = self.parent_of(path), self.tree[path]
        if self.attempt(f"unlink {path!r}", lambda: self.volume.unlink(path) or True):
            self.done(with_links(with_entry(self.state, parent, path.rpartition(b"/")[2], None), serial, -1))
            self.tree = paths_of(self.state)

    def do_unlink(self) -> None:
        path = self.pick(self.rng.choice((FILE, FILE, FILE, LINK, OTHER)))
        if path is not None:
            self.remove(path)

    def do_rmdir(self) -> None:
        empty = [p for p in self.paths(DIR) if p != b"/" and not self.state[self.tree[p]].entries]
        if not empty:
            return
        path = self.rng.choice(empty)
        parent, serial = self.parent_of(path), self.tree[path]
        if self.attempt(f"rmdir {path!r}", lambda: self.volume.rmdir(path) or True):
            state = with_entry(self.state, parent, path.rpartition(b"/")[2], None)
            self.done(with_links({k: v for k, v in state.items() if k != serial}, parent, -1))

    def do_hold_unlink(self) -> None:
        """Unlinked while someone still knows it: the space goes only when he forgets."""
        path = self.pick(FILE)
        if path is not None:
            self.held.append((self.volume.node(path), self.tree[path]))
            self.remove(path)

    def do_drop_held(self) -> None:
        if self.held:
            node, serial = self.held.pop(self.rng.randrange(len(self.held)))
            self.attempt("forget", lambda: self.volume.calls.forget(node) or True)
            gone = serial in self.state and self.state[serial].nlink == 0 and serial not in [s for _, s in self.held]
            self.done({k: v for k, v in self.state.items() if k != serial} if gone else self.state)

    def do_link(self) -> None:
        old, new = self.pick(FILE), self.new_path()
        if old is not None and self.attempt(f"link {old!r} {new!r}", lambda: self.volume.link(old, new)):
            state = with_entry(self.state, self.parent_of(new), new.rpartition(b"/")[2], self.tree[old])
            self.done(with_links(state, self.tree[old], 1))

    def movable(self) -> bytes | None:
        found = [p for p in self.tree if p != b"/"]
        return self.rng.choice(found) if found else None

    def move(self, old: bytes, new: bytes) -> None:
        """rename(2) in the model and on the volume; new may exist (then it is a file, as old is)."""
        serial = self.tree[old]
        if self.state[serial].kind == DIR and (new + b"/").startswith(old + b"/"):
            return
        victim = self.tree.get(new)
        if victim == serial:
            return
        if not self.attempt(f"rename {old!r} {new!r}", lambda: self.volume.rename(old, new) or True):
            return
        source, target = self.parent_of(old), self.parent_of(new)
        state = with_entry(self.state, source, old.rpartition(b"/")[2], None)
        state = with_entry(state, target, new.rpartition(b"/")[2], serial)
        if victim is not None:
            state = with_links(state, victim, -1)
        if self.state[serial].kind == DIR and source != target:
            state = with_links(with_links(state, source, -1), target, 1)
        self.done(state)

    def do_rename(self) -> None:
        old = self.movable()
        if old is not None:
            self.move(old, self.new_path())

    def do_replace(self) -> None:
        files = self.paths(FILE)
        if len(files) > 1:
            self.move(*self.rng.sample(files, 2))

    def do_exchange(self) -> None:
        one, two = self.movable(), self.movable()
        if one is None or two is None or (one + b"/").startswith(two + b"/") or (two + b"/").startswith(one + b"/"):
            return
        a, b = self.tree[one], self.tree[two]
        if a == b or not self.attempt(f"exchange {one!r} {two!r}",
                                      lambda: self.volume.rename(one, two, EXCHANGE) or True):
            return
        pa, pb = self.parent_of(one), self.parent_of(two)
        state = with_entry(with_entry(self.state, pa, one.rpartition(b"/")[2], b), pb, two.rpartition(b"/")[2], a)
        for serial, away, to in ((a, pa, pb), (b, pb, pa)):
            if self.state[serial].kind == DIR and away != to:
                state = with_links(with_links(state, to, 1), away, -1)
        self.done(state)

    # -- data

    def write(self, path: bytes, off: int, data: bytes) -> None:
        serial = self.tree[path]
        old = self.state[serial].content
        done = self.attempt(f"write {path!r} {off} {len(data)}",
                            lambda: self.volume.write(path, off, data) or True, serial)
        if done:
            # Writing nothing beyond the end does not move the end.
            self.done(with_content(self.state, serial, patched(old, off, data) if data else old))
        else:
            self.read_back(path)

    def write_back(self, path: bytes, off: int, data: bytes) -> None:
        """As the kernel writes its dirty pages: without new times, so that there may be nothing to commit."""
        serial = self.tree[path]
        node = self.volume.node(path)
        done = self.attempt(f"write {path!r} {off} {len(data)}",
                            lambda: self.volume.calls.write(node, off, data, 0, WRITE_CACHE), serial)
        self.volume.calls.forget(node)
        if done:
            self.done(with_content(self.state, serial, patched(self.state[serial].content, off, data)))
            if self.rng.random() < 0.4:
                self.tree = self.paths_now()
                self.fsync(path, self.rng.random() < 0.5)
        else:
            self.read_back(path)

    def read_back(self, path: bytes) -> None:
        """After a failure for lack of space: what part was done is what the volume says."""
        serial = self.tree[path]
        self.done(with_content(self.state, serial, self.volume.read(path)))

    def do_write(self) -> None:
        path = self.pick(FILE)
        if path is not None:
            size = len(self.state[self.tree[path]].content)
            off = self.rng.randrange(0, min(size + 9000, self.mix.file_max) + 1)
            self.write(path, off, self.content(self.size()))

    def do_append(self) -> None:
        path = self.pick(FILE)
        if path is not None and len(self.state[self.tree[path]].content) < self.mix.file_max:
            self.write(path, len(self.state[self.tree[path]].content), self.content(self.size()))

    def do_overwrite(self) -> None:
        path = self.pick(FILE)
        if path is not None and (size := len(self.state[self.tree[path]].content)):
            off = self.rng.randrange(size)
            data = self.content(self.rng.randrange(1, size - off + 1))
            if self.rng.random() < 0.3:
                self.write_back(path, off, data)
            else:
                self.write(path, off, data)

    def do_bigwrite(self) -> None:
        """Aligned and large: the direct way."""
        path = self.pick(FILE)
        if path is not None:
            size = self.rng.choice((65536, 131_072, 200_000))
            self.write(path, self.rng.choice((0, 0, 65536, 4096)), self.content(size))

    def do_truncate(self) -> None:
        path = self.pick(FILE)
        if path is None:
            return
        serial = self.tree[path]
        old = self.state[serial].content
        size = self.rng.choice((0, self.rng.randrange(len(old) + 1), self.rng.randrange(len(old) + 1), len(old) + 5000))
        if self.attempt(f"truncate {path!r} {size}", lambda: self.volume.truncate(path, size) or True, serial):
            self.done(with_content(self.state, serial, old[:size].ljust(size, b"\0")))
        else:
            self.read_back(path)

    def do_punch(self) -> None:
        self.falloc("punch", PUNCH | KEEP_SIZE)

    def do_zero_range(self) -> None:
        self.falloc("zero_range", ZERO_RANGE)

    def do_fallocate(self) -> None:
        self.falloc("fallocate", 0)

    def falloc(self, what: str, mode: int) -> None:
        path = self.pick(FILE)
        if path is None:
            return
        serial = self.tree[path]
        old = self.state[serial].content
        off = self.rng.randrange(len(old) + 1)
        length = self.rng.randrange(1, max(len(old), 4000) + 1)
        if not self.attempt(f"{what} {path!r} {off} {length}",
                            lambda: self.volume.fallocate(path, mode, off, length) or True, serial):
            self.read_back(path)
            return
        new = old
        if mode & (PUNCH | ZERO_RANGE):
            end = min(off + length, len(old))
            new = patched(old, off, b"\0" * (end - off)) if end > off else old
        if not mode & KEEP_SIZE:
            new = new.ljust(off + length, b"\0")
        self.done(with_content(self.state, serial, new))

    def do_copy(self) -> None:
        one, two = self.pick(FILE), self.pick(FILE)
        if one is None or two is None or self.tree[one] == self.tree[two]:
            return
        src, dst = self.state[self.tree[one]].content, self.state[self.tree[two]].content
        if not src:
            return
        nodes = self.volume.node(one), self.volume.node(two)
        n = self.attempt(f"copy {one!r} {two!r}",
                         lambda: self.volume.calls.copy_file_range(nodes[0], 0, nodes[1], 0, len(src)), self.tree[two])
        for node in nodes:
            self.volume.calls.forget(node)
        if n is None:
            self.read_back(two)
        else:
            self.done(with_content(self.state, self.tree[two], patched(dst, 0, src[:n])))

    # -- attributes

    def do_xattr(self, size: int | None = None) -> None:
        path = self.movable()
        if path is None or self.state[self.tree[path]].kind in (LINK, OTHER):
            return
        name = b"user." + self.rng.choice((b"a", b"b", b"name", b"n" * 100))
        value = self.content(self.rng.choice((0, 5, 50, 200)) if size is None else size)
        if self.attempt(f"setxattr {path!r} {name!r} {len(value)}",
                        lambda: self.volume.setxattr(path, name, value) or True):
            self.set_xattrs(path)

    def do_bigxattr(self) -> None:
        self.do_xattr(self.rng.choice((1000, 4000, 20_000)))

    def set_xattrs(self, path: bytes) -> None:
        serial = self.tree[path]
        attr = self.volume.stat(path)
        self.done({**self.state, serial: replace(self.state[serial], xattrs=self.live_xattrs(path),
                                                 mode=attr.mode & 0o7777)})

    def do_unxattr(self) -> None:
        have = [p for p, s in self.tree.items() if self.state[s].xattrs]
        if have:
            path = self.rng.choice(have)
            name = self.rng.choice(self.state[self.tree[path]].xattrs)[0]
            if self.attempt(f"removexattr {path!r} {name!r}", lambda: self.volume.removexattr(path, name) or True):
                self.set_xattrs(path)

    def do_default_acl(self) -> None:
        path = self.pick(DIR)
        value = acl(7, self.rng.randrange(8), self.rng.randrange(8))
        if path is not None and self.attempt(
                f"default_acl {path!r}",
                lambda: self.volume.setxattr(path, b"system.posix_acl_default", value) or True):
            self.set_xattrs(path)

    def do_chmod(self) -> None:
        path = self.movable()
        if path is not None and self.state[self.tree[path]].kind != LINK:
            mode = self.rng.randrange(0o1000)
            if self.attempt(f"chmod {path!r}", lambda: self.volume.setattr(path, mode=mode)):
                self.set_xattrs(path)

    def do_chown(self) -> None:
        path = self.movable()
        if path is not None:
            uid = self.rng.randrange(4)
            if self.attempt(f"chown {path!r}", lambda: self.volume.setattr(path, uid=uid)):
                serial = self.tree[path]
                self.done({**self.state, serial: replace(self.state[serial], uid=uid)})
                self.set_xattrs(path)

    # -- promises

    def some_sync(self) -> None:
        kind = self.rng.choice(("sync", "fsync", "fsync", "fdatasync", "fsyncdir"))
        if kind == "sync":
            self.sync()
            return
        path = self.pick(DIR if kind == "fsyncdir" else FILE)
        if kind != "fsyncdir" and self.rng.random() < 0.6:
            path = self.recent() or path
        if path is not None:
            self.fsync(path, kind == "fdatasync")

    def recent(self) -> bytes | None:
        """A file written to lately: what programs sync."""
        lately = {step.busy for step in self.history.steps[-6:]} - {None}
        found = [path for path, serial in self.tree.items() if serial in lately]
        return self.rng.choice(found) if found else None

    def sync(self) -> None:
        self.attempt("syncfs", lambda: self.volume.sync() or True)
        self.done(self.state)
        self.promise(None, False)

    def unmount(self) -> None:
        """A clean end: what is held is forgotten, and everything is promised."""
        self.step_now = Step("unmount", self.device.epochs if self.device is not None else 0)
        self.marks["unmount"] += 1
        self.volume.close()
        self.done(self.state)
        self.promise(None, False)

    def fsync(self, path: bytes, datasync: bool = False) -> None:
        if self.attempt(f"fsync {path!r} {datasync}", lambda: self.volume.fsync(path, datasync) or True):
            self.done(self.state)
            self.promise(self.tree[path], datasync)

    def promise(self, serial: int | None, datasync: bool) -> None:
        epoch = self.device.epochs if self.device is not None else 0
        self.history.promises.append(Promise(len(self.history.states) - 1, epoch, serial, datasync))


def patched(old: bytes, off: int, data: bytes) -> bytes:
    if off > len(old):
        old = old.ljust(off, b"\0")
    return old[:off] + data + old[off + len(data):]
