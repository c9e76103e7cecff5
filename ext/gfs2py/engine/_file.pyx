"""File data: reading and writing in the three forms a GFS2 file can have - stuffed, journaled (jdata), ordinary.

Ordinary data goes one of two ways. Small or unaligned pieces are copied into data buffers and written behind, in order
before the commit that makes them reachable. Large aligned runs go straight from the caller's buffer to disk, after the
transaction that allocated the blocks but before it may commit: the commit waits for direct
writes (inode.dw_list), and so does whoever wants the same blocks.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from gfs2py.block._device cimport bio_seg, dev_alloc, dev_free
from gfs2py.engine._bmap cimport bmap_alloc, bmap_alloc_need, bmap_lookup, unstuff_dinode
from gfs2py.engine._cache cimport buf_new, buf_peek, buf_put, buf_read, buf_stale, cache_drop_range
from gfs2py.engine._data cimport (data_cancel, data_patch_block, data_put_block, data_throttle, data_writeback,
                                  data_zero_gap, data_zero_range, dw_begin, dw_end, dw_wait)
from gfs2py.engine._incore cimport I_VALID, LM_ST_SHARED, SDF_SHARED, SDF_WRITEBACK, buf, dwrange, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf, inode_dirty, inode_lock, inode_touch, inode_unlock
from gfs2py.engine._log cimport (log_sync, log_writes_data, trans_add_data, trans_add_meta, trans_add_ordered,
                                 trans_begin, trans_end, trans_seq)
from gfs2py.engine._rgrp cimport inplace_release, inplace_reserve, rgrp_trans_blocks
from gfs2py.engine._sbd cimport sd_corrupt, sd_dead, sd_io_error
from gfs2py.engine._sync cimport pthread_cond_broadcast, pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.engine._truncate cimport punch_blocks
from gfs2py.ondisk._ondisk cimport GFS2_DIF_JDATA, GFS2_LFC_DO_SYNC, gfs2_dinode

cdef extern from "<errno.h>" nogil:
    int EBADE, EIO, EINVAL, EFBIG, ENOMEM, ENOSPC, EOPNOTSUPP
cdef extern from "<linux/falloc.h>" nogil:
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

cdef enum:
    DIRECT_MIN = 65536              # bytes of an aligned run worth a direct write
    CHUNK_BLOCKS = 1024             # file blocks of one writing transaction
    JDATA_CHUNK = 32
    ZERO_BYTES = 1 << 20
    COPY_BYTES = 1 << 20
    SMALL_READ = 131072             # bytes: up to here a read looks for its blocks in the cache first


# ---------------------------------------------------------------------------------------------- reading

cdef int _read_stuffed(opctx* cx, inode* ip, uint64_t off, uint64_t size, uint8_t* out) noexcept nogil:
    cdef buf* b = NULL
    cdef int err
    if off + size > cx.sd.bsize - sizeof(gfs2_dinode):
        return sd_corrupt(cx.sd, ip.no_addr, b"dinode", b"di_size", cx.sd.bsize - sizeof(gfs2_dinode), ip.size)
    err = inode_buf(cx, ip, &b)
    if err:
        return err
    memcpy(out, b.data + sizeof(gfs2_dinode) + off, size)
    buf_put(cx.sd, b)
    return 0


cdef int _copy_block(sbd* sd, inode* ip, uint64_t dblk, uint32_t at, uint32_t part, uint8_t* out) noexcept nogil:
    """Part of one block through the cache."""
    cdef buf* b = NULL
    cdef int err = buf_read(sd, &ip.gl, dblk, &b)
    if err:
        return err
    memcpy(out, b.data + at, part)
    buf_put(sd, b)
    return 0


cdef int _copy_cached(sbd* sd, inode* ip, uint64_t dblk, uint64_t n, uint8_t* out, direct_io* io) noexcept nogil:
    """n whole blocks: cached ones are copied, runs of others are queued for reading."""
    cdef uint64_t i
    cdef buf* b
    cdef int err
    for i in range(n):
        b = buf_peek(sd, dblk + i)
        if b != NULL and buf_stale(b, &ip.gl):
            buf_put(sd, b)
            b = NULL
        if b != NULL:
            memcpy(out + (i << sd.bsize_shift), b.data, sd.bsize)
            buf_put(sd, b)
            continue
        err = _queue(sd, io, dblk + i, out + (i << sd.bsize_shift), sd.bsize, False)
        if err:
            return err
    return 0


cdef int _queue(sbd* sd, direct_io* io, uint64_t dblk, uint8_t* p, uint64_t length, bint write) noexcept nogil:
    """Adds a piece to the batch, merging it with the last; a full batch of reads is carried out."""
    cdef bio_seg* last
    cdef int err
    if io.n:
        last = &io.segs[io.n - 1]
        if last.off + last.len == dblk << sd.bsize_shift and <uint8_t*>last.buf + last.len == p:
            last.len += length
            return 0
    if io.n == MAX_SEGS:
        err = _submit(sd, io, write)
        if err:
            return err
    io.segs[io.n].off = dblk << sd.bsize_shift
    io.segs[io.n].buf = p
    io.segs[io.n].len = length
    io.segs[io.n].res = 0
    io.n += 1
    return 0


cdef int _submit(sbd* sd, direct_io* io, bint write) noexcept nogil:
    cdef uint32_t n = io.n
    io.n = 0
    if n == 0:
        return 0
    if write:
        return sd.dev.ops.writev(sd.dev, io.segs, n)
    return sd.dev.ops.readv(sd.dev, io.segs, n)


cdef int _write_direct(sbd* sd, direct_io* io) noexcept nogil:
    """Carries out the collected writes. What the cache read meanwhile (runs of dinodes are read with whatever lies
    between them) may be older than what is on disk now, so it is dropped once more."""
    cdef uint32_t n = io.n
    cdef uint32_t i
    cdef int err = _submit(sd, io, True)
    if err and io.fresh and not sd_dead(sd):
        # The commit is about to show these blocks, which hold what somebody deleted.
        io.n = n
        err = _submit(sd, io, True)
        if err and not (sd.flags & SDF_WRITEBACK):
            sd_io_error(sd, b"writing data to new blocks", io.segs[0].off >> sd.bsize_shift, err)
    if err == -EBADE and not sd_dead(sd):
        err = sd_io_error(sd, b"writing data", io.segs[0].off >> sd.bsize_shift, err)
    for i in range(n):
        cache_drop_range(sd, io.segs[i].off >> sd.bsize_shift, io.segs[i].len >> sd.bsize_shift)
    return err


cdef int _read_extent(opctx* cx, inode* ip, uint64_t dblk, uint64_t off, uint64_t part, uint8_t* out,
                      direct_io* io) noexcept nogil:
    """`part` bytes at file offset `off`, which lie from disk block dblk on."""
    cdef sbd* sd = cx.sd
    cdef uint32_t at = <uint32_t>(off & (sd.bsize - 1))
    cdef uint32_t head
    cdef uint64_t whole
    cdef int err
    if at or part < sd.bsize or (<uintptr_t>out & (sd.dev.align - 1)):
        head = <uint32_t>min(part, <uint64_t>(sd.bsize - at))
        err = _copy_block(sd, ip, dblk, at, head, out)
        if err or head == part:
            return err
        out += head
        part -= head
        dblk += 1
    if <uintptr_t>out & (sd.dev.align - 1):
        while part:
            head = <uint32_t>min(part, <uint64_t>sd.bsize)
            err = _copy_block(sd, ip, dblk, 0, head, out)
            if err:
                return err
            out += head
            part -= head
            dblk += 1
        return 0
    whole = part >> sd.bsize_shift
    if whole:
        # Newer than the disk, or likely read ahead: with the dinodes of small files their data come in.
        if (ip.ndirty or ip.diskflags & GFS2_DIF_JDATA
                or (part <= SMALL_READ and not (sd.flags & SDF_SHARED))):
            err = _copy_cached(sd, ip, dblk, whole, out, io)
        else:
            err = _queue(sd, io, dblk, out, whole << sd.bsize_shift, False)
        if err:
            return err
    head = <uint32_t>(part & (sd.bsize - 1))
    if head:
        return _copy_block(sd, ip, dblk + whole, 0, head, out + (whole << sd.bsize_shift))
    return 0


cdef int file_read(opctx* cx, inode* ip, uint64_t off, uint64_t size, uint8_t* out, uint64_t* got) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef direct_io io
    cdef uint64_t left, lblk, dblk, n, part
    cdef uint32_t at
    cdef int err = 0
    got[0] = 0
    if off >= ip.size or size == 0:
        return 0
    left = min(size, ip.size - off)
    got[0] = left
    if ip.height == 0:
        return _read_stuffed(cx, ip, off, left, out)
    io.n = 0
    dw_wait(ip, off >> sd.bsize_shift, (off + left + sd.bsize - 1) >> sd.bsize_shift)
    while left:
        lblk = off >> sd.bsize_shift
        at = <uint32_t>(off & (sd.bsize - 1))
        err = bmap_lookup(cx, ip, lblk, (at + left + sd.bsize - 1) >> sd.bsize_shift, &dblk, &n)
        if err:
            return err
        part = min(left, (n << sd.bsize_shift) - at)
        if dblk == 0:
            memset(out, 0, part)
        else:
            err = _read_extent(cx, ip, dblk, off, part, out, &io)
            if err:
                return err
        off += part
        out += part
        left -= part
    return _submit(sd, &io, False)


# ---------------------------------------------------------------------------------------------- writing

cdef int _write_stuffed(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src) noexcept nogil:
    cdef buf* b = NULL
    cdef int err = inode_buf(cx, ip, &b)
    if err:
        return err
    err = trans_begin(cx, 1, 0)
    if err == 0:
        trans_add_meta(cx, b)
        memcpy(b.data + sizeof(gfs2_dinode) + off, src, size)
        if off + size > ip.size:
            ip.size = off + size
        if not cx.no_times:
            inode_touch(cx, ip, True, True)
        err = inode_dirty(cx, ip)
        ip.data_seq = ip.meta_seq
        trans_end(cx)
    buf_put(cx.sd, b)
    return err


cdef int _place_block(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, uint32_t at, const uint8_t* src,
                      uint32_t part, bint is_new) noexcept nogil:
    """One block's share of a write, through the cache: data buffer or journaled buffer."""
    cdef sbd* sd = cx.sd
    cdef buf* b = NULL
    cdef int err
    if ip.diskflags & GFS2_DIF_JDATA:
        if is_new or part == sd.bsize:
            err = buf_new(sd, dblk, &b) if is_new else buf_read(sd, &ip.gl, dblk, &b)
        else:
            err = buf_read(sd, &ip.gl, dblk, &b)
        if err:
            return err
        trans_add_data(cx, b)
        memcpy(b.data + at, src, part)
        buf_put(sd, b)
        return 0
    if is_new and part < sd.bsize:
        err = data_put_block(cx, ip, lblk, dblk, src, 0, True)
        if err:
            return err
    elif part == sd.bsize:
        return data_put_block(cx, ip, lblk, dblk, src, part, is_new)
    return data_patch_block(cx, ip, lblk, dblk, at, src, part)


