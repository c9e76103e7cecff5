"""storms: many processes at one kind of thing, each with a model of its share; together the models are the truth.

python -m tests.torture.storms [--seed N] [--ops N] [--procs N] [--bsize N] [--only NAME]

tree      names of files made, linked, moved, exchanged in directories that are moved around at the same time
xattrs    attributes of the same files, each process with keys of its own
locks     flock, fcntl and OFD locks: nobody is where another one excludes him; deadlocks, signals, kills
seekdir   telldir and seekdir in a large directory while names come and go
truncs    stores through a mapping while the file is cut and grown: no fault before the end, no foreign bytes
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import pickle
import random
import stat
import sys
from pathlib import Path

from torture.guard import Guard
from torture.locks import locks
from torture.place import Place, crowd
from torture.races import LIMIT_S, Race, race_main
from torture.sys_calls import EXCHANGE, KEEP_SIZE, NOREPLACE, PUNCH, ZERO, fallocate, link_open_file, renameat2_at

PAGE = mmap.PAGESIZE


def remount(where: Place) -> None:
    """What was only in memory has to come from the disk; a place inside of another's mount stays as it is."""
    if where.mounted is not None:
        where.umount()
        where.mount()


# -- tree

FOLDERS = 9
LINKS_MAX = 40


class Names:
    """One process's names in folders that all share: (folder, name) -> the inode's number."""

    def __init__(self, number: int, fds: list[int], rng: random.Random) -> None:
        self.number, self.fds, self.rng, self.made = number, fds, rng, 0
        self.names: dict[tuple[int, str], int] = {}
        self.nodes: dict[int, tuple[int, int]] = {}         # inode -> file type, links

    def new(self) -> tuple[int, str]:
        self.made += 1
        tail = "-" * self.rng.randrange(200) if self.rng.random() < 0.1 else ""
        return self.rng.randrange(len(self.fds)), f"p{self.number}-{self.made}{tail}"

    def add(self, at: tuple[int, str]) -> None:
        st = os.stat(at[1], dir_fd=self.fds[at[0]], follow_symlinks=False)
        kind, links = self.nodes.get(st.st_ino, (stat.S_IFMT(st.st_mode), 0))
        assert st.st_nlink == (2 if kind == stat.S_IFDIR else links + 1), f"{at}: nlink {st.st_nlink} after {links}"
        self.names[at] = st.st_ino
        self.nodes[st.st_ino] = kind, links + 1

    def drop(self, at: tuple[int, str]) -> None:
        ino = self.names.pop(at)
        kind, links = self.nodes.pop(ino)
        if links > 1:
            self.nodes[ino] = kind, links - 1

    def pick(self, *, folders: bool = True) -> tuple[int, str] | None:
        some = [at for at, ino in self.names.items() if folders or self.nodes[ino][0] != stat.S_IFDIR]
        return self.rng.choice(some) if some else None

    def step(self) -> None:
        if len(self.names) > 150:
            return self.remove()
        return self.rng.choice((self.create, self.create, self.link, self.link, self.rename, self.rename,
                                self.rename_over, self.exchange, self.exchange, self.remove, self.look))()

    def create(self) -> None:
        at = self.new()
        fd, name, kind = self.fds[at[0]], at[1], self.rng.randrange(6)
        if kind == 0:
            os.symlink("nowhere", name, dir_fd=fd)
        elif kind == 1:
            os.mkdir(name, dir_fd=fd)
        elif kind == 2:
            os.mkfifo(name, dir_fd=fd)
        elif kind == 3:
            nameless = os.open(f"/proc/self/fd/{fd}", os.O_TMPFILE | os.O_WRONLY, 0o600)
            link_open_file(nameless, f"/proc/self/fd/{fd}/{name}")
            os.close(nameless)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=fd))
        self.add(at)

    def link(self) -> None:
        old = self.pick(folders=False)
        if old is not None and self.nodes[self.names[old]][1] < LINKS_MAX:
            new = self.new()
            os.link(old[1], new[1], src_dir_fd=self.fds[old[0]], dst_dir_fd=self.fds[new[0]], follow_symlinks=False)
            self.add(new)

    def rename(self) -> None:
        if (old := self.pick()) is not None:
            new = self.new()
            renameat2_at(self.fds[old[0]], old[1], self.fds[new[0]], new[1], self.rng.choice((0, NOREPLACE)))
            self.names[new] = self.names.pop(old)

    def rename_over(self) -> None:
        old, new = self.pick(folders=False), self.pick(folders=False)
        if old is None or new is None or old == new:
            return
        renameat2_at(self.fds[old[0]], old[1], self.fds[new[0]], new[1], 0)
        if self.names[old] != self.names[new]:          # else both names stay, says POSIX
            ino = self.names.pop(old)
            self.drop(new)
            self.names[new] = ino

    def exchange(self) -> None:
        a, b = self.pick(), self.pick()
        if a is not None and b is not None:
            renameat2_at(self.fds[a[0]], a[1], self.fds[b[0]], b[1], EXCHANGE)
            self.names[a], self.names[b] = self.names[b], self.names[a]

    def remove(self) -> None:
        if (at := self.pick()) is not None:
            if self.nodes[self.names[at]][0] == stat.S_IFDIR:
                os.rmdir(at[1], dir_fd=self.fds[at[0]])
            else:
                os.unlink(at[1], dir_fd=self.fds[at[0]])
            self.drop(at)

    def look(self) -> None:
        if (at := self.pick()) is not None:
            st = os.stat(at[1], dir_fd=self.fds[at[0]], follow_symlinks=False)
            kind, links = self.nodes[self.names[at]]
            wanted = self.names[at], kind, 2 if kind == stat.S_IFDIR else links
            assert (st.st_ino, stat.S_IFMT(st.st_mode), st.st_nlink) == wanted, f"{at}: {st}, wanted {wanted}"


