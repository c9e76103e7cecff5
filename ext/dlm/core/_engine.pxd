"""The structures of a lockspace. One mutex protects all of it; functions that need it say so by taking a dlm_ls*.

Names are the kernel's: an rsb is a resource, an lkb a lock or request on it. An lkb is of one of three kinds:
  local copy    mastered here and owned here        nodeid == 0, not LKB_MSTCPY
  process copy  owned here, mastered elsewhere      nodeid = the master, not LKB_MSTCPY
  master copy   mastered here, owned elsewhere      nodeid = the owner, LKB_MSTCPY
Source: fs/dlm/dlm_internal.h and lock.c, kernel 6.1.
"""
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from dlm.core._base cimport dlink, pthread_mutex_t

cdef enum:
    MODE_IV = -1
    MODE_NL = 0
    MODE_CR = 1
    MODE_CW = 2
    MODE_PR = 3
    MODE_PW = 4
    MODE_EX = 5

    LKF_NOQUEUE = 0x1
    LKF_CANCEL = 0x2
    LKF_CONVERT = 0x4
    LKF_VALBLK = 0x8
    LKF_QUECVT = 0x10
    LKF_IVVALBLK = 0x20
    LKF_CONVDEADLK = 0x40
    LKF_PERSISTENT = 0x80
    LKF_NODLCKWT = 0x100
    LKF_EXPEDITE = 0x400
    LKF_NOQUEUEBAST = 0x800
    LKF_HEADQUE = 0x1000
    LKF_NOORDER = 0x2000
    LKF_ALTPR = 0x8000
    LKF_ALTCW = 0x10000
    LKF_FORCEUNLOCK = 0x20000

    SBF_DEMOTED = 1
    SBF_VALNOTVALID = 2
    SBF_ALTMODE = 4

    # lkb.status: the queue that it is on; 0 is none.
    STS_WAITING = 1
    STS_GRANTED = 2
    STS_CONVERT = 3

    # lkb.flags above the half that travels.
    LKB_MSTCPY = 0x10000
    LKB_RESEND = 0x20000
    LKB_OVERLAP_UNLOCK = 0x80000
    LKB_OVERLAP_CANCEL = 0x100000
    LKB_DEADLOCK_CANCEL = 0x1000000
    # What the lock has read is void; it must not become the value of a new master.
    LKB_LVB_INVALID = 0x2000000
    # In recovery: what is granted was not known, and has been made up.
    LKB_MODE_GUESSED = 0x4000000

    RSB_MASTER_UNCERTAIN = 0x1
    RSB_VALNOTVALID = 0x2
    RSB_NEW_MASTER = 0x4
    RSB_NEW_MASTER2 = 0x8
    RSB_RECOVER_CONVERT = 0x10
    RSB_RECOVER_GRANT = 0x20
    RSB_RECOVER_LVB_INVAL = 0x40

    CB_CAST = 1
    CB_BAST = 2
    # A lock's calls that wait to be made; more than that only if its owner does not wait for completions.
    CALLBACKS_MAX = 8
    # From this many on a new operation on the lock is refused as busy.
    CALLBACKS_BUSY = 4

    NODES_MAX = 128
    WEIGHT_MAX = 1024
    LKB_MAX = 0xffffff
    # Unused resources kept for the sake of their known master.
    TOSS_MAX = 131072
    # Messages that came during recovery, of all nodes.
    REQUESTQUEUE_MAX = 4194304
    # Packets to one node that the transport has not taken: new local operations are refused; nothing more is queued.
    OUTPUT_SOFT_MAX = 1048576
    OUTPUT_HARD_MAX = 8388608
    # Operations of our own that wait for the end of recovery.
    PARKED_MAX = 4194304
    # Lookups or locks on their way to other nodes during recovery.
    RECOVER_WINDOW = 4096

    # What the hook is told.
    WAKE_OUTPUT = 1
    WAKE_EVENT = 2

    EV_CAST = 1
    EV_BAST = 2
    EV_RECOVER_PREP = 3
    EV_RECOVER_SLOT = 4
    EV_RECOVER_DONE = 5
    EV_RECOVER_FAILED = 6

    PARK_REQUEST = 1
    PARK_CONVERT = 2
    PARK_UNLOCK = 3

# Phases of recovery, in order.
cdef enum:
    PH_RUNNING = 0
    PH_STOPPED
    PH_PING
    PH_NODES
    PH_NAMES
    PH_DIR
    PH_MASTERS
    PH_LOCKS
    PH_LOCKS_WAIT
    PH_DONE_WAIT
    PH_FAILED

