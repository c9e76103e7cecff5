"""Buffered file data: dirty blocks of ordinary files, their write-back and their cancelling."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset
from gfs2py.block._device cimport bio_seg
from gfs2py.engine._bmap cimport bmap_lookup
from gfs2py.engine._cache cimport buf_hold, buf_new, buf_put, buf_read, shard_of
from gfs2py.engine._incore cimport (B_DATA, B_DDIRTY, B_NEW, B_UPTODATE, B_WRITING, SDF_WRITEBACK, buf, cache_shard,
                                    dwrange, inode, jlog, opctx, sbd)
from gfs2py.engine._inode cimport inode_buf, inode_hold, inode_put
from gfs2py.engine._log cimport (log_flush, trans_add_data, trans_add_meta, trans_add_ordered, trans_begin,
                                 trans_end)
from gfs2py.engine._observe cimport ob_cond_wait
from gfs2py.engine._sbd cimport LOG_ERR_, sd_dead, sd_io_error, sd_message
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dlink, gl_atomic_add64, gl_atomic_load64,
                                  gl_atomic_store32,
                                  pthread_cond_broadcast,
                                  pthread_mutex_lock, pthread_mutex_unlock)
from gfs2py.fuse._stat cimport WAIT_DATA
from gfs2py.ondisk._ondisk cimport GFS2_DIF_JDATA, gfs2_dinode

cdef extern from "<errno.h>" nogil:
    int EIO, EBADE
cdef extern from "<stdio.h>" nogil:
    int snprintf(char* out, size_t size, const char* fmt, ...)

cdef enum:
    BATCH = 512                     # blocks of one write-back round
    INODE_DIRTY_MAX = 4096          # dirty blocks of one inode before its writer writes back


cdef void _mark_dirty(opctx* cx, inode* ip, buf* b, uint64_t lblk, bint is_new) noexcept nogil:
    """The buffer's content is newer than the disk. Takes over nothing: the caller still puts its reference."""
    cdef sbd* sd = cx.sd
    cdef cache_shard* s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&ip.dlock)
    pthread_mutex_lock(&s.lock)
    b.flags |= <uint32_t>B_DATA | (<uint32_t>B_NEW if is_new else 0)
    b.ip = ip
    b.lblk = lblk
    if not (b.flags & B_DDIRTY):
        b.flags |= B_DDIRTY
        b.refs += 1
        dl_add_tail(&ip.dirty, &b.dirty)
        if ip.ndirty == 0:
            inode_hold(ip)
        ip.ndirty += 1
        gl_atomic_add64(&sd.n_ddirty, 1)
    pthread_mutex_unlock(&s.lock)
    pthread_mutex_unlock(&ip.dlock)


cdef int data_put_block(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, const uint8_t* content, uint32_t length,
                        bint is_new) noexcept nogil:
    cdef buf* b = NULL
    cdef int err = buf_new(cx.sd, dblk, &b)
    if err:
        return err
    memcpy(b.data, content, length)
    _mark_dirty(cx, ip, b, lblk, is_new)
    buf_put(cx.sd, b)
    if cx.tr_on:
        trans_add_ordered(cx, ip)
    return 0


cdef int data_patch_block(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, uint32_t at, const uint8_t* src,
                          uint32_t length) noexcept nogil:
    cdef buf* b = NULL
    cdef int err = buf_read(cx.sd, &ip.gl, dblk, &b)
    if err:
        return err
    if src == NULL:
        memset(b.data + at, 0, length)
    else:
        memcpy(b.data + at, src, length)
    _mark_dirty(cx, ip, b, lblk, False)
    buf_put(cx.sd, b)
    if cx.tr_on:
        trans_add_ordered(cx, ip)
    return 0


cdef int _zero_stuffed(opctx* cx, inode* ip, uint64_t off, uint64_t length) noexcept nogil:
    cdef buf* b = NULL
    cdef uint64_t room = cx.sd.bsize - sizeof(gfs2_dinode)
    cdef int err
    if off >= room:
        return 0
    err = inode_buf(cx, ip, &b)
    if err:
        return err
    trans_add_meta(cx, b)
    memset(b.data + sizeof(gfs2_dinode) + off, 0, min(length, room - off))
    buf_put(cx.sd, b)
    return 0


