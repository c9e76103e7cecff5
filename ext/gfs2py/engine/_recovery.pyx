"""Replay of a journal, the statfs changes it carries, and the header that declares it clean.

Replay reads the active part of the log once, in order, and remembers for each block of the file system the position
of its newest copy and of its newest revoke. That gives what the kernel's two passes give (revokes, then copies): a
copy counts if no revoke follows it, and of the copies of a block the last one wins. Only when the whole of the log
has been found sound are the winners written, sorted by address, and flushed.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport DEV_FUA, BlockDevice, bio_seg, dev_alloc, dev_free
from gfs2py.engine._incore cimport extent
from gfs2py.engine._jdesc cimport (
    check_block, check_meta, damage, header_ok, jdesc, jhead, jhead_find, journal_block, journal_close, journal_open,
    journal_open_map, read_dinode, read_log, take_head,
)
from gfs2py.ondisk._checksum cimport log_header_seal
from gfs2py.ondisk._ondisk cimport (
    GFS2_FORMAT_LD, GFS2_FORMAT_LH, GFS2_LOG_DESC_JDATA, GFS2_LOG_DESC_METADATA, GFS2_LOG_DESC_REVOKE,
    GFS2_LOG_HEAD_RECOVERY, GFS2_LOG_HEAD_UNMOUNT, GFS2_MAGIC, GFS2_METATYPE_LB, GFS2_METATYPE_LD, GFS2_METATYPE_LH,
    GFS2_METATYPE_RG,
    SIZEOF_DINODE, SIZEOF_LOG_DESCRIPTOR, SIZEOF_META_HEADER, be16toh, be32toh, be64toh, gfs2_dinode,
    gfs2_log_descriptor, gfs2_log_header, gfs2_meta_header, gfs2_rgrp, gfs2_statfs_change, htobe32, htobe64,
)

import os
from collections import namedtuple

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    KEEP_BYTES = 67108864       # an active log up to this size is read once and stays in memory
    CHUNK_BYTES = 16777216      # of a larger one, written per batch
    STATFS_LOG_BLOCKS = 5       # descriptor, two dinodes, their header, the clean header
    C_META = 1, C_JDATA = 2, C_ESCAPED = 4, C_RGRP = 8, C_BAD = 16

# What is known about one block of the file system: its newest copy, or its newest revoke.
cdef struct entry:
    uint64_t blkno              # 0: free slot (block 0 is never metadata or data)
    uint32_t lin                # position counted from the tail
    uint32_t kind               # C_*
    uint32_t magic              # C_BAD: what stands where the magic should be

cdef struct table:              # open addressing, a power of two of slots
    entry* slots
    uint64_t mask
    uint64_t count

cdef struct replay:
    jdesc* jd
    uint32_t tail
    uint32_t active             # log blocks from the tail up to the head
    uint8_t* window             # log blocks [win_at, win_at + win_n), by position from the tail
    uint32_t win_at, win_n, win_cap
    table copies, revokes
    entry* todo                 # what will be written, by address
    uint32_t n_todo
    jstats* st
    # the descriptor whose blocks follow
    uint8_t* desc               # a copy of it, or NULL
    uint32_t d_type, d_count, d_len, d_pos      # d_pos: blocks of it done, itself included


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t> ts.tv_sec * 1000000000 + <uint64_t> ts.tv_nsec


# -- tables of block numbers ------------------------------------------------------------------------------------------

cdef entry* table_slot(const table* t, uint64_t blkno) noexcept nogil:
    """The slot of this block, or the free one where it belongs. The table is never full."""
    cdef uint64_t i = (blkno * <uint64_t> 0x9E3779B97F4A7C15) >> 20
    while True:
        i &= t.mask
        if t.slots[i].blkno == blkno or t.slots[i].blkno == 0:
            return &t.slots[i]
        i += 1


cdef entry* table_get(const table* t, uint64_t blkno) noexcept nogil:
    cdef entry* e
    if t.slots == NULL:
        return NULL
    e = table_slot(t, blkno)
    return e if e.blkno else NULL


cdef entry* table_put(table* t, uint64_t blkno) noexcept nogil:
    """The entry of this block, made if need be; NULL when out of memory."""
    cdef table bigger
    cdef uint64_t i, n
    cdef entry* e
    if t.slots == NULL or t.count * 2 > t.mask:
        n = (t.mask + 1) * 4 if t.slots != NULL else 1024
        bigger.slots = <entry*> calloc(n, sizeof(entry))
        if bigger.slots == NULL:
            return NULL
        bigger.mask = n - 1
        bigger.count = t.count
        if t.slots != NULL:
            for i in range(t.mask + 1):
                if t.slots[i].blkno:
                    table_slot(&bigger, t.slots[i].blkno)[0] = t.slots[i]
            free(t.slots)
        t[0] = bigger
    e = table_slot(t, blkno)
    if e.blkno == 0:
        e.blkno = blkno
        t.count += 1
    return e


# -- reading the log --------------------------------------------------------------------------------------------------

cdef uint32_t log_pos(const replay* r, uint32_t lin) noexcept nogil:
    """The log block at a position counted from the tail."""
    cdef uint64_t at = <uint64_t> r.tail + lin
    return <uint32_t> (at - r.jd.nblocks if at >= r.jd.nblocks else at)


cdef int log_at(replay* r, uint32_t lin, uint8_t** out) noexcept nogil:
    """Point `out` at the block at this position, reading on when the window ends; positions only rise."""
    cdef uint32_t n
    cdef int err
    if lin >= r.win_at + r.win_n:
        n = r.active - lin if r.active - lin < r.win_cap else r.win_cap
        err = read_log(r.jd, log_pos(r, lin), n, r.window)
        if err:
            return err
        r.win_at = lin
        r.win_n = n
    out[0] = r.window + <uint64_t> (lin - r.win_at) * r.jd.bsize
    return 0


cdef int check_target(replay* r, uint64_t holder, uint64_t blkno) noexcept nogil:
    """A block that the log would overwrite: inside the file system and outside of the log itself."""
    cdef uint32_t i
    cdef int err = check_block(r.jd, holder, "log descriptor", "block number", blkno)
    if err:
        return err
    for i in range(r.jd.n_ext):
        if blkno >= r.jd.ext[i].dblk and blkno - r.jd.ext[i].dblk < r.jd.ext[i].len:
            return damage(r.jd, holder, "log descriptor", "block number inside the journal", 0, blkno)
    return 0


cdef int begin_descriptor(replay* r, uint32_t lin, const uint8_t* p) noexcept nogil:
    """A block that must be a log header or a descriptor; checks it and prepares for the blocks that follow it."""
    cdef const gfs2_log_descriptor* ld = <const gfs2_log_descriptor*> p
    cdef jdesc* jd = r.jd
    cdef uint64_t here = journal_block(jd, log_pos(r, lin))
    cdef uint64_t room = (jd.bsize - SIZEOF_LOG_DESCRIPTOR) // 8
    cdef uint64_t most
    cdef int err
    if (be32toh(ld.ld_header.mh_magic) == <uint32_t> GFS2_MAGIC
            and be32toh(ld.ld_header.mh_type) == <uint32_t> GFS2_METATYPE_LH):
        r.d_len = 1
        r.d_pos = 1
        if header_ok(jd, p, log_pos(r, lin)):
            return 0
        return damage(jd, here, "log header", "checksum or lh_blkno", log_pos(r, lin),
                      be32toh((<const gfs2_log_header*> p).lh_blkno))
    err = check_meta(jd, here, p, GFS2_METATYPE_LD, "log descriptor")
    if err:
        return err
    r.d_type = be32toh(ld.ld_type)
    r.d_len = be32toh(ld.ld_length)
    r.d_count = be32toh(ld.ld_data1)
    r.d_pos = 1
    if r.d_len < 1 or r.d_len > r.active - lin:
        return damage(jd, here, "log descriptor", "ld_length", r.active - lin, r.d_len)
    if r.d_type == <uint32_t> GFS2_LOG_DESC_REVOKE:
        most = room + <uint64_t> (r.d_len - 1) * ((jd.bsize - SIZEOF_META_HEADER) // 8)
    elif r.d_type == <uint32_t> GFS2_LOG_DESC_METADATA:
        most = room if room < r.d_len - 1 else r.d_len - 1
    elif r.d_type == <uint32_t> GFS2_LOG_DESC_JDATA:
        most = room // 2 if room // 2 < r.d_len - 1 else r.d_len - 1
    else:
        return damage(jd, here, "log descriptor", "ld_type", GFS2_LOG_DESC_METADATA, r.d_type)
    if r.d_count > most:
        return damage(jd, here, "log descriptor", "ld_data1", most, r.d_count)
    memcpy(r.desc, p, jd.bsize)
    if r.d_type == <uint32_t> GFS2_LOG_DESC_REVOKE:
        return take_revokes(r, lin, p, SIZEOF_LOG_DESCRIPTOR)
    return 0


cdef int take_revokes(replay* r, uint32_t lin, const uint8_t* p, uint32_t offset) noexcept nogil:
    """Note the block numbers in one block of a revoke descriptor; d_count is how many are still to come."""
    cdef uint64_t here = journal_block(r.jd, log_pos(r, lin))
    cdef uint64_t blkno
    cdef entry* e
    cdef int err
    while r.d_count and offset + 8 <= r.jd.bsize:
        blkno = be64toh((<const uint64_t*> (p + offset))[0])
        err = check_block(r.jd, here, "revoke", "block number", blkno)
        if err:
            return err
        e = table_put(&r.revokes, blkno)
        if e == NULL:
            return -ENOMEM
        e.lin = lin
        r.d_count -= 1
        offset += 8
    return 0


cdef int take_copy(replay* r, uint32_t lin, const uint8_t* p) noexcept nogil:
    """Note that the block at `lin` is the newest copy of what its descriptor says."""
    cdef const gfs2_meta_header* mh = <const gfs2_meta_header*> p
    cdef const uint64_t* ptrs = <const uint64_t*> (r.desc + SIZEOF_LOG_DESCRIPTOR)
    cdef uint32_t nth = r.d_pos - 1
    cdef uint64_t here = journal_block(r.jd, log_pos(r, lin - r.d_pos))
    cdef uint64_t blkno
    cdef uint32_t kind
    cdef entry* e
    cdef int err
    if nth >= r.d_count:
        return 0                # padding behind the copies
    if r.d_type == <uint32_t> GFS2_LOG_DESC_METADATA:
        blkno = be64toh(ptrs[nth])
        kind = C_META
        r.st.found_meta += 1
        if be32toh(mh.mh_magic) != <uint32_t> GFS2_MAGIC:
            kind |= C_BAD
        elif be32toh(mh.mh_type) == <uint32_t> GFS2_METATYPE_RG:
            kind |= C_RGRP
    else:
        blkno = be64toh(ptrs[2 * nth])
        kind = C_JDATA | (C_ESCAPED if ptrs[2 * nth + 1] else 0)
        r.st.found_data += 1
    err = check_target(r, here, blkno)
    if err:
        return err
    e = table_put(&r.copies, blkno)
    if e == NULL:
        return -ENOMEM
    e.lin = lin
    e.kind = kind
    e.magic = be32toh(mh.mh_magic)
    return 0


cdef int walk_log(replay* r) noexcept nogil:
    """Read everything from the tail to the head and fill the two tables."""
    cdef uint32_t lin = 0
    cdef uint8_t* p = NULL
    cdef int err = 0
    r.d_len = 0
    r.d_pos = 0
    while lin < r.active and not err:
        err = log_at(r, lin, &p)
        if err:
            break
        if r.d_pos == r.d_len:
            err = begin_descriptor(r, lin, p)
        else:
            if r.d_type != <uint32_t> GFS2_LOG_DESC_REVOKE:
                err = take_copy(r, lin, p)
            elif r.d_count:
                err = check_meta(r.jd, journal_block(r.jd, log_pos(r, lin)), p, GFS2_METATYPE_LB,
                                 "log block of revokes")
                if not err:
                    err = take_revokes(r, lin, p, SIZEOF_META_HEADER)
            r.d_pos += 1
        lin += 1
        r.st.walked = lin
    return err


# -- writing in place -------------------------------------------------------------------------------------------------

cdef int by_blkno(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const entry*> a).blkno
    cdef uint64_t y = (<const entry*> b).blkno
    return -1 if x < y else (1 if x > y else 0)


cdef int choose(replay* r) noexcept nogil:
    """From the tables, what is to be written, sorted by address; every block of it was found sound."""
    cdef uint64_t i
    cdef entry* e
    cdef entry* revoke
    r.todo = <entry*> malloc((r.copies.count + 1) * sizeof(entry))
    if r.todo == NULL:
        return -ENOMEM
    if r.copies.slots != NULL:
        for i in range(r.copies.mask + 1):
            e = &r.copies.slots[i]
            if e.blkno == 0:
                continue
            revoke = table_get(&r.revokes, e.blkno)
            if revoke != NULL and e.lin < revoke.lin:
                r.st.revoked += 1
                continue
            if e.kind & C_BAD:
                return damage(r.jd, journal_block(r.jd, log_pos(r, e.lin)), "metadata in the journal", "mh_magic",
                              GFS2_MAGIC, e.magic)
            r.todo[r.n_todo] = e[0]
            r.n_todo += 1
    qsort(r.todo, r.n_todo, sizeof(entry), by_blkno)
    r.st.revokes = <uint32_t> r.revokes.count
    r.st.replayed = r.n_todo
    return 0


cdef int count_stale_rgrps(replay* r, const entry* todo, const bio_seg* segs, uint32_t n) noexcept nogil:
    """Count resource groups whose generation on the disk is ahead of the journal's: a sign of writes that were not
    ordered by locks. Like the kernel's it is a report, not an error."""
    cdef uint32_t i
    cdef int err = 0
    cdef uint8_t* block = <uint8_t*> dev_alloc(r.jd.bsize)
    cdef const gfs2_rgrp* old = <const gfs2_rgrp*> block
    if block == NULL:
        return -ENOMEM
    for i in range(n):
        if not todo[i].kind & C_RGRP:
            continue
        err = r.jd.dev.ops.read(r.jd.dev, segs[i].off, block, r.jd.bsize)
        if err:
            break
        if (be32toh(old.rg_header.mh_magic) == <uint32_t> GFS2_MAGIC
                and be32toh(old.rg_header.mh_type) == <uint32_t> GFS2_METATYPE_RG
                and be64toh(old.rg_igeneration) > be64toh((<const gfs2_rgrp*> segs[i].buf).rg_igeneration)):
            r.st.stale_rgrps += 1
    dev_free(block)
    return err


