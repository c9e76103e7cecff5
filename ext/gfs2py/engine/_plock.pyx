"""fcntl locks of a shared mount: files that this node owns are decided here, the rest is asked of the cluster's side.

A worker's request for an owned file goes to a table of local locks and costs no message and no Python. For any other
file it is put into a queue and parked; a thread of Python (gfs2py.lock_dlm.plock_service) takes the queue, has the
cluster decide, and answers. An unlock or the closing of a file goes into the same queue and is answered at once:
whatever this node asks later comes after it.

A file may become ours while requests for it are still on their way. It is then decided here only when the last of them
has come to its place (inflight is 0), and who wants a lock meanwhile is held; else a later lock could be undone by an
earlier unlock.

Lock order: plocks.mutex -> the table's -> the session's.
"""
from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, ENOLCK
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, dlink, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock)
from gfs2py.fuse._locks cimport (LOCK_WAIT, locktab_busy, locktab_cancel, locktab_counts, locktab_drop_fh,
                                 locktab_drop_owner, locktab_free, locktab_get, locktab_limit, locktab_new,
                                 locktab_put, locktab_set, locktab_take, locktab_waiting)
from gfs2py.fuse._ops cimport OP_PARK, fs_lock, fs_req

import os

cdef extern from "<fcntl.h>" nogil:
    int F_RDLCK, F_UNLCK, F_WRLCK
cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* buf, size_t n)

cdef enum:
    N_FILES = 4096
    N_REQS = 1024
    REQS_MAX = 16384                # of processes that wait, in all
    LOCKS_MAX = 16384               # of one file; PlockTable has the same limits
    WAITERS_MAX = 4096
    # preq.state
    PLK_QUEUED = 1                  # the cluster has it, or will have
    PLK_LOCAL = 2                   # it waits in our table
    PLK_HELD = 3                    # it waits for the file to be ours to decide
    PLK_DONE = 4                    # answered; its next run takes the answer
    PLK_ABANDONED = 5               # nobody wants the answer any more
    # pmsg.kind: those of gfs2py.lock_dlm.plock_wire.Kind
    MSG_SET = 1
    MSG_UNSET = 2
    MSG_OWNER = 3
    MSG_FH = 4
    MSG_GET = 5
    MSG_CANCEL = 6
    MSG_HAND_OVER = 7

cdef uint64_t RANGE_MAX = 0xFFFFFFFFFFFFFFFFU


# ---- files, requests, the queue (mutex held) ------------------------------------------------------------------------

cdef inline uint32_t _mix(uint64_t v) noexcept nogil:
    return <uint32_t>((v * <uint64_t>0x9E3779B97F4A7C15) >> 40)


cdef pfile* _file(plocks* p, uint64_t inode, bint make) noexcept nogil:
    cdef pfile** slot = &p.files[_mix(inode) & (N_FILES - 1)]
    cdef pfile* f = slot[0]
    while f != NULL and f.inode != inode:
        f = f.hnext
    if f == NULL and make:
        f = <pfile*>calloc(1, sizeof(pfile))
        if f != NULL:
            f.inode = inode
            dl_init(&f.used, f)
            f.hnext = slot[0]
            slot[0] = f
            p.n_files += 1
    return f


cdef void _forget(plocks* p, pfile* f) noexcept nogil:
    cdef pfile** at = &p.files[_mix(f.inode) & (N_FILES - 1)]
    while at[0] != f:
        at = &at[0].hnext
    at[0] = f.hnext
    dl_del(&f.used)
    p.n_files -= 1
    if f.owned:
        p.n_owned -= 1
    free(f)


cdef preq* _req(plocks* p, uint64_t unique) noexcept nogil:
    cdef preq* r = p.reqs[unique >> 1 & (N_REQS - 1)]
    while r != NULL and r.unique != unique:
        r = r.hnext
    return r


cdef preq* _req_new(plocks* p, uint64_t unique) noexcept nogil:
    cdef preq* r
    if p.n_reqs >= REQS_MAX:
        return NULL
    r = <preq*>calloc(1, sizeof(preq))
    if r != NULL:
        r.unique = unique
        r.hnext = p.reqs[unique >> 1 & (N_REQS - 1)]
        p.reqs[unique >> 1 & (N_REQS - 1)] = r
        p.n_reqs += 1
    return r


