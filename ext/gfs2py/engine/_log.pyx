"""The journal: compound transactions, group commit, the active item list (AIL).

All operations between two commits form the running transaction. A commit has one exclusive moment, the *switch*: it
waits until no operation is inside a transaction, copies the changed blocks into a staging buffer and starts a new
running transaction. Everything slow happens after it, while new operations already run: ordered data goes to its
place, the staging buffer to the journal, a device flush, then the log header with FUA. From then on the changed
buffers may be written in place (AIL); the tail follows the oldest transaction that still has some to write, and log
space is free for reuse only when a header with the new tail is on disk.

Source of behaviour: fs/gfs2/log.c, lops.c, trans.c; docs/design/journal.md has the reasoning.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from gfs2py.block._device cimport DEV_FUA, bio_seg, dev_alloc, dev_free
from gfs2py.engine._ail cimport ail_forget, ail_write
from gfs2py.engine._data cimport MORE_MAX
from gfs2py.engine._freeze cimport FZ_FROZEN
from gfs2py.engine._cache cimport buf_hold, buf_peek, buf_put, shard_of
from gfs2py.engine._incore cimport (B_DIRTY, B_FREED, B_JDATA, B_PINNED, B_UPTODATE, B_WRITING, SDF_NOBARRIER,
                                    SDF_RDONLY, SDF_WRITEBACK, buf, cache_shard, extent, inode, jlog, logtxn, opctx,
                                    sbd)
from gfs2py.engine._observe cimport ob_begin, ob_end, ob_mark, ob_mutex, ob_rdlock, ob_wrlock
from gfs2py.engine._quota cimport QUOTA_TRANS_BLOCKS
from gfs2py.engine._sbd cimport LOG_DEBUG_, ctx_init, sd_assert_failed, sd_dead, sd_io_error, sd_message
from gfs2py.engine._sync cimport (CLOCK_REALTIME, clock_gettime, dl_add_tail, dl_del, dl_empty, dl_init, dlink,
                                  gl_atomic_add64, gl_atomic_load64,
                                  pthread_cond_broadcast, pthread_cond_init, pthread_cond_signal,
                                  pthread_cond_timedwait, pthread_create, pthread_join, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock, pthread_rwlock_unlock, rwlock_init,
                                  timespec)
from gfs2py.fuse._stat cimport WAIT_COMMIT, WAIT_SPACE, WAIT_SWITCH, hist_add, stat_now, wait_adopt
from gfs2py.ondisk._checksum cimport log_header_crc, log_header_hash
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<errno.h>" nogil:
    int EIO, EROFS, ENOMEM

cdef enum:
    SLACK = 8                       # log blocks never given to transactions
    RUNNING_MAX_BYTES = 16 << 20    # a running transaction bigger than this is committed early
    RUNNING_LIMIT_BYTES = 64 << 20  # and one that grew to this waits for that
    COMMIT_DEFAULT_MS = 30000


# ---------------------------------------------------------------------------------------------- space

cdef inline uint32_t _revoke_blocks(sbd* sd, uint32_t n) noexcept nogil:
    """Log blocks that n revokes need: the descriptor holds ldptrs, each further block inptrs."""
    if n == 0:
        return 0
    if n <= sd.ldptrs:
        return 1
    return 1 + (n - sd.ldptrs + sd.inptrs - 1) // sd.inptrs


cdef inline uint32_t _worst_need(sbd* sd, uint32_t blocks, uint32_t revokes) noexcept nogil:
    """Log blocks for that many changed blocks of either kind, descriptors, revokes and the header."""
    return blocks + blocks // sd.jdptrs + 2 + _revoke_blocks(sd, revokes) + 1


cdef bint _fits(jlog* log, uint32_t blocks, uint32_t revokes) noexcept nogil:
    cdef logtxn* tr = log.running
    cdef uint32_t need = _worst_need(log.sd, tr.nbufs + tr.ndbufs + log.reserved + blocks,
                                     tr.nrevokes + log.reserved_revokes + revokes)
    return need + SLACK <= log.free


cdef logtxn* _txn_new(uint64_t seq) noexcept nogil:
    cdef logtxn* tr = <logtxn*>calloc(1, sizeof(logtxn))
    if tr == NULL:
        return NULL
    tr.seq = seq
    dl_init(&tr.link, tr)
    dl_init(&tr.bufs, NULL)
    dl_init(&tr.dbufs, NULL)
    dl_init(&tr.ordered, NULL)
    dl_init(&tr.freed, NULL)
    dl_init(&tr.ail, NULL)
    return tr


cdef void txn_free(logtxn* tr) noexcept nogil:
    if tr != NULL:
        free(tr.revokes)
        free(tr.ord)
        free(tr)


cdef int _make_space(sbd* sd, uint32_t blocks, uint32_t revokes) noexcept nogil:
    """Commits, writes in place and moves the tail until the reservation fits. No transaction is open here."""
    cdef jlog* log = sd.log
    cdef int err = 0
    cdef int rounds = 0
    cdef bint fits
    if _worst_need(sd, blocks, revokes) + SLACK > log.nblocks // 2:
        return sd_assert_failed(sd, b"one transaction wants more than half of the journal")
    while not sd_dead(sd):
        pthread_mutex_lock(&log.lock)
        fits = _fits(log, blocks, revokes)
        log.n_flush_waits += 1
        pthread_mutex_unlock(&log.lock)
        if fits:
            return 0
        if rounds % 2 == 0:
            err = log_flush(sd, 0, GFS2_LFC_INPLACE_RESERVE)
        else:
            err = ail_write(sd, 0, ~<uint64_t>0)
            if err == 0:
                ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
                err = _commit(sd, GFS2_LFC_AIL_FLUSH, True, 0)
                pthread_mutex_unlock(&log.commit_lock)
        if err:
            return err
        rounds += 1
    return -EIO


# ---------------------------------------------------------------------------------------------- transactions

cdef int trans_begin(opctx* cx, uint32_t blocks, uint32_t revokes) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef jlog* log = sd.log
    cdef uint64_t held, seq
    cdef bint full
    cdef bint ok
    cdef bint big
    cdef int err
    cdef ob_mark mark
    if cx.tr_on:
        return sd_assert_failed(sd, b"a transaction within a transaction")
    # Whoever is charged, quota_change records change within the transaction.
    if sd.quota_change != NULL:
        blocks += QUOTA_TRANS_BLOCKS
    while True:
        if sd_dead(sd):
            return -EIO
        if sd.flags & SDF_RDONLY or not log.live:
            return -EROFS
        ob_rdlock(&sd.ob, &log.flush_lock, WAIT_SWITCH, 0)
        if sd.fz.state == FZ_FROZEN:
            # Whoever has to wait for the thaw does so before it takes locks (fz_enter).
            pthread_rwlock_unlock(&log.flush_lock)
            return -EROFS
        pthread_mutex_lock(&log.lock)
        # Freed blocks' buffers stay in memory until the commit, too.
        held = (<uint64_t>log.running.nbufs + log.running.ndbufs + log.running.nfreed) << sd.bsize_shift
        big = held >= RUNNING_MAX_BYTES
        full = held >= RUNNING_LIMIT_BYTES
        seq = log.running.seq
        ok = not full and _fits(log, blocks, revokes)
        if ok:
            log.reserved += blocks
            log.reserved_revokes += revokes
            log.n_trans += 1
        if big and not log.kick:
            log.kick = True
            pthread_cond_broadcast(&log.cond)
        pthread_mutex_unlock(&log.lock)
        if ok:
            break
        pthread_rwlock_unlock(&log.flush_lock)
        ob_begin(&mark, WAIT_SPACE, blocks)
        err = log_flush(sd, seq, GFS2_LFC_TRANS_END) if full else _make_space(sd, blocks, revokes)
        ob_end(&sd.ob, &mark)
        if err:
            return err
    cx.tr_on = True
    cx.last_seq = seq
    cx.tr_blocks = blocks
    cx.tr_revokes = revokes
    cx.tr_nbuf = 0
    cx.tr_ndbuf = 0
    cx.tr_nrevoke = 0
    return 0


cdef void trans_end(opctx* cx) noexcept nogil:
    cdef jlog* log = cx.sd.log
    if not cx.tr_on:
        return
    cx.tr_on = False
    pthread_mutex_lock(&log.lock)
    log.reserved -= cx.tr_blocks
    log.reserved_revokes -= cx.tr_revokes
    pthread_mutex_unlock(&log.lock)
    pthread_rwlock_unlock(&log.flush_lock)
    if cx.tr_nbuf + cx.tr_ndbuf > cx.tr_blocks:
        sd_assert_failed(cx.sd, b"a transaction changed more blocks than it reserved")
    if cx.tr_nrevoke > cx.tr_revokes:
        sd_assert_failed(cx.sd, b"a transaction revoked more blocks than it reserved")


cdef void _pin(opctx* cx, buf* b, bint jdata) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef jlog* log = sd.log
    cdef cache_shard* s
    # Only the switch clears B_PINNED, and it waits for this transaction: a set flag stays set.
    if b.flags & B_PINNED:
        return
    if not cx.tr_on:
        sd_assert_failed(sd, b"a buffer changed outside a transaction")
        return
    s = shard_of(sd, b.blkno)
    pthread_mutex_lock(&s.lock)
    if b.flags & B_PINNED:
        pthread_mutex_unlock(&s.lock)
        return
    if b.flags & B_FREED:
        sd_assert_failed(sd, b"a block freed by this transaction was changed again")
    b.flags |= B_PINNED
    if jdata:
        b.flags |= B_JDATA
    b.refs += 1
    pthread_mutex_unlock(&s.lock)
    pthread_mutex_lock(&log.lock)
    if jdata:
        dl_add_tail(&log.running.dbufs, &b.tr)
        log.running.ndbufs += 1
        cx.tr_ndbuf += 1
    else:
        dl_add_tail(&log.running.bufs, &b.tr)
        log.running.nbufs += 1
        cx.tr_nbuf += 1
    pthread_mutex_unlock(&log.lock)


cdef void trans_add_meta(opctx* cx, buf* b) noexcept nogil:
    cdef gfs2_meta_header* mh = <gfs2_meta_header*>b.data
    if b.flags & B_PINNED:
        return
    if be32toh(mh.mh_magic) != GFS2_MAGIC:
        sd_assert_failed(cx.sd, b"a metadata block without a header was changed")
        return
    _pin(cx, b, False)
    mh.mh_jid = htobe32(cx.sd.log.jid)


cdef void trans_add_data(opctx* cx, buf* b) noexcept nogil:
    _pin(cx, b, True)


cdef int _add_revoke(logtxn* tr, uint64_t blkno) noexcept nogil:
    cdef uint64_t* grown
    if tr.nrevokes == tr.cap_revokes:
        grown = <uint64_t*>realloc(tr.revokes, (tr.cap_revokes * 2 + 64) * sizeof(uint64_t))
        if grown == NULL:
            return -ENOMEM
        tr.revokes = grown
        tr.cap_revokes = tr.cap_revokes * 2 + 64
    tr.revokes[tr.nrevokes] = blkno
    tr.nrevokes += 1
    return 0


cdef void _free_one(opctx* cx, uint64_t blkno) noexcept nogil:
    """The block leaves the running transaction; its buffer waits for the commit on the freed list."""
    cdef sbd* sd = cx.sd
    cdef logtxn* tr = sd.log.running
    cdef buf* b = buf_peek(sd, blkno)
    cdef cache_shard* s
    cdef bint was_pinned = False
    if b == NULL:
        return
    s = shard_of(sd, blkno)
    pthread_mutex_lock(&s.lock)
    if b.flags & B_FREED:
        pthread_mutex_unlock(&s.lock)
        buf_put(sd, b)
        return
    was_pinned = (b.flags & B_PINNED) != 0
    b.flags &= ~<uint32_t>B_PINNED
    b.flags |= B_FREED
    pthread_mutex_unlock(&s.lock)
    pthread_mutex_lock(&sd.log.lock)
    if was_pinned:
        dl_del(&b.tr)
        if b.flags & B_JDATA:
            tr.ndbufs -= 1
        else:
            tr.nbufs -= 1
    dl_add_tail(&tr.freed, &b.tr)
    tr.nfreed += 1
    pthread_mutex_unlock(&sd.log.lock)
    if was_pinned:
        buf_put(sd, b)      # the transaction's reference; peek's goes with the freed list


cdef void trans_free_meta(opctx* cx, uint64_t blkno, uint32_t n) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t i
    cdef int err = 0
    for i in range(n):
        _free_one(cx, blkno + i)
        pthread_mutex_lock(&sd.log.lock)
        err = _add_revoke(sd.log.running, blkno + i)
        pthread_mutex_unlock(&sd.log.lock)
        if err:
            sd_io_error(sd, b"allocating memory for revokes", blkno, err)
            return
    cx.tr_nrevoke += n


cdef void trans_add_ordered(opctx* cx, inode* ip) noexcept nogil:
    cdef jlog* log = cx.sd.log
    if ip.ordered_on:
        return
    pthread_mutex_lock(&log.lock)
    if not ip.ordered_on:
        ip.ordered_on = True
        cx.sd.inode_hold(ip)
        dl_add_tail(&log.running.ordered, &ip.ordered)
    pthread_mutex_unlock(&log.lock)


cdef uint64_t trans_seq(opctx* cx) noexcept nogil:
    return cx.sd.log.running.seq


# ---------------------------------------------------------------------------------------------- commit

cdef inline uint64_t _log_addr(jlog* log, uint32_t lblk) noexcept nogil:
    """Disk block of a log block."""
    cdef uint32_t lo = 0
    cdef uint32_t hi = log.n_ext - 1
    cdef uint32_t mid
    while lo < hi:
        mid = (lo + hi + 1) // 2
        if log.ext[mid].lblk <= lblk:
            lo = mid
        else:
            hi = mid - 1
    return log.ext[lo].dblk + (lblk - log.ext[lo].lblk)


cdef void _desc(sbd* sd, uint8_t* block, uint32_t kind, uint32_t length, uint32_t data1) noexcept nogil:
    cdef gfs2_log_descriptor* ld = <gfs2_log_descriptor*>block
    memset(block, 0, sd.bsize)
    ld.ld_header.mh_magic = htobe32(GFS2_MAGIC)
    ld.ld_header.mh_type = htobe32(GFS2_METATYPE_LD)
    ld.ld_header.mh_format = htobe32(GFS2_FORMAT_LD)
    ld.ld_header.mh_jid = htobe32(sd.log.jid)
    ld.ld_type = htobe32(kind)
    ld.ld_length = htobe32(length)
    ld.ld_data1 = htobe32(data1)


cdef void _copy_out(sbd* sd, logtxn* tr, buf* b, uint8_t* dst, bint jdata, uint64_t* esc) noexcept nogil:
    """One changed block goes to the staging buffer and from the running list to tr's AIL (log.lock held)."""
    cdef cache_shard* s = shard_of(sd, b.blkno)
    cdef bint moved = False
    memcpy(dst, b.data, sd.bsize)
    if jdata:
        esc[0] = 0
        if (<uint32_t*>dst)[0] == htobe32(GFS2_MAGIC):
            (<uint32_t*>dst)[0] = 0
            esc[0] = htobe64(1)
    pthread_mutex_lock(&s.lock)
    b.flags &= ~<uint32_t>B_PINNED
    b.flags |= B_DIRTY
    if b.ail_tr != NULL:
        # Its newer copy is in this transaction: the older one needs no write in place, and one reference is enough.
        dl_del(&b.ail)
        b.ail_tr.n_ail -= 1
        sd.log.n_ail -= 1
        b.refs -= 1
    b.ail_tr = tr
    pthread_mutex_unlock(&s.lock)
    dl_del(&b.tr)
    dl_add_tail(&tr.ail, &b.ail)
    tr.n_ail += 1
    sd.log.n_ail += 1