cdef int write_chunk(replay* r, const entry* todo, uint32_t n, uint8_t* buf, bio_seg* segs, bint dry) noexcept nogil:
    """Put `n` blocks in place. `buf`: where to read them again, or NULL when the whole log is in the window."""
    cdef uint32_t bsize = r.jd.bsize
    cdef uint32_t i
    cdef int err
    for i in range(n):
        segs[i].len = bsize
        segs[i].res = 0
        segs[i].off = journal_block(r.jd, log_pos(r, todo[i].lin)) * bsize
        segs[i].buf = r.window + <uint64_t> todo[i].lin * bsize if buf == NULL else buf + <uint64_t> i * bsize
    if buf != NULL:
        err = r.jd.dev.ops.readv(r.jd.dev, segs, n)
        if err:
            return err
    for i in range(n):
        # A second look at what was checked while reading: the disk may give something else the second time.
        if todo[i].kind & C_META and be32toh((<gfs2_meta_header*> segs[i].buf).mh_magic) != <uint32_t> GFS2_MAGIC:
            return damage(r.jd, segs[i].off // bsize, "metadata in the journal", "mh_magic", GFS2_MAGIC,
                          be32toh((<gfs2_meta_header*> segs[i].buf).mh_magic))
        if todo[i].kind & C_ESCAPED:
            (<gfs2_meta_header*> segs[i].buf).mh_magic = htobe32(GFS2_MAGIC)
        segs[i].off = todo[i].blkno * bsize
    err = count_stale_rgrps(r, todo, segs, n)
    if err or dry:
        return err
    return r.jd.dev.ops.writev(r.jd.dev, segs, n)


