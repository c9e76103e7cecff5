"""Between the engine's glocks and a lock manager in Python: requests wait in a queue, answers come as calls.

The lock manager waits for fileno() to become readable, takes the requests and answers each with granted() or refused();
wanted() tells of another node that waits. All may be called from one thread only, and none of them blocks.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from gfs2py.engine._glock cimport GLX_KNOWN, gls, glock_answer, glock_wanted, glx, lm_ops
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_ST_UNLOCKED
from gfs2py.engine._sbd cimport sd_io_error
from gfs2py.engine._sync cimport pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock

from typing import NamedTuple

cdef extern from "<errno.h>" nogil:
    int EAGAIN, ENOMEM
cdef extern from "<unistd.h>" nogil:
    long read(int fd, void* p, size_t n)
    long write(int fd, const void* p, size_t n)
    int close(int fd)
cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int start, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC


class LockRequest(NamedTuple):
    """What the engine wants: mode `want` of the lock (type, number), or with `unlock` to be rid of it.

    lvb is given when an EX lock is given back: what the lock value block shall be.
    """

    id: int
    unlock: bool
    type: int
    number: int
    have: int
    want: int
    flags: int
    lvb: bytes | None


cdef int _give_id(lockq* q, glx* x) noexcept nogil:
    """An id for a lock that has none (q.lock held). 0, or -ENOMEM."""
    cdef glx** table
    cdef uint32_t* spare
    cdef uint32_t id, i, cap
    # An id rests for a while after an unlock: what is still on its way for the old lock must not meet a new one.
    if q.n_spare > 1024:
        id = q.spare[q.spare_at]
        q.spare_at = (q.spare_at + 1) % q.cap_ids
        q.n_spare -= 1
    else:
        if q.n_ids + 1 >= q.cap_ids:
            cap = q.cap_ids * 2 + 4096
            table = <glx**>realloc(q.table, cap * sizeof(void*))
            if table == NULL:
                return -ENOMEM
            q.table = table
            spare = <uint32_t*>calloc(cap, sizeof(uint32_t))
            if spare == NULL:
                return -ENOMEM
            for i in range(q.n_spare):
                spare[i] = q.spare[(q.spare_at + i) % q.cap_ids]
            free(q.spare)
            q.spare = spare
            q.spare_at = 0
            q.cap_ids = cap
        q.n_ids += 1
        id = q.n_ids
    q.table[id] = x
    x.handle = <void*><size_t>id
    return 0


cdef lqreq* _room(lockq* q) noexcept nogil:
    cdef lqreq* more
    if q.n == q.cap:
        more = <lqreq*>realloc(q.reqs, (q.cap * 2 + 64) * sizeof(lqreq))
        if more == NULL:
            return NULL
        q.reqs = more
        q.cap = q.cap * 2 + 64
    q.n += 1
    memset(&q.reqs[q.n - 1], 0, sizeof(lqreq))
    return &q.reqs[q.n - 1]


cdef void _put(lockq* q, glx* x, bint unlock, int32_t have, int32_t want, uint32_t flags) noexcept nogil:
    cdef uint64_t one = 1
    cdef lqreq* r
    cdef int err = 0
    pthread_mutex_lock(&q.lock)
    if x.handle == NULL:
        err = _give_id(q, x)
    r = _room(q) if err == 0 else NULL
    if r != NULL:
        r.id = <uint32_t><size_t>x.handle
        r.unlock = unlock
        r.type = x.gl.type
        r.number = x.gl.number
        r.have = have
        r.want = want
        r.flags = flags
        r.has_lvb = have == LM_ST_EXCLUSIVE and want < have
        memcpy(r.lvb, x.gl.lvb, 32)
        if unlock:
            q.table[r.id] = NULL
            q.spare[(q.spare_at + q.n_spare) % q.cap_ids] = r.id
            q.n_spare += 1
            x.handle = NULL
    pthread_mutex_unlock(&q.lock)
    if r == NULL:
        sd_io_error(x.sd, b"asking the lock manager", x.gl.number, -ENOMEM)
    write(q.fd, &one, 8)


cdef void _lock(void* lm, glx* x, int32_t have, int32_t want, uint32_t flags) noexcept nogil:
    _put(<lockq*>lm, x, False, have, want, flags)


cdef void _unlock(void* lm, glx* x, int32_t have) noexcept nogil:
    _put(<lockq*>lm, x, True, have, LM_ST_UNLOCKED, 0)


cdef lm_ops _ops
_ops.lock = _lock
_ops.unlock = _unlock


cdef class LockQueue(LockManager):
    """The requests of one mount for its lock manager. Give it to Gfs2(locks=...), which uses it until close()."""

    def __cinit__(self):
        memset(&self.q, 0, sizeof(lockq))
        pthread_mutex_init(&self.q.lock, NULL)
        self.q.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.ops = &_ops
        self.lm = &self.q
        if self.q.fd < 0:
            raise OSError("no eventfd for a lock queue")

    def __dealloc__(self):
        if self.q.fd >= 0:
            close(self.q.fd)
        pthread_mutex_destroy(&self.q.lock)
        free(self.q.reqs)
        free(self.q.table)
        free(self.q.spare)

    cdef void detach(self):
        """The mount is gone; what is still said of its locks means nothing."""
        cdef uint32_t i
        self.gs = NULL
        for i in range(self.q.n_ids):
            self.q.table[i + 1] = NULL

    def fileno(self):
        """Readable when requests wait."""
        return self.q.fd

    def take(self):
        """All requests that wait, oldest first."""
        cdef uint64_t count
        cdef uint32_t i
        cdef lqreq* r
        out = []
        read(self.q.fd, &count, 8)
        pthread_mutex_lock(&self.q.lock)
        for i in range(self.q.n):
            r = &self.q.reqs[i]
            out.append(LockRequest(r.id, bool(r.unlock), r.type, r.number, r.have, r.want, r.flags,
                                   (<char*>r.lvb)[:32] if r.has_lvb else None))
        self.q.n = 0
        pthread_mutex_unlock(&self.q.lock)
        return out

    cdef glx* _find(self, uint32_t id) noexcept:
        cdef glx* x = NULL
        if self.gs == NULL:
            return NULL
        pthread_mutex_lock(&self.q.lock)
        if 0 < id <= self.q.n_ids:
            x = self.q.table[id]
        pthread_mutex_unlock(&self.q.lock)
        return x

    def granted(self, uint32_t id, bytes lvb=None):
        """The request under way is granted. lvb: the lock value block (32 bytes) that comes with SH and EX; None: it
        is not valid, or there is none."""
        cdef glx* x = self._find(id)
        if lvb is not None and len(lvb) != 32:
            raise ValueError("a lock value block has 32 bytes")
        if self.gs == NULL:
            return                      # the mount has ended
        if x == NULL or x.req < 0:
            raise ValueError(f"lock {id} asks for nothing")
        if x.req > x.gl.state or x.gl.state == x.req:
            # A born lock keeps what this node says of it.
            if x.gl.state != LM_ST_EXCLUSIVE:
                if lvb is None:
                    memset(x.gl.lvb, 0, 32)
                else:
                    memcpy(x.gl.lvb, <const char*>lvb, 32)
        glock_answer(x, 0)

    def refused(self, uint32_t id, int err=11):
        """A try (LM_TRY) that could not be granted: the lock is as it was. err: an errno."""
        cdef glx* x = self._find(id)
        if self.gs == NULL:
            return
        if x == NULL or x.req < 0:
            raise ValueError(f"lock {id} asks for nothing")
        glock_answer(x, -err)

    def wanted(self, uint32_t id, int leave):
        """Another node waits for this lock and leaves us mode `leave` (0: none, 1: SH)."""
        cdef glx* x
        if self.gs == NULL:
            return
        pthread_mutex_lock(&self.q.lock)
        x = self.q.table[id] if 0 < id <= self.q.n_ids else NULL
        if x != NULL:
            glock_wanted(x, leave)      # under the lock: an unlock could free x
        pthread_mutex_unlock(&self.q.lock)