cdef uint8_t* _stage_bufs(sbd* sd, logtxn* tr, uint8_t* p, bint jdata) noexcept nogil:
    """Descriptors and blocks of one kind into the staging buffer; returns where the next block goes."""
    cdef uint32_t left = tr.ndbufs if jdata else tr.nbufs
    cdef uint32_t per = sd.jdptrs if jdata else sd.ldptrs
    cdef dlink* head = &tr.dbufs if jdata else &tr.bufs
    cdef uint32_t n, i
    cdef uint64_t* ptr
    cdef buf* b
    while left:
        n = min(left, per)
        _desc(sd, p, GFS2_LOG_DESC_JDATA if jdata else GFS2_LOG_DESC_METADATA, n + 1, n)
        ptr = <uint64_t*>(p + sizeof(gfs2_log_descriptor))
        p += sd.bsize
        for i in range(n):
            b = <buf*>head.next.owner
            ptr[0] = htobe64(b.blkno)
            _copy_out(sd, tr, b, p, jdata, ptr + 1)
            ptr += 2 if jdata else 1
            p += sd.bsize
        left -= n
    return p


cdef uint8_t* _stage_revokes(sbd* sd, logtxn* tr, uint8_t* p) noexcept nogil:
    cdef uint32_t left = tr.nrevokes
    cdef uint32_t n
    cdef uint32_t at = 0
    cdef uint32_t i
    cdef uint64_t* ptr
    cdef gfs2_meta_header* mh
    if left == 0:
        return p
    _desc(sd, p, GFS2_LOG_DESC_REVOKE, _revoke_blocks(sd, left), left)
    ptr = <uint64_t*>(p + sizeof(gfs2_log_descriptor))
    n = min(left, sd.ldptrs)
    while True:
        for i in range(n):
            ptr[i] = htobe64(tr.revokes[at + i])
        at += n
        left -= n
        p += sd.bsize
        if left == 0:
            return p
        memset(p, 0, sd.bsize)
        mh = <gfs2_meta_header*>p
        mh.mh_magic = htobe32(GFS2_MAGIC)
        mh.mh_type = htobe32(GFS2_METATYPE_LB)
        mh.mh_format = htobe32(GFS2_FORMAT_LB)
        ptr = <uint64_t*>(p + sizeof(gfs2_meta_header))
        n = min(left, sd.inptrs)


