"""Journals on the disk: where they lie, their head, replay, and the header that declares them clean.

Replay reads the active part of the log once, in order, and remembers for each block of the file system the position
of its newest copy and of its newest revoke. That gives what the kernel's two passes give (revokes, then copies): a
copy counts if no revoke follows it, and of the copies of a block the last one wins. Only when the whole of the log
has been found sound are the winners written, sorted by address, and flushed.
"""
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport (
    DEV_FUA, BlockDevice, bio_seg, blkdev, dev_alloc, dev_free,
)
from gfs2py.engine._incore cimport extent
from gfs2py.ondisk._checksum cimport log_header_seal, log_header_sum_ok
from gfs2py.ondisk._ondisk cimport (
    GFS2_FORMAT_LH, GFS2_LOG_DESC_JDATA, GFS2_LOG_DESC_METADATA, GFS2_LOG_DESC_REVOKE, GFS2_LOG_HEAD_RECOVERY,
    GFS2_LOG_HEAD_UNMOUNT, GFS2_MAGIC, GFS2_MAX_META_HEIGHT, GFS2_METATYPE_DI, GFS2_METATYPE_IN, GFS2_METATYPE_LB,
    GFS2_METATYPE_LD, GFS2_METATYPE_LH, GFS2_METATYPE_RG, GFS2_SB_BYTE_ADDR, SIZEOF_DINODE, SIZEOF_LOG_DESCRIPTOR,
    SIZEOF_META_HEADER, be16toh, be32toh, be64toh, gfs2_dinode, gfs2_log_descriptor, gfs2_log_header,
    gfs2_meta_header, gfs2_rgrp, gfs2_statfs_change, htobe32, htobe64,
)

import os
from typing import NamedTuple

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    enum:
        CLOCK_MONOTONIC

cdef enum:
    SCAN_BYTES = 4194304        # one batch while the head is sought
    SEG_BYTES = 1048576         # one piece of a batch
    KEEP_BYTES = 67108864       # an active log up to this size is read once and stays in memory
    CHUNK_BYTES = 16777216      # of a larger one, written per batch
    MAX_NBLOCKS = 1073741824    # log blocks of a journal; positions are 32 bits
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


cdef int damage(jdesc* jd, uint64_t block, const char* structure, const char* field, uint64_t wanted,
                uint64_t found) noexcept nogil:
    jd.err.block = block
    jd.err.structure = structure
    jd.err.field = field
    jd.err.wanted = wanted
    jd.err.found = found
    return -EIO


cdef int check_block(jdesc* jd, uint64_t holder, const char* structure, const char* field,
                     uint64_t blkno) noexcept nogil:
    """A block number read from block `holder`: behind the superblock and inside the file system."""
    if blkno > <uint64_t> GFS2_SB_BYTE_ADDR // jd.bsize and blkno < jd.fs_blocks:
        return 0
    return damage(jd, holder, structure, field, jd.fs_blocks, blkno)


cdef int check_meta(jdesc* jd, uint64_t block, const void* p, uint32_t mtype, const char* structure) noexcept nogil:
    cdef const gfs2_meta_header* mh = <const gfs2_meta_header*> p
    if be32toh(mh.mh_magic) != <uint32_t> GFS2_MAGIC:
        return damage(jd, block, structure, "mh_magic", GFS2_MAGIC, be32toh(mh.mh_magic))
    if be32toh(mh.mh_type) != mtype:
        return damage(jd, block, structure, "mh_type", mtype, be32toh(mh.mh_type))
    return 0


# -- where the journal lies -------------------------------------------------------------------------------------------

cdef int set_up(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks) noexcept nogil:
    memset(jd, 0, sizeof(jdesc))
    jd.dev = dev
    jd.bsize = bsize
    jd.fs_blocks = dev.size_bytes // bsize if bsize else 0
    if fs_blocks and fs_blocks < jd.fs_blocks:
        jd.fs_blocks = fs_blocks
    if bsize < 512 or bsize > 65536 or bsize & (bsize - 1) or bsize < dev.align:
        return -EINVAL
    return 0