cdef int _place_extent(opctx* cx, inode* ip, uint64_t dblk, uint64_t off, uint64_t part, const uint8_t* src,
                       bint is_new, direct_io* io) noexcept nogil:
    """The bytes [off, off+part), which belong to disk blocks from dblk on."""
    cdef sbd* sd = cx.sd
    cdef uint64_t lblk = off >> sd.bsize_shift
    cdef uint32_t at = <uint32_t>(off & (sd.bsize - 1))
    cdef uint32_t one
    cdef uint64_t whole
    cdef int err
    while part:
        whole = part >> sd.bsize_shift
        if (at == 0 and part >= DIRECT_MIN and io.n < MAX_SEGS and not (ip.diskflags & GFS2_DIF_JDATA)
                and not (<uintptr_t>src & (sd.dev.align - 1))):
            data_cancel(sd, ip, lblk, whole)
            cache_drop_range(sd, dblk, whole)
            _queue(sd, io, dblk, <uint8_t*>src, whole << sd.bsize_shift, True)
            io.fresh = io.fresh or is_new
            lblk += whole
            dblk += whole
            src += whole << sd.bsize_shift
            part -= whole << sd.bsize_shift
            continue
        one = <uint32_t>min(part, <uint64_t>(sd.bsize - at))
        err = _place_block(cx, ip, lblk, dblk, at, src, one, is_new)
        if err:
            return err
        at = 0
        lblk += 1
        dblk += 1
        src += one
        part -= one
    return 0


