"""Resource groups: the index, loading and locking a group, its bitmap as one row of positions.

A group is read when it is first locked and checked against its own bitmap: the header's counts must be those of the
bits. Its bitmap buffers stay held while it is locked and, for the RG_HOT_MAX groups used last, also after that, so that
locking a busy group costs one mutex. All others live in the buffer cache as anything else.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset
from gfs2py.engine._bitmap cimport bm_count, bm_find, bm_find_free_word, bm_get, bm_run_end, bm_set_run
from gfs2py.engine._cache cimport buf_put, buf_readahead, meta_read
from gfs2py.engine._file cimport internal_read
from gfs2py.engine._glock cimport GL_NOPARK, GL_TRY, PLANT_NO_LVB, glock_free, glock_init, glock_leave, glock_slow
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_TYPE_RGRP, buf, inode, opctx, rgrpd, sbd
from gfs2py.engine._log cimport trans_add_meta
from gfs2py.engine._observe cimport ob_wrlock
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt, sd_dead
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, gl_atomic_load32, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
                                  pthread_rwlock_trywrlock, pthread_rwlock_unlock)
from gfs2py.fuse._stat cimport WAIT_RGRP
from gfs2py.ondisk._checksum cimport rgrp_set_crc
from gfs2py.ondisk._ondisk cimport (GFS2_BLKST_DINODE, GFS2_BLKST_FREE, GFS2_BLKST_UNLINKED, GFS2_MAGIC,
                                    GFS2_METATYPE_RB, GFS2_METATYPE_RG, be32toh, be64toh, gfs2_rgrp, gfs2_rgrp_lvb,
                                    gfs2_rindex, htobe32, htobe64)

cdef extern from "<errno.h>" nogil:
    int EAGAIN, EBUSY, EDEADLK, EINVAL, EIO, ENOMEM

cdef enum:
    RINDEX_BYTES = 96
    RG_HOT_MAX = 32                 # groups; 33 bitmap blocks each at 2 GiB and 4 KiB blocks
    RG_SPARE = 1024                 # room for groups that gfs2_grow adds while we are mounted
    RINDEX_MAX = 1 << 24            # entries


# ---- the map of positions -------------------------------------------------------------------------------------------

cdef uint32_t rg_place(rgrpd* rgd, uint32_t pos, uint32_t* bit, uint32_t* end) noexcept nogil:
    cdef uint32_t first = rg_first_bits(rgd.sd)
    cdef uint32_t each = rg_block_bits(rgd.sd)
    cdef uint32_t i = 0
    cdef uint64_t stop = first
    bit[0] = pos
    if pos >= first:
        i = 1 + (pos - first) // each
        bit[0] = (pos - first) % each
        stop = first + <uint64_t>i * each
    end[0] = <uint32_t>stop if stop < rgd.data else rgd.data
    return i


cdef uint8_t* rg_bitmap(rgrpd* rgd, uint32_t i, bint clone) noexcept nogil:
    if clone and rgd.clones[i] != NULL:
        return rgd.clones[i] + (24 if i else 128)
    return rgd.bits[i].data + (24 if i else 128)


cdef uint32_t rg_state(rgrpd* rgd, uint32_t pos) noexcept nogil:
    cdef uint32_t bit, end
    cdef uint32_t i = rg_place(rgd, pos, &bit, &end)
    return bm_get(rg_bitmap(rgd, i, 0), bit)


cdef uint32_t rg_next(rgrpd* rgd, uint32_t pos, uint32_t end, uint32_t state, bint clone) noexcept nogil:
    cdef uint32_t i, bit, stop, n, at
    while pos < end:
        i = rg_place(rgd, pos, &bit, &stop)
        n = min(stop, end) - pos
        at = bm_find(rg_bitmap(rgd, i, clone), bit, bit + n, state)
        if at != bit + n:
            return pos + (at - bit)
        pos += n
    return end


cdef uint32_t rg_next_word(rgrpd* rgd, uint32_t pos, uint32_t end) noexcept nogil:
    cdef uint32_t i, bit, stop, n, at
    while pos < end:
        i = rg_place(rgd, pos, &bit, &stop)
        n = min(stop, end) - pos
        at = bm_find_free_word(rg_bitmap(rgd, i, 1), bit, bit + n)
        if at != bit + n:
            return pos + (at - bit)
        pos += n
    return end


cdef uint32_t rg_run_end(rgrpd* rgd, uint32_t pos, uint32_t end, uint32_t state, bint clone) noexcept nogil:
    cdef uint32_t i, bit, stop, n, at
    while pos < end:
        i = rg_place(rgd, pos, &bit, &stop)
        n = min(stop, end) - pos
        at = bm_run_end(rg_bitmap(rgd, i, clone), bit, bit + n, state)
        if at != bit + n:
            return pos + (at - bit)
        pos += n
    return end


cdef void rg_set(opctx* cx, rgrpd* rgd, uint32_t pos, uint32_t n, uint32_t state, bint clone) noexcept nogil:
    cdef uint32_t i, bit, stop, part
    while n:
        i = rg_place(rgd, pos, &bit, &stop)
        part = min(stop - pos, n)
        trans_add_meta(cx, rgd.bits[i])
        bm_set_run(rg_bitmap(rgd, i, 0), bit, bit + part, state)
        if clone:
            pthread_mutex_lock(&rgd.mx)
            if rgd.clones[i] != NULL:
                bm_set_run(rg_bitmap(rgd, i, 1), bit, bit + part, state)
            pthread_mutex_unlock(&rgd.mx)
        pos += part
        n -= part


cdef void _lvb_out(rgrpd* rgd, const gfs2_rgrp* rg) noexcept nogil:
    cdef gfs2_rgrp_lvb* lvb = <gfs2_rgrp_lvb*>rgd.gl.lvb
    lvb.rl_magic = htobe32(GFS2_MAGIC)
    lvb.rl_flags = rg.rg_flags
    lvb.rl_free = rg.rg_free
    lvb.rl_dinodes = rg.rg_dinodes
    lvb.rl_igeneration = rg.rg_igeneration
    lvb.rl_unlinked = htobe32(rgd.unlinked)


cdef int _lvb_in(sbd* sd, rgrpd* rgd, const gfs2_rgrp* rg) noexcept nogil:
    """Another node's last word must be what stands on the disk: else somebody wrote without the lock, or lost it."""
    cdef const gfs2_rgrp_lvb* lvb = <const gfs2_rgrp_lvb*>rgd.gl.lvb
    if be32toh(lvb.rl_magic) != GFS2_MAGIC:
        return 0            # new, or its last holder died
    if lvb.rl_free != rg.rg_free:
        return sd_corrupt(sd, rgd.addr, b"rgrp lock value block", b"rl_free", be32toh(rg.rg_free), be32toh(lvb.rl_free))
    if lvb.rl_dinodes != rg.rg_dinodes:
        return sd_corrupt(sd, rgd.addr, b"rgrp lock value block", b"rl_dinodes", be32toh(rg.rg_dinodes),
                          be32toh(lvb.rl_dinodes))
    if lvb.rl_igeneration != rg.rg_igeneration:
        return sd_corrupt(sd, rgd.addr, b"rgrp lock value block", b"rl_igeneration", be64toh(rg.rg_igeneration),
                          be64toh(lvb.rl_igeneration))
    return 0


