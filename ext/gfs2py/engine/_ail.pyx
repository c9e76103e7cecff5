"""The active item list: writing committed buffers in place.

A write goes out from a copy taken while the buffer was not pinned, so operations may change the buffer again while the
write is under way; what reaches the disk is always a committed version. One writer at a time; batches are sorted by
block so that neighbours travel together.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy
from gfs2py.block._device cimport bio_seg, dev_alloc
from gfs2py.engine._cache cimport buf_hold, buf_put, buf_wait_writing, shard_of
from gfs2py.engine._incore cimport (B_DIRTY, B_FREED, B_PINNED, B_UPTODATE, B_WRITING, buf, cache_shard, jlog, logtxn,
                                    sbd)
from gfs2py.engine._sbd cimport sd_dead, sd_io_error
from gfs2py.engine._sync cimport (dl_del, dlink, pthread_cond_broadcast, pthread_mutex_lock, pthread_mutex_unlock)

cdef extern from "<errno.h>" nogil:
    int EIO, ENOMEM

cdef enum:
    BATCH_BYTES = 2 << 20
    BATCH_MAX = 1024                # blocks


cdef struct ail_item:
    buf* b
    uint64_t seq                    # of the transaction it belonged to when collected


cdef int _by_block(const void* x, const void* y) noexcept nogil:
    cdef uint64_t a = (<const ail_item*>x).b.blkno
    cdef uint64_t c = (<const ail_item*>y).b.blkno
    return 0 if a == c else (-1 if a < c else 1)


cdef uint32_t _collect(sbd* sd, ail_item* items, uint32_t want, uint64_t upto) noexcept nogil:
    """Holds on to up to `want` writable buffers, oldest transaction first."""
    cdef jlog* log = sd.log
    cdef dlink* lt
    cdef dlink* lb
    cdef logtxn* tr
    cdef buf* b
    cdef uint32_t n = 0
    pthread_mutex_lock(&log.lock)
    lt = log.ail_list.next
    while lt != &log.ail_list and n < want:
        tr = <logtxn*>lt.owner
        if tr.seq > upto:
            break
        lt = lt.next
        lb = tr.ail.next
        while lb != &tr.ail and n < want:
            b = <buf*>lb.owner
            lb = lb.next
            if not (b.flags & (B_PINNED | B_FREED | B_WRITING)):
                buf_hold(sd, b)
                items[n].b = b
                items[n].seq = tr.seq
                n += 1
    pthread_mutex_unlock(&log.lock)
    return n


cdef uint32_t _copy(sbd* sd, ail_item* items, uint32_t n, bio_seg* segs, uint32_t* n_segs) noexcept nogil:
    """Copies the content of those still writable; drops the others. Neighbouring blocks form one segment."""
    cdef uint32_t i
    cdef uint32_t kept = 0
    cdef uint32_t m = 0
    cdef cache_shard* s
    cdef buf* b
    cdef uint8_t* dst = sd.log.ail_buf
    for i in range(n):
        b = items[i].b
        s = shard_of(sd, b.blkno)
        pthread_mutex_lock(&s.lock)
        if b.flags & (B_PINNED | B_FREED | B_WRITING) or b.ail_tr == NULL or b.ail_tr.seq != items[i].seq:
            pthread_mutex_unlock(&s.lock)
            buf_put(sd, b)
            continue
        b.flags |= B_WRITING
        memcpy(dst, b.data, sd.bsize)
        pthread_mutex_unlock(&s.lock)
        if m and segs[m - 1].off + segs[m - 1].len == b.blkno << sd.bsize_shift:
            segs[m - 1].len += sd.bsize
        else:
            segs[m].off = b.blkno << sd.bsize_shift
            segs[m].buf = dst
            segs[m].len = sd.bsize
            segs[m].res = 0
            m += 1
        dst += sd.bsize
        items[kept] = items[i]
        kept += 1
    n_segs[0] = m
    return kept


cdef void _done(sbd* sd, ail_item* items, uint32_t n, bint ok) noexcept nogil:
    """Written: off the AIL, unless a newer commit took the buffer over meanwhile."""
    cdef jlog* log = sd.log
    cdef uint32_t i
    cdef cache_shard* s
    cdef buf* b
    cdef bint off
    for i in range(n):
        b = items[i].b
        s = shard_of(sd, b.blkno)
        pthread_mutex_lock(&log.lock)
        pthread_mutex_lock(&s.lock)
        b.flags &= ~<uint32_t>B_WRITING
        off = ok and b.ail_tr != NULL and b.ail_tr.seq == items[i].seq
        if off:
            dl_del(&b.ail)
            b.ail_tr.n_ail -= 1
            b.ail_tr = NULL
            b.flags &= ~<uint32_t>B_DIRTY
            log.n_ail -= 1
            log.n_ail_writes += 1
        pthread_cond_broadcast(&s.cond)
        pthread_mutex_unlock(&s.lock)
        pthread_mutex_unlock(&log.lock)
        if off:
            buf_put(sd, b)
        buf_put(sd, b)


cdef int ail_write(sbd* sd, uint32_t leave, uint64_t upto) noexcept nogil:
    cdef jlog* log = sd.log
    cdef ail_item items[BATCH_MAX]
    cdef bio_seg segs[BATCH_MAX]
    cdef uint32_t n, m
    cdef uint32_t want = min(<uint32_t>BATCH_MAX, <uint32_t>(BATCH_BYTES >> sd.bsize_shift))
    cdef int err = 0
    pthread_mutex_lock(&log.ail_lock)
    if log.ail_buf == NULL:
        log.ail_buf = <uint8_t*>dev_alloc(BATCH_BYTES)
        if log.ail_buf == NULL:
            pthread_mutex_unlock(&log.ail_lock)
            return -ENOMEM
    while log.n_ail > leave:
        if sd_dead(sd):
            err = -EIO
            break
        n = _collect(sd, items, want, upto)
        if n == 0:
            break
        qsort(items, n, sizeof(ail_item), _by_block)
        n = _copy(sd, items, n, segs, &m)
        if n == 0:
            continue
        err = sd.dev.ops.writev(sd.dev, segs, m)
        _done(sd, items, n, err == 0)
        if err:
            err = sd_io_error(sd, b"writing metadata in place", segs[0].off >> sd.bsize_shift, err)
            break
    pthread_mutex_unlock(&log.ail_lock)
    return err


cdef void ail_forget(sbd* sd, buf* b) noexcept nogil:
    cdef jlog* log = sd.log
    cdef cache_shard* s = shard_of(sd, b.blkno)
    cdef bint off
    buf_wait_writing(sd, b)
    pthread_mutex_lock(&log.lock)
    pthread_mutex_lock(&s.lock)
    off = b.ail_tr != NULL
    if off:
        dl_del(&b.ail)
        b.ail_tr.n_ail -= 1
        log.n_ail -= 1
        b.ail_tr = NULL
    b.flags &= ~<uint32_t>(B_FREED | B_DIRTY | B_UPTODATE)
    pthread_mutex_unlock(&s.lock)
    pthread_mutex_unlock(&log.lock)
    if off:
        buf_put(sd, b)
