"""Short plays on two or three nodes that are mounted (mounts.py), with programs that keep files open and mapped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType

from coherence.mounts import Mounts

SHELL = """
import os, mmap, sys, ctypes
os.chdir(sys.argv[1])
place = globals()
for line in sys.stdin:
    try:
        try:
            answer = repr(eval(line, place))
        except SyntaxError:
            exec(line, place)
            answer = ""
    except OSError as e:
        answer = e.__class__.__name__ + ":" + str(e.errno)
    print(answer, flush=True)
"""

LIMIT_S = 60.0


class Program:
    """Python on a node, statement by statement; what an expression gives comes back as its repr."""

    def __init__(self, mounts: Mounts, node: int) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SHELL, mounts.root(node)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def __call__(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().rstrip("\n")


def cached(mounts: Mounts) -> None:
    """What only one node uses its kernel answers; and so do several kernels what nobody changes."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two:
        one("f = open('f', 'wb', buffering=0); f.write(b'x' * 100000)")
        for at, who in ((0, one), (1, two)):
            who("fd = os.open('f', os.O_RDONLY)")
            assert who("len(os.pread(fd, 100000, 0)), os.fstat(fd).st_size") == "(100000, 100000)"
            before = mounts.requests(at)
            who("for i in range(1000): os.fstat(fd), os.pread(fd, 4096, i % 24 * 4096)")
            after = mounts.requests(at)
            # Read-ahead may still be counted, and the first READ makes the access time doubtful: a few, not thousands.
            for kind in ("READ", "GETATTR"):
                assert after.get(kind, 0) <= before.get(kind, 0) + 8, (kind, before, after)
        one("os.pwrite(f.fileno(), b'new', 5000)")
        assert two("os.pread(fd, 3, 5000)") == "b'new'"
        assert one("os.pread(fd, 3, 5000)") == "b'new'"


def sizes(mounts: Mounts) -> None:
    """Growth and truncation show at once in whatever is open or mapped."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two:
        one("f = open('s', 'wb', buffering=0); f.write(b'a' * 5000)")
        two("fd = os.open('s', os.O_RDONLY)")
        assert two("os.fstat(fd).st_size, len(os.pread(fd, 99999, 0))") == "(5000, 5000)"
        one("f.write(b'b' * 5000)")
        assert two("len(os.pread(fd, 99999, 0)), os.lseek(fd, 0, 2), os.stat('s').st_size") == "(10000, 10000, 10000)"
        two("m = mmap.mmap(fd, 10000, prot=mmap.PROT_READ)")
        assert two("m[4998:5002], m[9999:]") == "(b'aabb', b'b')"
        one("os.truncate('s', 5000)")
        assert two("os.fstat(fd).st_size, m[4998:5002]") == "(5000, b'aa\\x00\\x00')"
        one("os.truncate('s', 10000)")
        assert two("os.fstat(fd).st_size, m[4998:5002], os.pread(fd, 4, 4998)") == \
            "(10000, b'aa\\x00\\x00', b'aa\\x00\\x00')"
        one("os.chmod('s', 0o640); os.utime('s', ns=(1, 7))")
        assert two("oct(os.fstat(fd).st_mode), os.fstat(fd).st_mtime_ns") == "('0o100640', 7)"


def stores(mounts: Mounts) -> None:
    """Stores through shared mappings of one page on three nodes, msync or not; none is lost, all see them."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two, Program(mounts, 2) as three:
        one("open('m', 'wb').write(bytes(8192))")
        for who in (one, two, three):
            who("f = os.open('m', os.O_RDWR); m = mmap.mmap(f, 8192)")
        for turn in range(20):
            for i, who in enumerate((one, two, three)):
                who(f"m[{100 * i + turn}] = {turn + 1}; m[{4096 + 100 * i + turn}] = {i + 1}")
        want = [turn + 1 for turn in range(20)]
        for who in (one, two, three):
            assert who("[list(m[i * 100:i * 100 + 20]) for i in range(3)]") == repr([want] * 3)
            assert who("[list(os.pread(f, 20, 4096 + 100 * i)) for i in range(3)]") == \
                repr([[i + 1] * 20 for i in range(3)])
        one("m[0] = 99; m.flush()")
        assert two("os.fsync(f) or m[0]") == "99"
        one("m[1] = 98; m.close(); os.close(f)")            # a program that ends without a word leaves its stores, too
        assert three("m[1]") == "98"
        two("m[2] = 97")
    with Program(mounts, 0) as one:
        assert one("list(open('m', 'rb').read(3))") == "[99, 98, 97]"