cdef void rg_header_out(opctx* cx, rgrpd* rgd) noexcept nogil:
    """The mirror goes to the header block and to the lock value block; rg_skip stays as it is."""
    cdef gfs2_rgrp* rg = <gfs2_rgrp*>rgd.bits[0].data
    trans_add_meta(cx, rgd.bits[0])
    rg.rg_flags = htobe32(rgd.flags)
    rg.rg_free = htobe32(rgd.free)
    rg.rg_dinodes = htobe32(rgd.dinodes)
    rg.rg_igeneration = htobe64(rgd.igeneration)
    rg.rg_data0 = htobe64(rgd.data0)
    rg.rg_data = htobe32(rgd.data)
    rg.rg_bitbytes = htobe32(rgd.bitbytes)
    rgrp_set_crc(rg)
    if rgd.sd.gls == NULL or rgd.sd.gls.planted != PLANT_NO_LVB:
        _lvb_out(rgd, rg)


cdef uint32_t rgrp_trans_blocks(rgrpd* rgd, uint32_t nblocks) noexcept nogil:
    """Every block may lie in a bitmap block of its own, but there are only length - 1 besides the header."""
    return 1 + min(rgd.length - 1, nblocks)


# ---- the index ------------------------------------------------------------------------------------------------------

cdef int _by_addr(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = be64toh((<const gfs2_rindex*>a).ri_addr)
    cdef uint64_t y = be64toh((<const gfs2_rindex*>b).ri_addr)
    return (x > y) - (x < y)


cdef uint32_t _blocks_for(sbd* sd, uint32_t bitbytes) noexcept nogil:
    """Header and bitmap blocks that hold so many bytes of bitmap."""
    cdef uint32_t first = sd.bsize - 128
    if bitbytes <= first:
        return 1
    return 1 + (bitbytes - first + sd.bsize - 25) // (sd.bsize - 24)


cdef int _check_entry(sbd* sd, const gfs2_rindex* ri, uint64_t floor) noexcept nogil:
    """One entry against itself, the device, and the end of the group before it."""
    cdef uint64_t where = sd.rindex.no_addr
    cdef uint64_t addr = be64toh(ri.ri_addr)
    cdef uint64_t data0 = be64toh(ri.ri_data0)
    cdef uint32_t data = be32toh(ri.ri_data)
    cdef uint32_t length = be32toh(ri.ri_length)
    cdef uint32_t bitbytes = be32toh(ri.ri_bitbytes)
    if addr < floor or addr >= sd.fs_blocks:
        return sd_corrupt(sd, where, b"rindex", b"ri_addr", floor, addr)
    if data == 0 or data & 3 or data >= <uint32_t>0xfffffff0:
        return sd_corrupt(sd, where, b"rindex", b"ri_data", 4, data)
    if bitbytes != data // 4:
        return sd_corrupt(sd, where, b"rindex", b"ri_bitbytes", data // 4, bitbytes)
    if length != _blocks_for(sd, bitbytes):
        return sd_corrupt(sd, where, b"rindex", b"ri_length", _blocks_for(sd, bitbytes), length)
    if data0 < addr + length or data0 >= sd.fs_blocks or data > sd.fs_blocks - data0:
        return sd_corrupt(sd, where, b"rindex", b"ri_data0", addr + length, data0)
    return 0


cdef int _init_group(sbd* sd, rgrpd* rgd, uint32_t index, const gfs2_rindex* ri) noexcept nogil:
    memset(rgd, 0, sizeof(rgrpd))
    rgd.sd = sd
    rgd.index = index
    rgd.addr = be64toh(ri.ri_addr)
    rgd.data0 = be64toh(ri.ri_data0)
    rgd.data = be32toh(ri.ri_data)
    rgd.length = be32toh(ri.ri_length)
    rgd.bitbytes = be32toh(ri.ri_bitbytes)
    rgd.bits = <buf**>calloc(rgd.length, sizeof(void*))
    rgd.clones = <uint8_t**>calloc(rgd.length, sizeof(void*))
    if rgd.bits == NULL or rgd.clones == NULL:
        free(rgd.bits)
        free(rgd.clones)
        return -ENOMEM
    if glock_init(sd, &rgd.gl, LM_TYPE_RGRP, rgd.addr, rgd):
        free(rgd.bits)
        free(rgd.clones)
        return -ENOMEM
    pthread_mutex_init(&rgd.mx, NULL)
    dl_init(&rgd.hot, rgd)
    dl_init(&rgd.clone_link, rgd)
    dl_init(&rgd.commit_link, rgd)
    dl_init(&rgd.rs_list, rgd)
    return 0


cdef int _take_entries(sbd* sd, const gfs2_rindex* ri, uint32_t n) noexcept nogil:
    """Checks all n sorted entries; those beyond the groups that are already known become new ones."""
    cdef uint32_t i
    cdef uint64_t floor = 0
    cdef rgrpd* rgd
    cdef int err
    for i in range(n):
        err = _check_entry(sd, &ri[i], floor)
        if err:
            return err
        floor = be64toh(ri[i].ri_data0) + be32toh(ri[i].ri_data)
        if i < sd.n_rgrps:
            rgd = &sd.rgrps[i]
            if rgd.addr != be64toh(ri[i].ri_addr) or rgd.data0 != be64toh(ri[i].ri_data0) or \
                    rgd.data != be32toh(ri[i].ri_data):
                return sd_corrupt(sd, sd.rindex.no_addr, b"rindex", b"ri_addr", rgd.addr, be64toh(ri[i].ri_addr))
    for i in range(sd.n_rgrps, n):
        err = _init_group(sd, &sd.rgrps[i], i, &ri[i])
        if err:
            return err
        # Others search the array without a lock: an entry is whole before it counts.
        sd.n_rgrps = i + 1
    return 0


cdef int rgrps_read(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t size = sd.rindex.size
    cdef uint32_t n = <uint32_t>(size // RINDEX_BYTES)
    cdef gfs2_rindex* ri
    cdef uint64_t off = 0
    cdef uint32_t part
    cdef int err = 0
    if size % RINDEX_BYTES or n == 0 or size // RINDEX_BYTES > RINDEX_MAX or n < sd.n_rgrps:
        return sd_corrupt(sd, sd.rindex.no_addr, b"dinode", b"di_size of rindex",
                          <uint64_t>max(sd.n_rgrps, <uint32_t>1) * RINDEX_BYTES, size)
    if sd.rgrps == NULL:
        sd.cap_rgrps = 2 * n + RG_SPARE
        sd.rgrps = <rgrpd*>calloc(sd.cap_rgrps, sizeof(rgrpd))
        if sd.rgrps == NULL:
            return -ENOMEM
        pthread_mutex_init(&sd.rg_lock, NULL)
        dl_init(&sd.clone_list, NULL)
        dl_init(&sd.clone_committing, NULL)
        dl_init(&sd.rg_hot, NULL)
    if n > sd.cap_rgrps:
        return -ENOMEM
    ri = <gfs2_rindex*>malloc(<uint64_t>n * RINDEX_BYTES)
    if ri == NULL:
        return -ENOMEM
    while err == 0 and off < size:
        part = <uint32_t>min(size - off, <uint64_t>(1 << 20) // RINDEX_BYTES * RINDEX_BYTES)
        err = internal_read(cx, sd.rindex, off, <uint8_t*>ri + off, part)
        off += part
    if err == 0:
        qsort(ri, n, RINDEX_BYTES, &_by_addr)
        err = _take_entries(sd, ri, n)
    free(ri)
    return err


cdef void rgrps_destroy(sbd* sd) noexcept nogil:
    cdef uint32_t i, j
    cdef rgrpd* rgd
    if sd.rgrps == NULL:
        return
    for i in range(sd.n_rgrps):
        rgd = &sd.rgrps[i]
        _put_bits(sd, rgd)
        for j in range(rgd.length):
            free(rgd.clones[j])
        free(rgd.clones)
        free(rgd.bits)
        free(rgd.freed)
        free(rgd.freed_c)
        pthread_mutex_destroy(&rgd.mx)
        glock_free(&rgd.gl)
    free(sd.rgrps)
    sd.rgrps = NULL
    sd.n_rgrps = 0
    pthread_mutex_destroy(&sd.rg_lock)


cdef rgrpd* rgrp_find(sbd* sd, uint64_t blkno) noexcept nogil:
    cdef uint32_t low = 0, high = sd.n_rgrps, mid
    cdef rgrpd* rgd
    while low < high:
        mid = low + (high - low) // 2
        rgd = &sd.rgrps[mid]
        if blkno < rgd.data0:
            high = mid
        elif blkno - rgd.data0 >= rgd.data:
            low = mid + 1
        else:
            return rgd
    return NULL


# ---- loading and locking --------------------------------------------------------------------------------------------

cdef void _put_bits(sbd* sd, rgrpd* rgd) noexcept nogil:
    cdef uint32_t i
    for i in range(rgd.length):
        if rgd.bits[i] != NULL:
            buf_put(sd, rgd.bits[i])
            rgd.bits[i] = NULL
    rgd.bits_held = 0


cdef int _get_bits(sbd* sd, rgrpd* rgd) noexcept nogil:
    """Holds the header and every bitmap block, reading what the cache lacks in batches."""
    cdef uint64_t batch[64]
    cdef uint32_t i = 0, n
    cdef int err
    while rgd.length > 1 and i < rgd.length:
        n = 0
        while n < 64 and i < rgd.length:
            batch[n] = rgd.addr + i
            n += 1
            i += 1
        buf_readahead(sd, batch, n)
    for i in range(rgd.length):
        err = meta_read(sd, &rgd.gl, rgd.addr + i, GFS2_METATYPE_RB if i else GFS2_METATYPE_RG, &rgd.bits[i])
        if err:
            rgd.bits[i] = NULL
            _put_bits(sd, rgd)
            return err
    rgd.bits_held = 1
    return 0


cdef int _header_in(sbd* sd, rgrpd* rgd) noexcept nogil:
    """The header into the mirror; what it claims must be what the bitmap says."""
    cdef gfs2_rgrp* rg = <gfs2_rgrp*>rgd.bits[0].data
    cdef uint32_t counts[4]
    cdef uint32_t pos = 0, bit, end, i
    cdef int err
    # Old tools leave these three 0; where they are set they repeat the index.
    if rg.rg_data0 != 0 and be64toh(rg.rg_data0) != rgd.data0:
        return sd_corrupt(sd, rgd.addr, b"rgrp", b"rg_data0", rgd.data0, be64toh(rg.rg_data0))
    if rg.rg_data != 0 and be32toh(rg.rg_data) != rgd.data:
        return sd_corrupt(sd, rgd.addr, b"rgrp", b"rg_data", rgd.data, be32toh(rg.rg_data))
    if rg.rg_bitbytes != 0 and be32toh(rg.rg_bitbytes) != rgd.bitbytes:
        return sd_corrupt(sd, rgd.addr, b"rgrp", b"rg_bitbytes", rgd.bitbytes, be32toh(rg.rg_bitbytes))
    memset(counts, 0, sizeof(counts))
    while pos < rgd.data:
        i = rg_place(rgd, pos, &bit, &end)
        bm_count(rg_bitmap(rgd, i, 0), bit, bit + end - pos, counts)
        pos = end
    if counts[0] != be32toh(rg.rg_free):
        return sd_corrupt(sd, rgd.addr, b"rgrp", b"rg_free", counts[0], be32toh(rg.rg_free))
    if counts[2] + counts[3] != be32toh(rg.rg_dinodes):
        return sd_corrupt(sd, rgd.addr, b"rgrp", b"rg_dinodes", counts[2] + counts[3], be32toh(rg.rg_dinodes))
    rgd.flags = be32toh(rg.rg_flags)
    rgd.igeneration = be64toh(rg.rg_igeneration)
    rgd.dinodes = be32toh(rg.rg_dinodes)
    rgd.unlinked = counts[2]
    rgd.free = counts[0]
    pthread_mutex_lock(&rgd.mx)
    rgd.free_clone = counts[0]
    rgd.extfail = 0
    pthread_mutex_unlock(&rgd.mx)
    if rgd.gl.x != NULL:
        err = _lvb_in(sd, rgd, rg)
        if err:
            return err
        _lvb_out(rgd, rg)
    rgd.loaded = 1
    return 0


cdef int _load(sbd* sd, rgrpd* rgd) noexcept nogil:
    cdef int err = 0
    if not rgd.bits_held:
        err = _get_bits(sd, rgd)
    if err == 0 and not rgd.loaded:
        err = _header_in(sd, rgd)
        if err:
            _put_bits(sd, rgd)
    return err


cdef void _keep_hot(sbd* sd, rgrpd* rgd) noexcept nogil:
    """Puts the (locked) group among the hot ones; the oldest gives its buffers back when there are too many."""
    cdef rgrpd* old
    if not dl_empty(&rgd.hot) or not rgd.bits_held:
        return
    pthread_mutex_lock(&sd.rg_lock)
    dl_add_tail(&sd.rg_hot, &rgd.hot)
    sd.n_rg_hot += 1
    if sd.n_rg_hot > RG_HOT_MAX:
        old = <rgrpd*>sd.rg_hot.next.owner
        if pthread_rwlock_trywrlock(&old.gl.rw) == 0:
            dl_del(&old.hot)
            sd.n_rg_hot -= 1
            _put_bits(sd, old)
            pthread_rwlock_unlock(&old.gl.rw)
        else:
            dl_del(&old.hot)
            dl_add_tail(&sd.rg_hot, &old.hot)
    pthread_mutex_unlock(&sd.rg_lock)


cdef int _lock(opctx* cx, rgrpd* rgd, bint block) noexcept nogil:
    """The one place where a group's glock is taken (a cluster lock will be asked for here)."""
    cdef int err
    if rgd.owner == cx:
        rgd.depth += 1
        return 0
    if cx.tr_on:
        return sd_assert_failed(cx.sd, b"a resource group is locked inside a transaction")
    if not block or (cx.rg_held and rgd < cx.rg_top):
        if pthread_rwlock_trywrlock(&rgd.gl.rw):
            return -EDEADLK if block else -EBUSY
        if gl_atomic_load32(&rgd.gl.avail) < LM_ST_EXCLUSIVE:
            pthread_rwlock_unlock(&rgd.gl.rw)
            err = glock_slow(cx, &rgd.gl, LM_ST_EXCLUSIVE, GL_TRY)
            if err == -EAGAIN:
                return -EDEADLK if block else -EBUSY
            if err:
                return err
    else:
        ob_wrlock(&cx.sd.ob, &rgd.gl.rw, WAIT_RGRP, rgd.addr)
        if gl_atomic_load32(&rgd.gl.avail) < LM_ST_EXCLUSIVE:
            # Asleep, also in a worker: whoever has it waits for nothing that a worker of ours must do (glocks.md).
            pthread_rwlock_unlock(&rgd.gl.rw)
            err = glock_slow(cx, &rgd.gl, LM_ST_EXCLUSIVE, GL_NOPARK)
            if err:
                return err
    err = -EIO if sd_dead(cx.sd) and rgd.gl.x != NULL else _load(cx.sd, rgd)
    if err:
        glock_leave(cx, &rgd.gl)
        return err
    rgd.owner = cx
    rgd.depth = 1
    if cx.rg_held == 0 or rgd > cx.rg_top:
        cx.rg_top = rgd
    cx.rg_held += 1
    return 0


cdef int rgrp_lock(opctx* cx, rgrpd* rgd) noexcept nogil:
    return _lock(cx, rgd, 1)


cdef int rgrp_trylock(opctx* cx, rgrpd* rgd) noexcept nogil:
    return _lock(cx, rgd, 0)


cdef void rgrp_unlock(opctx* cx, rgrpd* rgd) noexcept nogil:
    rgd.depth -= 1
    if rgd.depth:
        return
    rgd.owner = NULL
    cx.rg_held -= 1
    _keep_hot(cx.sd, rgd)
    glock_leave(cx, &rgd.gl)


cdef void rgrp_forget(sbd* sd, rgrpd* rgd) noexcept nogil:
    pthread_mutex_lock(&sd.rg_lock)
    if not dl_empty(&rgd.hot):
        dl_del(&rgd.hot)
        sd.n_rg_hot -= 1
    pthread_mutex_unlock(&sd.rg_lock)
    _put_bits(sd, rgd)
    rgd.loaded = 0


cdef int rgrp_blk_state(opctx* cx, uint64_t blk) noexcept nogil:
    cdef rgrpd* rgd = rgrp_find(cx.sd, blk)
    cdef int err
    if rgd == NULL:
        return -EINVAL
    err = rgrp_lock(cx, rgd)
    if err == 0:
        err = <int>rg_state(rgd, <uint32_t>(blk - rgd.data0))
        rgrp_unlock(cx, rgd)
    return err


cdef int rgrp_each_unlinked(opctx* cx, rgrpd* rgd, int (*fn)(opctx*, uint64_t, void*) noexcept nogil,
                            void* arg) noexcept nogil:
    cdef uint32_t pos = 0
    cdef int err
    while pos < rgd.data:
        err = rgrp_lock(cx, rgd)
        if err:
            return err
        pos = rg_next(rgd, pos, rgd.data, GFS2_BLKST_UNLINKED, 0)
        rgrp_unlock(cx, rgd)
        if pos < rgd.data:
            err = fn(cx, rgd.data0 + pos, arg)
            if err:
                return err
            pos += 1
    return 0