# The caller's block: status and flags of the last completion, the lock's id, its value.
cdef struct dlm_lksb:
    int sb_status
    uint32_t sb_lkid
    uint8_t sb_flags
    # What is granted after the completion, MODE_IV for nothing; the kernel's struct has no such field.
    int8_t sb_mode
    # lvblen bytes or NULL; they and this struct stay until the completion of the unlock.
    char* sb_lvbptr

ctypedef void (*dlm_ast_fn)(void* astarg) noexcept nogil
ctypedef void (*dlm_bast_fn)(void* astarg, int mode) noexcept nogil
# Called without the lockspace's mutex by whichever thread queued something; must not call back into the lockspace.
ctypedef void (*dlm_wake_fn)(void* arg, int what) noexcept nogil

cdef struct dlm_cb:
    int32_t kind
    int32_t mode
    int32_t status
    uint32_t sbflags

cdef struct dlm_lkb:
    dlm_rsb* res
    int32_t refs
    int32_t nodeid
    uint32_t id
    uint32_t remid
    uint32_t exflags
    uint32_t sbflags
    uint32_t flags
    uint32_t lvbseq
    uint32_t ownpid
    # Which calls the owner wants (ASTS_).
    uint32_t asts
    int8_t status
    int8_t rqmode
    int8_t grmode
    int8_t highbast
    # The message whose reply is awaited, 0 for none; how many replies; from whom.
    int8_t wait_type
    int8_t cb_active
    int8_t cb_count
    int8_t last_cast_mode
    int32_t wait_count
    int32_t wait_nodeid
    dlink q
    dlink lookup
    dlink wait
    dlink cbq
    int64_t since_ns
    # When it came to the queue that it waits in, by dlm_ls.tickets.
    uint64_t ticket
    uint64_t recover_seq
    dlm_parked* parked
    dlm_lksb* lksb
    uint8_t* lvb
    dlm_ast_fn ast
    dlm_bast_fn bast
    void* astarg
    bint had_cast
    dlm_cb cbs[8]

cdef struct dlm_rsb:
    dlm_rsb* hnext
    uint32_t hash
    uint32_t len
    int32_t refs
    uint32_t flags
    # The master: 0 unknown, else a node, ours included.
    int32_t master_nodeid
    # The same as lkbs have it: -1 unknown, 0 we, else that node.
    int32_t nodeid
    int32_t dir_nodeid
    uint32_t lvbseq
    uint32_t first_lkid
    uint32_t recover_id
    uint32_t recover_locks
    # recover_seq when recovery last said who the master is.
    uint64_t master_seq
    bint tossed
    int64_t toss_ns
    dlink toss
    dlink lookup
    dlink grantq
    dlink convertq
    dlink waitq
    dlink root
    dlink recover
    uint8_t* lvb
    char name[64]

cdef struct dlm_packet:
    dlm_packet* next
    uint32_t size
    int32_t nodeid
    # Of a message that waits for the end of recovery: recover_seq when it came.
    uint64_t seq

cdef struct dlm_outq:
    int32_t nodeid
    uint32_t count
    uint64_t bytes
    dlm_packet* head
    dlm_packet* tail

# An operation of our own that came while locking was stopped.
cdef struct dlm_parked:
    dlink link
    dlm_lkb* lkb
    int32_t kind
    uint32_t flags
    int32_t mode
    uint32_t namelen
    dlm_lksb* lksb
    dlm_ast_fn ast
    dlm_bast_fn bast
    void* astarg
    char name[64]

cdef struct dlm_slot:
    int32_t nodeid
    int32_t slot

cdef struct dlm_event:
    dlm_event* next
    int32_t kind
    uint32_t lkid
    uint64_t cookie
    int32_t status
    int32_t mode
    uint32_t sbflags
    int32_t nodeid
    int32_t slot
    uint32_t generation
    uint32_t count
    # lvblen bytes of value or `count` slots follow.

# A node as start() names it.
cdef struct dlm_node:
    int32_t nodeid
    int32_t weight
    # Changes when the node was away between two starts; gone and back counts as a loss.
    uint32_t comm_seq

cdef struct dlm_member:
    int32_t nodeid
    int32_t weight
    uint32_t comm_seq
    int32_t slot
    int32_t slot_prev
    uint32_t generation
    # What we ask of it in this phase: the request's id (0: none out), when it went, how often it went again
    # unanswered, when the next one is due.
    uint64_t rc_id
    int64_t sent_ns
    int64_t due_ns
    int64_t delay_ns
    uint32_t repeats
    bint asked
    bint done
    uint32_t last_len
    uint8_t last_name[64]
    # Of one that is gone: recover_seq when it went. What it sent later it sent in its next life.
    uint64_t gone_seq