cdef int add_extent(jdesc* jd, uint32_t* cap, uint64_t lblk, uint64_t dblk, uint64_t n) noexcept nogil:
    cdef extent* e
    if jd.n_ext:
        e = &jd.ext[jd.n_ext - 1]
        if e.dblk + e.len == dblk and e.lblk + e.len == lblk:
            e.len += n
            return 0
    if jd.n_ext == cap[0]:
        e = <extent*> realloc(jd.ext, (cap[0] * 2 + 16) * sizeof(extent))
        if e == NULL:
            return -ENOMEM
        jd.ext = e
        cap[0] = cap[0] * 2 + 16
    e = &jd.ext[jd.n_ext]
    e.lblk = lblk
    e.dblk = dblk
    e.len = n
    jd.n_ext += 1
    return 0


cdef int read_level(jdesc* jd, const uint64_t* at, uint64_t n_at, uint64_t* out, uint64_t n_out) noexcept nogil:
    """Read the indirect blocks `at` and gather the first n_out pointers in them, each checked."""
    cdef uint64_t inptrs = (jd.bsize - SIZEOF_META_HEADER) // 8
    cdef uint64_t batch = SCAN_BYTES // jd.bsize
    cdef uint64_t i, j, first, n, pos
    cdef uint64_t* ptrs
    cdef int err = 0
    cdef uint8_t* buf = <uint8_t*> dev_alloc(batch * jd.bsize)
    cdef bio_seg* segs = <bio_seg*> malloc(batch * sizeof(bio_seg))
    if buf == NULL or segs == NULL:
        dev_free(buf)
        free(segs)
        return -ENOMEM
    first = 0
    while first < n_at and not err:
        n = n_at - first if n_at - first < batch else batch
        for i in range(n):
            segs[i].off = at[first + i] * jd.bsize
            segs[i].len = jd.bsize
            segs[i].buf = buf + i * jd.bsize
            segs[i].res = 0
        err = jd.dev.ops.readv(jd.dev, segs, <uint32_t> n)
        i = 0
        while i < n and not err:
            err = check_meta(jd, at[first + i], buf + i * jd.bsize, GFS2_METATYPE_IN, "indirect block of a journal")
            ptrs = <uint64_t*> (buf + i * jd.bsize + SIZEOF_META_HEADER)
            for j in range(inptrs):
                pos = (first + i) * inptrs + j
                if err or pos >= n_out:
                    break
                out[pos] = be64toh(ptrs[j])
                err = check_block(jd, at[first + i], "indirect block of a journal", "pointer", out[pos])
            i += 1
        first += n
    dev_free(buf)
    free(segs)
    return err


cdef int read_dinode(jdesc* jd, uint64_t addr, uint8_t* block, const char* structure) noexcept nogil:
    """Read a dinode and check that it is one and means itself."""
    cdef const gfs2_dinode* di = <const gfs2_dinode*> block
    cdef int err = check_block(jd, addr, structure, "address", addr)
    if not err:
        err = jd.dev.ops.read(jd.dev, addr * jd.bsize, block, jd.bsize)
    if not err:
        err = check_meta(jd, addr, block, GFS2_METATYPE_DI, structure)
    if not err and be64toh(di.di_num.no_addr) != addr:
        err = damage(jd, addr, structure, "no_addr", addr, be64toh(di.di_num.no_addr))
    return err


cdef uint64_t level_count(const jdesc* jd, uint32_t below) noexcept nogil:
    """How many pointers the level has that is `below` levels of indirect blocks away from the log blocks."""
    cdef uint64_t n = jd.nblocks
    cdef uint64_t inptrs = (jd.bsize - SIZEOF_META_HEADER) // 8
    while below:
        n = (n + inptrs - 1) // inptrs
        below -= 1
    return n


