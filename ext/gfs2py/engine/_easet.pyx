"""Changing extended attributes; see _easet.pxd. Source of behaviour: fs/gfs2/xattr.c.

Where the kernel needs two transactions to replace a value in blocks of its own (new record first, old blocks freed
afterwards), one does here: the groups of the blocks to be freed are locked first, then space is reserved, then all of
it happens at once. Blocks of the old value are used again for the new one as far as they go.
"""
from libc.errno cimport ENOENT, ENOMEM, ENOSPC, ERANGE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from gfs2py.engine._cache cimport buf_put, meta_new, meta_read
from gfs2py.engine._ea cimport (
    ea_init, ea_key, ea_find, ea_ptrs_at, ea_put, ea_room, ea_size, ea_take, ea_value_at,
)
from gfs2py.engine._freeset cimport (
    freeset, freeset_add, freeset_free, freeset_init, freeset_lock, freeset_log_blocks, freeset_unlock,
)
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_dirty, inode_touch
from gfs2py.engine._log cimport trans_add_meta, trans_begin, trans_end
from gfs2py.engine._rgrp cimport inplace_release, inplace_reserve, rgrp_alloc, rgrp_trans_blocks
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt, sd_dead
from gfs2py.engine._xattr cimport ea_block
from gfs2py.ondisk._ondisk cimport (
    be32toh, be64toh, gfs2_ea_header, GFS2_DIF_EA_INDIRECT, GFS2_FORMAT_EA, GFS2_FORMAT_ED, GFS2_FORMAT_IN,
    GFS2_METATYPE_EA, GFS2_METATYPE_ED, GFS2_METATYPE_IN, htobe64, SIZEOF_META_HEADER,
)

cdef enum:
    MAX_BSIZE = 4096
    MAX_PTRS = 255
    EXTRA_LOG_BLOCKS = 4            # statfs and quota changes

cdef struct eachange:
    # the old record
    bint old
    uint64_t old_blk
    uint32_t old_np
    uint64_t old_ptrs[MAX_PTRS]
    # the new record: the block with room for it (0: a new block), its size and data blocks
    uint64_t target
    uint32_t rec, np
    uint32_t grow                   # new blocks of records: 1, or 2 when the indirect block is new, too
    uint32_t ind_slot               # where in the indirect block the new block's pointer goes
    uint32_t n_reused
    buf* reused[MAX_PTRS]           # data blocks of the old value, held
    freeset fs                      # data blocks that are freed


# ---- planning ------------------------------------------------------------------------------------------------------

cdef int note_old(opctx* cx, eachange* ch, const buf* b, uint32_t off) noexcept nogil:
    cdef const gfs2_ea_header* ea = <const gfs2_ea_header*>(b.data + off)
    cdef const uint64_t* ptrs = <const uint64_t*>(b.data + off + ea_ptrs_at(ea.ea_name_len))
    cdef uint32_t i
    ch.old = True
    ch.old_blk = b.blkno
    for i in range(ea.ea_num_ptrs):
        if ptrs[i] == 0:
            break
        ch.old_ptrs[i] = be64toh(ptrs[i])
        ch.old_np = i + 1
    return 0


cdef int survey(opctx* cx, inode* ip, const ea_key* key, eachange* ch) noexcept nogil:
    """Finds the old record, and the first block that has room for the new one: best the old one's."""
    cdef sbd* sd = cx.sd
    cdef uint8_t scratch[MAX_BSIZE]
    cdef const uint8_t* data
    cdef uint32_t index = 0
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef bint here
    cdef buf* b = NULL
    cdef int err
    while True:
        err = ea_block(cx, ip, index, &b)
        if err:
            break
        data = b.data
        here = not ch.old and ea_find(data, sd.bsize, key, &off, &prev)
        if here:
            note_old(cx, ch, b, off)
            memcpy(scratch, data, sd.bsize)
            ea_take(scratch, off, prev)
            data = scratch
        if ch.rec and (here or ch.target == 0) and ea_room(data, sd.bsize, ch.rec, &off):
            ch.target = b.blkno
        buf_put(sd, b)
        index += 1
    if err != -ENOENT:
        return err
    if ch.rec and ch.target == 0:
        ch.grow = 1
        ch.ind_slot = index
        if ip.eattr and not ip.diskflags & GFS2_DIF_EA_INDIRECT:
            ch.grow = 2
        elif ip.diskflags & GFS2_DIF_EA_INDIRECT and index >= sd.inptrs:
            return -ENOSPC
    return 0