cdef void _stage_header(sbd* sd, uint8_t* p, uint64_t seq, uint32_t lblk, uint32_t tail, uint32_t flags) noexcept nogil:
    cdef gfs2_log_header* lh = <gfs2_log_header*>p
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    memset(p, 0, sd.bsize)
    lh.lh_header.mh_magic = htobe32(GFS2_MAGIC)
    lh.lh_header.mh_type = htobe32(GFS2_METATYPE_LH)
    lh.lh_header.mh_format = htobe32(GFS2_FORMAT_LH)
    lh.lh_header.mh_jid = htobe32(sd.log.jid)
    lh.lh_sequence = htobe64(seq)
    lh.lh_flags = htobe32(flags)
    lh.lh_tail = htobe32(tail)
    lh.lh_blkno = htobe32(lblk)
    lh.lh_nsec = htobe32(<uint32_t>ts.tv_nsec)
    lh.lh_sec = htobe64(<uint64_t>ts.tv_sec)
    lh.lh_addr = htobe64(_log_addr(sd.log, lblk))
    lh.lh_jinode = htobe64(sd.log.jinode)
    if sd.sc_ip != NULL:
        lh.lh_statfs_addr = htobe64(sd.sc_ip.no_addr)
    if sd.qc_ip != NULL:
        lh.lh_quota_addr = htobe64(sd.qc_ip.no_addr)
    lh.lh_local_total = htobe64(<uint64_t>sd.sl_total)
    lh.lh_local_free = htobe64(<uint64_t>sd.sl_free)
    lh.lh_local_dinodes = htobe64(<uint64_t>sd.sl_dinodes)
    lh.lh_hash = htobe32(log_header_hash(lh))
    lh.lh_crc = htobe32(log_header_crc(lh, sd.bsize))


