"""The buffer cache: one buffer per file-system block, found by number, bounded, sharded.

A buffer that nobody holds is clean and on its shard's LRU; transactions, AILs and dirty lists hold references, so
eviction never meets a buffer that must still be written. Memory comes from slabs of 1 MiB and goes back at the end.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset
from gfs2py.block._device cimport bio_seg, dev_alloc, dev_free
from gfs2py.engine._incore cimport (B_DATA, B_DDIRTY, B_DIRTY, B_FREED, B_JDATA, B_PINNED, B_READING, B_UPTODATE,
                                    B_WRITING, buf, bufcache, cache_shard, glock, sbd)
from gfs2py.engine._observe cimport ob_cond_wait
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, dlink, gl_atomic_load64,
                                  pthread_cond_broadcast,
                                  pthread_cond_destroy, pthread_cond_init, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock)
from gfs2py.fuse._stat cimport WAIT_BUFFER
from gfs2py.ondisk._ondisk cimport GFS2_MAGIC, be32toh, gfs2_meta_header, htobe32

cdef extern from "<errno.h>" nogil:
    int EIO, ENOMEM

cdef enum:
    N_SHARDS = 64
    SLAB_BYTES = 1 << 20
    READAHEAD_MAX = 64          # blocks in one batch
    MIN_BUFFERS_PER_SHARD = 32


cdef int cache_init(sbd* sd, uint64_t limit_bytes) noexcept nogil:
    cdef bufcache* bc = <bufcache*>calloc(1, sizeof(bufcache))
    cdef uint32_t i, limit, size = 64
    if bc == NULL:
        return -ENOMEM
    limit = <uint32_t>(limit_bytes // sd.bsize // N_SHARDS)
    bc.limit_per_shard = max(limit, <uint32_t>MIN_BUFFERS_PER_SHARD)
    bc.n_shards = N_SHARDS
    pthread_mutex_init(&bc.slab_lock, NULL)
    bc.shards = <cache_shard*>calloc(N_SHARDS, sizeof(cache_shard))
    if bc.shards == NULL:
        free(bc)
        return -ENOMEM
    while size < bc.limit_per_shard and size < (1 << 20):
        size *= 2
    sd.bc = bc
    for i in range(<uint32_t>N_SHARDS):
        pthread_mutex_init(&bc.shards[i].lock, NULL)
        pthread_cond_init(&bc.shards[i].cond, NULL)
        dl_init(&bc.shards[i].lru, NULL)
        bc.shards[i].mask = size - 1
        bc.shards[i].table = <buf**>calloc(size, sizeof(void*))
        if bc.shards[i].table == NULL:
            cache_destroy(sd)
            return -ENOMEM
    return 0


cdef void cache_destroy(sbd* sd) noexcept nogil:
    cdef bufcache* bc = sd.bc
    cdef uint32_t i
    if bc == NULL:
        return
    for i in range(bc.n_shards):
        free(bc.shards[i].table)
        pthread_mutex_destroy(&bc.shards[i].lock)
        pthread_cond_destroy(&bc.shards[i].cond)
    for i in range(bc.n_slabs):
        if i % 2 == 0:
            dev_free(bc.slabs[i])
        else:
            free(bc.slabs[i])
    free(bc.slabs)
    free(bc.shards)
    pthread_mutex_destroy(&bc.slab_lock)
    free(bc)
    sd.bc = NULL


cdef int _grow(sbd* sd) noexcept nogil:
    """Carves a new slab (slab_lock held): even entries of slabs are data, odd ones their buf structs."""
    cdef bufcache* bc = sd.bc
    cdef uint32_t n = SLAB_BYTES // sd.bsize
    cdef uint32_t i
    cdef void** slabs
    cdef uint8_t* data
    cdef buf* bufs
    if bc.n_slabs + 2 > bc.cap_slabs:
        slabs = <void**>realloc(bc.slabs, (bc.cap_slabs + 64) * sizeof(void*))
        if slabs == NULL:
            return -ENOMEM
        bc.slabs = slabs
        bc.cap_slabs += 64
    data = <uint8_t*>dev_alloc(SLAB_BYTES)
    bufs = <buf*>calloc(n, sizeof(buf))
    if data == NULL or bufs == NULL:
        dev_free(data)
        free(bufs)
        return -ENOMEM
    bc.slabs[bc.n_slabs] = data
    bc.slabs[bc.n_slabs + 1] = bufs
    bc.n_slabs += 2
    bc.n_allocated += n
    for i in range(n):
        bufs[i].data = data + <uint64_t>i * sd.bsize
        bufs[i].hnext = bc.free_list
        bc.free_list = &bufs[i]
    return 0


cdef buf* _alloc(sbd* sd) noexcept nogil:
    cdef bufcache* bc = sd.bc
    cdef buf* b = NULL
    pthread_mutex_lock(&bc.slab_lock)
    if bc.free_list != NULL or _grow(sd) == 0:
        b = bc.free_list
        bc.free_list = b.hnext
    pthread_mutex_unlock(&bc.slab_lock)
    return b


cdef void _free(sbd* sd, buf* b) noexcept nogil:
    pthread_mutex_lock(&sd.bc.slab_lock)
    b.hnext = sd.bc.free_list
    sd.bc.free_list = b
    pthread_mutex_unlock(&sd.bc.slab_lock)


cdef inline buf** _slot(cache_shard* s, uint64_t blkno) noexcept nogil:
    return &s.table[(blkno * <uint64_t>0xD6E8FEB86659FD93 >> 32) & s.mask]


cdef inline buf* _find(cache_shard* s, uint64_t blkno) noexcept nogil:
    cdef buf* b = _slot(s, blkno)[0]
    while b != NULL and b.blkno != blkno:
        b = b.hnext
    return b


cdef void _unhash(cache_shard* s, buf* b) noexcept nogil:
    cdef buf** p = _slot(s, b.blkno)
    while p[0] != b:
        p = &p[0].hnext
    p[0] = b.hnext
    s.count -= 1


cdef void _wait(sbd* sd, cache_shard* s, uint64_t blkno) noexcept nogil:
    """Until a transfer of the shard's has ended (its lock is held)."""
    ob_cond_wait(&sd.ob, &s.cond, &s.lock, WAIT_BUFFER, blkno)


