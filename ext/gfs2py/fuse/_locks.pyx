"""Local flock, fcntl and OFD locks: per-inode lists, ranges split and merged, deadlocks refused, waiters in order.

The kernel keeps no record of locks it hands to a FUSE server, and trusts every grant; so the rules of fcntl(2) and
flock(2) are all here. One mutex guards the table: an operation holds it for well under a microsecond per lock on
the inode, against the 10 us that a request costs.
"""
from libc.errno cimport EAGAIN, EINVAL, ENOLCK
from libc.stdint cimport uint32_t, uint64_t

from gfs2py.fuse._ops cimport fs_lock
from gfs2py.fuse._sys cimport (EDEADLK, F_RDLCK, F_UNLCK, F_WRLCK, calloc, free, pthread_mutex_destroy,
                               pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock)

cdef enum:
    N_BUCKETS = 4096            # hash chains of inodes with locks
    MAX_SEARCH = 1024           # waiters to be followed when looking for a deadlock; of more some may be missed

cdef uint64_t RANGE_MAX = 0xFFFFFFFFFFFFFFFFU

cdef struct lk:                 # a granted lock
    lk* next
    uint64_t start, end         # bytes, end inclusive
    uint64_t owner, fh
    uint32_t type, pid
    bint flock

cdef struct waiter:
    waiter* next                # of the inode, oldest first
    waiter* all_next            # of the table
    lkinode* inode
    uint64_t unique
    lk want
    bint woken
    uint64_t seen               # by the search for a deadlock of this number

cdef struct lkinode:
    lkinode* next
    uint64_t nodeid
    uint64_t n_locks, n_waiters
    lk* locks
    waiter* waiters

cdef struct locktab:
    pthread_mutex_t mutex
    lock_wake_fn wake
    void* arg
    waiter* waiters
    uint64_t n_locks, n_waiters, n_inodes
    uint64_t most_locks, most_waiters       # of one inode
    uint64_t search             # searches for a deadlock so far
    lkinode* buckets[N_BUCKETS]


cdef locktab* locktab_new(lock_wake_fn wake, void* arg) noexcept nogil:
    cdef locktab* t = <locktab*>calloc(1, sizeof(locktab))
    if t == NULL:
        return NULL
    pthread_mutex_init(&t.mutex, NULL)
    t.wake = wake
    t.arg = arg
    t.most_locks = RANGE_MAX
    t.most_waiters = RANGE_MAX
    return t


cdef void locktab_limit(locktab* t, uint64_t locks, uint64_t waiters) noexcept nogil:
    t.most_locks = locks
    t.most_waiters = waiters


cdef void locktab_free(locktab* t) noexcept nogil:
    cdef uint32_t i
    cdef lkinode* n
    cdef lk* l
    cdef waiter* w
    if t == NULL:
        return
    for i in range(N_BUCKETS):
        while t.buckets[i] != NULL:
            n = t.buckets[i]
            t.buckets[i] = n.next
            while n.locks != NULL:
                l = n.locks
                n.locks = l.next
                free(l)
            free(n)
    while t.waiters != NULL:
        w = t.waiters
        t.waiters = w.all_next
        free(w)
    pthread_mutex_destroy(&t.mutex)
    free(t)


cdef inline uint32_t bucket_of(uint64_t nodeid) noexcept nogil:
    return <uint32_t>((nodeid * 0x9E3779B97F4A7C15U) >> 52)


cdef lkinode* find_inode(locktab* t, uint64_t nodeid, bint make) noexcept nogil:
    cdef uint32_t b = bucket_of(nodeid)
    cdef lkinode* n = t.buckets[b]
    while n != NULL:
        if n.nodeid == nodeid:
            return n
        n = n.next
    if not make:
        return NULL
    n = <lkinode*>calloc(1, sizeof(lkinode))
    if n != NULL:
        n.nodeid = nodeid
        n.next = t.buckets[b]
        t.buckets[b] = n
        t.n_inodes += 1
    return n


cdef void drop_inode_if_empty(locktab* t, lkinode* n) noexcept nogil:
    cdef lkinode** p = &t.buckets[bucket_of(n.nodeid)]
    if n.locks != NULL or n.waiters != NULL:
        return
    while p[0] != n:
        p = &p[0].next
    p[0] = n.next
    t.n_inodes -= 1
    free(n)


