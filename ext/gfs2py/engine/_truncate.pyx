"""Freeing what a file maps, in bounded transactions.

The tree is walked from left to right. What shall be freed is first collected in a *batch*: runs of blocks and the
pointers that lead to them; nothing is changed. When the batch is full, its resource groups are locked (ascending) and
one transaction nulls the pointers, frees the runs and writes the dinode with the new di_blocks. So every transaction
leaves a consistent file system, and whatever a crash interrupts can go on from what is on disk.

An indirect block that maps nothing outside the range goes with its data in the same transaction if they fit into one:
then it need not be logged itself, only the pointer to it. Data blocks are never read.

A size change adds to the first batch: the new size and GFS2_DIF_TRUNC_IN_PROG; and to the last: the flag goes. A
truncation that fits into one batch never shows the flag on disk.
Source of behaviour: fs/gfs2/bmap.c (punch_hole, do_shrink, do_grow).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from gfs2py.engine._bmap cimport bmap_forget, tree_capacity, tree_limit, tree_span, unstuff_dinode
from gfs2py.engine._cache cimport buf_hold, buf_put, buf_readahead, meta_read
from gfs2py.engine._data cimport data_cancel, data_writeback, data_zero_gap, data_zero_range, dw_wait
from gfs2py.engine._incore cimport buf, inode, opctx, rgrpd, sbd
from gfs2py.engine._inode cimport inode_buf, inode_dirty, inode_touch
from gfs2py.engine._log cimport trans_add_meta, trans_add_ordered, trans_begin, trans_end, trans_seq
from gfs2py.engine._rgrp cimport (inplace_release, inplace_reserve, rgrp_find, rgrp_free, rgrp_lock,
                                  rgrp_trans_blocks, rgrp_unlock, rs_drop)
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt
from gfs2py.engine._sync cimport gl_atomic_load64
from gfs2py.ondisk._ondisk cimport (GFS2_DIF_EXHASH, GFS2_DIF_JDATA, GFS2_DIF_TRUNC_IN_PROG, GFS2_METATYPE_IN,
                                    GFS2_NBBY, SIZEOF_DINODE, SIZEOF_META_HEADER, SIZEOF_RGRP, be64toh)

cdef extern from "<errno.h>" nogil:
    int EFBIG, EIO, ENOMEM
cdef extern from "<sys/stat.h>" nogil:
    bint S_ISDIR(uint32_t mode)

cdef enum:
    MAX_RUNS = 1024             # of a batch, as all below
    MAX_SPANS = 256
    MAX_RGRPS = 8               # as many as opctx can report missing locks
    MAX_FREED = 65536           # blocks
    MAX_LOG_BLOCKS = 1024
    MIN_LOG_BLOCKS = 32
    LOG_PART = 8                # a batch takes at most one part in so many of the journal
    RA_CHILDREN = 64
    EXTRA_LOG_BLOCKS = 5        # statfs and quota changes, the journaled block that the new end cuts
    FULL = 1

    # strip.todo
    T_SIZE = 1                  # the size changes to new_size
    T_RESUME = 2                # only TRUNC_IN_PROG goes in the end
    T_DEALLOC = 4               # all data go, height and size become 0

cdef struct run:
    uint64_t blk
    uint32_t n
    uint16_t rg                 # index into strip.rgs
    bint meta

cdef struct ptrspan:            # pointers [first, first + n) of a buffer become null
    buf* b
    uint32_t first, n
    bint dinode

cdef struct rguse:
    rgrpd* rgd
    uint32_t nlog               # bitmap blocks that its runs touch, at most
    uint32_t lastbit            # bitmap block of the last run's end

cdef struct tally:              # how full the batch is; copied to take back what did not fit
    uint32_t nruns, nspans, nrgs, nbufs, nfreed, nrevokes
    ptrspan tail                # last span as it was
    run last                    # last run as it was
    rguse rgs[MAX_RGRPS]

cdef struct strip:
    opctx* cx
    inode* ip
    uint64_t start, end         # file blocks to free
    bint data_meta              # data blocks are in the log's care (journaled data, hash tables)
    uint32_t limit              # log blocks of one transaction
    run* runs
    ptrspan* spans
    tally t
    uint32_t todo
    uint64_t new_size
    bint begun                  # the first transaction was done


cdef inline uint64_t* _pointers(buf* b, bint dinode) noexcept nogil:
    return <uint64_t*>(b.data + (SIZEOF_DINODE if dinode else SIZEOF_META_HEADER))


# -- the batch ---------------------------------------------------------------------------------------------------------

cdef uint32_t _log_blocks(strip* st) noexcept nogil:
    """What the batch's transaction may log: dinode, buffers with nulled pointers, group headers and bitmaps."""
    cdef uint32_t total = 1 + EXTRA_LOG_BLOCKS + st.t.nbufs
    cdef uint32_t i
    for i in range(st.t.nrgs):
        total += 1 + min(st.t.rgs[i].nlog, st.t.rgs[i].rgd.length)
    return total