cdef buf* _get_locked(sbd* sd, cache_shard* s, uint64_t blkno) noexcept nogil:
    """The block's buffer with one more reference, made if need be; NULL when memory is out."""
    cdef buf* b = _find(s, blkno)
    cdef buf** slot
    if b != NULL:
        if b.refs == 0:
            dl_del(&b.lru)
        b.refs += 1
        return b
    if s.count >= sd.bc.limit_per_shard and not dl_empty(&s.lru):
        b = <buf*>s.lru.next.owner
        dl_del(&b.lru)
        _unhash(s, b)
        s.evictions += 1
    else:
        b = _alloc(sd)
        if b == NULL:
            return NULL
    b.blkno = blkno
    b.refs = 1
    b.flags = 0
    b.since = 0
    b.ail_tr = NULL
    b.ip = NULL
    dl_init(&b.lru, b)
    dl_init(&b.tr, b)
    dl_init(&b.ail, b)
    dl_init(&b.dirty, b)
    slot = _slot(s, blkno)
    b.hnext = slot[0]
    slot[0] = b
    s.count += 1
    return b


cdef void _put_locked(sbd* sd, cache_shard* s, buf* b) noexcept nogil:
    b.refs -= 1
    if b.refs > 0:
        return
    if s.count > sd.bc.limit_per_shard or not (b.flags & B_UPTODATE):
        _unhash(s, b)
        _free(sd, b)
    else:
        dl_add_tail(&s.lru, &b.lru)


cdef void buf_put(sbd* sd, buf* b) noexcept nogil:
    cdef cache_shard* s
    if b == NULL:
        return
    s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&s.lock)
    _put_locked(sd, s, b)
    pthread_mutex_unlock(&s.lock)


cdef void buf_hold(sbd* sd, buf* b) noexcept nogil:
    cdef cache_shard* s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&s.lock)
    b.refs += 1
    pthread_mutex_unlock(&s.lock)