cdef int data_zero_range(opctx* cx, inode* ip, uint64_t off, uint64_t length) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t dblk, n, lblk
    cdef uint32_t at, part
    cdef buf* b
    cdef int err
    if ip.height == 0:
        return _zero_stuffed(cx, ip, off, length)
    while length:
        lblk = off >> sd.bsize_shift
        at = <uint32_t>(off & (sd.bsize - 1))
        part = <uint32_t>min(length, <uint64_t>(sd.bsize - at))
        err = bmap_lookup(cx, ip, lblk, 1, &dblk, &n)
        if err:
            return err
        if dblk:
            if ip.diskflags & GFS2_DIF_JDATA:
                err = buf_read(sd, &ip.gl, dblk, &b)
                if err == 0:
                    trans_add_data(cx, b)
                    memset(b.data + at, 0, part)
                    buf_put(sd, b)
            else:
                err = data_patch_block(cx, ip, lblk, dblk, at, NULL, part)
            if err:
                return err
        off += part
        length -= part
    return 0


cdef int _zero_if_not(opctx* cx, inode* ip, uint64_t lblk, uint64_t dblk, uint32_t at, uint32_t length) noexcept nogil:
    """Part of one block, read first and changed only where it is not zero: hardly ever."""
    cdef sbd* sd = cx.sd
    cdef buf* b = NULL
    cdef uint32_t i = at
    cdef int err = buf_read(sd, &ip.gl, dblk, &b)
    if err:
        return err
    while i < at + length and b.data[i] == 0:
        i += 1
    buf_put(sd, b)
    if i == at + length:
        return 0
    if not ip.diskflags & GFS2_DIF_JDATA:
        return data_patch_block(cx, ip, lblk, dblk, at, NULL, length)
    err = trans_begin(cx, 2, 0)
    if err == 0:
        err = data_zero_range(cx, ip, (lblk << sd.bsize_shift) + at, length)
        trans_end(cx)
    return err


cdef int data_zero_gap(opctx* cx, inode* ip, uint64_t end) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t off = ip.size
    cdef uint64_t lblk, dblk, n
    cdef uint32_t at
    cdef int err
    if ip.height == 0:
        return 0
    if off < end:
        dw_wait(ip, off >> sd.bsize_shift, ((end - 1) >> sd.bsize_shift) + 1)
    while off < end:
        lblk = off >> sd.bsize_shift
        at = <uint32_t>(off & (sd.bsize - 1))
        err = bmap_lookup(cx, ip, lblk, ((end - 1) >> sd.bsize_shift) - lblk + 1, &dblk, &n)
        if err:
            return err
        if dblk:
            n = 1
            err = _zero_if_not(cx, ip, lblk, dblk, at, <uint32_t>min(end - off, <uint64_t>(sd.bsize - at)))
            if err:
                return err
        off = (lblk + n) << sd.bsize_shift
    return 0


cdef int _by_block(const void* x, const void* y) noexcept nogil:
    cdef uint64_t a = (<buf**>x)[0].blkno
    cdef uint64_t c = (<buf**>y)[0].blkno
    return 0 if a == c else (-1 if a < c else 1)


cdef uint32_t _take_batch(sbd* sd, inode* ip, buf** batch, uint32_t want) noexcept nogil:
    """Moves dirty buffers off the list for writing (dlock held); they keep their reference and count."""
    cdef uint32_t n = 0
    cdef buf* b
    cdef cache_shard* s
    while n < want and not dl_empty(&ip.dirty):
        b = <buf*>ip.dirty.next.owner
        s = shard_of(sd, b.blkno)
        pthread_mutex_lock(&s.lock)
        dl_del(&b.dirty)
        b.flags &= ~<uint32_t>B_DDIRTY
        b.flags |= B_WRITING
        pthread_mutex_unlock(&s.lock)
        batch[n] = b
        n += 1
    return n


cdef void _fill_segs(sbd* sd, buf** batch, uint32_t n, bio_seg* segs) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        segs[i].off = batch[i].blkno << sd.bsize_shift
        segs[i].buf = batch[i].data
        segs[i].len = sd.bsize
        segs[i].res = 0


cdef void _written(sbd* sd, buf** batch, uint32_t n) noexcept nogil:
    """The blocks may change again and be dropped."""
    cdef uint32_t i
    cdef cache_shard* s
    for i in range(n):
        s = shard_of(sd, batch[i].blkno)
        pthread_mutex_lock(&s.lock)
        batch[i].flags &= ~<uint32_t>(B_WRITING | B_NEW)
        pthread_cond_broadcast(&s.cond)
        pthread_mutex_unlock(&s.lock)
        buf_put(sd, batch[i])


cdef uint32_t _begin(sbd* sd, inode* ip, buf** batch, uint32_t want, bint* more) noexcept nogil:
    """Takes up to `want` dirty buffers for writing; if any, the inode's write-back is this thread's until _end.
    *more: some are left."""
    cdef uint32_t n
    pthread_mutex_lock(&ip.dlock)
    while ip.wb_on:
        ob_cond_wait(&ip.sd.ob, &ip.dcond, &ip.dlock, WAIT_DATA, ip.no_addr)
    n = _take_batch(sd, ip, batch, want)
    ip.wb_on = n > 0
    more[0] = not dl_empty(&ip.dirty)
    pthread_mutex_unlock(&ip.dlock)
    return n