cdef void _warm_edges(opctx* cx, inode* ip, uint64_t off, uint64_t size) noexcept nogil:
    """Reads partial blocks at both ends into the cache, so that no disk read happens inside the transaction."""
    cdef sbd* sd = cx.sd
    cdef uint64_t ends[2]
    cdef uint64_t dblk, n
    cdef buf* b = NULL
    cdef int i
    ends[0] = off
    ends[1] = off + size
    if ip.height == 0:
        return
    for i in range(2):
        if ends[i] & (sd.bsize - 1) == 0 or ends[i] >> sd.bsize_shift << sd.bsize_shift >= ip.size:
            continue
        if bmap_lookup(cx, ip, ends[i] >> sd.bsize_shift, 1, &dblk, &n) == 0 and dblk:
            if buf_read(sd, &ip.gl, dblk, &b) == 0:
                buf_put(sd, b)


cdef bint _all_mapped(opctx* cx, inode* ip, uint64_t lblk, uint64_t nblk, int* err) noexcept nogil:
    cdef uint64_t dblk, n
    err[0] = 0
    if ip.height == 0:
        return False
    while nblk:
        err[0] = bmap_lookup(cx, ip, lblk, nblk, &dblk, &n)
        if err[0] or dblk == 0:
            return False
        lblk += n
        nblk -= n
    return True