cdef void _req_free(plocks* p, preq* r) noexcept nogil:
    cdef preq** at = &p.reqs[r.unique >> 1 & (N_REQS - 1)]
    while at[0] != r:
        at = &at[0].hnext
    at[0] = r.hnext
    p.n_reqs -= 1
    free(r)


cdef int _send(plocks* p, pfile* f, uint32_t kind, uint64_t number, uint64_t fh, uint64_t owner, const fs_lock* lk,
               bint wait) noexcept nogil:
    cdef pmsg* m
    cdef uint64_t one = 1
    if p.failed:
        return 0                # nobody takes it
    m = <pmsg*>calloc(1, sizeof(pmsg))
    if m == NULL:
        return -ENOLCK
    m.kind = kind
    m.number = number
    m.inode = f.inode
    m.owner = owner
    m.fh = fh
    m.wait = wait
    m.lk.end = RANGE_MAX
    if lk != NULL:
        m.lk = lk[0]
    f.inflight += 1
    p.n_sent += 1
    if p.tail != NULL:
        p.tail.next = m
    else:
        p.head = m
        write(p.event_fd, &one, 8)
    p.tail = m
    p.n_queued += 1
    return 0


cdef void _unpark(plocks* p, uint64_t unique) noexcept nogil:
    if p.unpark != NULL:
        p.unpark(p.arg, unique)


cdef void _wake(void* arg, uint64_t unique) noexcept nogil:
    """From the table: the lock may be free."""
    _unpark(<plocks*>arg, unique)


cdef void _answered(plocks* p, preq* r, int err, const fs_lock* lk) noexcept nogil:
    cdef pfile* f
    cdef fs_lock undo
    if r.state == PLK_ABANDONED:
        if err == 0 and r.sets:
            # Its caller is gone, or will be told EINTR: it must not keep what it knows nothing of.
            undo = r.lk
            undo.type = F_UNLCK
            f = _file(p, r.inode, True)
            if f != NULL:
                _send(p, f, MSG_UNSET, 0, r.fh, r.owner, &undo, False)
        _req_free(p, r)
        return
    r.err = err
    if lk != NULL:
        r.lk = lk[0]
    r.state = PLK_DONE
    _unpark(p, r.unique)


cdef void _unhold(plocks* p, uint64_t inode) noexcept nogil:
    """Those held for the file run again."""
    cdef preq* r
    cdef int i
    for i in range(N_REQS):
        r = p.reqs[i]
        while r != NULL:
            if r.state == PLK_HELD and r.inode == inode:
                _unpark(p, r.unique)
            r = r.hnext


cdef inline bint _ours(const pfile* f) noexcept nogil:
    return f != NULL and f.owned and f.inflight == 0


cdef void _ask_hand_over(plocks* p, pfile* f) noexcept nogil:
    if f != NULL and f.owned and not f.asked:
        f.asked = _send(p, f, MSG_HAND_OVER, 0, 0, 0, NULL, False) == 0


# ---- from the workers -----------------------------------------------------------------------------------------------

cdef int _again(plocks* p, fs_req* rq, preq* r, fs_lock* out) noexcept nogil:
    """A request that the cluster has is run again (mutex held): OP_PARK, or its end."""
    cdef pfile* f
    cdef int err
    if r.state == PLK_DONE:
        err = r.err
        if out != NULL:
            out[0] = r.lk
        _req_free(p, r)
        return err
    if not rq.interrupted:
        return OP_PARK
    f = _file(p, r.inode, True)
    if not r.cancelled and f != NULL and not p.failed and r.sets \
            and _send(p, f, MSG_CANCEL, r.unique, 0, 0, NULL, False) == 0:
        # It stays parked until the cluster says which came first, the grant or this.
        r.cancelled = True
        rq.interrupted = 0
        return OP_PARK
    r.state = PLK_ABANDONED
    return -EINTR


