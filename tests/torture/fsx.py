"""fsx: random operations on one file against a bytearray; what the file says must be what the model says.

python -m tests.torture.fsx [--seed N] [--ops N] [--bsize N] [--jdata] [--options MOUNT_OPTIONS] [--base BYTES]
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from torture.fsx_more import MORE_WEIGHTS, MoreOperations, refused
from torture.guard import Guard
from torture.place import Place, arguments, leave_free, place
from torture.sys_calls import KEEP_SIZE, PUNCH, ZERO, fallocate, set_jdata

PAGE = mmap.PAGESIZE
FULL_COMPARE_EVERY = 200
LOG_LINES = 60
# operation -> weight
WEIGHTS = {"read": 10, "write": 14, "append": 3, "mapread": 5, "mapwrite": 9, "truncate": 6, "grow": 3,
           "fallocate": 3, "punch": 5, "zero": 4, "copy": 4, "reopen": 2, "direct_read": 4,
           "direct_write": 5, "fsync": 2, "drop": 2, "seek": 4, "size": 3, "writev": 2, "remap": 2, "jflag": 1,
           **MORE_WEIGHTS}

def first_difference(a: bytes | bytearray, b: bytes | bytearray) -> str:
    if len(a) != len(b):
        return f"length {len(a)}, wanted {len(b)}"
    low, high = 0, len(a)
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] != b[low:middle]:
            high = middle
        else:
            low = middle
    last = max(i for i in range(len(a)) if a[i] != b[i])
    return (f"differ from {low} ({low:#x}) to {last} ({last:#x}): got {bytes(a[low:low + 16]).hex()}, "
            f"wanted {bytes(b[low:low + 16]).hex()}")


class Fsx(MoreOperations):
    """The file, its model, and the operations. All offsets count from `base`; below is a hole."""

    def __init__(self, path: Path, rng: random.Random, size_max: int, base: int) -> None:
        self.path, self.rng, self.size_max, self.base = path, rng, size_max, base
        self.good = bytearray()
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.counts: dict[str, int] = {}
        self.flags = os.O_RDWR
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.map: mmap.mmap | None = None
        self.map_at = 0
        self.jdata = False
        self.tried = 0, b""         # what the last operation was to put where
        self.tight = False          # the disk may be full: writes may be short or fail, and then change nothing
        self.names = list(WEIGHTS)
        self.weights = list(WEIGHTS.values())
        if base:
            os.ftruncate(self.fd, base)

    def drop(self, name: str) -> None:
        """Leave an operation out; the others' draws stay as they are."""
        self.weights = [0 if n == name else w for n, w in zip(self.names, self.weights, strict=True)]

    # -- what the operations draw

    def say(self, text: str) -> None:
        self.log.append(text)

    def span(self) -> tuple[int, int]:
        """An offset and a length: short or long, at random or at an edge where things go wrong."""
        rng = self.rng
        off = rng.randrange(self.size_max)
        kind = rng.random()
        if kind < 0.2:
            off = off // PAGE * PAGE
        elif kind < 0.35 and self.good:
            off = max(0, min(self.size_max - 1, len(self.good) + rng.randrange(-600, 600)))
        elif kind < 0.45:
            off = rng.randrange(min(self.size_max, 5000))
        longest = rng.choice((16, 600, 5000, 5000, 70_000, self.size_max))
        length = rng.randrange(1, longest + 1)
        if rng.random() < 0.2:
            length = max(512, length // 512 * 512)
        return off, max(1, min(length, self.size_max - off))

    def inside(self) -> tuple[int, int]:
        """A piece of what there is; length 0 when the file is empty."""
        off, length = self.span()
        if not self.good:
            return 0, 0
        off %= len(self.good)
        return off, min(length, len(self.good) - off)

    def put(self, off: int, data: bytes) -> None:
        if off > len(self.good):
            self.good.extend(bytes(off - len(self.good)))
        self.good[off:off + len(data)] = data

    def all_of(self, done: int, length: int) -> int:
        """What a write says that it wrote: all, unless the disk may be full.

        Pages that a short write could not write lose their uptodate flag, but stay mapped where they are (fs/fuse,
        fuse_send_write_pages): a mapping would go on showing what is on no disk.
        """
        assert done == length or (self.tight and 0 < done < length), f"{done} of {length} bytes written"
        if done < length:
            self.say(f"  only {done}")
            self.unmap()
        return done

    def same(self, got: bytes | bytearray, off: int, what: str) -> None:
        wanted = self.good[off:off + len(got)]
        assert got == wanted, f"{what} at {off}: {first_difference(got, wanted)}"

    # -- operations

    def op_read(self) -> None:
        off, length = self.span()
        self.say(f"read {off} {length}")
        got = os.pread(self.fd, length, self.base + off)
        assert len(got) == max(0, min(length, len(self.good) - off)), f"read at {off}: {len(got)} bytes"
        self.same(got, off, "read")

    def op_write(self) -> None:
        off, length = self.span()
        self.say(f"write {off} {length}")
        data = self.rng.randbytes(length)
        self.put(off, data[:self.all_of(os.pwrite(self.fd, data, self.base + off), length)])

    def op_writev(self) -> None:
        off, length = self.span()
        self.say(f"writev {off} {length}")
        data = self.rng.randbytes(length)
        cut = self.rng.randrange(length + 1)
        done = os.pwritev(self.fd, [data[:cut], data[cut:]], self.base + off)
        self.put(off, data[:self.all_of(done, length)])

    def op_append(self) -> None:
        length = min(self.span()[1], self.size_max - len(self.good))
        self.say(f"append {length}")
        data = self.rng.randbytes(length)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            self.good.extend(data[:self.all_of(os.write(fd, data), length)])
        finally:
            os.close(fd)

    def _mapping(self) -> mmap.mmap | None:
        """A shared mapping of the whole file; one that was there stays when it reaches far enough."""
        if self.map is None or self.rng.random() < 0.1:
            self.unmap()
            if self.good:
                self.map = mmap.mmap(self.fd, len(self.good), mmap.MAP_SHARED, offset=self.base)
                self.say(f"mmap {len(self.good)}")
        return self.map

    def unmap(self) -> None:
        if self.map is not None:
            self.map.close()
            self.map = None

    def op_remap(self) -> None:
        self.say("munmap")
        self.unmap()

    def op_mapread(self) -> None:
        off, length = self.inside()
        mapping = self._mapping()
        if mapping is not None and off < len(mapping):
            self.say(f"mapread {off} {length}")
            self.same(mapping[off:off + length], off, "mapped read")

    def op_mapwrite(self) -> None:
        off, length = self.inside()
        mapping = self._mapping()
        sync = self.rng.random() < 0.2
        if mapping is not None and off < len(mapping):
            length = min(length, len(mapping) - off)
            self.say(f"mapwrite {off} {length}{' msync' if sync else ''}")
            data = self.rng.randbytes(length)
            mapping[off:off + length] = data
            self.put(off, data)
            if sync:
                mapping.flush()

    def op_truncate(self) -> None:
        size = self.rng.randrange(len(self.good) + 1) if self.rng.random() < 0.9 else 0
        self.say(f"truncate {len(self.good)} -> {size}")
        os.ftruncate(self.fd, self.base + size)
        del self.good[size:]

    def op_grow(self) -> None:
        size = self.rng.randrange(len(self.good), self.size_max + 1)
        self.say(f"grow {len(self.good)} -> {size}")
        os.truncate(self.path, self.base + size)
        self.good.extend(bytes(size - len(self.good)))

    def op_fallocate(self) -> None:
        off, length = self.span()
        keep = self.rng.random() < 0.4
        self.say(f"fallocate {off} {length}{' keep' if keep else ''}")
        fallocate(self.fd, KEEP_SIZE if keep else 0, self.base + off, length)
        if not keep and off + length > len(self.good):
            self.good.extend(bytes(off + length - len(self.good)))

    def _clear(self, off: int, length: int) -> None:
        end = min(off + length, len(self.good))
        if off < end:
            self.good[off:end] = bytes(end - off)

    def op_punch(self) -> None:
        off, length = self.span()
        self.say(f"punch {off} {length}")
        fallocate(self.fd, PUNCH | KEEP_SIZE, self.base + off, length)
        self._clear(off, length)

    def op_zero(self) -> None:
        off, length = self.span()
        keep = self.rng.random() < 0.5
        self.say(f"zero {off} {length}{' keep' if keep else ''}")
        self.tried = off, bytes(length)
        fallocate(self.fd, ZERO | (KEEP_SIZE if keep else 0), self.base + off, length)
        self._clear(off, length)
        if not keep and off + length > len(self.good):
            self.good.extend(bytes(off + length - len(self.good)))

    def op_copy(self) -> None:
        off, length = self.inside()
        to, _ = self.span()
        length = min(length, self.size_max - to)
        if length <= 0:
            return
        self.say(f"copy {off} -> {to} {length}")
        if to < off + length and off < to + length:
            refused(errno.EINVAL, lambda: os.copy_file_range(self.fd, self.fd, length, self.base + off, self.base + to))
            return
        done = os.copy_file_range(self.fd, self.fd, length, self.base + off, self.base + to)
        assert 0 < done <= length, f"copy_file_range copied {done}"
        self.put(to, bytes(self.good[off:off + done]))

    def op_reopen(self) -> None:
        self.say("reopen")
        self.unmap()
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def _direct(self, length: int) -> tuple[int, mmap.mmap, int, int]:
        """A descriptor with O_DIRECT, an aligned buffer, and an aligned offset and length."""
        unit = self.rng.choice((512, 512, PAGE))
        off, length = self.span()
        off, length = off // unit * unit, max(unit, length // unit * unit)
        length = min(length, (self.size_max - off) // unit * unit)
        return os.open(self.path, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, max(length, PAGE)), off, length

    def op_direct_read(self) -> None:
        fd, buffer, off, length = self._direct(0)
        self.say(f"direct read {off} {length}")
        with memoryview(buffer)[:length] as view:
            got = os.preadv(fd, [view], self.base + off) if length else 0
            assert got == max(0, min(length, len(self.good) - off)), f"direct read at {off}: {got} bytes"
            self.same(bytes(view[:got]), off, "direct read")
        os.close(fd)

    def op_direct_write(self) -> None:
        fd, buffer, off, length = self._direct(0)
        self.say(f"direct write {off} {length}")
        if length:
            data = self.rng.randbytes(length)
            buffer[:length] = data
            self.tried = off, data
            try:
                with memoryview(buffer)[:length] as view:
                    self.put(off, data[:self.all_of(os.pwritev(fd, [view], self.base + off), length)])
            finally:
                os.close(fd)
        else:
            os.close(fd)

    def op_fsync(self) -> None:
        self.say("fsync")
        (os.fsync if self.rng.random() < 0.5 else os.fdatasync)(self.fd)

    def op_drop(self) -> None:
        """The file's clean pages leave the kernel's cache: the next read asks the daemon."""
        sync = self.rng.random() < 0.5
        self.say(f"drop{' synced' if sync else ''}")
        if sync:
            os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def op_size(self) -> None:
        self.say("size")
        for size in (os.fstat(self.fd).st_size, os.stat(self.path).st_size):
            assert size == self.base + len(self.good), f"st_size {size}, wanted {self.base + len(self.good)}"

    def op_seek(self) -> None:
        """Holes may be reported as data, never data as a hole."""
        off = self.rng.randrange(max(1, len(self.good) + 2))
        self.say(f"seek {off}")
        try:
            data = os.lseek(self.fd, self.base + off, os.SEEK_DATA) - self.base
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            data = len(self.good)
        assert off >= len(self.good) or off <= data <= len(self.good), f"SEEK_DATA at {off} says {data}"
        assert not any(self.good[off:data]), f"SEEK_DATA at {off} says {data}: there is data before"
        if off < len(self.good):
            hole = os.lseek(self.fd, self.base + off, os.SEEK_HOLE) - self.base
            assert off <= hole <= len(self.good), f"SEEK_HOLE at {off} says {hole}, size {len(self.good)}"

    def op_jflag(self) -> None:
        """chattr +j and -j on a live file; the kernel may refuse neither."""
        if self.rng.random() < 0.2:
            self.jdata = not self.jdata
            self.say(f"jdata {self.jdata}")
            os.fsync(self.fd)
            set_jdata(self.fd, self.jdata)

    # -- the loop

    def compare(self, what: str) -> None:
        """Everything, by read(2); and nothing but zeros before the base."""
        assert os.fstat(self.fd).st_size == self.base + len(self.good), \
            f"{what}: st_size {os.fstat(self.fd).st_size}, wanted {self.base + len(self.good)}"
        at = 0
        while at < len(self.good):
            got = os.pread(self.fd, 1 << 20, self.base + at)
            assert got, f"{what}: the file ends at {at}, wanted {len(self.good)}"
            self.same(got, at, what)
            at += len(got)
        if self.base:
            assert not any(os.pread(self.fd, min(self.base, 65536), max(0, self.base - 65536)))

    def step(self) -> None:
        name = self.rng.choices(self.names, self.weights)[0]
        self.counts[name] = self.counts.get(name, 0) + 1
        try:
            getattr(self, f"op_{name}")()
        except OSError as e:
            if not self.tight or e.errno != errno.ENOSPC:
                raise
            self.say("  no space")
            self.unmap()
            self.counts["no space"] = self.counts.get("no space", 0) + 1
            if name in ("zero", "direct_write", "odd_direct", "direct_append", "self_write"):
                self.done_in_part()
            self.compare("after ENOSPC")

    def done_in_part(self) -> None:
        """What ran out of space in the middle and may not say how far it got: zeroing, and direct writes, whose
        pieces the kernel sends at once (fs/fuse/file.c, fuse_get_res_by_io). Every byte is the old or the new one.
        """
        off, new = self.tried
        # Of a direct write that fails the kernel does not take back pages that were read in the meantime, for example
        # because the buffer is a mapping of the same file (mm/filemap.c, generic_file_direct_write).
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        now = os.pread(self.fd, len(self.good) + 1, self.base)
        assert len(now) == len(self.good), f"ENOSPC, and the size is {len(now)}, not {len(self.good)}"
        assert now[:off] == self.good[:off], "changed before the range that was written"
        assert now[off + len(new):] == self.good[off + len(new):], "changed behind the range that was written"
        for got, old, tried in zip(now[off:], self.good[off:], new, strict=False):
            assert got in (old, tried), "neither the old nor the new content"
        self.good[:] = now

    def close(self) -> None:
        self.unmap()
        os.close(self.fd)


def tortured(where: Place, guard: Guard, seed: int, ops: int, *, jdata: bool, base: int, size_max: int,
             remount_every: int, without: Sequence[str], tight: bool, say: Callable[[str], None]) -> None:
    """One run on a mounted place, from an empty file to the checkers."""
    rng = random.Random(seed)
    where.mount()
    if tight:
        leave_free(where.root, size_max // 4)
    fsx = Fsx(where.root / "file", rng, size_max, base)
    fsx.tight = tight
    for name in [*without, *(("mapwrite", "self_read") if tight else ())]:     # a store has no way to say ENOSPC
        fsx.drop(name)
    if jdata:
        set_jdata(fsx.fd, True)
        fsx.jdata = True
    number = 0
    try:
        for number in range(ops):
            fsx.step()
            guard.tick()
            if number % FULL_COMPARE_EVERY == FULL_COMPARE_EVERY - 1:
                fsx.say("compare")
                fsx.compare("full compare")
            if remount_every and number % remount_every == remount_every - 1:
                fsx.say("remount")
                fsx.close()
                where.umount()
                where.mount()
                fsx.fd = os.open(fsx.path, os.O_RDWR)
                fsx.compare("after a remount")
        fsx.compare("at the end")
        fsx.close()
        where.umount()
        where.check()
        where.mount()
        fsx.fd = os.open(fsx.path, os.O_RDONLY)
        fsx.compare("after the last remount")
        os.close(fsx.fd)
        where.umount()
        where.check()
    except BaseException:
        say(f"FAILED at operation {number} of seed {seed}; the last ones:")
        for line in fsx.log:
            say(f"  {line}")
        fsx.unmap()
        raise
    say(f"seed {seed}: {ops} operations, {' '.join(f'{k}={v}' for k, v in sorted(fsx.counts.items()))}")


def main() -> int:
    parser = arguments(__doc__ or "", ops=3000, bsize=4096, base=0, size=0, mib=256, remount_every=1000)
    parser.add_argument("--jdata", action="store_true")
    parser.add_argument("--tight", action="store_true", help="not enough space for the file; not for writeback_cache")
    parser.add_argument("--without", default="", help="operations to leave out, with commas between them")
    args = parser.parse_args()
    args.base = args.base // PAGE * PAGE            # mmap wants whole pages
    size_max = args.size or (400_000 if args.bsize < 4096 else 1 << 20)
    print(f"fsx: --seed {args.seed} --ops {args.ops} --bsize {args.bsize} --base {args.base} --size {size_max}"
          f" --options {args.options}{' --jdata' if args.jdata else ''}{' --tight' if args.tight else ''}", flush=True)
    with place(args.options, args.stall) as (where, guard):
        where.mkfs(args.mib, args.bsize)
        tortured(where, guard, args.seed, args.ops, jdata=args.jdata, base=args.base, size_max=size_max,
                 remount_every=args.remount_every, without=args.without.split(","), tight=args.tight,
                 say=lambda t: print(t, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
