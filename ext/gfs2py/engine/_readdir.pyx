"""Reading a directory in cookie order; see _readdir.pxd. Source of behaviour: fs/gfs2/dir.c gfs2_dir_read."""
from libc.errno cimport ENOMEM, EOVERFLOW
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memset

from gfs2py.engine._cache cimport buf_peek, buf_put, buf_readahead
from gfs2py.engine._dirent cimport (
    COOKIE_FIRST, COOKIE_POS_BITS, COOKIE_SECOND_BITS, dent_bad, dent_check, dent_key, dent_second_hash,
    dent_sentinel,
)
from gfs2py.engine._exhash cimport exhash_leaf, exhash_table
from gfs2py.engine._incore cimport buf, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_buf
from gfs2py.engine._sbd cimport sd_corrupt
from gfs2py.ondisk._ondisk cimport (
    be16toh, be32toh, be64toh, gfs2_dirent, gfs2_leaf, GFS2_DIF_EXHASH, SIZEOF_DINODE, SIZEOF_DIRENT, SIZEOF_LEAF,
)

cdef enum:
    READAHEAD = 64

cdef struct seen:                   # an entry to be returned
    uint64_t key
    const gfs2_dirent* d

cdef struct gathered:               # the entries of one leaf with its chain; their buffers are held
    seen* v
    uint32_t n, cap
    buf** bufs
    uint32_t n_bufs, cap_bufs


cdef inline uint64_t order_key(const gfs2_dirent* d) noexcept nogil:
    return dent_key(be32toh(d.de_hash), dent_second_hash(<const char*>d + SIZEOF_DIRENT, be16toh(d.de_name_len)))


cdef int compare_seen(const void* a, const void* b) noexcept nogil:
    cdef const seen* x = <const seen*>a
    cdef const seen* y = <const seen*>b
    cdef uint32_t nx
    cdef uint32_t ny
    cdef int c
    if x.key != y.key:
        return 1 if x.key > y.key else -1
    nx = be16toh(x.d.de_name_len)
    ny = be16toh(y.d.de_name_len)
    c = memcmp(<const char*>x.d + SIZEOF_DIRENT, <const char*>y.d + SIZEOF_DIRENT, min(nx, ny))
    return c if c else <int>nx - <int>ny


cdef inline bint is_dot(const gfs2_dirent* d) noexcept nogil:
    cdef const uint8_t* name = <const uint8_t*>d + SIZEOF_DIRENT
    cdef uint32_t n = be16toh(d.de_name_len)
    return name[0] == 46 and (n == 1 or (n == 2 and name[1] == 46))


cdef void let_go(sbd* sd, gathered* g) noexcept nogil:
    while g.n_bufs:
        g.n_bufs -= 1
        buf_put(sd, g.bufs[g.n_bufs])
    g.n = 0


cdef int keep_buf(sbd* sd, gathered* g, buf* b) noexcept nogil:
    """The set takes over the reference; on failure it is put."""
    cdef buf** more
    if g.n_bufs == g.cap_bufs:
        more = <buf**>realloc(g.bufs, <size_t>(g.cap_bufs * 2 + 4) * sizeof(buf*))
        if more == NULL:
            buf_put(sd, b)
            return -ENOMEM
        g.bufs = more
        g.cap_bufs = g.cap_bufs * 2 + 4
    g.bufs[g.n_bufs] = b
    g.n_bufs += 1
    return 0


cdef int gather(opctx* cx, gathered* g, const buf* b, uint32_t start, uint64_t from_key, uint32_t* live) noexcept nogil:
    """Adds the entries of one block that are not before `from_key`; *live counts all."""
    cdef uint32_t off = start
    cdef uint64_t key
    cdef seen* more
    cdef const gfs2_dirent* d
    cdef dent_bad bad
    cdef int rec
    while off < cx.sd.bsize:
        rec = dent_check(b.data, off, start, cx.sd.bsize, &bad)
        if rec < 0:
            return sd_corrupt(cx.sd, b.blkno, b"directory entry", bad.field, bad.wanted, bad.found)
        d = <const gfs2_dirent*>(b.data + off)
        off += <uint32_t>rec
        if dent_sentinel(d):
            continue
        live[0] += 1
        key = order_key(d)
        # The place among equals is not known yet: those alike with the first one wanted are all needed.
        if key < from_key or is_dot(d):
            continue
        if g.n == g.cap:
            more = <seen*>realloc(g.v, <size_t>(g.cap * 2 + 128) * sizeof(seen))
            if more == NULL:
                return -ENOMEM
            g.v = more
            g.cap = g.cap * 2 + 128
        g.v[g.n].key = key
        g.v[g.n].d = d
        g.n += 1
    return 0


cdef int hand_out(opctx* cx, gathered* g, uint64_t off, readdir_fn fn, void* arg) noexcept nogil:
    """Returns the gathered entries in order: 0 all, 1 the receiver has enough, -EOVERFLOW."""
    cdef uint32_t i
    cdef uint64_t place = 0
    cdef uint64_t cookie
    cdef const gfs2_dirent* d
    if g.n > 1:
        qsort(g.v, g.n, sizeof(seen), compare_seen)
    for i in range(g.n):
        place = place + 1 if i and g.v[i].key == g.v[i - 1].key else 0
        if place >> COOKIE_POS_BITS:
            return -EOVERFLOW
        cookie = COOKIE_FIRST + (g.v[i].key | place)
        if cookie < off:
            continue
        d = g.v[i].d
        if fn(arg, <const char*>d + SIZEOF_DIRENT, be16toh(d.de_name_len), be64toh(d.de_inum.no_addr),
              be64toh(d.de_inum.no_formal_ino), be16toh(d.de_type), cookie + 1):
            return 1
    return 0