cdef int _write_log(sbd* sd, logtxn* tr, const uint8_t* p, uint32_t lblk, uint32_t n) noexcept nogil:
    """n staged blocks to the log from lblk on, across the wrap and the journal's extents; and the ordered data.

    Both only have to be on the disk before the header, so they go at the same time.
    """
    cdef jlog* log = sd.log
    cdef bio_seg segs[MORE_MAX]
    cdef uint32_t m = 0
    cdef uint32_t run
    cdef uint64_t addr
    cdef int err
    while n:
        addr = _log_addr(log, lblk)
        run = 1
        while run < n and lblk + run < log.nblocks and _log_addr(log, lblk + run) == addr + run:
            run += 1
        segs[m].off = addr << sd.bsize_shift
        segs[m].buf = <void*>p
        segs[m].len = <uint64_t>run << sd.bsize_shift
        segs[m].res = 0
        m += 1
        p += <uint64_t>run << sd.bsize_shift
        n -= run
        lblk = (lblk + run) % log.nblocks
        if m == MORE_MAX and n:
            err = sd.dev.ops.writev(sd.dev, segs, m)
            if err:
                return err
            m = 0
    if sd.data_write_many != NULL and not (sd.flags & SDF_WRITEBACK):
        return sd.data_write_many(sd, tr.ord, tr.n_ord, segs, m)
    return sd.dev.ops.writev(sd.dev, segs, m) if m else 0


