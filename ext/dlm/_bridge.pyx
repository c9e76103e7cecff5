"""Lockspaces on the lines: which packet is whose, and who writes when a lockspace has something to say.

A lockspace tells by its wake function that packets wait; whoever caused them, a thread that locks or one that
received, takes them and writes them at once. Taking, numbering and writing happen under the mutex of the line, so two
threads cannot swap the packets of one node. A reader lets what one read caused gather, and writes it in one go.

Order of mutexes: a line's in_order, the bridge's lock (reading), a line's mutex, a lockspace's mutex.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from cpython.bytes cimport PyBytes_FromStringAndSize

from dlm._midcomms cimport mc_peer, mc_send
from dlm._pump cimport pump_flush
from dlm.core._engine cimport WAKE_EVENT, WAKE_OUTPUT, dlm_packet
from dlm.core._lockspace cimport (
    Lockspace,
    dlm_free_packets,
    dlm_packet_data,
    dlm_receive,
    dlm_set_wake,
    dlm_take_output,
)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_write(int fd, uint64_t value)

cdef extern from *:
    """
    static __thread int dlm_gathering;
    """
    int dlm_gathering

cdef enum:
    # Above this the packets stay with the lockspace, which knows when it is too much.
    UNACKED_PULL_MAX = 67108864


cdef int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef void flush_space(bridge* b, dlm_ls* ls) noexcept nogil:
    """Write to every node for which the lockspace has packets."""
    cdef uint32_t i
    for i in range(ls.out_count):
        if ls.out[i].head != NULL:
            pump_flush(b.p, ls.out[i].nodeid)


cdef void on_wake(void* arg, int what) noexcept nogil:
    cdef bridge_space* space = <bridge_space*>arg
    if what & WAKE_EVENT and space.event_fd >= 0:
        eventfd_write(space.event_fd, 1)
    if what & WAKE_OUTPUT and space.ls != NULL and not dlm_gathering:
        flush_space(space.owner, space.ls)


cdef void bridge_gather(dlm_ls* ls, bint on) noexcept nogil:
    """This thread is about to lock much at once: what that has to say gathers until this is called with False.

    May be nested. What other threads say meanwhile waits with it.
    """
    global dlm_gathering
    cdef bridge_space* space
    dlm_gathering += 1 if on else -1
    if not dlm_gathering and ls.wake_fn == on_wake:
        space = <bridge_space*>ls.wake_arg
        if space.ls != NULL:
            flush_space(space.owner, space.ls)


cdef void on_pull(void* arg, int32_t node, mc_peer* mc) noexcept nogil:
    """With the line's mutex: number what all lockspaces have for this node."""
    cdef bridge* b = <bridge*>arg
    cdef dlm_packet* first
    cdef dlm_packet* at
    cdef uint32_t i
    pthread_rwlock_rdlock(&b.lock)
    for i in range(b.n_spaces):
        if mc.un_bytes >= UNACKED_PULL_MAX:
            break
        first = at = dlm_take_output(b.spaces[i].ls, node)
        while at != NULL:
            mc_send(mc, dlm_packet_data(at), at.size)
            at = at.next
        dlm_free_packets(first)
    pthread_rwlock_unlock(&b.lock)


cdef void on_packet(void* arg, int32_t node, const uint8_t* packet, size_t size) noexcept nogil:
    cdef bridge* b = <bridge*>arg
    cdef uint32_t i, space = <uint32_t>packet[4] | (<uint32_t>packet[5] << 8) | (<uint32_t>packet[6] << 16) \
        | (<uint32_t>packet[7] << 24)
    cdef bint known = False
    cdef int bad = 0
    dlm_gathering = 1
    pthread_rwlock_rdlock(&b.lock)
    for i in range(b.n_spaces):
        if b.spaces[i].global_id == space:
            known = True
            bad = dlm_receive(b.spaces[i].ls, node, packet, size, now_ns())
            break
    pthread_rwlock_unlock(&b.lock)
    if not known or bad:
        tell_python(b, node, packet, size, bad)


