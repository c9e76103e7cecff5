"""How much space and how many dinodes there are: the master file, this node's difference, folding one into the other.

Source of behaviour: fs/gfs2/super.c gfs2_statfs_init, gfs2_statfs_change, gfs2_statfs_sync.
"""
from libc.stdint cimport int64_t, uint64_t
from gfs2py.engine._incore cimport opctx, sbd

# Reads master and local numbers (a spectator or read-only mount without sd.sc_ip: only the master's). After recovery.
cdef int statfs_init(opctx* cx) noexcept nogil
cdef void statfs_destroy(sbd* sd) noexcept nogil                # before cache_destroy
# In the exclusive moment of a commit: the local difference goes into the transaction (one block, if it changed).
cdef void statfs_at_switch(sbd* sd, opctx* cx) noexcept nogil
# Adds the local difference to the master file. No transaction, no group locked. Every statfs_quantum, at unmount.
cdef int statfs_sync(opctx* cx) noexcept nogil
# What other nodes have folded in meanwhile; asked of nobody while no node has.
cdef int statfs_look(opctx* cx) noexcept nogil
# What df shows, in blocks and dinodes.
cdef void statfs_get(sbd* sd, uint64_t* total, uint64_t* free_blocks, uint64_t* dinodes) noexcept nogil
# The same counted group by group (reads every group): the truth that the other must agree with.
cdef int statfs_slow(opctx* cx, uint64_t* total, uint64_t* free_blocks, uint64_t* dinodes) noexcept nogil