class Mover:
    """Moves the folders themselves: D0 stays, every other one is below some other. It alone knows where."""

    def __init__(self, fds: list[int], rng: random.Random) -> None:
        self.fds, self.rng = fds, rng
        self.parent = dict.fromkeys(range(1, len(fds)), 0)

    def above(self, number: int) -> list[int]:
        out = [number]
        while out[-1]:
            out.append(self.parent[out[-1]])
        return out

    def step(self) -> None:
        number, to = self.rng.randrange(1, len(self.fds)), self.rng.randrange(len(self.fds))
        if self.rng.random() < 0.3 and to:
            self.exchange(number, to)
            return
        try:
            os.rename(f"D{number}", f"D{number}", src_dir_fd=self.fds[self.parent[number]], dst_dir_fd=self.fds[to])
        except OSError as e:
            if e.errno != errno.EINVAL or number not in self.above(to):
                raise
            return
        assert number not in self.above(to), f"D{number} went below itself"
        self.parent[number] = to
        assert os.stat("..", dir_fd=self.fds[number]).st_ino == os.fstat(self.fds[to]).st_ino

    def exchange(self, a: int, b: int) -> None:
        """Each goes where the other was, under the other's name; back to their own names after it."""
        if a == b or a in self.above(b) or b in self.above(a):
            return
        renameat2_at(self.fds[self.parent[a]], f"D{a}", self.fds[self.parent[b]], f"D{b}", EXCHANGE)
        self.parent[a], self.parent[b] = self.parent[b], self.parent[a]
        for old, new in ((a, "swap"), (b, f"D{b}"), (a, f"D{a}")):
            name = "swap" if (old, new) == (a, f"D{a}") else f"D{b if old == a else a}"
            os.rename(name, new, src_dir_fd=self.fds[self.parent[old]], dst_dir_fd=self.fds[self.parent[old]])