cdef inline bint conflicts(const lk* a, const lk* b) noexcept nogil:
    """Two locks of different owners of one kind: one writes, and (fcntl) their ranges meet."""
    if a.flock != b.flock or a.owner == b.owner:
        return False
    if a.type != <uint32_t>F_WRLCK and b.type != <uint32_t>F_WRLCK:
        return False
    return a.flock or (a.start <= b.end and b.start <= a.end)


cdef lk* find_conflict(lkinode* n, const lk* want) noexcept nogil:
    cdef lk* l = n.locks
    while l != NULL:
        if conflicts(l, want):
            return l
        l = l.next
    return NULL


cdef waiter* find_waiter(locktab* t, uint64_t unique) noexcept nogil:
    cdef waiter* w = t.waiters
    while w != NULL:
        if w.unique == unique:
            return w
        w = w.all_next
    return NULL


cdef void remove_waiter(locktab* t, waiter* w) noexcept nogil:
    cdef waiter** p = &t.waiters
    while p[0] != w:
        p = &p[0].all_next
    p[0] = w.all_next
    p = &w.inode.waiters
    while p[0] != w:
        p = &p[0].next
    p[0] = w.next
    w.inode.n_waiters -= 1
    t.n_waiters -= 1
    free(w)


cdef void wake_waiters(locktab* t, lkinode* n) noexcept nogil:
    """Run again every waiter that nothing granted blocks any more; whoever comes first gets it."""
    cdef waiter* w = n.waiters
    while w != NULL:
        if not w.woken and find_conflict(n, &w.want) == NULL:
            w.woken = True
            t.wake(t.arg, w.unique)
        w = w.next


cdef bint would_deadlock(locktab* t, lkinode* n, const lk* want) noexcept nogil:
    """Whether somebody in the way of `want`, or in the way of those, waits for its owner: all paths, not just the first
    blocker's, for nobody looks again while that one stays."""
    cdef waiter* stack[MAX_SEARCH]
    cdef uint32_t top = 0
    cdef lkinode* at = n
    cdef const lk* w = want
    cdef lk* l
    cdef waiter* other
    t.search += 1
    while True:
        l = at.locks
        while l != NULL:
            if conflicts(l, w):
                if w != want and l.owner == want.owner:
                    return True
                other = t.waiters
                while other != NULL and top < MAX_SEARCH:
                    if not other.want.flock and other.want.owner == l.owner and other.seen != t.search:
                        other.seen = t.search
                        stack[top] = other
                        top += 1
                    other = other.all_next
            l = l.next
        if top == 0:
            return False
        top -= 1
        at = stack[top].inode
        w = &stack[top].want


cdef void unlink_lock(locktab* t, lkinode* n, lk** p) noexcept nogil:
    cdef lk* l = p[0]
    p[0] = l.next
    n.n_locks -= 1
    t.n_locks -= 1
    free(l)


cdef void carve(locktab* t, lkinode* n, const lk* want, lk** spare) noexcept nogil:
    """Take the range of `want` out of its owner's locks; a lock cut in two uses up *spare."""
    cdef lk** p = &n.locks
    cdef lk* l
    cdef lk* right
    while p[0] != NULL:
        l = p[0]
        if l.flock or l.owner != want.owner or l.start > want.end or l.end < want.start:
            p = &l.next
            continue
        if l.start < want.start and l.end > want.end:
            right = spare[0]
            spare[0] = NULL
            right[0] = l[0]
            right.start = want.end + 1
            l.end = want.start - 1
            l.next = right
            n.n_locks += 1
            t.n_locks += 1
            return                      # an owner's locks do not overlap: no other can meet the range
        if l.start >= want.start and l.end <= want.end:
            unlink_lock(t, n, p)
            continue
        if l.start < want.start:
            l.end = want.start - 1
        else:
            l.start = want.end + 1
        p = &l.next


cdef void insert_merged(locktab* t, lkinode* n, lk* new) noexcept nogil:
    """Add a lock, swallowing the owner's neighbours of the same type."""
    cdef lk** p = &n.locks
    cdef lk* l
    while p[0] != NULL:
        l = p[0]
        if (not l.flock and l.owner == new.owner and l.type == new.type
                and ((l.end != RANGE_MAX and l.end + 1 == new.start)
                     or (new.end != RANGE_MAX and new.end + 1 == l.start))):
            if l.start < new.start:
                new.start = l.start
            if l.end > new.end:
                new.end = l.end
            unlink_lock(t, n, p)
            continue
        p = &l.next
    p[0] = new
    new.next = NULL
    n.n_locks += 1
    t.n_locks += 1


