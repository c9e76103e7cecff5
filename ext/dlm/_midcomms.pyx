"""The reliable layer of the DLM protocol between two nodes: sequences, acknowledgements, retransmission, FIN.

A lock message may not be lost when a TCP connection breaks, and TCP does not say what the other end had read. So each
MSG and RCOM packet travels in an OPTS envelope with a number; the receiver takes numbers strictly in order, drops what
it has had and what comes too early, and tells with ACK which number it expects next. What is not acknowledged is sent
again over the next connection. STATUS, NAMES and their replies stay outside: they are the first words between two
nodes, the version of the first one decides how to talk to a peer (3.1: everything bare, nothing is repeated).

    CLOSED --bare STATUS/NAMES, or a member is added--> ESTABLISHED
    ESTABLISHED --shutdown: FIN--> FIN_WAIT1 --ACK of it--> FIN_WAIT2 --FIN: ACK--> CLOSED
                                   FIN_WAIT1 --FIN: ACK--> CLOSING --ACK of ours--> CLOSED
    ESTABLISHED --FIN: ACK--> CLOSE_WAIT --last user gone: FIN--> LAST_ACK --ACK of it--> CLOSED

A peer decides and never does: bytes in, packets and bytes out. No clock: who owns it looks at `ack_owed` and calls
`acknowledge` when nothing carried the ACK along for a while.

Where we differ from the kernel: an ACK rides on the next packet that goes out, or goes alone after ACK_AFTER packets
or when asked for (the kernel sends one after each read); numbers are compared modulo 2^32 everywhere; a packet whose
sender's id is not the peer's, and an ACK of what was never sent, change nothing.

Source for the behaviour: Linux 6.1 fs/dlm/midcomms.c, fs/dlm/dlm_internal.h (struct dlm_header, dlm_opts).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

cdef enum:
    V_3_1 = 0x00030001
    V_3_2 = 0x00030002
    CMD_MSG = 1
    CMD_RCOM = 2
    CMD_OPTS = 3
    CMD_ACK = 4
    CMD_FIN = 5
    MSG_LEN = 88
    RCOM_LEN = 48
    # What one peer may leave unacknowledged before we call it stuck.
    UNACKED_MAX = 67108864

CLOSED, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 2, 3, 4, 5, 6, 7
STATE_NAMES = ("", "CLOSED", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSING")
VERSION_3_1, VERSION_3_2 = V_3_1, V_3_2
PACKET_MAX = MC_PACKET_MAX
APP_PACKET_MAX = MC_PACKET_MAX - MC_OPTS_LEN
ACK_AFTER = MC_ACK_AFTER
UNACKED_MAX_BYTES = UNACKED_MAX

# The words for events; everything but what INFO holds is a warning.
TEXTS = {
    EV_VERSION: "version {a:#010x} detected",
    EV_RESET: "reset in state {state}: its shutdown was stuck",
    EV_SENDER: "a packet says it is from node {a}: dropped",
    EV_PACKET_VERSION: "a packet of version {a:#010x}: dropped",
    EV_SHORT: "a packet of command {a} with {b} bytes: dropped",
    EV_OTHER_VERSION: "a packet of version {a:#010x}, the node has {b:#010x}: dropped",
    EV_COMMAND: "command {a} outside an envelope: dropped",
    EV_ENVELOPE: "an envelope of {a} bytes with command {b}: dropped",
    EV_GAP: "number {a} came, {b} is expected: dropped",
    EV_BAD_ACK: "an ACK of {a}, sent was up to {b}: dropped",
    EV_AFTER_FIN: "a packet after FIN in state {state}: dropped",
    EV_FIN_STATE: "a FIN in state {state}: dropped",
    EV_NO_VERSION: "a lock message before the peer's version is known is not sent",
    EV_NOT_SENT: "a packet after FIN is not sent",
    EV_EARLY: "command {a} before the first STATUS or NAMES: dropped",
    EV_MEMORY: "no memory for a packet: nothing more is sent to this node",
}
INFO = (EV_VERSION, EV_NOT_SENT)


class BadStream(Exception):
    """What came over a connection cannot be cut into packets: the connection is of no further use."""


class PeerStuck(Exception):
    """A peer has not acknowledged UNACKED_MAX_BYTES: it is as good as dead."""


cdef inline uint32_t get32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] | (<uint32_t>p[1] << 8) | (<uint32_t>p[2] << 16) | (<uint32_t>p[3] << 24)


cdef inline uint32_t get16(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] | (<uint32_t>p[1] << 8)


cdef inline void put32(uint8_t* p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v & 0xff)
    p[1] = <uint8_t>((v >> 8) & 0xff)
    p[2] = <uint8_t>((v >> 16) & 0xff)
    p[3] = <uint8_t>(v >> 24)


cdef void put_header(uint8_t* p, uint32_t word, uint32_t node, size_t length, uint8_t cmd) noexcept nogil:
    put32(p, V_3_2)
    put32(p + 4, word)
    put32(p + 8, node)
    p[12] = <uint8_t>(length & 0xff)
    p[13] = <uint8_t>((length >> 8) & 0xff)
    p[14] = cmd
    p[15] = 0


cdef bint is_begin(const uint8_t* p, size_t length) noexcept nogil:
    """Whether this is one of the packets that travel outside: STATUS, NAMES and their replies."""
    cdef uint32_t kind
    if p[14] != CMD_RCOM or length < RCOM_LEN:
        return False
    kind = get32(p + MC_HEADER_LEN)
    return kind == 1 or kind == 2 or kind == 5 or kind == 6


cdef size_t least(uint8_t cmd) noexcept nogil:
    """The shortest packet of a command that may travel inside an envelope; 0 for any other command."""
    if cmd == CMD_MSG:
        return MSG_LEN
    if cmd == CMD_RCOM:
        return RCOM_LEN
    if cmd == CMD_FIN:
        return MC_HEADER_LEN
    return 0


cdef void say(mc_peer* peer, int32_t kind, uint32_t a, uint32_t b) noexcept nogil:
    if peer.n_events < MC_EVENTS_MAX:
        peer.events[peer.n_events].kind = kind
        peer.events[peer.n_events].a = a
        peer.events[peer.n_events].b = b
        peer.n_events += 1


cdef void refuse(mc_peer* peer, int32_t kind, uint32_t a, uint32_t b) noexcept nogil:
    peer.refused += 1
    say(peer, kind, a, b)


# Queues

cdef void drop_unacked(mc_peer* peer) noexcept nogil:
    """The first of the unacknowledged is acknowledged, or forgotten."""
    cdef mc_packet* p = peer.un_head
    peer.un_head = p.next_unacked
    if peer.un_head == NULL:
        peer.un_tail = NULL
    peer.un_count -= 1
    peer.un_bytes -= p.size
    p.in_unacked = False
    if not p.in_out:
        free(p)


cdef void drop_out(mc_peer* peer) noexcept nogil:
    """The first of those to be written has been, or need not be."""
    cdef mc_packet* p = peer.out_head
    peer.out_head = p.next_out
    if peer.out_head == NULL:
        peer.out_tail = NULL
    peer.out_count -= 1
    p.in_out = False
    if not p.in_unacked:
        free(p)


cdef mc_packet* new_packet(mc_peer* peer, size_t size) noexcept nogil:
    """At the end of the queue of those to be written; NULL: the peer is broken."""
    cdef mc_packet* p = <mc_packet*>malloc(sizeof(mc_packet) + size)
    if p == NULL:
        if not peer.broken:
            say(peer, EV_MEMORY, 0, 0)
        peer.broken = True
        return NULL
    p.next_out = p.next_unacked = NULL
    p.size = <uint32_t>size
    p.seq = 0
    p.in_out = True
    p.in_unacked = False
    if peer.out_tail == NULL:
        peer.out_head = p
    else:
        peer.out_tail.next_out = p
    peer.out_tail = p
    peer.out_count += 1
    return p


cdef int send_numbered(mc_peer* peer, const uint8_t* inner, size_t size) noexcept nogil:
    cdef mc_packet* p = new_packet(peer, MC_OPTS_LEN + size)
    cdef uint8_t* data
    if p == NULL:
        return MC_NO_MEMORY
    data = mc_bytes(p)
    put_header(data, peer.seq_send, peer.our_id, MC_OPTS_LEN + size, CMD_OPTS)
    data[16] = inner[14]
    memset(data + 17, 0, 7)
    memcpy(data + MC_OPTS_LEN, inner, size)
    p.seq = peer.seq_send
    p.in_unacked = True
    if peer.un_tail == NULL:
        peer.un_head = p
    else:
        peer.un_tail.next_unacked = p
    peer.un_tail = p
    peer.un_count += 1
    peer.un_bytes += p.size
    peer.seq_send += 1
    return 0


cdef void send_fin(mc_peer* peer) noexcept nogil:
    cdef uint8_t fin[16]
    put_header(fin, 0, peer.our_id, MC_HEADER_LEN, CMD_FIN)
    peer.fin_seq = peer.seq_send
    peer.fin_sent = True
    send_numbered(peer, fin, MC_HEADER_LEN)


cdef void send_ack(mc_peer* peer, uint32_t expected) noexcept nogil:
    cdef mc_packet* p = new_packet(peer, MC_HEADER_LEN)
    if p != NULL:
        put_header(mc_bytes(p), expected, peer.our_id, MC_HEADER_LEN, CMD_ACK)


cdef void reset(mc_peer* peer) noexcept nogil:
    """As new. Of what is still to be written stay a packet that went half, and the ACK of the last FIN."""
    cdef mc_packet* p
    cdef mc_packet* following
    cdef mc_packet* kept = NULL
    while peer.un_head != NULL:
        drop_unacked(peer)
    p = peer.out_head
    peer.out_head = peer.out_tail = NULL
    peer.out_count = 0
    while p != NULL:
        following = p.next_out
        if mc_bytes(p)[14] != CMD_OPTS or (kept == NULL and peer.head_written):
            p.next_out = NULL
            if peer.out_tail == NULL:
                peer.out_head = p
            else:
                peer.out_tail.next_out = p
            peer.out_tail = p
            peer.out_count += 1
        else:
            free(p)
        kept = p
        p = following
    peer.version = 0
    peer.state = MC_CLOSED
    peer.seq_send = peer.seq_next = peer.seq_init
    peer.ack_owed = 0
    peer.fin_sent = False
    peer.fin_seq = 0
    peer.broken = False


# Life and membership

cdef void mc_init(mc_peer* peer, uint32_t our_id, uint32_t node_id, uint32_t seq_init) noexcept nogil:
    memset(peer, 0, sizeof(mc_peer))
    peer.our_id, peer.node_id, peer.seq_init = our_id, node_id, seq_init
    reset(peer)


cdef void mc_free(mc_peer* peer) noexcept nogil:
    while peer.un_head != NULL:
        drop_unacked(peer)
    while peer.out_head != NULL:
        drop_out(peer)


cdef void mc_add_user(mc_peer* peer) noexcept nogil:
    """One more lockspace counts this node as a member."""
    if peer.users == 0 and peer.state != MC_ESTABLISHED:
        if peer.state != MC_CLOSED:
            say(peer, EV_RESET, <uint32_t>peer.state, 0)
            reset(peer)
        peer.state = MC_ESTABLISHED
    peer.users += 1


cdef void mc_remove_user(mc_peer* peer) noexcept nogil:
    """One lockspace less; with the last one a FIN that waits is answered."""
    if peer.users:
        peer.users -= 1
    if peer.users == 0 and peer.state == MC_CLOSE_WAIT:
        peer.state = MC_LAST_ACK
        send_fin(peer)


cdef void mc_shutdown(mc_peer* peer) noexcept nogil:
    """Begin to part: nothing is sent after this but the answer to what the peer still sends."""
    if peer.version != V_3_2:
        reset(peer)
    elif peer.state == MC_ESTABLISHED:
        peer.state = MC_FIN_WAIT1
        send_fin(peer)
    elif peer.state == MC_CLOSE_WAIT:
        peer.state = MC_LAST_ACK
        send_fin(peer)


cdef void mc_close(mc_peer* peer) noexcept nogil:
    """The node is gone (fenced, or it left): forget everything."""
    mc_free(peer)
    peer.head_written = 0
    peer.users = 0
    reset(peer)


# Sending

cdef int mc_send(mc_peer* peer, const uint8_t* packet, size_t size) noexcept nogil:
    cdef mc_packet* p
    if size < RCOM_LEN or size > MC_PACKET_MAX - MC_OPTS_LEN or get16(packet + 12) != size:
        return MC_NOT_A_PACKET
    if (packet[14] != CMD_MSG and packet[14] != CMD_RCOM) or size < least(packet[14]):
        return MC_NOT_A_PACKET
    if peer.fin_sent:
        say(peer, EV_NOT_SENT, 0, 0)
        return 0
    if peer.broken:
        return MC_NO_MEMORY
    if is_begin(packet, size) or peer.version == V_3_1:
        p = new_packet(peer, size)
        if p == NULL:
            return MC_NO_MEMORY
        memcpy(mc_bytes(p), packet, size)
        return 0
    if peer.version == 0:
        say(peer, EV_NO_VERSION, 0, 0)
        return 0
    if peer.un_bytes >= UNACKED_MAX:
        return MC_STUCK
    return send_numbered(peer, packet, size)


cdef void mc_acknowledge(mc_peer* peer) noexcept nogil:
    if peer.ack_owed and peer.state == MC_ESTABLISHED:
        send_ack(peer, peer.seq_next)
    peer.ack_owed = 0


cdef bint mc_output(mc_peer* peer) noexcept nogil:
    if peer.ack_owed and (peer.out_head != NULL or peer.ack_owed >= MC_ACK_AFTER):
        mc_acknowledge(peer)
    return peer.out_head != NULL


cdef void mc_written(mc_peer* peer, size_t count) noexcept nogil:
    count += peer.head_written
    while peer.out_head != NULL and count >= peer.out_head.size:
        count -= peer.out_head.size
        drop_out(peer)
    peer.head_written = <uint32_t>count if peer.out_head != NULL else 0


cdef void mc_reconnected(mc_peer* peer) noexcept nogil:
    """What is unacknowledged and no longer waits to be written goes to the front, in its order."""
    cdef mc_packet* p = peer.un_head
    cdef mc_packet* first = NULL
    cdef mc_packet* last = NULL
    peer.head_written = 0
    while p != NULL:
        if not p.in_out:
            p.in_out = True
            p.next_out = NULL
            if last == NULL:
                first = p
            else:
                last.next_out = p
            last = p
            peer.out_count += 1
            peer.retransmitted += 1
        p = p.next_unacked
    if last != NULL:
        last.next_out = peer.out_head
        if peer.out_head == NULL:
            peer.out_tail = last
        peer.out_head = first


# Receiving

cdef int mc_receive(mc_peer* peer, mc_stream* stream, mc_found* found) noexcept nogil:
    cdef uint32_t at = 0, length
    cdef int count = 0
    while stream.have - at >= MC_HEADER_LEN:
        length = get16(stream.data + at + 12)
        if length < MC_HEADER_LEN or length > MC_PACKET_MAX:
            stream.bad = True
            break
        if length > stream.have - at:
            break
        if take(peer, stream.data + at, length, &found[count]):
            found[count].at += at
            count += 1
        at += length
    stream.used = at
    return count


cdef void mc_shift(mc_stream* stream) noexcept nogil:
    """What was taken makes room."""
    if stream.used:
        memmove(stream.data, stream.data + stream.used, stream.have - stream.used)
        stream.have -= stream.used
        stream.used = 0


cdef bint take(mc_peer* peer, const uint8_t* p, uint32_t length, mc_found* found) noexcept nogil:
    """One packet; True when it is to be acted upon."""
    cdef uint32_t version = get32(p)
    found.at = 0
    found.size = length
    if get32(p + 8) != peer.node_id:
        refuse(peer, EV_SENDER, get32(p + 8), 0)
    elif version != V_3_1 and version != V_3_2:
        refuse(peer, EV_PACKET_VERSION, version, 0)
    elif (p[14] == CMD_RCOM and length < RCOM_LEN) or (p[14] == CMD_MSG and length < MSG_LEN):
        refuse(peer, EV_SHORT, p[14], length)
    elif not version_agrees(peer, p, length, version):
        return False
    elif version == V_3_1:
        if p[14] == CMD_MSG or p[14] == CMD_RCOM:
            return True
        refuse(peer, EV_COMMAND, p[14], 0)
    elif is_begin(p, length):
        return True
    elif p[14] == CMD_OPTS:
        return take_opts(peer, p, length, found)
    elif p[14] == CMD_ACK:
        take_ack(peer, get32(p + 4))
    else:
        refuse(peer, EV_COMMAND, p[14], 0)
    return False


cdef bint version_agrees(mc_peer* peer, const uint8_t* p, uint32_t length, uint32_t version) noexcept nogil:
    """Learn the version from the first words; refuse another one, and envelopes before it is known."""
    if is_begin(p, length):
        if peer.version and peer.version != version:
            refuse(peer, EV_OTHER_VERSION, version, peer.version)
            return False
        if peer.state != MC_ESTABLISHED:
            if peer.state != MC_CLOSED:
                say(peer, EV_RESET, <uint32_t>peer.state, 0)
                reset(peer)
            peer.state = MC_ESTABLISHED
        if peer.version == 0:
            peer.version = version
            say(peer, EV_VERSION, version, 0)
        return True
    if peer.version == version:
        return True
    if peer.version:
        refuse(peer, EV_OTHER_VERSION, version, peer.version)
    elif p[14] == CMD_OPTS and version == V_3_2 and peer.state == MC_ESTABLISHED and length >= MC_OPTS_LEN \
            and get32(p + 4) == peer.seq_next:
        # A kernel that our STATUS reached before its lockspace was there: its "not ready" comes in the first envelope.
        peer.version = version
        say(peer, EV_VERSION, version, 0)
        return True
    elif p[14] == CMD_OPTS and length >= MC_OPTS_LEN + MC_HEADER_LEN and p[16] == CMD_FIN and peer.state == MC_CLOSED:
        # The peer repeats its FIN because our ACK of it was lost when we had closed already.
        send_ack(peer, get32(p + 4) + 1)
    elif p[14] != CMD_ACK:
        refuse(peer, EV_EARLY, p[14], 0)
    return False


cdef void take_ack(mc_peer* peer, uint32_t expected) noexcept nogil:
    """The peer has everything before `expected`."""
    cdef uint32_t count = expected - (peer.seq_send - peer.un_count)
    if count > peer.un_count:
        # An old ACK is harmless; one of what was never sent is a lie.
        if <int32_t>count > 0:
            refuse(peer, EV_BAD_ACK, expected, peer.seq_send)
        return
    while count:
        drop_unacked(peer)
        count -= 1
    if peer.fin_sent and <int32_t>(expected - peer.fin_seq) > 0:
        if peer.state == MC_FIN_WAIT1:
            peer.state = MC_FIN_WAIT2
        elif peer.state == MC_CLOSING or peer.state == MC_LAST_ACK:
            reset(peer)


cdef bint over(mc_peer* peer) noexcept nogil:
    """Whether the peer has said FIN, or nothing yet."""
    return peer.state == MC_CLOSED or peer.state == MC_CLOSE_WAIT or peer.state == MC_LAST_ACK \
        or peer.state == MC_CLOSING


cdef bint take_opts(mc_peer* peer, const uint8_t* p, uint32_t length, mc_found* found) noexcept nogil:
    """An envelope: checked whole before its number counts."""
    cdef const uint8_t* inner
    cdef uint32_t seq = get32(p + 4), left, size
    cdef int32_t ahead = <int32_t>(seq - peer.seq_next)
    if length < MC_OPTS_LEN + MC_HEADER_LEN or get16(p + 18) > length - MC_OPTS_LEN - MC_HEADER_LEN:
        refuse(peer, EV_ENVELOPE, length, 0)
        return False
    left = length - MC_OPTS_LEN - get16(p + 18)
    inner = p + MC_OPTS_LEN + get16(p + 18)
    size = get16(inner + 12)
    if least(inner[14]) == 0 or p[16] != inner[14] or size < least(inner[14]) or size > left \
            or get32(inner + 8) != peer.node_id or get32(inner) != V_3_2:
        refuse(peer, EV_ENVELOPE, length, inner[14])
        return False
    if ahead < 0:
        peer.duplicates += 1
        send_ack(peer, peer.seq_next)
    elif ahead > 0:
        peer.gaps += 1
        say(peer, EV_GAP, seq, peer.seq_next)
    elif inner[14] == CMD_FIN:
        take_fin(peer)
    elif over(peer):
        refuse(peer, EV_AFTER_FIN, <uint32_t>peer.state, 0)
    else:
        peer.seq_next += 1
        peer.ack_owed += 1
        found.at = <uint32_t>(inner - p)
        found.size = size
        return True
    return False


cdef void take_fin(mc_peer* peer) noexcept nogil:
    """A FIN with the number that is expected."""
    if over(peer):
        refuse(peer, EV_FIN_STATE, <uint32_t>peer.state, 0)
        return
    peer.seq_next += 1
    peer.ack_owed = 0
    send_ack(peer, peer.seq_next)
    if peer.state == MC_ESTABLISHED:
        peer.state = MC_CLOSE_WAIT
        if peer.users == 0:
            peer.state = MC_LAST_ACK
            send_fin(peer)
    elif peer.state == MC_FIN_WAIT1:
        peer.state = MC_CLOSING
    else:
        reset(peer)


# For Python

def event_texts(list events not None):
    """(level, text) of (kind, a, b) triples."""
    return [("info" if kind in INFO else "warning",
             TEXTS[kind].format(a=a, b=b, state=STATE_NAMES[a] if a < len(STATE_NAMES) else a))
            for kind, a, b in events]


cdef class Stream:
    """The incoming half of one connection: what is left of a packet that has not come whole."""

    cdef mc_stream* s

    def __cinit__(self):
        self.s = <mc_stream*>malloc(sizeof(mc_stream))
        if self.s == NULL:
            raise MemoryError
        self.s.have = self.s.used = 0
        self.s.bad = False

    def __dealloc__(self):
        free(self.s)

    @property
    def pending_bytes(self):
        return self.s.have


cdef class Peer:
    """What is known of one other node, and what is to be sent to it.

    our_id, node_id: node ids; seq_init: first number of either direction (tests start near the overflow).
    """

    cdef mc_peer* p

    def __cinit__(self, uint32_t our_id, uint32_t node_id, uint32_t seq_init=0):
        self.p = <mc_peer*>calloc(1, sizeof(mc_peer))
        if self.p == NULL:
            raise MemoryError
        mc_init(self.p, our_id, node_id, seq_init)

    def __dealloc__(self):
        if self.p != NULL:
            mc_free(self.p)
            free(self.p)

    def add_user(self):
        """One more lockspace counts this node as a member."""
        mc_add_user(self.p)

    def remove_user(self):
        """One lockspace less; with the last one a FIN that waits is answered."""
        if self.p.users == 0:
            raise ValueError(f"node {self.p.node_id} has no user to remove")
        mc_remove_user(self.p)

    def shutdown(self):
        """Begin to part: nothing is sent after this but the answer to what the peer still sends."""
        mc_shutdown(self.p)

    def close(self):
        """The node is gone (fenced, or it left): forget everything."""
        mc_close(self.p)

    def send(self, bytes packet not None):
        """Queue one MSG or RCOM packet, header included.

        Raises ValueError for what is none, PeerStuck when the peer has long stopped to acknowledge, MemoryError.
        """
        cdef int code = mc_send(self.p, <const uint8_t*>PyBytes_AS_STRING(packet), <size_t>PyBytes_GET_SIZE(packet))
        if code == MC_NOT_A_PACKET:
            raise ValueError(f"a packet of {len(packet)} bytes cannot be sent")
        if code == MC_STUCK:
            raise PeerStuck(f"node {self.p.node_id} has not acknowledged {self.p.un_bytes} bytes")
        if code == MC_NO_MEMORY:
            raise MemoryError

    def acknowledge(self):
        """Queue the ACK that is owed, alone if need be."""
        mc_acknowledge(self.p)

    @property
    def has_output(self):
        """Whether there is something to write now; an ACK that may wait does not count."""
        return self.p.out_head != NULL or self.p.ack_owed >= MC_ACK_AFTER

    def output(self):
        """Everything that is to be written now, with the ACK that is owed; b"" for nothing. See `written`."""
        cdef mc_packet* p
        cdef size_t size = 0
        cdef bytes data
        cdef char* to
        if not mc_output(self.p):
            return b""
        p = self.p.out_head
        while p != NULL:
            size += p.size
            p = p.next_out
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(size - self.p.head_written))
        to = PyBytes_AS_STRING(data)
        size = self.p.head_written
        p = self.p.out_head
        while p != NULL:
            memcpy(to, mc_bytes(p) + size, p.size - size)
            to += p.size - size
            size = 0
            p = p.next_out
        return data

    def written(self, Py_ssize_t count):
        """That many bytes of the last `output` are on their way."""
        if count < 0:
            raise ValueError(f"{count} bytes written")
        mc_written(self.p, <size_t>count)

    def reconnected(self):
        """A new connection carries our half: what the old one may have lost goes again, in its order."""
        mc_reconnected(self.p)

    def receive(self, Stream stream not None, bytes data not None):
        """Bytes of a connection; the MSG and RCOM packets that are to be acted upon, in order.

        Raises BadStream when what comes next is no packet.
        """
        cdef mc_found found[MC_FOUND_MAX]
        cdef mc_stream* s = stream.s
        cdef Py_ssize_t at = 0, chunk, size = PyBytes_GET_SIZE(data)
        cdef int count, i
        packets = []
        while at < size:
            chunk = min(size - at, MC_STREAM_LEN - <Py_ssize_t>s.have)
            memcpy(s.data + s.have, PyBytes_AS_STRING(data) + at, <size_t>chunk)
            s.have += <uint32_t>chunk
            at += chunk
            count = mc_receive(self.p, s, found)
            for i in range(count):
                packets.append(PyBytes_FromStringAndSize(<char*>s.data + found[i].at, found[i].size))
            mc_shift(s)
            if s.bad:
                break
        if s.bad and not packets:
            raise BadStream(f"node {self.p.node_id}: a packet with an impossible length")
        return packets

    def take_events(self):
        """What is worth a line in the log since the last call: (level, text) pairs, 64 at most."""
        cdef uint32_t i
        found = [(self.p.events[i].kind, self.p.events[i].a, self.p.events[i].b) for i in range(self.p.n_events)]
        self.p.n_events = 0
        return event_texts(found)

    @property
    def our_id(self):
        return self.p.our_id

    @property
    def node_id(self):
        return self.p.node_id

    @property
    def version(self):
        return self.p.version

    @property
    def state(self):
        return self.p.state

    @property
    def state_name(self):
        return STATE_NAMES[self.p.state]

    @property
    def users(self):
        return self.p.users

    @property
    def seq_send(self):
        return self.p.seq_send

    @property
    def seq_next(self):
        return self.p.seq_next

    @property
    def ack_owed(self):
        return self.p.ack_owed

    @property
    def unacked_count(self):
        return self.p.un_count

    @property
    def unacked_bytes(self):
        return self.p.un_bytes

    @property
    def retransmitted(self):
        return self.p.retransmitted

    @property
    def duplicates(self):
        return self.p.duplicates

    @property
    def gaps(self):
        return self.p.gaps

    @property
    def refused(self):
        return self.p.refused