cdef void tell_python(bridge* b, int32_t node, const uint8_t* packet, size_t size, int bad) noexcept with gil:
    """What happens seldom: a lockspace that we do not have, a packet that makes no sense."""
    (<object>b.unknown)(node, PyBytes_FromStringAndSize(<const char*>packet, <Py_ssize_t>size), bad)


cdef void on_done(void* arg) noexcept nogil:
    """All packets of one read are through: write what they caused."""
    cdef bridge* b = <bridge*>arg
    cdef dlm_ls* spaces[SPACES_MAX]
    cdef uint32_t i, count
    dlm_gathering = 0
    pthread_rwlock_rdlock(&b.lock)
    count = b.n_spaces
    for i in range(count):
        spaces[i] = b.spaces[i].ls
    # Still for reading: a lockspace is not taken away between here and the end of its flush.
    for i in range(count):
        flush_space(b, spaces[i])
    pthread_rwlock_unlock(&b.lock)


@cython.no_gc_clear
cdef class Bridge:
    """The lockspaces of a Pump.

    unknown: called with (node, packet, reason) for a packet of no lockspace here (reason 0), or one that makes no
    sense (a reason of dlm.core._wire); by a reader thread.
    """

    def __cinit__(self, Pump pump not None, unknown):
        self.b = <bridge*>calloc(1, sizeof(bridge))
        if self.b == NULL:
            raise MemoryError
        pthread_rwlock_init(&self.b.lock, NULL)
        self.pump, self.unknown, self.attached, self.retired = pump, unknown, {}, []
        self.b.p, self.b.unknown = pump.p, <void*>unknown
        pump.p.arg = self.b
        pump.p.deliver, pump.p.done, pump.p.pull = on_packet, on_done, on_pull

    def attach(self, Lockspace space not None, int event_fd):
        """Packets of this lockspace come and go from now on; event_fd is written to when it has events."""
        cdef bridge_space* s
        cdef uint32_t i
        if self.b.n_spaces == SPACES_MAX:
            raise ValueError(f"more than {SPACES_MAX} lockspaces")
        for i in range(self.b.n_spaces):
            if self.b.spaces[i].global_id == space.ls.global_id:
                raise ValueError(f"a lockspace with the id {space.ls.global_id:#x} is there")
        s = <bridge_space*>calloc(1, sizeof(bridge_space))
        if s == NULL:
            raise MemoryError
        s.owner, s.ls, s.global_id, s.event_fd = self.b, space.ls, space.ls.global_id, event_fd
        with nogil:
            pthread_rwlock_wrlock(&self.b.lock)
            self.b.spaces[self.b.n_spaces] = s
            self.b.n_spaces += 1
            pthread_rwlock_unlock(&self.b.lock)
            dlm_set_wake(s.ls, on_wake, s)
        self.attached[space.ls.global_id] = space

    def detach(self, Lockspace space not None):
        """No packet of it comes or goes any more. Raises KeyError."""
        cdef uint32_t i, at = SPACES_MAX
        cdef bridge_space* s = NULL
        self.attached.pop(space.ls.global_id)
        with nogil:
            dlm_set_wake(space.ls, NULL, NULL)
            pthread_rwlock_wrlock(&self.b.lock)
            for i in range(self.b.n_spaces):
                if self.b.spaces[i].ls == space.ls:
                    at = i
            s = self.b.spaces[at]
            self.b.n_spaces -= 1
            self.b.spaces[at] = self.b.spaces[self.b.n_spaces]
            s.event_fd = -1
            s.ls = NULL
            pthread_rwlock_unlock(&self.b.lock)
        # A thread may have read the wake function just before: the little that it looks at stays.
        self.retired.append(<size_t>s)

    def __dealloc__(self):
        cdef uint32_t i
        if self.b == NULL:
            return
        for i in range(self.b.n_spaces):
            dlm_set_wake(self.b.spaces[i].ls, NULL, NULL)
            free(self.b.spaces[i])
        if self.retired is not None:
            for address in self.retired:
                free(<void*><size_t>address)
        pthread_rwlock_destroy(&self.b.lock)
        free(self.b)
