"""Growth of hashed directories; see _exhash.pxd. Source of behaviour: fs/gfs2/dir.c.

Every insert is planned on scratch copies first (exhash_plan_add), so the space to reserve is exact and nothing that
can be foreseen fails halfway: an error once the first block changed withdraws the mount.
"""
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from gfs2py.engine._bmap cimport bmap_alloc, bmap_alloc_need, bmap_lookup, unstuff_dinode
from gfs2py.engine._cache cimport buf_put, buf_readahead, meta_new, meta_read
from gfs2py.engine._dirent cimport (
    dent_bad, dent_sentinel, dents_check, dents_init, dents_room, dents_split, dents_to_leaf,
)
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf, inode_dirty
from gfs2py.engine._log cimport trans_add_meta
from gfs2py.engine._rgrp cimport rgrp_alloc
from gfs2py.engine._sbd cimport sd_assert_failed, sd_corrupt, sd_dead
from gfs2py.engine._sync cimport gl_atomic_load64, gl_atomic_store64, pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.ondisk._ondisk cimport (
    be16toh, be32toh, be64toh, gfs2_dirent, gfs2_leaf, GFS2_DIF_EXHASH, GFS2_DIR_MAX_DEPTH, GFS2_FORMAT_DE,
    GFS2_FORMAT_JD, GFS2_FORMAT_LF, GFS2_METATYPE_JD, GFS2_METATYPE_LF, htobe16, htobe32, htobe64, SIZEOF_DINODE,
    SIZEOF_LEAF, SIZEOF_META_HEADER,
)

cdef enum:
    MAX_BSIZE = 4096
    READAHEAD = 64


# ---- the table -----------------------------------------------------------------------------------------------------

cdef inline uint32_t table_index(uint32_t hash, uint32_t depth) noexcept nogil:
    return <uint32_t>(<uint64_t>hash >> (32 - depth))


cdef inline uint32_t base_depth(const sbd* sd) noexcept nogil:
    """Depth of the table of a directory that has just left its dinode."""
    cdef uint32_t depth = 0
    while (<uint32_t>1 << (depth + 1)) <= sd.hash_ptrs:
        depth += 1
    return depth


cdef inline uint64_t table_blocks(const sbd* sd, uint32_t depth) noexcept nogil:
    """Blocks of a table that no longer lies in the dinode."""
    return ((<uint64_t>8 << depth) + sd.jbsize - 1) // sd.jbsize


cdef int table_block(opctx* cx, inode* dip, uint64_t lblk, uint64_t maxn, uint64_t* dblk, uint64_t* n) noexcept nogil:
    cdef int err = bmap_lookup(cx, dip, lblk, maxn, dblk, n)
    if err:
        return err
    if dblk[0] == 0 or n[0] == 0:
        return sd_corrupt(cx.sd, dip.no_addr, b"directory hash table", b"block (a hole)", 1, lblk)
    return 0


cdef int table_read(opctx* cx, inode* dip, uint8_t* out, uint64_t size) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint64_t ahead[READAHEAD]
    cdef uint64_t lblk = 0
    cdef uint64_t count = (size + sd.jbsize - 1) // sd.jbsize
    cdef uint64_t dblk = 0
    cdef uint64_t n = 0
    cdef uint64_t i
    cdef uint64_t part
    cdef buf* b = NULL
    cdef int err
    if dip.height == 0:
        if size > sd.bsize - SIZEOF_DINODE:
            return sd_corrupt(sd, dip.no_addr, b"dinode", b"di_size (hash table)", sd.bsize - SIZEOF_DINODE, size)
        err = inode_buf(cx, dip, &b)
        if err:
            return err
        memcpy(out, b.data + SIZEOF_DINODE, size)
        buf_put(sd, b)
        return 0
    while lblk < count:
        err = table_block(cx, dip, lblk, count - lblk, &dblk, &n)
        if err:
            return err
        n = min(n, <uint64_t>READAHEAD, count - lblk)
        for i in range(n):
            ahead[i] = dblk + i
        if n > 1:
            buf_readahead(sd, ahead, <uint32_t>n)
        for i in range(n):
            err = meta_read(sd, &dip.gl, dblk + i, GFS2_METATYPE_JD, &b)
            if err:
                return err
            part = min(size, <uint64_t>sd.jbsize)
            memcpy(out, b.data + SIZEOF_META_HEADER, part)
            buf_put(sd, b)
            out += part
            size -= part
        lblk += n
    return 0


