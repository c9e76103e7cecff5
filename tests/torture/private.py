"""A subtree that one process has to itself, with a model: whatever it does there must be there."""

from __future__ import annotations

import errno
import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torture.sys_calls import EXCHANGE, KEEP_SIZE, NOREPLACE, PUNCH, fallocate, link_open_file, renameat2

SIZE_MAX = 60_000
T = TypeVar("T")
DIRS_MAX, FILES_MAX = 12, 60
LONG_NAME = 200


@dataclass
class Node:
    """A file or symlink of the model; several names may lead to one."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    names: int = 1


@dataclass
class Model:
    """Paths relative to the top. Directories are in `dirs` (the top is ""), all else in `nodes`."""

    dirs: dict[str, int] = field(default_factory=lambda: {"": 0o755})
    nodes: dict[str, Node] = field(default_factory=dict)


def _move_names(table: dict[str, T], old: str, new: str) -> None:
    for name in [n for n in table if n == old or n.startswith(old + "/")]:
        table[new + name[len(old):]] = table.pop(name)


class Private:
    """The operations: each changes the tree and the model alike, and none of them may fail."""

    def __init__(self, top: Path, rng: random.Random) -> None:
        self.top, self.rng, self.model = os.fspath(top), rng, Model()
        self.made = 0
        os.mkdir(self.top, 0o755)

    def at(self, path: str) -> str:
        return f"{self.top}/{path}" if path else self.top

    def new_name(self) -> str:
        self.made += 1
        parent = self.rng.choice(list(self.model.dirs))
        name = f"{self.made}" if self.rng.random() < 0.9 else f"{self.made}-" + "x" * self.rng.randrange(LONG_NAME)
        return f"{parent}/{name}" if parent else name

    def pick(self, *, files: bool = False) -> str | None:
        names = [n for n, node in self.model.nodes.items() if stat.S_ISREG(node.mode)] if files \
            else list(self.model.nodes)
        return self.rng.choice(names) if names else None

    def step(self) -> None:
        if len(self.model.nodes) > FILES_MAX:
            return self.unlink()
        operation = self.rng.choice((self.create, self.create, self.write, self.write, self.write, self.truncate,
                                     self.mkdir, self.rmdir, self.symlink, self.link, self.rename, self.rename,
                                     self.rename_over, self.exchange, self.unlink, self.chmod, self.xattr,
                                     self.xattr, self.punch, self.tmpfile, self.look, self.look))
        return operation()

    def create(self) -> None:
        name, mode = self.new_name(), self.rng.choice((0o600, 0o644, 0o755))
        data = self.rng.randbytes(self.rng.choice((0, 10, 200, 3000, 9000)))
        fd = os.open(self.at(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        os.write(fd, data)
        os.fchmod(fd, mode)
        os.close(fd)
        self.model.nodes[name] = Node(stat.S_IFREG | mode, bytearray(data))

    def tmpfile(self) -> None:
        name = self.new_name()
        data = self.rng.randbytes(self.rng.randrange(9000))
        fd = os.open(os.path.dirname(self.at(name)), os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, data)
        os.fchmod(fd, 0o640)
        assert os.fstat(fd).st_nlink == 0
        link_open_file(fd, self.at(name))
        assert os.fstat(fd).st_nlink == 1
        os.close(fd)
        self.model.nodes[name] = Node(stat.S_IFREG | 0o640, bytearray(data))

    def write(self) -> None:
        if (name := self.pick(files=True)) is None:
            return
        node = self.model.nodes[name]
        off = self.rng.choice((len(node.data), self.rng.randrange(SIZE_MAX), 0))
        data = self.rng.randbytes(self.rng.choice((1, 100, 4096, 10_000)))
        fd = os.open(self.at(name), os.O_RDWR)
        assert os.pwrite(fd, data, off) == len(data)
        if self.rng.random() < 0.1:
            os.fsync(fd)
        os.close(fd)
        node.data.extend(bytes(max(0, off + len(data) - len(node.data))))
        node.data[off:off + len(data)] = data

    def truncate(self) -> None:
        if (name := self.pick(files=True)) is None:
            return
        node, size = self.model.nodes[name], self.rng.randrange(SIZE_MAX)
        os.truncate(self.at(name), size)
        node.data.extend(bytes(max(0, size - len(node.data))))
        del node.data[size:]

    def punch(self) -> None:
        if (name := self.pick(files=True)) is None:
            return
        node, off, length = self.model.nodes[name], self.rng.randrange(SIZE_MAX), self.rng.randrange(1, 20_000)
        fd = os.open(self.at(name), os.O_RDWR)
        fallocate(fd, PUNCH | KEEP_SIZE, off, length)
        os.close(fd)
        end = min(off + length, len(node.data))
        if off < end:
            node.data[off:end] = bytes(end - off)

    def mkdir(self) -> None:
        if len(self.model.dirs) < DIRS_MAX:
            name = self.new_name()
            os.mkdir(self.at(name), 0o750)
            self.model.dirs[name] = 0o750

    def _empty(self, path: str) -> bool:
        return not any(n.startswith(path + "/") for n in (*self.model.dirs, *self.model.nodes))

    def rmdir(self) -> None:
        name = self.rng.choice(list(self.model.dirs))
        if name and self._empty(name):
            os.rmdir(self.at(name))
            del self.model.dirs[name]
        elif name:
            try:
                os.rmdir(self.at(name))
            except OSError as e:
                if e.errno != errno.ENOTEMPTY:
                    raise
            else:
                raise AssertionError(f"rmdir of {name}, which is not empty")

    def symlink(self) -> None:
        name, target = self.new_name(), "t" * self.rng.randrange(1, 250)
        os.symlink(target, self.at(name))
        self.model.nodes[name] = Node(stat.S_IFLNK | 0o777, target=target)

    def link(self) -> None:
        if (old := self.pick()) is not None:
            new = self.new_name()
            os.link(self.at(old), self.at(new), follow_symlinks=False)
            self.model.nodes[new] = self.model.nodes[old]
            self.model.nodes[old].names += 1

    def _moved(self, old: str, new: str) -> None:
        """A directory and all below it has another name now."""
        _move_names(self.model.dirs, old, new)
        _move_names(self.model.nodes, old, new)

    def rename(self) -> None:
        old = self.rng.choice([*list(self.model.dirs)[1:], *self.model.nodes, ""])
        new = self.new_name()
        if not old or new.startswith(old + "/"):
            return
        if self.rng.random() < 0.5:
            os.rename(self.at(old), self.at(new))
        else:
            renameat2(self.at(old), self.at(new), NOREPLACE)
        self._moved(old, new)

    def rename_over(self) -> None:
        old, new = self.pick(), self.pick()
        if old is None or new is None:
            return
        os.rename(self.at(old), self.at(new))
        if self.model.nodes[old] is not self.model.nodes[new]:      # else both names stay, says POSIX
            self.model.nodes[new].names -= 1
            self.model.nodes[new] = self.model.nodes.pop(old)

    def exchange(self) -> None:
        both = [*list(self.model.dirs)[1:], *self.model.nodes]
        if len(both) < 2:
            return
        a, b = self.rng.sample(both, 2)
        if a.startswith(b + "/") or b.startswith(a + "/"):
            return
        renameat2(self.at(a), self.at(b), EXCHANGE)
        self._moved(a, "\0")
        self._moved(b, a)
        self._moved("\0", b)

    def unlink(self) -> None:
        if (name := self.pick()) is not None:
            fd = os.open(self.at(name), os.O_RDONLY) if stat.S_ISREG(self.model.nodes[name].mode) else -1
            os.unlink(self.at(name))
            node = self.model.nodes.pop(name)
            node.names -= 1
            if fd >= 0:
                assert os.fstat(fd).st_nlink == node.names
                assert os.pread(fd, SIZE_MAX * 2, 0) == node.data, f"{name}, open and unlinked"
                os.close(fd)

    def chmod(self) -> None:
        if (name := self.pick(files=True)) is not None:
            mode = self.rng.choice((0o600, 0o644, 0o4755, 0o444))
            os.chmod(self.at(name), mode)
            self.model.nodes[name].mode = stat.S_IFREG | mode

    def xattr(self) -> None:
        if (name := self.pick(files=True)) is None:
            return
        node, key = self.model.nodes[name], f"user.{self.rng.randrange(6)}"
        if key in node.xattrs and self.rng.random() < 0.4:
            os.removexattr(self.at(name), key)
            del node.xattrs[key]
        else:
            value = self.rng.randbytes(self.rng.choice((0, 5, 100, 3000)))
            os.setxattr(self.at(name), key, value)
            node.xattrs[key] = value

    def look(self) -> None:
        if (name := self.pick()) is not None:
            check_node(self.at(name), self.model.nodes[name])


def check_node(path: str, node: Node) -> None:
    """What one name leads to. Raises AssertionError."""
    st = os.lstat(path)
    wanted = node.mode
    if stat.S_ISREG(wanted):        # a write by root keeps setuid and setgid
        assert st.st_size == len(node.data), f"{path}: size {st.st_size}, wanted {len(node.data)}"
        with open(path, "rb") as f:
            data = f.read()
        assert data == node.data, f"{path}: content differs"
        xattrs = {k: os.getxattr(path, k) for k in os.listxattr(path)}
        assert xattrs == node.xattrs, f"{path}: attributes {sorted(xattrs)}, wanted {sorted(node.xattrs)}"
    else:
        assert os.readlink(path) == node.target, f"{path}: another target"
    assert st.st_mode == wanted, f"{path}: mode {st.st_mode:o}, wanted {wanted:o}"
    assert st.st_nlink == node.names, f"{path}: nlink {st.st_nlink}, wanted {node.names}"


def check_tree(top: Path, model: Model) -> None:
    """The whole subtree: nothing is missing, nothing is there that should not be. Raises AssertionError."""
    found = set()
    for folder, dirs, files in os.walk(top):
        found |= {os.path.relpath(os.path.join(folder, n), top) for n in (*dirs, *files)}
    wanted = {n for n in (*model.dirs, *model.nodes) if n}
    assert found == wanted, f"{top}: missing {sorted(wanted - found)}, too many {sorted(found - wanted)}"
    for name, node in model.nodes.items():
        check_node(os.path.join(top, name), node)