cdef int write_all(replay* r, bint dry) noexcept nogil:
    cdef uint32_t chunk = CHUNK_BYTES // r.jd.bsize
    cdef bint kept = r.win_n == r.active
    cdef uint32_t done = 0
    cdef uint32_t n
    cdef int err = 0
    cdef uint8_t* buf = NULL
    cdef bio_seg* segs = <bio_seg*> malloc(chunk * sizeof(bio_seg))
    if not kept:
        buf = <uint8_t*> dev_alloc(CHUNK_BYTES)
    if segs == NULL or (buf == NULL and not kept):
        free(segs)
        dev_free(buf)
        return -ENOMEM
    while done < r.n_todo and not err:
        n = r.n_todo - done if r.n_todo - done < chunk else chunk
        err = write_chunk(r, r.todo + done, n, buf, segs, dry)
        done += n
        r.st.written = done
    free(segs)
    dev_free(buf)
    return err


cdef int journal_replay(jdesc* jd, const jhead* head, bint dry_run, jstats* st) noexcept nogil:
    cdef replay r
    cdef uint64_t began = now_ns()
    cdef int err
    memset(st, 0, sizeof(jstats))
    memset(&r, 0, sizeof(replay))
    if head.tail >= jd.nblocks or head.blkno >= jd.nblocks:
        return damage(jd, journal_block(jd, 0), "log header", "lh_tail", jd.nblocks, head.tail)
    r.jd = jd
    r.st = st
    r.tail = head.tail
    r.active = head.blkno - head.tail if head.blkno >= head.tail else jd.nblocks - head.tail + head.blkno
    st.log_blocks = r.active
    if r.active == 0:
        return 0
    r.win_cap = KEEP_BYTES // jd.bsize
    if r.win_cap > r.active:
        r.win_cap = r.active
    r.window = <uint8_t*> dev_alloc(<uint64_t> r.win_cap * jd.bsize)
    r.desc = <uint8_t*> malloc(jd.bsize)
    err = -ENOMEM
    if r.window != NULL and r.desc != NULL:
        err = walk_log(&r)
    if not err:
        err = choose(&r)
    st.read_ns = now_ns() - began
    if not err and r.n_todo:
        err = write_all(&r, dry_run)
        if not err and not dry_run:
            err = jd.dev.ops.flush(jd.dev)
    st.write_ns = now_ns() - began - st.read_ns
    dev_free(r.window)
    free(r.desc)
    free(r.todo)
    free(r.copies.slots)
    free(r.revokes.slots)
    return err