cdef int exhash_table(opctx* cx, inode* dip, uint64_t** out) noexcept nogil:
    cdef uint64_t* table = <uint64_t*>gl_atomic_load64(<uint64_t*>&dip.hash_cache)
    cdef uint64_t size
    cdef int err
    if table == NULL:
        if dip.depth > GFS2_DIR_MAX_DEPTH:
            return sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_depth", GFS2_DIR_MAX_DEPTH, dip.depth)
        size = <uint64_t>8 << dip.depth
        if dip.size != size:
            return sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_size (8 << di_depth)", size, dip.size)
        table = <uint64_t*>malloc(size)
        if table == NULL:
            return -ENOMEM
        err = table_read(cx, dip, <uint8_t*>table, size)
        if err:
            free(table)
            return err
        # Several readers may have come here at once: the first one's copy stays.
        pthread_mutex_lock(&dip.dlock)
        if dip.hash_cache == NULL:
            dip.hash_cache_len = <uint32_t>1 << dip.depth
            gl_atomic_store64(<uint64_t*>&dip.hash_cache, <uint64_t>table)
        else:
            free(table)
            table = dip.hash_cache
        pthread_mutex_unlock(&dip.dlock)
    if dip.hash_cache_len != <uint32_t>1 << dip.depth:
        return sd_assert_failed(cx.sd, b"directory: the cached hash table is not of the dinode's depth")
    out[0] = table
    return 0


cdef void exhash_forget(inode* dip) noexcept nogil:
    cdef uint64_t* table
    pthread_mutex_lock(&dip.dlock)
    table = dip.hash_cache
    gl_atomic_store64(<uint64_t*>&dip.hash_cache, 0)
    dip.hash_cache_len = 0
    pthread_mutex_unlock(&dip.dlock)
    free(table)