cdef int read_stuffed(opctx* cx, inode* dip, gathered* g, uint64_t from_key) noexcept nogil:
    cdef uint32_t live = 0
    cdef buf* b = NULL
    cdef int err
    if dip.height:
        return sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_height (a directory without hash table)", 0, dip.height)
    err = inode_buf(cx, dip, &b)
    if err == 0:
        err = keep_buf(cx.sd, g, b)
    if err == 0:
        err = gather(cx, g, b, SIZEOF_DINODE, from_key, &live)
    if err == 0 and live != dip.entries:
        err = sd_corrupt(cx.sd, dip.no_addr, b"dinode", b"di_entries", live, dip.entries)
    return err


cdef int read_chain(opctx* cx, inode* dip, gathered* g, uint64_t blkno, uint64_t from_key,
                    uint32_t* depth) noexcept nogil:
    """Gathers a leaf and all that are chained to it; *depth = lf_depth of the first."""
    cdef uint64_t walked = 0
    cdef uint32_t live
    cdef const gfs2_leaf* leaf
    cdef buf* b = NULL
    cdef int err
    while True:
        err = exhash_leaf(cx, dip, blkno, &b)
        if err == 0:
            err = keep_buf(cx.sd, g, b)
        if err:
            return err
        leaf = <const gfs2_leaf*>b.data
        if walked == 0:
            depth[0] = be16toh(leaf.lf_depth)
        live = 0
        err = gather(cx, g, b, SIZEOF_LEAF, from_key, &live)
        if err:
            return err
        if live != be16toh(leaf.lf_entries):
            return sd_corrupt(cx.sd, blkno, b"leaf", b"lf_entries", live, be16toh(leaf.lf_entries))
        if leaf.lf_next == 0:
            return 0
        walked += 1
        if walked > dip.blocks:
            return sd_corrupt(cx.sd, blkno, b"leaf", b"lf_next (the chain is a ring)", dip.blocks, walked)
        blkno = be64toh(leaf.lf_next)


cdef void ahead(opctx* cx, const uint64_t* table, uint32_t index, uint32_t size) noexcept nogil:
    """When the next leaf is not in memory, it and those after it are read in one batch."""
    cdef uint64_t blks[READAHEAD]
    cdef uint32_t n = 0
    cdef buf* b = buf_peek(cx.sd, be64toh(table[index]))
    if b != NULL:
        buf_put(cx.sd, b)
        return
    while index < size and n < READAHEAD:
        if table[index] and (n == 0 or be64toh(table[index]) != blks[n - 1]):
            blks[n] = be64toh(table[index])
            n += 1
        index += 1
    if n > 1:
        buf_readahead(cx.sd, blks, n)


cdef int check_range(opctx* cx, const gathered* g, uint32_t index, uint32_t shift) noexcept nogil:
    """Entries of another leaf's range would come out of order, and some would be lost to a reader who resumes."""
    cdef uint32_t i
    cdef uint64_t hash
    for i in range(g.n):
        hash = be32toh(g.v[i].d.de_hash)
        if hash >> shift != index:
            return sd_corrupt(cx.sd, g.bufs[0].blkno, b"leaf entry", b"de_hash (of another leaf)", index, hash >> shift)
    return 0


cdef int read_hashed(opctx* cx, inode* dip, gathered* g, uint64_t off, readdir_fn fn, void* arg) noexcept nogil:
    cdef uint64_t from_key = (off - COOKIE_FIRST) >> COOKIE_POS_BITS << COOKIE_POS_BITS
    cdef uint32_t size = <uint32_t>1 << dip.depth
    cdef uint32_t index
    cdef uint32_t span
    cdef uint32_t depth = 0
    cdef uint64_t* table = NULL
    cdef int err = exhash_table(cx, dip, &table)
    if err:
        return err
    index = <uint32_t>((from_key >> (COOKIE_SECOND_BITS + COOKIE_POS_BITS)) >> (32 - dip.depth))
    while index < size:
        ahead(cx, table, index, size)
        err = read_chain(cx, dip, g, be64toh(table[index]), from_key, &depth)
        if err == 0:
            err = check_range(cx, g, index >> (dip.depth - depth), 32 - depth)
        if err == 0:
            err = hand_out(cx, g, off, fn, arg)
        let_go(cx.sd, g)
        if err:
            return err
        span = <uint32_t>1 << (dip.depth - depth)
        index = (index & ~(span - 1)) + span
    return 0


cdef int readdir_run(opctx* cx, inode* dip, uint64_t off, readdir_fn fn, void* arg) noexcept nogil:
    cdef gathered g
    cdef int err
    if off < COOKIE_FIRST:
        off = COOKIE_FIRST
    if (off - COOKIE_FIRST) >> (32 + COOKIE_SECOND_BITS + COOKIE_POS_BITS):
        return 0                    # beyond the last cookie
    memset(&g, 0, sizeof(g))
    if dip.diskflags & GFS2_DIF_EXHASH:
        err = read_hashed(cx, dip, &g, off, fn, arg)
    else:
        err = read_stuffed(cx, dip, &g, (off - COOKIE_FIRST) >> COOKIE_POS_BITS << COOKIE_POS_BITS)
        if err == 0:
            err = hand_out(cx, &g, off, fn, arg)
    let_go(cx.sd, &g)
    free(g.v)
    free(g.bufs)
    return 0 if err == 1 else err