# -- after the replay -------------------------------------------------------------------------------------------------

cdef int statfs_block(jdesc* jd, uint64_t addr, uint8_t* block, const char* structure) noexcept nogil:
    """Read a dinode that holds a struct gfs2_statfs_change inline."""
    cdef const gfs2_dinode* di = <const gfs2_dinode*> block
    cdef int err = read_dinode(jd, addr, block, structure)
    if not err and be16toh(di.di_height) != 0:
        err = damage(jd, addr, structure, "di_height", 0, be16toh(di.di_height))
    if not err and be64toh(di.di_size) < sizeof(gfs2_statfs_change):
        err = damage(jd, addr, structure, "di_size", sizeof(gfs2_statfs_change), be64toh(di.di_size))
    return err


cdef int fold_statfs(jdesc* jd, const jhead* head, uint64_t master_addr, uint64_t local_addr,
                     uint8_t* blocks) noexcept nogil:
    """Into blocks[0], blocks[1]: the master dinode with the head's changes added, the local one with none."""
    cdef uint8_t* local = blocks + jd.bsize
    cdef gfs2_statfs_change* sc = <gfs2_statfs_change*> (blocks + SIZEOF_DINODE)
    cdef int err = statfs_block(jd, master_addr, blocks, "statfs dinode")
    if not err:
        err = statfs_block(jd, local_addr, local, "statfs_change dinode")
    if not err:
        sc.sc_total = htobe64(be64toh(sc.sc_total) + <uint64_t> head.local_total)
        sc.sc_free = htobe64(be64toh(sc.sc_free) + <uint64_t> head.local_free)
        sc.sc_dinodes = htobe64(be64toh(sc.sc_dinodes) + <uint64_t> head.local_dinodes)
        memset(local + SIZEOF_DINODE, 0, sizeof(gfs2_statfs_change))
    return err


