"""Decoding and encoding of packets. What passes wire_parse_* has modes, lengths and types in range."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcpy, memset
from dlm.core._base cimport E_SRCH, htole16, htole32, htole64, le16toh, le32toh, le64toh

from dlm.core.packets import Config, Message, MsgType, Rcom, RcomLock, RcomType, Slot


cdef inline uint32_t rol(uint32_t x, int n) noexcept nogil:
    return (x << n) | (x >> (32 - n))


cdef inline uint32_t load_u32(const uint8_t* p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, 4)
    return le32toh(x)


cdef uint32_t jhash(const uint8_t* key, uint32_t length) noexcept nogil:
    """Bob Jenkins' lookup3 (public domain) as the kernel's jhash() with an initial value of 0."""
    cdef uint32_t a = 0xdeadbeefu + length
    cdef uint32_t b = a
    cdef uint32_t c = a
    cdef uint8_t last[12]
    while length > 12:
        a += load_u32(key)
        b += load_u32(key + 4)
        c += load_u32(key + 8)
        a -= c; a ^= rol(c, 4); c += b
        b -= a; b ^= rol(a, 6); a += c
        c -= b; c ^= rol(b, 8); b += a
        a -= c; a ^= rol(c, 16); c += b
        b -= a; b ^= rol(a, 19); a += c
        c -= b; c ^= rol(b, 4); b += a
        key += 12
        length -= 12
    if length == 0:
        return c
    memset(last, 0, 12)
    memcpy(last, key, length)
    a += load_u32(last)
    b += load_u32(last + 4)
    c += load_u32(last + 8)
    c ^= b; c -= rol(b, 14)
    a ^= c; a -= rol(c, 11)
    b ^= a; b -= rol(a, 25)
    c ^= b; c -= rol(b, 16)
    a ^= c; a -= rol(c, 4)
    b ^= a; b -= rol(a, 14)
    c ^= b; c -= rol(b, 24)
    return c


cdef const char* wire_reason(int bad) noexcept nogil:
    if bad == BAD_SHORT:
        return b"shorter than its kind of packet"
    if bad == BAD_LENGTH:
        return b"h_length is not the length of the packet, or too long"
    if bad == BAD_VERSION:
        return b"not protocol version 3"
    if bad == BAD_COMMAND:
        return b"h_cmd is neither MSG nor RCOM"
    if bad == BAD_TYPE:
        return b"no such type of message"
    if bad == BAD_NODE:
        return b"h_nodeid is no node"
    if bad == BAD_NAME:
        return b"the name is too long or longer than the packet"
    if bad == BAD_LVB:
        return b"the lock value block is too long"
    if bad == BAD_MODE:
        return b"no such lock mode"
    if bad == BAD_STATUS:
        return b"no such state of a lock"
    if bad == BAD_SLOTS:
        return b"more slots than the packet holds"
    return b"fine"


cdef inline bint is_mode(int32_t mode) noexcept nogil:
    return 0 <= mode <= 5


cdef inline bint is_mode_or_iv(int32_t mode) noexcept nogil:
    return -1 <= mode <= 5


cdef int wire_command(const uint8_t* data, size_t size) noexcept nogil:
    cdef const dlm_header* h = <const dlm_header*>data
    if size < HEADER_SIZE:
        return -BAD_SHORT
    if size > PACKET_MAX or le16toh(h.h_length) != size:
        return -BAD_LENGTH
    if (le32toh(h.h_version) & 0xffff0000u) != WIRE_MAJOR:
        return -BAD_VERSION
    if <int32_t>le32toh(h.h_nodeid) <= 0:
        return -BAD_NODE
    if h.h_cmd != CMD_MSG and h.h_cmd != CMD_RCOM:
        return -BAD_COMMAND
    return h.h_cmd


cdef bint wire_is_bare(const uint8_t* data, size_t size) noexcept nogil:
    cdef uint32_t kind
    if wire_command(data, size) != CMD_RCOM or size < RCOM_SIZE:
        return False
    kind = le32toh((<const dlm_rcom*>data).rc_type)
    return kind in (RCOM_STATUS, RCOM_STATUS_REPLY, RCOM_NAMES, RCOM_NAMES_REPLY)


cdef int check_msg(const wmsg* m) noexcept nogil:
    """What the engine relies on for each type."""
    if m.type < 1 or m.type > MSG_LAST:
        return BAD_TYPE
    if m.type in (MSG_REQUEST, MSG_LOOKUP, MSG_REMOVE):
        if m.extra_len < 1 or m.extra_len > RESNAME_MAX:
            return BAD_NAME
    elif m.extra_len > LVB_MAX and m.type != MSG_LOOKUP_REPLY:
        return BAD_LVB
    if not is_mode_or_iv(m.grmode) or not is_mode_or_iv(m.rqmode):
        return BAD_MODE
    if m.type in (MSG_REQUEST, MSG_LOOKUP, MSG_CONVERT) and not is_mode(m.rqmode):
        return BAD_MODE
    if m.type == MSG_BAST and not is_mode(m.bastmode):
        return BAD_MODE
    return 0


cdef int wire_parse_msg(const uint8_t* data, size_t size, wmsg* out) noexcept nogil:
    cdef const dlm_message* p = <const dlm_message*>data
    cdef int cmd = wire_command(data, size)
    if cmd < 0:
        return -cmd
    if cmd != CMD_MSG:
        return BAD_COMMAND
    if size < MSG_SIZE:
        return BAD_SHORT
    out.version = le32toh(p.m_header.h_version)
    out.lockspace = le32toh(p.m_header.h_lockspace)
    out.from_nodeid = <int32_t>le32toh(p.m_header.h_nodeid)
    out.type = <int32_t>le32toh(p.m_type)
    out.m_nodeid = <int32_t>le32toh(p.m_nodeid)
    out.pid = le32toh(p.m_pid)
    out.lkid = le32toh(p.m_lkid)
    out.remid = le32toh(p.m_remid)
    out.exflags = le32toh(p.m_exflags)
    out.sbflags = le32toh(p.m_sbflags)
    out.flags = le32toh(p.m_flags)
    out.lvbseq = le32toh(p.m_lvbseq)
    out.hash = le32toh(p.m_hash)
    out.status = <int32_t>le32toh(p.m_status)
    out.grmode = <int32_t>le32toh(p.m_grmode)
    out.rqmode = <int32_t>le32toh(p.m_rqmode)
    out.bastmode = <int32_t>le32toh(p.m_bastmode)
    out.asts = le32toh(p.m_asts)
    out.result = <int32_t>le32toh(p.m_result)
    out.extra = data + MSG_SIZE
    out.extra_len = <uint32_t>(size - MSG_SIZE)
    return check_msg(out)


cdef int parse_config(wrcom* rc) noexcept nogil:
    cdef const rcom_config* f = <const rcom_config*>rc.buf
    # A node that does not know the lockspace yet says nothing of its configuration.
    if rc.buf_len < CONFIG_SIZE:
        return BAD_SHORT
    rc.config.lvblen = le32toh(f.rf_lvblen)
    rc.config.lsflags = le32toh(f.rf_lsflags)
    rc.config.our_slot = le16toh(f.rf_our_slot)
    rc.config.num_slots = le16toh(f.rf_num_slots)
    rc.config.generation = le32toh(f.rf_generation)
    if <uint32_t>rc.config.num_slots * SLOT_SIZE > rc.buf_len - CONFIG_SIZE:
        return BAD_SLOTS
    return 0


cdef int parse_lock(wrcom* rc) noexcept nogil:
    cdef const rcom_lock* p = <const rcom_lock*>rc.buf
    cdef wlock* l = &rc.lock
    if rc.buf_len < LOCK_SIZE:
        return BAD_SHORT
    l.ownpid = le32toh(p.rl_ownpid)
    l.lkid = le32toh(p.rl_lkid)
    l.remid = le32toh(p.rl_remid)
    l.parent_lkid = le32toh(p.rl_parent_lkid)
    l.exflags = le32toh(p.rl_exflags)
    l.flags = le32toh(p.rl_flags)
    l.lvbseq = le32toh(p.rl_lvbseq)
    l.result = <int32_t>le32toh(p.rl_result)
    l.rqmode = p.rl_rqmode
    l.grmode = p.rl_grmode
    l.status = p.rl_status
    l.asts = <uint32_t>p.rl_asts & 0xff
    l.wait_type = le16toh(p.rl_wait_type)
    l.name = <const uint8_t*>p.rl_name
    l.name_len = le16toh(p.rl_namelen)
    l.lvb = rc.buf + LOCK_SIZE
    l.lvb_len = rc.buf_len - LOCK_SIZE
    if l.name_len < 1 or l.name_len > RESNAME_MAX:
        return BAD_NAME
    if l.lvb_len > LVB_MAX:
        return BAD_LVB
    if not is_mode_or_iv(l.rqmode) or not is_mode_or_iv(l.grmode):
        return BAD_MODE
    if l.status < 0 or l.status > 3:
        return BAD_STATUS
    return 0


cdef int wire_parse_rcom(const uint8_t* data, size_t size, wrcom* out) noexcept nogil:
    cdef const dlm_rcom* p = <const dlm_rcom*>data
    cdef int cmd = wire_command(data, size)
    if cmd < 0:
        return -cmd
    if cmd != CMD_RCOM:
        return BAD_COMMAND
    if size < RCOM_SIZE:
        return BAD_SHORT
    out.version = le32toh(p.rc_header.h_version)
    out.lockspace = le32toh(p.rc_header.h_lockspace)
    out.from_nodeid = <int32_t>le32toh(p.rc_header.h_nodeid)
    out.type = <int32_t>le32toh(p.rc_type)
    out.result = <int32_t>le32toh(p.rc_result)
    out.id = le64toh(p.rc_id)
    out.seq = le64toh(p.rc_seq)
    out.seq_reply = le64toh(p.rc_seq_reply)
    out.buf = data + RCOM_SIZE
    out.buf_len = <uint32_t>(size - RCOM_SIZE)
    out.status_flags = 0
    if out.type < 1 or out.type > RCOM_LAST:
        return BAD_TYPE
    if out.type == RCOM_STATUS:
        # Protocol 3.0 asks without a word about slots.
        if out.buf_len >= STATUS_SIZE:
            out.status_flags = le32toh((<const rcom_status*>out.buf).rs_flags)
    elif out.type == RCOM_STATUS_REPLY:
        return parse_config(out)
    elif out.type == RCOM_NAMES:
        if out.buf_len > RESNAME_MAX:
            return BAD_NAME
    elif out.type == RCOM_LOOKUP:
        if out.buf_len < 1 or out.buf_len > RESNAME_MAX:
            return BAD_NAME
    elif out.type == RCOM_LOCK or out.type == RCOM_LOCK_REPLY:
        return parse_lock(out)
    return 0


cdef void put_header(dlm_header* h, uint32_t version, uint32_t lockspace, int32_t nodeid, uint32_t size,
                     uint8_t cmd) noexcept nogil:
    h.h_version = htole32(version)
    h.h_lockspace = htole32(lockspace)
    h.h_nodeid = htole32(<uint32_t>nodeid)
    h.h_length = htole16(<uint16_t>size)
    h.h_cmd = cmd
    h.h_pad = 0


cdef uint32_t wire_put_msg(uint8_t* data, const wmsg* m) noexcept nogil:
    cdef dlm_message* p = <dlm_message*>data
    cdef uint32_t size = MSG_SIZE + m.extra_len
    put_header(&p.m_header, m.version, m.lockspace, m.from_nodeid, size, CMD_MSG)
    p.m_type = htole32(<uint32_t>m.type)
    p.m_nodeid = htole32(<uint32_t>m.m_nodeid)
    p.m_pid = htole32(m.pid)
    p.m_lkid = htole32(m.lkid)
    p.m_remid = htole32(m.remid)
    p.m_parent_lkid = 0
    p.m_parent_remid = 0
    p.m_exflags = htole32(m.exflags)
    p.m_sbflags = htole32(m.sbflags)
    p.m_flags = htole32(m.flags)
    p.m_lvbseq = htole32(m.lvbseq)
    p.m_hash = htole32(m.hash)
    p.m_status = htole32(<uint32_t>m.status)
    p.m_grmode = htole32(<uint32_t>m.grmode)
    p.m_rqmode = htole32(<uint32_t>m.rqmode)
    p.m_bastmode = htole32(<uint32_t>m.bastmode)
    p.m_asts = htole32(m.asts)
    p.m_result = htole32(<uint32_t>m.result)
    if m.extra_len:
        if m.extra != NULL:
            memcpy(data + MSG_SIZE, m.extra, m.extra_len)
        else:
            memset(data + MSG_SIZE, 0, m.extra_len)
    return size


cdef uint32_t wire_put_rcom(uint8_t* data, const wrcom* rc) noexcept nogil:
    cdef dlm_rcom* p = <dlm_rcom*>data
    cdef uint32_t size = RCOM_SIZE + rc.buf_len
    put_header(&p.rc_header, rc.version, rc.lockspace, rc.from_nodeid, size, CMD_RCOM)
    p.rc_type = htole32(<uint32_t>rc.type)
    p.rc_result = htole32(<uint32_t>rc.result)
    p.rc_id = htole64(rc.id)
    p.rc_seq = htole64(rc.seq)
    p.rc_seq_reply = htole64(rc.seq_reply)
    return size


cdef void wire_put_config(uint8_t* data, const wconfig* c) noexcept nogil:
    cdef rcom_config* f = <rcom_config*>data
    memset(data, 0, CONFIG_SIZE)
    f.rf_lvblen = htole32(c.lvblen)
    f.rf_lsflags = htole32(c.lsflags)
    f.rf_our_slot = htole16(c.our_slot)
    f.rf_num_slots = htole16(c.num_slots)
    f.rf_generation = htole32(c.generation)


cdef void wire_put_slot(uint8_t* data, uint32_t nodeid, uint16_t slot) noexcept nogil:
    memset(data, 0, SLOT_SIZE)
    (<rcom_slot*>data).ro_nodeid = htole32(nodeid)
    (<rcom_slot*>data).ro_slot = htole16(slot)


cdef void wire_get_slot(const uint8_t* data, uint32_t* nodeid, uint16_t* slot) noexcept nogil:
    nodeid[0] = le32toh((<const rcom_slot*>data).ro_nodeid)
    slot[0] = le16toh((<const rcom_slot*>data).ro_slot)


cdef uint32_t wire_put_lock(uint8_t* data, const wlock* l) noexcept nogil:
    cdef rcom_lock* p = <rcom_lock*>data
    memset(data, 0, LOCK_SIZE)
    p.rl_ownpid = htole32(l.ownpid)
    p.rl_lkid = htole32(l.lkid)
    p.rl_remid = htole32(l.remid)
    p.rl_exflags = htole32(l.exflags)
    p.rl_flags = htole32(l.flags)
    p.rl_lvbseq = htole32(l.lvbseq)
    p.rl_result = htole32(<uint32_t>l.result)
    p.rl_rqmode = <int8_t>l.rqmode
    p.rl_grmode = <int8_t>l.grmode
    p.rl_status = <int8_t>l.status
    p.rl_asts = <int8_t>l.asts
    p.rl_wait_type = htole16(<uint16_t>l.wait_type)
    p.rl_namelen = htole16(<uint16_t>l.name_len)
    memcpy(p.rl_name, l.name, l.name_len)
    if l.lvb_len:
        memcpy(data + LOCK_SIZE, l.lvb, l.lvb_len)
    return LOCK_SIZE + l.lvb_len


# ---- the edge for Python: tests, printing, transports

def name_hash(bytes name not None):
    """The kernel's jhash of a resource name."""
    return jhash(<const uint8_t*>PyBytes_AS_STRING(name), <uint32_t>PyBytes_GET_SIZE(name))