cdef int map_tree(jdesc* jd, uint8_t* block, uint32_t height) noexcept nogil:
    """Fill jd.ext from the dinode in `block`, level by level; every pointer of a journal must be there."""
    cdef uint64_t diptrs = (jd.bsize - SIZEOF_DINODE) // 8
    cdef uint64_t i, more
    cdef uint64_t n = level_count(jd, height - 1)
    cdef uint64_t* level
    cdef uint64_t* below
    cdef uint32_t cap = 0
    cdef int err = 0
    if n > diptrs:
        return damage(jd, jd.jinode, "dinode of a journal", "di_height", diptrs, n)
    level = <uint64_t*> malloc((n + 1) * sizeof(uint64_t))
    if level == NULL:
        return -ENOMEM
    for i in range(n):
        level[i] = be64toh((<uint64_t*> (block + SIZEOF_DINODE))[i])
        if not err:
            err = check_block(jd, jd.jinode, "dinode of a journal", "pointer", level[i])
    while height > 1 and not err:
        height -= 1
        more = level_count(jd, height - 1)
        below = <uint64_t*> malloc((more + 1) * sizeof(uint64_t))
        if below == NULL:
            err = -ENOMEM
            break
        err = read_level(jd, level, n, below, more)
        free(level)
        level = below
        n = more
    i = 0
    while i < n and not err:
        err = add_extent(jd, &cap, i, level[i], 1)
        i += 1
    free(level)
    return err


