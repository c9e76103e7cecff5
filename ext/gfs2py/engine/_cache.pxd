"""The buffer cache: one buffer per file-system block, found by number, bounded, sharded.

Contents are protected by the glock of whoever owns the block. A buffer is changed only after trans_add_meta/data
pinned it (B_DATA buffers: under the inode's glock EX). Every get is paired with a buf_put.
"""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._incore cimport buf, bufcache, cache_shard, glock, opctx, sbd

cdef int cache_init(sbd* sd, uint64_t limit_bytes) noexcept nogil
cdef void cache_destroy(sbd* sd) noexcept nogil
# Read through the cache. -EIO on device error, or (withdraw) when blkno is outside the file system. gl: the glock of
# the block's owner, which is held; what was cached before it was granted is read again.
cdef int buf_read(sbd* sd, const glock* gl, uint64_t blkno, buf** out) noexcept nogil
# A buffer whose old content does not matter: zeroed, uptodate; nothing is read.
cdef int buf_new(sbd* sd, uint64_t blkno, buf** out) noexcept nogil
# Whether another node may have changed the block since: of a buffer got by buf_peek.
cdef inline bint buf_stale(const buf* b, const glock* gl) noexcept nogil:
    return b.since < gl.since
# As buf_read, without reading: NULL when the block is not cached (no error).
cdef buf* buf_peek(sbd* sd, uint64_t blkno) noexcept nogil
# buf_read plus the check of magic and mh_type; anything else is damage (withdraw, -EIO).
cdef int meta_read(sbd* sd, const glock* gl, uint64_t blkno, uint32_t metatype, buf** out) noexcept nogil
# A new metadata block: buf_new plus its header (magic, type, format).
cdef int meta_new(sbd* sd, uint64_t blkno, uint32_t metatype, uint32_t metaformat, buf** out) noexcept nogil
cdef void buf_hold(sbd* sd, buf* b) noexcept nogil
cdef void buf_put(sbd* sd, buf* b) noexcept nogil
# Reads up to n blocks that are not cached in one parallel batch; errors are ignored (the real read tells).
cdef void buf_readahead(sbd* sd, const uint64_t* blknos, uint32_t n) noexcept nogil
# Forgets clean cached copies of a range (the disk was written behind the cache's back by direct I/O, or blocks freed).
cdef void cache_drop_range(sbd* sd, uint64_t blkno, uint64_t n) noexcept nogil
# Forgets every unreferenced clean buffer.
cdef void cache_drop_clean(sbd* sd) noexcept nogil
cdef void buf_wait_writing(sbd* sd, buf* b) noexcept nogil

# The shard of a block: neighbours share one, so that a sequential walk keeps its lock warm.
cdef inline cache_shard* shard_of(sbd* sd, uint64_t blkno) noexcept nogil:
    return &sd.bc.shards[((blkno >> 4) * <uint64_t>0x9E3779B97F4A7C15 >> 40) % sd.bc.n_shards]