def is_bare(bytes packet not None):
    """Whether the packet travels outside of midcomms' envelope (STATUS, NAMES and their replies)."""
    return wire_is_bare(<const uint8_t*>PyBytes_AS_STRING(packet), <size_t>PyBytes_GET_SIZE(packet))


def check(bytes packet not None):
    """None, or why the packet is refused."""
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packet)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(packet)
    cdef wmsg m
    cdef wrcom rc
    cdef int bad = wire_command(data, size)
    if bad == CMD_MSG:
        bad = wire_parse_msg(data, size, &m)
    elif bad == CMD_RCOM:
        bad = wire_parse_rcom(data, size, &rc)
    else:
        bad = -bad
    return wire_reason(bad).decode() if bad else None


cdef object body_of(const wrcom* rc):
    cdef uint32_t nodeid, i
    cdef uint16_t slot
    cdef const wlock* l = &rc.lock
    if rc.type == RCOM_STATUS:
        return bool(rc.status_flags & RSF_NEED_SLOTS)
    if rc.type == RCOM_STATUS_REPLY:
        slots = []
        for i in range(rc.config.num_slots):
            wire_get_slot(rc.buf + CONFIG_SIZE + i * SLOT_SIZE, &nodeid, &slot)
            slots.append(Slot(nodeid, slot))
        return Config(rc.config.lvblen, rc.config.lsflags, rc.config.our_slot, rc.config.generation, tuple(slots))
    if rc.type == RCOM_LOCK or rc.type == RCOM_LOCK_REPLY:
        return RcomLock(lkid=l.lkid, name=l.name[:l.name_len], ownpid=l.ownpid, remid=l.remid, exflags=l.exflags,
                        flags=l.flags, lvbseq=l.lvbseq, result=l.result, rqmode=l.rqmode, grmode=l.grmode,
                        status=l.status, asts=l.asts, wait_type=l.wait_type, lvb=l.lvb[:l.lvb_len])
    if rc.type == RCOM_LOOKUP_REPLY:
        return None
    return rc.buf[:rc.buf_len]