cdef int wait_for(locktab* t, lkinode* n, uint64_t unique, const lk* want, waiter* known) noexcept nogil:
    cdef waiter* w = known
    cdef waiter** p
    if w == NULL:
        w = <waiter*>calloc(1, sizeof(waiter)) if n.n_waiters < t.most_waiters else NULL
        if w == NULL:
            return -ENOLCK
        w.inode = n
        w.unique = unique
        w.all_next = t.waiters
        t.waiters = w
        p = &n.waiters
        while p[0] != NULL:
            p = &p[0].next
        p[0] = w
        n.n_waiters += 1
        t.n_waiters += 1
    w.want = want[0]
    w.woken = False
    return LOCK_WAIT


cdef int set_flock(locktab* t, lkinode* n, const lk* want, lk** spare) noexcept nogil:
    """flock(2): one lock per open file; changing its type gives the old one up first, as flock(2) says."""
    cdef lk** p = &n.locks
    cdef bint freed = False
    while p[0] != NULL and not (p[0].flock and p[0].owner == want.owner):
        p = &p[0].next
    if p[0] != NULL:
        if p[0].type == want.type:
            return 0
        unlink_lock(t, n, p)
        freed = True
    if want.type == <uint32_t>F_UNLCK:
        if freed:
            wake_waiters(t, n)
        return 0
    if find_conflict(n, want) != NULL:
        if freed:
            wake_waiters(t, n)
        return -EAGAIN
    spare[0][0] = want[0]
    spare[0].next = n.locks
    n.locks = spare[0]
    spare[0] = NULL
    n.n_locks += 1
    t.n_locks += 1
    if freed:
        wake_waiters(t, n)
    return 0


cdef int set_locked(locktab* t, lkinode* n, uint64_t unique, const lk* want, bint sleep, lk** a,
                    lk** b) noexcept nogil:
    cdef waiter* known = NULL
    cdef int err
    if sleep and want.type != <uint32_t>F_UNLCK:
        known = find_waiter(t, unique)
    if want.flock:
        err = set_flock(t, n, want, a)
    elif want.type == <uint32_t>F_UNLCK:
        carve(t, n, want, a)
        wake_waiters(t, n)
        return 0
    elif find_conflict(n, want) != NULL:
        err = -EAGAIN
    elif n.n_locks >= t.most_locks:
        err = -ENOLCK
    else:
        carve(t, n, want, a)
        b[0][0] = want[0]
        insert_merged(t, n, b[0])
        b[0] = NULL
        wake_waiters(t, n)          # a write lock turned into a read lock lets readers in
        err = 0
    if err == -EAGAIN and sleep:
        if not want.flock and would_deadlock(t, n, want):
            err = -EDEADLK
        else:
            return wait_for(t, n, unique, want, known)
    if known != NULL:
        remove_waiter(t, known)
        wake_waiters(t, n)
    return err


cdef int locktab_set(locktab* t, uint64_t unique, uint64_t nodeid, uint64_t fh, uint64_t owner, const fs_lock* req,
                     bint flock, bint sleep) noexcept nogil:
    cdef lk want
    cdef lk* a
    cdef lk* b
    cdef lkinode* n
    cdef int err
    if req.type != <uint32_t>F_RDLCK and req.type != <uint32_t>F_WRLCK and req.type != <uint32_t>F_UNLCK:
        return -EINVAL
    if req.start > req.end:
        return -EINVAL
    want.next = NULL
    want.start = 0 if flock else req.start
    want.end = RANGE_MAX if flock else req.end
    want.owner = owner
    want.fh = fh
    want.type = req.type
    want.pid = req.pid
    want.flock = flock
    # Both pieces are there before anything changes: out of memory must not lose half a lock.
    a = <lk*>calloc(1, sizeof(lk))
    b = <lk*>calloc(1, sizeof(lk))
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, req.type != <uint32_t>F_UNLCK)
    if n == NULL:
        err = 0 if req.type == <uint32_t>F_UNLCK else -ENOLCK
    elif a == NULL or b == NULL:
        err = -ENOLCK
        drop_inode_if_empty(t, n)
    else:
        err = set_locked(t, n, unique, &want, sleep, &a, &b)
        drop_inode_if_empty(t, n)
    pthread_mutex_unlock(&t.mutex)
    free(a)
    free(b)
    return err


