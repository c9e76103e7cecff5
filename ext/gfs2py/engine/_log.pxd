"""Transactions and the journal: see docs/design/journal.md.

An operation: take glocks, reserve space, trans_begin(most blocks it may change, most revokes), change buffers after
trans_add_meta / trans_add_data, trans_end. All operations since the last commit form one compound transaction.
There is no undo: check everything that can fail before the first change.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, inode, logtxn, opctx, sbd

cdef int trans_begin(opctx* cx, uint32_t blocks, uint32_t revokes) noexcept nogil     # 0, -EIO (withdrawn), -EROFS
cdef void trans_end(opctx* cx) noexcept nogil
cdef void trans_add_meta(opctx* cx, buf* b) noexcept nogil      # the buffer starts with a meta header
cdef void trans_add_data(opctx* cx, buf* b) noexcept nogil      # jdata: content of a journaled data block
# A block that was metadata or jdata is being freed: its buffer leaves the transaction and the log is told not to
# replay older copies of it. Not for ordinary data blocks.
cdef void trans_free_meta(opctx* cx, uint64_t blkno, uint32_t n) noexcept nogil
# Data of this inode must be on disk before the running transaction commits.
cdef void trans_add_ordered(opctx* cx, inode* ip) noexcept nogil
# Sequence that the open transaction will commit as.
cdef uint64_t trans_seq(opctx* cx) noexcept nogil
# Makes everything up to `seq` durable (0: everything). Not within a transaction.
cdef int log_flush(sbd* sd, uint64_t seq, uint32_t lfc) noexcept nogil
# Whether the commit that makes `seq` durable will write all data that this inode has dirty now: both are in the running
# transaction. Then an fsync leaves the data to it, and both go to the disk at the same time.
cdef bint log_writes_data(sbd* sd, inode* ip, uint64_t seq) noexcept nogil
# As log_flush, and whatever was written in place before the call is durable, too, even if nothing was to commit.
cdef int log_sync(sbd* sd, uint64_t seq, uint32_t lfc) noexcept nogil
# One commit (commit_lock held); force: a header even if nothing changed. For _retire.
cdef int _commit(sbd* sd, uint32_t lfc, bint force, uint32_t extra_flags) noexcept nogil
cdef int log_ail_flush(sbd* sd) noexcept nogil                  # everything committed goes in place
cdef int log_init(sbd* sd) noexcept nogil
cdef int log_start(sbd* sd) noexcept nogil                      # the daemon thread
cdef int log_shutdown(sbd* sd) noexcept nogil                   # flush all, empty the AIL, header with UNMOUNT
cdef void log_stop(sbd* sd) noexcept nogil
cdef void log_destroy(sbd* sd) noexcept nogil
cdef void txn_free(logtxn* tr) noexcept nogil