cdef int journal_open(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, uint64_t addr) noexcept nogil:
    cdef uint8_t* block
    cdef const gfs2_dinode* di
    cdef uint64_t size
    cdef uint32_t height
    cdef int err = set_up(jd, dev, bsize, fs_blocks)
    if err:
        return err
    block = <uint8_t*> dev_alloc(bsize)
    if block == NULL:
        return -ENOMEM
    jd.jinode = addr
    di = <const gfs2_dinode*> block
    err = read_dinode(jd, addr, block, "dinode of a journal")
    if not err:
        size = be64toh(di.di_size)
        height = be16toh(di.di_height)
        if size % bsize or size // bsize < 2 or size // bsize > MAX_NBLOCKS or size // bsize > jd.fs_blocks:
            err = damage(jd, addr, "dinode of a journal", "di_size", jd.fs_blocks * bsize, size)
        elif height < 1 or height > <uint32_t> GFS2_MAX_META_HEIGHT:
            err = damage(jd, addr, "dinode of a journal", "di_height", 1, height)
        else:
            jd.nblocks = <uint32_t> (size // bsize)
            err = map_tree(jd, block, height)
    dev_free(block)
    return err


cdef int journal_open_map(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, const extent* ext,
                          uint32_t n_ext) noexcept nogil:
    cdef uint32_t i, cap = 0
    cdef uint64_t lblk = 0
    cdef int err = set_up(jd, dev, bsize, fs_blocks)
    for i in range(n_ext):
        if err:
            return err
        if ext[i].lblk != lblk or ext[i].len == 0 or ext[i].len > MAX_NBLOCKS - lblk:
            return -EINVAL
        err = check_block(jd, 0, "journal map", "block", ext[i].dblk)
        if not err and ext[i].len > jd.fs_blocks - ext[i].dblk:
            err = damage(jd, 0, "journal map", "block", jd.fs_blocks, ext[i].dblk + ext[i].len)
        if not err:
            err = add_extent(jd, &cap, lblk, ext[i].dblk, ext[i].len)
        lblk += ext[i].len
    if not err and lblk < 2:
        err = -EINVAL
    jd.nblocks = <uint32_t> lblk
    return err


cdef void journal_close(jdesc* jd) noexcept nogil:
    free(jd.ext)
    jd.ext = NULL
    jd.n_ext = 0
    jd.nblocks = 0


cdef uint32_t find_extent(const jdesc* jd, uint32_t lblk) noexcept nogil:
    cdef uint32_t lo = 0
    cdef uint32_t hi = jd.n_ext - 1
    cdef uint32_t mid
    while lo < hi:
        mid = lo + (hi - lo + 1) // 2
        if jd.ext[mid].lblk <= lblk:
            lo = mid
        else:
            hi = mid - 1
    return lo


cdef uint64_t journal_block(const jdesc* jd, uint32_t lblk) noexcept nogil:
    cdef const extent* e = &jd.ext[find_extent(jd, lblk)]
    return e.dblk + (lblk - e.lblk)


cdef int read_log(jdesc* jd, uint32_t lblk, uint32_t n, uint8_t* buf) noexcept nogil:
    """Read `n` log blocks from `lblk`, going on at block 0 behind the last one, as one batch."""
    cdef uint32_t per_seg = SEG_BYTES // jd.bsize
    cdef uint32_t cap = n // per_seg + 2 * jd.n_ext + 4
    cdef uint32_t n_segs = 0
    cdef uint32_t at
    cdef uint64_t take
    cdef const extent* e
    cdef int err
    cdef bio_seg* segs = <bio_seg*> malloc(cap * sizeof(bio_seg))
    if segs == NULL:
        return -ENOMEM
    at = find_extent(jd, lblk)
    err = 0
    while n and not err:
        e = &jd.ext[at]
        take = e.lblk + e.len - lblk
        if take > n:
            take = n
        if take > per_seg:
            take = per_seg
        segs[n_segs].off = (e.dblk + (lblk - e.lblk)) * jd.bsize
        segs[n_segs].len = take * jd.bsize
        segs[n_segs].buf = buf
        segs[n_segs].res = 0
        n_segs += 1
        buf += take * jd.bsize
        n -= <uint32_t> take
        lblk += <uint32_t> take
        if lblk == jd.nblocks:
            lblk = 0
            at = 0
        elif lblk >= e.lblk + e.len:
            at += 1
        if n_segs == cap:
            err = jd.dev.ops.readv(jd.dev, segs, n_segs)
            n_segs = 0
    if not err and n_segs:
        err = jd.dev.ops.readv(jd.dev, segs, n_segs)
    free(segs)
    return err


# -- the head ---------------------------------------------------------------------------------------------------------

cdef bint header_ok(const jdesc* jd, const void* p, uint32_t lblk) noexcept nogil:
    """A complete log header that belongs at this place of the log."""
    cdef const gfs2_log_header* lh = <const gfs2_log_header*> p
    return (be32toh(lh.lh_header.mh_magic) == <uint32_t> GFS2_MAGIC
            and be32toh(lh.lh_header.mh_type) == <uint32_t> GFS2_METATYPE_LH
            and be32toh(lh.lh_blkno) == lblk and be32toh(lh.lh_tail) < jd.nblocks
            and log_header_sum_ok(lh, jd.bsize) != 0)


cdef void take_head(jhead* head, const void* p) noexcept nogil:
    cdef const gfs2_log_header* lh = <const gfs2_log_header*> p
    head.sequence = be64toh(lh.lh_sequence)
    head.flags = be32toh(lh.lh_flags)
    head.tail = be32toh(lh.lh_tail)
    head.blkno = be32toh(lh.lh_blkno)
    head.v1 = lh.lh_crc == 0
    head.jinode = be64toh(lh.lh_jinode)
    head.statfs_addr = be64toh(lh.lh_statfs_addr)
    head.quota_addr = be64toh(lh.lh_quota_addr)
    head.local_total = <int64_t> be64toh(lh.lh_local_total)
    head.local_free = <int64_t> be64toh(lh.lh_local_free)
    head.local_dinodes = <int64_t> be64toh(lh.lh_local_dinodes)


cdef int jhead_find(jdesc* jd, jhead* head) noexcept nogil:
    """Scan the log for the valid header with the highest sequence.

    The log is a ring: from block 0 the sequences rise up to the head and are lower behind it, so the scan ends at
    the first header below the highest.
    """
    cdef uint32_t batch = SCAN_BYTES // jd.bsize
    cdef uint32_t lblk = 0
    cdef uint32_t n, i
    cdef uint64_t seq
    cdef uint8_t* p
    cdef bint done = False
    cdef int err = 0
    cdef uint8_t* buf = <uint8_t*> dev_alloc(SCAN_BYTES)
    memset(head, 0, sizeof(jhead))
    if buf == NULL:
        return -ENOMEM
    while lblk < jd.nblocks and not done and not err:
        n = jd.nblocks - lblk if jd.nblocks - lblk < batch else batch
        err = read_log(jd, lblk, n, buf)
        i = 0
        while i < n and not done and not err:
            p = buf + <uint64_t> i * jd.bsize
            if header_ok(jd, p, lblk + i):
                seq = be64toh((<gfs2_log_header*> p).lh_sequence)
                if head.n_headers and seq < head.sequence:
                    done = True
                else:
                    take_head(head, p)
                    head.n_headers += 1
            i += 1
        lblk += n
    dev_free(buf)
    if not err and head.n_headers == 0:
        err = damage(jd, journal_block(jd, 0), "journal", "valid log headers", 1, 0)
    return err


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
                err = check_meta(r.jd, journal_block(r.jd, log_pos(r, lin)), p, GFS2_METATYPE_LB, "log block of revokes")
                if not err:
                    err = take_revokes(r, lin, p, SIZEOF_META_HEADER)
            r.d_pos += 1
        lin += 1
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


cdef int journal_statfs(jdesc* jd, const jhead* head, uint64_t master_addr, uint64_t local_addr) noexcept nogil:
    cdef uint8_t* master
    cdef uint8_t* local
    cdef gfs2_statfs_change* sc
    cdef bint changed = head.local_total != 0 or head.local_free != 0 or head.local_dinodes != 0
    cdef int err = 0
    if local_addr == 0:
        local_addr = head.statfs_addr
    # A version 1 head says nothing of statfs: the local file stays for the node that mounts with this journal next.
    if master_addr == 0 or head.v1 or local_addr == 0:
        return 0
    master = <uint8_t*> dev_alloc(jd.bsize)
    local = <uint8_t*> dev_alloc(jd.bsize)
    if master == NULL or local == NULL:
        err = -ENOMEM
    if not err:
        err = statfs_block(jd, master_addr, master, "statfs dinode")
    if not err:
        err = statfs_block(jd, local_addr, local, "statfs_change dinode")
    if not err and changed:
        sc = <gfs2_statfs_change*> (master + SIZEOF_DINODE)
        sc.sc_total = htobe64(be64toh(sc.sc_total) + <uint64_t> head.local_total)
        sc.sc_free = htobe64(be64toh(sc.sc_free) + <uint64_t> head.local_free)
        sc.sc_dinodes = htobe64(be64toh(sc.sc_dinodes) + <uint64_t> head.local_dinodes)
        err = jd.dev.ops.write(jd.dev, master_addr * jd.bsize, master, jd.bsize, 0)
    if not err:
        memset(local + SIZEOF_DINODE, 0, sizeof(gfs2_statfs_change))
        err = jd.dev.ops.write(jd.dev, local_addr * jd.bsize, local, jd.bsize, 0)
    dev_free(master)
    dev_free(local)
    return err


cdef int journal_clean(jdesc* jd, jhead* head, uint32_t jid, int64_t sec, uint32_t nsec) noexcept nogil:
    cdef gfs2_log_header* lh
    cdef uint32_t lblk = head.blkno + 1 if head.blkno + 1 < jd.nblocks else 0
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
    lh.lh_flags = htobe32(GFS2_LOG_HEAD_UNMOUNT | GFS2_LOG_HEAD_RECOVERY)
    lh.lh_tail = 0
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


cdef int journal_recover(jdesc* jd, jhead* head, jstats* st, uint64_t master_addr, uint64_t local_addr, uint32_t jid,
                         int64_t sec, uint32_t nsec) noexcept nogil:
    cdef jhead after
    cdef int err
    memset(st, 0, sizeof(jstats))
    err = jhead_find(jd, head)
    if err or head.flags & <uint32_t> GFS2_LOG_HEAD_UNMOUNT:
        return err
    err = journal_replay(jd, head, False, st)
    if not err:
        err = journal_statfs(jd, head, master_addr, local_addr)
    if not err:
        after = head[0]
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


class JournalHead(NamedTuple):
    """The newest header of a journal; tail and blkno in log blocks, the local_* in blocks and dinodes."""

    sequence: int
    flags: int
    tail: int
    blkno: int
    v1: bool
    jinode: int
    statfs_addr: int
    quota_addr: int
    local_total: int
    local_free: int
    local_dinodes: int

    @property
    def clean(self):
        """True when there is nothing to replay."""
        return bool(self.flags & GFS2_LOG_HEAD_UNMOUNT)


class ReplayStats(NamedTuple):
    """What a replay found and did: counts of blocks, see _recovery.pxd; times in milliseconds."""

    log_blocks: int
    found_meta: int
    found_data: int
    replayed: int
    revokes: int
    revoked: int
    stale_rgrps: int
    read_ms: float
    write_ms: float


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
        """Fold the head's statfs changes into the master file at `master_addr`, zero the local file. No flush."""
        cdef jhead h
        cdef int err
        self._find(&h)
        with nogil:
            err = journal_statfs(&self.jd, &h, master_addr, local_addr)
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