cdef int prepare_data(opctx* cx, inode* ip, eachange* ch) noexcept nogil:
    """Holds the data blocks that are used again, and collects those to be freed."""
    cdef uint32_t i
    cdef int err
    for i in range(ch.old_np):
        if i < ch.np:
            err = meta_read(cx.sd, &ip.gl, ch.old_ptrs[i], GFS2_METATYPE_ED, &ch.reused[i])
            if err:
                return err
            ch.n_reused = i + 1
            continue
        err = freeset_add(cx, &ch.fs, ch.old_ptrs[i], ch.old_blk, b"data pointer")
        if err < 0:
            return err
        if err == 0:
            return sd_assert_failed(cx.sd, b"extended attribute: a value has more blocks than can be")
    return 0


# ---- carrying out --------------------------------------------------------------------------------------------------

cdef int new_block(opctx* cx, inode* ip, uint32_t metatype, uint32_t format, buf** out) noexcept nogil:
    cdef uint64_t blk = 0
    cdef uint32_t n = 1
    cdef int err = rgrp_alloc(cx, ip, &blk, &n, False, NULL)
    if err == 0:
        err = meta_new(cx.sd, blk, metatype, format, out)
    if err:
        return err
    trans_add_meta(cx, out[0])
    ip.blocks += 1
    return 0


cdef int add_record_block(opctx* cx, inode* ip, const eachange* ch, buf** out) noexcept nogil:
    """A new block of records; the inode comes to know it, directly or through the indirect block."""
    cdef buf* ind = NULL
    cdef int err = new_block(cx, ip, GFS2_METATYPE_EA, GFS2_FORMAT_EA, out)
    if err:
        return err
    ea_init(out[0].data, cx.sd.bsize)
    if ip.eattr == 0:
        ip.eattr = out[0].blkno
        return 0
    if ch.grow == 2:
        err = new_block(cx, ip, GFS2_METATYPE_IN, GFS2_FORMAT_IN, &ind)
        if err == 0:
            (<uint64_t*>(ind.data + SIZEOF_META_HEADER))[0] = htobe64(ip.eattr)
            ip.eattr = ind.blkno
            ip.diskflags |= GFS2_DIF_EA_INDIRECT
    else:
        err = meta_read(cx.sd, &ip.gl, ip.eattr, GFS2_METATYPE_IN, &ind)
        if err == 0:
            trans_add_meta(cx, ind)
    if err:
        buf_put(cx.sd, out[0])
        return err
    (<uint64_t*>(ind.data + SIZEOF_META_HEADER))[ch.ind_slot] = htobe64(out[0].blkno)
    buf_put(cx.sd, ind)
    return 0


cdef int write_data(opctx* cx, inode* ip, const eachange* ch, uint64_t* ptrs, const uint8_t* value,
                    uint32_t size) noexcept nogil:
    """The value goes into data blocks, the old value's first; their numbers into the record."""
    cdef sbd* sd = cx.sd
    cdef uint32_t i
    cdef uint32_t part
    cdef buf* b = NULL
    cdef int err
    for i in range(ch.np):
        if i < ch.n_reused:
            b = ch.reused[i]
            trans_add_meta(cx, b)
        else:
            err = new_block(cx, ip, GFS2_METATYPE_ED, GFS2_FORMAT_ED, &b)
            if err:
                return err
        part = min(size, sd.jbsize)
        memcpy(b.data + SIZEOF_META_HEADER, value, part)
        memset(b.data + SIZEOF_META_HEADER + part, 0, sd.jbsize - part)
        ptrs[i] = htobe64(b.blkno)
        value += part
        size -= part
        if i >= ch.n_reused:
            buf_put(sd, b)
    return 0


