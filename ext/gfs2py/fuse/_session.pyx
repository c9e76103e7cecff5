"""A FUSE session: INIT negotiated, threads started, statistics read, an orderly end.

The caller (gfs2py.fuse.mount) opens /dev/fuse and mounts it; the session serves that descriptor. Nothing on the way
of a request is here: see _worker.pyx and _dispatch.pyx.
"""
import os
import select

from libc.errno cimport EINTR, EIO, ENODEV, ENOMEM, EPROTO
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from gfs2py.fuse._dispatch cimport op_name
from gfs2py.fuse._locks cimport locktab_counts, locktab_free, locktab_new
from gfs2py.fuse._notify cimport (notify_start, notify_stop, session_kernel, session_notify_delete,
                                  session_notify_inc_epoch, session_notify_inval_entry, session_notify_inval_inode,
                                  session_notify_prune, session_notify_store)
from gfs2py.fuse._ops cimport FileSystemHandle, fs_kernel
from gfs2py.fuse._proto cimport *
from gfs2py.fuse._stat cimport HIST_BUCKETS, hist, hist_dict, wait_dict
from gfs2py.fuse._state cimport MAX_THREADS, S_ENDED, S_NEW, S_RUNNING, op_stat, parked, session, worker
from gfs2py.fuse._sys cimport *
from gfs2py.fuse._worker cimport (session_unpark, session_unpark_all, wake_request, workers_forget, workers_free,
                                  workers_start, workers_stop)

cdef enum:
    INIT_BUF = 65536
    IN_FLIGHT_MAX = 1000        # requests listed at once
    PAGE = 4096

# What we ask for whenever the kernel offers it; options add WRITEBACK_CACHE and POSIX_ACL.
cdef uint32_t BASE_FLAGS = (FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES
                            | FUSE_DONT_MASK | FUSE_FLOCK_LOCKS | FUSE_HAS_IOCTL_DIR | FUSE_DO_READDIRPLUS
                            | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES
                            | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT)
cdef uint32_t BASE_FLAGS2 = F2_CREATE_SUPP_GROUP | F2_HAS_EXPIRE_ONLY | F2_DIRECT_IO_ALLOW_MMAP


cdef int negotiate(session* se, const uint8_t* msg, ssize_t n, uint8_t* out) noexcept nogil:
    """Answer INIT into `out` (header and body). Returns the answer's length or -errno.

    max_pages may exceed what the kernel allows (fs.fuse.max_pages_limit): it takes the smaller one, and so do we,
    as its limit shows in no message: the requests it sends just are not longer.
    """
    cdef const fuse_in_header* h = <const fuse_in_header*>msg
    cdef const fuse_init_in* a = <const fuse_init_in*>(msg + sizeof(fuse_in_header))
    cdef fuse_out_header* oh = <fuse_out_header*>out
    cdef fuse_init_out* o = <fuse_init_out*>(out + sizeof(fuse_out_header))
    if n < <ssize_t>sizeof(fuse_in_header) + 16 or h.opcode != FUSE_INIT or h.len != <uint32_t>n:
        return -EPROTO
    memset(out, 0, sizeof(fuse_out_header) + INIT_OUT_SIZE)
    oh.unique = h.unique
    o.major = PROTO_MAJOR
    if a.major > PROTO_MAJOR:
        oh.len = <uint32_t>sizeof(fuse_out_header) + INIT_OUT_SIZE      # the kernel asks again with our major
        return <int>oh.len
    if a.major < PROTO_MAJOR or a.minor < PROTO_MINOR_MIN:
        return -EPROTO
    se.kernel_minor = a.minor
    se.minor = a.minor if a.minor < PROTO_MINOR else PROTO_MINOR
    se.kernel_flags = a.flags
    if a.flags & FUSE_INIT_EXT and n >= <ssize_t>sizeof(fuse_in_header) + 20:
        se.kernel_flags2 = a.flags2
    se.flags = se.want_flags & se.kernel_flags
    se.flags2 = se.want_flags2 & se.kernel_flags2
    if a.flags & FUSE_INIT_EXT:
        se.flags |= FUSE_INIT_EXT
    o.minor = PROTO_MINOR
    o.max_readahead = se.max_readahead if se.max_readahead < a.max_readahead else a.max_readahead
    o.flags = se.flags
    o.flags2 = se.flags2
    o.max_background = <uint16_t>se.max_background
    o.congestion_threshold = <uint16_t>se.congestion
    o.max_write = se.max_write
    o.max_pages = <uint16_t>se.max_pages
    o.time_gran = 1
    oh.len = <uint32_t>sizeof(fuse_out_header) + INIT_OUT_SIZE
    return <int>oh.len