def appends(mounts: Mounts) -> None:
    """Each lands at the end, wherever the own kernel thinks that it is; readers with full caches see it."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two:
        for who in (one, two):
            who("f = os.open('log', os.O_RDWR | os.O_CREAT | os.O_APPEND); r = os.open('log', os.O_RDONLY)")
        want = ""
        for turn in range(30):
            for name, who in (("one", one), ("two", two)):
                record = f"{name} {turn}|"
                who(f"os.write(f, {record.encode()!r})")
                want += record
                assert (two if who is one else one)(f"os.pread(r, 100000, 0) == {want.encode()!r}") == "True"


def removed(mounts: Mounts) -> None:
    """Space comes back when one node removes what others have only looked at, or when the last of them closes it."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two, Program(mounts, 2) as three:
        free = "(lambda s: s.f_bfree * s.f_frsize)(os.statvfs('.'))"
        one("os.mkdir('d'); os.sync()")
        for who in (two, three):
            who("os.stat('d')")
        before = int(one(free))
        one("for i in range(8): open(f'd/looked{i}', 'wb').write(bytes(400_000))")
        one("open('d/open', 'wb').write(bytes(400_000)); os.sync()")
        for who in (two, three):
            assert who("sum(len(open(f'd/looked{i}', 'rb').read()) for i in range(8)), len(os.listdir('d'))") == \
                "(3200000, 9)"
        two("f = open('d/open', 'rb')")
        one("[os.unlink(f'd/{name}') for name in os.listdir('d')]; os.rmdir('d')")
        # What `two` has open stays: its data, its dinode.
        back(mounts, lambda: int(one(free)) >= before - 450_000, "the space of files that others have looked at")
        assert int(one(free)) < before - 390_000
        assert two("len(f.read())") == "400000"
        two("f.close()")
        back(mounts, lambda: int(one(free)) >= before, "the space of a file that another node had open")


def back(mounts: Mounts, check: Callable[[], bool], what: str) -> None:
    """Waits for it, far longer than it takes."""
    deadline = time.monotonic() + LIMIT_S
    while not check():
        assert time.monotonic() < deadline, f"{what} does not come back\n{mounts.report()}"
        time.sleep(0.05)
def counted(mounts: Mounts, node: int, opcode: str, least: int) -> None:
    """Waits until so many requests are in the statistics: a worker counts one after it has answered it."""
    deadline = time.monotonic() + LIMIT_S
    while mounts.requests(node).get(opcode, 0) < least:
        assert time.monotonic() < deadline, f"{opcode}: {mounts.requests(node).get(opcode, 0)}, not {least}"
        time.sleep(0.01)


def tail(mounts: Mounts) -> None:
    """Who opens a file to which this node appends reads past the pages: the kernel's idea of its size may be wrong."""
    with Program(mounts, 0) as one:
        one("a = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND); os.write(a, b'x' * 5000)")
        before = mounts.requests(0).get("READ", 0)
        one("r = os.open('log', os.O_RDONLY)")
        one("for i in range(100): os.pread(r, 100, 0)")
        counted(mounts, 0, "READ", before + 100)
        one("os.close(a); os.close(r)")
        one("r = os.open('log', os.O_RDONLY)")
        one("for i in range(100): os.pread(r, 100, 0)")
        assert mounts.requests(0).get("READ", 0) <= before + 104


def reopened(mounts: Mounts) -> None:
    """Pages outlive the open file; a handle that may map takes them over under EX; O_TRUNC, unlink, a new file."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two:
        one("open('r', 'wb').write(b'1' * 9000)")
        assert two("open('r', 'rb').read() == b'1' * 9000") == "True"
        before = mounts.requests(1)["READ"]
        assert two("[open('r', 'rb').read() == b'1' * 9000 for _ in range(100)] == [True] * 100") == "True"
        assert mounts.requests(1)["READ"] <= before + 8
        two("f = os.open('r', os.O_RDWR); m = mmap.mmap(f, 9000); m[10] = 50")
        assert one("open('r', 'rb').read(12)") == "b'111111111121'"
        one("open('r', 'wb').write(b'3' * 20)")
        assert two("os.pread(f, 99, 0) == b'3' * 20") == "True"
        assert two("open('r', 'rb').read() == b'3' * 20") == "True"
        one("os.unlink('r'); open('r', 'wb').write(b'4')")
        assert two("open('r', 'rb').read(), os.pread(f, 2, 0)") == "(b'4', b'33')"


def listings(mounts: Mounts) -> None:
    """A listing names no inode to the kernel (READDIRPLUS): it would know it only after the names before it, of which
    it may be looking up one in vain until this very inode is let go."""
    with Program(mounts, 0) as one, Program(mounts, 1) as two:
        one("os.mkdir('l'); [open(f'l/{i}', 'w').close() for i in range(300)]")
        for who in (one, two):
            assert who("sum(os.stat(f'l/{name}').st_nlink for name in os.listdir('l'))") == "300"
            assert who("sum(entry.stat().st_nlink for entry in os.scandir('l'))") == "300"
        for at in (0, 1):
            counted(mounts, at, "READDIR", 1)
            assert mounts.requests(at).get("READDIRPLUS", 0) == 0


ALL = {play.__name__: play for play in (cached, sizes, stores, appends, tail, reopened, removed, listings)}
