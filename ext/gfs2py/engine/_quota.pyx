"""Quotas: who uses how many blocks, and who may.

On disk there are two places. The quota file has one record per user and group for the whole file system: limit, warn,
value. Each node's quota_change file has a row of small records, one per id whose blocks changed on this node since the
last folding. A transaction that allocates or frees changes only the latter, so nodes do not meet in the quota file;
quota_sync folds: value += change, change = 0, both in one transaction, so that a crash finds either all or nothing.

In memory an id has one `qdata`. Its `change` equals its quota_change record (a *slot*), whose buffer is held from the
first use of its block on. An id with a change is on q.dirty, all others on q.idle, from which the oldest go when there
are more than QD_MAX. When every slot is taken a change lives in memory only until the next folding.

Locks: quota file's glock -> resource groups -> transaction -> q.lock. q.lock is held for moments only.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset
from gfs2py.engine._bmap cimport bmap_alloc, bmap_alloc_need, bmap_lookup
from gfs2py.engine._cache cimport buf_new, buf_put, buf_read
from gfs2py.engine._file cimport internal_read
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_SHARED, SDF_QUOTA_ACCOUNT, SDF_QUOTA_ENFORCE,
                                    SDF_QUOTA_QUIET, SDF_RDONLY, buf, inode, opctx, sbd)
from gfs2py.engine._inode cimport inode_dirty, inode_lock, inode_touch, inode_unlock
from gfs2py.engine._log cimport trans_add_data, trans_begin, trans_end
from gfs2py.engine._quota_data cimport qd_alloc, qd_apply, qd_free, qd_get, qd_scan, qdata, quotas
from gfs2py.engine._rgrp cimport inplace_release, inplace_reserve, rgrp_trans_blocks
from gfs2py.engine._sbd cimport LOG_INFO_, sd_corrupt, sd_io_error, sd_message
from gfs2py.engine._sync cimport dl_add_tail, dl_del, dl_empty, pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.ondisk._ondisk cimport SIZEOF_QUOTA, be64toh, gfs2_quota, htobe64

cdef extern from "<errno.h>" nogil:
    int EDQUOT, EFBIG, EINVAL, ENOMEM, EROFS, ESRCH

cdef enum:
    SLOTS_LOW = 64                  # fewer free slots than this: fold before the next allocation
    QC_MAX_BYTES = 64 << 20
    WARN_PERIOD = 10                # seconds between warnings for one id


cdef void _charge(opctx* cx, quotas* q, uint32_t kind, uint32_t id, int64_t change) noexcept nogil:
    cdef qdata* qd
    cdef int err = 0
    if id == QUOTA_NONE or change == 0:
        return
    pthread_mutex_lock(&q.lock)
    qd = qd_get(q, kind, id)
    if qd != NULL:
        err = qd_apply(cx, q, qd, change)
    pthread_mutex_unlock(&q.lock)
    if qd == NULL or err:
        sd_io_error(cx.sd, b"charging a quota", cx.sd.qc_ip.no_addr, err if err else -ENOMEM)


cdef void quota_change(opctx* cx, int64_t change, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef quotas* q = <quotas*>cx.sd.quota
    if q == NULL:
        return
    _charge(cx, q, QUOTA_USER, uid, change)
    _charge(cx, q, QUOTA_GROUP, gid, change)


cdef void quota_chown(opctx* cx, inode* ip, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef quotas* q = <quotas*>cx.sd.quota
    cdef int64_t n = <int64_t>ip.blocks
    if q == NULL or not cx.sd.flags & SDF_QUOTA_ACCOUNT:
        return
    if uid != QUOTA_NONE and uid != ip.uid:
        _charge(cx, q, QUOTA_USER, ip.uid, -n)
        _charge(cx, q, QUOTA_USER, uid, n)
    if gid != QUOTA_NONE and gid != ip.gid:
        _charge(cx, q, QUOTA_GROUP, ip.gid, -n)
        _charge(cx, q, QUOTA_GROUP, gid, n)


# ---- the quota file -------------------------------------------------------------------------------------------------

cdef inline uint64_t _offset(uint32_t kind, uint32_t id) noexcept nogil:
    return (2 * <uint64_t>id + (1 if kind == QUOTA_GROUP else 0)) * SIZEOF_QUOTA


cdef int _read_record(opctx* cx, qdata* qd, gfs2_quota* rec) noexcept nogil:
    """The id's record, zeros where the file has none (the quota file's glock is held)."""
    cdef inode* ip = cx.sd.quota_ip
    cdef uint64_t off = _offset(qd.kind, qd.id)
    memset(rec, 0, SIZEOF_QUOTA)
    if off >= ip.size:
        return 0
    return internal_read(cx, ip, off, rec, <uint32_t>min(<uint64_t>SIZEOF_QUOTA, ip.size - off))


cdef int _refresh(opctx* cx, quotas* q, qdata* qd) noexcept nogil:
    """Limit, warn and value from the quota file (qd is busy; takes the file's glock)."""
    cdef gfs2_quota rec
    cdef int err = inode_lock(cx, cx.sd.quota_ip, LM_ST_SHARED)
    if err:
        return err
    err = _read_record(cx, qd, &rec)
    if err == 0:
        pthread_mutex_lock(&q.lock)
        qd.limit = be64toh(rec.qu_limit)
        qd.warn = be64toh(rec.qu_warn)
        qd.value = <int64_t>be64toh(rec.qu_value)
        qd.valid = True
        pthread_mutex_unlock(&q.lock)
    inode_unlock(cx, cx.sd.quota_ip)
    return err


cdef int _use(opctx* cx, quotas* q, uint32_t kind, uint32_t id, bint fresh, qdata** out) noexcept nogil:
    """A busy, valid qdata for the id. Pair with _unuse."""
    cdef qdata* qd
    cdef int err = 0
    pthread_mutex_lock(&q.lock)
    qd = qd_get(q, kind, id)
    if qd != NULL:
        qd.busy += 1
    pthread_mutex_unlock(&q.lock)
    if qd == NULL:
        return -ENOMEM
    if fresh or not qd.valid:
        err = _refresh(cx, q, qd)
    if err:
        _unuse(q, qd)
    out[0] = qd
    return err


cdef void _unuse(quotas* q, qdata* qd) noexcept nogil:
    pthread_mutex_lock(&q.lock)
    qd.busy -= 1
    pthread_mutex_unlock(&q.lock)


cdef int _begin_record(opctx* cx, uint64_t off) noexcept nogil:
    """Reserves space and opens the transaction that writes one record (the quota file's glock is held EX)."""
    cdef sbd* sd = cx.sd
    cdef inode* ip = sd.quota_ip
    cdef uint64_t lblk = off >> sd.bsize_shift
    cdef uint64_t n = ((off + SIZEOF_QUOTA - 1) >> sd.bsize_shift) - lblk + 1
    cdef uint64_t dblk = 0, run = 0, i
    cdef uint32_t db = 0, mb = 0, got = 0
    cdef bint mapped = ip.height != 0
    cdef int err
    for i in range(n):
        if mapped:
            err = bmap_lookup(cx, ip, lblk + i, 1, &dblk, &run)
            if err:
                return err
            mapped = dblk != 0
    if mapped:
        return trans_begin(cx, 1 + <uint32_t>n, 0)
    bmap_alloc_need(sd, ip, lblk, n, &db, &mb)
    err = inplace_reserve(cx, ip, db + mb, db + mb, &got)
    if err:
        return err
    err = trans_begin(cx, 2 + db + mb + rgrp_trans_blocks(cx.rgd, db + mb), 0)
    if err:
        inplace_release(cx, ip)
    return err


cdef int _put_record(opctx* cx, uint64_t off, const gfs2_quota* rec) noexcept nogil:
    """The record's bytes into the file's blocks, which are made where they are missing, and the dinode."""
    cdef sbd* sd = cx.sd
    cdef inode* ip = sd.quota_ip
    cdef const uint8_t* src = <const uint8_t*>rec
    cdef uint32_t left = SIZEOF_QUOTA
    cdef uint32_t at, part
    cdef uint64_t dblk = 0, n = 0
    cdef bint fresh = False
    cdef buf* b = NULL
    cdef int err
    while left:
        at = <uint32_t>(off & (sd.bsize - 1))
        part = min(left, sd.bsize - at)
        err = bmap_alloc(cx, ip, off >> sd.bsize_shift, 1, &dblk, &n, &fresh)
        if err == 0:
            err = buf_new(sd, dblk, &b) if fresh else buf_read(sd, &ip.gl, dblk, &b)
        if err:
            return sd_io_error(sd, b"writing the quota file", ip.no_addr, err)
        trans_add_data(cx, b)
        memcpy(b.data + at, src, part)
        buf_put(sd, b)
        src += part
        off += part
        left -= part
    if off > ip.size:
        ip.size = off
    inode_touch(cx, ip, True, False)
    return inode_dirty(cx, ip)


cdef int _write_record(opctx* cx, quotas* q, qdata* qd, uint32_t what, uint64_t limit, uint64_t warn,
                       uint64_t value) noexcept nogil:
    """Folds the id's change into its record and sets what is asked for, in one transaction (EX held, qd busy)."""
    cdef inode* ip = cx.sd.quota_ip
    cdef gfs2_quota rec
    cdef uint64_t off = _offset(qd.kind, qd.id)
    cdef int64_t change, sum
    cdef int err = _read_record(cx, qd, &rec)
    if err == 0:
        err = _begin_record(cx, off)
    if err:
        return err
    pthread_mutex_lock(&q.lock)
    change = qd.change
    pthread_mutex_unlock(&q.lock)
    sum = <int64_t>(be64toh(rec.qu_value) + <uint64_t>change)
    # Files may be older than their accounting: usage never goes below nothing.
    rec.qu_value = htobe64(<uint64_t>max(sum, <int64_t>0))
    if what & QUOTA_SET_LIMIT:
        rec.qu_limit = htobe64(limit)
    if what & QUOTA_SET_WARN:
        rec.qu_warn = htobe64(warn)
    if what & QUOTA_SET_VALUE:
        rec.qu_value = htobe64(value)
    err = _put_record(cx, off, &rec)
    if err == 0:
        pthread_mutex_lock(&q.lock)
        qd.limit = be64toh(rec.qu_limit)
        qd.warn = be64toh(rec.qu_warn)
        qd.value = <int64_t>be64toh(rec.qu_value)
        qd.valid = True
        if what:
            qd.told = False
        # What was charged meanwhile stays for the next folding.
        if change:
            err = qd_apply(cx, q, qd, -change)
        pthread_mutex_unlock(&q.lock)
    trans_end(cx)
    if cx.rgd != NULL:
        inplace_release(cx, ip)
    return err


cdef qdata* _next_dirty(quotas* q) noexcept nogil:
    """The next id that this folding has not looked at, made busy; NULL at the end."""
    cdef qdata* qd = NULL
    pthread_mutex_lock(&q.lock)
    if not dl_empty(&q.dirty):
        qd = <qdata*>q.dirty.next.owner
        if qd.gen == q.gen:
            qd = NULL
        else:
            qd.gen = q.gen
            qd.busy += 1
            dl_del(&qd.link)
            dl_add_tail(&q.dirty, &qd.link)
    pthread_mutex_unlock(&q.lock)
    return qd


cdef int quota_sync(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef quotas* q = <quotas*>sd.quota
    cdef qdata* qd
    cdef int err = 0
    if q == NULL or sd.flags & SDF_RDONLY:
        return 0
    pthread_mutex_lock(&q.sync_lock)
    q.gen += 1
    while err == 0:
        qd = _next_dirty(q)
        if qd == NULL:
            break
        err = inode_lock(cx, sd.quota_ip, LM_ST_EXCLUSIVE)
        if err == 0:
            err = _write_record(cx, q, qd, 0, 0, 0, 0)
            inode_unlock(cx, sd.quota_ip)
        _unuse(q, qd)
    pthread_mutex_unlock(&q.sync_lock)
    return err


# ---- limits ---------------------------------------------------------------------------------------------------------

cdef void _tell(sbd* sd, qdata* qd, const char* what) noexcept nogil:
    cdef char text[80]
    if sd.flags & SDF_QUOTA_QUIET:
        return
    snprintf(text, 80, b"quota %s for %s %u", what, b"user" if qd.kind == QUOTA_USER else b"group", qd.id)
    sd_message(sd, LOG_INFO_, text)


cdef int _check_id(opctx* cx, quotas* q, uint32_t kind, uint32_t id, uint64_t blocks) noexcept nogil:
    cdef qdata* qd = NULL
    cdef int64_t used
    cdef bint exceeded, say = False, warn = False
    cdef int err
    if id == QUOTA_NONE:
        return 0
    err = _use(cx, q, kind, id, False, &qd)
    if err:
        return err
    pthread_mutex_lock(&q.lock)
    used = max(qd.value + qd.change, <int64_t>0)
    exceeded = qd.limit != 0 and (blocks > qd.limit or <uint64_t>used > qd.limit - blocks)
    if exceeded:
        say = not qd.told
        qd.told = True
    elif qd.warn and <uint64_t>used > qd.warn and cx.now_sec - qd.last_warn >= WARN_PERIOD:
        warn = True
        qd.last_warn = cx.now_sec
    pthread_mutex_unlock(&q.lock)
    if say:
        _tell(cx.sd, qd, b"exceeded")
    if warn:
        _tell(cx.sd, qd, b"warning")
    _unuse(q, qd)
    return -EDQUOT if exceeded else 0


cdef int quota_check(opctx* cx, uint32_t uid, uint32_t gid, uint64_t blocks) noexcept nogil:
    cdef quotas* q = <quotas*>cx.sd.quota
    cdef int err = 0
    if q == NULL:
        return 0
    if q.n_free < SLOTS_LOW:
        err = quota_sync(cx)
    if err == 0 and cx.sd.flags & SDF_QUOTA_ENFORCE and cx.uid != 0:
        err = _check_id(cx, q, QUOTA_USER, uid, blocks)
        if err == 0:
            err = _check_id(cx, q, QUOTA_GROUP, gid, blocks)
    return err


cdef int quota_chown_check(opctx* cx, inode* ip, uint32_t uid, uint32_t gid) noexcept nogil:
    if uid == ip.uid:
        uid = QUOTA_NONE
    if gid == ip.gid:
        gid = QUOTA_NONE
    return quota_check(cx, uid, gid, ip.blocks)


cdef int quota_get(opctx* cx, uint32_t kind, uint32_t id, quota_info* out) noexcept nogil:
    cdef quotas* q = <quotas*>cx.sd.quota
    cdef qdata* qd = NULL
    cdef int err
    if q == NULL or not cx.sd.flags & SDF_QUOTA_ACCOUNT:
        return -ESRCH
    if kind > QUOTA_GROUP or id == QUOTA_NONE:
        return -EINVAL
    err = _use(cx, q, kind, id, True, &qd)
    if err:
        return err
    pthread_mutex_lock(&q.lock)
    out.limit = qd.limit
    out.warn = qd.warn
    out.value = qd.value + qd.change
    out.change = qd.change
    pthread_mutex_unlock(&q.lock)
    _unuse(q, qd)
    return 0


cdef int quota_set(opctx* cx, uint32_t kind, uint32_t id, uint32_t what, uint64_t limit, uint64_t warn,
                   uint64_t value) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef quotas* q = <quotas*>sd.quota
    cdef qdata* qd = NULL
    cdef int err
    if q == NULL or not sd.flags & SDF_QUOTA_ACCOUNT:
        return -ESRCH
    if sd.flags & SDF_RDONLY:
        return -EROFS
    if kind > QUOTA_GROUP or id == QUOTA_NONE or what & ~<uint32_t>7 or max(limit, max(warn, value)) >> 62:
        return -EINVAL
    err = _use(cx, q, kind, id, False, &qd)
    if err:
        return err
    err = inode_lock(cx, sd.quota_ip, LM_ST_EXCLUSIVE)
    if err == 0:
        err = _write_record(cx, q, qd, what, limit, warn, value)
        inode_unlock(cx, sd.quota_ip)
    _unuse(q, qd)
    return err


cdef int quota_init(opctx* cx) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef inode* ip = sd.qc_ip
    cdef int err
    if ip == NULL or sd.quota_ip == NULL:
        return 0
    err = inode_lock(cx, ip, LM_ST_SHARED)
    if err:
        return err
    if ip.size == 0 or ip.size > QC_MAX_BYTES or ip.size & (sd.bsize - 1) or ip.height == 0:
        err = sd_corrupt(sd, ip.no_addr, b"dinode", b"di_size of quota_change", 1 << 20, ip.size)
    if err == 0:
        err = qd_alloc(sd, ip.size)
    if err == 0:
        err = qd_scan(cx, <quotas*>sd.quota)
    inode_unlock(cx, ip)
    if err:
        quota_destroy(sd)
    elif sd.flags & SDF_QUOTA_ACCOUNT:
        sd.quota_change = quota_change
        sd.quota_check = quota_check
    return err


cdef void quota_destroy(sbd* sd) noexcept nogil:
    if sd.quota == NULL:
        return
    sd.quota_change = NULL
    sd.quota_check = NULL
    qd_free(sd)
