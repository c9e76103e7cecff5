"""What the kernel knows of us: lookup counts by node, and the deletion of inodes nobody knows any more.

A node id is the dinode's block number, so nothing but the count need be kept for an inode the kernel remembers: 24
bytes each, whatever the inode cache does. Deallocation runs in a thread of its own, since it may take long and must not
hold up the worker that got the FORGET.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from gfs2py.engine._freeze cimport fz_leave, fz_wait
from gfs2py.engine._incore cimport sbd
from gfs2py.engine._sync cimport (CLOCK_REALTIME, clock_gettime, pthread_cond_broadcast, pthread_cond_destroy,
                                  pthread_cond_init, pthread_cond_timedwait, pthread_cond_wait,
                                  pthread_create, pthread_join, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock, timespec)
from gfs2py.fuse._stat cimport wait_adopt

cdef extern from "<errno.h>" nogil:
    int ENOMEM

cdef enum:
    N_SHARDS = 16
    TABLE_MIN = 256
    BATCH = 128                     # inodes deleted in one go
    AGAIN_MAX = 256                 # deletions that another node's use puts off
    AGAIN_TRIES = 5
    GATHER_NS = 20000000            # how long the deletion thread waits for a batch to fill


cdef inline uint64_t _mix(uint64_t addr) noexcept nogil:
    return addr * <uint64_t>0x9E3779B97F4A7C15


cdef inline node_shard* _shard(nodes* nd, uint64_t addr) noexcept nogil:
    return &nd.shards[_mix(addr) >> 60]


cdef inline uint32_t _home(node_shard* s, uint64_t addr) noexcept nogil:
    return <uint32_t>(_mix(addr) >> 24) & s.mask


cdef int nodes_init(nodes* nd, sbd* sd, void (*dealloc)(sbd*, uint64_t*, uint32_t) noexcept nogil) noexcept nogil:
    cdef int i
    memset(nd, 0, sizeof(nodes))
    nd.sd = sd
    nd.dealloc = dealloc
    pthread_mutex_init(&nd.lock, NULL)
    pthread_cond_init(&nd.cond, NULL)
    for i in range(N_SHARDS):
        pthread_mutex_init(&nd.shards[i].lock, NULL)
        nd.shards[i].table = <node*>calloc(TABLE_MIN, sizeof(node))
        nd.shards[i].mask = TABLE_MIN - 1
        if nd.shards[i].table == NULL:
            return -ENOMEM
    return 0


cdef void nodes_destroy(nodes* nd) noexcept nogil:
    cdef int i
    nodes_stop(nd)
    for i in range(N_SHARDS):
        free(nd.shards[i].table)
        pthread_mutex_destroy(&nd.shards[i].lock)
    free(nd.queue)
    pthread_mutex_destroy(&nd.lock)
    pthread_cond_destroy(&nd.cond)


cdef node* _find(node_shard* s, uint64_t addr) noexcept nogil:
    cdef uint32_t i = _home(s, addr)
    while s.table[i].addr:
        if s.table[i].addr == addr:
            return &s.table[i]
        i = (i + 1) & s.mask
    return NULL


cdef node* _place(node_shard* s, uint64_t addr) noexcept nogil:
    cdef uint32_t i = _home(s, addr)
    while s.table[i].addr:
        i = (i + 1) & s.mask
    return &s.table[i]


cdef void _resize(node_shard* s, uint32_t size) noexcept nogil:
    """Into a table of `size` slots; when memory is out the old one stays, fuller."""
    cdef node* old = s.table
    cdef uint32_t n = s.mask + 1
    cdef uint32_t i
    cdef node* fresh = <node*>calloc(size, sizeof(node))
    if fresh == NULL:
        return
    s.table = fresh
    s.mask = size - 1
    for i in range(n):
        if old[i].addr:
            _place(s, old[i].addr)[0] = old[i]
    free(old)


cdef void _remove(node_shard* s, node* e) noexcept nogil:
    """Open addressing without tombstones: later members of the probe chain move up."""
    cdef uint32_t hole = <uint32_t>(e - s.table)
    cdef uint32_t i = hole
    cdef uint32_t home
    while True:
        i = (i + 1) & s.mask
        if s.table[i].addr == 0:
            break
        home = _home(s, s.table[i].addr)
        if ((i - home) & s.mask) >= ((i - hole) & s.mask):
            s.table[hole] = s.table[i]
            hole = i
    s.table[hole].addr = 0
    s.count -= 1
    if s.mask + 1 > TABLE_MIN and s.count < (s.mask + 1) // 8:
        _resize(s, (s.mask + 1) // 2)


cdef void node_looked_up(nodes* nd, uint64_t addr, bint unlinked) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e == NULL:
        if (s.count + 1) * 4 > (s.mask + 1) * 3:
            _resize(s, (s.mask + 1) * 2)
        e = _place(s, addr)
        e.addr = addr
        e.nlookup = 0
        e.unlinked = 0
        e.wanted = 0
        e.writers = 0
        e.appenders = 0
        s.count += 1
    e.nlookup += 1
    if unlinked:
        e.unlinked = 1
    pthread_mutex_unlock(&s.lock)


cdef void node_forget(nodes* nd, uint64_t addr, uint64_t n) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    cdef bint gone = False
    cdef bint known
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e != NULL:
        if e.nlookup > n:
            e.nlookup -= n
        else:
            gone = e.unlinked != 0
            _remove(s, e)
    known = e != NULL and _find(s, addr) != NULL
    pthread_mutex_unlock(&s.lock)
    if e != NULL and not known and nd.forgotten != NULL and nd.forgotten(nd.sd, addr):
        gone = True
    if gone:
        node_delete_later(nd, addr)


cdef void node_unlinked(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e != NULL:
        e.unlinked = 1
    pthread_mutex_unlock(&s.lock)
    if e == NULL:
        node_delete_later(nd, addr)


cdef void node_relinked(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e != NULL:
        e.unlinked = 0
    pthread_mutex_unlock(&s.lock)


cdef bint node_known(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef bint known
    pthread_mutex_lock(&s.lock)
    known = _find(s, addr) != NULL
    pthread_mutex_unlock(&s.lock)
    return known


cdef void node_writers(nodes* nd, uint64_t addr, int change, bint appends) noexcept nogil:
    """A handle for writing was opened (1) or released (-1); the kernel knows the inode all the while."""
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e != NULL and (change > 0 or e.writers):
        e.writers += change
        # One that has been full stays so until the kernel forgets the inode: that costs only pages.
        if appends and e.appenders < 0xffff:
            e.appenders += change
    pthread_mutex_unlock(&s.lock)


cdef bint node_written(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    cdef bint written
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    written = e != NULL and e.writers != 0
    pthread_mutex_unlock(&s.lock)
    return written


cdef void node_want(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    if e != NULL:
        e.wanted = 1
    pthread_mutex_unlock(&s.lock)


cdef bint node_wanted(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    cdef bint wanted
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    wanted = e != NULL and e.wanted != 0
    pthread_mutex_unlock(&s.lock)
    return wanted


cdef bint node_appended(nodes* nd, uint64_t addr) noexcept nogil:
    cdef node_shard* s = _shard(nd, addr)
    cdef node* e
    cdef bint appended
    pthread_mutex_lock(&s.lock)
    e = _find(s, addr)
    appended = e != NULL and e.appenders != 0
    pthread_mutex_unlock(&s.lock)
    return appended


cdef void nodes_forget_all(nodes* nd) noexcept nogil:
    cdef int i
    cdef uint32_t k
    cdef bint wanted
    cdef node_shard* s
    for i in range(N_SHARDS):
        s = &nd.shards[i]
        pthread_mutex_lock(&s.lock)
        for k in range(s.mask + 1):
            if s.table[k].addr:
                wanted = nd.forgotten != NULL and nd.forgotten(nd.sd, s.table[k].addr)
                if wanted or s.table[k].unlinked:
                    node_delete_later(nd, s.table[k].addr)
        memset(s.table, 0, (<uint64_t>s.mask + 1) * sizeof(node))
        s.count = 0
        pthread_mutex_unlock(&s.lock)


cdef uint64_t nodes_count(nodes* nd) noexcept nogil:
    cdef int i
    cdef uint64_t n = 0
    for i in range(N_SHARDS):
        n += nd.shards[i].count
    return n


# ---------------------------------------------------------------------------------------------- deletion

cdef void node_delete_later(nodes* nd, uint64_t addr) noexcept nogil:
    cdef uint64_t* grown
    pthread_mutex_lock(&nd.lock)
    if nd.n_queue == nd.cap_queue:
        grown = <uint64_t*>realloc(nd.queue, (nd.cap_queue * 2 + 64) * sizeof(uint64_t))
        if grown == NULL:
            # The dinode stays UNLINKED on disk; the next mount's scan finds it.
            pthread_mutex_unlock(&nd.lock)
            return
        nd.queue = grown
        nd.cap_queue = nd.cap_queue * 2 + 64
    nd.queue[nd.n_queue] = addr
    nd.n_queue += 1
    if nd.n_queue == 1 or nd.n_queue == BATCH:
        pthread_cond_broadcast(&nd.cond)
    pthread_mutex_unlock(&nd.lock)


cdef void node_delete_again(nodes* nd, uint64_t addr) noexcept nogil:
    cdef uint32_t i = 0
    pthread_mutex_lock(&nd.lock)
    while i < nd.n_again and nd.list[i].addr != addr:
        i += 1
    if i == nd.n_again:
        if nd.n_again == AGAIN_MAX:
            # The oldest gives way; whoever has that inode open was told.
            i = 0
        else:
            nd.n_again += 1
        nd.list[i].addr = addr
        nd.list[i].tries = 0
    nd.list[i].tries += 1
    nd.list[i].waiting = nd.list[i].tries <= AGAIN_TRIES
    if not nd.list[i].waiting:
        nd.n_again -= 1
        nd.list[i] = nd.list[nd.n_again]
    pthread_mutex_unlock(&nd.lock)


cdef void nodes_retry(nodes* nd) noexcept nogil:
    cdef uint64_t todo[AGAIN_MAX]
    cdef uint32_t i
    cdef uint32_t n = 0
    pthread_mutex_lock(&nd.lock)
    for i in range(nd.n_again):
        if nd.list[i].waiting:
            nd.list[i].waiting = False
            todo[n] = nd.list[i].addr
            n += 1
    pthread_mutex_unlock(&nd.lock)
    for i in range(n):
        node_delete_later(nd, todo[i])


cdef void _gather(nodes* nd) noexcept nogil:
    """A little patience (lock held): what is deleted together shares transactions and does not fight the unlinks."""
    cdef timespec until
    clock_gettime(CLOCK_REALTIME, &until)
    until.tv_nsec += GATHER_NS
    if until.tv_nsec >= 1000000000:
        until.tv_nsec -= 1000000000
        until.tv_sec += 1
    while nd.n_queue < BATCH and not nd.stop and not nd.waiting:
        if pthread_cond_timedwait(&nd.cond, &nd.lock, &until) != 0:
            return


cdef void* _worker(void* arg) noexcept nogil:
    cdef nodes* nd = <nodes*>arg
    cdef uint64_t batch[BATCH]
    cdef uint32_t n
    wait_adopt(&nd.sd.ob.deleter)
    pthread_mutex_lock(&nd.lock)
    while True:
        while nd.n_queue == 0 and not nd.stop:
            pthread_cond_wait(&nd.cond, &nd.lock)
        if nd.n_queue == 0:
            break
        _gather(nd)
        n = min(nd.n_queue, <uint32_t>BATCH)
        nd.n_queue -= n
        memcpy(batch, nd.queue + nd.n_queue, n * sizeof(uint64_t))
        nd.busy = True
        pthread_mutex_unlock(&nd.lock)
        # At the end of a frozen mount they are left to the next first mount's scan.
        if fz_wait(nd.sd):
            nd.dealloc(nd.sd, batch, n)
            fz_leave(nd.sd)
        pthread_mutex_lock(&nd.lock)
        nd.busy = False
        if nd.n_queue == 0:
            pthread_cond_broadcast(&nd.cond)
    pthread_mutex_unlock(&nd.lock)
    return NULL


cdef void _drain(void* arg) noexcept nogil:
    nodes_drain(<nodes*>arg)


cdef int nodes_start(nodes* nd) noexcept nogil:
    nd.stop = False
    nd.sd.fz.drain_arg = nd
    nd.sd.fz.drain = _drain
    if pthread_create(&nd.thread, NULL, _worker, nd) != 0:
        return -ENOMEM
    nd.thread_on = True
    return 0


cdef void nodes_drain(nodes* nd) noexcept nogil:
    pthread_mutex_lock(&nd.lock)
    nd.waiting += 1
    pthread_cond_broadcast(&nd.cond)
    while nd.thread_on and (nd.n_queue or nd.busy):
        pthread_cond_wait(&nd.cond, &nd.lock)
    nd.waiting -= 1
    pthread_mutex_unlock(&nd.lock)


cdef void nodes_stop(nodes* nd) noexcept nogil:
    if not nd.thread_on:
        return
    pthread_mutex_lock(&nd.lock)
    nd.stop = True
    pthread_cond_broadcast(&nd.cond)
    pthread_mutex_unlock(&nd.lock)
    pthread_join(nd.thread, NULL)
    nd.thread_on = False