cdef int _steal_ordered(sbd* sd, logtxn* tr) noexcept nogil:
    """At the switch (log.lock held): the ordered list becomes an array, so that its inodes can join the next one."""
    cdef uint32_t n = 0
    cdef dlink* l = tr.ordered.next
    cdef inode* ip
    while l != &tr.ordered:
        n += 1
        l = l.next
    if n == 0:
        return 0
    tr.ord = <inode**>malloc(n * sizeof(void*))
    if tr.ord == NULL:
        return -ENOMEM
    tr.n_ord = 0
    while not dl_empty(&tr.ordered):
        ip = <inode*>tr.ordered.next.owner
        dl_del(&ip.ordered)
        ip.ordered_on = False
        tr.ord[tr.n_ord] = ip
        tr.n_ord += 1
    return 0


cdef void _purge(jlog* log) noexcept nogil:
    """Transactions with nothing left to write in place no longer hold the tail (log.lock held)."""
    cdef dlink* l = log.ail_list.next
    cdef logtxn* tr
    while l != &log.ail_list:
        tr = <logtxn*>l.owner
        l = l.next
        if tr.n_ail == 0:
            dl_del(&tr.link)
            txn_free(tr)


cdef int _switch(sbd* sd, uint32_t lfc, bint force, uint32_t extra_flags, logtxn** out, uint32_t* body) noexcept nogil:
    """The exclusive moment. *out = NULL when there is nothing to commit."""
    cdef jlog* log = sd.log
    cdef logtxn* tr
    cdef logtxn* nxt = _txn_new(log.sequence + 1)
    cdef opctx cx
    cdef uint32_t total, tail
    cdef uint8_t* p
    cdef uint8_t* grown
    cdef int err = 0
    out[0] = NULL
    if nxt == NULL:
        return -ENOMEM
    ob_wrlock(&sd.ob, &log.flush_lock, WAIT_SWITCH, 0)
    tr = log.running
    if not force and tr.nbufs + tr.ndbufs + tr.nrevokes == 0 and dl_empty(&tr.freed) and dl_empty(&tr.ordered):
        pthread_rwlock_unlock(&log.flush_lock)
        txn_free(nxt)
        return 0
    if sd.at_switch != NULL:
        ctx_init(&cx, sd, 0, 0)
        cx.tr_on = True
        sd.at_switch(sd, &cx)
    pthread_mutex_lock(&log.lock)
    total = (tr.nbufs + (tr.nbufs + sd.ldptrs - 1) // sd.ldptrs + tr.ndbufs + (tr.ndbufs + sd.jdptrs - 1) // sd.jdptrs
             + _revoke_blocks(sd, tr.nrevokes) + 1)
    if total > log.free:
        err = sd_assert_failed(sd, b"a commit does not fit into the journal")
    elif <uint64_t>total << sd.bsize_shift > log.io_cap:
        grown = <uint8_t*>dev_alloc((<uint64_t>total << sd.bsize_shift) * 2)
        if grown == NULL:
            err = -ENOMEM
        else:
            dev_free(log.io_buf)
            log.io_buf = grown
            log.io_cap = (<uint64_t>total << sd.bsize_shift) * 2
    if err == 0:
        err = _steal_ordered(sd, tr)
    if err == 0:
        tr.first = log.head
        tr.nblocks = total
        p = _stage_bufs(sd, tr, log.io_buf, False)
        p = _stage_bufs(sd, tr, p, True)
        p = _stage_revokes(sd, tr, p)
        body[0] = total - 1
        tail = tr.first
        tr.tail_seq = tr.seq
        _purge(log)
        if not dl_empty(&log.ail_list):
            tail = (<logtxn*>log.ail_list.next.owner).first
            tr.tail_seq = (<logtxn*>log.ail_list.next.owner).seq
        elif body[0] == 0:
            tail = (tr.first + body[0]) % log.nblocks
        _stage_header(sd, p, log.sequence, (tr.first + body[0]) % log.nblocks, tail,
                      GFS2_LOG_HEAD_FLUSH_NORMAL | lfc | extra_flags)
        log.head = (log.head + total) % log.nblocks
        log.free -= total
        log.sequence += 1
        log.running = nxt
        out[0] = tr
        nxt = NULL
    pthread_mutex_unlock(&log.lock)
    pthread_rwlock_unlock(&log.flush_lock)
    txn_free(nxt)
    return err