cdef int _new(plocks* p, fs_req* rq, pfile* f, preq* r, bint hold, uint32_t kind, uint64_t inode, uint64_t fh,
              uint64_t owner, const fs_lock* lk, bint sleep) noexcept nogil:
    """Parks a request, held or on its way to the cluster (mutex held)."""
    cdef int err
    if p.failed or rq.interrupted:
        if r != NULL:
            _req_free(p, r)
        return p.failed if p.failed else -EINTR
    if f == NULL:
        f = _file(p, inode, True)
    if r == NULL:
        r = _req_new(p, rq.unique)
    if f == NULL or r == NULL:
        if r != NULL:
            _req_free(p, r)
        if f != NULL and f.inflight == 0 and not f.owned:
            _forget(p, f)
        return -ENOLCK
    r.inode = inode
    r.owner = owner
    r.fh = fh
    r.lk = lk[0]
    r.sets = kind == MSG_SET
    r.cancelled = False
    r.state = PLK_HELD
    if not hold:
        r.state = PLK_QUEUED
        err = _send(p, f, kind, rq.unique, fh, owner, lk, sleep)
        if err:
            _req_free(p, r)
            return err
    return OP_PARK


cdef int _set(plocks* p, fs_req* rq, uint64_t inode, uint64_t fh, uint64_t owner, const fs_lock* lk,
              bint sleep) noexcept nogil:
    cdef preq* r = _req(p, rq.unique)
    cdef pfile* f
    cdef int err
    if r != NULL and r.state != PLK_LOCAL and r.state != PLK_HELD:
        return _again(p, rq, r, NULL)
    f = _file(p, inode, False)
    if lk.type == <uint32_t>F_UNLCK and not _ours(f):
        # Nothing of this node can be there if the file is not known.
        return 0 if f == NULL else _send(p, f, MSG_UNSET, 0, fh, owner, lk, False)
    if not _ours(f):
        return _new(p, rq, f, r, f != NULL and f.owned, MSG_SET, inode, fh, owner, lk, sleep)
    p.n_local += 1
    dl_del(&f.used)
    dl_add_tail(&p.used, &f.used)
    err = locktab_set(p.tab, rq.unique, inode, fh, owner, lk, False, sleep)
    if err != LOCK_WAIT:
        if r != NULL:
            _req_free(p, r)
        return err
    if r == NULL:
        r = _req_new(p, rq.unique)
    if rq.interrupted or r == NULL:
        locktab_cancel(p.tab, rq.unique)
        if r != NULL:
            _req_free(p, r)
        return -EINTR if rq.interrupted else -ENOLCK
    r.state = PLK_LOCAL
    r.inode = inode
    r.owner = owner
    r.fh = fh
    r.lk = lk[0]
    r.sets = True
    r.cancelled = False
    if p.sharing:
        _ask_hand_over(p, f)
    return OP_PARK


cdef int plock_set(plocks* p, fs_req* rq, uint64_t inode, uint64_t fh, uint64_t owner, const fs_lock* lk,
                   bint sleep) noexcept nogil:
    cdef int err
    if lk.start > lk.end or (lk.type != <uint32_t>F_RDLCK and lk.type != <uint32_t>F_WRLCK
                             and lk.type != <uint32_t>F_UNLCK):
        return -EINVAL
    pthread_mutex_lock(&p.mutex)
    err = _set(p, rq, inode, fh, owner, lk, sleep)
    pthread_mutex_unlock(&p.mutex)
    return err


cdef int plock_get(plocks* p, fs_req* rq, uint64_t inode, uint64_t fh, uint64_t owner, fs_lock* lk) noexcept nogil:
    cdef preq* r
    cdef pfile* f
    cdef int err
    if lk.start > lk.end or (lk.type != <uint32_t>F_RDLCK and lk.type != <uint32_t>F_WRLCK):
        return -EINVAL
    pthread_mutex_lock(&p.mutex)
    r = _req(p, rq.unique)
    f = _file(p, inode, False)
    if r != NULL and r.state != PLK_HELD:
        err = _again(p, rq, r, lk)
    elif _ours(f):
        if r != NULL:
            _req_free(p, r)
        p.n_local += 1
        err = locktab_get(p.tab, inode, owner, lk)
    else:
        err = _new(p, rq, f, r, f != NULL and f.owned, MSG_GET, inode, fh, owner, lk, False)
    pthread_mutex_unlock(&p.mutex)
    return err


