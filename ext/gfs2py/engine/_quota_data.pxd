"""What quotas keep in memory, and the records of a node's quota_change file. See _quota.pyx."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, opctx, sbd
from gfs2py.engine._sync cimport dlink, pthread_mutex_t

cdef enum:
    SLOT_NONE = 0xffffffff

cdef struct qdata:
    uint32_t id, kind
    qdata* hnext
    dlink link                      # q.dirty or q.idle
    bint valid                      # limit, warn, value are those of the quota file
    uint64_t limit, warn
    int64_t value
    int64_t change
    uint32_t slot
    uint32_t busy                   # used without q.lock: must not be dropped
    uint64_t gen                    # of the last folding that looked at it
    int64_t last_warn
    bint told                       # "exceeded" was said since the last free

cdef struct quotas:
    pthread_mutex_t lock
    pthread_mutex_t sync_lock       # one folding at a time
    qdata** table
    uint32_t count
    dlink dirty, idle
    uint64_t gen
    # slots
    uint64_t* qc_addr               # disk address of each block of quota_change
    buf** qc_buf                    # held once used
    uint32_t n_qc, per_block, n_slots, n_free, next
    uint8_t* used

# q.lock held. The id's qdata, made if need be; NULL when memory is out.
cdef qdata* qd_get(quotas* q, uint32_t kind, uint32_t id) noexcept nogil
# Within a transaction, q.lock held: adds to an id's change, in memory and in its record.
cdef int qd_apply(opctx* cx, quotas* q, qdata* qd, int64_t change) noexcept nogil
# Makes sd.quota for a quota_change file of this size; on an error it is half made: qd_free.
cdef int qd_alloc(sbd* sd, uint64_t size) noexcept nogil
# Maps the quota_change file (its glock held) and takes over every change that stands in it.
cdef int qd_scan(opctx* cx, quotas* q) noexcept nogil
cdef void qd_free(sbd* sd) noexcept nogil