def check_names(fds: list[int], said: list[Names], parent: dict[int, int]) -> None:
    """The folders hold what the models say, and nothing else. Raises AssertionError."""
    for number, fd in enumerate(fds):
        wanted = {name: ino for one in said for (folder, name), ino in one.names.items() if folder == number}
        wanted |= {f"D{n}": os.fstat(fds[n]).st_ino for n, above in parent.items() if above == number}
        with os.scandir(fd) as entries:
            got = {entry.name: entry.inode() for entry in entries}
        assert got == wanted, f"D{number}: too many {sorted(got.items() - wanted.items())[:5]}, " \
                              f"missing {sorted(wanted.items() - got.items())[:5]}"
        folders = sum(stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode) for name in got)
        assert os.fstat(fd).st_nlink == 2 + folders, f"D{number}: nlink {os.fstat(fd).st_nlink}, {folders} folders"
        if number:
            assert os.stat("..", dir_fd=fd).st_ino == os.fstat(fds[parent[number]]).st_ino, f"D{number}: .."


def tree(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    top = where.root / "D0"
    for number in range(FOLDERS):
        (top / f"D{number}" if number else top).mkdir()
    fds = [os.open(top / f"D{number}" if number else top, os.O_RDONLY) for number in range(FOLDERS)]

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/tree/{number}")
        one = Mover(fds, rng) if number == procs else Names(number, fds, rng)
        for _ in range(ops):
            one.step()
            guard.tick()
        (where.top / f"tree{number}").write_bytes(pickle.dumps(one))

    crowd(procs + 1, process, LIMIT_S)()
    said = [pickle.loads((where.top / f"tree{number}").read_bytes()) for number in range(procs + 1)]
    mover = said.pop()
    check_names(fds, said, mover.parent)
    for fd in fds:
        os.close(fd)
    remount(where)
    paths = ["/".join(["D0", *(f"D{n}" for n in mover.above(number)[-2::-1])]) for number in range(FOLDERS)]
    fds = [os.open(where.root / path, os.O_RDONLY) for path in paths]
    check_names(fds, said, mover.parent)
    for fd in fds:
        os.close(fd)
    return f"{ops * (procs + 1)} operations, {sum(len(one.names) for one in said)} names left"


# -- xattrs

# Few keys: what the attributes of one inode can be is limited (one block of pointers to their blocks).
VALUES = (0, 1, 40, 900, 5000, 30_000)        # bytes; all block pointers of a large one go into one block


def xattrs(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    paths = [where.root / f"xattrs{n}" for n in range(4)]
    for path in paths:
        path.touch()
    paths.append(where.root / "xattrs-folder")
    paths[-1].mkdir()

    def mine(path: Path, number: int) -> dict[str, bytes]:
        names = [k for k in os.listxattr(path) if k.startswith(f"user.p{number}.")]
        return {k: os.getxattr(path, k) for k in names}

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/xattrs/{number}")
        models: list[dict[str, bytes]] = [{} for _ in paths]
        for _ in range(ops):
            at = rng.randrange(len(paths))
            path, model, key = paths[at], models[at], f"user.p{number}.{'k' * rng.choice((0, 19))}{rng.randrange(6)}"
            kind = rng.random()
            try:
                if kind < 0.3:
                    os.removexattr(path, key)
                    del model[key]
                elif kind < 0.95:
                    flags = rng.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
                    value = rng.randbytes(min(rng.choice(VALUES), bsize * 20))
                    os.setxattr(path, key, value, flags)
                    assert (flags, key in model) not in ((os.XATTR_CREATE, True), (os.XATTR_REPLACE, False)), flags
                    model[key] = value
                else:
                    assert mine(path, number) == model, f"{path}: attributes of process {number}"
            except OSError as e:
                if (e.errno, key in model) not in ((errno.EEXIST, True), (errno.ENODATA, False)):
                    raise
            guard.tick()
        (where.top / f"xattrs{number}").write_bytes(pickle.dumps(models))

    crowd(procs, process, LIMIT_S)()
    said = [pickle.loads((where.top / f"xattrs{number}").read_bytes()) for number in range(procs)]
    for again in range(2):
        for at, path in enumerate(paths):
            wanted = {k: v for models in said for k, v in models[at].items()}
            got = {k: os.getxattr(path, k) for k in os.listxattr(path) if k.startswith("user.")}
            assert got == wanted, f"{path}: {sorted(got)}, wanted {sorted(wanted)}"
        if not again:
            remount(where)
    return f"{ops * procs} changes, {sum(len(m) for models in said for m in models)} attributes left"


# -- seekdir

class Dirent(ctypes.Structure):
    _fields_ = (("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("length", ctypes.c_uint16),
                ("kind", ctypes.c_uint8), ("name", ctypes.c_char * 256))


libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.opendir.argtypes = [ctypes.c_char_p]
libc.telldir.restype = ctypes.c_long
for function in (libc.readdir, libc.telldir, libc.closedir, libc.rewinddir):
    function.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


class Scanner:
    """An open directory; it remembers places, and what of the stable names came after each."""

    def __init__(self, path: Path, stable: set[str], rng: random.Random) -> None:
        self.stable, self.rng = stable, rng
        self.handle = libc.opendir(os.fsencode(path))
        assert self.handle, os.strerror(ctypes.get_errno())

    def read(self, count: int) -> tuple[list[str], bool]:
        """The stable ones of the next entries, and whether this was the end."""
        names = []
        for _ in range(count):
            ctypes.set_errno(0)
            entry = libc.readdir(self.handle)
            if not entry:
                assert not ctypes.get_errno(), os.strerror(ctypes.get_errno())
                return names, True
            name = os.fsdecode(Dirent.from_address(entry).name)
            if name in self.stable:
                names.append(name)
        return names, False

    def scan(self, guard: Guard) -> None:
        """The whole directory, then again from some of the places on the way."""
        libc.rewinddir(self.handle)
        seen: list[str] = []
        places = []
        ended = False
        while not ended:
            if self.rng.random() < 0.3:
                places.append((libc.telldir(self.handle), len(seen)))
            names, ended = self.read(self.rng.choice((1, 10, 100, 1000)))
            seen += names
            guard.tick()
        assert len(seen) == len(set(seen)), f"twice: {sorted(n for n in set(seen) if seen.count(n) > 1)[:5]}"
        assert set(seen) == self.stable, f"missing: {sorted(self.stable - set(seen))[:5]}"
        for place, count in self.rng.sample(places, min(5, len(places))):
            libc.seekdir(self.handle, place)
            names, ended = self.read(self.rng.choice((1, 50, 10_000_000)))
            if ended:
                assert sorted(names) == sorted(seen[count:]), f"after seekdir to {place}: {len(names)} names, not " \
                                                              f"the {len(seen) - count} of before"
            else:
                assert set(names) <= set(seen[count:]), f"after seekdir to {place}: what came before it"
            guard.tick()


def seekdir(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    folder = where.root / "seekdir"
    folder.mkdir()
    finished = where.top / "seekdir-finished"
    finished.mkdir()
    stable = {f"stable{n}{'-' * (n % 40)}" for n in range(ops * 5)}
    fd = os.open(folder, os.O_RDONLY)
    for name in stable:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=fd))
        guard.tick()

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/seekdir/{number}")
        if number >= 2:                         # two make changes, the others look
            scanner, scans = Scanner(folder, stable, rng), 0
            while not scans or len(os.listdir(finished)) < 2:
                scanner.scan(guard)
                scans += 1
            libc.closedir(scanner.handle)
            (where.top / f"seekdir{number}").write_text(str(scans))
            return
        names: list[str] = []
        for n in range(ops):
            if len(names) < 30 or rng.random() < 0.6:
                names.append(f"c{number}-{n}{'c' * rng.randrange(100)}")
                os.close(os.open(names[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=fd))
            else:
                os.unlink(names.pop(rng.randrange(len(names))), dir_fd=fd)
            guard.tick()
        (finished / str(number)).touch()

    crowd(procs, process, LIMIT_S)()
    os.close(fd)
    for path in finished.iterdir():
        path.unlink()
    finished.rmdir()
    return f"{len(stable)} names stay, {[(where.top / f'seekdir{n}').read_text() for n in range(2, procs)]} scans"


# -- truncs

SAFE, ALL = 8, 40               # pages that are never cut off; pages there are at most
WORD = 8


def tag(page: int) -> bytes:
    return b"PG" + page.to_bytes(WORD - 2, "little")


def load(view: memoryview, pipe: tuple[int, int]) -> bytes | None:
    """Eight mapped bytes, or None where a load would be answered by SIGBUS: write(2) says EFAULT then."""
    try:
        os.write(pipe[1], view)
    except OSError as e:
        if e.errno != errno.EFAULT:
            raise
        return None
    return os.read(pipe[0], WORD)


def store(view: memoryview, data: bytes, pipe: tuple[int, int]) -> bool:
    """The same for a store; False where it would be answered by SIGBUS."""
    os.write(pipe[1], data)
    try:
        os.readv(pipe[0], [view])
    except OSError as e:
        if e.errno != errno.EFAULT:
            raise
        with contextlib.suppress(BlockingIOError):
            os.read(pipe[0], WORD)
        return False
    return True


def truncs(where: Place, guard: Guard, seed: int, ops: int, procs: int, bsize: int) -> str:
    path = where.root / "truncs"
    path.write_bytes(bytes(ALL * PAGE))
    with path.open("r+b") as f:
        mapping = mmap.mmap(f.fileno(), ALL * PAGE)         # all inherit it; who is late finds the file cut off

    def change(fd: int, rng: random.Random) -> None:
        for _ in range(ops):
            kind = rng.random()
            at, length = rng.randrange(SAFE * PAGE, ALL * PAGE), rng.randrange(1, 6 * PAGE)
            if kind < 0.5:
                os.ftruncate(fd, at)
            elif kind < 0.8:
                os.ftruncate(fd, ALL * PAGE)
            else:
                fallocate(fd, rng.choice((PUNCH, ZERO, 0)) | KEEP_SIZE, at, length)
            guard.tick()

    def look(fd: int, number: int, rng: random.Random) -> None:
        pipe = os.pipe()
        os.set_blocking(pipe[0], False)
        values = dict.fromkeys(range(SAFE), bytes(WORD))
        with memoryview(mapping) as whole:
            for n in range(ops):
                page = rng.randrange(ALL) if rng.random() < 0.6 else rng.randrange(SAFE)
                at = page * PAGE + number * WORD
                with whole[at:at + WORD] as view:
                    if page < SAFE:
                        if rng.random() < 0.5:
                            values[page] = n.to_bytes(WORD, "little")
                            assert store(view, values[page], pipe), f"a store to page {page} faults"
                        got = load(view, pipe)
                        assert got == values[page], f"page {page}: {got!r}, stored {values[page]!r}"
                    else:
                        if rng.random() < 0.5:
                            store(view, tag(page), pipe)
                        got = load(view, pipe)
                        assert got in (None, tag(page), bytes(WORD)), f"page {page} has {got!r}"
                        got = os.pread(fd, WORD, at)
                        assert got in (tag(page)[:len(got)], bytes(len(got))), f"page {page} reads {got!r}"
                guard.tick()
        for page, value in values.items():
            assert os.pread(fd, WORD, page * PAGE + number * WORD) == value, f"page {page} at the end"

    def process(number: int) -> None:
        rng = random.Random(f"{seed}/truncs/{number}")
        fd = os.open(path, os.O_RDWR)
        if number:
            look(fd, number, rng)
        else:
            change(fd, rng)
        os.close(fd)

    crowd(procs, process, LIMIT_S)()
    mapping.close()
    return f"{ops} cuts, {ops * (procs - 1)} looks"


STORMS: dict[str, Race] = {"tree": tree, "xattrs": xattrs, "locks": locks, "seekdir": seekdir, "truncs": truncs}


if __name__ == "__main__":
    sys.exit(race_main(__doc__ or "", STORMS))