def unpack(bytes packet not None):
    """A Message or an Rcom.

    Raises: ValueError (what is wrong) for anything that the engine would refuse.
    """
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packet)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(packet)
    cdef wmsg m
    cdef wrcom rc
    bad = check(packet)
    if bad is not None:
        raise ValueError(bad)
    if wire_command(data, size) == CMD_MSG:
        wire_parse_msg(data, size, &m)
        return Message(lockspace=m.lockspace, nodeid=m.from_nodeid, type=MsgType(m.type), m_nodeid=m.m_nodeid,
                       pid=m.pid, lkid=m.lkid, remid=m.remid, exflags=m.exflags, sbflags=m.sbflags, flags=m.flags,
                       lvbseq=m.lvbseq, hash=m.hash, status=m.status, grmode=m.grmode, rqmode=m.rqmode,
                       bastmode=m.bastmode, asts=m.asts, result=m.result, extra=m.extra[:m.extra_len],
                       version=m.version)
    wire_parse_rcom(data, size, &rc)
    return Rcom(lockspace=rc.lockspace, nodeid=rc.from_nodeid, type=RcomType(rc.type), result=rc.result, id=rc.id,
                seq=rc.seq, seq_reply=rc.seq_reply, body=body_of(&rc), version=rc.version)


cdef bytes pack_message(object msg):
    cdef uint8_t data[PACKET_MAX]
    cdef wmsg m
    cdef bytes extra = msg.extra
    if len(extra) > PACKET_MAX - MSG_SIZE:
        raise ValueError(f"{len(extra)} bytes of name or value in a message")
    m.version, m.lockspace, m.from_nodeid, m.type = msg.version, msg.lockspace, msg.nodeid, msg.type
    m.m_nodeid, m.pid, m.lkid, m.remid = msg.m_nodeid, msg.pid, msg.lkid, msg.remid
    m.exflags, m.sbflags, m.flags, m.lvbseq, m.hash = msg.exflags, msg.sbflags, msg.flags, msg.lvbseq, msg.hash
    m.status, m.grmode, m.rqmode, m.bastmode = msg.status, msg.grmode, msg.rqmode, msg.bastmode
    m.asts, m.result = msg.asts, msg.result
    m.extra = <const uint8_t*>PyBytes_AS_STRING(extra)
    m.extra_len = <uint32_t>len(extra)
    return (<char*>data)[:wire_put_msg(data, &m)]