cdef void _drop_ordered(sbd* sd, logtxn* tr, bint write) noexcept nogil:
    """The commit is done with these inodes; with `write` their data follow now (data=writeback, or a withdraw, which
    writes nothing but says so)."""
    cdef uint32_t i
    for i in range(tr.n_ord):
        if write:
            sd.data_writeback(sd, tr.ord[i])
        sd.inode_put(tr.ord[i])
    tr.n_ord = 0


cdef void _write_must(sbd* sd, logtxn* tr) noexcept nogil:
    """data=writeback: only what moved out of the log's care, an unstuffed dinode's data that may be durable there."""
    cdef uint32_t i
    for i in range(tr.n_ord):
        if tr.ord[i].ordered_must:
            sd.data_writeback(sd, tr.ord[i])


cdef int _flush_device(sbd* sd) noexcept nogil:
    """Under commit_lock."""
    gl_atomic_add64(<int64_t*>&sd.log.n_flushes, 1)
    return sd.dev.ops.flush(sd.dev)


cdef void _finish(sbd* sd, logtxn* tr, uint32_t tail) noexcept nogil:
    """The header is on disk: the tail moves, freed blocks' buffers go, the AIL takes what was changed."""
    cdef jlog* log = sd.log
    cdef buf* b
    while not dl_empty(&tr.freed):
        b = <buf*>tr.freed.next.owner
        dl_del(&b.tr)
        ail_forget(sd, b)
        buf_put(sd, b)
    pthread_mutex_lock(&log.lock)
    log.free += (tail + log.nblocks - log.tail) % log.nblocks
    log.tail = tail
    log.committed_seq = tr.seq
    log.tail_seq = tr.tail_seq
    log.n_commits += 1
    log.n_blocks_logged += tr.nblocks
    log.n_revokes += tr.nrevokes
    if tr.n_ail:
        dl_add_tail(&log.ail_list, &tr.link)
    pthread_cond_broadcast(&log.cond)
    pthread_mutex_unlock(&log.lock)
    if sd.after_commit != NULL:
        sd.after_commit(sd)
    if dl_empty(&tr.link):
        txn_free(tr)


