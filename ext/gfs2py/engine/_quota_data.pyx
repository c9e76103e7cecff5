"""Quota data in memory, and its slots in the quota_change file of this node. See _quota.pyx."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from gfs2py.engine._bmap cimport bmap_lookup
from gfs2py.engine._cache cimport buf_put, buf_readahead, meta_read
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._log cimport trans_add_meta
from gfs2py.engine._quota cimport QUOTA_GROUP, QUOTA_USER
from gfs2py.engine._sbd cimport LOG_INFO_, sd_corrupt, sd_message
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_init, dlink, pthread_mutex_destroy, pthread_mutex_init)
from gfs2py.ondisk._ondisk cimport (GFS2_METATYPE_QC, GFS2_QCF_USER, SIZEOF_META_HEADER, be32toh, be64toh,
                                    gfs2_quota_change, htobe32, htobe64)

cdef extern from "<errno.h>" nogil:
    int ENOMEM

cdef enum:
    TABLE = 1 << 14                 # hash buckets
    QD_MAX = 1 << 16                # qdata kept in memory without a change


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


cdef qdata* qd_new(quotas* q, uint32_t kind, uint32_t id) noexcept nogil:
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


cdef qdata* qd_get(quotas* q, uint32_t kind, uint32_t id) noexcept nogil:
    cdef qdata* qd = _bucket(q, kind, id)[0]
    while qd != NULL and (qd.id != id or qd.kind != kind):
        qd = qd.hnext
    return qd if qd != NULL else qd_new(q, kind, id)


# ---- slots (q.lock held) --------------------------------------------------------------------------------------------

cdef void slot_take(quotas* q, uint32_t slot) noexcept nogil:
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
    slot_take(q, s)
    qd.slot = s
    return True


cdef int qd_record_out(opctx* cx, quotas* q, qdata* qd) noexcept nogil:
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
        err = meta_read(sd, &sd.qc_ip.gl, q.qc_addr[block], GFS2_METATYPE_QC, &q.qc_buf[block])
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


cdef int qd_apply(opctx* cx, quotas* q, qdata* qd, int64_t change) noexcept nogil:
    """Adds to an id's change, in memory and on disk, and keeps it on the right list."""
    qd.change += change
    if change < 0:
        qd.told = False
    dl_del(&qd.link)
    dl_add_tail(&q.dirty if qd.change else &q.idle, &qd.link)
    return qd_record_out(cx, q, qd)


# ---- start and end --------------------------------------------------------------------------------------------------

cdef int _scan_block(sbd* sd, quotas* q, uint32_t block, uint32_t* found) noexcept nogil:
    """Takes over the changes that stand in one block of quota_change."""
    cdef gfs2_quota_change* qc
    cdef buf* b = NULL
    cdef qdata* qd
    cdef uint32_t i, kind
    cdef int err = meta_read(sd, &sd.qc_ip.gl, q.qc_addr[block], GFS2_METATYPE_QC, &b)
    if err:
        return err
    qc = <gfs2_quota_change*>(b.data + <int>SIZEOF_META_HEADER)
    for i in range(q.per_block):
        if qc[i].qc_change == 0:
            continue
        kind = QUOTA_USER if be32toh(qc[i].qc_flags) & GFS2_QCF_USER else QUOTA_GROUP
        qd = qd_new(q, kind, be32toh(qc[i].qc_id))
        if qd == NULL:
            err = -ENOMEM
            break
        qd.change = <int64_t>be64toh(qc[i].qc_change)
        qd.slot = block * q.per_block + i
        slot_take(q, qd.slot)
        dl_del(&qd.link)
        dl_add_tail(&q.dirty, &qd.link)
        found[0] += 1
    buf_put(sd, b)
    return err


cdef int qd_scan(opctx* cx, quotas* q) noexcept nogil:
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


cdef int qd_alloc(sbd* sd, uint64_t size) noexcept nogil:
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


cdef void qd_free(sbd* sd) noexcept nogil:
    cdef quotas* q = <quotas*>sd.quota
    cdef qdata* qd
    cdef uint32_t i
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
