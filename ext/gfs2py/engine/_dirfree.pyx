"""Freeing the leaves and the hash table of a deleted directory; see _dirfree.pxd. Source: fs/gfs2/dir.c."""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from gfs2py.engine._cache cimport buf_put, buf_readahead
from gfs2py.engine._exhash cimport exhash_forget, exhash_leaf, exhash_store, exhash_table
from gfs2py.engine._freeset cimport (
    freeset, freeset_add, freeset_free, freeset_init, freeset_lock, freeset_log_blocks, freeset_unlock,
)
from gfs2py.engine._incore cimport buf, inode, opctx
from gfs2py.engine._inode cimport inode_dirty
from gfs2py.engine._log cimport trans_add_meta, trans_begin, trans_end
from gfs2py.engine._sbd cimport sd_corrupt
from gfs2py.engine._truncate cimport punch_blocks
from gfs2py.ondisk._ondisk cimport be16toh, be64toh, gfs2_leaf, GFS2_DIF_EXHASH, htobe64

cdef enum:
    READAHEAD = 64
    S_IFMT_ = 0o170000
    S_IFREG_ = 0o100000


cdef int free_round(opctx* cx, inode* dip, freeset* fs, buf* head, uint64_t rest, uint32_t first, uint32_t count,
                    bint last) noexcept nogil:
    """One transaction: frees what was collected. head: a leaf that stays, whose chain now goes on at `rest`;
    else the table's entries [first, first + count) become 0."""
    cdef uint64_t* table = NULL
    cdef uint32_t i
    cdef int err = exhash_table(cx, dip, &table)
    if err == 0:
        err = freeset_lock(cx, fs)
    if err:
        return err
    err = trans_begin(cx, freeset_log_blocks(fs) + 3 + <uint32_t>(<uint64_t>count * 8 // cx.sd.jbsize) + 2, fs.n)
    if err == 0:
        err = freeset_free(cx, fs, dip)
        if err == 0 and head != NULL:
            trans_add_meta(cx, head)
            (<gfs2_leaf*>head.data).lf_next = htobe64(rest)
        if err == 0 and count:
            for i in range(first, first + count):
                table[i] = 0
            err = exhash_store(cx, dip, first, count)
        if err == 0:
            if last:
                # Should we crash before the dinode is freed: what remains is a file that holds the table's blocks,
                # and nobody looks for leaves in it again.
                dip.mode = (dip.mode & ~<uint32_t>S_IFMT_) | S_IFREG_
                dip.diskflags &= ~<uint32_t>GFS2_DIF_EXHASH
                dip.depth = 0
                dip.entries = 0
                exhash_forget(dip)
            err = inode_dirty(cx, dip)
        trans_end(cx)
    freeset_unlock(cx, fs)
    freeset_init(fs)
    return err


cdef int free_chain(opctx* cx, inode* dip, freeset* fs, buf* head) noexcept nogil:
    """Frees all leaves after `head`, as many per transaction as fit; the chain stays whole in between."""
    cdef uint64_t blkno = be64toh((<gfs2_leaf*>head.data).lf_next)
    cdef uint64_t walked = 0
    cdef buf* b = NULL
    cdef int err
    freeset_init(fs)
    while blkno:
        walked += 1
        if walked > dip.blocks + fs.n:
            return sd_corrupt(cx.sd, head.blkno, b"leaf", b"lf_next (the chain is a ring)", dip.blocks, walked)
        err = exhash_leaf(cx, dip, blkno, &b)
        if err:
            return err
        err = freeset_add(cx, fs, blkno, head.blkno, b"lf_next")
        if err == 1:
            blkno = be64toh((<gfs2_leaf*>b.data).lf_next)
        buf_put(cx.sd, b)
        if err < 0:
            return err
        if err == 0 or blkno == 0:
            err = free_round(cx, dip, fs, head, blkno, 0, 0, False)
            walked = 0
            if err:
                return err
    return 0


cdef void ahead_of(opctx* cx, const uint64_t* table, uint32_t index, uint32_t size) noexcept nogil:
    cdef uint64_t blks[READAHEAD]
    cdef uint32_t n = 0
    while index < size and n < READAHEAD:
        if table[index] and (n == 0 or be64toh(table[index]) != blks[n - 1]):
            blks[n] = be64toh(table[index])
            n += 1
        index += 1
    if n > 1:
        buf_readahead(cx.sd, blks, n)


cdef int dealloc_rounds(opctx* cx, inode* dip, freeset* fs) noexcept nogil:
    cdef uint64_t* table = NULL
    cdef uint32_t size = <uint32_t>1 << dip.depth
    cdef uint32_t index = 0
    cdef uint32_t first = 0
    cdef uint32_t run
    cdef uint32_t leaves = 0
    cdef buf* b = NULL
    cdef int err = exhash_table(cx, dip, &table)
    if err:
        return err
    freeset_init(fs)
    while index < size:
        if table[index] == 0:                   # freed before a crash
            index += 1
            continue
        if leaves % READAHEAD == 0:
            ahead_of(cx, table, index, size)
        leaves += 1
        err = exhash_leaf(cx, dip, be64toh(table[index]), &b)
        if err:
            return err
        run = <uint32_t>1 << (dip.depth - be16toh((<gfs2_leaf*>b.data).lf_depth))
        if index & (run - 1):
            err = sd_corrupt(cx.sd, b.blkno, b"leaf", b"lf_depth (the pointers to it are fewer)", index, run)
        elif (<gfs2_leaf*>b.data).lf_next:
            # What was collected goes first: one transaction is either for leaves or for a chain.
            if fs.n:
                err = free_round(cx, dip, fs, NULL, 0, first, index - first, False)
                first = index
            if err == 0:
                err = free_chain(cx, dip, fs, b)
        if err == 0:
            err = freeset_add(cx, fs, b.blkno, dip.no_addr, b"leaf pointer")
        buf_put(cx.sd, b)
        if err < 0:
            return err
        if err == 0:
            err = free_round(cx, dip, fs, NULL, 0, first, index - first, False)
            if err:
                return err
            first = index
            continue
        index += run
    return free_round(cx, dip, fs, NULL, 0, first, size - first, True)


cdef int exhash_dealloc(opctx* cx, inode* dip) noexcept nogil:
    cdef freeset* fs = <freeset*>malloc(sizeof(freeset))
    cdef int err
    if fs == NULL:
        return -ENOMEM
    err = dealloc_rounds(cx, dip, fs)
    free(fs)
    if err == 0 and dip.height:
        err = punch_blocks(cx, dip, 0, ~<uint64_t>0)
    return err
