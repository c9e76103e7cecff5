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
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from gfs2py.engine._bmap cimport bmap_alloc, bmap_alloc_need, bmap_lookup
from gfs2py.engine._cache cimport buf_new, buf_put, buf_read, buf_readahead, meta_read
from gfs2py.engine._file cimport internal_read
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_SHARED, SDF_QUOTA_ACCOUNT, SDF_QUOTA_ENFORCE,
                                    SDF_QUOTA_QUIET, SDF_RDONLY, buf, inode, opctx, sbd)
from gfs2py.engine._inode cimport inode_dirty, inode_lock, inode_touch, inode_unlock
from gfs2py.engine._log cimport trans_add_data, trans_add_meta, trans_begin, trans_end
from gfs2py.engine._rgrp cimport inplace_release, inplace_reserve, rgrp_trans_blocks
from gfs2py.engine._sbd cimport LOG_INFO_, LOG_WARN_, sd_corrupt, sd_io_error, sd_message
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, dlink, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock)
from gfs2py.ondisk._ondisk cimport (GFS2_METATYPE_QC, GFS2_QCF_USER, SIZEOF_META_HEADER, SIZEOF_QUOTA, be32toh, be64toh,
                                    gfs2_quota, gfs2_quota_change, htobe32, htobe64)

cdef extern from "<errno.h>" nogil:
    int EDQUOT, EFBIG, EINVAL, ENOMEM, EROFS, ESRCH

cdef enum:
    TABLE = 1 << 14                 # hash buckets
    QD_MAX = 1 << 16                # qdata kept in memory without a change
    SLOT_NONE = 0xffffffff
    SLOTS_LOW = 64                  # fewer free slots than this: fold before the next allocation
    QC_MAX_BYTES = 64 << 20
    WARN_PERIOD = 10                # seconds between warnings for one id

cdef struct qdata:
    uint32_t id, kind
    qdata* hnext
    dlink link                      # q.dirty or q.idle
    bint valid                      # limit, warn, value are those of the quota file
    uint64_t limit, warn
    int64_t value
    int64_t change
    uint32_t slot
    uint32_t busy                   # used without q.lock: must not be dropped
    uint64_t gen                    # of the last folding that looked at it
    int64_t last_warn
    bint told                       # "exceeded" was said since the last free

cdef struct quotas:
    pthread_mutex_t lock
    pthread_mutex_t sync_lock       # one folding at a time
    qdata** table
    uint32_t count
    dlink dirty, idle
    uint64_t gen
    # slots
    uint64_t* qc_addr               # disk address of each block of quota_change
    buf** qc_buf                    # held once used
    uint32_t n_qc, per_block, n_slots, n_free, next
    uint8_t* used


# ---- qdata (q.lock held) --------------------------------------------------------------------------------------------

cdef inline qdata** _bucket(quotas* q, uint32_t kind, uint32_t id) noexcept nogil:
    return &q.table[((id * <uint32_t>0x9E3779B1) ^ (kind * <uint32_t>0x85EBCA6B)) >> 18]


cdef void _drop_idle(quotas* q) noexcept nogil:
    """Forgets the idlest qdata."""
    cdef dlink* l = q.idle.next
    cdef qdata* qd
    cdef qdata** p
    while l != &q.idle and (<qdata*>l.owner).busy:
        l = l.next
    if l == &q.idle:
        return
    qd = <qdata*>l.owner
    p = _bucket(q, qd.kind, qd.id)
    while p[0] != qd:
        p = &p[0].hnext
    p[0] = qd.hnext
    dl_del(&qd.link)
    q.count -= 1
    free(qd)


cdef qdata* _new(quotas* q, uint32_t kind, uint32_t id) noexcept nogil:
    cdef qdata** p = _bucket(q, kind, id)
    cdef qdata* qd
    if q.count >= QD_MAX:
        _drop_idle(q)
    qd = <qdata*>calloc(1, sizeof(qdata))
    if qd == NULL:
        return NULL
    qd.id = id
    qd.kind = kind
    qd.slot = SLOT_NONE
    dl_init(&qd.link, qd)
    dl_add_tail(&q.idle, &qd.link)
    # Behind its equals: the first one found stays the one that is charged.
    while p[0] != NULL:
        p = &p[0].hnext
    p[0] = qd
    q.count += 1
    return qd