cdef int log_statfs(jdesc* jd, jhead* head, uint64_t master_addr, uint64_t local_addr, uint32_t jid,
                    uint8_t* blocks) noexcept nogil:
    """Both dinodes as a transaction behind the head, and a header that makes it the whole of the active log.

    Adding is not idempotent: were the changes only written in place, a crash before the clean header would have the
    next replay add them again. The replayed blocks are durable in place, so the old log is not needed any more, but
    stays untouched until the new header stands.
    """
    cdef uint8_t* desc = <uint8_t*> dev_alloc(jd.bsize)
    cdef gfs2_log_descriptor* ld = <gfs2_log_descriptor*> desc
    cdef uint64_t* ptr = <uint64_t*> (desc + sizeof(gfs2_log_descriptor))
    cdef uint32_t first = (head.blkno + 1) % jd.nblocks
    cdef uint32_t i
    cdef uint8_t* p
    cdef int err = 0
    if desc == NULL:
        return -ENOMEM
    memset(desc, 0, jd.bsize)
    ld.ld_header.mh_magic = htobe32(GFS2_MAGIC)
    ld.ld_header.mh_type = htobe32(GFS2_METATYPE_LD)
    ld.ld_header.mh_format = htobe32(GFS2_FORMAT_LD)
    ld.ld_header.mh_jid = htobe32(jid)
    ld.ld_type = htobe32(GFS2_LOG_DESC_METADATA)
    ld.ld_length = htobe32(3)
    ld.ld_data1 = htobe32(2)
    ptr[0] = htobe64(master_addr)
    ptr[1] = htobe64(local_addr)
    for i in range(3):
        p = desc if i == 0 else blocks + <uint64_t> (i - 1) * jd.bsize
        if not err:
            err = jd.dev.ops.write(jd.dev, journal_block(jd, (first + i) % jd.nblocks) * jd.bsize, p, jd.bsize, 0)
    dev_free(desc)
    if not err:
        err = write_header(jd, head, (first + 3) % jd.nblocks, first, 0, jid, 0, 0)
    return err