cdef int exhash_store(opctx* cx, inode* dip, uint32_t first, uint32_t count) noexcept nogil:
    """Entries [first, first + count) of the cached table go to disk, within the transaction."""
    cdef sbd* sd = cx.sd
    cdef uint64_t pos = <uint64_t>first * 8
    cdef uint64_t end = pos + <uint64_t>count * 8
    cdef uint64_t dblk = 0
    cdef uint64_t n = 0
    cdef uint64_t part
    cdef uint64_t within
    cdef buf* b = NULL
    cdef int err
    while pos < end:
        if dip.height == 0:
            err = inode_buf(cx, dip, &b)
            within = SIZEOF_DINODE + pos
            part = end - pos
        else:
            err = table_block(cx, dip, pos // sd.jbsize, 1, &dblk, &n)
            if err == 0:
                err = meta_read(sd, &dip.gl, dblk, GFS2_METATYPE_JD, &b)
            within = pos % sd.jbsize
            part = min(end - pos, sd.jbsize - within)
            within += SIZEOF_META_HEADER
        if err:
            return err
        trans_add_meta(cx, b)
        memcpy(b.data + within, <uint8_t*>dip.hash_cache + pos, part)
        buf_put(sd, b)
        pos += part
    return 0


cdef int table_grow(opctx* cx, inode* dip, uint32_t depth) noexcept nogil:
    """The table gets 2^depth entries: each old one is repeated. Written once, however often it doubles."""
    cdef sbd* sd = cx.sd
    cdef uint64_t* old = NULL
    cdef uint64_t* table
    cdef uint64_t size = <uint64_t>8 << depth
    cdef uint64_t count = table_blocks(sd, depth)
    cdef uint64_t lblk = 0
    cdef uint64_t dblk = 0
    cdef uint64_t n = 0
    cdef uint64_t i
    cdef uint64_t part
    cdef uint32_t shift
    cdef bint is_new = False
    cdef buf* b = NULL
    cdef int err = exhash_table(cx, dip, &old)
    if err:
        return err
    shift = depth - dip.depth
    table = <uint64_t*>malloc(size)
    if table == NULL:
        return -ENOMEM
    for i in range(<uint64_t>1 << depth):
        table[i] = old[i >> shift]
    if dip.height == 0:
        err = unstuff_dinode(cx, dip)
    while err == 0 and lblk < count:
        err = bmap_alloc(cx, dip, lblk, count - lblk, &dblk, &n, &is_new)
        if err:
            break
        for i in range(n):
            if is_new:
                err = meta_new(sd, dblk + i, GFS2_METATYPE_JD, GFS2_FORMAT_JD, &b)
            else:
                err = meta_read(sd, &dip.gl, dblk + i, GFS2_METATYPE_JD, &b)
            if err:
                break
            trans_add_meta(cx, b)
            part = (lblk + i) * sd.jbsize
            memcpy(b.data + SIZEOF_META_HEADER, <uint8_t*>table + part, min(size - part, <uint64_t>sd.jbsize))
            buf_put(sd, b)
        lblk += n
    if err:
        free(table)
        return err
    pthread_mutex_lock(&dip.dlock)
    dip.hash_cache_len = <uint32_t>1 << depth
    gl_atomic_store64(<uint64_t*>&dip.hash_cache, <uint64_t>table)
    pthread_mutex_unlock(&dip.dlock)
    free(old)
    dip.depth = <uint16_t>depth
    dip.size = size
    return 0


# ---- leaves --------------------------------------------------------------------------------------------------------

cdef int exhash_leaf(opctx* cx, inode* dip, uint64_t blkno, buf** out) noexcept nogil:
    cdef buf* b = NULL
    cdef const gfs2_leaf* leaf
    cdef int err
    if blkno == 0:
        return sd_corrupt(cx.sd, dip.no_addr, b"directory hash table", b"leaf pointer", 1, 0)
    err = meta_read(cx.sd, &dip.gl, blkno, GFS2_METATYPE_LF, &b)
    if err:
        return err
    leaf = <const gfs2_leaf*>b.data
    if be16toh(leaf.lf_depth) > dip.depth:
        err = sd_corrupt(cx.sd, blkno, b"leaf", b"lf_depth", dip.depth, be16toh(leaf.lf_depth))
    elif leaf.lf_inode != 0 and be64toh(leaf.lf_inode) != dip.no_addr:      # 0: written by an old version
        err = sd_corrupt(cx.sd, blkno, b"leaf", b"lf_inode", dip.no_addr, be64toh(leaf.lf_inode))
    if err:
        buf_put(cx.sd, b)
        return err
    out[0] = b
    return 0


cdef int exhash_first(opctx* cx, inode* dip, uint32_t hash, buf** out) noexcept nogil:
    cdef uint64_t* table = NULL
    cdef int err = exhash_table(cx, dip, &table)
    if err:
        return err
    return exhash_leaf(cx, dip, be64toh(table[table_index(hash, dip.depth)]), out)


cdef int exhash_next(opctx* cx, inode* dip, buf** leaf, uint64_t* walked) noexcept nogil:
    cdef uint64_t here = leaf[0].blkno
    cdef uint64_t blkno = be64toh((<const gfs2_leaf*>leaf[0].data).lf_next)
    buf_put(cx.sd, leaf[0])
    leaf[0] = NULL
    if blkno == 0:
        return 0
    walked[0] += 1
    if walked[0] > dip.blocks:
        return sd_corrupt(cx.sd, here, b"leaf", b"lf_next (the chain is a ring)", dip.blocks, walked[0])
    return exhash_leaf(cx, dip, blkno, leaf)


cdef int leaf_new(opctx* cx, inode* dip, uint32_t depth, uint32_t dist, buf** out) noexcept nogil:
    cdef uint64_t blk = 0
    cdef uint32_t n = 1
    cdef gfs2_leaf* leaf
    cdef int err = rgrp_alloc(cx, dip, &blk, &n, False, NULL)
    if err:
        return err
    err = meta_new(cx.sd, blk, GFS2_METATYPE_LF, GFS2_FORMAT_LF, out)
    if err:
        return err
    trans_add_meta(cx, out[0])
    leaf = <gfs2_leaf*>out[0].data
    leaf.lf_depth = htobe16(<uint16_t>depth)
    leaf.lf_dirent_format = htobe32(GFS2_FORMAT_DE)
    leaf.lf_inode = htobe64(dip.no_addr)
    leaf.lf_dist = htobe32(dist)
    leaf.lf_sec = htobe64(<uint64_t>cx.now_sec)
    leaf.lf_nsec = htobe32(cx.now_nsec)
    dents_init(out[0].data, SIZEOF_LEAF, cx.sd.bsize)
    dip.blocks += 1
    return 0


cdef int leave_dinode(opctx* cx, inode* dip) noexcept nogil:
    """The entries of a stuffed directory become its first leaf, the table takes their place."""
    cdef sbd* sd = cx.sd
    cdef buf* db = NULL
    cdef buf* lb = NULL
    cdef uint32_t i
    cdef uint64_t* slot
    cdef int err = inode_buf(cx, dip, &db)
    if err:
        return err
    err = leaf_new(cx, dip, 0, 1, &lb)
    if err:
        buf_put(sd, db)
        return err
    dents_to_leaf(db.data, lb.data, sd.bsize)
    (<gfs2_leaf*>lb.data).lf_entries = htobe16(<uint16_t>dip.entries)
    trans_add_meta(cx, db)
    memset(db.data + SIZEOF_DINODE, 0, sd.bsize - SIZEOF_DINODE)
    slot = <uint64_t*>(db.data + SIZEOF_DINODE)
    for i in range(sd.hash_ptrs):
        slot[i] = htobe64(lb.blkno)
    dip.size = sd.hash_bsize
    dip.diskflags |= GFS2_DIF_EXHASH
    dip.depth = <uint16_t>base_depth(sd)
    buf_put(sd, lb)
    buf_put(sd, db)
    exhash_forget(dip)
    return 0


cdef int leaf_split(opctx* cx, inode* dip, uint32_t hash) noexcept nogil:
    """The leaf for this hash gives the lower half of its range to a new one."""
    cdef sbd* sd = cx.sd
    cdef uint64_t* table = NULL
    cdef buf* ob = NULL
    cdef buf* nb = NULL
    cdef gfs2_leaf* oleaf
    cdef gfs2_leaf* nleaf
    cdef uint32_t depth
    cdef uint32_t half
    cdef uint32_t start
    cdef uint32_t moved
    cdef uint32_t i
    cdef int err = exhash_table(cx, dip, &table)
    if err:
        return err
    err = exhash_leaf(cx, dip, be64toh(table[table_index(hash, dip.depth)]), &ob)
    if err:
        return err
    oleaf = <gfs2_leaf*>ob.data
    depth = be16toh(oleaf.lf_depth)
    if depth >= dip.depth:
        buf_put(sd, ob)
        return sd_assert_failed(sd, b"directory: a leaf is split that has no bit left")
    err = leaf_new(cx, dip, depth + 1, 1, &nb)
    if err:
        buf_put(sd, ob)
        return err
    nleaf = <gfs2_leaf*>nb.data
    half = <uint32_t>1 << (dip.depth - depth - 1)
    start = table_index(hash, dip.depth) & ~(2 * half - 1)
    trans_add_meta(cx, ob)
    moved = dents_split(ob.data, nb.data, SIZEOF_LEAF, sd.bsize, (start + half) << (32 - dip.depth))
    oleaf.lf_depth = nleaf.lf_depth
    nleaf.lf_entries = htobe16(<uint16_t>moved)
    oleaf.lf_entries = htobe16(<uint16_t>(be16toh(oleaf.lf_entries) - moved))
    for i in range(start, start + half):
        table[i] = htobe64(nb.blkno)
    buf_put(sd, nb)
    buf_put(sd, ob)
    return exhash_store(cx, dip, start, half)


cdef int chain_extend(opctx* cx, inode* dip, uint32_t hash) noexcept nogil:
    """An empty leaf at the end of the chain for this hash."""
    cdef buf* b = NULL
    cdef buf* nb = NULL
    cdef uint64_t walked = 0
    cdef int err = exhash_first(cx, dip, hash, &b)
    while err == 0 and (<gfs2_leaf*>b.data).lf_next != 0:
        err = exhash_next(cx, dip, &b, &walked)
    if err:
        return err
    err = leaf_new(cx, dip, be16toh((<gfs2_leaf*>b.data).lf_depth), <uint32_t>walked + 2, &nb)
    if err == 0:
        trans_add_meta(cx, b)
        (<gfs2_leaf*>b.data).lf_next = htobe64(nb.blkno)
        buf_put(cx.sd, nb)
    buf_put(cx.sd, b)
    return err


# ---- planning ------------------------------------------------------------------------------------------------------

cdef int leaf_verify(opctx* cx, inode* dip, const buf* b, uint32_t hash) noexcept nogil:
    """What splitting relies on: sound records, their count, that all belong here, and the pointers to this leaf."""
    cdef sbd* sd = cx.sd
    cdef const gfs2_leaf* leaf = <const gfs2_leaf*>b.data
    cdef uint32_t depth = be16toh(leaf.lf_depth)
    cdef uint32_t count = 0
    cdef uint32_t off = SIZEOF_LEAF
    cdef uint32_t span
    cdef uint32_t start
    cdef uint32_t i
    cdef uint64_t* table = NULL
    cdef const gfs2_dirent* d
    cdef dent_bad bad
    cdef int err
    if dents_check(b.data, SIZEOF_LEAF, sd.bsize, &count, &bad) < 0:
        return sd_corrupt(sd, b.blkno, b"leaf entry", bad.field, bad.wanted, bad.found)
    if count != be16toh(leaf.lf_entries):
        return sd_corrupt(sd, b.blkno, b"leaf", b"lf_entries", count, be16toh(leaf.lf_entries))
    while off < sd.bsize:
        d = <const gfs2_dirent*>(b.data + off)
        if not dent_sentinel(d) and table_index(be32toh(d.de_hash), depth) != table_index(hash, depth):
            return sd_corrupt(sd, b.blkno, b"leaf entry", b"de_hash (of another leaf)", hash, be32toh(d.de_hash))
        off += be16toh(d.de_rec_len)
    err = exhash_table(cx, dip, &table)
    if err:
        return err
    span = <uint32_t>1 << (dip.depth - depth)
    start = table_index(hash, dip.depth) & ~(span - 1)
    for i in range(start, start + span):
        if be64toh(table[i]) != b.blkno:
            return sd_corrupt(sd, dip.no_addr, b"directory hash table", b"leaf pointer", b.blkno, be64toh(table[i]))
    return 0


cdef void simulate(const sbd* sd, uint8_t* leaf, uint32_t leaf_depth, uint32_t depth, uint32_t hash, uint32_t namelen,
                   exhash_plan* plan) noexcept nogil:
    """Splits a copy of the leaf until the part for `hash` has room, doubling the table when it must."""
    cdef uint8_t other[MAX_BSIZE]
    cdef uint32_t off = 0
    cdef uint32_t divider
    cdef dent_bad bad
    while dents_room(leaf, SIZEOF_LEAF, sd.bsize, namelen, &off, &bad) == 0:
        if leaf_depth == depth:
            if depth >= GFS2_DIR_MAX_DEPTH:
                plan.chain = True
                break
            depth += 1
        divider = (table_index(hash, leaf_depth) * 2 + 1) << (31 - leaf_depth)
        dents_init(other, SIZEOF_LEAF, sd.bsize)
        dents_split(leaf, other, SIZEOF_LEAF, sd.bsize, divider)
        if hash < divider:
            memcpy(leaf + SIZEOF_LEAF, other + SIZEOF_LEAF, sd.bsize - SIZEOF_LEAF)
        leaf_depth += 1
        plan.splits += 1
    plan.depth = depth


cdef int plan_stuffed(opctx* cx, inode* dip, uint32_t hash, uint32_t namelen, exhash_plan* plan) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint8_t leaf[MAX_BSIZE]
    cdef uint32_t count = 0
    cdef dent_bad bad
    cdef buf* b = NULL
    cdef int err = inode_buf(cx, dip, &b)
    if err:
        return err
    err = dents_check(b.data, SIZEOF_DINODE, sd.bsize, &count, &bad)
    if err < 0:
        err = sd_corrupt(sd, b.blkno, b"directory entry", bad.field, bad.wanted, bad.found)
    elif count != dip.entries:
        err = sd_corrupt(sd, b.blkno, b"dinode", b"di_entries", count, dip.entries)
    elif dip.height:
        err = sd_corrupt(sd, b.blkno, b"dinode", b"di_height (a directory without hash table)", 0, dip.height)
    elif dents_room(b.data, SIZEOF_DINODE, sd.bsize, namelen, &plan.off, &bad) == 1:
        plan.has_room = True
        plan.leaf = b.blkno
    else:
        plan.make = True
        dents_to_leaf(b.data, leaf, sd.bsize)
        simulate(sd, leaf, 0, base_depth(sd), hash, namelen, plan)
    buf_put(sd, b)
    return err


cdef int exhash_plan_add(opctx* cx, inode* dip, uint32_t hash, uint32_t namelen, exhash_plan* plan) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint8_t leaf[MAX_BSIZE]
    cdef uint64_t walked = 0
    cdef dent_bad bad
    cdef buf* b = NULL
    cdef int err
    memset(plan, 0, sizeof(plan[0]))
    plan.depth = dip.depth
    plan.span = 1
    if not dip.diskflags & GFS2_DIF_EXHASH:
        return plan_stuffed(cx, dip, hash, namelen, plan)
    err = exhash_first(cx, dip, hash, &b)
    while err == 0 and b != NULL:
        err = dents_room(b.data, SIZEOF_LEAF, sd.bsize, namelen, &plan.off, &bad)
        if err < 0:
            err = sd_corrupt(sd, b.blkno, b"leaf entry", bad.field, bad.wanted, bad.found)
            break
        if err == 1:
            err = 0
            plan.has_room = True
            plan.leaf = b.blkno
            break
        if walked == 0 and (<const gfs2_leaf*>b.data).lf_next == 0:
            err = leaf_verify(cx, dip, b, hash)
            if err == 0:
                memcpy(leaf, b.data, sd.bsize)
                plan.span = <uint32_t>1 << (dip.depth - be16toh((<const gfs2_leaf*>b.data).lf_depth))
                simulate(sd, leaf, be16toh((<const gfs2_leaf*>b.data).lf_depth), dip.depth, hash, namelen, plan)
            break
        # A leaf with a chain is never split: its entries further down the chain would be lost.
        plan.chain = True
        err = exhash_next(cx, dip, &b, &walked)
    if plan.has_room:
        plan.chain = False
    if b != NULL:
        buf_put(sd, b)
    return err


cdef void exhash_plan_need(opctx* cx, inode* dip, const exhash_plan* plan, uint32_t* alloc_blocks,
                           uint32_t* log_blocks) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t leaves = plan.splits + (1 if plan.make else 0) + (1 if plan.chain else 0)
    cdef uint32_t now = base_depth(sd) if plan.make else dip.depth
    cdef uint32_t data = 0
    cdef uint32_t meta = 0
    # The dinode; the leaf that is there already (it gets the entry, is split, or gets a next one).
    log_blocks[0] = 1
    alloc_blocks[0] = 0
    if plan.has_room:
        if dip.diskflags & GFS2_DIF_EXHASH:
            log_blocks[0] += 1
        return
    log_blocks[0] += 1 + leaves
    alloc_blocks[0] = leaves
    if plan.depth > now:
        # From the first block on: the ones that exist are changed, and so may be their indirect blocks.
        bmap_alloc_need(sd, dip, 0, table_blocks(sd, plan.depth), &data, &meta)
        log_blocks[0] += data + meta
        alloc_blocks[0] += data + meta
        if dip.height:
            alloc_blocks[0] -= <uint32_t>table_blocks(sd, now)
    elif plan.splits and dip.height:
        log_blocks[0] += plan.span * 8 // sd.jbsize + 2


cdef int exhash_make_room(opctx* cx, inode* dip, uint32_t hash, const exhash_plan* plan) noexcept nogil:
    cdef uint32_t i
    cdef int err = 0
    if plan.make:
        err = leave_dinode(cx, dip)
    if err == 0 and plan.depth > dip.depth:
        err = table_grow(cx, dip, plan.depth)
    for i in range(plan.splits):
        if err == 0:
            err = leaf_split(cx, dip, hash)
    if err == 0 and plan.chain:
        err = chain_extend(cx, dip, hash)
    if err == 0:
        err = inode_dirty(cx, dip)
    if err and not sd_dead(cx.sd):
        err = sd_assert_failed(cx.sd, b"directory: growing failed halfway (space or memory that was not reserved)")
    return err