cdef qdata* _get(quotas* q, uint32_t kind, uint32_t id) noexcept nogil:
    """The id's qdata, made if need be; NULL when memory is out."""
    cdef qdata* qd = _bucket(q, kind, id)[0]
    while qd != NULL and (qd.id != id or qd.kind != kind):
        qd = qd.hnext
    return qd if qd != NULL else _new(q, kind, id)


# ---- slots (q.lock held) --------------------------------------------------------------------------------------------

cdef void _slot_take(quotas* q, uint32_t slot) noexcept nogil:
    q.used[slot >> 3] |= <uint8_t>(1 << (slot & 7))
    q.n_free -= 1


cdef void _slot_give(quotas* q, qdata* qd) noexcept nogil:
    q.used[qd.slot >> 3] &= <uint8_t>~(1 << (qd.slot & 7))
    q.n_free += 1
    if qd.slot < q.next:
        q.next = qd.slot
    qd.slot = SLOT_NONE


cdef bint _slot_get(quotas* q, qdata* qd) noexcept nogil:
    """The lowest free slot, so that few blocks are in use; False when all are taken."""
    cdef uint32_t s = q.next
    while s < q.n_slots and q.used[s >> 3] & (1 << (s & 7)):
        s += 1
    q.next = s
    if s >= q.n_slots:
        return False
    _slot_take(q, s)
    qd.slot = s
    return True


cdef int _record_out(opctx* cx, quotas* q, qdata* qd) noexcept nogil:
    """The id's change into its quota_change record, within a transaction; a change of 0 frees the slot."""
    cdef sbd* sd = cx.sd
    cdef uint32_t block
    cdef gfs2_quota_change* qc
    cdef int err
    if qd.slot == SLOT_NONE:
        if qd.change == 0 or not _slot_get(q, qd):
            return 0
    block = qd.slot // q.per_block
    if q.qc_buf[block] == NULL:
        err = meta_read(sd, q.qc_addr[block], GFS2_METATYPE_QC, &q.qc_buf[block])
        if err:
            q.qc_buf[block] = NULL
            return err
    trans_add_meta(cx, q.qc_buf[block])
    qc = <gfs2_quota_change*>(q.qc_buf[block].data + <int>SIZEOF_META_HEADER) + qd.slot % q.per_block
    memset(qc, 0, sizeof(gfs2_quota_change))
    if qd.change:
        qc.qc_change = htobe64(<uint64_t>qd.change)
        qc.qc_flags = htobe32(GFS2_QCF_USER if qd.kind == QUOTA_USER else 0)
        qc.qc_id = htobe32(qd.id)
    else:
        _slot_give(q, qd)
    return 0


cdef int _apply(opctx* cx, quotas* q, qdata* qd, int64_t change) noexcept nogil:
    """Adds to an id's change, in memory and on disk, and keeps it on the right list."""
    qd.change += change
    if change < 0:
        qd.told = False
    dl_del(&qd.link)
    dl_add_tail(&q.dirty if qd.change else &q.idle, &qd.link)
    return _record_out(cx, q, qd)


cdef void _charge(opctx* cx, quotas* q, uint32_t kind, uint32_t id, int64_t change) noexcept nogil:
    cdef qdata* qd
    cdef int err = 0
    if id == QUOTA_NONE or change == 0:
        return
    pthread_mutex_lock(&q.lock)
    qd = _get(q, kind, id)
    if qd != NULL:
        err = _apply(cx, q, qd, change)
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
    qd = _get(q, kind, id)
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
            err = buf_new(sd, dblk, &b) if fresh else buf_read(sd, dblk, &b)
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
            err = _apply(cx, q, qd, -change)
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


# ---- start and end --------------------------------------------------------------------------------------------------

cdef int _scan_block(sbd* sd, quotas* q, uint32_t block, uint32_t* found) noexcept nogil:
    """Takes over the changes that stand in one block of quota_change."""
    cdef gfs2_quota_change* qc
    cdef buf* b = NULL
    cdef qdata* qd
    cdef uint32_t i, kind
    cdef int err = meta_read(sd, q.qc_addr[block], GFS2_METATYPE_QC, &b)
    if err:
        return err
    qc = <gfs2_quota_change*>(b.data + <int>SIZEOF_META_HEADER)
    for i in range(q.per_block):
        if qc[i].qc_change == 0:
            continue
        kind = QUOTA_USER if be32toh(qc[i].qc_flags) & GFS2_QCF_USER else QUOTA_GROUP
        qd = _new(q, kind, be32toh(qc[i].qc_id))
        if qd == NULL:
            err = -ENOMEM
            break
        qd.change = <int64_t>be64toh(qc[i].qc_change)
        qd.slot = block * q.per_block + i
        _slot_take(q, qd.slot)
        dl_del(&qd.link)
        dl_add_tail(&q.dirty, &qd.link)
        found[0] += 1
    buf_put(sd, b)
    return err


