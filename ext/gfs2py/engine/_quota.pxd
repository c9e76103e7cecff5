"""Quotas: charging blocks to users and groups, limits, and folding a node's changes into the quota file.

Source of behaviour: fs/gfs2/quota.c. All numbers are file-system blocks. Where an id is QUOTA_NONE nobody is meant.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

cdef enum:
    QUOTA_NONE = 0xffffffff
    QUOTA_USER = 0, QUOTA_GROUP = 1
    QUOTA_SET_LIMIT = 1, QUOTA_SET_WARN = 2, QUOTA_SET_VALUE = 4
    # log blocks that quota_change may add to a transaction (chown charges four ids); trans_begin reserves them
    QUOTA_TRANS_BLOCKS = 4

cdef struct quota_info:
    uint64_t limit, warn            # 0: none
    int64_t value                   # with what is not folded yet
    int64_t change                  # of which not folded yet

# After recovery, with sd.quota_ip and sd.qc_ip: takes over what quota_change holds from before (a crash) and sets
# sd.quota_change and sd.quota_check if SDF_QUOTA_ACCOUNT. Without sd.qc_ip (spectator): nothing.
cdef int quota_init(opctx* cx) noexcept nogil
cdef void quota_destroy(sbd* sd) noexcept nogil                 # before cache_destroy; after quota_sync at unmount
# -EDQUOT when `blocks` more would exceed a limit (SDF_QUOTA_ENFORCE; user 0 may always). Before the group is chosen;
# inode glocks may be held, no transaction.
cdef int quota_check(opctx* cx, uint32_t uid, uint32_t gid, uint64_t blocks) noexcept nogil
# Within a transaction: `change` blocks are charged (or given back) to both ids.
cdef void quota_change(opctx* cx, int64_t change, uint32_t uid, uint32_t gid) noexcept nogil
# chown: _check before, quota_chown within the transaction. Ids that stay the same are left alone.
cdef int quota_chown_check(opctx* cx, inode* ip, uint32_t uid, uint32_t gid) noexcept nogil
cdef void quota_chown(opctx* cx, inode* ip, uint32_t uid, uint32_t gid) noexcept nogil
# Folds every change into the quota file; no transaction open, no group locked. Every quota_quantum, and at unmount.
cdef int quota_sync(opctx* cx) noexcept nogil
# For tools; kind is QUOTA_USER or QUOTA_GROUP. -ESRCH when quotas are off.
cdef int quota_get(opctx* cx, uint32_t kind, uint32_t id, quota_info* out) noexcept nogil
cdef int quota_set(opctx* cx, uint32_t kind, uint32_t id, uint32_t what, uint64_t limit, uint64_t warn,
                   uint64_t value) noexcept nogil
