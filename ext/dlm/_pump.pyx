"""The fast path of the transport: sockets that stand are written and read here, without the interpreter's lock.

Whoever has something to say writes it into the socket at once, in its own thread; a thread per connection sleeps in
recv, hands packets to the lock manager and writes what that answers. Everything that happens seldom is trio's: making
and ending connections, sockets that are full, words for the log. It is told by an eventfd and looks at `attention`.

A packet's way: pump_send queues it in the peer's machine (dlm._midcomms), pump_flush writes all that is queued with
one sendmsg; link_loop receives, lets the machine sort, calls `deliver` for each packet with no mutex held (so the lock
manager may send), then `done`, then writes what is left to say, an ACK that is due included.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from dlm._midcomms cimport (
    MC_EVENTS_MAX,
    MC_FOUND_MAX,
    MC_NO_MEMORY,
    MC_STREAM_LEN,
    MC_STUCK,
    mc_acknowledge,
    mc_add_user,
    mc_bytes,
    mc_close,
    mc_event,
    mc_found,
    mc_free,
    mc_init,
    mc_output,
    mc_packet,
    mc_peer,
    mc_receive,
    mc_reconnected,
    mc_remove_user,
    mc_send,
    mc_shift,
    mc_shutdown,
    mc_stream,
    mc_written,
)

from dlm._midcomms import STATE_NAMES, event_texts


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    short POLLIN

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    int eventfd_write(int fd, uint64_t value)
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef enum:
    IOV_MAX_USED = 64
    # How long an ACK waits for something that carries it along.
    C_ACK_DELAY_MS = 20
    # Why link_loop ended, beside an errno.
    ENDED_EOF = -1
    ENDED_BAD_STREAM = -2

ACK_DELAY_MS = C_ACK_DELAY_MS


cdef pump_line* find_line(pump* p, int32_t node) noexcept nogil:
    cdef uint32_t i
    for i in range(p.n_lines):
        if p.lines[i].mc.node_id == <uint32_t>node:
            return p.lines[i]
    return NULL


cdef void attend(pump* p) noexcept nogil:
    eventfd_write(p.attention_fd, 1)


cdef void write_out(pump* p, pump_line* line) noexcept nogil:
    """Write what is queued, as far as the socket takes it. Holds the line's mutex."""
    cdef iovec vec[IOV_MAX_USED]
    cdef msghdr message
    cdef mc_packet* packet
    cdef size_t skip, total
    cdef ssize_t count
    cdef unsigned int n
    if line.blocked:
        return
    if p.pull != NULL:
        p.pull(p.arg, <int32_t>line.mc.node_id, &line.mc)
    if not mc_output(&line.mc):
        return
    memset(&message, 0, sizeof(message))
    if line.send_fd < 0:
        if not line.wanted:
            line.wanted = True
            attend(p)
        return
    while line.mc.out_head != NULL:
        packet, n, total = line.mc.out_head, 0, 0
        skip = line.mc.head_written
        while packet != NULL and n < IOV_MAX_USED:
            vec[n].iov_base = mc_bytes(packet) + skip
            vec[n].iov_len = packet.size - skip
            total += vec[n].iov_len
            skip = 0
            n += 1
            packet = packet.next_out
        message.msg_iov, message.msg_iovlen = vec, n
        count = sendmsg(line.send_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if count < 0 and errno == EINTR:
            continue
        if count < 0 and errno != EAGAIN:
            # Its reader sees the end as well, and tells trio; until then nothing more is tried.
            line.write_errno = errno
            line.send_fd = -1
            line.wanted = True
            attend(p)
            return
        if count > 0:
            mc_written(&line.mc, <size_t>count)
        if count < <ssize_t>total:
            line.blocked = True
            attend(p)
            return


cdef int pump_send(pump* p, int32_t node, const uint8_t* packet, size_t size) noexcept nogil:
    cdef pump_line* line = find_line(p, node)
    cdef int code
    if line == NULL:
        return -1
    pthread_mutex_lock(&line.mutex)
    code = mc_send(&line.mc, packet, size)
    if code or line.mc.n_events:
        attend(p)
    pthread_mutex_unlock(&line.mutex)
    return -1 if code else 0


cdef void pump_flush(pump* p, int32_t node) noexcept nogil:
    cdef pump_line* line = find_line(p, node)
    if line != NULL:
        pthread_mutex_lock(&line.mutex)
        write_out(p, line)
        pthread_mutex_unlock(&line.mutex)


cdef int link_loop(pump* p, pump_line* line, int fd, mc_stream* stream, mc_found* found) noexcept nogil:
    """Receive until the connection ends; why it did: an errno, ENDED_EOF or ENDED_BAD_STREAM."""
    cdef pollfd waiting
    cdef ssize_t got
    cdef int count, i
    cdef uint32_t owed
    cdef int32_t node = <int32_t>line.mc.node_id
    waiting.fd, waiting.events = fd, POLLIN
    while True:
        pthread_mutex_lock(&line.mutex)
        write_out(p, line)
        owed = line.mc.ack_owed
        pthread_mutex_unlock(&line.mutex)
        if owed:
            waiting.revents = 0
            if poll(&waiting, 1, C_ACK_DELAY_MS) == 0:
                pthread_mutex_lock(&line.mutex)
                mc_acknowledge(&line.mc)
                pthread_mutex_unlock(&line.mutex)
                continue
        got = recv(fd, stream.data + stream.have, MC_STREAM_LEN - stream.have, 0)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return errno if got < 0 else ENDED_EOF
        stream.have += <uint32_t>got
        # Another connection of the same peer may bring what follows: nobody overtakes between number and delivery.
        pthread_mutex_lock(&line.in_order)
        pthread_mutex_lock(&line.mutex)
        count = mc_receive(&line.mc, stream, found)
        if line.mc.n_events or line.mc.state != line.state_seen:
            attend(p)
        pthread_mutex_unlock(&line.mutex)
        for i in range(count):
            p.deliver(p.arg, node, stream.data + found[i].at, found[i].size)
        if count:
            p.done(p.arg)
        pthread_mutex_unlock(&line.in_order)
        if stream.bad:
            return ENDED_BAD_STREAM
        mc_shift(stream)


cdef void deliver_to_python(void* arg, int32_t node, const uint8_t* packet, size_t size) noexcept with gil:
    """For tests and for what is not in a hurry: a Python callable gets (node, packet)."""
    (<object>arg)(node, PyBytes_FromStringAndSize(<const char*>packet, <Py_ssize_t>size))


cdef void done_nothing(void* arg) noexcept nogil:
    pass


@cython.no_gc_clear
cdef class Pump:
    """All lines of one process.

    our_id: this node's id. deliver: called with (node id, packet) by reader threads, one at a time per connection.
    """

    def __cinit__(self, int our_id, deliver):
        self.p = <pump*>calloc(1, sizeof(pump))
        if self.p == NULL:
            raise MemoryError
        self.p.attention_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.p.attention_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.p.our_id = our_id
        self.deliver = deliver
        self.p.deliver, self.p.done, self.p.arg = deliver_to_python, done_nothing, <void*>deliver

    def __dealloc__(self):
        cdef uint32_t i
        if self.p == NULL:
            return
        for i in range(self.p.n_lines):
            mc_free(&self.p.lines[i].mc)
            pthread_mutex_destroy(&self.p.lines[i].mutex)
            pthread_mutex_destroy(&self.p.lines[i].in_order)
            free(self.p.lines[i])
        if self.p.attention_fd >= 0:
            os.close(self.p.attention_fd)
        free(self.p)

    @property
    def attention_fd(self):
        """An eventfd, readable when `attention` has something new for some line."""
        return self.p.attention_fd

    cdef pump_line* line(self, int node) except NULL:
        cdef pump_line* line = find_line(self.p, node)
        if line == NULL:
            raise KeyError(node)
        return line

    def add_line(self, int node):
        """Know one more node. A line is never taken away while the pump lives: threads may be on it."""
        cdef pump_line* line
        if find_line(self.p, node) != NULL:
            raise ValueError(f"node {node} has a line")
        if self.p.n_lines == LINES_MAX:
            raise ValueError(f"more than {LINES_MAX} lines")
        line = <pump_line*>calloc(1, sizeof(pump_line))
        if line == NULL:
            raise MemoryError
        pthread_mutex_init(&line.mutex, NULL)
        pthread_mutex_init(&line.in_order, NULL)
        mc_init(&line.mc, <uint32_t>self.p.our_id, <uint32_t>node, 0)
        line.send_fd = -1
        line.state_seen = line.mc.state
        self.p.lines[self.p.n_lines] = line
        self.p.n_lines += 1

    def send(self, int node, bytes packet not None):
        """Queue one packet and write. Raises KeyError, ValueError (no packet), BufferError (it takes no more)."""
        cdef pump_line* line = self.line(node)
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packet)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(packet)
        cdef int code
        with nogil:
            pthread_mutex_lock(&line.mutex)
            code = mc_send(&line.mc, data, size)
            if code == 0:
                write_out(self.p, line)
            if line.mc.n_events:
                attend(self.p)
            pthread_mutex_unlock(&line.mutex)
        if code == MC_STUCK or code == MC_NO_MEMORY:
            raise BufferError(f"node {node} takes no more")
        if code:
            raise ValueError(f"a packet of {size} bytes cannot be sent")

    def act(self, int node, str what not None):
        """One of: add_user, remove_user, shutdown, close, acknowledge. Raises KeyError, ValueError."""
        cdef pump_line* line = self.line(node)
        cdef int code = ("add_user", "remove_user", "shutdown", "close", "acknowledge").index(what)
        with nogil:
            pthread_mutex_lock(&line.mutex)
            if code == 0:
                mc_add_user(&line.mc)
            elif code == 1:
                mc_remove_user(&line.mc)
            elif code == 2:
                mc_shutdown(&line.mc)
            elif code == 3:
                mc_close(&line.mc)
                line.wanted = False
            else:
                mc_acknowledge(&line.mc)
            write_out(self.p, line)
            pthread_mutex_unlock(&line.mutex)

    def carry(self, int node, int fd):
        """Write over this socket from now on (-1: over none); what an old one may have lost goes again."""
        cdef pump_line* line = self.line(node)
        with nogil:
            pthread_mutex_lock(&line.mutex)
            line.send_fd = fd
            line.blocked = False
            if fd >= 0:
                line.wanted = False
                mc_reconnected(&line.mc)
            elif line.mc.un_head != NULL or line.mc.out_head != NULL:
                line.wanted = True
                attend(self.p)
            write_out(self.p, line)
            pthread_mutex_unlock(&line.mutex)

    def writable(self, int node):
        """The socket that was full takes more."""
        cdef pump_line* line = self.line(node)
        with nogil:
            pthread_mutex_lock(&line.mutex)
            line.blocked = False
            write_out(self.p, line)
            pthread_mutex_unlock(&line.mutex)

    def read(self, int node, int fd):
        """Receive from a blocking socket until it ends; for a thread of its own. Returns why it ended."""
        cdef pump_line* line = self.line(node)
        cdef mc_stream* stream = <mc_stream*>malloc(sizeof(mc_stream))
        cdef mc_found* found = <mc_found*>malloc(MC_FOUND_MAX * sizeof(mc_found))
        cdef int why
        try:
            if stream == NULL or found == NULL:
                raise MemoryError
            stream.have = stream.used = 0
            stream.bad = False
            with nogil:
                why = link_loop(self.p, line, fd, stream, found)
        finally:
            free(stream)
            free(found)
        if why == ENDED_EOF:
            return "the other end closed it"
        if why == ENDED_BAD_STREAM:
            return "a packet with an impossible length"
        return os.strerror(why)

    def wanted(self, int node):
        """Whether there is something to write and no socket for it."""
        cdef pump_line* line = self.line(node)
        cdef bint wanted
        pthread_mutex_lock(&line.mutex)
        wanted = line.wanted and line.send_fd < 0
        pthread_mutex_unlock(&line.mutex)
        return wanted

    def attention(self, int node):
        """(wanted, full, state, has changed, [(level, text)]) of one line, which has been looked at with this."""
        cdef pump_line* line = self.line(node)
        cdef mc_event events[MC_EVENTS_MAX]
        cdef uint32_t i, count
        cdef int32_t state
        cdef bint wanted, full, changed
        # Nothing of Python's while the mutex is held: a collection could hand the interpreter to one who waits for it.
        pthread_mutex_lock(&line.mutex)
        wanted = line.wanted and line.send_fd < 0
        full = line.blocked and line.send_fd >= 0
        state = line.mc.state
        changed = state != line.state_seen
        line.state_seen = state
        count = line.mc.n_events
        line.mc.n_events = 0
        memcpy(events, line.mc.events, count * sizeof(mc_event))
        pthread_mutex_unlock(&line.mutex)
        return wanted, full, state, changed, \
            event_texts([(events[i].kind, events[i].a, events[i].b) for i in range(count)])

    def describe(self, int node):
        """What a line counts, by name."""
        cdef pump_line* line = self.line(node)
        cdef mc_peer mc
        cdef bint connected
        pthread_mutex_lock(&line.mutex)
        mc = line.mc
        connected = line.send_fd >= 0
        pthread_mutex_unlock(&line.mutex)
        return {"connected": connected, "state": STATE_NAMES[mc.state], "version": mc.version, "users": mc.users,
                "seq_send": mc.seq_send, "seq_next": mc.seq_next, "unacked": mc.un_count,
                "retransmitted": mc.retransmitted, "duplicates": mc.duplicates, "gaps": mc.gaps,
                "refused": mc.refused}