cdef uint32_t pack_body(uint8_t* out, object rcom) except? 0xffffffff:
    """Writes the body behind the rcom part; how long it is."""
    cdef wconfig c
    cdef wlock l
    cdef uint32_t size = 0
    cdef bytes name, lvb
    body = rcom.body
    if rcom.type == RCOM_STATUS:
        memset(out, 0, STATUS_SIZE)
        (<rcom_status*>out).rs_flags = htole32(RSF_NEED_SLOTS if body else 0)
        return STATUS_SIZE
    if isinstance(body, Config):
        if len(body.slots) * SLOT_SIZE > PACKET_MAX - RCOM_SIZE - CONFIG_SIZE:
            raise ValueError(f"{len(body.slots)} slots do not fit into a packet")
        c.lvblen, c.lsflags, c.our_slot, c.generation = body.lvblen, body.lsflags, body.our_slot, body.generation
        c.num_slots = <uint16_t>len(body.slots)
        wire_put_config(out, &c)
        size = CONFIG_SIZE
        for slot in body.slots:
            wire_put_slot(out + size, slot.nodeid, slot.slot)
            size += SLOT_SIZE
        return size
    if isinstance(body, RcomLock):
        name, lvb = body.name, body.lvb
        if len(name) > RESNAME_MAX or len(lvb) > LVB_MAX:
            raise ValueError("the name or the lock value block is too long")
        l.ownpid, l.lkid, l.remid, l.exflags, l.flags = body.ownpid, body.lkid, body.remid, body.exflags, body.flags
        l.lvbseq, l.result, l.rqmode, l.grmode = body.lvbseq, body.result, body.rqmode, body.grmode
        l.status, l.asts, l.wait_type = body.status, body.asts, body.wait_type
        l.name, l.name_len = <const uint8_t*>PyBytes_AS_STRING(name), <uint32_t>len(name)
        l.lvb, l.lvb_len = <const uint8_t*>PyBytes_AS_STRING(lvb), <uint32_t>len(lvb)
        return wire_put_lock(out, &l)
    if body:
        name = body
        if len(name) > PACKET_MAX - RCOM_SIZE:
            raise ValueError(f"{len(name)} bytes do not fit into a packet")
        memcpy(out, PyBytes_AS_STRING(name), len(name))
        return <uint32_t>len(name)
    return 0