cdef void plock_drop_owner(plocks* p, uint64_t inode, uint64_t owner) noexcept nogil:
    cdef pfile* f
    pthread_mutex_lock(&p.mutex)
    f = _file(p, inode, False)
    if _ours(f):
        locktab_drop_owner(p.tab, inode, owner)
    elif f != NULL:
        _send(p, f, MSG_OWNER, 0, 0, owner, NULL, False)
    pthread_mutex_unlock(&p.mutex)


cdef void plock_drop_fh(plocks* p, uint64_t inode, uint64_t fh) noexcept nogil:
    cdef pfile* f
    pthread_mutex_lock(&p.mutex)
    f = _file(p, inode, False)
    if _ours(f):
        locktab_drop_fh(p.tab, inode, fh)
    elif f != NULL:
        _send(p, f, MSG_FH, 0, fh, 0, NULL, False)
    pthread_mutex_unlock(&p.mutex)


cdef void plock_attach(plocks* p, unpark_fn unpark, void* arg) noexcept nogil:
    pthread_mutex_lock(&p.mutex)
    p.unpark = unpark
    p.arg = arg
    pthread_mutex_unlock(&p.mutex)


# ---- from the cluster's side ----------------------------------------------------------------------------------------

cdef struct collection:             # what leaves the table
    plocks* p
    pfile* f
    fs_lock* locks
    uint64_t* owners                # owner and fh of each
    uint64_t n, most


cdef void _collect(void* arg, uint64_t inode, uint64_t unique, uint64_t fh, uint64_t owner,
                   const fs_lock* lk) noexcept nogil:
    cdef collection* c = <collection*>arg
    if c.n < c.most:
        c.locks[c.n] = lk[0]
        c.owners[2 * c.n] = owner
        c.owners[2 * c.n + 1] = fh
        c.n += 1


cdef void _resend(void* arg, uint64_t inode, uint64_t unique, uint64_t fh, uint64_t owner,
                  const fs_lock* lk) noexcept nogil:
    """A waiter of our table waits with everybody else's from now on."""
    cdef collection* c = <collection*>arg
    cdef preq* r = _req(c.p, unique)
    if r == NULL or r.state != PLK_LOCAL:
        return
    r.state = PLK_QUEUED
    if _send(c.p, c.f, MSG_SET, unique, fh, owner, lk, True):
        _answered(c.p, r, -ENOLCK, NULL)


cdef void _ask_each(void* arg, uint64_t inode, uint64_t unique, uint64_t fh, uint64_t owner,
                    const fs_lock* lk) noexcept nogil:
    cdef plocks* p = <plocks*>arg
    _ask_hand_over(p, _file(p, inode, False))


cdef void _apply_set(plocks* p, uint64_t number, uint64_t inode, uint64_t fh, uint64_t owner, const fs_lock* lk,
                     bint wait) noexcept nogil:
    cdef preq* r = _req(p, number)
    cdef int err = locktab_set(p.tab, number, inode, fh, owner, lk, False, wait)
    if err != LOCK_WAIT:
        if r != NULL:
            _answered(p, r, err, NULL)
        return
    if r == NULL or r.cancelled or r.state == PLK_ABANDONED:
        locktab_cancel(p.tab, number)
        if r != NULL:
            _answered(p, r, -EINTR, NULL)
        return
    r.state = PLK_LOCAL
    if p.sharing:
        _ask_hand_over(p, _file(p, inode, False))