cdef int buf_read(sbd* sd, const glock* gl, uint64_t blkno, buf** out) noexcept nogil:
    cdef cache_shard* s
    cdef buf* b
    cdef int err
    out[0] = NULL
    if blkno <= sd.sb_block or blkno >= sd.fs_blocks:
        return sd_corrupt(sd, blkno, b"pointer", b"block",
                          sd.sb_block + 1 if blkno <= sd.sb_block else sd.fs_blocks - 1, blkno)
    s = shard_of(sd, blkno)
    pthread_mutex_lock(&s.lock)
    b = _get_locked(sd, s, blkno)
    if b == NULL:
        pthread_mutex_unlock(&s.lock)
        return -ENOMEM
    while b.flags & B_READING:
        _wait(sd, s, blkno)
    if b.flags & B_UPTODATE and b.since < gl.since:
        if b.flags & (B_PINNED | B_DIRTY | B_DDIRTY):
            _put_locked(sd, s, b)
            pthread_mutex_unlock(&s.lock)
            return sd_assert_failed(sd, b"a block is dirty whose lock was let go")
        b.flags &= ~<uint32_t>(B_UPTODATE | B_DATA | B_JDATA)
    if b.flags & B_UPTODATE:
        s.hits += 1
        pthread_mutex_unlock(&s.lock)
        out[0] = b
        return 0
    b.flags |= B_READING
    b.since = gl_atomic_load64(&sd.epoch)
    s.misses += 1
    pthread_mutex_unlock(&s.lock)
    err = sd.dev.ops.read(sd.dev, blkno << sd.bsize_shift, b.data, sd.bsize)
    pthread_mutex_lock(&s.lock)
    b.flags &= ~<uint32_t>B_READING
    pthread_cond_broadcast(&s.cond)
    if err:
        _put_locked(sd, s, b)
        pthread_mutex_unlock(&s.lock)
        return err
    b.flags |= B_UPTODATE
    pthread_mutex_unlock(&s.lock)
    out[0] = b
    return 0


cdef int buf_new(sbd* sd, uint64_t blkno, buf** out) noexcept nogil:
    cdef cache_shard* s
    cdef buf* b
    out[0] = NULL
    if blkno <= sd.sb_block or blkno >= sd.fs_blocks:
        return sd_corrupt(sd, blkno, b"pointer", b"block",
                          sd.sb_block + 1 if blkno <= sd.sb_block else sd.fs_blocks - 1, blkno)
    s = shard_of(sd, blkno)
    pthread_mutex_lock(&s.lock)
    b = _get_locked(sd, s, blkno)
    if b == NULL:
        pthread_mutex_unlock(&s.lock)
        return -ENOMEM
    while b.flags & (B_READING | B_WRITING):
        _wait(sd, s, blkno)
    b.flags |= B_UPTODATE
    b.flags &= ~<uint32_t>(B_DATA | B_JDATA)
    b.since = gl_atomic_load64(&sd.epoch)
    pthread_mutex_unlock(&s.lock)
    memset(b.data, 0, sd.bsize)
    out[0] = b
    return 0


cdef buf* buf_peek(sbd* sd, uint64_t blkno) noexcept nogil:
    cdef cache_shard* s = shard_of(sd, blkno)
    cdef buf* b
    pthread_mutex_lock(&s.lock)
    b = _find(s, blkno)
    if b != NULL:
        while b.flags & B_READING:
            # A reader holds it, so it cannot go away while we wait.
            _wait(sd, s, blkno)
            b = _find(s, blkno)
            if b == NULL:
                break
        if b != NULL and b.flags & B_UPTODATE:
            if b.refs == 0:
                dl_del(&b.lru)
            b.refs += 1
        else:
            b = NULL
    pthread_mutex_unlock(&s.lock)
    return b


cdef int meta_read(sbd* sd, const glock* gl, uint64_t blkno, uint32_t metatype, buf** out) noexcept nogil:
    cdef int err = buf_read(sd, gl, blkno, out)
    cdef gfs2_meta_header* mh
    if err:
        return err
    mh = <gfs2_meta_header*>out[0].data
    if be32toh(mh.mh_magic) == GFS2_MAGIC and be32toh(mh.mh_type) == metatype:
        return 0
    if be32toh(mh.mh_magic) != GFS2_MAGIC:
        err = sd_corrupt(sd, blkno, b"meta_header", b"mh_magic", GFS2_MAGIC, be32toh(mh.mh_magic))
    else:
        err = sd_corrupt(sd, blkno, b"meta_header", b"mh_type", metatype, be32toh(mh.mh_type))
    buf_put(sd, out[0])
    out[0] = NULL
    return err