cdef int journal_statfs(jdesc* jd, jhead* head, uint64_t master_addr, uint64_t local_addr, uint32_t jid) noexcept nogil:
    cdef uint8_t* blocks
    cdef uint32_t active = (head.blkno + jd.nblocks - head.tail) % jd.nblocks + 1
    cdef bint changed = head.local_total != 0 or head.local_free != 0 or head.local_dinodes != 0
    cdef int err
    if local_addr == 0:
        local_addr = head.statfs_addr
    # A version 1 head says nothing of statfs: the local file stays for the node that mounts with this journal next.
    if master_addr == 0 or head.v1 or local_addr == 0:
        return 0
    blocks = <uint8_t*> dev_alloc(2 * <uint64_t> jd.bsize)
    if blocks == NULL:
        return -ENOMEM
    err = fold_statfs(jd, head, master_addr, local_addr, blocks)
    # No room behind the head happens only in a journal that its owner filled to the brim; then in place must do.
    if not err and changed and active + STATFS_LOG_BLOCKS <= jd.nblocks:
        err = log_statfs(jd, head, master_addr, local_addr, jid, blocks)
    if not err and changed:
        err = jd.dev.ops.write(jd.dev, master_addr * jd.bsize, blocks, jd.bsize, 0)
    if not err:
        err = jd.dev.ops.write(jd.dev, local_addr * jd.bsize, blocks + jd.bsize, jd.bsize, 0)
    dev_free(blocks)
    return err