cdef class FileLocks:
    """This node's side of the fcntl locks of a shared mount.

    event_fd is readable when drain() has something. The methods are for one thread, the cluster's; those of workers are
    C functions.
    """

    def __cinit__(self):
        self.event_fd = -1
        self.p = <plocks*>calloc(1, sizeof(plocks))
        if self.p == NULL:
            raise MemoryError
        pthread_mutex_init(&self.p.mutex, NULL)
        dl_init(&self.p.used, NULL)
        self.p.tab = locktab_new(_wake, self.p)
        if self.p.tab == NULL:
            raise MemoryError
        locktab_limit(self.p.tab, LOCKS_MAX, WAITERS_MAX)
        self.event_fd = self.p.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        cdef int i
        cdef pmsg* m
        if self.p == NULL:
            return
        for i in range(N_FILES):
            while self.p.files[i] != NULL:
                _forget(self.p, self.p.files[i])
        for i in range(N_REQS):
            while self.p.reqs[i] != NULL:
                _req_free(self.p, self.p.reqs[i])
        while self.p.head != NULL:
            m = self.p.head
            self.p.head = m.next
            free(m)
        locktab_free(self.p.tab)
        pthread_mutex_destroy(&self.p.mutex)
        free(self.p)
        if self.event_fd >= 0:
            os.close(self.event_fd)

    def drain(self):
        """What workers have asked for since the last call: (kind, number, inode, owner, fh, pid, write, start, end,
        wait) each, in order."""
        cdef pmsg* m
        cdef pmsg* after
        try:
            os.read(self.event_fd, 8)
        except BlockingIOError:
            pass
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            m = self.p.head
            self.p.head = NULL
            self.p.tail = NULL
            self.p.n_queued = 0
            pthread_mutex_unlock(&self.p.mutex)
        out = []
        while m != NULL:
            after = m.next
            out.append((m.kind, m.number, m.inode, m.owner, m.fh, m.lk.pid, m.lk.type == <uint32_t>F_WRLCK,
                        m.lk.start, m.lk.end, bool(m.wait)))
            free(m)
            m = after
        return out

    def own(self, uint64_t inode, locks):
        """From here on this node decides on the file; its locks: objects with owner, fh, pid, write, start, end."""
        cdef pfile* f
        cdef fs_lock lk
        cdef int err = 0
        # No worker looks at the table's part of this file before it is owned.
        for lock in locks:
            lk.start = lock.start
            lk.end = lock.end
            lk.pid = lock.pid
            lk.type = <uint32_t>(F_WRLCK if lock.write else F_RDLCK)
            err = err or locktab_put(self.p.tab, inode, lock.fh, lock.owner, &lk)
        if err:
            raise MemoryError
        pthread_mutex_lock(&self.p.mutex)
        f = _file(self.p, inode, True)
        if f != NULL:
            if not f.owned:
                self.p.n_owned += 1
            f.owned = True
            f.asked = False
            dl_del(&f.used)
            dl_add_tail(&self.p.used, &f.used)
        pthread_mutex_unlock(&self.p.mutex)
        if f == NULL:
            raise MemoryError

    def apply(self, request):
        """A request of this node for a file that it owns by now; whoever waits for it is answered."""
        cdef uint64_t number = request.number
        cdef uint64_t inode = request.inode
        cdef uint64_t owner = request.owner
        cdef uint64_t fh = request.fh
        cdef int kind = request.kind
        cdef bint wait = request.wait
        cdef preq* r
        cdef fs_lock lk
        lk.start = request.start
        lk.end = request.end
        lk.pid = request.pid
        lk.type = <uint32_t>(F_WRLCK if request.write else F_RDLCK)
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            r = _req(self.p, number) if number else NULL
            if kind == MSG_SET:
                _apply_set(self.p, number, inode, fh, owner, &lk, wait)
            elif kind == MSG_UNSET:
                lk.type = F_UNLCK
                locktab_set(self.p.tab, 0, inode, fh, owner, &lk, False, False)
            elif kind == MSG_OWNER:
                locktab_drop_owner(self.p.tab, inode, owner)
            elif kind == MSG_FH:
                locktab_drop_fh(self.p.tab, inode, fh)
            elif kind == MSG_GET and r != NULL:
                locktab_get(self.p.tab, inode, owner, &lk)
                _answered(self.p, r, 0, &lk)
            elif kind == MSG_CANCEL and r != NULL and r.state == PLK_LOCAL:
                locktab_cancel(self.p.tab, number)
                _answered(self.p, r, -EINTR, NULL)
            pthread_mutex_unlock(&self.p.mutex)

    def take(self, uint64_t inode):
        """From here on the cluster decides on the file. Returns what is granted in it, as (owner, fh, pid, write,
        start, end); who waits for something there goes into the queue."""
        cdef collection c
        memset(&c, 0, sizeof(c))
        c.p = self.p
        c.most = 2 * LOCKS_MAX
        c.locks = <fs_lock*>calloc(c.most, sizeof(fs_lock))
        c.owners = <uint64_t*>calloc(c.most, 2 * sizeof(uint64_t))
        if c.locks == NULL or c.owners == NULL:
            free(c.locks)
            free(c.owners)
            raise MemoryError
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            c.f = _file(self.p, inode, False)
            if c.f != NULL and c.f.owned:
                c.f.owned = False
                c.f.asked = False
                self.p.n_owned -= 1
                dl_del(&c.f.used)
                locktab_take(self.p.tab, inode, _collect, _resend, &c)
                _unhold(self.p, inode)
            pthread_mutex_unlock(&self.p.mutex)
        out = [(c.owners[2 * i], c.owners[2 * i + 1], c.locks[i].pid, c.locks[i].type == <uint32_t>F_WRLCK,
                c.locks[i].start, c.locks[i].end) for i in range(c.n)]
        free(c.locks)
        free(c.owners)
        return out

    def answer(self, uint64_t number, int error, lock):
        """To who waits for this request: 0 or an errno, and for a query the lock in the way, None for none."""
        cdef preq* r
        cdef fs_lock lk
        memset(&lk, 0, sizeof(lk))
        lk.type = F_UNLCK
        if lock is not None:
            lk.start = lock.start
            lk.end = lock.end
            lk.pid = lock.pid
            lk.type = <uint32_t>(F_WRLCK if lock.write else F_RDLCK)
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            r = _req(self.p, number)
            if r != NULL and (r.state == PLK_QUEUED or r.state == PLK_ABANDONED):
                _answered(self.p, r, -error, NULL if r.sets else &lk)
            pthread_mutex_unlock(&self.p.mutex)

    def done(self, uint64_t inode):
        """A request of this node for the file has come to its place."""
        cdef pfile* f
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            f = _file(self.p, inode, False)
            if f != NULL and f.inflight > 0:
                f.inflight -= 1
                if f.inflight == 0 and f.owned:
                    _unhold(self.p, inode)
            pthread_mutex_unlock(&self.p.mutex)

    def forget(self, uint64_t inode):
        """This node has nothing in the file, which is not ours to decide."""
        cdef pfile* f
        pthread_mutex_lock(&self.p.mutex)
        f = _file(self.p, inode, False)
        if f != NULL and not f.owned and f.inflight == 0:
            _forget(self.p, f)
        pthread_mutex_unlock(&self.p.mutex)

    def sharing(self, bint on):
        """Whether any file is shared: then nobody waits in one that is ours."""
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            if on and not self.p.sharing:
                locktab_waiting(self.p.tab, _ask_each, self.p)
            self.p.sharing = on
            pthread_mutex_unlock(&self.p.mutex)

    def idle(self, uint64_t most, uint32_t count):
        """Owned files without locks beyond `most` owned ones, up to `count` of them, forgotten from here on."""
        cdef dlink* l
        cdef dlink* after
        cdef pfile* f
        cdef uint32_t seen = 0
        out = []
        pthread_mutex_lock(&self.p.mutex)
        l = self.p.used.next
        while l != &self.p.used and self.p.n_owned > most and seen < 4 * count and len(out) < count:
            after = l.next
            f = <pfile*>l.owner
            seen += 1
            if f.inflight == 0 and not f.asked and not locktab_busy(self.p.tab, f.inode):
                out.append(f.inode)
                _forget(self.p, f)
            else:
                # In use: looked at again when all others have been.
                dl_del(l)
                dl_add_tail(&self.p.used, l)
            l = after
        pthread_mutex_unlock(&self.p.mutex)
        return out

    def fail(self, int error):
        """The cluster is lost: whoever waits for it gets this errno, and so does everybody who asks from now on."""
        cdef preq* r
        cdef preq* after
        cdef int i
        if error <= 0:
            raise ValueError("an errno is wanted")
        with nogil:
            pthread_mutex_lock(&self.p.mutex)
            self.p.failed = -error
            for i in range(N_REQS):
                r = self.p.reqs[i]
                while r != NULL:
                    after = r.hnext
                    if r.state == PLK_QUEUED or r.state == PLK_ABANDONED:
                        r.sets = False
                        _answered(self.p, r, -error, NULL)
                    elif r.state == PLK_HELD:
                        _unpark(self.p, r.unique)
                    r = after
            pthread_mutex_unlock(&self.p.mutex)

    def detach(self):
        """The session is about to go: nobody is woken from here on."""
        plock_attach(self.p, NULL, NULL)

    def statistics(self):
        """Requests decided here, requests sent to the cluster, processes waiting, files owned; locks in owned files."""
        cdef uint64_t locks = 0
        cdef uint64_t waiters = 0
        cdef uint64_t inodes = 0
        locktab_counts(self.p.tab, &locks, &waiters, &inodes)
        return {"decided_here": self.p.n_local, "sent": self.p.n_sent, "waiting": self.p.n_reqs,
                "owned": self.p.n_owned, "locks": locks}