cdef void _end(sbd* sd, inode* ip, buf** batch, uint32_t n, int err) noexcept nogil:
    """The write of a batch has ended."""
    cdef bint held
    _written(sd, batch, n)
    gl_atomic_add64(&sd.n_ddirty, -<int64_t>n)
    pthread_mutex_lock(&ip.dlock)
    if err:
        data_failed(ip, err)
        if ip.ordered_must and not sd_dead(sd):
            # What may be durable in the dinode must not be given up for a block that could not be written.
            sd_io_error(sd, b"writing data that moved out of a dinode", ip.no_addr, err)
    ip.ndirty -= n
    held = ip.ndirty == 0
    if held and err == 0:
        ip.ordered_must = False
    ip.wb_on = False
    pthread_cond_broadcast(&ip.dcond)
    pthread_mutex_unlock(&ip.dlock)
    if held:
        inode_put(ip)           # the dirty list's reference


cdef void dw_begin(inode* ip, dwrange* r, uint64_t lblk, uint64_t end) noexcept nogil:
    r.lblk = lblk
    r.end = end
    pthread_mutex_lock(&ip.dlock)
    ip.dw_started += 1
    r.seq = ip.dw_started
    r.next = ip.dw_list
    ip.dw_list = r
    pthread_mutex_unlock(&ip.dlock)


cdef void dw_end(inode* ip, dwrange* r, int err) noexcept nogil:
    cdef dwrange** at
    pthread_mutex_lock(&ip.dlock)
    at = &ip.dw_list
    while at[0] != r:
        at = &at[0].next
    at[0] = r.next
    if err:
        data_failed(ip, err)
    pthread_cond_broadcast(&ip.dcond)
    pthread_mutex_unlock(&ip.dlock)


cdef void _dw_wait_locked(inode* ip, uint64_t lblk, uint64_t end) noexcept nogil:
    """Until none is left that meets [lblk, end) and had begun by now (dlock held)."""
    cdef uint64_t target = ip.dw_started
    cdef dwrange* r = ip.dw_list
    while r != NULL:
        if r.seq <= target and r.lblk < end and r.end > lblk:
            ob_cond_wait(&ip.sd.ob, &ip.dcond, &ip.dlock, WAIT_DATA, ip.no_addr)
            r = ip.dw_list
        else:
            r = r.next


cdef void dw_wait(inode* ip, uint64_t lblk, uint64_t end) noexcept nogil:
    if gl_atomic_load64(<uint64_t*>&ip.dw_list) == 0:
        return
    pthread_mutex_lock(&ip.dlock)
    _dw_wait_locked(ip, lblk, end)
    pthread_mutex_unlock(&ip.dlock)


cdef void data_failed(inode* ip, int err) noexcept nogil:
    cdef sbd* sd = ip.sd
    cdef char text[160]
    if err == -EBADE and not sd_dead(sd):
        sd_io_error(sd, b"writing data", ip.no_addr, err)
    if ip.wb_seq == ip.wb_told and not sd_dead(sd):
        snprintf(text, 160, b"data of inode %llu could not be written: error %d; its fsync will say so",
                 <unsigned long long>ip.no_addr, err)
        sd_message(sd, LOG_ERR_, text)
    ip.wb_err = err
    ip.wb_seq += 1
    if sd.log != NULL:
        gl_atomic_store32(&sd.log.data_err, err)


cdef void _run(sbd* sd, bio_seg* segs, uint32_t n) noexcept nogil:
    """Writes a batch; every piece has its own result afterwards."""
    cdef uint32_t i
    cdef int err = sd.dev.ops.writev(sd.dev, segs, n)
    for i in range(n if err else 0):
        # A device may have given up in the middle: what is not known to have failed is written once more.
        if segs[i].res == 0:
            segs[i].res = sd.dev.ops.write(sd.dev, segs[i].off, segs[i].buf, segs[i].len, 0)


