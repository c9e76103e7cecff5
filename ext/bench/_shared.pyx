"""Loops of the cluster rows at the speed of C: taking turns on a file, and locks of files.

Each works on one open file without the GIL, until a moment of CLOCK_MONOTONIC, and raises OSError for the first call
that fails.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buf, size_t count, int64_t offset)
    ssize_t pwrite(int fd, const void *buf, size_t count, int64_t offset)

cdef extern from "<fcntl.h>" nogil:
    cdef struct range_t "flock":
        short l_type
        short l_whence
        int64_t l_start
        int64_t l_len
    int fcntl(int fd, int cmd, ...)
    int F_SETLKW
    int F_RDLCK
    int F_WRLCK
    int F_UNLCK

cdef extern from "<sys/file.h>" nogil:
    int whole_file "flock"(int fd, int operation)
    int LOCK_EX
    int LOCK_UN

cdef enum:
    WHOLE = 1               # how to lock: flock(2)
    RANGE = 2               # fcntl(2)
    BLOCK = 4096


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef int lock_byte(int fd, int64_t at, int kind) noexcept nogil:
    """0 or -errno; waits."""
    cdef range_t where
    where.l_type, where.l_whence, where.l_start, where.l_len = <short>kind, 0, at, 1
    return -errno if fcntl(fd, F_SETLKW, &where) else 0


cdef int take_turns(int fd, uint64_t me, uint64_t of, uint64_t until, uint64_t *turns) noexcept nogil:
    cdef uint64_t value = 0
    turns[0] = 0
    while now_ns() < until:
        if pread(fd, &value, sizeof(value), 0) != sizeof(value):
            return -errno if errno else -5
        if value % of != me:
            continue
        value += 1
        if pwrite(fd, &value, sizeof(value), 0) != sizeof(value):
            return -errno if errno else -5
        turns[0] += 1
    return 0


cdef int pass_on(int fd, int64_t locks, uint64_t until, uint64_t *taken) noexcept nogil:
    """ctdb's ping_pong: always hold one byte while the next one is waited for."""
    cdef int64_t at = 0
    cdef int error = lock_byte(fd, 0, F_WRLCK)
    taken[0] = 0
    while not error and now_ns() < until:
        error = lock_byte(fd, (at + 1) % locks, F_WRLCK)
        if not error:
            error = lock_byte(fd, at, F_UNLCK)
        at = (at + 1) % locks
        taken[0] += 1
    lock_byte(fd, at, F_UNLCK)
    return error


cdef int locked_writes(int fd, int how, uint64_t until, uint64_t *count) noexcept nogil:
    cdef uint64_t value = 0
    cdef int error
    count[0] = 0
    while now_ns() < until:
        error = lock_byte(fd, 0, F_WRLCK) if how == RANGE else (-errno if whole_file(fd, LOCK_EX) else 0)
        if error:
            return error
        value = count[0]
        if pwrite(fd, &value, sizeof(value), 0) != sizeof(value):
            return -errno if errno else -5
        error = lock_byte(fd, 0, F_UNLCK) if how == RANGE else (-errno if whole_file(fd, LOCK_UN) else 0)
        if error:
            return error
        count[0] += 1
    return 0


def turns(fd: int, me: int, of: int, until: int) -> int:
    """Read the counter at the file's start and add one whenever it is this one's turn; how many turns were had."""
    cdef int where = fd, rc
    cdef uint64_t mine = me, all_of = of, end = until, had = 0
    if not 0 <= me < of:
        raise ValueError(f"{me} of {of}")
    with nogil:
        rc = take_turns(where, mine, all_of, end, &had)
    if rc:
        raise OSError(-rc, os.strerror(-rc), "turns")
    return had


def ping_pong(fd: int, locks: int, until: int) -> int:
    """fcntl locks of `locks` bytes in a circle; how many were taken."""
    cdef int where = fd, rc
    cdef int64_t number = locks
    cdef uint64_t end = until, had = 0
    if not 1 < locks <= BLOCK:
        raise ValueError(f"{locks} locks")
    with nogil:
        rc = pass_on(where, number, end, &had)
    if rc:
        raise OSError(-rc, os.strerror(-rc), "ping_pong")
    return had


def lock_write_unlock(fd: int, kind: str, until: int) -> int:
    """Lock ("flock", "fcntl"), write eight bytes, unlock; how often."""
    cdef int where = fd, rc
    cdef int how = {"flock": WHOLE, "fcntl": RANGE}[kind]
    cdef uint64_t end = until, had = 0
    with nogil:
        rc = locked_writes(where, how, end, &had)
    if rc:
        raise OSError(-rc, os.strerror(-rc), kind)
    return had
