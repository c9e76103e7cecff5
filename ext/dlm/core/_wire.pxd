"""Packets of the kernel's DLM protocol 3.2: layout, decoding with every check, encoding.

The structs are little-endian and packed, exactly as they travel; wmsg, wrcom and wlock are the same in the machine's
order, and nothing outside _wire touches the former. Source: fs/dlm/dlm_internal.h, kernel 6.1.
"""
from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    WIRE_VERSION = 0x00030002
    WIRE_MAJOR = 0x00030000
    RESNAME_MAX = 64
    LVB_MAX = 512
    # A packet without midcomms' envelope is never longer (DLM_MAX_APP_BUFSIZE).
    PACKET_MAX = 4072
    HEADER_SIZE = 16
    MSG_SIZE = 88
    RCOM_SIZE = 48
    STATUS_SIZE = 16
    CONFIG_SIZE = 32
    SLOT_SIZE = 16
    LOCK_SIZE = 108

    CMD_MSG = 1
    CMD_RCOM = 2

    MSG_REQUEST = 1
    MSG_CONVERT = 2
    MSG_UNLOCK = 3
    MSG_CANCEL = 4
    MSG_REQUEST_REPLY = 5
    MSG_CONVERT_REPLY = 6
    MSG_UNLOCK_REPLY = 7
    MSG_CANCEL_REPLY = 8
    MSG_GRANT = 9
    MSG_BAST = 10
    MSG_LOOKUP = 11
    MSG_REMOVE = 12
    MSG_LOOKUP_REPLY = 13
    MSG_PURGE = 14
    MSG_LAST = 14

    RCOM_STATUS = 1
    RCOM_NAMES = 2
    RCOM_LOOKUP = 3
    RCOM_LOCK = 4
    RCOM_STATUS_REPLY = 5
    RCOM_NAMES_REPLY = 6
    RCOM_LOOKUP_REPLY = 7
    RCOM_LOCK_REPLY = 8
    RCOM_LAST = 8

    RS_NODES = 0x01
    RS_NODES_ALL = 0x02
    RS_DIR = 0x04
    RS_DIR_ALL = 0x08
    RS_LOCKS = 0x10
    RS_LOCKS_ALL = 0x20
    RS_DONE = 0x40
    RS_DONE_ALL = 0x80
    RSF_NEED_SLOTS = 1

    # m_asts and rl_asts: which completion calls the owner of a lock wants.
    ASTS_CAST = 1
    ASTS_BAST = 2
    # Of m_flags and rl_flags the lower half is shared by the two ends of a lock, the rest is nobody's business.
    FLAGS_SHARED = 0xffff
    IFL_USER = 1
    # Of rl_flags, ours alone: the value that comes along was said to be void. A kernel pays no heed to it.
    RLF_LVB_INVALID = 0x8000

# Why a packet was refused; wire_reason() has the words.
cdef enum:
    BAD_NONE = 0
    BAD_SHORT
    BAD_LENGTH
    BAD_VERSION
    BAD_COMMAND
    BAD_TYPE
    BAD_NODE
    BAD_NAME
    BAD_LVB
    BAD_MODE
    BAD_STATUS
    BAD_SLOTS

cdef packed struct dlm_header:
    uint32_t h_version
    uint32_t h_lockspace
    uint32_t h_nodeid
    uint16_t h_length
    uint8_t h_cmd
    uint8_t h_pad

cdef packed struct dlm_message:
    dlm_header m_header
    uint32_t m_type
    uint32_t m_nodeid
    uint32_t m_pid
    uint32_t m_lkid
    uint32_t m_remid
    uint32_t m_parent_lkid
    uint32_t m_parent_remid
    uint32_t m_exflags
    uint32_t m_sbflags
    uint32_t m_flags
    uint32_t m_lvbseq
    uint32_t m_hash
    uint32_t m_status
    uint32_t m_grmode
    uint32_t m_rqmode
    uint32_t m_bastmode
    uint32_t m_asts
    uint32_t m_result

cdef packed struct dlm_rcom:
    dlm_header rc_header
    uint32_t rc_type
    uint32_t rc_result
    uint64_t rc_id
    uint64_t rc_seq
    uint64_t rc_seq_reply

cdef packed struct rcom_status:
    uint32_t rs_flags
    uint32_t rs_unused1
    uint64_t rs_unused2