cdef int _scan(opctx* cx, quotas* q) noexcept nogil:
    """Maps the quota_change file and reads it all (its glock is held)."""
    cdef sbd* sd = cx.sd
    cdef inode* ip = sd.qc_ip
    cdef char text[64]
    cdef uint64_t lblk = 0, dblk, n, k
    cdef uint32_t found = 0
    cdef int err
    while lblk < q.n_qc:
        err = bmap_lookup(cx, ip, lblk, q.n_qc - lblk, &dblk, &n)
        if err:
            return err
        if dblk == 0 or n == 0:
            return sd_corrupt(sd, ip.no_addr, b"dinode", b"block of quota_change", 1, 0)
        for k in range(min(n, q.n_qc - lblk)):
            q.qc_addr[lblk + k] = dblk + k
        lblk += n
    lblk = 0
    while lblk < q.n_qc:
        if lblk % 64 == 0:
            buf_readahead(sd, &q.qc_addr[lblk], <uint32_t>min(<uint64_t>64, q.n_qc - lblk))
        err = _scan_block(sd, q, <uint32_t>lblk, &found)
        if err:
            return err
        lblk += 1
    if found:
        snprintf(text, 64, b"found %u quota changes", found)
        sd_message(sd, LOG_INFO_, text)
    return 0


cdef int _alloc(sbd* sd, uint64_t size) noexcept nogil:
    cdef quotas* q = <quotas*>calloc(1, sizeof(quotas))
    if q == NULL:
        return -ENOMEM
    sd.quota = q
    pthread_mutex_init(&q.lock, NULL)
    pthread_mutex_init(&q.sync_lock, NULL)
    dl_init(&q.dirty, NULL)
    dl_init(&q.idle, NULL)
    q.n_qc = <uint32_t>(size >> sd.bsize_shift)
    q.per_block = (sd.bsize - SIZEOF_META_HEADER) // <uint32_t>sizeof(gfs2_quota_change)
    q.n_slots = q.n_qc * q.per_block
    q.n_free = q.n_slots
    q.table = <qdata**>calloc(TABLE, sizeof(void*))
    q.qc_addr = <uint64_t*>calloc(q.n_qc, sizeof(uint64_t))
    q.qc_buf = <buf**>calloc(q.n_qc, sizeof(void*))
    q.used = <uint8_t*>calloc(q.n_slots // 8 + 1, 1)
    if q.table == NULL or q.qc_addr == NULL or q.qc_buf == NULL or q.used == NULL:
        return -ENOMEM
    return 0


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
        err = _alloc(sd, ip.size)
    if err == 0:
        err = _scan(cx, <quotas*>sd.quota)
    inode_unlock(cx, ip)
    if err:
        quota_destroy(sd)
    elif sd.flags & SDF_QUOTA_ACCOUNT:
        sd.quota_change = quota_change
        sd.quota_check = quota_check
    return err


cdef void quota_destroy(sbd* sd) noexcept nogil:
    cdef quotas* q = <quotas*>sd.quota
    cdef qdata* qd
    cdef uint32_t i
    if q == NULL:
        return
    sd.quota_change = NULL
    sd.quota_check = NULL
    if q.table != NULL:
        for i in range(<uint32_t>TABLE):
            while q.table[i] != NULL:
                qd = q.table[i]
                q.table[i] = qd.hnext
                free(qd)
    if q.qc_buf != NULL:
        for i in range(q.n_qc):
            if q.qc_buf[i] != NULL:
                buf_put(sd, q.qc_buf[i])
    pthread_mutex_destroy(&q.lock)
    pthread_mutex_destroy(&q.sync_lock)
    free(q.table)
    free(q.qc_addr)
    free(q.qc_buf)
    free(q.used)
    free(q)
    sd.quota = NULL