cdef int write_header(jdesc* jd, jhead* head, uint32_t lblk, uint32_t tail, uint32_t flags, uint32_t jid, int64_t sec,
                      uint32_t nsec) noexcept nogil:
    """Flush, then the header after `head` at log block lblk, durable on return; `head` is then the new one."""
    cdef gfs2_log_header* lh
    cdef uint64_t addr = journal_block(jd, lblk)
    cdef int err
    lh = <gfs2_log_header*> dev_alloc(jd.bsize)
    if lh == NULL:
        return -ENOMEM
    memset(lh, 0, jd.bsize)
    lh.lh_header.mh_magic = htobe32(GFS2_MAGIC)
    lh.lh_header.mh_type = htobe32(GFS2_METATYPE_LH)
    lh.lh_header.mh_format = htobe32(GFS2_FORMAT_LH)
    lh.lh_header.mh_jid = htobe32(jid)
    lh.lh_sequence = htobe64(head.sequence + 1)
    lh.lh_flags = htobe32(flags)
    lh.lh_tail = htobe32(tail)
    lh.lh_blkno = htobe32(lblk)
    lh.lh_nsec = htobe32(nsec)
    lh.lh_sec = htobe64(<uint64_t> sec)
    lh.lh_addr = htobe64(addr)
    lh.lh_jinode = htobe64(jd.jinode if jd.jinode else head.jinode)
    log_header_seal(lh, jd.bsize)
    err = jd.dev.ops.flush(jd.dev)
    if not err:
        err = jd.dev.ops.write(jd.dev, addr * jd.bsize, lh, jd.bsize, DEV_FUA)
    if not err:
        take_head(head, lh)
    dev_free(lh)
    return err


cdef int journal_clean(jdesc* jd, jhead* head, uint32_t jid, int64_t sec, uint32_t nsec) noexcept nogil:
    return write_header(jd, head, (head.blkno + 1) % jd.nblocks, 0, GFS2_LOG_HEAD_UNMOUNT | GFS2_LOG_HEAD_RECOVERY, jid,
                        sec, nsec)


cdef int journal_recover(jdesc* jd, jhead* head, jstats* st, uint64_t master_addr, uint64_t local_addr, uint32_t jid,
                         int64_t sec, uint32_t nsec) noexcept nogil:
    cdef jhead after
    cdef int err
    memset(st, 0, sizeof(jstats))
    err = jhead_find(jd, head)
    if err or head.flags & <uint32_t> GFS2_LOG_HEAD_UNMOUNT:
        return err
    err = journal_replay(jd, head, False, st)
    after = head[0]
    if not err:
        err = journal_statfs(jd, &after, master_addr, local_addr, jid)
    if not err:
        err = journal_clean(jd, &after, jid, sec, nsec)
    return err


# -- for Python -------------------------------------------------------------------------------------------------------

class JournalDamage(OSError):
    """A journal on the disk is damaged; errno is EIO, the text names block, structure, field, wanted and found."""

    def __init__(self, device, block, structure, field, wanted, found):
        import errno

        text = f"block {block}: {structure}: {field}: expected {wanted:#x}, found {found:#x}"
        super().__init__(errno.EIO, text, device)
        self.block, self.structure, self.field = block, structure, field
        self.wanted, self.found = wanted, found


class JournalHead(namedtuple("JournalHead", "sequence flags tail blkno v1 jinode statfs_addr quota_addr "
                             "local_total local_free local_dinodes")):
    """The newest header of a journal; tail and blkno in log blocks, the local_* in blocks and dinodes."""

    __slots__ = ()

    @property
    def clean(self):
        """True when there is nothing to replay."""
        return bool(self.flags & GFS2_LOG_HEAD_UNMOUNT)


class ReplayStats(namedtuple("ReplayStats", "log_blocks found_meta found_data replayed revokes revoked stale_rgrps "
                             "read_ms write_ms")):
    """What a replay found and did: counts of blocks, see _recovery.pxd; times in milliseconds."""

    __slots__ = ()


cdef object head_tuple(const jhead* h):
    return JournalHead(h.sequence, h.flags, h.tail, h.blkno, bool(h.v1), h.jinode, h.statfs_addr, h.quota_addr,
                       h.local_total, h.local_free, h.local_dinodes)


cdef object stats_tuple(const jstats* s):
    return ReplayStats(s.log_blocks, s.found_meta, s.found_data, s.replayed, s.revokes, s.revoked, s.stale_rgrps,
                       s.read_ns / 1e6, s.write_ns / 1e6)


