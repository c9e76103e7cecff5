"""Worker threads: read a request, run it, write the answer; two system calls and no lock on the way.

A worker reads from its own clone of /dev/fuse, so that the kernel's list of requests being served is its own too; the
answer has to go to the same clone. A request that cannot go on (OP_PARK) is copied, exactly as long as it is, into
the list of parked ones, and the worker takes the next. When it may go on it stands in the run queue, from which
the runners take it, and workers between two requests.

How many workers read is decided by the sentinel, a thread that looks every millisecond while there is traffic. One
reader serves quick requests cheapest: with several the kernel wakes them in turn, and each waking costs a context
switch and cold caches (measured: 6 readers take 1.7 times the CPU of one for the same requests). A reader busy for
long brings in another at the next look; a request known to wait (fsync) hands the reading over before it starts.
Readers that have not been needed for a while stand by.

INTERRUPT names a request that may be parked (it is run again, marked), in a worker's hand (noted; it counts when that
run wants to park), or not yet known (read by another worker this very moment: EAGAIN makes the kernel ask again).
"""
from libc.errno cimport (EAGAIN, EBADF, ECONNABORTED, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENOSYS)
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from gfs2py.fuse._dispatch cimport dispatch
from gfs2py.fuse._idle cimport idle_poll_release, idle_poll_tick
from gfs2py.fuse._ops cimport OP_PARK
from gfs2py.fuse._proto cimport (FUSE_BATCH_FORGET, FUSE_COPY_FILE_RANGE, FUSE_DESTROY, FUSE_DEV_IOC_CLONE, FUSE_FORGET,
                                 FUSE_FSYNC, FUSE_FSYNCDIR, FUSE_INTERRUPT, FUSE_NOTIFY_REPLY, FUSE_READ, FUSE_SYNCFS,
                                 FUSE_WRITE, OP_LIMIT, WRITE_HEADERS, fuse_in_header, fuse_interrupt_in, fuse_read_in,
                                 fuse_write_in)
from gfs2py.fuse._reply cimport send_error, send_reply
from gfs2py.fuse._stat cimport hist_bump, wait_adopt
from gfs2py.fuse._state cimport (MAX_THREADS, OUT_HEADROOM, REQ_LATER, REQ_NOREPLY, S_ENDED, op_stat,
                                 parked, request, session, worker)
from gfs2py.fuse._sys cimport *

cdef extern from "<unistd.h>" nogil:
    int gettid()

cdef enum:
    PAGE = 4096
    STACK_BYTES = 1 << 20
    DRAIN_POLL_US = 200         # between two looks at whether the others are idle, at DESTROY
    DRAIN_LIMIT_MS = 30000
    TICK_US = 1000              # how often the sentinel looks
    STALL_NS = 400000           # a reader busy for longer has stalled
    CALM_TICKS = 200            # without stall: one reader fewer
    QUIET_TICKS = 20            # without request: the sentinel sleeps until the next
    TRANSFER_BYTES = 65536      # a READ or WRITE of that size waits for the disk: another worker reads meanwhile
    SATURATED_TICKS = 8         # all readers found busy in a row: one more, up to half the processors

cdef int kick_signal = 0


cdef void on_kick(int sig) noexcept nogil:
    """Does nothing: the signal is there to end a read(2) with EINTR."""


cdef int open_clone(session* se) noexcept nogil:
    """A descriptor of the same connection; without clones (a test's socket) a duplicate."""
    cdef uint32_t source = <uint32_t>se.fd
    cdef int fd
    if not se.cloned:
        fd = dup(se.fd)
        return fd if fd >= 0 else -errno
    fd = open("/dev/fuse", O_RDWR | O_CLOEXEC)
    if fd < 0:
        return -errno
    if ioctl(fd, FUSE_DEV_IOC_CLONE, &source) < 0:
        close(fd)
        return -errno
    return fd