cdef struct dlm_stats:
    uint64_t requests
    uint64_t converts
    uint64_t unlocks
    uint64_t cancels
    uint64_t casts
    uint64_t basts
    uint64_t sent
    uint64_t received
    uint64_t lookups
    uint64_t removes
    uint64_t refused
    uint64_t recoveries
    uint64_t recovered_locks
    uint64_t parked
    uint64_t lookup_retries

cdef struct dlm_ls:
    pthread_mutex_t mutex
    uint32_t global_id
    uint32_t lsflags
    uint32_t lvblen
    uint32_t pid
    int32_t our_nodeid
    int64_t now_ns
    int64_t toss_after_ns
    int64_t rcom_timeout_ns
    # Out of memory or a queue over its hard limit: nothing works any more. The errno.
    int32_t broken

    dlm_rsb** buckets
    uint32_t bucket_mask
    uint32_t rsb_count
    uint32_t toss_count
    dlink tossed
    dlm_rsb* rsb_pool
    dlm_lkb* lkb_pool
    uint32_t rsb_pooled
    uint32_t lkb_pooled

    # Locks by id: the low 24 bits are the index, the rest counts how often it was used.
    dlm_lkb** lkbs
    uint32_t* lkb_next
    uint32_t lkb_slots
    uint32_t lkb_count
    uint32_t free_head
    uint32_t free_tail
    # Counts what came to a queue to wait.
    uint64_t tickets

    # Process copies that await a reply.
    dlink waiters
    # Locks with calls to make: by the thread that holds the mutex; after recovery.
    dlink runq
    dlink delayed
    bint cb_delay

    dlm_outq out[160]
    uint32_t out_count
    uint32_t wake
    dlm_wake_fn wake_fn
    void* wake_arg

    dlm_event* ev_head
    dlm_event* ev_tail
    uint64_t ev_count

    dlm_packet* rq_head
    dlm_packet* rq_tail
    uint32_t rq_count

    dlink parked
    uint32_t parked_count

    dlm_member members[128]
    uint32_t n_members
    dlm_member gone[128]
    uint32_t n_gone
    int32_t* node_array
    uint32_t total_weight
    int32_t low_nodeid

    int32_t our_slot
    uint32_t generation
    dlm_slot slots[256]
    uint32_t slots_size
    uint32_t num_slots

    int32_t phase
    bint running
    bint stopped
    bint neg
    uint32_t status
    uint64_t recover_seq
    uint64_t rcom_seq
    dlink root
    dlink* cursor
    dlm_rsb** rec_rsbs
    uint32_t rec_count
    uint32_t rec_size
    uint32_t rec_out
    dlink recover_list
    int32_t fail_nodeid

    dlm_stats stats

cdef extern from *:
    """
    /* Bit m + 1 of row g + 1: mode m may be granted beside mode g. */
    static const unsigned char dlm_core_compat[8] = {0x7f, 0x7f, 0x3f, 0x0f, 0x17, 0x07, 0x03, 0x00};
    /* Bit m + 1 of row g + 1: a conversion from g to m may carry QUECVT. */
    static const unsigned char dlm_core_quecvt[8] = {0x00, 0x7c, 0x78, 0x70, 0x68, 0x40, 0x00, 0x00};
    """
    const uint8_t dlm_core_compat[8]
    const uint8_t dlm_core_quecvt[8]

cdef inline bint modes_compat(int granted, int requested) noexcept nogil:
    return (dlm_core_compat[granted + 1] >> (requested + 1)) & 1

cdef inline bint is_master(const dlm_rsb* r) noexcept nogil:
    return r.nodeid == 0

cdef inline bint is_master_copy(const dlm_lkb* lkb) noexcept nogil:
    return (lkb.flags & LKB_MSTCPY) != 0

cdef inline bint is_process_copy(const dlm_lkb* lkb) noexcept nogil:
    return lkb.nodeid != 0 and not (lkb.flags & LKB_MSTCPY)

cdef inline bint is_overlap(const dlm_lkb* lkb) noexcept nogil:
    return (lkb.flags & (LKB_OVERLAP_UNLOCK | LKB_OVERLAP_CANCEL)) != 0

cdef inline bint middle_conversion(const dlm_lkb* lkb) noexcept nogil:
    """PR to CW or back: neither up nor down."""
    return (lkb.grmode == MODE_PR and lkb.rqmode == MODE_CW) or (lkb.grmode == MODE_CW and lkb.rqmode == MODE_PR)

cdef inline bint down_conversion(const dlm_lkb* lkb) noexcept nogil:
    return not middle_conversion(lkb) and lkb.rqmode < lkb.grmode
