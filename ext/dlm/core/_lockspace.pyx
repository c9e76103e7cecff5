"""The edge of the machine for Python, and what compiled transports need.

A lock that Python takes has a py_lock: its status block, its value, and where its calls go, which is the event queue of
the lockspace; take_events() drains that. It lives until the event that ends the lock has been taken.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from dlm.core._base cimport E_INVAL, E_NOENT, dl_empty, dlink, pthread_mutex_lock, pthread_mutex_unlock
from dlm.core._dir cimport expire_tossed
from dlm.core._engine cimport (EV_BAST, EV_CAST, EV_RECOVER_FAILED, EV_RECOVER_PREP, EV_RECOVER_SLOT,
                               LKB_DEADLOCK_CANCEL, LKF_CANCEL, LKF_CONVERT, LKF_VALBLK, MODE_IV, NODES_MAX,
                               RSB_VALNOTVALID, STS_CONVERT, STS_WAITING, dlm_bast_fn, dlm_event, dlm_lkb, dlm_node,
                               dlm_rsb, dlm_slot, dlm_wake_fn, is_master_copy, is_process_copy)
from dlm.core._grant cimport in_the_way
from dlm.core._lock cimport dlm_lock, dlm_unlock
from dlm.core._receive cimport receive_message
from dlm.core._recoverd cimport receive_rcom, recovery_start, recovery_stop, recovery_tick, recovery_timer
from dlm.core._send cimport take_packets
from dlm.core._table cimport add_event, find_lkb, ls_create, ls_destroy, ls_enter, ls_leave
from dlm.core._wire cimport CMD_MSG, LVB_MAX, wire_command, wire_parse_msg, wire_parse_rcom, wire_reason, wmsg, wrcom

from operator import attrgetter

from dlm.core.errors import DlmError, RemoteProtocolError
from dlm.core.events import (Bast, Cast, LockDump, RecoverDone, RecoverFailed, RecoverPrep, RecoverSlot, ResourceDump,
                             Statistics)
from dlm.core.packets import Slot

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* data, size_t size)

cdef extern from "<string.h>" nogil:
    char* strerror(int error)

# Order of the phases in _engine.pxd.
PHASES = ("running", "stopped", "ping", "nodes", "names", "dir", "masters", "locks", "locks_wait", "done_wait",
          "failed")
QUEUES = ("none", "waiting", "granted", "convert")

cdef enum:
    # What one lock waits for, as far as blockers() tells.
    BLOCKERS_MAX = 1024

# What dump() copies while it holds the mutex: a resource, its value, and how many locks follow it.
cdef struct rsb_copy:
    dlm_rsb r
    uint32_t n_locks
    uint8_t value[LVB_MAX]


# ---- for compiled callers

cdef int dlm_receive(dlm_ls* ls, int32_t nodeid, const uint8_t* data, size_t size, int64_t now_ns) noexcept nogil:
    cdef wmsg m
    cdef wrcom rc
    cdef int bad
    cdef int cmd = wire_command(data, size)
    if cmd < 0:
        return -cmd
    bad = wire_parse_msg(data, size, &m) if cmd == CMD_MSG else wire_parse_rcom(data, size, &rc)
    if bad:
        return bad
    ls_enter(ls)
    if now_ns > ls.now_ns:
        ls.now_ns = now_ns
    if ls.broken or nodeid != (m.from_nodeid if cmd == CMD_MSG else rc.from_nodeid) or ls.global_id != (
            m.lockspace if cmd == CMD_MSG else rc.lockspace):
        ls.stats.refused += 1
    elif cmd == CMD_MSG:
        receive_message(ls, &m, data, <uint32_t>size)
    else:
        receive_rcom(ls, &rc)
    ls_leave(ls)
    return 0


cdef dlm_packet* dlm_take_output(dlm_ls* ls, int32_t nodeid) noexcept nogil:
    cdef dlm_packet* first
    pthread_mutex_lock(&ls.mutex)
    first = take_packets(ls, nodeid)
    pthread_mutex_unlock(&ls.mutex)
    return first


cdef void dlm_free_packets(dlm_packet* first) noexcept nogil:
    cdef dlm_packet* next
    while first != NULL:
        next = first.next
        free(first)
        first = next


cdef void dlm_set_wake(dlm_ls* ls, dlm_wake_fn fn, void* arg) noexcept nogil:
    pthread_mutex_lock(&ls.mutex)
    ls.wake_fn = fn
    ls.wake_arg = arg
    pthread_mutex_unlock(&ls.mutex)


cdef int64_t dlm_tick(dlm_ls* ls, int64_t now_ns) noexcept nogil:
    cdef int64_t toss, recovery
    ls_enter(ls)
    if now_ns > ls.now_ns:
        ls.now_ns = now_ns
    recovery_tick(ls)
    toss = expire_tossed(ls)
    recovery = recovery_timer(ls)
    ls_leave(ls)
    if toss == 0 or (recovery and recovery < toss):
        return recovery
    return toss


# ---- calls of locks that Python took

cdef dlm_event* lock_event(py_lock* p, int kind) noexcept nogil:
    """With the mutex held. The value goes along: it may change before the event is taken."""
    cdef dlm_event* ev = add_event(p.ls, kind, p.ls.lvblen)
    if ev != NULL:
        ev.lkid = p.lksb.sb_lkid
        ev.cookie = p.cookie
        memcpy(ev + 1, p.value, p.ls.lvblen)
    return ev


cdef void py_ast(void* arg) noexcept nogil:
    cdef py_lock* p = <py_lock*>arg
    cdef dlm_event* ev
    ls_enter(p.ls)
    ev = lock_event(p, EV_CAST)
    if ev != NULL:
        ev.status = p.lksb.sb_status
        ev.sbflags = p.lksb.sb_flags
        ev.mode = p.lksb.sb_mode
    ls_leave(p.ls)


cdef void py_bast(void* arg, int mode) noexcept nogil:
    cdef py_lock* p = <py_lock*>arg
    cdef dlm_event* ev
    ls_enter(p.ls)
    ev = lock_event(p, EV_BAST)
    if ev != NULL:
        ev.mode = mode
    ls_leave(p.ls)


cdef void wake_by_fd(void* arg, int what) noexcept nogil:
    cdef uint64_t one = 1
    # An eventfd that is full is readable, which is all that matters.
    write((<int*>arg)[0], &one, 8)


cdef uint32_t copy_queue(dlink* head, dlm_lkb* out) noexcept nogil:
    cdef dlink* at = head.next
    cdef uint32_t n = 0
    while at != head:
        out[n] = (<dlm_lkb*>at.owner)[0]
        n += 1
        at = at.next
    return n


cdef uint32_t copy_all(dlm_ls* ls, rsb_copy* rsbs, dlm_lkb* lkbs, bint contended) noexcept nogil:
    """How many resources were copied. contended: only those that two locks meet at or that somebody waits for."""
    cdef uint32_t i, n = 0, at = 0, first
    cdef dlm_rsb* r
    for i in range(ls.bucket_mask + 1):
        r = ls.buckets[i]
        while r != NULL:
            first = at
            at += copy_queue(&r.grantq, &lkbs[at])
            at += copy_queue(&r.convertq, &lkbs[at])
            at += copy_queue(&r.waitq, &lkbs[at])
            if contended and (r.tossed or at == first + 1 and dl_empty(&r.convertq) and dl_empty(&r.waitq)):
                at = first
                r = r.hnext
                continue
            rsbs[n].r = r[0]
            rsbs[n].n_locks = at - first
            if r.lvb != NULL:
                memcpy(rsbs[n].value, r.lvb, ls.lvblen)
            n += 1
            r = r.hnext
    return n


cdef object dump_rsb(rsb_copy* c, dlm_lkb* lkbs, uint32_t lvblen):
    cdef uint32_t i
    cdef dlm_lkb* lkb
    locks = []
    for i in range(c.n_locks):
        lkb = &lkbs[i]
        kind = "master" if is_master_copy(lkb) else "process" if is_process_copy(lkb) else "local"
        locks.append(LockDump(lkb.id, lkb.remid, lkb.nodeid, kind, QUEUES[lkb.status], lkb.grmode, lkb.rqmode,
                              lkb.exflags, lkb.flags, lkb.ownpid, lkb.wait_type, lkb.since_ns, lkb.lvbseq))
    return ResourceDump(c.r.name[:c.r.len], c.r.master_nodeid, c.r.dir_nodeid, bool(c.r.tossed),
                        (<char*>c.value)[:lvblen] if c.r.lvb != NULL else None, c.r.lvbseq,
                        bool(c.r.flags & RSB_VALNOTVALID), tuple(locks))


cdef int check(int error) except -1:
    if error < 0:
        raise DlmError(-error, strerror(-error).decode())
    return error


cdef class Lockspace:
    """A lockspace as one node sees it; members are told with stop() and start(), packets with receive().

    Units: `lvblen` is the length in bytes of a lock value block, a multiple of 8; times are ns of any monotonic clock.
    All members must have the same lvblen and lsflags. `rcom_seq` should be random. Stopped until the first start().
    """

    def __init__(self, str name not None, int our_nodeid, uint32_t global_id, *, uint32_t lvblen=32,
                 uint32_t lsflags=0, uint64_t rcom_seq=0, uint32_t pid=0):
        if lvblen == 0 or lvblen % 8 or lvblen > LVB_MAX:
            raise ValueError(f"a lock value block of {lvblen} bytes: 8 to {LVB_MAX}, a multiple of 8")
        if our_nodeid <= 0:
            raise ValueError(f"{our_nodeid} is no node id")
        if self.ls != NULL:
            raise RuntimeError("a lockspace is made once")
        self.name = name
        self.wake_fd = -1
        self._locks = {}
        self.ls = ls_create(our_nodeid, global_id, lvblen, lsflags, rcom_seq)
        if self.ls == NULL:
            raise MemoryError
        self.ls.pid = pid

    def __dealloc__(self):
        if self.ls != NULL:
            ls_destroy(self.ls)
            self.ls = NULL
        if self._locks is not None:
            for address in self._locks.values():
                free(<void*><size_t>address)

    # ---- locks

    def lock(self, bytes name not None, int mode, uint32_t flags=0, *, bytes value=None, bint bast=True,
             uint64_t cookie=0):
        """Asks for a new lock: its id. The outcome comes as a Cast; until then nothing else can be done but cancel.

        `value` (of lvblen bytes) or VALBLK: the lock has a value block.
        Raises: DlmError (EINVAL, ENOMEM, ENOBUFS).
        """
        cdef py_lock* p = <py_lock*>calloc(1, sizeof(py_lock))
        cdef int error
        cdef dlm_ls* ls = self.ls
        cdef dlm_bast_fn on_bast = py_bast if bast else <dlm_bast_fn>NULL
        cdef const char* key = PyBytes_AS_STRING(name)
        cdef uint32_t length = <uint32_t>PyBytes_GET_SIZE(name)
        if p == NULL:
            raise MemoryError
        if flags & LKF_CONVERT:
            free(p)
            raise DlmError(E_INVAL, "a new lock is no conversion")
        try:
            if value is not None or flags & LKF_VALBLK:
                self._set_value(p, value)
                flags |= LKF_VALBLK
        except ValueError:
            free(p)
            raise
        p.ls = ls
        p.cookie = cookie
        # With the GIL: nobody takes the event before the lock is among ours.
        error = dlm_lock(ls, mode, &p.lksb, flags, key, length, py_ast, p, on_bast)
        if error:
            free(p)
        check(error)
        self._locks[p.lksb.sb_lkid] = <size_t>p
        return p.lksb.sb_lkid

    cdef int _set_value(self, py_lock* p, bytes value) except -1:
        if value is not None:
            if len(value) != self.ls.lvblen:
                raise ValueError(f"a value of {len(value)} bytes, this lockspace has {self.ls.lvblen}")
            memcpy(p.value, PyBytes_AS_STRING(value), self.ls.lvblen)
        p.lksb.sb_lvbptr = p.value
        return 0

    cdef py_lock* _find(self, uint32_t lkid) except NULL:
        address = self._locks.get(lkid)
        if address is None:
            raise DlmError(E_NOENT, f"no lock {lkid:#x}")
        return <py_lock*><size_t>address

    def convert(self, uint32_t lkid, int mode, uint32_t flags=0, *, bytes value=None, bint bast=True):
        """Asks for another mode of a granted lock; `value` is what is written, or room for what is read.

        Raises: DlmError (EINVAL, EBUSY, ENOENT, ENOBUFS).
        """
        cdef py_lock* p = self._find(lkid)
        cdef int error
        cdef dlm_ls* ls = self.ls
        cdef dlm_bast_fn on_bast = py_bast if bast else <dlm_bast_fn>NULL
        cdef py_lock before = p[0]
        if value is not None or flags & LKF_VALBLK:
            self._set_value(p, value)
            flags |= LKF_VALBLK
        with nogil:
            error = dlm_lock(ls, mode, &p.lksb, flags | LKF_CONVERT, NULL, 0, py_ast, p, on_bast)
        if error:
            # What is refused writes nothing, also not by way of recovery, which may look at a writer's value.
            memcpy(p.value, before.value, LVB_MAX)
        check(error)

    def unlock(self, uint32_t lkid, uint32_t flags=0, *, bytes value=None):
        """Gives a granted lock back; with FORCEUNLOCK whatever its state. Raises: DlmError (EINVAL, EBUSY, ENOENT)."""
        cdef py_lock* p = self._find(lkid)
        cdef int error
        cdef dlm_ls* ls = self.ls
        if value is not None:
            self._set_value(p, value)
            flags |= LKF_VALBLK
        with nogil:
            error = dlm_unlock(ls, lkid, flags, &p.lksb, p)
        check(error)

    def cancel(self, uint32_t lkid, *, bint deadlock=False):
        """Takes back what has not been granted: a Cast with -ECANCEL, or with 0 if the grant was faster.

        `deadlock`: with -EDEADLK instead, for the victim of a deadlock over several resources.
        """
        cdef dlm_lkb* lkb
        if deadlock:
            pthread_mutex_lock(&self.ls.mutex)
            lkb = find_lkb(self.ls, lkid)
            if lkb != NULL:
                lkb.flags |= LKB_DEADLOCK_CANCEL
            pthread_mutex_unlock(&self.ls.mutex)
        self.unlock(lkid, LKF_CANCEL)

    # ---- who waits for whom

    def place(self, uint32_t lkid):
        """Where a lock of ours waits: the node that masters its resource and the lock's id there; None: nowhere."""
        cdef dlm_lkb* lkb
        where = None
        pthread_mutex_lock(&self.ls.mutex)
        lkb = find_lkb(self.ls, lkid)
        if self.ls.running and lkb != NULL and lkb.status in (STS_CONVERT, STS_WAITING) and not is_master_copy(lkb):
            where = (self.ls.our_nodeid, lkid) if lkb.nodeid == 0 else (lkb.nodeid, lkb.remid)
        pthread_mutex_unlock(&self.ls.mutex)
        return where

    def blockers(self, int nodeid, uint32_t lkid):
        """On the master: what a lock of `nodeid`, known here as `lkid`, waits for, as (node, the lock's id there).

        Of those queued before it only the first. Empty: it does not wait here.
        """
        cdef dlm_lkb* found[BLOCKERS_MAX]
        cdef dlm_lkb* lkb
        cdef uint32_t i, n = 0
        out = []
        pthread_mutex_lock(&self.ls.mutex)
        lkb = find_lkb(self.ls, lkid)
        if (self.ls.running and lkb != NULL and lkb.status in (STS_CONVERT, STS_WAITING)
                and (is_master_copy(lkb) and lkb.nodeid == nodeid
                     or not is_master_copy(lkb) and lkb.nodeid == 0 and nodeid == self.ls.our_nodeid)):
            n = in_the_way(lkb.res, lkb, found, BLOCKERS_MAX)
        for i in range(n):
            if is_master_copy(found[i]):
                out.append((found[i].nodeid, found[i].remid))
            else:
                out.append((self.ls.our_nodeid, found[i].id))
        pthread_mutex_unlock(&self.ls.mutex)
        return out

    # ---- packets, events, time

    def receive(self, int nodeid, bytes packet not None, int64_t now_ns):
        """Takes one DLM_MSG or DLM_RCOM packet. Raises: RemoteProtocolError, and nothing has happened."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packet)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(packet)
        cdef dlm_ls* ls = self.ls
        cdef int bad
        with nogil:
            bad = dlm_receive(ls, nodeid, data, size, now_ns)
        if bad:
            raise RemoteProtocolError(nodeid, wire_reason(bad).decode())

    def take_output(self):
        """The packets that are to be sent: (node, packet), in order for each node; nodes as they were first sent to."""
        cdef dlm_packet* p
        cdef dlm_packet* first
        cdef uint32_t i
        out = []
        for i in range(self.ls.out_count):
            first = dlm_take_output(self.ls, self.ls.out[i].nodeid)
            p = first
            while p != NULL:
                out.append((p.nodeid, PyBytes_FromStringAndSize(<const char*>dlm_packet_data(p), p.size)))
                p = p.next
            dlm_free_packets(first)
        return out

    def take_events(self):
        """What has happened since the last call, in order."""
        cdef dlm_event* ev
        cdef dlm_event* next
        pthread_mutex_lock(&self.ls.mutex)
        ev = self.ls.ev_head
        self.ls.ev_head = NULL
        self.ls.ev_tail = NULL
        self.ls.ev_count = 0
        pthread_mutex_unlock(&self.ls.mutex)
        out = []
        while ev != NULL:
            out.append(self._event(ev))
            next = ev.next
            free(ev)
            ev = next
        return out

    cdef object _event(self, dlm_event* ev):
        cdef py_lock* p
        cdef dlm_slot* slots = <dlm_slot*>(ev + 1)
        if ev.kind == EV_CAST:
            p = self._find(ev.lkid)
            value = (<char*>(ev + 1))[:self.ls.lvblen] if p.lksb.sb_lvbptr != NULL else None
            if ev.mode == MODE_IV:
                # Unlocked, or never granted: nothing refers to it any more.
                del self._locks[ev.lkid]
                free(p)
            return Cast(ev.lkid, ev.cookie, ev.status, ev.sbflags, ev.mode, value)
        if ev.kind == EV_BAST:
            return Bast(ev.lkid, ev.cookie, ev.mode)
        if ev.kind == EV_RECOVER_PREP:
            return RecoverPrep()
        if ev.kind == EV_RECOVER_SLOT:
            return RecoverSlot(ev.nodeid, ev.slot)
        if ev.kind == EV_RECOVER_FAILED:
            return RecoverFailed(ev.status, ev.nodeid)
        return RecoverDone(ev.generation, ev.slot,
                           tuple([Slot(slots[i].nodeid, slots[i].slot) for i in range(ev.count)]))

    def next_timer(self):
        """When handle_timer() has something to do; None: not before something else happens."""
        cdef int64_t at
        pthread_mutex_lock(&self.ls.mutex)
        at = recovery_timer(self.ls)
        if self.ls.running and not dl_empty(&self.ls.tossed):
            toss = (<dlm_rsb*>self.ls.tossed.next.owner).toss_ns + self.ls.toss_after_ns
            at = min(at, toss) if at else toss
        pthread_mutex_unlock(&self.ls.mutex)
        return at if at else None

    def handle_timer(self, int64_t now_ns):
        """Repeats questions of recovery, forgets resources that were not used for 10 s."""
        cdef dlm_ls* ls = self.ls
        with nogil:
            dlm_tick(ls, now_ns)

    def set_wakeup_fd(self, int fd):
        """An eventfd that gets written to when there is output or an event and was none; -1: no more."""
        self.wake_fd = fd
        dlm_set_wake(self.ls, wake_by_fd if fd >= 0 else <dlm_wake_fn>NULL, &self.wake_fd)

    # ---- recovery

    def stop(self):
        """Stops locking: no lock is granted any more, and recovery is broken off if it is under way."""
        cdef dlm_ls* ls = self.ls
        with nogil:
            ls_enter(ls)
            recovery_stop(ls)
            ls_leave(ls)

    def start(self, nodes not None, int64_t now_ns, *, left=()):
        """Starts recovery with these members (Node), after all of them have stopped.

        `left`: those of the former members that left in good order; the others that are missing have failed.
        Raises: DlmError(EINVAL): not stopped, we are not among them, bad ids or weights.
        """
        cdef dlm_node c_nodes[NODES_MAX]
        cdef int32_t c_left[NODES_MAX]
        cdef uint32_t n = 0, n_left = 0
        cdef int error
        cdef dlm_ls* ls = self.ls
        if len(nodes) > NODES_MAX or len(left) > NODES_MAX:
            raise DlmError(E_INVAL, f"{len(nodes)} nodes, at most {NODES_MAX}")
        for node in nodes:
            c_nodes[n].nodeid, c_nodes[n].weight, c_nodes[n].comm_seq = node.nodeid, node.weight, node.comm_seq
            n += 1
        for nodeid in left:
            c_left[n_left] = nodeid
            n_left += 1
        with nogil:
            ls_enter(ls)
            if now_ns > ls.now_ns:
                ls.now_ns = now_ns
            error = recovery_start(ls, c_nodes, n, c_left, n_left)
            ls_leave(ls)
        check(error)

    # ---- looking at it

    @property
    def our_nodeid(self):
        return self.ls.our_nodeid

    @property
    def global_id(self):
        return self.ls.global_id

    @property
    def lvblen(self):
        return self.ls.lvblen

    @property
    def running(self):
        return bool(self.ls.running)

    @property
    def phase(self):
        return PHASES[self.ls.phase]

    @property
    def status(self):
        """How far recovery is: bits of RecoverStatus, as other nodes are told."""
        return self.ls.status

    @property
    def generation(self):
        return self.ls.generation

    @property
    def our_slot(self):
        return self.ls.our_slot

    @property
    def broken(self):
        """0, or the errno that has ended this lockspace: no memory, or a queue over its limit."""
        return self.ls.broken

    def members(self):
        """The ids of the members, in order."""
        return [self.ls.members[i].nodeid for i in range(self.ls.n_members)]

    def dump(self, *, bint contended=False):
        """Every resource with its locks, in order of the names; or only those of which more is to be said than that one
        lock is granted."""
        cdef rsb_copy* rsbs = NULL
        cdef dlm_lkb* lkbs = NULL
        cdef uint32_t n, i, j, at = 0
        cdef dlm_ls* ls = self.ls
        with nogil:
            pthread_mutex_lock(&ls.mutex)
            n = ls.rsb_count
            rsbs = <rsb_copy*>malloc((n + 1) * sizeof(rsb_copy))
            lkbs = <dlm_lkb*>malloc((ls.lkb_count + 1) * sizeof(dlm_lkb))
            if rsbs != NULL and lkbs != NULL:
                n = copy_all(ls, rsbs, lkbs, contended)
            pthread_mutex_unlock(&ls.mutex)
        try:
            if rsbs == NULL or lkbs == NULL:
                raise MemoryError
            out = []
            for i in range(n):
                out.append(dump_rsb(&rsbs[i], &lkbs[at], ls.lvblen))
                at += rsbs[i].n_locks
        finally:
            free(rsbs)
            free(lkbs)
        return sorted(out, key=attrgetter("name"))

    def statistics(self):
        cdef dlm_ls* ls = self.ls
        cdef dlink* at
        cdef uint32_t waiting = 0
        pthread_mutex_lock(&ls.mutex)
        at = ls.waiters.next
        while at != &ls.waiters:
            waiting += 1
            at = at.next
        pthread_mutex_unlock(&ls.mutex)
        return Statistics(
            requests=ls.stats.requests, converts=ls.stats.converts, unlocks=ls.stats.unlocks,
            cancels=ls.stats.cancels, casts=ls.stats.casts, basts=ls.stats.basts, sent=ls.stats.sent,
            received=ls.stats.received, refused=ls.stats.refused, lookups=ls.stats.lookups,
            lookup_retries=ls.stats.lookup_retries, removes=ls.stats.removes, recoveries=ls.stats.recoveries,
            recovered_locks=ls.stats.recovered_locks, parked=ls.stats.parked, locks=ls.lkb_count,
            resources=ls.rsb_count - ls.toss_count, tossed=ls.toss_count, waiting=waiting,
            queued_messages=ls.rq_count, queued_events=ls.ev_count)