def pack(packet not None):
    """The bytes of a Message or an Rcom. Nothing is checked but sizes: tests send nonsense too."""
    cdef uint8_t data[PACKET_MAX]
    cdef wrcom rc
    if isinstance(packet, Message):
        return pack_message(packet)
    rc.version, rc.lockspace, rc.from_nodeid, rc.type = packet.version, packet.lockspace, packet.nodeid, packet.type
    rc.result, rc.id, rc.seq, rc.seq_reply = packet.result, packet.id, packet.seq, packet.seq_reply
    rc.buf_len = pack_body(data + RCOM_SIZE, packet)
    return (<char*>data)[:wire_put_rcom(data, &rc)]


def not_ready(bytes packet not None, int our_nodeid):
    """The answer of a node to STATUS for a lockspace that it does not have (yet): -ESRCH, or None for other packets.

    Source: fs/dlm/rcom.c, where it is the one STATUS_REPLY that travels within the envelope.
    """
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packet)
    cdef wrcom rc
    if wire_command(data, <size_t>PyBytes_GET_SIZE(packet)) != CMD_RCOM:
        return None
    if wire_parse_rcom(data, <size_t>PyBytes_GET_SIZE(packet), &rc) or rc.type != RCOM_STATUS:
        return None
    return pack(Rcom(lockspace=rc.lockspace, nodeid=our_nodeid, type=RcomType.STATUS_REPLY, result=-E_SRCH, id=rc.id,
                     seq_reply=rc.seq, body=Config(lvblen=0xffffffff, lsflags=0)))
