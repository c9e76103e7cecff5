"""Metadata loops at the speed of C, for the whole-system rows: Python's own calls would be the bottleneck.

Each function works on names PREFIX0 .. PREFIX(n-1) below an open directory, without the GIL, so that
threads of one process can run side by side, and returns the nanoseconds that the loop took. All raise
OSError for the first call that fails.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from posix.fcntl cimport O_CREAT, O_EXCL, O_WRONLY
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, fsync

import os

cdef extern from "<fcntl.h>" nogil:
    int AT_SYMLINK_NOFOLLOW
    int openat(int fd, const char *name, int flags, ...)

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *buf, size_t count, int64_t offset)
    int unlinkat(int fd, const char *name, int flags)

cdef extern from "<stdio.h>" nogil:
    int renameat(int oldfd, const char *old, int newfd, const char *new)

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_t "stat":
        int64_t st_size
    int fstatat(int fd, const char *name, stat_t *st, int flags)
    int mkdirat(int fd, const char *name, int mode)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass
    cdef struct dirent:
        char d_name[256]
    DIR *fdopendir(int fd)
    dirent *readdir(DIR *d)
    void rewinddir(DIR *d)
    int closedir(DIR *d)

cdef enum:
    NAME_MAX = 255
    PREFIX_MAX = 200
    DATA_MAX = 1 << 20

cdef char zeros[DATA_MAX]


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec


cdef int create_one(int dirfd, const char *name, size_t size, bint sync) noexcept nogil:
    """Create, write, perhaps fsync, close; 0 or -errno."""
    cdef int fd = openat(dirfd, name, O_CREAT | O_EXCL | O_WRONLY, 0o644)
    cdef int error = 0
    if fd < 0:
        return -errno
    if size and pwrite(fd, zeros, size, 0) != <ssize_t>size:
        error = -errno
    if not error and sync and fsync(fd):
        error = -errno
    if close(fd) and not error:
        error = -errno
    return error


cdef int work(int op, int dirfd, const char *prefix, long n, size_t size, const char *other) noexcept nogil:
    """One loop over all names; op is one of CREATE .. MKDIR; 0 or -errno."""
    cdef char name[NAME_MAX + 1]
    cdef char new[NAME_MAX + 1]
    cdef stat_t st
    cdef int rc
    cdef long i
    for i in range(n):
        snprintf(name, sizeof(name), b"%s%ld", prefix, i)
        if op == 0:
            rc = create_one(dirfd, name, size, False)
        elif op == 1:
            rc = create_one(dirfd, name, size, True)
        elif op == 2:
            rc = -errno if fstatat(dirfd, name, &st, 0) else 0
        elif op == 3:
            snprintf(new, sizeof(new), b"%s%ld", other, i)
            rc = -errno if renameat(dirfd, name, dirfd, new) else 0
        elif op == 4:
            rc = -errno if unlinkat(dirfd, name, 0) else 0
        else:
            rc = -errno if mkdirat(dirfd, name, 0o755) else 0
        if rc:
            return rc
    return 0


OPERATIONS = ("create", "create_fsync", "stat", "rename", "unlink", "mkdir")


def loop(op: str, dirfd: int, prefix: bytes, n: int, size: int = 0, other: bytes = b"") -> int:
    """Run one of OPERATIONS on n names; returns nanoseconds."""
    cdef int number = OPERATIONS.index(op)
    cdef int fd = dirfd
    cdef long count = n
    cdef size_t length = size
    cdef const char *first = prefix
    cdef const char *second = other
    cdef uint64_t start
    cdef int rc
    if len(prefix) > PREFIX_MAX or len(other) > PREFIX_MAX or not 0 <= size <= DATA_MAX:
        raise ValueError("name or data too long")
    with nogil:
        start = now_ns()
        rc = work(number, fd, first, count, length, second)
        start = now_ns() - start
    if rc:
        raise OSError(-rc, os.strerror(-rc), f"{op} {prefix.decode()}")
    return start


def list_entries(path: str, rounds: int, attributes: bool = False) -> tuple[int, int]:
    """Read a directory to its end `rounds` times; returns (entries seen, nanoseconds).

    With `attributes` every entry is stat()ed as it is read, as `ls -l` and `find` do.
    """
    cdef int fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    cdef int times = rounds
    cdef int i
    cdef long seen = 0
    cdef uint64_t start
    cdef bint stat_too = attributes
    cdef int failed = 0
    cdef stat_t st
    cdef dirent *entry
    cdef DIR *handle = fdopendir(fd)
    if handle == NULL:
        os.close(fd)
        raise OSError(errno, os.strerror(errno), path)
    with nogil:
        start = now_ns()
        for i in range(times):
            rewinddir(handle)
            entry = readdir(handle)
            while entry != NULL:
                seen += 1
                if stat_too and fstatat(fd, entry.d_name, &st, AT_SYMLINK_NOFOLLOW) and not failed:
                    failed = errno
                entry = readdir(handle)
        start = now_ns() - start
        closedir(handle)
    if failed:
        raise OSError(failed, os.strerror(failed), path)
    return seen, start