cdef int do_init(session* se) noexcept nogil:
    """Read INIT and answer it; blocks until the kernel (or a test) has sent it."""
    cdef uint8_t* buf = <uint8_t*>malloc(INIT_BUF)
    cdef uint8_t out[256]
    cdef fuse_out_header refuse
    cdef ssize_t n
    cdef int length = 0
    cdef int err = 0
    if buf == NULL:
        return -ENOMEM
    while se.kernel_minor == 0 and err == 0:
        n = read(se.fd, buf, INIT_BUF)
        if n < 0 and errno == EINTR and not fz_load(&se.stopping):
            continue
        if n <= 0:
            err = -errno if n < 0 else -ENODEV
            break
        length = negotiate(se, buf, n, out)
        if length < 0:
            if n >= <ssize_t>sizeof(fuse_in_header):
                refuse.len = sizeof(fuse_out_header)
                refuse.error = length
                refuse.unique = (<fuse_in_header*>buf).unique
                write(se.fd, &refuse, sizeof(refuse))
            err = length
        elif write(se.fd, out, <size_t>length) < 0:
            err = -errno
    free(buf)
    return err


cdef session* new_session(int fd) noexcept nogil:
    cdef session* se = <session*>calloc(1, sizeof(session))
    cdef pthread_condattr_t ca
    if se == NULL:
        return NULL
    se.fd = fd
    se.locks = locktab_new(wake_request, se)
    se.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if se.locks == NULL or se.event_fd < 0:
        locktab_free(se.locks)
        free(se)
        return NULL
    pthread_mutex_init(&se.mutex, NULL)
    pthread_cond_init(&se.run_cond, NULL)
    pthread_cond_init(&se.state_cond, NULL)
    pthread_cond_init(&se.standby_cond, NULL)
    pthread_cond_init(&se.sentinel_cond, NULL)
    se.target = 1
    se.idle_fd = -1
    pthread_mutex_init(&se.nq_mutex, NULL)
    pthread_cond_init(&se.nq_cond, NULL)
    pthread_cond_init(&se.nq_idle, NULL)
    return se


cdef str _op_text(uint32_t op):
    cdef const char* name = op_name(op)
    return name.decode() if name != NULL else f"OP_{op}"


cdef int _add_parked(list out, parked* p, uint64_t now, uint64_t min_age_ns, str state) except -1:
    """A request put away, if it is old enough; the session's mutex is held."""
    cdef fuse_in_header* h = <fuse_in_header*>p.msg
    if now >= p.since_ns + min_age_ns:
        out.append({"unique": p.unique, "opcode": _op_text(h.opcode), "node": h.nodeid, "pid": h.pid,
                    "age_ns": now - p.since_ns, "state": state, "tid": 0, "waits_for": None})
    return 0


