"""A file system as Python dictionaries, and a random walk of operations that holds a real one against it.

The walk draws every operation from one seeded generator, looks only at the model to choose it, and compares
result or errno. The seed runs the same operations again; `Walk.log` says what they were.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

MAX_FILE = 3 << 20
FALLOC_KEEP, FALLOC_PUNCH, FALLOC_ZERO = 1, 2, 16
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
XATTR_CREATE, XATTR_REPLACE = 1, 2
SEEK_DATA, SEEK_HOLE = 3, 4

Path = tuple[bytes, ...]


class Fs(Protocol):
    """What the walk asks of a file system; every method raises OSError with the errno POSIX names."""

    def create(self, path: Path, mode: int) -> bool: ...
    def mkdir(self, path: Path, mode: int) -> None: ...
    def symlink(self, path: Path, target: bytes) -> None: ...
    def readlink(self, path: Path) -> bytes: ...
    def link(self, path: Path, new: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def rename(self, path: Path, new: Path, flags: int) -> None: ...
    def write(self, path: Path, off: int, data: bytes) -> int: ...
    def read(self, path: Path, off: int, size: int) -> bytes: ...
    def truncate(self, path: Path, size: int) -> None: ...
    def fallocate(self, path: Path, mode: int, off: int, length: int) -> None: ...
    def seek(self, path: Path, off: int, whence: int) -> int: ...
    def setxattr(self, path: Path, name: bytes, value: bytes, flags: int) -> None: ...
    def getxattr(self, path: Path, name: bytes) -> bytes: ...
    def listxattr(self, path: Path) -> list[bytes]: ...
    def removexattr(self, path: Path, name: bytes) -> None: ...
    def readdir(self, path: Path) -> list[bytes]: ...
    def stat(self, path: Path) -> tuple[int, int, int]: ...  # mode, nlink, size
    def sync(self) -> None: ...
    def remount(self) -> None: ...
    def crash(self) -> None: ...  # sync, then mounted again from what the disk and its journal say
    def set_jdata(self, path: Path) -> None: ...


@dataclass(eq=False)
class Node:
    """An inode of the model; `entries` for directories, `data` for files, `target` for symbolic links."""

    mode: int
    nlink: int = 1
    data: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, Node] | None = None
    target: bytes | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return self.entries is None and self.target is None

    @property
    def size(self) -> int:
        return len(self.target) if self.target is not None else len(self.data)


class Mismatch(AssertionError):
    """The file system did not do what the model says."""


def err(code: int) -> OSError:
    return OSError(code, errno.errorcode[code])


class Model:
    """The operations on the dictionaries; raises the OSError that is expected of the real one."""

    def __init__(self) -> None:
        self.root = Node(0o40755, 2, entries={})

    def node(self, path: Path) -> Node:
        at = self.root
        for name in path:
            if at.entries is None:
                raise err(errno.ENOTDIR)
            if name not in at.entries:
                raise err(errno.ENOENT)
            at = at.entries[name]
        return at

    def parent(self, path: Path) -> dict[bytes, Node]:
        entries = self.node(path[:-1]).entries
        if entries is None:
            raise err(errno.ENOTDIR)
        return entries

    def add(self, path: Path, node: Node) -> None:
        entries = self.parent(path)
        if path[-1] in entries:
            raise err(errno.EEXIST)
        entries[path[-1]] = node
        if node.entries is not None:
            self.node(path[:-1]).nlink += 1

    def link(self, path: Path, new: Path) -> None:
        node = self.node(path)
        if new[-1] in self.parent(new):
            raise err(errno.EEXIST)
        self.parent(new)[new[-1]] = node
        node.nlink += 1

    def unlink(self, path: Path) -> None:
        node = self.node(path)
        if node.entries is not None:
            raise err(errno.EISDIR)
        del self.parent(path)[path[-1]]
        node.nlink -= 1

    def rmdir(self, path: Path) -> None:
        node = self.node(path)
        if node.entries is None:
            raise err(errno.ENOTDIR)
        if node.entries:
            raise err(errno.ENOTEMPTY)
        del self.parent(path)[path[-1]]
        self.node(path[:-1]).nlink -= 1

    def rename(self, path: Path, new: Path, flags: int) -> None:
        node, target = self.node(path), self.parent(new).get(new[-1])
        if target is not None and flags == RENAME_NOREPLACE:
            raise err(errno.EEXIST)
        if flags == RENAME_EXCHANGE:
            if target is None:
                raise err(errno.ENOENT)
            self._put(path, target, node)
            self._put(new, node, target)
            return
        if target is node:
            return
        if target is not None:
            self._check_replace(node, target)
            target.nlink -= 1
        self._put(new, node, target)
        del self.parent(path)[path[-1]]
        if node.entries is not None:
            self.node(path[:-1]).nlink -= 1

    def _check_replace(self, node: Node, target: Node) -> None:
        if target.entries is not None:
            if node.entries is None:
                raise err(errno.EISDIR)
            if target.entries:
                raise err(errno.ENOTEMPTY)
        elif node.entries is not None:
            raise err(errno.ENOTDIR)

    def _put(self, path: Path, node: Node, old: Node | None) -> None:
        self.parent(path)[path[-1]] = node
        was_dir = old is not None and old.entries is not None
        self.node(path[:-1]).nlink += (node.entries is not None) - was_dir

    def write(self, path: Path, off: int, data: bytes) -> None:
        body = self.node(path).data
        if off > len(body):
            body.extend(bytes(off - len(body)))
        body[off:off + len(data)] = data

    def truncate(self, path: Path, size: int) -> None:
        body = self.node(path).data
        if size < len(body):
            del body[size:]
        else:
            body.extend(bytes(size - len(body)))

    def fallocate(self, path: Path, mode: int, off: int, length: int) -> None:
        body = self.node(path).data
        if mode & (FALLOC_PUNCH | FALLOC_ZERO):
            end = min(off + length, len(body))
            if end > off:
                body[off:end] = bytes(end - off)
        if not mode & FALLOC_KEEP and off + length > len(body):
            body.extend(bytes(off + length - len(body)))

    def setxattr(self, path: Path, name: bytes, value: bytes, flags: int) -> None:
        xattrs = self.node(path).xattrs
        if flags == XATTR_CREATE and name in xattrs:
            raise err(errno.EEXIST)
        if flags == XATTR_REPLACE and name not in xattrs:
            raise err(errno.ENODATA)
        xattrs[name] = value

    def getxattr(self, path: Path, name: bytes) -> bytes:
        xattrs = self.node(path).xattrs
        if name not in xattrs:
            raise err(errno.ENODATA)
        return xattrs[name]

    def removexattr(self, path: Path, name: bytes) -> None:
        self.getxattr(path, name)
        del self.node(path).xattrs[name]

    def walk(self) -> list[tuple[Path, Node]]:
        """Every path with its node, parents first."""
        out: list[tuple[Path, Node]] = []
        todo: list[tuple[Path, Node]] = [((), self.root)]
        while todo:
            path, node = todo.pop()
            out.append((path, node))
            todo.extend((*[((*path, n), c) for n, c in (node.entries or {}).items()],))
        return out


class Walk:
    """Draws operations, does them on both sides, compares. `full`: ENOSPC may come, changing nothing."""

    WEIGHTS: ClassVar[dict[str, float]] = {
        "create": 10, "mkdir": 4, "symlink": 3, "link": 4, "unlink": 8, "rmdir": 2, "rename": 8, "write": 24,
        "read": 8, "truncate": 12, "fallocate": 10, "seek": 5, "setxattr": 8, "getxattr": 3, "listxattr": 2,
        "removexattr": 3, "readdir": 3, "stat": 4, "sync": 1, "remount": 0.4, "crash": 0.4, "many": 0.5,
    }

    def __init__(self, fs: Fs, seed: int | str, bsize: int, *, full: bool = False) -> None:
        self.fs = fs
        self.model = Model()
        self.rng = random.Random(seed)
        self.bsize = bsize
        self.full = full
        self.log: list[str] = []
        self.n_nospace = 0

    # -- choosing --

    def paths(self, kind: str) -> list[Path]:
        test = {"file": lambda n: n.is_file, "dir": lambda n: n.entries is not None,
                "link": lambda n: n.target is not None, "any": lambda n: True,
                "leaf": lambda n: n.entries is None}[kind]
        return [p for p, n in self.model.walk() if p and test(n)]

    def pick(self, kind: str) -> Path | None:
        found = self.paths(kind)
        return self.rng.choice(found) if found else None

    def new_path(self) -> Path:
        dirs = [(), *self.paths("dir")]
        rng = self.rng
        name = rng.choice([b"a", b"b", b"c", b"%d" % rng.randrange(40), b"n" * rng.choice([1, 20, 120, 255])])
        return (*rng.choice(dirs), name)

    def offset(self, size: int) -> int:
        """Offsets where things happen: block edges, ends of what each tree height maps, the file's end."""
        rng, b = self.rng, self.bsize
        diptrs, inptrs = (b - 232) // 8, (b - 24) // 8
        edges = [0, b - 232, b, diptrs * b, size, size // 2, inptrs * b, diptrs * inptrs * b,
                 rng.randrange(max(size, 1)), rng.randrange(MAX_FILE), rng.randrange(64) * b]
        return max(0, min(MAX_FILE, rng.choice(edges) + rng.choice([0, 0, 0, -1, 1, rng.randrange(-b, b)])))

    def length(self) -> int:
        rng, b = self.rng, self.bsize
        return max(1, rng.choice([1, 13, b, 2 * b, 7 * b, b - 232, rng.randrange(1, 4 * b),
                                  rng.randrange(1, 64 * b), rng.randrange(1, 1 << 19)])
                   + rng.choice([0, 0, -1, 1]))

    def content(self, n: int) -> bytes:
        # Journaled blocks that begin with the metadata magic must be escaped in the log.
        head = b"\x01\x16\x19\x70" if self.rng.random() < 0.1 else b""
        return (head + self.rng.randbytes(min(n, 64)) * (n // min(n, 64) + 1))[:n]

    # -- doing --

    def both(self, what: str, *args: object) -> object:
        """The operation on the file system, then on the model; both must raise the same errno or none."""
        text = f"{what}({', '.join(self.short(a) for a in args)})"
        self.log.append(text)
        got: object = None
        code = 0
        try:
            got = getattr(self.fs, what)(*args)
        except OSError as e:
            code = e.errno or -1
        if self.full and code == errno.ENOSPC:
            self.n_nospace += 1
            return None
        if what == "write" and not code:
            args = (args[0], args[1], self.written(text, args[2], got))
        expected = self.apply(what, args)
        if code != expected:
            raise Mismatch(f"{text}: {errno.errorcode.get(code, 'success')}, expected "
                           f"{errno.errorcode.get(expected, 'success')}")
        return got

    def written(self, text: str, data: object, got: object) -> bytes:
        """The part of `data` that a write says it wrote: all of it, unless space may run out."""
        assert isinstance(data, bytes)
        if got != len(data) and not (self.full and isinstance(got, int) and 0 < got < len(data)):
            raise Mismatch(f"{text}: wrote {got}")
        return data[:got]

    @staticmethod
    def short(arg: object) -> str:
        if isinstance(arg, bytes) and len(arg) > 24:
            return f"<{len(arg)} bytes {arg[:8]!r}>"
        if isinstance(arg, tuple):
            return "/" + "/".join(n[:12].decode() + (f"~{len(n)}" if len(n) > 12 else "") for n in arg)
        return repr(arg)

    def apply(self, what: str, args: tuple[object, ...]) -> int:
        """The operation on the model, which changes nothing when it raises; the errno, or 0."""
        made = {"create": lambda p, mode: Node(0o100000 | mode),
                "symlink": lambda p, t: Node(0o120777, target=t),
                "mkdir": lambda p, mode: Node(0o40000 | mode, 2, entries={})}
        try:
            if what in made:
                self.model.add(args[0], made[what](*args))  # type: ignore[arg-type]
            elif hasattr(self.model, what):
                getattr(self.model, what)(*args)
        except OSError as e:
            return e.errno or -1
        return 0

    def same(self, what: str, got: object, wanted: object) -> None:
        if got != wanted:
            raise Mismatch(f"{self.log[-1]}: {what} is {self.short(got)}, expected {self.short(wanted)}")

    # -- the operations --

    def do_create(self) -> None:
        path = self.new_path()
        if self.both("create", path, self.rng.choice([0o644, 0o600, 0o755])) and self.rng.random() < 0.3:
            self.both("set_jdata", path)

    def do_mkdir(self) -> None:
        path = self.new_path()
        if len(path) < 6:
            self.both("mkdir", path, 0o755)

    def do_symlink(self) -> None:
        room = self.bsize - 232
        n = self.rng.choice([1, 10, room - 1, self.rng.randrange(1, room)])
        self.both("symlink", self.new_path(), b"t" * min(n, 4000))

    def do_link(self) -> None:
        path = self.pick("leaf")
        if path:
            self.both("link", path, self.new_path())

    def do_unlink(self) -> None:
        path = self.pick("leaf" if self.rng.random() < 0.95 else "any")
        if path:
            self.both("unlink", path)

    def do_rmdir(self) -> None:
        path = self.pick("dir" if self.rng.random() < 0.9 else "any")
        if path:
            self.both("rmdir", path)

    def do_rename(self) -> None:
        path = self.pick("any")
        if path is None:
            return
        new = self.new_path() if self.rng.random() < 0.6 else self.pick("any")
        if not new or new[:len(path)] == path or path[:len(new)] == new or len(new) > 6:
            return
        self.both("rename", path, new, self.rng.choice([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))

    def do_write(self) -> None:
        path = self.pick("file")
        if path:
            self.both("write", path, self.offset(self.model.node(path).size), self.content(self.length()))

    def do_read(self) -> None:
        path = self.pick("file")
        if path:
            body = self.model.node(path).data
            off, n = self.offset(len(body)), self.length()
            self.same("data", self.both("read", path, off, n), bytes(body[off:off + n]))

    def do_truncate(self) -> None:
        path = self.pick("file")
        if path:
            size = self.rng.choice([0, self.offset(self.model.node(path).size)])
            self.both("truncate", path, size)
            self.check_file(path, self.model.node(path))

    def do_fallocate(self) -> None:
        path = self.pick("file")
        if path:
            punch = FALLOC_KEEP | FALLOC_PUNCH
            mode = self.rng.choice([0, FALLOC_KEEP, punch, punch, FALLOC_ZERO])
            self.both("fallocate", path, mode, self.offset(self.model.node(path).size), self.length())

    def do_seek(self) -> None:
        """What SEEK_HOLE says must read as zeros; every byte that is not zero must be data."""
        path = self.pick("file")
        if path is None or not self.model.node(path).size:
            return
        body = self.model.node(path).data
        at, whence = 0, SEEK_DATA
        self.log.append(f"seek({self.short(path)})")
        while at < len(body):
            try:
                to = self.fs.seek(path, at, whence)
            except OSError as e:
                if e.errno != errno.ENXIO or whence == SEEK_HOLE:
                    raise Mismatch(f"{self.log[-1]} at {at}: {e}") from e
                to = len(body)
            if not at <= to <= len(body):
                raise Mismatch(f"{self.log[-1]} at {at}, whence {whence}: {to} of {len(body)}")
            if whence == SEEK_DATA and any(body[at:to]):
                raise Mismatch(f"{self.log[-1]}: data within the hole {at}..{to}")
            if whence == SEEK_HOLE and to == at:
                raise Mismatch(f"{self.log[-1]}: data at {at} has no length")
            at, whence = to, SEEK_HOLE if whence == SEEK_DATA else SEEK_DATA

    def xattr_name(self) -> bytes:
        return b"user." + self.rng.choice([b"a", b"b", b"%d" % self.rng.randrange(9), b"long" * 50])

    def do_setxattr(self) -> None:
        path = self.pick("file") if self.rng.random() < 0.8 else self.pick("dir")
        if path:
            n = self.rng.choice([0, 1, 40, 200, self.bsize - 100, self.bsize,
                                 self.rng.randrange(5 * self.bsize)])
            # What fits beside others is the format's affair: kept small enough to fit always.
            node = self.model.node(path)
            if sum(len(k) + len(v) for k, v in node.xattrs.items()) + n < 40000 and len(node.xattrs) < 12:
                self.both("setxattr", path, self.xattr_name(), self.rng.randbytes(n),
                          self.rng.choice([0, 0, XATTR_CREATE, XATTR_REPLACE]))

    def do_getxattr(self) -> None:
        path = self.pick("file")
        if path:
            name = self.xattr_name()
            got = self.both("getxattr", path, name)
            if got is not None:
                self.same("value", got, self.model.node(path).xattrs[name])

    def do_listxattr(self) -> None:
        path = self.pick("file")
        if path:
            got = self.both("listxattr", path)
            assert isinstance(got, list)
            self.same("names", sorted(got), sorted(self.model.node(path).xattrs))

    def do_removexattr(self) -> None:
        path = self.pick("file")
        if path:
            self.both("removexattr", path, self.xattr_name())

    def do_readdir(self) -> None:
        path = self.pick("dir") or ()
        self.check_dir(path, self.model.node(path))

    def do_stat(self) -> None:
        path = self.pick("any") or ()
        self.log.append(f"stat({self.short(path)})")
        self.check_stat(path, self.model.node(path))

    def do_sync(self) -> None:
        self.both("sync")

    def do_remount(self) -> None:
        self.both("remount")

    def do_crash(self) -> None:
        self.both("crash")

    def do_many(self) -> None:
        """Enough names to make a directory hash, or all of them away again."""
        path = self.pick("dir")
        if path is None:
            return
        if len(self.model.node(path).entries or {}) > 100:
            for name, node in list((self.model.node(path).entries or {}).items()):
                if node.entries is None:
                    self.both("unlink", (*path, name))
            return
        for i in range(self.rng.randrange(20, 200)):
            name = b"many-%d-%s" % (i, b"x" * self.rng.randrange(60))
            if name not in (self.model.node(path).entries or {}):
                self.both("create", (*path, name), 0o644)

    # -- comparing --

    def check_stat(self, path: Path, node: Node) -> None:
        mode, nlink, size = self.fs.stat(path)
        self.same(f"mode of {self.short(path)}", oct(mode), oct(node.mode))
        self.same(f"nlink of {self.short(path)}", nlink, node.nlink)
        if node.entries is None:
            self.same(f"size of {self.short(path)}", size, node.size)

    def check_dir(self, path: Path, node: Node) -> None:
        self.log.append(f"readdir({self.short(path)})")
        got = [n for n in self.fs.readdir(path) if n not in (b".", b"..")]
        self.same("names", sorted(got), sorted(node.entries or {}))

    def check_file(self, path: Path, node: Node) -> None:
        got = self.fs.read(path, 0, len(node.data) + 1)
        if got != bytes(node.data):
            at = next((i for i, (a, b) in enumerate(zip(got, node.data, strict=False)) if a != b),
                      min(len(got), len(node.data)))
            raise Mismatch(f"{self.log[-1]}: {self.short(path)} differs from byte {at} on: {len(got)} bytes, "
                           f"expected {len(node.data)}; {got[at:at + 16]!r}, "
                           f"expected {bytes(node.data[at:at + 16])!r}")

    def check_all(self) -> None:
        """The whole tree, path by path."""
        self.log.append("check_all()")
        for path, node in self.model.walk():
            self.check_stat(path, node)
            if node.entries is not None:
                self.check_dir(path, node)
            elif node.target is not None:
                self.same(f"target of {self.short(path)}", self.fs.readlink(path), node.target)
            else:
                self.check_file(path, node)
            if node.xattrs:
                names = sorted(self.fs.listxattr(path))
                self.same(f"xattrs of {self.short(path)}", names, sorted(node.xattrs))
                for name, value in node.xattrs.items():
                    self.same(f"xattr {name!r} of {self.short(path)}", self.fs.getxattr(path, name), value)

    def run(self, steps: int) -> None:
        """`steps` operations, then everything compared, remounted and compared again."""
        names, weights = list(self.WEIGHTS), list(self.WEIGHTS.values())
        try:
            for _ in range(steps):
                getattr(self, "do_" + self.rng.choices(names, weights)[0])()
            self.check_all()
            self.do_remount()
            self.check_all()
        except Exception as e:
            tail = "\n  ".join(self.log[-25:])
            e.add_note(f"after {len(self.log)} operations, the last ones:\n  {tail}")
            raise