cdef struct wakes:
    uint32_t n
    uint64_t unique[4096]


cdef void _note(void* arg, uint64_t unique) noexcept nogil:
    cdef wakes* w = <wakes*>arg
    if w.n < 4096:
        w.unique[w.n] = unique
        w.n += 1


cdef class Callers:
    """What a session's workers ask of FileLocks, for tests in one thread. Lock types are those of the fcntl module."""
    cdef FileLocks locks
    cdef wakes noted

    PARK = OP_PARK

    def __init__(self, FileLocks locks not None):
        self.locks = locks
        self.noted.n = 0
        plock_attach(locks.p, _note, &self.noted)

    def __dealloc__(self):
        if self.locks is not None:
            plock_attach(self.locks.p, NULL, NULL)

    def set(self, uint64_t unique, uint64_t inode, uint64_t owner, int type, uint64_t start=0,
            uint64_t end=RANGE_MAX, *, uint64_t fh=0, uint32_t pid=0, bint sleep=False, bint interrupted=False):
        """One run of a request: 0, a negative errno, or PARK."""
        cdef fs_req rq
        cdef fs_lock lk
        memset(&rq, 0, sizeof(rq))
        rq.unique = unique
        rq.interrupted = interrupted
        lk.start = start
        lk.end = end
        lk.type = <uint32_t>type
        lk.pid = pid
        return plock_set(self.locks.p, &rq, inode, fh, owner, &lk, sleep)

    def get(self, uint64_t unique, uint64_t inode, uint64_t owner, int type, uint64_t start=0,
            uint64_t end=RANGE_MAX, *, bint interrupted=False):
        """As set; when it is not parked or refused, the lock in the way as (type, start, end, pid)."""
        cdef fs_req rq
        cdef fs_lock lk
        cdef int err
        memset(&rq, 0, sizeof(rq))
        rq.unique = unique
        rq.interrupted = interrupted
        lk.start = start
        lk.end = end
        lk.type = <uint32_t>type
        lk.pid = 0
        err = plock_get(self.locks.p, &rq, inode, 0, owner, &lk)
        if err:
            return err
        return (lk.type, lk.start, lk.end, lk.pid)

    def close(self, uint64_t inode, uint64_t owner):
        """A process closed a descriptor."""
        plock_drop_owner(self.locks.p, inode, owner)

    def release(self, uint64_t inode, uint64_t fh):
        """An open file is gone."""
        plock_drop_fh(self.locks.p, inode, fh)

    def woken(self):
        """Requests to be run again, since the last call."""
        out = [self.noted.unique[i] for i in range(self.noted.n)]
        self.noted.n = 0
        return out