cdef int _commit(sbd* sd, uint32_t lfc, bint force, uint32_t extra_flags) noexcept nogil:
    """Commits the running transaction (commit_lock held); with `force` writes a header even if nothing changed."""
    cdef jlog* log = sd.log
    cdef logtxn* tr = NULL
    cdef uint32_t body = 0
    cdef uint32_t hdr, tail
    cdef uint8_t* hp
    cdef uint64_t since
    cdef int err
    if sd_dead(sd):
        return -EIO
    if not log.live:
        return 0
    since = stat_now()
    err = _switch(sd, lfc, force, extra_flags, &tr, &body)
    if err:
        return sd_io_error(sd, b"preparing a commit", log.jinode, err)
    if tr == NULL:
        return 0
    hp = log.io_buf + (<uint64_t>body << sd.bsize_shift)
    hdr = (tr.first + body) % log.nblocks
    tail = be32toh((<gfs2_log_header*>hp).lh_tail)
    if sd.flags & SDF_WRITEBACK:
        _write_must(sd, tr)
    if sd_dead(sd):
        _drop_ordered(sd, tr, True)
        return -EIO
    # A failed data write is its writer's error (kept in wb_err for fsync), not the journal's, unless it withdraws.
    err = _write_log(sd, tr, log.io_buf, tr.first, body)
    if err == 0 and sd_dead(sd):
        err = -EIO
    if err == 0 and not (sd.flags & SDF_NOBARRIER):
        err = _flush_device(sd)
    if err == 0:
        err = sd.dev.ops.write(sd.dev, _log_addr(log, hdr) << sd.bsize_shift, hp, sd.bsize,
                               0 if sd.flags & SDF_NOBARRIER else DEV_FUA)
    if err:
        _drop_ordered(sd, tr, True)
        return sd_io_error(sd, b"writing the journal", _log_addr(log, hdr), err)
    _drop_ordered(sd, tr, (sd.flags & SDF_WRITEBACK) != 0)
    _finish(sd, tr, tail)
    hist_add(&sd.ob.commit, stat_now() - since)
    return 0


cdef bint log_writes_data(sbd* sd, inode* ip, uint64_t seq) noexcept nogil:
    cdef jlog* log = sd.log
    cdef bint yes
    if log == NULL or not log.live or sd.flags & SDF_WRITEBACK:
        return False
    pthread_mutex_lock(&log.lock)
    yes = ip.ordered_on and log.running != NULL and log.running.seq == seq
    pthread_mutex_unlock(&log.lock)
    return yes


cdef int log_flush(sbd* sd, uint64_t seq, uint32_t lfc) noexcept nogil:
    cdef jlog* log = sd.log
    cdef int err = 0
    ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
    # Whoever waited for the lock finds his transaction committed by the one before him: group commit.
    if seq == 0 or log.committed_seq < seq:
        err = _commit(sd, lfc, False, 0)
    pthread_mutex_unlock(&log.commit_lock)
    if err == 0 and sd_dead(sd):
        err = -EIO
    return err


cdef int log_sync(sbd* sd, uint64_t seq, uint32_t lfc) noexcept nogil:
    cdef jlog* log = sd.log
    cdef uint64_t before = gl_atomic_load64(&log.n_flushes)
    cdef int err = 0
    ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
    if sd_dead(sd):
        err = -EIO
    elif seq == 0 or log.committed_seq < seq:
        err = _commit(sd, lfc, False, 0)
    # The commit that another thread had under way may have flushed before our caller's data were written. A flush
    # that began since then has ended, for we hold the lock.
    # With data=writeback a commit writes data behind its header: everything durable takes one more flush.
    if err == 0 and (log.n_flushes == before or (seq == 0 and sd.flags & SDF_WRITEBACK)):
        err = _flush_device(sd)
        if err:
            # Nobody can say which of the writes since the last flush are on the disk.
            err = sd_io_error(sd, b"flushing the device", 0, err)
    pthread_mutex_unlock(&log.commit_lock)
    if err == 0 and sd_dead(sd):
        err = -EIO
    return err


cdef int log_ail_flush(sbd* sd) noexcept nogil:
    """Everything committed goes in place, and a header says so: the log is empty afterwards."""
    cdef jlog* log = sd.log
    cdef int err = log_flush(sd, 0, GFS2_LFC_SYNC_FS)
    if err == 0:
        err = ail_write(sd, 0, ~<uint64_t>0)
    if err == 0:
        ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
        err = _commit(sd, GFS2_LFC_AIL_FLUSH, True, 0)
        pthread_mutex_unlock(&log.commit_lock)
    return err


# ---------------------------------------------------------------------------------------------- daemon, start, stop

cdef void _daemon_round(sbd* sd, bint timed_out) noexcept nogil:
    cdef jlog* log = sd.log
    cdef uint32_t live
    cdef bint idle
    pthread_mutex_lock(&log.lock)
    live = log.nblocks - log.free
    idle = timed_out and log.n_ail > 0
    log.kick = False
    pthread_mutex_unlock(&log.lock)
    if log_flush(sd, 0, GFS2_LFC_LOGD_JFLUSH_REQD):
        return
    if live > log.nblocks // 2 or idle:
        if ail_write(sd, 0, ~<uint64_t>0) == 0:
            ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
            _commit(sd, GFS2_LFC_LOGD_AIL_FLUSH_REQD, True, 0)
            pthread_mutex_unlock(&log.commit_lock)


