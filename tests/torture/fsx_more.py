"""fsx's rarer operations: mappings that are read and written as buffers, pipes, flags of one call, what is refused."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

from torture.sys_calls import fallocate

PAGE = mmap.PAGESIZE
PIPE_BYTES = 1 << 16
COLLAPSE, INSERT, UNSHARE, KEEP_SIZE = 8, 32, 64, 1
FICLONE = 0x40049409
# operation -> weight
MORE_WEIGHTS = {"refused": 2, "odd_direct": 3, "flagged": 3, "splice_out": 2, "splice_in": 2, "madvise": 3,
                "private": 2, "self_read": 3, "self_write": 3, "open_trunc": 1, "copy_out": 2, "direct_append": 2}


def refused(number: int, call: Callable[[], object]) -> None:
    """The call fails with that errno. Raises AssertionError, or the other OSError."""
    try:
        call()
    except OSError as e:
        if e.errno != number:
            raise
    else:
        raise AssertionError(f"not refused with {errno.errorcode[number]}")


class MoreOperations:
    """The part of Fsx that fsx.py leaves to this file."""

    path: Path
    rng: random.Random
    fd: int
    base: int
    size_max: int
    good: bytearray
    tried: tuple[int, bytes]
    say: Callable[[str], None]
    span: Callable[[], tuple[int, int]]
    inside: Callable[[], tuple[int, int]]
    put: Callable[[int, bytes], None]
    all_of: Callable[[int, int], int]
    same: Callable[[bytes | bytearray, int, str], None]
    unmap: Callable[[], None]
    _mapping: Callable[[], mmap.mmap | None]
    _clear: Callable[[int, int], None]

    def op_refused(self) -> None:
        """What GFS2 has not: moving the end towards the front or back, sharing blocks."""
        mode = self.rng.choice((COLLAPSE, INSERT, UNSHARE, COLLAPSE | KEEP_SIZE, 128))
        self.say(f"fallocate mode {mode}")
        wanted = errno.EINVAL if mode == COLLAPSE | KEEP_SIZE else errno.EOPNOTSUPP
        try:
            refused(errno.EOPNOTSUPP, lambda: fallocate(self.fd, mode, self.base, PAGE))
        except OSError as e:
            if e.errno != wanted:
                raise
        refused(errno.EOPNOTSUPP, lambda: fcntl.ioctl(self.fd, FICLONE, self.fd))

    def op_odd_direct(self) -> None:
        """O_DIRECT without any alignment, of offset, length or memory."""
        off, length = self.span()
        self.say(f"odd direct write {off} {length}")
        data = self.rng.randbytes(length)
        self.tried = off, data
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        try:
            self.put(off, data[:self.all_of(os.pwrite(fd, data, self.base + off), length)])
            off, length = self.span()
            self.say(f"odd direct read {off} {length}")
            got = os.pread(fd, length, self.base + off)
        finally:
            os.close(fd)
        assert len(got) == max(0, min(length, len(self.good) - off)), f"odd direct read at {off}: {len(got)} bytes"
        self.same(got, off, "odd direct read")

    def op_flagged(self) -> None:
        """A write with flags of its own: at the end, or on disk when it returns."""
        off, length = self.span()
        flags = self.rng.choice((os.RWF_APPEND, os.RWF_DSYNC, os.RWF_SYNC, os.RWF_APPEND | os.RWF_DSYNC))
        if flags & os.RWF_APPEND:
            off, length = len(self.good), min(length, self.size_max - len(self.good))
        self.say(f"write {off} {length} flags {flags}")
        data = self.rng.randbytes(length)
        self.put(off, data[:self.all_of(os.pwritev(self.fd, [data], 0 if flags & os.RWF_APPEND else self.base + off,
                                                   flags), length)])

    def op_direct_append(self) -> None:
        length = min(self.span()[1], self.size_max - len(self.good)) // 512 * 512
        self.say(f"direct append {length}")
        if length:
            buffer = mmap.mmap(-1, length)
            buffer[:] = data = self.rng.randbytes(length)
            self.tried = len(self.good), data
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
            try:
                self.good.extend(data[:self.all_of(os.write(fd, buffer), length)])
            finally:
                os.close(fd)

    def op_splice_out(self) -> None:
        off, length = self.inside()
        length = min(length, PIPE_BYTES - PAGE)
        if length:
            self.say(f"splice out {off} {length}")
            receive, send = os.pipe()
            done = os.splice(self.fd, send, length, offset_src=self.base + off)
            got = os.read(receive, done)
            os.close(receive)
            os.close(send)
            assert got, f"nothing spliced at {off}"
            self.same(got, off, "splice")

    def op_splice_in(self) -> None:
        off, length = self.span()
        data = self.rng.randbytes(min(length, PIPE_BYTES))
        self.say(f"splice in {off} {len(data)}")
        receive, send = os.pipe()
        os.write(send, data)
        try:
            done = os.splice(receive, self.fd, len(data), offset_dst=self.base + off)
            assert 0 < done <= len(data)
            self.put(off, data[:done])
        finally:
            os.close(receive)
            os.close(send)

    def op_madvise(self) -> None:
        """Pages leave this process or, with MADV_REMOVE, the file: a hole punched through the mapping."""
        mapping = self._mapping()
        if mapping is None:
            return
        how = self.rng.choice(("MADV_DONTNEED", "MADV_WILLNEED", "MADV_REMOVE"))
        at = self.rng.randrange(len(mapping)) // PAGE * PAGE
        length = min(len(mapping) - at, self.rng.randrange(1, 5 * PAGE))
        self.say(f"{how} {at} {length}")
        mapping.madvise(getattr(mmap, how), at, length)
        if how == "MADV_REMOVE":
            self._clear(at, (length + PAGE - 1) // PAGE * PAGE)

    def op_private(self) -> None:
        """Stores to a private mapping stay there."""
        if self.good:
            self.say("private mapping")
            with mmap.mmap(self.fd, len(self.good), mmap.MAP_PRIVATE, offset=self.base) as private:
                off, length = self.inside()
                private[off:off + length] = bytes(length)
                off, length = self.inside()
                self.same(os.pread(self.fd, length, self.base + off), off, "read beside a private mapping")

    def _two_pieces(self) -> tuple[mmap.mmap, int, int, int] | None:
        """The mapping, and two pieces of it that share no page: where from, where to, and their length."""
        mapping = self._mapping()
        if mapping is None or len(mapping) > len(self.good):
            return None                 # the file was cut: its end is no good buffer
        (a, length), (b, _) = self.inside(), self.inside()
        length = min(length, len(mapping) - a, len(mapping) - b)
        if length <= 0 or (a // PAGE <= (b + length) // PAGE and b // PAGE <= (a + length) // PAGE):
            return None
        return mapping, a, b, length

    def op_self_read(self) -> None:
        """The file is read into a mapping of itself."""
        if (pieces := self._two_pieces()) is not None:
            mapping, source, target, length = pieces
            direct = self.rng.random() < 0.3
            self.say(f"read {source} {length} into the mapping at {target}{' direct' if direct else ''}")
            fd = os.open(self.path, os.O_RDWR | (os.O_DIRECT if direct else 0))
            with memoryview(mapping)[target:target + length] as view:
                done = os.preadv(fd, [view], self.base + source)
            os.close(fd)
            assert done == length, f"{done} of {length} bytes read"
            self.put(target, bytes(self.good[source:source + length]))

    def op_self_write(self) -> None:
        """The file is written from a mapping of itself."""
        if (pieces := self._two_pieces()) is not None:
            mapping, source, target, length = pieces
            direct = self.rng.random() < 0.3
            self.say(f"write {target} {length} from the mapping at {source}{' direct' if direct else ''}")
            data = bytes(self.good[source:source + length])
            self.tried = target, data
            fd = os.open(self.path, os.O_RDWR | (os.O_DIRECT if direct else 0))
            try:
                with memoryview(mapping)[source:source + length] as view:
                    done = os.pwrite(fd, view, self.base + target)
                self.put(target, data[:self.all_of(done, length)])
            finally:
                os.close(fd)

    def op_open_trunc(self) -> None:
        if not self.base:
            self.say("open O_TRUNC")
            os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
            self.good.clear()

    def op_copy_out(self) -> None:
        """Into another file, and compared there."""
        off, length = self.inside()
        if length:
            self.say(f"copy out {off} {length}")
            other = f"{self.path}.copy"
            fd = os.open(other, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                done = os.copy_file_range(self.fd, fd, length, self.base + off, 100)
                self.same(os.pread(fd, done, 100), off, "copy in another file")
                assert os.fstat(fd).st_size == 100 + done > 100
            finally:
                os.close(fd)
                os.unlink(other)