cdef int locktab_get(locktab* t, uint64_t nodeid, uint64_t owner, fs_lock* req) noexcept nogil:
    cdef lk want
    cdef lk* l = NULL
    cdef lkinode* n
    if req.type != <uint32_t>F_RDLCK and req.type != <uint32_t>F_WRLCK:
        return -EINVAL
    want.start = req.start
    want.end = req.end
    want.owner = owner
    want.type = req.type
    want.flock = False
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, False)
    if n != NULL:
        l = find_conflict(n, &want)
    if l == NULL:
        req.type = F_UNLCK
    else:
        req.start = l.start
        req.end = l.end
        req.type = l.type
        req.pid = l.pid
    pthread_mutex_unlock(&t.mutex)
    return 0


cdef void locktab_cancel(locktab* t, uint64_t unique) noexcept nogil:
    cdef waiter* w
    cdef lkinode* n
    pthread_mutex_lock(&t.mutex)
    w = find_waiter(t, unique)
    if w != NULL:
        n = w.inode
        remove_waiter(t, w)
        drop_inode_if_empty(t, n)
    pthread_mutex_unlock(&t.mutex)


cdef void drop_matching(locktab* t, uint64_t nodeid, uint64_t key, bint by_fh) noexcept nogil:
    cdef lkinode* n
    cdef lk** p
    cdef bint freed = False
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, False)
    if n != NULL:
        p = &n.locks
        while p[0] != NULL:
            if (p[0].fh == key) if by_fh else (not p[0].flock and p[0].owner == key):
                unlink_lock(t, n, p)
                freed = True
            else:
                p = &p[0].next
        if freed:
            wake_waiters(t, n)
        drop_inode_if_empty(t, n)
    pthread_mutex_unlock(&t.mutex)


cdef void locktab_drop_owner(locktab* t, uint64_t nodeid, uint64_t owner) noexcept nogil:
    drop_matching(t, nodeid, owner, False)


cdef void locktab_drop_fh(locktab* t, uint64_t nodeid, uint64_t fh) noexcept nogil:
    drop_matching(t, nodeid, fh, True)


cdef bint locktab_busy(locktab* t, uint64_t nodeid) noexcept nogil:
    cdef bint busy
    pthread_mutex_lock(&t.mutex)
    busy = find_inode(t, nodeid, False) != NULL
    pthread_mutex_unlock(&t.mutex)
    return busy


cdef int locktab_put(locktab* t, uint64_t nodeid, uint64_t fh, uint64_t owner, const fs_lock* req) noexcept nogil:
    cdef lk* l = <lk*>calloc(1, sizeof(lk))
    cdef lkinode* n
    if l == NULL:
        return -ENOLCK
    l.start = req.start
    l.end = req.end
    l.owner = owner
    l.fh = fh
    l.type = req.type
    l.pid = req.pid
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, True)
    if n != NULL:
        insert_merged(t, n, l)
    pthread_mutex_unlock(&t.mutex)
    if n == NULL:
        free(l)
        return -ENOLCK
    return 0


cdef void locktab_take(locktab* t, uint64_t nodeid, lock_each_fn lock, lock_each_fn waits, void* arg) noexcept nogil:
    cdef lkinode* n
    cdef fs_lock req
    cdef lk* l
    cdef waiter* w
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, False)
    while n != NULL and n.locks != NULL:
        l = n.locks
        as_request(l, &req)
        lock(arg, nodeid, 0, l.fh, l.owner, &req)
        unlink_lock(t, n, &n.locks)
    while n != NULL and n.waiters != NULL:
        w = n.waiters
        as_request(&w.want, &req)
        waits(arg, nodeid, w.unique, w.want.fh, w.want.owner, &req)
        remove_waiter(t, w)
    if n != NULL:
        drop_inode_if_empty(t, n)
    pthread_mutex_unlock(&t.mutex)


cdef inline void as_request(const lk* l, fs_lock* req) noexcept nogil:
    req.start = l.start
    req.end = l.end
    req.type = l.type
    req.pid = l.pid