cdef int _write_mapped(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src, direct_io* io,
                       uint64_t* done, bint allocate) noexcept nogil:
    """Places the data extent by extent within the open transaction (if any); *done = bytes placed."""
    cdef sbd* sd = cx.sd
    cdef uint64_t dblk, n, part
    cdef uint32_t at
    cdef bint is_new = False
    cdef int err
    done[0] = 0
    while size:
        at = <uint32_t>(off & (sd.bsize - 1))
        n = (at + size + sd.bsize - 1) >> sd.bsize_shift
        if allocate:
            err = bmap_alloc(cx, ip, off >> sd.bsize_shift, n, &dblk, &n, &is_new)
        else:
            err = bmap_lookup(cx, ip, off >> sd.bsize_shift, n, &dblk, &n)
        if err:
            return err
        part = min(size, (n << sd.bsize_shift) - at)
        err = _place_extent(cx, ip, dblk, off, part, src, is_new, io)
        if err:
            return sd_io_error(sd, b"filling new blocks", dblk, err) if is_new else err
        off += part
        src += part
        size -= part
        done[0] += part
    return 0


cdef int _write_begin(opctx* cx, inode* ip, uint64_t off, uint64_t* size, bint mapped) noexcept nogil:
    """Reserves space and opens the transaction of one chunk; may shorten *size to what there is room for."""
    cdef sbd* sd = cx.sd
    cdef uint64_t lblk = off >> sd.bsize_shift
    cdef uint32_t at = <uint32_t>(off & (sd.bsize - 1))
    cdef uint64_t nblk = (at + size[0] + sd.bsize - 1) >> sd.bsize_shift
    cdef bint jdata = (ip.diskflags & GFS2_DIF_JDATA) != 0
    cdef uint32_t db = 0
    cdef uint32_t mb = 0
    cdef uint32_t got = 0
    cdef int err
    if mapped:
        return trans_begin(cx, 1 + <uint32_t>(nblk if jdata else 0), 0)
    while True:
        bmap_alloc_need(sd, ip, lblk, nblk, &db, &mb)
        if sd.quota_check != NULL:
            err = sd.quota_check(cx, ip.uid, ip.gid, db + mb)
            if err:
                if nblk == 1:
                    return err
                nblk = (nblk + 1) // 2
                continue
        err = inplace_reserve(cx, ip, db + mb, db + mb if nblk == 1 else mb + 1 + (db - <uint32_t>nblk), &got)
        if err:
            if err == -ENOSPC and nblk > 1:
                nblk = 1
                continue
            return err
        if got < db + mb:
            inplace_release(cx, ip)
            nblk = max(<uint64_t>1, min(nblk // 2, <uint64_t>(got - mb if got > mb else 1)))
            continue
        break
    size[0] = min(size[0], (nblk << sd.bsize_shift) - at)
    err = trans_begin(cx, 2 + mb + rgrp_trans_blocks(cx.rgd, db + mb) + (db if jdata else 0), 0)
    if err:
        inplace_release(cx, ip)
    return err


cdef int _write_chunk(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src,
                      uint64_t* done, late_write* late) noexcept nogil:
    """One transaction's worth; *done says how much of it was written, or will be by file_write_late."""
    cdef sbd* sd = cx.sd
    cdef uint64_t lblk = off >> sd.bsize_shift
    cdef uint64_t end_blk = (off + size + sd.bsize - 1) >> sd.bsize_shift
    cdef bint mapped
    cdef bint need_tr
    cdef int err = 0
    cdef int e
    done[0] = 0
    dw_wait(ip, lblk, end_blk)
    mapped = _all_mapped(cx, ip, lblk, end_blk - lblk, &err)
    if err:
        return err
    _warm_edges(cx, ip, off, size)
    need_tr = not mapped or not cx.no_times or off + size > ip.size or (ip.diskflags & GFS2_DIF_JDATA) != 0
    if need_tr:
        err = _write_begin(cx, ip, off, &size, mapped)
        if err:
            return err
    late.io.n = 0
    late.io.fresh = False
    late.on = True
    dw_begin(ip, &late.range, lblk, end_blk)
    err = _write_mapped(cx, ip, off, size, src, &late.io, done, not mapped)
    if not (ip.diskflags & GFS2_DIF_JDATA):
        trans_add_ordered(cx, ip)
    if need_tr:
        if off + done[0] > ip.size:
            ip.size = off + done[0]
        if not cx.no_times:
            inode_touch(cx, ip, True, True)
        e = inode_dirty(cx, ip)
        if err == 0:
            err = e
        if not mapped or off + size >= ip.size or ip.diskflags & GFS2_DIF_JDATA:
            ip.data_seq = ip.meta_seq
        trans_end(cx)
        if cx.rgd != NULL:
            inplace_release(cx, ip)
    if late.io.n == 0:
        late.on = False
        dw_end(ip, &late.range, 0)
    return 0 if done[0] else err


cdef int file_write_late(sbd* sd, inode* ip, late_write* late) noexcept nogil:
    cdef int err
    if not late.on:
        return 0
    late.on = False
    err = _write_direct(sd, &late.io)
    dw_end(ip, &late.range, err)
    return err


cdef int file_write(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src, uint64_t* done,
                    late_write* late) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef late_write own
    cdef late_write* w = &own if late == NULL else late
    cdef uint64_t chunk, put
    cdef uint64_t most
    cdef int err = 0
    cdef int e
    done[0] = 0
    w.on = False
    if size == 0:
        return 0
    if off >> 63 or off + size >> 63:
        return -EFBIG
    if ip.height == 0 and off + size <= sd.bsize - sizeof(gfs2_dinode):
        err = _write_stuffed(cx, ip, off, size, src)
        if err == 0:
            done[0] = size
        return err
    if off > ip.size:
        err = data_zero_gap(cx, ip, off)
        if err:
            return err
    most = <uint64_t>(JDATA_CHUNK if ip.diskflags & GFS2_DIF_JDATA else CHUNK_BLOCKS) << sd.bsize_shift
    while size:
        chunk = min(size, most - (off & (sd.bsize - 1)))
        err = _write_chunk(cx, ip, off, chunk, src, &put, w)
        if w.on and (late == NULL or put < size):
            # The next transaction may have to wait for a commit, which waits for this write.
            e = file_write_late(sd, ip, w)
            if e:
                err = e
                put = 0
        if err:
            break
        off += put
        src += put
        size -= put
        done[0] += put
    if late == NULL:
        data_throttle(sd, ip)
    return 0 if done[0] else err


cdef int file_fsync(opctx* cx, inode* ip, bint datasync, uint32_t* seen) noexcept nogil:
    """Data in place, then whatever commit makes it reachable."""
    cdef sbd* sd = cx.sd
    cdef uint64_t seq
    cdef int err = 0
    cdef int e
    if not (ip.iflags & I_VALID) and ip.gl.x == NULL:
        # It left the cache and came back: which commit it waits for stands on its dinode.
        err = inode_lock(cx, ip, LM_ST_SHARED)
        if err:
            return err
        inode_unlock(cx, ip)
    seq = ip.data_seq if datasync else ip.meta_seq
    if not log_writes_data(sd, ip, seq):
        data_writeback(sd, ip)
    if sd.log != NULL and sd.log.live:
        # Sequence 1 is long committed: then only the device is flushed.
        e = log_sync(sd, max(seq, <uint64_t>1), GFS2_LFC_DO_SYNC)
    else:
        e = sd.dev.ops.flush(sd.dev)
    pthread_mutex_lock(&ip.dlock)
    if seen == NULL:
        seen = &ip.wb_told
    if seen[0] != ip.wb_seq:
        # Also of another thread's write-back, and of commits.
        err = ip.wb_err
        seen[0] = ip.wb_seq
        ip.wb_told = ip.wb_seq
    pthread_mutex_unlock(&ip.dlock)
    return err if err else e


# ---------------------------------------------------------------------------------------------- fallocate, copying

cdef int _zero_extent(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, uint64_t n, uint8_t* zeros) noexcept nogil:
    """New blocks of fallocate: GFS2 has no unwritten extents, so zeros are written."""
    cdef sbd* sd = cx.sd
    cdef uint64_t per = ZERO_BYTES >> sd.bsize_shift
    cdef uint64_t k, i
    cdef buf* b = NULL
    cdef int err
    if ip.diskflags & GFS2_DIF_JDATA:
        for i in range(n):
            err = buf_new(sd, dblk + i, &b)
            if err:
                return err
            trans_add_data(cx, b)
            buf_put(sd, b)
        return 0
    cache_drop_range(sd, dblk, n)
    while n:
        k = min(n, per)
        err = sd.dev.ops.write(sd.dev, dblk << sd.bsize_shift, zeros, k << sd.bsize_shift, 0)
        if err:
            # They are mapped already: without zeros the commit would show what somebody deleted.
            err = sd.dev.ops.write(sd.dev, dblk << sd.bsize_shift, zeros, k << sd.bsize_shift, 0)
        if err:
            return err if sd.flags & SDF_WRITEBACK else sd_io_error(sd, b"zeroing new blocks", dblk, err)
        cache_drop_range(sd, dblk, k)
        dblk += k
        n -= k
    return 0


cdef int _alloc_chunk(opctx* cx, inode* ip, uint64_t lblk, uint64_t nblk, uint8_t* zeros, uint64_t* did) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t size = nblk << sd.bsize_shift
    cdef uint64_t dblk, n
    cdef dwrange range_
    cdef bint is_new
    cdef int err = _write_begin(cx, ip, lblk << sd.bsize_shift, &size, False)
    did[0] = 0
    if err:
        return err
    nblk = size >> sd.bsize_shift
    dw_begin(ip, &range_, lblk, lblk + nblk)
    while did[0] < nblk and err == 0:
        err = bmap_alloc(cx, ip, lblk + did[0], nblk - did[0], &dblk, &n, &is_new)
        if err == 0 and is_new:
            err = _zero_extent(cx, ip, lblk + did[0], dblk, n, zeros)
        if err == 0:
            did[0] += n
    trans_add_ordered(cx, ip)
    inode_dirty(cx, ip)
    ip.data_seq = ip.meta_seq
    trans_end(cx)
    inplace_release(cx, ip)
    dw_end(ip, &range_, err)
    return err


cdef int file_alloc_range(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint8_t* zeros = <uint8_t*>dev_alloc(ZERO_BYTES)
    cdef uint64_t most = JDATA_CHUNK if ip.diskflags & GFS2_DIF_JDATA else CHUNK_BLOCKS
    cdef uint64_t dblk, k
    cdef int err = 0
    if zeros == NULL:
        return -ENOMEM
    memset(zeros, 0, ZERO_BYTES)
    while n and err == 0:
        k = min(n, most)
        dblk = 0
        if ip.height:
            err = bmap_lookup(cx, ip, lblk, n, &dblk, &k)
            if err == 0 and dblk == 0:
                k = min(n, most)
        if err == 0 and dblk == 0:
            err = _alloc_chunk(cx, ip, lblk, k, zeros, &k)
        lblk += k
        n -= k
    dev_free(zeros)
    return err


cdef int _zero_edges(opctx* cx, inode* ip, uint64_t off, uint64_t end) noexcept nogil:
    """Zeroes the partial blocks at both ends of [off, end), in one transaction with the new times."""
    cdef sbd* sd = cx.sd
    cdef uint64_t first_end = min(end, (off + sd.bsize - 1) >> sd.bsize_shift << sd.bsize_shift)
    cdef uint64_t last = max(first_end, end >> sd.bsize_shift << sd.bsize_shift)
    cdef int err
    _warm_edges(cx, ip, off, end - off)
    err = trans_begin(cx, 4, 0)
    if err:
        return err
    if ip.height == 0:
        err = data_zero_range(cx, ip, off, end - off)
    else:
        if first_end > off:
            err = data_zero_range(cx, ip, off, first_end - off)
        if err == 0 and end > last:
            err = data_zero_range(cx, ip, last, end - last)
    inode_touch(cx, ip, True, True)
    inode_dirty(cx, ip)
    if ip.height == 0 or ip.diskflags & GFS2_DIF_JDATA:
        ip.data_seq = ip.meta_seq
    trans_end(cx)
    return err


cdef int _punch(opctx* cx, inode* ip, uint64_t off, uint64_t length) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t end = off + length
    cdef uint64_t first = (off + sd.bsize - 1) >> sd.bsize_shift
    cdef uint64_t last = end >> sd.bsize_shift
    cdef int err
    if ip.height == 0 and off >= ip.size:
        return 0
    err = _zero_edges(cx, ip, off, min(end, max(off, ip.size)) if ip.height == 0 else end)
    if err == 0 and ip.height and last > first:
        err = punch_blocks(cx, ip, first, last - first)
        ip.data_seq = ip.meta_seq
    return err


cdef bint _any_data(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil:
    """Whether the blocks hold anything: not when all of them are holes."""
    cdef uint64_t dblk, k
    if ip.height == 0:
        return True
    while n:
        if bmap_lookup(cx, ip, lblk, n, &dblk, &k) or dblk:
            return True
        lblk += k
        n -= k
    return False


cdef int _write_zeros(opctx* cx, inode* ip, uint64_t off, uint64_t end) noexcept nogil:
    """Over blocks that are all allocated, so that no space can be missing."""
    cdef uint8_t* zeros = <uint8_t*>dev_alloc(ZERO_BYTES)
    cdef uint64_t done
    cdef int err = 0
    if zeros == NULL:
        return -ENOMEM
    memset(zeros, 0, ZERO_BYTES)
    while off < end and err == 0:
        err = file_write(cx, ip, off, min(end - off, <uint64_t>ZERO_BYTES - (off & (cx.sd.bsize - 1))), zeros, &done,
                         NULL)
        off += done
    dev_free(zeros)
    return err


cdef int _zero_range(opctx* cx, inode* ip, uint64_t off, uint64_t length) noexcept nogil:
    """Allocates first: the kernel keeps its pages when this fails, so then nothing may have changed.

    Behind the end of the file all blocks that there are hold zeros.
    """
    cdef uint64_t first = off >> cx.sd.bsize_shift
    cdef uint64_t last = (off + length + cx.sd.bsize - 1) >> cx.sd.bsize_shift
    cdef bint data = _any_data(cx, ip, first, last - first)
    cdef int err = file_alloc_range(cx, ip, first, last - first)
    if err or not data:
        return err
    return _write_zeros(cx, ip, off, min(off + length, ip.size))


cdef int file_fallocate(opctx* cx, inode* ip, uint32_t mode, uint64_t off, uint64_t length) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t first, last
    cdef int err = 0
    if mode & ~<uint32_t>(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE):
        return -EOPNOTSUPP
    if length == 0 or off >> 62 or length >> 62 or (off + length) >> 62:
        return -EFBIG if length else -EINVAL
    dw_wait(ip, 0, ~<uint64_t>0)
    if mode & FALLOC_FL_PUNCH_HOLE:
        if not (mode & FALLOC_FL_KEEP_SIZE) or mode & FALLOC_FL_ZERO_RANGE:
            return -EOPNOTSUPP
        return _punch(cx, ip, off, length)
    if not (mode & FALLOC_FL_KEEP_SIZE):
        err = data_zero_gap(cx, ip, off + length)
        if err:
            return err
    if ip.height == 0 and off + length <= sd.bsize - sizeof(gfs2_dinode):
        err = _punch(cx, ip, off, length) if mode & FALLOC_FL_ZERO_RANGE else 0
    elif mode & FALLOC_FL_ZERO_RANGE:
        err = _zero_range(cx, ip, off, length)
    else:
        first = off >> sd.bsize_shift
        last = (off + length + sd.bsize - 1) >> sd.bsize_shift
        err = file_alloc_range(cx, ip, first, last - first)
    if err:
        return err
    err = trans_begin(cx, 1, 0)
    if err:
        return err
    if not (mode & FALLOC_FL_KEEP_SIZE) and off + length > ip.size:
        if not (ip.diskflags & GFS2_DIF_JDATA):
            trans_add_ordered(cx, ip)
        ip.size = off + length
        inode_touch(cx, ip, True, False)
    inode_touch(cx, ip, False, True)
    err = inode_dirty(cx, ip)
    ip.data_seq = ip.meta_seq
    trans_end(cx)
    return err


cdef int file_copy_range(opctx* cx, inode* src, uint64_t off_in, inode* dst, uint64_t off_out, uint64_t length,
                         uint64_t* copied) noexcept nogil:
    """Both glocks are held (src SH or better, dst EX; one EX when they are the same)."""
    cdef uint8_t* tmp
    cdef uint64_t got, put
    cdef int err = 0
    copied[0] = 0
    if src == dst and off_in < off_out + length and off_out < off_in + length:
        return -EINVAL
    tmp = <uint8_t*>dev_alloc(COPY_BYTES)
    if tmp == NULL:
        return -ENOMEM
    while length and err == 0:
        err = file_read(cx, src, off_in, min(length, <uint64_t>COPY_BYTES), tmp, &got)
        if err or got == 0:
            break
        err = file_write(cx, dst, off_out, got, tmp, &put, NULL)
        off_in += put
        off_out += put
        length -= put
        copied[0] += put
    dev_free(tmp)
    return 0 if copied[0] else err


# ---------------------------------------------------------------------------------------------- system files

cdef int internal_read(opctx* cx, inode* ip, uint64_t off, void* out, uint32_t size) noexcept nogil:
    """Exactly `size` bytes, through the cache; a shorter file is damage."""
    cdef sbd* sd = cx.sd
    cdef uint8_t* p = <uint8_t*>out
    cdef uint64_t dblk, n
    cdef uint32_t at, part
    cdef int err
    if off + size > ip.size:
        return sd_corrupt(sd, ip.no_addr, b"dinode", b"di_size", off + size, ip.size)
    if ip.height == 0:
        return _read_stuffed(cx, ip, off, size, p)
    while size:
        at = <uint32_t>(off & (sd.bsize - 1))
        part = min(size, sd.bsize - at)
        err = bmap_lookup(cx, ip, off >> sd.bsize_shift, 1, &dblk, &n)
        if err:
            return err
        if dblk == 0:
            memset(p, 0, part)
        else:
            err = _copy_block(sd, ip, dblk, at, part, p)
            if err:
                return err
        p += part
        off += part
        size -= part
    return 0


cdef int internal_write_tr(opctx* cx, inode* ip, uint64_t off, const void* src, uint32_t size) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef const uint8_t* p = <const uint8_t*>src
    cdef uint64_t dblk, n
    cdef uint32_t at, part
    cdef buf* b = NULL
    cdef int err
    if off + size > ip.size:
        return sd_corrupt(sd, ip.no_addr, b"dinode", b"di_size", off + size, ip.size)
    while size:
        at = <uint32_t>(off & (sd.bsize - 1))
        part = min(size, sd.bsize - at)
        if ip.height == 0:
            at = <uint32_t>(off + sizeof(gfs2_dinode))
            part = size
            err = inode_buf(cx, ip, &b)
            if err:
                return err
            trans_add_meta(cx, b)
        else:
            err = bmap_lookup(cx, ip, off >> sd.bsize_shift, 1, &dblk, &n)
            if err == 0 and dblk == 0:
                err = sd_corrupt(sd, ip.no_addr, b"dinode", b"system file block", 1, 0)
            if err == 0:
                err = buf_read(sd, &ip.gl, dblk, &b)
            if err:
                return err
            trans_add_data(cx, b)
        memcpy(b.data + at, p, part)
        buf_put(sd, b)
        p += part
        off += part
        size -= part
    return 0