cdef int meta_new(sbd* sd, uint64_t blkno, uint32_t metatype, uint32_t metaformat, buf** out) noexcept nogil:
    cdef int err = buf_new(sd, blkno, out)
    cdef gfs2_meta_header* mh
    if err:
        return err
    mh = <gfs2_meta_header*>out[0].data
    mh.mh_magic = htobe32(GFS2_MAGIC)
    mh.mh_type = htobe32(metatype)
    mh.mh_format = htobe32(metaformat)
    return 0


cdef void _readahead_done(sbd* sd, buf* b, int res) noexcept nogil:
    cdef cache_shard* s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&s.lock)
    b.flags &= ~<uint32_t>B_READING
    if res == 0:
        b.flags |= B_UPTODATE
    pthread_cond_broadcast(&s.cond)
    _put_locked(sd, s, b)
    pthread_mutex_unlock(&s.lock)


cdef void buf_readahead(sbd* sd, const uint64_t* blknos, uint32_t n) noexcept nogil:
    cdef bio_seg segs[READAHEAD_MAX]
    cdef buf* bufs[READAHEAD_MAX]
    cdef uint32_t i, m = 0
    cdef cache_shard* s
    cdef buf* b
    for i in range(n):
        if blknos[i] <= sd.sb_block or blknos[i] >= sd.fs_blocks:
            continue
        s = shard_of(sd, blknos[i])
        pthread_mutex_lock(&s.lock)
        b = _find(s, blknos[i])
        if b == NULL:
            b = _get_locked(sd, s, blknos[i])
            if b != NULL:
                b.flags |= B_READING
                b.since = gl_atomic_load64(&sd.epoch)
                s.misses += 1
        else:
            b = NULL
        pthread_mutex_unlock(&s.lock)
        if b == NULL:
            continue
        bufs[m] = b
        segs[m].off = b.blkno << sd.bsize_shift
        segs[m].buf = b.data
        segs[m].len = sd.bsize
        segs[m].res = -EIO
        m += 1
        if m == READAHEAD_MAX:
            break
    if m == 0:
        return
    sd.dev.ops.readv(sd.dev, segs, m)
    for i in range(m):
        _readahead_done(sd, bufs[i], segs[i].res)


cdef void cache_drop_range(sbd* sd, uint64_t blkno, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef cache_shard* s
    cdef buf* b
    for i in range(blkno, blkno + n):
        s = shard_of(sd, i)
        pthread_mutex_lock(&s.lock)
        b = _find(s, i)
        while b != NULL and b.flags & (B_READING | B_WRITING):
            _wait(sd, s, i)
            b = _find(s, i)
        if b != NULL and b.refs == 0:
            dl_del(&b.lru)
            _unhash(s, b)
            _free(sd, b)
        elif b != NULL and not (b.flags & (B_PINNED | B_DIRTY | B_DDIRTY)):
            b.flags &= ~<uint32_t>B_UPTODATE
        pthread_mutex_unlock(&s.lock)


cdef void cache_drop_clean(sbd* sd) noexcept nogil:
    cdef uint32_t i
    cdef cache_shard* s
    cdef buf* b
    for i in range(sd.bc.n_shards):
        s = &sd.bc.shards[i]
        pthread_mutex_lock(&s.lock)
        while not dl_empty(&s.lru):
            b = <buf*>s.lru.next.owner
            dl_del(&b.lru)
            _unhash(s, b)
            _free(sd, b)
        pthread_mutex_unlock(&s.lock)


cdef void buf_wait_writing(sbd* sd, buf* b) noexcept nogil:
    cdef cache_shard* s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&s.lock)
    while b.flags & B_WRITING:
        _wait(sd, s, b.blkno)
    pthread_mutex_unlock(&s.lock)