cdef class Journal:
    """A journal on a device. Raises JournalDamage, or OSError when the device fails."""
    cdef jdesc jd
    cdef readonly BlockDevice dev

    def __cinit__(self, *args, **kwargs):
        memset(&self.jd, 0, sizeof(jdesc))

    def __init__(self, BlockDevice dev not None, uint32_t bsize, uint64_t dinode_addr, uint64_t fs_blocks=0):
        """The journal whose dinode is at block `dinode_addr`; `fs_blocks` 0 means the whole device."""
        cdef int err
        if self.dev is not None:
            raise RuntimeError("a journal is initialised once")
        dev.check_open()
        self.dev = dev
        with nogil:
            err = journal_open(&self.jd, &dev.dev, bsize, fs_blocks, dinode_addr)
        self._raise(err)

    def __dealloc__(self):
        journal_close(&self.jd)

    @staticmethod
    def from_extents(BlockDevice dev not None, uint32_t bsize, extents, uint64_t fs_blocks=0):
        """A journal that lies at `extents`: [(first log block, first disk block, blocks), ...]."""
        cdef Journal j = Journal.__new__(Journal)
        cdef extent* ext
        cdef int err
        dev.check_open()
        j.dev = dev
        todo = [(int(a), int(b), int(n)) for a, b, n in extents]
        ext = <extent*> calloc(len(todo) + 1, sizeof(extent))
        if ext == NULL:
            raise MemoryError("no memory for a journal map")
        try:
            for i, (lblk, dblk, n) in enumerate(todo):
                ext[<uint32_t> i].lblk = lblk
                ext[<uint32_t> i].dblk = dblk
                ext[<uint32_t> i].len = n
            j._raise(journal_open_map(&j.jd, &dev.dev, bsize, fs_blocks, ext, <uint32_t> len(todo)))
        finally:
            free(ext)
        return j

    def _raise(self, int err):
        if err == 0:
            return
        if self.jd.err.structure != NULL:
            raise JournalDamage(self.dev.name, self.jd.err.block, self.jd.err.structure.decode(),
                                self.jd.err.field.decode(), self.jd.err.wanted, self.jd.err.found)
        raise OSError(-err, f"journal at block {self.jd.jinode}: {os.strerror(-err)}", self.dev.name)

    @property
    def blocks(self):
        """Its length in blocks."""
        return self.jd.nblocks

    @property
    def extents(self):
        """Where it lies: [(first log block, first disk block, blocks), ...]."""
        cdef uint32_t i
        return [(self.jd.ext[i].lblk, self.jd.ext[i].dblk, self.jd.ext[i].len) for i in range(self.jd.n_ext)]

    def head(self):
        """Find the newest header; returns a JournalHead."""
        cdef jhead h
        self._find(&h)
        return head_tuple(&h)

    cdef int _find(self, jhead* h) except -1:
        cdef int err
        self.dev.check_open()
        self.jd.err.structure = NULL
        with nogil:
            err = jhead_find(&self.jd, h)
        self._raise(err)
        return 0

    def replay(self, *, bint dry_run=False):
        """Put in place what lies between tail and head, whether the head is clean or not; returns ReplayStats."""
        cdef jhead h
        cdef jstats st
        cdef int err
        self._find(&h)
        with nogil:
            err = journal_replay(&self.jd, &h, dry_run, &st)
        self._raise(err)
        return stats_tuple(&st)

    def statfs(self, uint64_t master_addr, uint64_t local_addr=0):
        """Fold the head's statfs changes into the master file at `master_addr`, zero the local file. No last flush."""
        cdef jhead h
        cdef int err
        self._find(&h)
        with nogil:
            err = journal_statfs(&self.jd, &h, master_addr, local_addr, 0)
        self._raise(err)

    def clean(self, *, uint32_t jid=0, int64_t sec=0, uint32_t nsec=0):
        """Write the header with UNMOUNT|RECOVERY behind the head, as node `jid` at the time given."""
        cdef jhead h
        cdef int err
        self._find(&h)
        with nogil:
            err = journal_clean(&self.jd, &h, jid, sec, nsec)
        self._raise(err)

    def recover(self, *, uint64_t master_statfs=0, uint64_t local_statfs=0, uint32_t jid=0, int64_t sec=0,
                uint32_t nsec=0):
        """Head, replay, statfs, clean, unless it is clean already; returns (JournalHead found, ReplayStats)."""
        cdef jhead h
        cdef jstats st
        cdef int err
        self.dev.check_open()
        self.jd.err.structure = NULL
        with nogil:
            err = journal_recover(&self.jd, &h, &st, master_statfs, local_statfs, jid, sec, nsec)
        self._raise(err)
        return head_tuple(&h), stats_tuple(&st)
