"""The table of operations called from Python, in process and without FUSE: for tests, tools and benchmarks.

Every call goes through the same fs_ops table that a FUSE session uses. Node ids, attributes and handles are plain
integers and tuples; names are bytes.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport dev_alloc, dev_free
from gfs2py.engine._sync cimport (pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_t,
                                  pthread_cond_wait, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                  pthread_mutex_t, pthread_mutex_unlock)
from gfs2py.fuse._ops cimport (OP_PARK, OP_WRITE_BACK, FileSystemHandle, fs_attr, fs_dirbuf, fs_entry, fs_lock,
                               fs_open, fs_ops, fs_req, fs_statfs)

import os
from typing import NamedTuple

cdef enum:
    DIR_ROUND = 2000                # entries taken from one readdir call
    WOKEN_MAX = 256                 # requests told to go on that are remembered; more threads than that do not call


class Attr(NamedTuple):
    """What stat shows; times in nanoseconds, blocks of 512 bytes."""

    ino: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int


class DirEntry(NamedTuple):
    name: bytes
    ino: int
    dtype: int
    next_off: int


cdef object _attr(const fs_attr* a):
    return Attr(a.ino, a.size, a.blocks, a.atime * 1000000000 + a.atimensec, a.mtime * 1000000000 + a.mtimensec,
                a.ctime * 1000000000 + a.ctimensec, a.mode, a.nlink, a.uid, a.gid, a.rdev)


cdef struct collected:
    uint64_t ino, next_off
    uint32_t dtype, namelen
    char name[256]

cdef struct dir_round:
    fs_dirbuf head                  # must be first
    collected* list
    uint32_t n, most


cdef int _add(fs_dirbuf* d, const char* name, uint32_t namelen, uint64_t ino, uint32_t dtype, uint64_t next_off,
              fs_entry* entry) noexcept nogil:
    cdef dir_round* r = <dir_round*>d
    if r.n == r.most:
        return 1
    r.list[r.n].ino = ino
    r.list[r.n].next_off = next_off
    r.list[r.n].dtype = dtype
    r.list[r.n].namelen = namelen
    memcpy(r.list[r.n].name, name, min(namelen, <uint32_t>256))
    r.n += 1
    return 0


cdef int _fail(int err, what) except -1:
    if err:
        raise OSError(-err, os.strerror(-err), what)
    return 0


cdef struct parklot:                # requests that were told to go on, before or while they wait
    pthread_mutex_t lock
    pthread_cond_t cond
    uint64_t next_unique
    uint64_t woken[WOKEN_MAX]
    uint32_t n, parks


cdef void park_wake(void* arg, uint64_t unique) noexcept nogil:
    cdef parklot* p = <parklot*>arg
    pthread_mutex_lock(&p.lock)
    p.woken[p.n % <uint32_t>WOKEN_MAX] = unique
    p.n += 1
    pthread_cond_broadcast(&p.cond)
    pthread_mutex_unlock(&p.lock)


cdef bint park_wait(FileSystemHandle handle, int err, parklot* p, fs_req* rq) noexcept nogil:
    """True when the request is answered; if it was parked, waits until it may run again."""
    cdef uint32_t i
    cdef bint found = False
    if err == OP_WRITE_BACK:
        return True                 # so far
    if err != OP_PARK:
        if rq.runs and handle.ops.parked_done != NULL:
            handle.ops.parked_done(handle.fs, rq.unique)
        return True
    pthread_mutex_lock(&p.lock)
    p.parks += 1
    while True:
        for i in range(<uint32_t>WOKEN_MAX):
            if p.woken[i] == rq.unique:
                p.woken[i] = 0
                found = True
        if found:
            break
        pthread_cond_wait(&p.cond, &p.lock)
    pthread_mutex_unlock(&p.lock)
    rq.runs += 1
    return False


cdef class Calls:
    """The operations of a FileSystemHandle. All methods raise OSError; node 1 is the root.

    parking: requests that lack a cluster lock are put away and run again, as a FUSE session does it, not asleep within.

    write_back: what a session does when a fallocate or a copy says OP_WRITE_BACK: called before it is run again. True
    says that it was a signal that woke the request.
    """

    cdef FileSystemHandle handle
    cdef public uint32_t uid, gid, umask
    cdef public object write_back
    cdef parklot parking
    cdef bint parks

    def __cinit__(self, *args, **kwargs):
        memset(&self.parking, 0, sizeof(parklot))
        pthread_mutex_init(&self.parking.lock, NULL)
        pthread_cond_init(&self.parking.cond, NULL)

    def __dealloc__(self):
        pthread_cond_destroy(&self.parking.cond)
        pthread_mutex_destroy(&self.parking.lock)

    def __init__(self, FileSystemHandle handle not None, *, uint32_t uid=0, uint32_t gid=0, uint32_t umask=0o022,
                 bint parking=False):
        self.handle = handle
        self.parks = parking
        if parking and handle.ops.attach != NULL:
            handle.ops.attach(handle.fs, park_wake, &self.parking)
        self.uid = uid
        self.gid = gid
        self.umask = umask

    cdef int _req(self, fs_req* rq) except -1:
        if self.handle.ops == NULL:
            raise ValueError("the file system is closed")
        memset(rq, 0, sizeof(fs_req))
        rq.uid = self.uid
        rq.gid = self.gid
        rq.umask = self.umask
        if self.write_back is not None:
            rq.priv = &self.parking
        if self.parks or self.write_back is not None:
            pthread_mutex_lock(&self.parking.lock)
            self.parking.next_unique += 2
            rq.unique = self.parking.next_unique
            pthread_mutex_unlock(&self.parking.lock)
        return 0

    cdef int _write_back_if(self, fs_req* rq, int err) except -1:
        if err == OP_WRITE_BACK:
            rq.interrupted = bool(self.write_back())
            rq.runs += 1
        return 0

    # -- file locks

    def setlk(self, uint64_t node, uint64_t fh, uint64_t owner, int type, uint64_t start=0,
              uint64_t end=0x7fffffffffffffff, *, uint32_t pid=1, bint flock=False, bint sleep=False):
        """A lock of the fcntl module's type, or F_UNLCK. Waits if `sleep`. Raises BlockingIOError and others."""
        cdef fs_req rq
        cdef fs_lock lk
        cdef int err
        lk.start = start
        lk.end = end
        lk.type = <uint32_t>type
        lk.pid = pid
        self._req(&rq)
        if self.handle.ops.setlk == NULL:
            raise ValueError("this file system leaves locks to the session")
        with nogil:
            while True:
                err = self.handle.ops.setlk(self.handle.fs, &rq, node, fh, owner, &lk, flock, sleep)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, "lock")

    def flush(self, uint64_t node, uint64_t fh, uint64_t owner):
        """A process closed a descriptor of the file."""
        cdef fs_req rq
        cdef int err
        self._req(&rq)
        with nogil:
            err = self.handle.ops.flush(self.handle.fs, &rq, node, fh, owner)
        _fail(err, "flush")

    # -- names

    def lookup(self, uint64_t parent, bytes name not None):
        """(node, Attr); raises FileNotFoundError. The lookup counts until forget()."""
        cdef fs_req rq
        cdef fs_entry e
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.lookup(self.handle.fs, &rq, parent, p, n, &e)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        if e.nodeid == 0:
            _fail(-2, name)
        return e.nodeid, _attr(&e.attr)

    def forget(self, uint64_t node, uint64_t n=1):
        with nogil:
            self.handle.ops.forget(self.handle.fs, node, n)

    def create(self, uint64_t parent, bytes name not None, uint32_t mode=0o644, uint32_t flags=0o202):
        """(node, fh, Attr) of a new file, open. flags: those of open(2), O_RDWR | O_EXCL unless given."""
        cdef fs_req rq
        cdef fs_entry e
        cdef fs_open fo
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.create(self.handle.fs, &rq, parent, p, n, mode, flags, &e, &fo)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        return e.nodeid, fo.fh, _attr(&e.attr)

    def tmpfile(self, uint64_t parent, uint32_t mode=0o600):
        cdef fs_req rq
        cdef fs_entry e
        cdef fs_open fo
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.tmpfile(self.handle.fs, &rq, parent, mode, 2, &e, &fo)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, "tmpfile")
        return e.nodeid, fo.fh, _attr(&e.attr)

    def mknod(self, uint64_t parent, bytes name not None, uint32_t mode, uint32_t rdev=0):
        cdef fs_req rq
        cdef fs_entry e
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.mknod(self.handle.fs, &rq, parent, p, n, mode, rdev, &e)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        return e.nodeid, _attr(&e.attr)

    def mkdir(self, uint64_t parent, bytes name not None, uint32_t mode=0o755):
        cdef fs_req rq
        cdef fs_entry e
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.mkdir(self.handle.fs, &rq, parent, p, n, mode, &e)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        return e.nodeid, _attr(&e.attr)

    def symlink(self, uint64_t parent, bytes name not None, bytes target not None):
        cdef fs_req rq
        cdef fs_entry e
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        cdef const char* t = target
        cdef uint32_t tn = len(target)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.symlink(self.handle.fs, &rq, parent, p, n, t, tn, &e)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        return e.nodeid, _attr(&e.attr)

    def link(self, uint64_t node, uint64_t parent, bytes name not None):
        cdef fs_req rq
        cdef fs_entry e
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.link(self.handle.fs, &rq, node, parent, p, n, &e)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
        return e.nodeid, _attr(&e.attr)

    def unlink(self, uint64_t parent, bytes name not None):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.unlink(self.handle.fs, &rq, parent, p, n)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)

    def rmdir(self, uint64_t parent, bytes name not None):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.rmdir(self.handle.fs, &rq, parent, p, n)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)

    def rename(self, uint64_t parent, bytes name not None, uint64_t newparent, bytes newname not None,
               uint32_t flags=0):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        cdef const char* q = newname
        cdef uint32_t m = len(newname)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.rename(self.handle.fs, &rq, parent, p, n, newparent, q, m, flags)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)

    def readdir(self, uint64_t node, uint64_t off=0, uint32_t most=DIR_ROUND):
        """Up to `most` DirEntry from cookie `off` on; empty at the end."""
        cdef fs_req rq
        cdef dir_round r
        cdef uint32_t i
        cdef int err
        self._req(&rq)
        memset(&r, 0, sizeof(r))
        r.head.add = _add
        r.most = most
        r.list = <collected*>malloc(most * sizeof(collected))
        if r.list == NULL:
            raise MemoryError
        try:
            with nogil:
                while True:
                    err = self.handle.ops.readdir(self.handle.fs, &rq, node, 0, off, &r.head)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            _fail(err, "readdir")
            return [DirEntry(r.list[i].name[:r.list[i].namelen], r.list[i].ino, r.list[i].dtype, r.list[i].next_off)
                    for i in range(r.n)]
        finally:
            free(r.list)

    # -- attributes

    def getattr(self, uint64_t node):
        cdef fs_req rq
        cdef fs_attr a
        cdef uint64_t valid
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.getattr(self.handle.fs, &rq, node, 0, &a, &valid)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return _attr(&a)

    def setattr(self, uint64_t node, *, mode=None, uid=None, gid=None, size=None, atime_ns=None, mtime_ns=None):
        cdef fs_req rq
        cdef fs_attr want
        cdef fs_attr a
        cdef uint64_t valid_ns
        cdef uint32_t valid = 0
        cdef int err
        memset(&want, 0, sizeof(want))
        self._req(&rq)
        if mode is not None:
            valid |= 1
            want.mode = mode
        if uid is not None:
            valid |= 2
            want.uid = uid
        if gid is not None:
            valid |= 4
            want.gid = gid
        if size is not None:
            valid |= 8
            want.size = size
        if atime_ns is not None:
            valid |= 16
            want.atime = atime_ns // 1000000000
            want.atimensec = atime_ns % 1000000000
        if mtime_ns is not None:
            valid |= 32
            want.mtime = mtime_ns // 1000000000
            want.mtimensec = mtime_ns % 1000000000
        with nogil:
            while True:
                err = self.handle.ops.setattr(self.handle.fs, &rq, node, 0, valid, &want, &a, &valid_ns)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return _attr(&a)

    def readlink(self, uint64_t node):
        cdef fs_req rq
        cdef char out[4096]
        cdef uint32_t n
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.readlink(self.handle.fs, &rq, node, out, 4096, &n)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return out[:n]

    # -- data

    def open(self, uint64_t node, uint32_t flags=2):
        cdef fs_req rq
        cdef fs_open fo
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.open(self.handle.fs, &rq, node, flags, &fo)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return fo.fh

    def release(self, uint64_t node, uint64_t fh):
        cdef fs_req rq
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.release(self.handle.fs, &rq, node, fh, 0, 0, False)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)

    def read(self, uint64_t node, uint64_t off, uint32_t size, uint64_t fh=0):
        cdef fs_req rq
        cdef uint32_t n = 0
        cdef int err
        cdef uint8_t* p
        self._req(&rq)
        p = <uint8_t*>dev_alloc(size + 4096)
        if p == NULL:
            raise MemoryError
        try:
            with nogil:
                while True:
                    err = self.handle.ops.read(self.handle.fs, &rq, node, fh, off, size, p, &n)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            _fail(err, node)
            return (<char*>p)[:n]
        finally:
            dev_free(p)

    def write(self, uint64_t node, uint64_t off, bytes data not None, uint64_t fh=0, uint32_t write_flags=0,
              uint32_t open_flags=2):
        """Bytes written, at least one."""
        cdef fs_req rq
        cdef uint32_t n = 0
        cdef uint32_t size = len(data)
        cdef int err
        cdef uint8_t* p
        self._req(&rq)
        p = <uint8_t*>dev_alloc(size + 1)
        if p == NULL:
            raise MemoryError
        try:
            memcpy(p, <const char*>data, size)
            with nogil:
                while True:
                    err = self.handle.ops.write(self.handle.fs, &rq, node, fh, off, size, p, write_flags, open_flags,
                                                     &n)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            _fail(err, node)
            return n
        finally:
            dev_free(p)

    def fsync(self, uint64_t node, bint datasync=False, uint64_t fh=0):
        cdef fs_req rq
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.fsync(self.handle.fs, &rq, node, fh, datasync)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)

    def syncfs(self):
        cdef fs_req rq
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.syncfs(self.handle.fs, &rq)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, "syncfs")

    def fallocate(self, uint64_t node, uint32_t mode, uint64_t off, uint64_t length):
        cdef fs_req rq
        cdef int err
        self._req(&rq)
        err = OP_WRITE_BACK
        while err == OP_WRITE_BACK:
            with nogil:
                while True:
                    err = self.handle.ops.fallocate(self.handle.fs, &rq, node, 0, mode, off, length)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            self._write_back_if(&rq, err)
        _fail(err, node)

    def lseek(self, uint64_t node, uint64_t off, uint32_t whence):
        cdef fs_req rq
        cdef uint64_t at = 0
        cdef int err
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.lseek(self.handle.fs, &rq, node, 0, off, whence, &at)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return at

    def copy_file_range(self, uint64_t src, uint64_t off_in, uint64_t dst, uint64_t off_out, uint64_t length):
        cdef fs_req rq
        cdef uint64_t n = 0
        cdef int err
        self._req(&rq)
        err = OP_WRITE_BACK
        while err == OP_WRITE_BACK:
            with nogil:
                while True:
                    err = self.handle.ops.copy_file_range(self.handle.fs, &rq, src, 0, off_in, dst, 0, off_out, length,
                                                          &n)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            self._write_back_if(&rq, err)
        _fail(err, src)
        return n

    def ioctl(self, uint64_t node, uint32_t cmd, bytes data=b"", uint32_t out_size=0):
        cdef fs_req rq
        cdef uint32_t n = 0
        cdef int err
        cdef const char* p = data
        cdef uint32_t size = len(data)
        cdef uint8_t out[4096]
        if out_size > 4096:
            raise ValueError("out_size over 4096")
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.ioctl(self.handle.fs, &rq, node, 0, cmd, False, <const uint8_t*>p, size, out,
                                                out_size, &n)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, node)
        return (<char*>out)[:n]

    def statfs(self):
        """(block size, blocks, free blocks, files, free files)."""
        cdef fs_req rq
        cdef fs_statfs s
        cdef int err
        memset(&s, 0, sizeof(s))
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.statfs(self.handle.fs, &rq, &s)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, "statfs")
        return s.bsize, s.blocks, s.bfree, s.files, s.ffree

    # -- extended attributes

    def setxattr(self, uint64_t node, bytes name not None, bytes value not None, uint32_t flags=0):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef const char* v = value
        cdef uint32_t n = len(name)
        cdef uint32_t size = len(value)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.setxattr(self.handle.fs, &rq, node, p, n, <const uint8_t*>v, size, flags, 0)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)

    def getxattr(self, uint64_t node, bytes name not None, uint32_t size=65536):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        cdef uint32_t got = 0
        cdef uint8_t* out
        self._req(&rq)
        out = <uint8_t*>malloc(size + 1)
        if out == NULL:
            raise MemoryError
        try:
            with nogil:
                while True:
                    err = self.handle.ops.getxattr(self.handle.fs, &rq, node, p, n, out, size, &got)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            _fail(err, name)
            return (<char*>out)[:got] if size else got
        finally:
            free(out)

    def listxattr(self, uint64_t node):
        cdef fs_req rq
        cdef int err
        cdef uint32_t got = 0
        cdef uint8_t* out
        self._req(&rq)
        out = <uint8_t*>malloc(65536)
        if out == NULL:
            raise MemoryError
        try:
            with nogil:
                while True:
                    err = self.handle.ops.listxattr(self.handle.fs, &rq, node, out, 65536, &got)
                    if park_wait(self.handle, err, &self.parking, &rq):
                        break
            _fail(err, node)
            return [name for name in (<char*>out)[:got].split(b"\0") if name]
        finally:
            free(out)

    def removexattr(self, uint64_t node, bytes name not None):
        cdef fs_req rq
        cdef int err
        cdef const char* p = name
        cdef uint32_t n = len(name)
        self._req(&rq)
        with nogil:
            while True:
                err = self.handle.ops.removexattr(self.handle.fs, &rq, node, p, n)
                if park_wait(self.handle, err, &self.parking, &rq):
                    break
        _fail(err, name)