cdef int _first_error(const bio_seg* segs, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if segs[i].res:
            return segs[i].res
    return 0


cdef void _again(sbd* sd, buf** batch, bio_seg* segs, uint32_t n) noexcept nogil:
    """A commit is going to show new blocks, which hold what somebody deleted: not with their data missing."""
    cdef uint32_t i
    for i in range(n):
        if segs[i].res and batch[i].flags & B_NEW and not sd_dead(sd):
            segs[i].res = sd.dev.ops.write(sd.dev, segs[i].off, segs[i].buf, segs[i].len, 0)
            if segs[i].res and not (sd.flags & SDF_WRITEBACK):
                sd_io_error(sd, b"writing data to new blocks", batch[i].blkno, segs[i].res)


cdef int data_writeback(sbd* sd, inode* ip) noexcept nogil:
    cdef buf* batch[BATCH]
    cdef bio_seg segs[BATCH]
    cdef uint32_t n
    cdef int err = 0
    cdef int e
    cdef bint more = True
    while more:
        n = _begin(sd, ip, batch, BATCH, &more)
        if n == 0:
            break
        qsort(batch, n, sizeof(void*), _by_block)
        _fill_segs(sd, batch, n, segs)
        # After a withdraw nothing is written: the data is lost, and fsync says so.
        e = -EIO
        if not sd_dead(sd):
            _run(sd, segs, n)
            _again(sd, batch, segs, n)
            e = _first_error(segs, n)
        err = e if e else err
        _end(sd, ip, batch, n, e)
    pthread_mutex_lock(&ip.dlock)
    _dw_wait_locked(ip, 0, ~<uint64_t>0)
    pthread_mutex_unlock(&ip.dlock)
    return err


cdef int data_write_many(sbd* sd, inode** ips, uint32_t n_ips, const bio_seg* more, uint32_t n_more) noexcept nogil:
    cdef buf* batch[BATCH]
    cdef bio_seg segs[BATCH + MORE_MAX]
    cdef inode* who[BATCH]
    cdef uint32_t count[BATCH]
    cdef uint32_t i = 0
    cdef uint32_t groups, n, m, k, first
    cdef bint left
    cdef int err = 0
    while i < n_ips or n_more:
        first = i
        groups = 0
        n = 0
        while i < n_ips and n < BATCH:
            k = _begin(sd, ips[i], &batch[n], BATCH - n, &left)
            if k:
                who[groups] = ips[i]
                count[groups] = k
                groups += 1
                n += k
            if left:
                break
            i += 1
        _fill_segs(sd, batch, n, segs)
        memcpy(&segs[n], more, n_more * sizeof(bio_seg))
        if sd_dead(sd):
            err = -EIO
            for k in range(n):
                segs[k].res = -EIO
        elif n + n_more:
            _run(sd, segs, n + n_more)
            _again(sd, batch, segs, n)
            err = _first_error(&segs[n], n_more) if n_more else err
        m = 0
        for k in range(groups):
            _end(sd, who[k], &batch[m], count[k], _first_error(&segs[m], count[k]))
            m += count[k]
        for k in range(first, i):
            dw_wait(ips[k], 0, ~<uint64_t>0)
        n_more = 0
    return err


cdef void data_cancel(sbd* sd, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil:
    cdef dlink* l
    cdef buf* b
    cdef cache_shard* s
    cdef bint held = False
    if ip.ndirty == 0:
        return
    pthread_mutex_lock(&ip.dlock)
    while ip.wb_on:
        ob_cond_wait(&ip.sd.ob, &ip.dcond, &ip.dlock, WAIT_DATA, ip.no_addr)
    l = ip.dirty.next
    while l != &ip.dirty:
        b = <buf*>l.owner
        l = l.next
        if b.lblk < lblk or b.lblk - lblk >= n:
            continue
        s = shard_of(sd, b.blkno)
        pthread_mutex_lock(&s.lock)
        dl_del(&b.dirty)
        b.flags &= ~<uint32_t>(B_DDIRTY | B_NEW | B_UPTODATE)
        pthread_mutex_unlock(&s.lock)
        buf_put(sd, b)
        ip.ndirty -= 1
        gl_atomic_add64(&sd.n_ddirty, -1)
        held = ip.ndirty == 0
    pthread_mutex_unlock(&ip.dlock)
    if held:
        inode_put(ip)


cdef void data_throttle(sbd* sd, inode* ip) noexcept nogil:
    """Bounds dirty data: a big writer writes its own back; many small ones make the log daemon commit."""
    cdef jlog* log = sd.log
    if ip.ndirty > INODE_DIRTY_MAX and (not ip.wb_on or ip.ndirty > 2 * INODE_DIRTY_MAX):
        # While one of its writers does, the others may go on for a while: they only fill the next batches.
        data_writeback(sd, ip)
    elif sd.n_ddirty > sd.ddirty_limit * 2:
        data_writeback(sd, ip)
        log_flush(sd, 0, 0)
    elif sd.n_ddirty > sd.ddirty_limit and not log.kick:
        pthread_mutex_lock(&log.lock)
        log.kick = True
        pthread_cond_broadcast(&log.cond)
        pthread_mutex_unlock(&log.lock)