cdef int take_old(opctx* cx, inode* ip, const ea_key* key, const eachange* ch) noexcept nogil:
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef buf* b = NULL
    cdef int err = meta_read(cx.sd, &ip.gl, ch.old_blk, GFS2_METATYPE_EA, &b)
    if err:
        return err
    if ea_find(b.data, cx.sd.bsize, key, &off, &prev):
        trans_add_meta(cx, b)
        ea_take(b.data, off, prev)
    buf_put(cx.sd, b)
    return 0


cdef int put_new(opctx* cx, inode* ip, const ea_key* key, const eachange* ch, const uint8_t* value,
                 uint32_t size) noexcept nogil:
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef buf* b = NULL
    cdef int err
    if ch.target:
        err = meta_read(cx.sd, &ip.gl, ch.target, GFS2_METATYPE_EA, &b)
        if err == 0:
            trans_add_meta(cx, b)
    else:
        err = add_record_block(cx, ip, ch, &b)
    if err:
        return err
    if not ea_room(b.data, cx.sd.bsize, ch.rec, &off):
        err = sd_assert_failed(cx.sd, b"extended attribute: the room that was planned is gone")
    else:
        off = ea_put(b.data, off, key, size, ch.np)
        if ch.np:
            err = write_data(cx, ip, ch, <uint64_t*>(b.data + off + ea_ptrs_at(key.namelen)), value, size)
        elif size:
            memcpy(b.data + off + ea_value_at(key.namelen), value, size)
    buf_put(cx.sd, b)
    return err


cdef int carry_out(opctx* cx, inode* ip, const ea_key* key, eachange* ch, const uint8_t* value,
                   uint32_t size) noexcept nogil:
    """Locks, reserves, and does it all in one transaction."""
    cdef uint32_t alloc = ch.grow + ch.np - ch.n_reused
    cdef uint32_t got = 0
    cdef uint32_t blocks
    cdef int err = 0
    if alloc and cx.sd.quota_check != NULL:
        err = cx.sd.quota_check(cx, ip.uid, ip.gid, alloc)
    if err == 0:
        err = freeset_lock(cx, &ch.fs)
    if err:
        return err
    if alloc:
        err = inplace_reserve(cx, ip, alloc, alloc, &got)
        if err:
            freeset_unlock(cx, &ch.fs)
            return err
    # The dinode, the blocks of the old and the new record, the indirect block, the data.
    blocks = 4 + EXTRA_LOG_BLOCKS + ch.np + freeset_log_blocks(&ch.fs)
    if alloc:
        blocks += rgrp_trans_blocks(cx.rgd, alloc)
    err = trans_begin(cx, blocks, ch.fs.n)
    if err == 0:
        if ch.old:
            err = take_old(cx, ip, key, ch)
        if err == 0 and ch.rec:
            err = put_new(cx, ip, key, ch, value, size)
        if err == 0:
            err = freeset_free(cx, &ch.fs, ip)
        if err == 0:
            if cx.ea_mode:
                ip.mode = cx.ea_mode
            inode_touch(cx, ip, False, True)
            err = inode_dirty(cx, ip)
        if err and not sd_dead(cx.sd):
            err = sd_assert_failed(cx.sd, b"extended attribute: a change failed halfway")
        trans_end(cx)
    if alloc:
        inplace_release(cx, ip)
    freeset_unlock(cx, &ch.fs)
    return err


cdef int change(opctx* cx, inode* ip, const ea_key* key, const uint8_t* value, uint32_t size, uint32_t rec,
                uint32_t np) noexcept nogil:
    cdef eachange* ch = <eachange*>calloc(1, sizeof(eachange))
    cdef uint32_t i
    cdef int err
    if ch == NULL:
        return -ENOMEM
    freeset_init(&ch.fs)
    ch.rec = rec
    ch.np = np
    err = survey(cx, ip, key, ch)
    if err == 0:
        err = prepare_data(cx, ip, ch)
    if err == 0:
        err = carry_out(cx, ip, key, ch, value, size)
    for i in range(ch.n_reused):
        buf_put(cx.sd, ch.reused[i])
    free(ch)
    return err


cdef int ea_replace(opctx* cx, inode* ip, const ea_key* key, const uint8_t* value, uint32_t size) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t np = 0
    cdef uint32_t rec = ea_size(key.namelen, size)
    if rec > sd.jbsize:
        np = (size + sd.jbsize - 1) // sd.jbsize
        rec = ea_size(key.namelen, 8 * np)
        if np > MAX_PTRS or rec > sd.jbsize:
            return -ERANGE              # only with small blocks
    return change(cx, ip, key, value, size, rec, np)