cdef worker* new_worker(session* se, bint runner) noexcept nogil:
    """Buffers in one mapping: [page | request payload | page | answer payload]; touched only as far as used."""
    cdef worker* w = <worker*>calloc(1, sizeof(worker))
    cdef size_t room = (se.buf_len + PAGE - 1) & ~<size_t>(PAGE - 1)
    if w == NULL:
        return NULL
    w.se = se
    w.runner = runner
    w.fd = -1
    w.area_len = 2 * room + 3 * PAGE
    w.area = <uint8_t*>mmap(NULL, w.area_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if w.area == MAP_FAILED:
        free(w)
        return NULL
    w.inbuf = w.area + PAGE - WRITE_HEADERS
    w.incap = room + PAGE + WRITE_HEADERS      # the kernel insists on max_write plus headers
    w.out = w.area + 2 * PAGE + room + OUT_HEADROOM
    w.out_cap = <uint32_t>room
    return w


cdef void free_worker(worker* w) noexcept nogil:
    if w.fd >= 0:
        close(w.fd)
    munmap(w.area, w.area_len)
    free(w)


cdef void count(request* r, int err) noexcept nogil:
    cdef uint32_t op = r.h.opcode
    cdef op_stat* s = &r.w.stats[op if op < OP_LIMIT else 0]
    hist_bump(&s.took, now_ns() - (r.w.started_ns if r.node == NULL else r.node.since_ns))
    if err < 0:
        fz_bump(&s.errors, 1)
    elif op == FUSE_READ:
        fz_bump(&s.bytes, r.out_len)
    elif op == FUSE_WRITE and r.arg_len > sizeof(fuse_write_in):
        fz_bump(&s.bytes, r.arg_len - sizeof(fuse_write_in))


# ---- parking -------------------------------------------------------------------------------------------------

cdef parked* copy_request(request* r) noexcept nogil:
    cdef parked* p
    cdef size_t n = r.h.len
    p = <parked*>calloc(1, sizeof(parked))
    if p == NULL:
        return NULL
    if posix_memalign(<void**>&p.base, PAGE, PAGE + n) != 0:
        free(p)
        return NULL
    p.msg = p.base + PAGE - WRITE_HEADERS
    memcpy(p.msg, r.h, n)
    p.len = <uint32_t>n
    p.unique = r.h.unique
    p.fd = r.fd
    p.since_ns = r.w.started_ns
    return p


cdef void free_parked(parked* p) noexcept nogil:
    free(p.base)
    free(p)


cdef void enqueue(session* se, parked* p) noexcept nogil:
    """Into the run queue; se.mutex is held."""
    p.next = NULL
    if se.run_tail != NULL:
        se.run_tail.next = p
    else:
        se.run_head = p
    se.run_tail = p
    fz_add(&se.n_runnable, 1)
    if se.runners_idle == 0 and se.n_runners < se.max_runners:
        add_thread(se, True)
    pthread_cond_signal(&se.run_cond)


cdef int park(request* r) noexcept nogil:
    """Put the request away; run it again at once if its wake-up or its interrupt came first."""
    cdef session* se = r.se
    cdef worker* w = r.w
    cdef parked* p = r.node if r.node != NULL else copy_request(r)
    if p == NULL:
        return -ENOMEM
    p.runs = r.rq.runs + 1
    p.interrupted = 0           # a signal of which the operation has taken note does not run it again
    pthread_mutex_lock(&se.mutex)
    se.n_parks += 1
    fz_store64(&w.current, 0)
    if w.intr == p.unique or se.stopping:
        p.interrupted = 1
    if p.interrupted or w.early == p.unique:
        enqueue(se, p)
    else:
        p.next = se.parked_list
        se.parked_list = p
        se.n_parked += 1
    w.early = 0
    w.intr = 0
    pthread_mutex_unlock(&se.mutex)
    return OP_PARK


cdef parked* take_parked(session* se, uint64_t unique) noexcept nogil:
    """Out of the list of parked requests; se.mutex is held."""
    cdef parked** at = &se.parked_list
    cdef parked* p
    while at[0] != NULL and at[0].unique != unique:
        at = &at[0].next
    p = at[0]
    if p != NULL:
        at[0] = p.next
        se.n_parked -= 1
    return p


cdef worker* holder_of(session* se, uint64_t unique) noexcept nogil:
    cdef int i
    for i in range(MAX_THREADS):
        if se.workers[i] != NULL and fz_load64(&se.workers[i].current) == unique:
            return se.workers[i]
    return NULL


cdef void session_unpark(session* se, uint64_t unique) noexcept nogil:
    cdef parked* p
    cdef worker* w
    pthread_mutex_lock(&se.mutex)
    p = take_parked(se, unique)
    if p != NULL:
        enqueue(se, p)
    else:
        w = holder_of(se, unique)
        if w != NULL:
            w.early = unique
    pthread_mutex_unlock(&se.mutex)


cdef void wake_request(void* se, uint64_t unique) noexcept nogil:
    session_unpark(<session*>se, unique)


cdef int session_unpark_all(session* se, bint interrupted) noexcept nogil:
    cdef parked* p
    cdef int n = 0
    pthread_mutex_lock(&se.mutex)
    while se.parked_list != NULL:
        p = se.parked_list
        se.parked_list = p.next
        se.n_parked -= 1
        p.interrupted |= interrupted
        enqueue(se, p)
        n += 1
    pthread_mutex_unlock(&se.mutex)
    return n


cdef void do_interrupt(request* r) noexcept nogil:
    cdef session* se = r.se
    cdef uint64_t unique = (<fuse_interrupt_in*>r.arg).unique
    cdef parked* p
    cdef worker* w
    cdef int i
    cdef int fds[MAX_THREADS]
    cdef int n = 0
    if r.arg_len < sizeof(fuse_interrupt_in):
        return
    pthread_mutex_lock(&se.mutex)
    se.n_interrupts += 1
    p = take_parked(se, unique)
    if p != NULL:
        p.interrupted = 1
        enqueue(se, p)
    else:
        p = se.run_head
        while p != NULL and p.unique != unique:
            p = p.next
        w = holder_of(se, unique) if p == NULL else NULL
        if p != NULL:
            p.interrupted = 1
        elif w != NULL:
            w.intr = unique
        else:
            for i in range(MAX_THREADS):
                if se.workers[i] != NULL and not se.workers[i].runner:
                    fds[n] = se.workers[i].fd
                    n += 1
    pthread_mutex_unlock(&se.mutex)
    # Nobody holds it: being read right now, or answered already. Only the clone that has it takes the EAGAIN.
    for i in range(n):
        send_error(fds[i], r.h.unique, -EAGAIN)


# ---- a request -----------------------------------------------------------------------------------------------

cdef bint others_idle(session* se, worker* self) noexcept nogil:
    cdef int i
    cdef worker* w
    for i in range(MAX_THREADS):
        w = se.workers[i]
        if w != NULL and w != self and fz_load64(&w.current) != 0:
            return False
    return se.n_parked == 0 and fz_load(&se.n_runnable) == 0


cdef void drain(session* se, worker* self, uint64_t limit_ms) noexcept nogil:
    """Wait until no other thread has a request and none is parked, seen twice in a row."""
    cdef int calm = 0
    cdef uint64_t limit = now_ns() + limit_ms * 1000000
    while calm < 2 and now_ns() < limit:
        calm = calm + 1 if others_idle(se, self) else 0
        if calm < 2:
            sleep_us(DRAIN_POLL_US)


cdef void do_destroy(request* r) noexcept nogil:
    """The kernel lets go: finish what is under way, let the file system write itself out, then answer."""
    cdef session* se = r.se
    drain(se, r.w, DRAIN_LIMIT_MS)
    if session_unpark_all(se, True) > 0:
        drain(se, r.w, DRAIN_LIMIT_MS // 10)
    session_destroy_fs(se, r.w)
    if se.hold_destroy:
        pthread_mutex_lock(&se.mutex)
        se.destroy = 1
        signal_python(se)
        while se.destroy == 1 and not fz_load(&se.stopping):
            pthread_cond_wait(&se.state_cond, &se.mutex)
        pthread_mutex_unlock(&se.mutex)
    r.out_len = 0
    send_reply(r, 0)


cdef void session_destroy_fs(session* se, worker* self) noexcept nogil:
    """Let the file system destroy itself, once. From here on no request reaches it any more.

    FORGETs may still come in after a DESTROY: the kernel keeps them in a list of their own. A worker says that it is
    busy before it looks at `destroyed`; we set that before we look who is busy: one of the two sees the other.
    """
    cdef bint first
    cdef worker* w
    cdef int i
    pthread_mutex_lock(&se.mutex)
    first = not se.destroyed
    fz_store(&se.destroyed, 1)
    pthread_mutex_unlock(&se.mutex)
    fz_fence()
    for i in range(MAX_THREADS):
        w = se.workers[i]
        while w != NULL and w != self and fz_load64(&w.current) != 0:
            sleep_us(DRAIN_POLL_US)
    if first and se.ops.destroy != NULL:
        se.ops.destroy(se.fs)


cdef void signal_python(session* se) noexcept nogil:
    cdef uint64_t one = 1
    write(se.event_fd, &one, 8)


cdef bint waits(const request* r) noexcept nogil:
    """Requests that wait for the disk so long that another reader is worth waking: syncs, transfers of some size."""
    cdef uint32_t op = r.h.opcode
    if op == FUSE_WRITE:
        return r.h.len >= TRANSFER_BYTES
    if op == FUSE_READ:
        return r.arg_len >= sizeof(fuse_read_in) and (<fuse_read_in*>r.arg).size >= TRANSFER_BYTES
    return op == FUSE_FSYNC or op == FUSE_FSYNCDIR or op == FUSE_SYNCFS or op == FUSE_COPY_FILE_RANGE


cdef void run(request* r) noexcept nogil:
    """One run of a request whose header was checked: session opcodes here, the rest by dispatch."""
    cdef uint32_t op = r.h.opcode
    cdef bint noted = r.rq.runs != 0    # by the file system, to be run again
    cdef int err
    if op == FUSE_INTERRUPT:
        do_interrupt(r)
        return
    if op == FUSE_DESTROY:
        worker_blocks()
        do_destroy(r)
        return
    if waits(r):
        worker_blocks()
    err = dispatch(r) if not fz_load(&r.se.destroyed) else -EIO
    if err == OP_PARK:
        noted = True
        if not r.rq.interrupted:
            err = park(r)
            if err == OP_PARK:
                r.node = NULL           # it belongs to the list again
                return
        else:
            err = -EINTR                # an operation that parks although told not to
    if err == REQ_NOREPLY or op == FUSE_FORGET or op == FUSE_BATCH_FORGET or op == FUSE_NOTIFY_REPLY:
        count(r, 0)
        return
    if err < -4095 or err > 0:
        err = -EIO
    if noted and r.se.ops.parked_done != NULL and not fz_load(&r.se.destroyed):
        r.se.ops.parked_done(r.se.fs, r.rq.unique)
    fz_store64(&r.w.current, 0)         # before the answer: then an INTERRUPT of it finds nobody, and ENOENT is right
    if send_reply(r, err) < 0:
        fz_bump(&r.w.reply_errors, 1)
        fz_order64(&r.w.current, r.h.unique)
        if err == 0 and r.entry_nodeid != 0 and r.se.ops.forget != NULL and not fz_load(&r.se.destroyed):
            r.se.ops.forget(r.se.fs, r.entry_nodeid, 1)
    count(r, err)


cdef void serve(worker* w, uint8_t* msg, uint32_t length, int fd, parked* node) noexcept nogil:
    cdef request r
    r.h = <fuse_in_header*>msg
    if length < sizeof(fuse_in_header) or r.h.len != length:
        fz_bump(&w.se.n_malformed, 1)
        if length >= 16 and r.h.opcode != FUSE_FORGET and r.h.opcode != FUSE_BATCH_FORGET:
            send_error(fd, r.h.unique, -EIO)
        return
    r.se = w.se
    r.w = w
    r.fd = fd
    r.node = node
    r.arg = msg + sizeof(fuse_in_header)
    r.arg_len = length - <uint32_t>sizeof(fuse_in_header)
    r.out = w.out
    r.out_cap = w.out_cap
    r.out_len = 0
    r.entry_nodeid = 0
    r.rq.unique = r.h.unique
    r.rq.uid = r.h.uid
    r.rq.gid = r.h.gid
    r.rq.pid = r.h.pid
    r.rq.umask = 0
    r.rq.worker = <uint32_t>w.index
    r.rq.interrupted = 0 if node == NULL else node.interrupted
    r.rq.runs = 0 if node == NULL else node.runs
    r.rq.priv = w.se
    r.rq.has_sup = False
    r.rq.kill_suidgid = False
    r.rq.kernel_times = False
    r.rq.sup_gid = 0
    r.rq.waited = False
    w.started_ns = now_ns()
    w.nodeid = r.h.nodeid
    w.opcode = r.h.opcode
    w.pid = r.h.pid
    fz_bump(&w.served, 1)
    fz_order64(&w.current, r.h.unique)
    if fz_load(&w.se.sentinel_asleep):
        wake_sentinel(w.se)
    run(&r)
    fz_store64(&w.current, 0)
    if w.blocking:
        worker_unblocks()
    elif r.rq.waited and not w.runner:
        look_behind(w)
    if r.node != NULL:
        free_parked(r.node)


cdef bint run_one(worker* w) noexcept nogil:
    """Serve the oldest request of the run queue, if there is one."""
    cdef session* se = w.se
    cdef parked* p
    pthread_mutex_lock(&se.mutex)
    p = se.run_head
    if p != NULL:
        se.run_head = p.next
        if p.next == NULL:
            se.run_tail = NULL
        fz_store64(&w.current, p.unique)    # before it leaves the queue: DESTROY must see it somewhere
        fz_add(&se.n_runnable, -1)
    pthread_mutex_unlock(&se.mutex)
    if p == NULL:
        return False
    serve(w, p.msg, p.len, p.fd, p)
    return True


# ---- threads -------------------------------------------------------------------------------------------------

cdef void leave(worker* w) noexcept nogil:
    """The connection is gone: the others leave too, and the last one ends the session."""
    cdef session* se = w.se
    fz_store(&se.stopping, 1)
    session_unpark_all(se, True)
    pthread_mutex_lock(&se.mutex)
    pthread_cond_broadcast(&se.standby_cond)
    pthread_cond_broadcast(&se.sentinel_cond)
    if not w.runner:
        se.live -= 1
        if se.live == 0:
            fz_store(&se.state, S_ENDED)
            pthread_cond_broadcast(&se.run_cond)
            pthread_cond_broadcast(&se.state_cond)
            signal_python(se)
    pthread_mutex_unlock(&se.mutex)


cdef void* worker_main(void* arg) noexcept nogil:
    cdef worker* w = <worker*>arg
    cdef session* se = w.se
    cdef ssize_t n
    pthread_setname_np(pthread_self(), "gfs2d-worker")
    fz_set_self(w)
    wait_adopt(&w.wait)
    w.tid = <uint32_t>gettid()
    while not fz_load(&se.stopping):
        if fz_load(&se.n_active) > fz_load(&se.target):
            stand_by(se)
            continue
        n = read(w.fd, w.inbuf, w.incap)
        if n > 0:
            serve(w, w.inbuf, <uint32_t>n, w.fd, NULL)
            while fz_load(&se.n_runnable) > 0 and run_one(w):
                pass
        elif n == 0 or (errno != EINTR and errno != EAGAIN and errno != ENOENT):
            break               # ENODEV: unmounted or aborted
    leave(w)
    return NULL


cdef void stand_by(session* se) noexcept nogil:
    """Wait until one more reader is wanted, if there is still one too many."""
    pthread_mutex_lock(&se.mutex)
    if se.n_active > se.target and not se.stopping:
        fz_add(&se.n_active, -1)
        se.n_standby += 1
        while se.tickets == 0 and not se.stopping:
            pthread_cond_wait(&se.standby_cond, &se.mutex)
        se.n_standby -= 1
        if se.tickets > 0:
            se.tickets -= 1         # whoever gave the ticket counted us as active again
    pthread_mutex_unlock(&se.mutex)


cdef void fill_up(session* se) noexcept nogil:
    """Bring in readers up to the target: from stand-by, else new ones. se.mutex is held."""
    while se.n_active < se.target and not se.stopping:
        if se.n_standby > se.tickets:
            se.tickets += 1
            fz_add(&se.n_active, 1)
            pthread_cond_signal(&se.standby_cond)
        elif se.n_workers >= se.max_workers or add_thread(se, False) < 0:
            break


cdef void worker_blocks() noexcept nogil:
    cdef worker* w = <worker*>fz_get_self()
    if w == NULL or w.runner or w.blocking:
        return
    w.blocking = True
    pthread_mutex_lock(&w.se.mutex)
    fz_add(&w.se.n_active, -1)
    fill_up(w.se)
    pthread_mutex_unlock(&w.se.mutex)


cdef void look_behind(worker* w) noexcept nogil:
    """The request waited for the device. If others are pending now, one more reader has them wait at the same time."""
    cdef session* se = w.se
    cdef pollfd p
    p.fd = w.fd
    p.events = POLLIN
    p.revents = 0
    if fz_load(&se.target) >= se.max_workers or poll(&p, 1, 0) != 1 or not (p.revents & POLLIN):
        return
    pthread_mutex_lock(&se.mutex)
    if se.target < se.max_workers:
        fz_store(&se.target, se.target + 1)
    fill_up(se)
    pthread_mutex_unlock(&se.mutex)


cdef void worker_unblocks() noexcept nogil:
    cdef worker* w = <worker*>fz_get_self()
    if w == NULL or not w.blocking:
        return
    w.blocking = False
    fz_add(&w.se.n_active, 1)


# ---- the sentinel ----------------------------------------------------------------------------------------------

cdef struct look:
    uint64_t served             # requests taken by all workers
    int readers, busy, stalled


cdef void look_around(session* se, look* at) noexcept nogil:
    cdef uint64_t now = now_ns()
    cdef worker* w
    cdef int i
    memset(at, 0, sizeof(look))
    for i in range(MAX_THREADS):
        w = se.workers[i]
        if w == NULL:
            continue
        at.served += fz_load64(&w.served)
        if w.runner or w.blocking:
            continue
        if fz_load64(&w.current) != 0:
            at.busy += 1
            if now > w.started_ns + STALL_NS:
                at.stalled += 1


cdef void* sentinel_main(void* arg) noexcept nogil:
    cdef session* se = <session*>arg
    cdef look at
    cdef uint64_t seen = 0
    cdef int quiet = 0
    cdef int calm = 0
    cdef int full = 0
    cdef int limit = se.n_cpus // 2 if se.n_cpus > 1 else 1
    pthread_setname_np(pthread_self(), "gfs2d-sentinel")
    while not fz_load(&se.stopping):
        look_around(se, &at)
        quiet = quiet + 1 if at.served == seen and at.busy == 0 else 0
        idle_poll_tick(se, at.served - seen)
        seen = at.served
        full = full + 1 if at.busy >= se.n_active else 0
        if at.stalled > 0 and at.stalled >= se.n_active:
            pthread_mutex_lock(&se.mutex)
            se.n_stalls += 1
            if se.target < se.max_workers:
                fz_store(&se.target, se.target + 1)
            fill_up(se)
            pthread_mutex_unlock(&se.mutex)
            calm = 0
        elif full >= SATURATED_TICKS and se.target < limit:
            pthread_mutex_lock(&se.mutex)
            fz_store(&se.target, se.target + 1)
            fill_up(se)
            pthread_mutex_unlock(&se.mutex)
            full = 0
            calm = 0
        elif se.target > 1 and at.busy < se.target:
            calm += 1
            if calm >= CALM_TICKS:
                fz_store(&se.target, se.target - 1)
                calm = 0
        if quiet >= QUIET_TICKS:
            idle_poll_release(se)
            sentinel_sleep(se)
            quiet = 0
        else:
            sleep_us(TICK_US)
    idle_poll_release(se)
    return NULL


cdef void sentinel_sleep(session* se) noexcept nogil:
    """Until a worker takes a request; it looks at sentinel_asleep after it has said that it is busy."""
    cdef look at
    pthread_mutex_lock(&se.mutex)
    fz_store(&se.sentinel_asleep, 1)
    fz_fence()
    look_around(se, &at)
    while at.busy == 0 and fz_load(&se.sentinel_asleep) and not se.stopping:
        pthread_cond_wait(&se.sentinel_cond, &se.mutex)
    fz_store(&se.sentinel_asleep, 0)
    pthread_mutex_unlock(&se.mutex)


cdef void wake_sentinel(session* se) noexcept nogil:
    pthread_mutex_lock(&se.mutex)
    fz_store(&se.sentinel_asleep, 0)
    pthread_cond_signal(&se.sentinel_cond)
    pthread_mutex_unlock(&se.mutex)


cdef void* runner_main(void* arg) noexcept nogil:
    cdef worker* w = <worker*>arg
    cdef session* se = w.se
    pthread_setname_np(pthread_self(), "gfs2d-runner")
    wait_adopt(&w.wait)
    w.tid = <uint32_t>gettid()
    while True:
        pthread_mutex_lock(&se.mutex)
        while se.run_head == NULL and not se.stopping:
            se.runners_idle += 1
            pthread_cond_wait(&se.run_cond, &se.mutex)
            se.runners_idle -= 1
        if se.run_head == NULL:
            pthread_mutex_unlock(&se.mutex)
            break
        pthread_mutex_unlock(&se.mutex)
        run_one(w)
    return NULL


cdef int add_thread(session* se, bint runner) noexcept nogil:
    """Make one more worker or runner; se.mutex is held."""
    cdef worker* w
    cdef pthread_attr_t attr
    cdef sigset_t full, old
    cdef int i = 0
    cdef int err
    while i < MAX_THREADS and se.workers[i] != NULL:
        i += 1
    if i == MAX_THREADS or se.stopping:
        return -EAGAIN
    w = new_worker(se, runner)
    if w == NULL:
        return -ENOMEM
    w.index = i
    if not runner:
        w.fd = open_clone(se)
        if w.fd < 0:
            err = w.fd
            free_worker(w)
            return err
    # Signals belong to Python's thread; only the kick gets through.
    sigfillset(&full)
    sigdelset(&full, kick_signal)
    pthread_sigmask(SIG_SETMASK, &full, &old)
    pthread_attr_init(&attr)
    pthread_attr_setstacksize(&attr, STACK_BYTES)
    se.workers[i] = w
    if runner:
        se.n_runners += 1
        err = pthread_create(&w.thread, &attr, runner_main, w)
    else:
        se.n_workers += 1
        se.live += 1
        fz_add(&se.n_active, 1)
        err = pthread_create(&w.thread, &attr, worker_main, w)
    pthread_attr_destroy(&attr)
    pthread_sigmask(SIG_SETMASK, &old, NULL)
    if err != 0:
        se.workers[i] = NULL
        if runner:
            se.n_runners -= 1
        else:
            se.n_workers -= 1
            se.live -= 1
            fz_add(&se.n_active, -1)
        free_worker(w)
    return -err


cdef int workers_start(session* se, int first) noexcept nogil:
    global kick_signal
    cdef sigaction_t sa
    cdef int i
    cdef int err = 0
    kick_signal = SIGRTMIN + 3
    memset(&sa, 0, sizeof(sa))
    sa.sa_handler = on_kick
    sigaction(kick_signal, &sa, NULL)           # no SA_RESTART: read(2) shall end
    pthread_mutex_lock(&se.mutex)
    for i in range(first):
        err = add_thread(se, False)
        if err < 0:
            break
    if se.n_workers > 0:
        err = add_sentinel(se)
    pthread_mutex_unlock(&se.mutex)
    return err


cdef int add_sentinel(session* se) noexcept nogil:
    cdef sigset_t full, old
    cdef int err
    sigfillset(&full)
    pthread_sigmask(SIG_SETMASK, &full, &old)
    err = pthread_create(&se.sentinel, NULL, sentinel_main, se)
    pthread_sigmask(SIG_SETMASK, &old, NULL)
    se.has_sentinel = err == 0
    return -err


cdef void workers_stop(session* se) noexcept nogil:
    cdef int i
    cdef worker* w
    cdef bint left = True
    fz_store(&se.stopping, 1)
    session_unpark_all(se, True)
    while left:
        pthread_mutex_lock(&se.mutex)
        left = se.live > 0
        pthread_cond_broadcast(&se.run_cond)
        pthread_cond_broadcast(&se.state_cond)
        pthread_cond_broadcast(&se.standby_cond)
        pthread_cond_broadcast(&se.sentinel_cond)
        for i in range(MAX_THREADS):
            w = se.workers[i]
            if left and w != NULL and not w.runner:
                pthread_kill(w.thread, kick_signal)
        pthread_mutex_unlock(&se.mutex)
        if left:
            sleep_us(1000)


cdef void workers_free(session* se) noexcept nogil:
    cdef int i
    cdef worker* w
    cdef parked* p
    fz_store(&se.stopping, 1)
    session_unpark_all(se, True)
    pthread_mutex_lock(&se.mutex)
    pthread_cond_broadcast(&se.run_cond)
    pthread_cond_broadcast(&se.sentinel_cond)
    pthread_mutex_unlock(&se.mutex)
    for i in range(MAX_THREADS):
        if se.workers[i] != NULL and not se.workers[i].joined:
            pthread_join(se.workers[i].thread, NULL)
            se.workers[i].joined = True
    if se.has_sentinel:
        pthread_join(se.sentinel, NULL)
        se.has_sentinel = False
    session_destroy_fs(se, NULL)
    for i in range(MAX_THREADS):
        w = se.workers[i]
        if w != NULL and w.fd >= 0:
            close(w.fd)
            w.fd = -1
    while se.run_head != NULL:
        p = se.run_head
        se.run_head = p.next
        free_parked(p)
    se.run_tail = NULL


cdef void workers_forget(session* se) noexcept nogil:
    """Give the threads' memory back; their statistics go with it."""
    cdef int i
    for i in range(MAX_THREADS):
        if se.workers[i] != NULL:
            free_worker(se.workers[i])
            se.workers[i] = NULL
