"""Where a journal lies on the disk, and its head: the newest log header."""
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from gfs2py.block._device cimport bio_seg, blkdev, dev_alloc, dev_free
from gfs2py.engine._incore cimport extent
from gfs2py.ondisk._checksum cimport log_header_sum_ok
from gfs2py.ondisk._ondisk cimport (
    GFS2_MAGIC, GFS2_MAX_META_HEIGHT, GFS2_METATYPE_DI, GFS2_METATYPE_IN, GFS2_METATYPE_LH, GFS2_SB_BYTE_ADDR,
    SIZEOF_DINODE, SIZEOF_META_HEADER, be16toh, be32toh, be64toh, gfs2_dinode, gfs2_log_header, gfs2_meta_header,
)

cdef enum:
    SCAN_BYTES = 4194304        # one batch while the head is sought or the tree is read
    SCAN_FIRST_BYTES = 131072   # the first batch of a scan
    PROBE_BYTES = 16384         # of a look for one header
    SEG_BYTES = 1048576         # one piece of a batch
    MAX_NBLOCKS = 1073741824    # log blocks of a journal; positions are 32 bits


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


cdef int scan_headers(jdesc* jd, uint8_t* buf, uint32_t lblk, uint32_t end, uint32_t batch, jhead* head,
                      bint* done) noexcept nogil:
    """Take the newest header of log blocks `lblk` to `end` into `head`; `done` when one is older than that.

    Batches of `batch` blocks, growing: what is sought is often near.
    """
    cdef uint32_t n, i
    cdef uint64_t seq
    cdef uint8_t* p
    cdef int err = 0
    while lblk < end and not done[0] and not err:
        n = end - lblk if end - lblk < batch else batch
        err = read_log(jd, lblk, n, buf)
        i = 0
        while i < n and not done[0] and not err:
            p = buf + <uint64_t> i * jd.bsize
            if header_ok(jd, p, lblk + i):
                seq = be64toh((<gfs2_log_header*> p).lh_sequence)
                if head.n_headers and seq < head.sequence:
                    done[0] = True
                else:
                    take_head(head, p)
                    head.n_headers += 1
            i += 1
        lblk += n
        if batch < <uint32_t> SCAN_BYTES // jd.bsize:
            batch *= 2
    return err


cdef int first_header(jdesc* jd, uint8_t* buf, uint32_t lblk, uint32_t end, jhead* found) noexcept nogil:
    """The first header in log blocks `lblk` to `end`, into `found`, whose n_headers is 0 when there is none."""
    cdef uint32_t batch = PROBE_BYTES // jd.bsize
    cdef uint32_t n, i
    cdef uint8_t* p
    cdef int err = 0
    found.n_headers = 0
    while lblk < end and not found.n_headers and not err:
        n = end - lblk if end - lblk < batch else batch
        err = read_log(jd, lblk, n, buf)
        i = 0
        while i < n and not found.n_headers and not err:
            p = buf + <uint64_t> i * jd.bsize
            if header_ok(jd, p, lblk + i):
                take_head(found, p)
                found.n_headers = 1
            i += 1
        lblk += n
        if batch < <uint32_t> SCAN_BYTES // jd.bsize:
            batch *= 2
    return err


cdef int jhead_find(jdesc* jd, jhead* head) noexcept nogil:
    """The valid header with the highest sequence.

    The log is a ring: from block 0 the sequences rise up to the head and are lower behind it, as a header is written
    only when all before it is durable. So a header not below the first one lies before the head or is it: halving
    finds its neighbourhood, and the scan from there ends at the first header below the highest.
    """
    cdef uint32_t first = SCAN_FIRST_BYTES // jd.bsize
    cdef uint32_t lo, hi, mid
    cdef uint64_t lowest
    cdef jhead at
    cdef bint done = False
    cdef int err
    cdef uint8_t* buf = <uint8_t*> dev_alloc(SCAN_BYTES)
    memset(head, 0, sizeof(jhead))
    if buf == NULL:
        return -ENOMEM
    memset(&at, 0, sizeof(jhead))
    err = first_header(jd, buf, 0, jd.nblocks, &at)
    lowest = at.sequence
    lo = at.blkno if at.n_headers else 0
    hi = jd.nblocks
    while not err and at.n_headers and hi - lo > first:
        mid = lo + (hi - lo) // 2
        err = first_header(jd, buf, mid, hi, &at)
        if not at.n_headers or at.sequence < lowest:
            hi = mid
            at.n_headers = 1
        else:
            lo = at.blkno
    if not err:
        err = scan_headers(jd, buf, lo, jd.nblocks, first, head, &done)
    dev_free(buf)
    if not err and head.n_headers == 0:
        err = damage(jd, journal_block(jd, 0), "journal", "valid log headers", 1, 0)
    return err