cdef packed struct rcom_config:
    uint32_t rf_lvblen
    uint32_t rf_lsflags
    uint32_t rf_flags
    uint16_t rf_our_slot
    uint16_t rf_num_slots
    uint32_t rf_generation
    uint32_t rf_unused1
    uint64_t rf_unused2

cdef packed struct rcom_slot:
    uint32_t ro_nodeid
    uint16_t ro_slot
    uint16_t ro_unused1
    uint64_t ro_unused2

cdef packed struct rcom_lock:
    uint32_t rl_ownpid
    uint32_t rl_lkid
    uint32_t rl_remid
    uint32_t rl_parent_lkid
    uint32_t rl_parent_remid
    uint32_t rl_exflags
    uint32_t rl_flags
    uint32_t rl_lvbseq
    uint32_t rl_result
    int8_t rl_rqmode
    int8_t rl_grmode
    int8_t rl_status
    int8_t rl_asts
    uint16_t rl_wait_type
    uint16_t rl_namelen
    char rl_name[64]

cdef struct wmsg:
    uint32_t version
    uint32_t lockspace
    int32_t from_nodeid
    int32_t type
    int32_t m_nodeid
    uint32_t pid
    uint32_t lkid
    uint32_t remid
    uint32_t exflags
    uint32_t sbflags
    uint32_t flags
    uint32_t lvbseq
    uint32_t hash
    int32_t status
    int32_t grmode
    int32_t rqmode
    int32_t bastmode
    uint32_t asts
    int32_t result
    # Within the packet; as long as that.
    const uint8_t* extra
    uint32_t extra_len

cdef struct wlock:
    uint32_t ownpid
    uint32_t lkid
    uint32_t remid
    uint32_t parent_lkid
    uint32_t exflags
    uint32_t flags
    uint32_t lvbseq
    int32_t result
    int32_t rqmode
    int32_t grmode
    int32_t status
    uint32_t asts
    int32_t wait_type
    const uint8_t* name
    uint32_t name_len
    const uint8_t* lvb
    uint32_t lvb_len

cdef struct wconfig:
    uint32_t lvblen
    uint32_t lsflags
    uint16_t our_slot
    uint16_t num_slots
    uint32_t generation

cdef struct wrcom:
    uint32_t version
    uint32_t lockspace
    int32_t from_nodeid
    int32_t type
    int32_t result
    uint64_t id
    uint64_t seq
    uint64_t seq_reply
    const uint8_t* buf
    uint32_t buf_len
    # By type: STATUS, STATUS_REPLY, LOCK and LOCK_REPLY.
    uint32_t status_flags
    wconfig config
    wlock lock

# The hash that finds the directory node and goes along in every message.
cdef uint32_t jhash(const uint8_t* key, uint32_t length) noexcept nogil

# Both return 0 or a BAD_ reason and look at nothing outside data[:size].
cdef int wire_parse_msg(const uint8_t* data, size_t size, wmsg* out) noexcept nogil
cdef int wire_parse_rcom(const uint8_t* data, size_t size, wrcom* out) noexcept nogil
# The command, or minus a BAD_ reason.
cdef int wire_command(const uint8_t* data, size_t size) noexcept nogil
# STATUS and NAMES and their replies travel outside of midcomms' envelope.
cdef bint wire_is_bare(const uint8_t* data, size_t size) noexcept nogil
cdef const char* wire_reason(int bad) noexcept nogil

# The size of the packet that is written; `data` has room for PACKET_MAX bytes.
cdef uint32_t wire_put_msg(uint8_t* data, const wmsg* m) noexcept nogil
# Header and rcom part only; `buf_len` bytes of body follow, which the caller writes.
cdef uint32_t wire_put_rcom(uint8_t* data, const wrcom* rc) noexcept nogil
cdef void wire_put_config(uint8_t* data, const wconfig* c) noexcept nogil
cdef void wire_put_slot(uint8_t* data, uint32_t nodeid, uint16_t slot) noexcept nogil
cdef void wire_get_slot(const uint8_t* data, uint32_t* nodeid, uint16_t* slot) noexcept nogil
# LOCK_SIZE bytes and the lock value block.
cdef uint32_t wire_put_lock(uint8_t* data, const wlock* l) noexcept nogil