cdef void* _daemon(void* arg) noexcept nogil:
    """Commits every commit_ms, and at once when the running transaction or the live log has grown large."""
    cdef sbd* sd = <sbd*>arg
    cdef jlog* log = sd.log
    cdef timespec until
    cdef bint timed_out
    wait_adopt(&sd.ob.logd)
    while True:
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += log.commit_ms // 1000
        until.tv_nsec += <long>(log.commit_ms % 1000) * 1000000
        if until.tv_nsec >= 1000000000:
            until.tv_nsec -= 1000000000
            until.tv_sec += 1
        timed_out = False
        pthread_mutex_lock(&log.lock)
        while not log.stop and not log.kick and not timed_out:
            if log.free < log.nblocks // 3:
                break
            timed_out = pthread_cond_timedwait(&log.cond, &log.lock, &until) != 0
        if log.stop:
            pthread_mutex_unlock(&log.lock)
            return NULL
        pthread_mutex_unlock(&log.lock)
        if sd_dead(sd):
            # Nothing may be written any more; wait for the end without spinning.
            pthread_mutex_lock(&log.lock)
            while not log.stop:
                pthread_cond_timedwait(&log.cond, &log.lock, &until)
                clock_gettime(CLOCK_REALTIME, &until)
                until.tv_sec += 1
            pthread_mutex_unlock(&log.lock)
            return NULL
        _daemon_round(sd, timed_out)


cdef int log_init(sbd* sd) noexcept nogil:
    """Makes sd.log; the mount then fills ext, n_ext, jinode, jid, nblocks, head and sequence and sets it live."""
    cdef jlog* log = <jlog*>calloc(1, sizeof(jlog))
    if log == NULL:
        return -ENOMEM
    log.sd = sd
    rwlock_init(&log.flush_lock)
    pthread_mutex_init(&log.lock, NULL)
    pthread_cond_init(&log.cond, NULL)
    pthread_mutex_init(&log.commit_lock, NULL)
    pthread_mutex_init(&log.ail_lock, NULL)
    dl_init(&log.ail_list, NULL)
    log.commit_ms = COMMIT_DEFAULT_MS
    sd.log = log
    return 0


cdef int log_start(sbd* sd) noexcept nogil:
    cdef jlog* log = sd.log
    log.tail = log.head
    log.free = log.nblocks
    log.committed_seq = log.sequence - 1
    log.tail_seq = log.sequence
    log.running = _txn_new(log.sequence)
    if log.running == NULL:
        return -ENOMEM
    log.live = True
    log.stop = False
    if log.commit_ms == 0:
        # Nothing but syncs and a full log commits: runs that must repeat exactly.
        return 0
    if pthread_create(&log.thread, NULL, _daemon, sd) != 0:
        return -ENOMEM
    log.thread_on = True
    return 0


cdef void log_stop(sbd* sd) noexcept nogil:
    """Ends the daemon thread; writes nothing."""
    cdef jlog* log = sd.log
    if log == NULL or not log.thread_on:
        return
    pthread_mutex_lock(&log.lock)
    log.stop = True
    pthread_cond_broadcast(&log.cond)
    pthread_mutex_unlock(&log.lock)
    pthread_join(log.thread, NULL)
    log.thread_on = False


cdef int log_shutdown(sbd* sd) noexcept nogil:
    cdef jlog* log = sd.log
    cdef int err
    if log == NULL or not log.live:
        return 0
    log_stop(sd)
    err = log_flush(sd, 0, GFS2_LFC_KILL_SB)
    if err == 0:
        err = ail_write(sd, 0, ~<uint64_t>0)
    if err == 0:
        ob_mutex(&sd.ob, &log.commit_lock, WAIT_COMMIT, 0)
        err = _commit(sd, GFS2_LFC_SHUTDOWN, True, GFS2_LOG_HEAD_UNMOUNT)
        pthread_mutex_unlock(&log.commit_lock)
    log.live = False
    return err


cdef void _drop_lists(sbd* sd, logtxn* tr) noexcept nogil:
    """After a withdraw: references held by lists go back so that the cache can be torn down."""
    cdef inode* ip
    while not dl_empty(&tr.ordered):
        ip = <inode*>tr.ordered.next.owner
        dl_del(&ip.ordered)
        ip.ordered_on = False
        sd.inode_put(ip)


cdef void log_destroy(sbd* sd) noexcept nogil:
    cdef jlog* log = sd.log
    cdef logtxn* tr
    if log == NULL:
        return
    log_stop(sd)
    if log.running != NULL:
        _drop_lists(sd, log.running)
        txn_free(log.running)
    while not dl_empty(&log.ail_list):
        tr = <logtxn*>log.ail_list.next.owner
        dl_del(&tr.link)
        txn_free(tr)
    dev_free(log.io_buf)
    dev_free(log.ail_buf)
    free(log.ext)
    free(log)
    sd.log = NULL