cdef int ea_remove(opctx* cx, inode* ip, const ea_key* key) noexcept nogil:
    return change(cx, ip, key, NULL, 0, 0, 0)


# ---- freeing all ---------------------------------------------------------------------------------------------------

cdef int collect_data(opctx* cx, freeset* fs, const buf* b) noexcept nogil:
    """All data blocks that records of this block point to, also of unused records. 1 all of them, 0 it is full."""
    cdef uint32_t off = SIZEOF_META_HEADER
    cdef uint32_t i
    cdef const uint64_t* ptrs
    cdef const gfs2_ea_header* ea
    cdef int err
    while off < cx.sd.bsize:
        ea = <const gfs2_ea_header*>(b.data + off)
        ptrs = <const uint64_t*>(b.data + off + ea_ptrs_at(ea.ea_name_len))
        for i in range(ea.ea_num_ptrs):
            if ptrs[i] == 0:
                break
            err = freeset_add(cx, fs, be64toh(ptrs[i]), b.blkno, b"data pointer")
            if err <= 0:
                return err
        off += be32toh(ea.ea_rec_len)
    return 1


cdef int free_block(opctx* cx, inode* ip, freeset* fs, uint32_t index, buf* b) noexcept nogil:
    """One transaction: a block of records and the data of its records go; no pointer to them is left."""
    cdef buf* ind = NULL
    cdef bint indirect = (ip.diskflags & GFS2_DIF_EA_INDIRECT) != 0
    cdef int err
    freeset_init(fs)
    err = collect_data(cx, fs, b)
    if err == 1:
        err = freeset_add(cx, fs, b.blkno, ip.no_addr, b"di_eattr")
    if err == 0:
        return sd_assert_failed(cx.sd, b"extended attributes: one block points to more data than can be")
    if err < 0:
        return err
    if indirect:
        err = meta_read(cx.sd, &ip.gl, ip.eattr, GFS2_METATYPE_IN, &ind)
        if err:
            return err
        if index == 0:
            err = freeset_add(cx, fs, ip.eattr, ip.no_addr, b"di_eattr")
            if err == 0:
                err = sd_assert_failed(cx.sd, b"extended attributes: one block points to more data than can be")
    if err > 0:
        err = 0
    if err == 0:
        err = freeset_lock(cx, fs)
    if err == 0:
        err = trans_begin(cx, 2 + EXTRA_LOG_BLOCKS + freeset_log_blocks(fs), fs.n)
        if err == 0:
            if indirect and index:
                trans_add_meta(cx, ind)
                (<uint64_t*>(ind.data + SIZEOF_META_HEADER))[index] = 0
            if index == 0:
                ip.eattr = 0
                ip.diskflags &= ~<uint32_t>GFS2_DIF_EA_INDIRECT
            err = freeset_free(cx, fs, ip)
            if err == 0:
                err = inode_dirty(cx, ip)
            trans_end(cx)
        freeset_unlock(cx, fs)
    if ind != NULL:
        buf_put(cx.sd, ind)
    return err


cdef int ea_free_all(opctx* cx, inode* ip) noexcept nogil:
    """From the last block of records to the first: what a crash leaves is a shorter list."""
    cdef freeset* fs
    cdef uint32_t count = 0
    cdef buf* b = NULL
    cdef int err
    fs = <freeset*>calloc(1, sizeof(freeset))
    if fs == NULL:
        return -ENOMEM
    while True:
        err = ea_block(cx, ip, count, &b)
        if err:
            break
        buf_put(cx.sd, b)
        count += 1
    if err == -ENOENT:
        err = 0
        if count == 0:
            err = sd_corrupt(cx.sd, ip.eattr, b"extended attribute block", b"first pointer", 1, 0)
    while err == 0 and count:
        count -= 1
        err = ea_block(cx, ip, count, &b)
        if err == 0:
            err = free_block(cx, ip, fs, count, b)
            buf_put(cx.sd, b)
    free(fs)
    return err