cdef void locktab_waiting(locktab* t, lock_each_fn each, void* arg) noexcept nogil:
    cdef fs_lock req
    cdef waiter* w
    pthread_mutex_lock(&t.mutex)
    w = t.waiters
    while w != NULL:
        as_request(&w.want, &req)
        each(arg, w.inode.nodeid, w.unique, w.want.fh, w.want.owner, &req)
        w = w.all_next
    pthread_mutex_unlock(&t.mutex)


cdef bint locktab_flocks(locktab* t, uint64_t nodeid, uint64_t owner, uint32_t type, uint32_t* own,
                         uint32_t* most) noexcept nogil:
    cdef lkinode* n
    cdef lk* l
    cdef bint blocked = False
    own[0] = F_UNLCK
    most[0] = F_UNLCK
    pthread_mutex_lock(&t.mutex)
    n = find_inode(t, nodeid, False)
    l = n.locks if n != NULL else NULL
    while l != NULL:
        if l.owner == owner:
            own[0] = l.type
        elif type == <uint32_t>F_WRLCK or l.type == <uint32_t>F_WRLCK:
            blocked = True
        if most[0] != <uint32_t>F_WRLCK:
            most[0] = l.type
        l = l.next
    pthread_mutex_unlock(&t.mutex)
    return blocked


cdef void locktab_counts(locktab* t, uint64_t* locks, uint64_t* waiters, uint64_t* inodes) noexcept nogil:
    pthread_mutex_lock(&t.mutex)
    locks[0] = t.n_locks
    waiters[0] = t.n_waiters
    inodes[0] = t.n_inodes
    pthread_mutex_unlock(&t.mutex)


cdef struct wake_log:
    uint32_t n
    uint64_t unique[256]


cdef void note_wake(void* arg, uint64_t unique) noexcept nogil:
    cdef wake_log* log = <wake_log*>arg
    if log.n < 256:
        log.unique[log.n] = unique
        log.n += 1


cdef class LockTable:
    """The table for Python: tests hold it against a simple model. Lock types are those of the fcntl module."""
    cdef locktab* table
    cdef wake_log log

    def __cinit__(self):
        self.log.n = 0
        self.table = locktab_new(note_wake, &self.log)
        if self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        locktab_free(self.table)

    def set(self, uint64_t nodeid, uint64_t owner, int type, uint64_t start=0, uint64_t end=RANGE_MAX, *,
            uint64_t fh=0, uint32_t pid=0, bint flock=False, bint sleep=False, uint64_t unique=0):
        """Ask for a lock or its removal. Returns 0, a negative errno, or LOCK_WAIT."""
        cdef fs_lock lk
        lk.start = start
        lk.end = end
        lk.type = <uint32_t>type
        lk.pid = pid
        return locktab_set(self.table, unique, nodeid, fh, owner, &lk, flock, sleep)

    def get(self, uint64_t nodeid, uint64_t owner, int type, uint64_t start=0, uint64_t end=RANGE_MAX):
        """The conflicting lock as (type, start, end, pid), or None."""
        cdef fs_lock lk
        cdef int err
        lk.start = start
        lk.end = end
        lk.type = <uint32_t>type
        lk.pid = 0
        err = locktab_get(self.table, nodeid, owner, &lk)
        if err < 0:
            raise OSError(-err, "lock query refused")
        return None if lk.type == <uint32_t>F_UNLCK else (lk.type, lk.start, lk.end, lk.pid)

    def cancel(self, uint64_t unique):
        """Forget the waiting request of this number."""
        locktab_cancel(self.table, unique)

    def drop_owner(self, uint64_t nodeid, uint64_t owner):
        """A process closed a descriptor: its fcntl locks on the inode go."""
        locktab_drop_owner(self.table, nodeid, owner)

    def drop_fh(self, uint64_t nodeid, uint64_t fh):
        """An open file is gone: locks taken through it go."""
        locktab_drop_fh(self.table, nodeid, fh)

    def woken(self):
        """Request numbers woken since the last call."""
        cdef uint32_t i
        out = [self.log.unique[i] for i in range(self.log.n)]
        self.log.n = 0
        return out

    def counts(self):
        """(locks granted, waiters, inodes known)."""
        cdef uint64_t locks = 0
        cdef uint64_t waiters = 0
        cdef uint64_t inodes = 0
        locktab_counts(self.table, &locks, &waiters, &inodes)
        return locks, waiters, inodes

    WAIT = LOCK_WAIT
