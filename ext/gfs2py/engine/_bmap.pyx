"""From file block to disk block.

A dinode of height 0 holds its data itself (stuffed). At height h >= 1 the dinode's tail holds pointers, each to a tree
of h - 1 levels of indirect blocks; the lowest pointers (level 1 here) lead to data. A null pointer at any level is a
hole as wide as everything below it.

    dinode (level h)  ->  indirect (level h-1)  ->  ...  ->  indirect (level 1)  ->  data

Growing adds levels at the top: what the dinode pointed to moves into a new indirect block, its first pointer now.
Source of behaviour: fs/gfs2/bmap.c.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from gfs2py.engine._cache cimport buf_new, buf_peek, buf_put, buf_readahead, meta_new, meta_read
from gfs2py.engine._data cimport data_put_block
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf, inode_dirty
from gfs2py.engine._log cimport trans_add_data, trans_add_meta, trans_seq
from gfs2py.engine._rgrp cimport rgrp_alloc, rgrp_free
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt, sd_set_geometry
from gfs2py.engine._sync cimport pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.ondisk._ondisk cimport (GFS2_DIF_JDATA, GFS2_FORMAT_IN, GFS2_FORMAT_JD, GFS2_METATYPE_IN,
                                    GFS2_METATYPE_JD, SIZEOF_DINODE, SIZEOF_META_HEADER, be64toh, htobe64)

cdef extern from "<errno.h>" nogil:
    int EFBIG, EINVAL, ENXIO
cdef extern from "<sys/stat.h>" nogil:
    bint S_ISDIR(uint32_t mode)

cdef enum:
    RA_LEAVES = 16          # indirect blocks read ahead when a file is read in order
    MAX_LEVELS = 10

cdef struct grant:          # blocks taken in one go
    uint64_t blk
    uint32_t n

cdef struct branch:         # the way from the dinode down to the pointer of one data block
    uint32_t height
    uint32_t have           # blocks of the way that exist: b[0 .. have-1], b[0] the dinode
    buf* b[MAX_LEVELS]
    uint32_t idx[MAX_LEVELS]


cdef inline uint64_t* _pointers(buf* b, bint dinode) noexcept nogil:
    return <uint64_t*>(b.data + (SIZEOF_DINODE if dinode else SIZEOF_META_HEADER))


cdef void bmap_forget(inode* ip) noexcept nogil:
    pthread_mutex_lock(&ip.dlock)
    ip.ext.len = 0
    pthread_mutex_unlock(&ip.dlock)


cdef void _remember(inode* ip, uint64_t lblk, uint64_t dblk, uint64_t n) noexcept nogil:
    """The extent replaces the remembered one, or lengthens it where both meet in the file and on the disk."""
    pthread_mutex_lock(&ip.dlock)
    if ip.ext.len and ip.ext.lblk + ip.ext.len == lblk and ip.ext.dblk + ip.ext.len == dblk:
        ip.ext.len += n
    else:
        ip.ext.lblk = lblk
        ip.ext.dblk = dblk
        ip.ext.len = n
    pthread_mutex_unlock(&ip.dlock)


cdef inline bint _remembered(inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n,
                             bint* in_order) noexcept nogil:
    """Answers from the remembered extent; *in_order: lblk follows right behind it."""
    cdef bint hit = False
    pthread_mutex_lock(&ip.dlock)
    in_order[0] = lblk == 0 or (ip.ext.len != 0 and lblk == ip.ext.lblk + ip.ext.len)
    if lblk - ip.ext.lblk < ip.ext.len and lblk >= ip.ext.lblk:
        dblk[0] = ip.ext.dblk + (lblk - ip.ext.lblk)
        n[0] = min(maxn, ip.ext.lblk + ip.ext.len - lblk)
        hit = True
    pthread_mutex_unlock(&ip.dlock)
    return hit


cdef void _ahead(sbd* sd, uint64_t* ptrs, uint32_t i, uint32_t count) noexcept nogil:
    """Starts reading the lowest indirect blocks from pointer i on, if the first is not in memory."""
    cdef uint64_t want[RA_LEAVES]
    cdef uint32_t m = 0
    cdef buf* b = buf_peek(sd, be64toh(ptrs[i]))
    if b != NULL:
        buf_put(sd, b)
        return
    while i < count and m < RA_LEAVES:
        if ptrs[i]:
            want[m] = be64toh(ptrs[i])
            m += 1
        i += 1
    if m > 1:
        buf_readahead(sd, want, m)


cdef inline uint64_t _hole_length(const uint64_t* ptrs, uint32_t i, uint32_t count, uint64_t span, uint64_t into,
                                  uint64_t maxn) noexcept nogil:
    """Blocks from `into` the range of null pointer i up to the next pointer that is not null, at most maxn."""
    cdef uint64_t length = span - into
    i += 1
    while length < maxn and i < count and ptrs[i] == 0:
        length += span
        i += 1
    return min(length, maxn)


cdef int _data_run(sbd* sd, inode* ip, buf* b, const uint64_t* ptrs, uint32_t i, uint32_t count, uint64_t* dblk,
                   uint64_t* n) noexcept nogil:
    """The contiguous data blocks that pointers i, i+1 ... lead to, checked against superblock and device."""
    cdef uint64_t first = be64toh(ptrs[i])
    cdef uint64_t nr = first
    cdef uint32_t j = i + 1
    while j < count and be64toh(ptrs[j]) == nr + 1:
        nr += 1
        j += 1
    if first <= sd.sb_block or first >= sd.fs_blocks or nr >= sd.fs_blocks:
        return sd_corrupt(sd, b.blkno, b"dinode" if b.blkno == ip.no_addr else b"indirect", b"pointer",
                          sd.sb_block + 1 if first <= sd.sb_block else sd.fs_blocks - 1,
                          first if first <= sd.sb_block else nr)
    dblk[0] = first
    n[0] = j - i
    return 0


cdef int bmap_lookup(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef buf* b
    cdef buf* child
    cdef uint64_t* ptrs
    cdef uint64_t span, nr
    cdef uint64_t into = lblk
    cdef uint32_t i, count
    cdef uint32_t level = ip.height
    cdef bint in_order = False
    cdef int err
    if level == 0 or maxn == 0:
        return -EINVAL
    if _remembered(ip, lblk, maxn, dblk, n, &in_order):
        return 0
    dblk[0] = 0
    if lblk >= tree_capacity(sd, level):
        n[0] = maxn
        return 0
    err = inode_buf(cx, ip, &b)
    if err:
        return err
    while True:
        count = sd.diptrs if level == ip.height else sd.inptrs
        ptrs = _pointers(b, level == ip.height)
        span = tree_span(sd, level)
        i = <uint32_t>(into // span)
        into = into % span
        if ptrs[i] == 0:
            n[0] = _hole_length(ptrs, i, count, span, into, maxn)
            break
        if level == 1:
            err = _data_run(sd, ip, b, ptrs, i, count, dblk, &nr)
            if err == 0:
                _remember(ip, lblk, dblk[0], nr)
                n[0] = min(nr, maxn)
            break
        if level == 2 and (in_order or into == 0):
            _ahead(sd, ptrs, i, count)
        err = meta_read(sd, &ip.gl, be64toh(ptrs[i]), GFS2_METATYPE_IN, &child)
        if err:
            break
        buf_put(sd, b)
        b = child
        level -= 1
    buf_put(sd, b)
    return err


cdef void bmap_alloc_need(sbd* sd, inode* ip, uint64_t lblk, uint64_t n, uint32_t* data_blocks,
                          uint32_t* meta_blocks) noexcept nogil:
    """At each level below the dinode: the blocks that the range meets; and one per level that the tree grows by."""
    cdef uint64_t last = lblk + max(n, <uint64_t>1) - 1
    cdef uint64_t meta = 0
    cdef uint64_t data = n
    cdef uint64_t span
    cdef uint32_t old = max(<uint32_t>ip.height, <uint32_t>1)
    cdef uint32_t height, level
    if last >= tree_limit(sd):
        last = tree_limit(sd) - 1
    lblk = min(lblk, last)
    height = tree_height_for(sd, old, last)
    for level in range(2, height + 1):
        span = tree_span(sd, level)
        meta += last // span - lblk // span + 1
    meta += height - old
    if ip.height == 0 and ip.size > 0:
        data += 1
    data_blocks[0] = <uint32_t>min(data, <uint64_t>0xffffffff)
    meta_blocks[0] = <uint32_t>min(meta, <uint64_t>0xffffffff)


cdef void _put_branch(sbd* sd, branch* br) noexcept nogil:
    """Releases all but the dinode, which the caller holds."""
    cdef uint32_t k
    for k in range(1, br.have):
        buf_put(sd, br.b[k])
    br.have = 1


cdef int _find_branch(opctx* cx, inode* ip, buf* dibh, uint64_t lblk, branch* br) noexcept nogil:
    """Fills in the way to lblk as far as it exists in the tree of the inode's present height."""
    cdef sbd* sd = cx.sd
    cdef uint32_t k
    cdef uint64_t span, p
    cdef int err
    br.height = ip.height
    br.have = 1
    br.b[0] = dibh
    for k in range(br.height):
        span = tree_span(sd, br.height - k)
        br.idx[k] = <uint32_t>(lblk // span)
        lblk = lblk % span
    for k in range(br.height - 1):
        p = be64toh(_pointers(br.b[k], k == 0)[br.idx[k]])
        if p == 0:
            break
        err = meta_read(sd, &ip.gl, p, GFS2_METATYPE_IN, &br.b[k + 1])
        if err:
            _put_branch(sd, br)
            return err
        br.have += 1
    return 0


cdef int _new_indirect(opctx* cx, uint64_t blk, buf** out) noexcept nogil:
    cdef int err = meta_new(cx.sd, blk, GFS2_METATYPE_IN, GFS2_FORMAT_IN, out)
    if err == 0:
        trans_add_meta(cx, out[0])
    return err


cdef int _grow(opctx* cx, inode* ip, buf* dibh, uint32_t height) noexcept nogil:
    """Raises the tree to `height`: one new block per level on top, none while the dinode points to nothing."""
    cdef sbd* sd = cx.sd
    cdef uint64_t* ptrs = _pointers(dibh, True)
    cdef uint64_t blk
    cdef uint32_t i, n
    cdef buf* b
    cdef bint empty
    cdef int err
    if height > sd.max_height:
        return -EFBIG
    trans_add_meta(cx, dibh)
    while ip.height < height:
        empty = True
        for i in range(sd.diptrs):
            if ptrs[i]:
                empty = False
                break
        if empty:
            ip.height = height
            return 0
        n = 1
        err = rgrp_alloc(cx, ip, &blk, &n, False, NULL)
        if err:
            return err
        err = _new_indirect(cx, blk, &b)
        if err:
            rgrp_free(cx, cx.rgd, ip, blk, 1, False)
            return err
        memcpy(b.data + SIZEOF_META_HEADER, ptrs, <size_t>8 * sd.diptrs)
        memset(dibh.data + SIZEOF_DINODE, 0, sd.bsize - SIZEOF_DINODE)
        ptrs[0] = htobe64(blk)
        buf_put(sd, b)
        ip.height += 1
        ip.blocks += 1
    return 0


cdef int _take(opctx* cx, inode* ip, uint32_t n_ind, uint64_t n_data, uint64_t* ind, grant* data) noexcept nogil:
    """Takes n_ind blocks, wherever they are, and right behind them, if it can be, one run of at most n_data."""
    cdef uint32_t got = 0
    cdef uint32_t n, i
    cdef uint64_t blk
    cdef int err
    data.blk = 0
    data.n = 0
    while data.n == 0:
        n = <uint32_t>min(n_ind - got + n_data, <uint64_t>0x7fffffff)
        err = rgrp_alloc(cx, ip, &blk, &n, False, NULL)
        if err == 0 and n == 0:
            err = sd_assert_failed(cx.sd, b"allocation of no blocks")
        if err:
            for i in range(got):
                rgrp_free(cx, cx.rgd, ip, ind[i], 1, False)
            return err
        while got < n_ind and n > 0:
            ind[got] = blk
            got += 1
            blk += 1
            n -= 1
        data.blk = blk
        data.n = n
    return 0


cdef int _fill_branch(opctx* cx, inode* ip, branch* br, uint64_t n_data, grant* data) noexcept nogil:
    """Allocates the missing part of the way and a run of data blocks, then links it all."""
    cdef sbd* sd = cx.sd
    cdef uint64_t ind[MAX_LEVELS]
    cdef uint64_t* ptrs
    cdef uint32_t have = br.have
    cdef uint32_t missing = br.height - br.have
    cdef uint32_t k
    cdef uint64_t j
    cdef int err = _take(cx, ip, missing, n_data, ind, data)
    if err:
        return err
    for k in range(missing):
        err = _new_indirect(cx, ind[k], &br.b[have + k])
        if err:
            return sd_assert_failed(sd, b"memory for an indirect block")
        br.have += 1
    trans_add_meta(cx, br.b[have - 1])
    for k in range(missing):
        _pointers(br.b[have + k - 1], have + k == 1)[br.idx[have + k - 1]] = htobe64(ind[k])
    ptrs = _pointers(br.b[br.height - 1], br.height == 1) + br.idx[br.height - 1]
    for j in range(data.n):
        ptrs[j] = htobe64(data.blk + j)
    ip.blocks += missing + data.n
    return 0


cdef int _alloc_at(opctx* cx, inode* ip, buf* dibh, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n,
                   bint* is_new) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef branch br
    cdef grant data = grant(0, 0)
    cdef uint64_t* ptrs
    cdef uint32_t count, i, room
    cdef uint32_t height = tree_height_for(sd, ip.height, lblk)
    cdef int err
    if height > ip.height:
        err = _grow(cx, ip, dibh, height)
        if err:
            return err
    err = _find_branch(cx, ip, dibh, lblk, &br)
    if err:
        return err
    count = sd.diptrs if br.height == 1 else sd.inptrs
    i = br.idx[br.height - 1]
    room = count - i
    if br.have == br.height:
        ptrs = _pointers(br.b[br.height - 1], br.height == 1)
        if ptrs[i]:
            err = _data_run(sd, ip, br.b[br.height - 1], ptrs, i, count, dblk, n)
            _put_branch(sd, &br)
            n[0] = min(n[0], maxn)
            is_new[0] = False
            return err
        room = <uint32_t>_hole_length(ptrs, i, count, 1, 0, maxn)
    err = _fill_branch(cx, ip, &br, min(<uint64_t>room, maxn), &data)
    _put_branch(sd, &br)
    if err:
        return err
    dblk[0] = data.blk
    n[0] = data.n
    is_new[0] = True
    return 0


cdef int bmap_alloc(opctx* cx, inode* ip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n,
                    bint* is_new) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t blocks
    cdef uint32_t height
    cdef buf* dibh
    cdef int err, err2
    if maxn == 0:
        return -EINVAL
    if lblk >= tree_limit(sd):
        return -EFBIG
    maxn = min(maxn, tree_limit(sd) - lblk)
    if ip.height == 0:
        err = unstuff_dinode(cx, ip)
        if err:
            return err
    blocks = ip.blocks
    height = ip.height
    err = inode_buf(cx, ip, &dibh)
    if err:
        return err
    err = _alloc_at(cx, ip, dibh, lblk, maxn, dblk, n, is_new)
    if ip.blocks != blocks or ip.height != height:
        # Also after an error: a tree that only grew taller is sound and must be written as such.
        ip.data_seq = trans_seq(cx)
        err2 = inode_dirty(cx, ip)
        err = err if err else err2
    buf_put(sd, dibh)
    if err == 0:
        _remember(ip, lblk, dblk[0], n[0])
    return err


cdef int _put_unstuffed(opctx* cx, inode* ip, uint64_t blk, const uint8_t* content) noexcept nogil:
    """Fills the block that the stuffed content moves to, on the way that its kind of data takes."""
    cdef sbd* sd = cx.sd
    cdef uint32_t size = <uint32_t>ip.size
    cdef buf* b
    cdef int err
    if S_ISDIR(ip.mode):
        err = meta_new(sd, blk, GFS2_METATYPE_JD, GFS2_FORMAT_JD, &b)
        if err:
            return err
        trans_add_meta(cx, b)
        memcpy(b.data + SIZEOF_META_HEADER, content, size)
    elif ip.diskflags & GFS2_DIF_JDATA:
        err = buf_new(sd, blk, &b)
        if err:
            return err
        trans_add_data(cx, b)
        memcpy(b.data, content, size)
    else:
        err = data_put_block(cx, ip, 0, blk, content, size, True)
        # The content may be durable in the dinode: the commit that takes it from there must not lose it. Set when the
        # block is dirty already, for the commit before ours may clear it when nothing is dirty.
        ip.ordered_must = True
        return err
    buf_put(sd, b)
    return 0


cdef int unstuff_dinode(opctx* cx, inode* ip) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t blk = 0
    cdef uint32_t n = 1
    cdef buf* dibh
    cdef int err
    if ip.height != 0:
        return sd_assert_failed(sd, b"unstuffing an inode that is not stuffed")
    if ip.size > sd.bsize - SIZEOF_DINODE:
        return sd_corrupt(sd, ip.no_addr, b"dinode", b"di_size", sd.bsize - SIZEOF_DINODE, ip.size)
    err = inode_buf(cx, ip, &dibh)
    if err:
        return err
    if ip.size > 0:
        err = rgrp_alloc(cx, ip, &blk, &n, False, NULL)
        if err == 0:
            err = _put_unstuffed(cx, ip, blk, dibh.data + SIZEOF_DINODE)
            if err:
                rgrp_free(cx, cx.rgd, ip, blk, 1, False)
        if err:
            buf_put(sd, dibh)
            return err
    trans_add_meta(cx, dibh)
    memset(dibh.data + SIZEOF_DINODE, 0, sd.bsize - SIZEOF_DINODE)
    if blk:
        _pointers(dibh, True)[0] = htobe64(blk)
        ip.blocks += 1
    ip.height = 1
    ip.data_seq = trans_seq(cx)
    bmap_forget(ip)
    err = inode_dirty(cx, ip)
    buf_put(sd, dibh)
    return err


cdef int bmap_seek(opctx* cx, inode* ip, uint64_t off, bint hole, uint64_t* out) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t lblk, end, dblk, n
    cdef int err
    if off >= ip.size:
        return -ENXIO
    if ip.height == 0:
        out[0] = ip.size if hole else off
        return 0
    lblk = off >> sd.bsize_shift
    end = ((ip.size - 1) >> sd.bsize_shift) + 1
    while lblk < end:
        err = bmap_lookup(cx, ip, lblk, end - lblk, &dblk, &n)
        if err:
            return err
        if (dblk == 0) == hole:
            out[0] = max(off, lblk << sd.bsize_shift)
            return 0
        lblk += n
    if not hole:
        return -ENXIO
    out[0] = ip.size
    return 0


def tree_capacity_blocks(bsize: int, height: int) -> int:
    """File blocks that a tree of `height` maps, at most 2^64 - 1. Raises ValueError for sizes GFS2 does not have."""
    cdef sbd sd
    memset(&sd, 0, sizeof(sbd))
    if not 512 <= bsize <= 4096 or sd_set_geometry(&sd, bsize) or not 0 <= height <= MAX_LEVELS:
        raise ValueError(f"no such tree: bsize={bsize} height={height}")
    return tree_capacity(&sd, height)


def alloc_need(bsize: int, height: int, size: int, lblk: int, n: int) -> tuple[int, int]:
    """(data blocks, indirect blocks) that allocating n blocks at lblk may need at worst, for a file of that height."""
    cdef sbd sd
    cdef inode ip
    cdef uint32_t data = 0
    cdef uint32_t meta = 0
    memset(&sd, 0, sizeof(sbd))
    memset(&ip, 0, sizeof(inode))
    if not 512 <= bsize <= 4096 or sd_set_geometry(&sd, bsize) or not 0 <= height <= MAX_LEVELS:
        raise ValueError(f"no such tree: bsize={bsize} height={height}")
    ip.height = height
    ip.size = size
    bmap_alloc_need(&sd, &ip, lblk, n, &data, &meta)
    return data, meta