cdef inline bint _over(strip* st) noexcept nogil:
    return (st.t.nfreed > MAX_FREED
            or _log_blocks(st) + st.t.nrevokes // st.cx.sd.ldptrs + 1 > st.limit)


cdef inline uint32_t _bitmap_block(const sbd* sd, const rgrpd* rgd, uint64_t blk) noexcept nogil:
    """Which block of the group holds the bits of blk; the header block (0) holds the first ones."""
    cdef uint64_t i = blk - rgd.data0
    cdef uint32_t in_header = (sd.bsize - SIZEOF_RGRP) * GFS2_NBBY
    if i < in_header:
        return 0
    return 1 + <uint32_t>((i - in_header) // ((sd.bsize - SIZEOF_META_HEADER) * <uint32_t>GFS2_NBBY))


cdef int _use_rgrp(strip* st, uint64_t blk, uint32_t* index) noexcept nogil:
    """The batch's entry of the group that holds blk. FULL: one more group than a batch may have."""
    cdef uint32_t i
    cdef rgrpd* rgd
    for i in range(st.t.nrgs):
        rgd = st.t.rgs[i].rgd
        if blk >= rgd.data0 and blk - rgd.data0 < rgd.data:
            index[0] = i
            return 0
    rgd = rgrp_find(st.cx.sd, blk)
    if rgd == NULL:
        return sd_corrupt(st.cx.sd, st.ip.no_addr, b"dinode", b"pointer", 0, blk)
    if st.t.nrgs == MAX_RGRPS:
        return FULL
    i = st.t.nrgs
    st.t.rgs[i].rgd = rgd
    st.t.rgs[i].nlog = 0
    st.t.rgs[i].lastbit = ~<uint32_t>0
    st.t.nrgs += 1
    index[0] = i
    return 0


cdef int _add_run(strip* st, uint64_t blk, uint32_t n, bint meta) noexcept nogil:
    """The blocks join the batch. FULL when they do not fit (part of them may have joined: take back)."""
    cdef sbd* sd = st.cx.sd
    cdef rguse* u
    cdef run* last
    cdef uint32_t rg = 0
    cdef uint32_t m, b0, b1
    cdef int err
    while n > 0:
        err = _use_rgrp(st, blk, &rg)
        if err:
            return err
        u = &st.t.rgs[rg]
        m = <uint32_t>min(<uint64_t>n, u.rgd.data0 + u.rgd.data - blk)
        b0 = _bitmap_block(sd, u.rgd, blk)
        b1 = _bitmap_block(sd, u.rgd, blk + m - 1)
        u.nlog += b1 - b0 + (0 if b0 == u.lastbit else 1)
        u.lastbit = b1
        last = &st.runs[st.t.nruns - 1] if st.t.nruns else NULL
        if last != NULL and last.blk + last.n == blk and last.meta == meta and last.rg == rg:
            last.n += m
        else:
            if st.t.nruns == MAX_RUNS:
                return FULL
            last = &st.runs[st.t.nruns]
            last.blk = blk
            last.n = m
            last.rg = <uint16_t>rg
            last.meta = meta
            st.t.nruns += 1
        st.t.nfreed += m
        if meta:
            st.t.nrevokes += m
        blk += m
        n -= m
    return FULL if _over(st) else 0


cdef int _add_pointers(strip* st, buf* b, bint dinode, uint32_t first, uint32_t n) noexcept nogil:
    cdef ptrspan* s = &st.spans[st.t.nspans - 1] if st.t.nspans else NULL
    if s != NULL and s.b == b:
        # Pointers between the last span and this one are null already.
        if s.first + s.n <= first:
            s.n = first + n - s.first
            return 0
    else:
        st.t.nbufs += 1
    if st.t.nspans == MAX_SPANS:
        return FULL
    s = &st.spans[st.t.nspans]
    s.b = b
    s.dinode = dinode
    s.first = first
    s.n = n
    buf_hold(st.cx.sd, b)
    st.t.nspans += 1
    return FULL if _over(st) else 0


cdef void _mark(strip* st, tally* m) noexcept nogil:
    m[0] = st.t
    if m.nspans:
        m.tail = st.spans[m.nspans - 1]
    if m.nruns:
        m.last = st.runs[m.nruns - 1]


cdef void _take_back(strip* st, tally* m) noexcept nogil:
    """The batch is again as it was at the mark."""
    cdef uint32_t i
    for i in range(m.nspans, st.t.nspans):
        buf_put(st.cx.sd, st.spans[i].b)
    st.t = m[0]
    if m.nspans:
        st.spans[m.nspans - 1] = m.tail
    if m.nruns:
        st.runs[m.nruns - 1] = m.last


cdef void _empty(strip* st) noexcept nogil:
    cdef uint32_t i
    for i in range(st.t.nspans):
        buf_put(st.cx.sd, st.spans[i].b)
    memset(&st.t, 0, sizeof(tally))


# -- one transaction ---------------------------------------------------------------------------------------------------

cdef int _lock_rgrps(strip* st, rgrpd** order) noexcept nogil:
    """Locks the batch's groups in ascending order; `order` gets them so."""
    cdef uint32_t i, j
    cdef rgrpd* r
    cdef int err
    for i in range(st.t.nrgs):
        r = st.t.rgs[i].rgd
        j = i
        while j > 0 and order[j - 1].addr > r.addr:
            order[j] = order[j - 1]
            j -= 1
        order[j] = r
    for i in range(st.t.nrgs):
        err = rgrp_lock(st.cx, order[i])
        if err:
            while i > 0:
                i -= 1
                rgrp_unlock(st.cx, order[i])
            return err
    return 0


cdef int _drop_data(strip* st) noexcept nogil:
    """Within the first transaction: data behind the new end become zero, dirty data of the range need no writing.

    While the transaction before this one is still being committed, its ordered data must be written all the same:
    after a crash between the two commits the file is as the older one says, and must not show what the blocks held
    before they were its own. The open transaction keeps another commit from starting in between.
    """
    cdef sbd* sd = st.cx.sd
    cdef uint64_t tail = st.new_size & (sd.bsize - 1)
    cdef int err = 0
    if st.todo & T_SIZE and tail:
        err = data_zero_range(st.cx, st.ip, st.new_size, sd.bsize - tail)
    if err or st.data_meta or st.ip.ndirty == 0:
        return err
    if gl_atomic_load64(&sd.log.committed_seq) + 1 < trans_seq(st.cx):
        data_writeback(sd, st.ip)
    data_cancel(sd, st.ip, st.start, st.end - st.start)
    return 0


cdef void _change_dinode(strip* st, buf* dibh, bint last) noexcept nogil:
    """The fields of the inode as this transaction shall leave them (within it)."""
    cdef inode* ip = st.ip
    if st.todo & T_SIZE:
        ip.size = st.new_size
        if last:
            ip.diskflags &= ~<uint32_t>GFS2_DIF_TRUNC_IN_PROG
        else:
            ip.diskflags |= GFS2_DIF_TRUNC_IN_PROG
    elif st.todo & T_RESUME and last:
        ip.diskflags &= ~<uint32_t>GFS2_DIF_TRUNC_IN_PROG
    elif st.todo & T_DEALLOC and last:
        ip.size = 0
        ip.depth = 0
        ip.diskflags &= ~<uint32_t>(GFS2_DIF_EXHASH | GFS2_DIF_TRUNC_IN_PROG)
    if st.todo and last and ip.size == 0:
        ip.height = 0
        ip.goal = ip.no_addr
        memset(dibh.data + SIZEOF_DINODE, 0, st.cx.sd.bsize - SIZEOF_DINODE)
    if not st.todo & (T_RESUME | T_DEALLOC):
        inode_touch(st.cx, ip, True, True)
    ip.data_seq = trans_seq(st.cx)


cdef int _apply(strip* st, buf* dibh, bint last) noexcept nogil:
    """Within the transaction: pointers become null, runs free, the dinode tells."""
    cdef inode* ip = st.ip
    cdef ptrspan* s
    cdef run* r
    cdef uint32_t i
    cdef int err
    if not st.begun:
        err = _drop_data(st)
        if err:
            return err
        st.begun = True
    trans_add_meta(st.cx, dibh)
    for i in range(st.t.nspans):
        s = &st.spans[i]
        trans_add_meta(st.cx, s.b)
        memset(_pointers(s.b, s.dinode) + s.first, 0, <size_t>8 * s.n)
    for i in range(st.t.nruns):
        r = &st.runs[i]
        err = rgrp_free(st.cx, st.t.rgs[r.rg].rgd, ip, r.blk, r.n, r.meta)
        if err:
            return err
    ip.blocks -= st.t.nfreed
    bmap_forget(ip)
    _change_dinode(st, dibh, last)
    return inode_dirty(st.cx, ip)


cdef int _commit(strip* st, buf* dibh, bint last) noexcept nogil:
    """Frees what the batch holds, and empties it."""
    cdef opctx* cx = st.cx
    cdef rgrpd* order[MAX_RGRPS]
    cdef uint32_t i
    cdef int err
    if st.t.nruns == 0 and not (last and st.todo):
        _empty(st)
        return 0
    if st.t.nfreed >= st.ip.blocks:
        return sd_corrupt(cx.sd, st.ip.no_addr, b"dinode", b"di_blocks", st.t.nfreed + 1, st.ip.blocks)
    err = _lock_rgrps(st, order)
    if err:
        return err
    err = trans_begin(cx, _log_blocks(st), st.t.nrevokes)
    if err == 0:
        err = _apply(st, dibh, last)
        trans_end(cx)
    for i in range(st.t.nrgs):
        rgrp_unlock(cx, order[i])
    _empty(st)
    return err


# -- the walk ----------------------------------------------------------------------------------------------------------

cdef int _free_pointers(strip* st, buf* dibh, buf* b, bint dinode, uint32_t first, uint32_t count, uint64_t blk,
                        bint meta) noexcept nogil:
    """`count` pointers from `first`, which lead to the blocks from blk on, join the batch; a full one is committed."""
    cdef tally m
    cdef uint32_t attempt
    cdef int err = 0
    for attempt in range(2):
        _mark(st, &m)
        err = _add_run(st, blk, count, meta)
        if err == 0:
            err = _add_pointers(st, b, dinode, first, count)
        if err != FULL:
            return err
        _take_back(st, &m)
        err = _commit(st, dibh, False)
        if err:
            return err
    return sd_assert_failed(st.cx.sd, b"one run of blocks does not fit into a transaction")


cdef int _strip_data(strip* st, buf* dibh, buf* b, bint dinode, uint32_t first, uint32_t end) noexcept nogil:
    """Frees the data blocks behind pointers [first, end) of a block of level 1, and nulls the pointers."""
    cdef uint64_t* ptrs = _pointers(b, dinode)
    cdef uint32_t i = first
    cdef uint32_t j
    cdef uint64_t blk
    cdef int err
    while i < end:
        blk = be64toh(ptrs[i])
        if blk == 0:
            i += 1
            continue
        j = i + 1
        while j < end and be64toh(ptrs[j]) == blk + (j - i):
            j += 1
        err = _free_pointers(st, dibh, b, dinode, i, j - i, blk, st.data_meta)
        if err:
            return err
        i = j
    return 0


cdef int _join_leaf(strip* st, buf* leaf, buf* parent, bint dinode, uint32_t index) noexcept nogil:
    """All data of a level-1 block, the block itself and the pointer to it join the batch, or FULL."""
    cdef uint64_t* ptrs = _pointers(leaf, False)
    cdef uint32_t n = st.cx.sd.inptrs
    cdef uint32_t i = 0
    cdef uint32_t j
    cdef uint64_t blk
    cdef int err
    while i < n:
        blk = be64toh(ptrs[i])
        if blk == 0:
            i += 1
            continue
        j = i + 1
        while j < n and be64toh(ptrs[j]) == blk + (j - i):
            j += 1
        err = _add_run(st, blk, j - i, st.data_meta)
        if err:
            return err
        i = j
    err = _add_run(st, leaf.blkno, 1, True)
    if err:
        return err
    return _add_pointers(st, parent, dinode, index, 1)


cdef int _strip_leaf(strip* st, buf* dibh, buf* leaf, buf* parent, bint dinode, uint32_t index) noexcept nogil:
    """A level-1 block wholly in the range goes with its data; one too scattered for a transaction goes bit by bit."""
    cdef tally m
    cdef uint32_t attempt
    cdef int err
    for attempt in range(2):
        _mark(st, &m)
        err = _join_leaf(st, leaf, parent, dinode, index)
        if err != FULL:
            return err
        _take_back(st, &m)
        err = _commit(st, dibh, False)
        if err:
            return err
    err = _strip_data(st, dibh, leaf, False, 0, st.cx.sd.inptrs)
    if err:
        return err
    return _free_pointers(st, dibh, parent, dinode, index, 1, leaf.blkno, True)


cdef void _ahead(sbd* sd, const uint64_t* ptrs, uint32_t i, uint32_t end) noexcept nogil:
    cdef uint64_t want[RA_CHILDREN]
    cdef uint32_t m = 0
    while i < end and m < RA_CHILDREN:
        if ptrs[i]:
            want[m] = be64toh(ptrs[i])
            m += 1
        i += 1
    if m > 1:
        buf_readahead(sd, want, m)


cdef int _strip_child(strip* st, buf* dibh, buf* b, bint dinode, uint32_t index, uint32_t level,
                      uint64_t base) noexcept nogil:
    """The subtree behind a pointer of a block at `level` (2 or more); base is its first file block."""
    cdef uint64_t blk = be64toh(_pointers(b, dinode)[index])
    cdef uint64_t span = tree_span(st.cx.sd, level)
    cdef bint whole = st.start <= base and st.end >= base + span
    cdef buf* child
    cdef int err = meta_read(st.cx.sd, &st.ip.gl, blk, GFS2_METATYPE_IN, &child)
    if err:
        return err
    if whole and level == 2:
        err = _strip_leaf(st, dibh, child, b, dinode, index)
    else:
        err = _strip_node(st, dibh, child, False, level - 1, base)
        if err == 0 and whole:
            err = _free_pointers(st, dibh, b, dinode, index, 1, blk, True)
    buf_put(st.cx.sd, child)
    return err


cdef int _strip_node(strip* st, buf* dibh, buf* b, bint dinode, uint32_t level, uint64_t base) noexcept nogil:
    """Collects everything of the range below block b, whose first pointer stands for file block `base`."""
    cdef sbd* sd = st.cx.sd
    cdef uint64_t span = tree_span(sd, level)
    cdef uint64_t* ptrs = _pointers(b, dinode)
    cdef uint32_t count = sd.diptrs if dinode else sd.inptrs
    cdef uint32_t first = 0
    cdef uint32_t end = count
    cdef uint32_t i
    cdef uint32_t ahead
    cdef int err
    if st.start > base:
        first = <uint32_t>min((st.start - base) // span, <uint64_t>count)
    if st.end <= base:
        end = 0
    elif (st.end - base - 1) // span + 1 < count:
        end = <uint32_t>((st.end - base - 1) // span + 1)
    if level == 1:
        return _strip_data(st, dibh, b, dinode, first, end)
    ahead = first
    for i in range(first, end):
        if i == ahead:
            _ahead(sd, ptrs, i, end)
            ahead += RA_CHILDREN
        if ptrs[i]:
            err = _strip_child(st, dibh, b, dinode, i, level, base + i * span)
            if err:
                return err
    return 0


cdef int _strip(opctx* cx, inode* ip, uint64_t start, uint64_t end, uint32_t todo, uint64_t new_size) noexcept nogil:
    """Frees file blocks [start, end) of an inode that is not stuffed, with the size change that `todo` asks for."""
    cdef sbd* sd = cx.sd
    cdef strip st
    cdef buf* dibh
    cdef int err
    dw_wait(ip, 0, ~<uint64_t>0)
    err = inode_buf(cx, ip, &dibh)
    if err:
        return err
    memset(&st, 0, sizeof(strip))
    st.cx = cx
    st.ip = ip
    st.start = start
    st.end = min(end, tree_capacity(sd, ip.height))
    st.end = max(st.end, start)
    # A directory being deallocated may be a regular file by now; its depth still tells what it was.
    st.data_meta = ip.diskflags & GFS2_DIF_JDATA or S_ISDIR(ip.mode) or ip.depth
    st.limit = min(max(sd.log.nblocks // LOG_PART, <uint32_t>MIN_LOG_BLOCKS), <uint32_t>MAX_LOG_BLOCKS)
    st.todo = todo
    st.new_size = new_size
    st.runs = <run*>calloc(MAX_RUNS, sizeof(run))
    st.spans = <ptrspan*>calloc(MAX_SPANS, sizeof(ptrspan))
    if st.runs == NULL or st.spans == NULL:
        err = -ENOMEM
    elif st.end > start:
        err = _strip_node(&st, dibh, dibh, True, ip.height, 0)
    if err == 0:
        err = _commit(&st, dibh, True)
    _empty(&st)
    free(st.runs)
    free(st.spans)
    buf_put(sd, dibh)
    return err


# -- what the others call ----------------------------------------------------------------------------------------------

cdef int punch_blocks(opctx* cx, inode* ip, uint64_t lblk, uint64_t n) noexcept nogil:
    cdef bint to_end = n == ~<uint64_t>0
    cdef uint64_t end = lblk + n
    cdef int err
    if ip.height == 0 or n == 0:
        return 0
    if to_end or end < lblk:
        end = ~<uint64_t>0
    if to_end:
        rs_drop(cx.sd, ip)
    if ip.ndirty and not (to_end and lblk == 0):
        # A hole may take several transactions, and a commit may fall between them: what is still mapped then must hold
        # the file's data, for its blocks may have been allocated by that very commit.
        err = data_writeback(cx.sd, ip)
        if err:
            return err
    return _strip(cx, ip, lblk, end, T_DEALLOC if to_end and lblk == 0 else 0, 0)


cdef int truncate_resume(opctx* cx, inode* ip) noexcept nogil:
    if ip.height == 0:
        return _set_stuffed_size(cx, ip, ip.size)
    return _strip(cx, ip, (ip.size + cx.sd.bsize - 1) >> cx.sd.bsize_shift, ~<uint64_t>0, T_RESUME, 0)


cdef int _set_stuffed_size(opctx* cx, inode* ip, uint64_t size) noexcept nogil:
    """The size of a stuffed inode that stays stuffed; bytes outside the smaller size are zero afterwards."""
    cdef sbd* sd = cx.sd
    cdef uint64_t keep = min(size, ip.size)
    cdef buf* dibh
    cdef int err = inode_buf(cx, ip, &dibh)
    if err:
        return err
    err = trans_begin(cx, 1, 0)
    if err == 0:
        trans_add_meta(cx, dibh)
        memset(dibh.data + SIZEOF_DINODE + keep, 0, sd.bsize - SIZEOF_DINODE - keep)
        ip.size = size
        ip.diskflags &= ~<uint32_t>GFS2_DIF_TRUNC_IN_PROG
        ip.data_seq = trans_seq(cx)
        inode_touch(cx, ip, True, True)
        err = inode_dirty(cx, ip)
        trans_end(cx)
    buf_put(sd, dibh)
    return err


cdef int _grow_size(opctx* cx, inode* ip, uint64_t size) noexcept nogil:
    """A size beyond the old one, on an inode that is not stuffed or no longer fits: what is between becomes a hole."""
    cdef bint unstuff = ip.height == 0
    cdef bint reserve = unstuff and ip.size > 0
    cdef uint32_t blocks = 1 + EXTRA_LOG_BLOCKS
    cdef uint32_t got
    cdef int err = data_zero_gap(cx, ip, size)
    if err:
        return err
    if reserve:
        if cx.sd.quota_check != NULL:
            err = cx.sd.quota_check(cx, ip.uid, ip.gid, 1)
            if err:
                return err
        err = inplace_reserve(cx, ip, 1, 1, &got)
        if err:
            return err
        blocks += 1 + rgrp_trans_blocks(cx.rgd, 1)
    err = trans_begin(cx, blocks, 0)
    if err == 0:
        if unstuff:
            err = unstuff_dinode(cx, ip)
        if err == 0:
            if not (ip.diskflags & GFS2_DIF_JDATA):
                trans_add_ordered(cx, ip)
            ip.size = size
            ip.data_seq = trans_seq(cx)
            inode_touch(cx, ip, True, True)
            err = inode_dirty(cx, ip)
        trans_end(cx)
    if reserve:
        inplace_release(cx, ip)
    return err


cdef int inode_set_size(opctx* cx, inode* ip, uint64_t size) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef int err
    if size >= <uint64_t>1 << 63:
        return -EFBIG
    if ip.diskflags & GFS2_DIF_TRUNC_IN_PROG and size >= ip.size:
        # What an interrupted truncation left behind the end must not come back as data.
        err = truncate_resume(cx, ip)
        if err:
            return err
    if ip.height == 0 and size <= sd.bsize - SIZEOF_DINODE:
        return _set_stuffed_size(cx, ip, size)
    if size >= ip.size:
        return _grow_size(cx, ip, size)
    rs_drop(sd, ip)
    return _strip(cx, ip, (size + sd.bsize - 1) >> sd.bsize_shift, ~<uint64_t>0, T_SIZE, size)