cdef class Session:
    """Serves one mount. start() negotiates and returns when requests are being served; wait() sees the end.

    `fd` is an open and mounted /dev/fuse (the session closes it), or for tests one end of a SOCK_SEQPACKET pair
    with clone=False. `threads` is the largest number of workers (default 2 per core + 2, at least 8).
    max_write_bytes, max_readahead_bytes: what is asked for; the kernel may give less. `idle_poll` keeps idle processors
    from halting while requests flow, where /dev/cpu_dma_latency may be opened. `local_locks`: the kernel keeps file
    locks to itself and sends no FLUSH at close.
    """

    def __cinit__(self, FileSystemHandle handle not None, int fd, *, bint writeback=False, bint acl=False,
                  int threads=0, uint32_t max_write_bytes=1 << 20, uint32_t max_readahead_bytes=4 << 20,
                  bint clone=True, bint hold_destroy=False, bint idle_poll=False,
                  bint local_locks=False):
        if handle.ops == NULL:
            raise ValueError("the file system handle has no operations")
        if max_write_bytes < PAGE or max_write_bytes > 64 << 20 or max_write_bytes % PAGE:
            raise ValueError("max_write_bytes must be a multiple of 4096 up to 64 MiB")
        if threads < 0 or threads > MAX_THREADS // 2:
            raise ValueError(f"threads must be 0 to {MAX_THREADS // 2}")
        self.handle = handle
        self.se = new_session(fd)
        if self.se == NULL:
            raise MemoryError("no memory or descriptors for a FUSE session")
        self.se.ops = handle.ops
        self.se.fs = handle.fs
        self.se.cloned = clone
        self.se.hold_destroy = hold_destroy
        self.se.idle_poll = idle_poll
        self.se.want_flags = BASE_FLAGS
        self.se.local_locks = local_locks
        if local_locks:
            self.se.want_flags &= ~<uint32_t>(FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS)
        if writeback:
            self.se.want_flags |= FUSE_WRITEBACK_CACHE
        if acl:
            self.se.want_flags |= FUSE_POSIX_ACL
        if handle.ops.attach_kernel != NULL:
            # The kernel takes the inodes of an answer to READDIRPLUS one by one, and on the way waits for any name
            # that another process is looking up (fs/fuse/readdir.c, d_alloc_parallel). That LOOKUP may be parked for a
            # node that waits for an inode further on, which cannot be taken back before the kernel has it.
            self.se.want_flags &= ~<uint32_t>(FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO)
        self.se.want_flags2 = BASE_FLAGS2
        self.se.max_write = max_write_bytes
        self.se.max_pages = max_write_bytes // PAGE
        self.se.buf_len = max_write_bytes + PAGE
        self.se.max_readahead = max_readahead_bytes
        # Background requests that wait for a cluster lock must not keep those back that another node waits for.
        self.se.max_background = 4096 if handle.ops.attach_kernel != NULL else 64
        self.se.congestion = self.se.max_background // 4 * 3
        self.se.max_workers = threads or max(8, 2 * (os.cpu_count() or 1) + 2)
        self.se.n_cpus = os.cpu_count() or 1
        self.se.max_runners = min(8, self.se.max_workers)

    def start(self):
        """Negotiate INIT and start the first workers. Raises OSError."""
        cdef session* se = self.se
        cdef fs_kernel kernel
        cdef int err
        if self.started:
            raise ValueError("session was started before")
        self.started = True
        with nogil:
            err = do_init(se)
        if err < 0:
            raise OSError(-err, "FUSE negotiation with the kernel failed: " + os.strerror(-err))
        if se.ops.init != NULL:
            with nogil:
                se.ops.init(se.fs)
        if se.ops.attach != NULL:
            se.ops.attach(se.fs, wake_request, se)
        err = notify_start(se)
        if err == 0 and se.ops.attach_kernel != NULL:
            session_kernel(se, &kernel)
            se.ops.attach_kernel(se.fs, &kernel)
        if err == 0:
            se.state = S_RUNNING
            with nogil:
                err = workers_start(se, 1)
        if err < 0:
            raise OSError(-err, "cannot start FUSE worker threads: " + os.strerror(-err))

    @property
    def event_fd(self):
        """Readable when `destroying` or `ended` may have changed."""
        return self.se.event_fd

    @property
    def ended(self):
        """The connection is gone and all workers have left."""
        return fz_load(&self.se.state) == S_ENDED

    @property
    def destroying(self):
        """The kernel has sent DESTROY, everything is drained, and it waits for destroy_done()."""
        return self.se.destroy == 1

    def destroy_done(self):
        """Answer the DESTROY: umount(2) returns."""
        pthread_mutex_lock(&self.se.mutex)
        self.se.destroy = 2
        pthread_cond_broadcast(&self.se.state_cond)
        pthread_mutex_unlock(&self.se.mutex)

    def wait(self, timeout=None):
        """Wait at most `timeout` seconds for the event descriptor; True when the session has ended."""
        if not self.ended and not self.destroying:
            select.select([self.se.event_fd], [], [], timeout)
        if not self.ended:
            try:
                os.read(self.se.event_fd, 8)
            except BlockingIOError:
                pass
        return self.ended

    def close(self):
        """Stop the threads (aborting the connection if it is still up) and free everything but the counters."""
        cdef session* se = self.se
        if self.closed:
            return
        self.closed = True
        with nogil:
            workers_stop(se)
            workers_free(se)
            notify_stop(se)
        close(se.fd)

    def __dealloc__(self):
        cdef session* se = self.se
        if se == NULL:
            return
        if not self.closed:
            with nogil:
                workers_stop(se)
                workers_free(se)
                notify_stop(se)
            close(se.fd)
        workers_forget(se)
        locktab_free(se.locks)
        close(se.event_fd)
        free(se)

    def unpark(self, uint64_t unique):
        """Run a parked request again."""
        session_unpark(self.se, unique)

    def unpark_all(self, bint interrupted=False):
        """Run all parked requests again; returns how many."""
        return session_unpark_all(self.se, interrupted)

    def notify(self, str kind, uint64_t ino=0, *, int64_t off=0, int64_t length=0, bytes name=b"", uint64_t child=0,
               bytes data=b""):
        """Queue a notification: inval_inode, inval_entry, expire_entry, delete, prune, inc_epoch, store."""
        cdef int err
        if kind == "inval_inode":
            err = session_notify_inval_inode(self.se, ino, off, length, NULL, NULL)
        elif kind == "inval_entry" or kind == "expire_entry":
            err = session_notify_inval_entry(self.se, ino, name, <uint32_t>len(name), kind == "expire_entry",
                                             NULL, NULL)
        elif kind == "delete":
            err = session_notify_delete(self.se, ino, child, name, <uint32_t>len(name), NULL, NULL)
        elif kind == "prune":
            err = session_notify_prune(self.se, ino, NULL, NULL)
        elif kind == "inc_epoch":
            err = session_notify_inc_epoch(self.se, NULL, NULL)
        elif kind == "store":
            err = session_notify_store(self.se, ino, <uint64_t>off, data, <uint32_t>len(data), NULL, NULL)
        else:
            raise ValueError(f"unknown notification {kind!r}")
        if err < 0:
            raise OSError(-err, f"notification {kind} refused: " + os.strerror(-err))

    def notify_drain(self):
        """Wait until everything queued has been written."""
        cdef session* se = self.se
        with nogil:
            pthread_mutex_lock(&se.nq_mutex)
            while (se.nq_len > 0 or se.nq_busy > 0) and not se.stopping:
                pthread_cond_wait(&se.nq_idle, &se.nq_mutex)
            pthread_mutex_unlock(&se.nq_mutex)

    cdef dict opcode_statistics(self):
        cdef int i, op, b
        cdef hist total
        cdef uint64_t errors, amount
        cdef op_stat* s
        out = {}
        for op in range(OP_LIMIT):
            memset(&total, 0, sizeof(total))
            errors = 0
            amount = 0
            for i in range(MAX_THREADS):
                if self.se.workers[i] == NULL:
                    continue
                s = &self.se.workers[i].stats[op]
                if s.took.count == 0:
                    continue
                total.count += s.took.count
                total.ns += s.took.ns
                total.max_ns = max(total.max_ns, s.took.max_ns)
                errors += s.errors
                amount += s.bytes
                for b in range(HIST_BUCKETS):
                    total.buckets[b] += s.took.buckets[b]
            if total.count:
                out[_op_text(<uint32_t>op)] = hist_dict(&total) | {"errors": errors, "bytes": amount}
        return out

    def in_flight(self, uint64_t min_age_ns=0):
        """Requests in a worker's hands, waiting for one, or parked, for that long at least; oldest first.

        Each: unique, opcode, node, pid, age_ns, state (running, queued, parked), tid (of the
        worker's thread, 0: none), waits_for (kind, what, ns) or None.
        """
        cdef session* se = self.se
        cdef uint64_t now = now_ns()
        cdef worker* w
        cdef parked* p
        cdef int i
        cdef uint64_t unique, since
        out = []
        for i in range(MAX_THREADS):
            w = se.workers[i]
            if w == NULL:
                continue
            unique = fz_load64(&w.current)
            since = w.started_ns
            if unique == 0 or now < since + min_age_ns:
                continue
            one = {"unique": unique, "opcode": _op_text(w.opcode), "node": w.nodeid, "pid": w.pid,
                   "age_ns": max(0, <int64_t>(now - since)), "state": "running", "tid": w.tid,
                   "waits_for": wait_dict(&w.wait)}
            if fz_load64(&w.current) == unique:
                out.append(one)
        pthread_mutex_lock(&se.mutex)
        p = se.parked_list
        while p != NULL and len(out) < IN_FLIGHT_MAX:
            _add_parked(out, p, now, min_age_ns, "parked")
            p = p.next
        p = se.run_head
        while p != NULL and len(out) < IN_FLIGHT_MAX:
            _add_parked(out, p, now, min_age_ns, "queued")
            p = p.next
        pthread_mutex_unlock(&se.mutex)
        out.sort(key=lambda one: -one["age_ns"])
        return out

    def statistics(self):
        """Counters of the session; per opcode a histogram (see hist_dict), errors and bytes."""
        cdef uint64_t locks = 0
        cdef uint64_t waiters = 0
        cdef uint64_t inodes = 0
        cdef uint64_t reply_errors = 0
        cdef int i
        locktab_counts(self.se.locks, &locks, &waiters, &inodes)
        for i in range(MAX_THREADS):
            if self.se.workers[i] != NULL:
                reply_errors += self.se.workers[i].reply_errors
        return {"workers": self.se.n_workers, "runners": self.se.n_runners, "readers": self.se.n_active,
                "readers_wanted": self.se.target, "stalls": self.se.n_stalls, "parked": self.se.n_parked,
                "parks": self.se.n_parks, "interrupts": self.se.n_interrupts, "malformed": self.se.n_malformed,
                "reply_errors": reply_errors, "locks": locks, "lock_waiters": waiters,
                "notifications": self.se.n_notices, "notification_errors": self.se.n_notice_errors,
                "idle_poll": bool(self.se.idle_poll), "idle_polls": self.se.n_idle_polls,
                "idle_poll_ns": self.idle_poll_ns(),
                "opcodes": self.opcode_statistics()}

    cdef uint64_t idle_poll_ns(self):
        """How long idle processors have been kept from halting, the present time included."""
        cdef uint64_t since = self.se.idle_since_ns
        cdef uint64_t ns = self.se.idle_ns
        return ns + now_ns() - since if self.se.idle_fd >= 0 else ns

    def protocol(self):
        """What was negotiated."""
        return {"minor": self.se.minor, "kernel_minor": self.se.kernel_minor, "flags": self.se.flags,
                "flags2": self.se.flags2, "kernel_flags": self.se.kernel_flags,
                "kernel_flags2": self.se.kernel_flags2, "max_write": self.se.max_write}

    def oldest_request_ns(self):
        """How long the longest running request has been in a worker's hands, 0 when all are idle."""
        cdef uint64_t now = now_ns()
        cdef uint64_t oldest = now
        cdef int i
        for i in range(MAX_THREADS):
            if self.se.workers[i] != NULL and fz_load64(&self.se.workers[i].current) != 0:
                if self.se.workers[i].started_ns < oldest:
                    oldest = self.se.workers[i].started_ns
        return now - oldest
