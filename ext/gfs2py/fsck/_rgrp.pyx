"""Resource groups. Source of the rules: fs/gfs2/rgrp.c, gfs2-utils gfs2/fsck/initialize.c and pass5.c.

An rindex entry that cannot be right is replaced by what the group's own header says, if one is found where it
should be; otherwise the group is left out and its blocks count as outside of the file system.
"""
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from gfs2py.fsck._file cimport MAX_BSIZE, dir_lookup, file_ptrs, file_read, read_dinode
from gfs2py.fsck._state cimport *
from gfs2py.ondisk._checksum cimport rgrp_crc
from gfs2py.ondisk._ondisk cimport *

cdef extern from *:
    int __builtin_popcountll(unsigned long long x) noexcept nogil

cdef enum:
    READ_AHEAD = 256            # bitmap blocks per wave


cdef int _cmp_rgrp(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const rgrp*>a).addr, y = (<const rgrp*>b).addr
    return -1 if x < y else (1 if x > y else 0)


cdef uint64_t _bitmap_blocks(fsck* fs, uint64_t bitbytes) noexcept nogil:
    """Blocks that header and bitmap of a group take."""
    cdef uint64_t per = fs.bsize - SIZEOF_META_HEADER
    if bitbytes <= fs.bsize - SIZEOF_RGRP:
        return 1
    return 1 + (bitbytes - (fs.bsize - SIZEOF_RGRP) + per - 1) // per


cdef int _sane(fsck* fs, const rgrp* rg) noexcept nogil:
    if rg.addr <= fs.sb_block or rg.length == 0 or rg.data == 0 or rg.addr >= fs.dev_blocks:
        return 0
    if rg.data0 != rg.addr + rg.length or rg.data0 >= fs.dev_blocks or rg.data > fs.dev_blocks - rg.data0:
        return 0
    if <uint64_t>rg.bitbytes * 4 != rg.data:
        return 0
    return rg.length == _bitmap_blocks(fs, rg.bitbytes)


cdef int _from_header(fsck* fs, uint64_t addr, rgrp* rg) noexcept nogil:
    """The geometry that a group's header tells, if there is a sound header at `addr`: 1, else 0."""
    cdef char buf[MAX_BSIZE]
    cdef const gfs2_rgrp* h = <const gfs2_rgrp*>&buf[0]
    if addr <= fs.sb_block or addr >= fs.dev_blocks or read_block(fs, addr, buf):
        return 0
    if be32toh(h.rg_header.mh_magic) != GFS2_MAGIC or be32toh(h.rg_header.mh_type) != GFS2_METATYPE_RG:
        return 0
    if h.rg_data0 == 0 or be64toh(h.rg_data0) <= addr or be64toh(h.rg_data0) - addr > 0xFFFFFF:
        return 0
    rg.addr = addr
    rg.data0 = be64toh(h.rg_data0)
    rg.length = <uint32_t>(rg.data0 - addr)
    rg.data = be32toh(h.rg_data)
    rg.bitbytes = be32toh(h.rg_bitbytes)
    return _sane(fs, rg)


cdef int _mend(fsck* fs, rgrp* rg, uint64_t prev) noexcept nogil:
    """Find the group that a broken index entry meant: by its own fields, or by the skip of the one before."""
    cdef char buf[MAX_BSIZE]
    cdef const gfs2_rgrp* h = <const gfs2_rgrp*>&buf[0]
    cdef rgrp was = rg[0]
    cdef rgrp before
    if _from_header(fs, was.addr, rg):
        return 1
    if was.data0 > was.length and _from_header(fs, was.data0 - was.length, rg):
        return 1
    if prev == 0:
        return _from_header(fs, fs.sb_block + 1, rg)
    if read_block(fs, prev, buf) == 0 and be32toh(h.rg_skip) \
            and _from_header(fs, prev + be32toh(h.rg_skip), rg):
        return 1
    if _from_header(fs, prev, &before) and _from_header(fs, before.data0 + before.data, rg):
        return 1
    return 0


cdef uint64_t _keep_sound(fsck* fs, const char* di, uint64_t rindex, uint64_t n) noexcept nogil:
    """Check the entries that were read into fs.rg; returns how many (mended ones too) remain."""
    cdef uint64_t i, kept = 0, at, prev = 0
    cdef rgrp was
    cdef finding* f
    for i in range(n):
        was = fs.rg[i]
        if not _sane(fs, &was):
            at = rindex
            if be16toh((<const gfs2_dinode*>di).di_height) \
                    and file_ptrs(fs, di, i * 96 // fs.bsize, &at, 1) != 1:
                at = rindex
            f = report(fs, K_RINDEX_ENTRY, at, rindex, 0, was.addr)
            if f != NULL:
                f.aux = i
            if not _mend(fs, &was, prev):
                continue
            if f != NULL:
                f.wanted = was.addr
        prev = was.addr
        fs.rg[kept] = was
        kept += 1
    return kept


cdef void _check_layout(fsck* fs, uint64_t rindex) noexcept nogil:
    """Groups that overlap (the later one goes) and room between two of them that a group would fill."""
    cdef uint64_t i, kept = 0, end = fs.sb_block + 1
    cdef rgrp* rg
    cdef finding* f
    for i in range(fs.n_rg):
        rg = &fs.rg[i]
        if rg.addr < end:
            f = report(fs, K_RINDEX_OVERLAP, rg.addr, rindex, end, rg.addr)
            if f != NULL:
                f.aux = i
            continue
        if kept and rg.addr - end >= fs.rg[kept - 1].data // 2 and rg.addr - end > 1024:
            f = report(fs, K_RINDEX_GAP, end, rindex, end, rg.addr)
            if f != NULL:
                f.aux = i
        end = rg.data0 + rg.data
        fs.rg[kept] = rg[0]
        kept += 1
    fs.n_rg = kept
    fs.max_block = end - 1


cdef int _alloc_chunks(fsck* fs) noexcept nogil:
    cdef uint64_t i, k, n = 0, first, left, per
    cdef chunk* c
    for i in range(fs.n_rg):
        fs.rg[i].chunk0 = n
        n += fs.rg[i].length
    fs.ch = <chunk*>calloc(n + 1, sizeof(chunk))
    if fs.ch == NULL:
        return -ENOMEM
    fs.n_ch = n
    for i in range(fs.n_rg):
        first = fs.rg[i].data0
        left = fs.rg[i].data
        for k in range(fs.rg[i].length):
            c = &fs.ch[fs.rg[i].chunk0 + k]
            per = <uint64_t>(fs.bsize - (SIZEOF_RGRP if k == 0 else SIZEOF_META_HEADER)) * 4
            c.first = first
            c.n_blocks = <uint32_t>(per if per < left else left)
            first += c.n_blocks
            left -= c.n_blocks
    return 0


cdef int load_rindex(fsck* fs) noexcept nogil:
    """Read the index of resource groups. 0; -errno when there is none to work with (findings say why)."""
    cdef char di[MAX_BSIZE]
    cdef gfs2_rindex ri
    cdef uint64_t rindex, size, n, i, most
    cdef int64_t got
    cdef char* all_entries
    rindex = dir_lookup(fs, fs.master, b"rindex", 6)
    if rindex == 0 or read_dinode(fs, rindex, di):
        report(fs, K_RINDEX_MISSING, fs.master, fs.master, 0, rindex)
        return -EINVAL
    size = be64toh((<gfs2_dinode*>&di[0]).di_size)
    # Groups have tens of megabytes; one per megabyte is more than any tool makes.
    most = (fs.dev.size_bytes >> 20) + 64
    if size % 96 or size == 0 or size // 96 > most:
        report(fs, K_RINDEX_SIZE, rindex, rindex, size - size % 96, size)
    n = size // 96 if size // 96 < most else most
    if n == 0:
        return -EINVAL
    fs.rg = <rgrp*>calloc(n, sizeof(rgrp))
    all_entries = <char*>malloc(n * 96)
    if fs.rg == NULL or all_entries == NULL:
        free(all_entries)
        return -ENOMEM
    got = file_read(fs, di, 0, all_entries, n * 96, 0)
    if got < 0:
        free(all_entries)
        report(fs, K_RINDEX_MISSING, rindex, rindex, 0, rindex)
        return -EIO
    n = <uint64_t>got // 96
    for i in range(n):
        memcpy(&ri, all_entries + i * 96, sizeof(gfs2_rindex))
        fs.rg[i].addr = be64toh(ri.ri_addr)
        fs.rg[i].length = be32toh(ri.ri_length)
        fs.rg[i].data0 = be64toh(ri.ri_data0)
        fs.rg[i].data = be32toh(ri.ri_data)
        fs.rg[i].bitbytes = be32toh(ri.ri_bitbytes)
    free(all_entries)
    fs.n_rg = _keep_sound(fs, di, rindex, n)
    qsort(fs.rg, fs.n_rg, sizeof(rgrp), _cmp_rgrp)
    _check_layout(fs, rindex)
    if fs.n_rg == 0:
        return -EINVAL
    return _alloc_chunks(fs)


# ---- bitmaps ----

cdef int _take_bits(rgrp* rg, chunk* c, const uint8_t* bits) noexcept nogil:
    """Count a bitmap block's states and keep a copy of it if anything in it is in use."""
    cdef uint32_t n_bytes = (c.n_blocks + 3) // 4, i = 0, k, inodes = 0, total = 0
    cdef uint64_t word, lo, hi, mask = <uint64_t>0x5555555555555555
    cdef uint64_t n_used = 0, n_unlinked = 0, n_dinode = 0
    c.ino_before = rg.n_inodes
    while i < n_bytes:
        word = 0
        k = n_bytes - i if n_bytes - i < 8 else 8
        memcpy(&word, bits + i, k)
        i += k
        if word == 0:
            continue
        lo = word & mask
        hi = (word >> 1) & mask
        if hi == 0:
            n_used += 32 if lo == mask else <uint64_t>__builtin_popcountll(lo)
            continue
        n_used += <uint64_t>__builtin_popcountll(lo & ~hi)
        n_unlinked += <uint64_t>__builtin_popcountll(hi & ~lo)
        n_dinode += <uint64_t>__builtin_popcountll(hi & lo)
    inodes = <uint32_t>(n_unlinked + n_dinode)
    rg.n_used += n_used
    rg.n_unlinked += n_unlinked
    rg.n_dinode += n_dinode
    rg.n_free += c.n_blocks - n_used - inodes
    rg.n_inodes += inodes
    if n_used + inodes == 0:
        return 0
    c.bits = <uint8_t*>malloc(n_bytes)
    if c.bits == NULL:
        return -ENOMEM
    memcpy(c.bits, bits, n_bytes)
    if inodes == 0:
        return 0
    c.rank = <uint16_t*>malloc((n_bytes // RANK_BYTES + 1) * sizeof(uint16_t))
    if c.rank == NULL:
        return -ENOMEM
    for i in range(n_bytes):
        if i % RANK_BYTES == 0:
            c.rank[i // RANK_BYTES] = <uint16_t>total
        if bits[i] & 0xAA:
            total += <uint32_t>__builtin_popcountll(bits[i] & 0xAA)
    return 0


cdef void _check_header(fsck* fs, uint64_t i, const gfs2_rgrp* h) noexcept nogil:
    """The group's header against the index. Fields that younger kernels added may be zero."""
    cdef rgrp* rg = &fs.rg[i]
    cdef uint64_t dist = fs.rg[i + 1].addr - rg.addr if i + 1 < fs.n_rg else 0
    cdef uint32_t skip = be32toh(h.rg_skip)
    if be32toh(h.rg_header.mh_format) != GFS2_FORMAT_RG:
        report(fs, K_META_FORMAT, rg.addr, 0, GFS2_FORMAT_RG, be32toh(h.rg_header.mh_format))
    if h.rg_crc != 0 and be32toh(h.rg_crc) != rgrp_crc(h):
        report(fs, K_RG_CRC, rg.addr, 0, rgrp_crc(h), be32toh(h.rg_crc))
    if h.rg_data0 != 0 or h.rg_crc != 0:
        if be64toh(h.rg_data0) != rg.data0:
            report(fs, K_RG_DATA0, rg.addr, 0, rg.data0, be64toh(h.rg_data0))
        if be32toh(h.rg_data) != rg.data:
            report(fs, K_RG_DATA, rg.addr, 0, rg.data, be32toh(h.rg_data))
        if be32toh(h.rg_bitbytes) != rg.bitbytes:
            report(fs, K_RG_BITBYTES, rg.addr, 0, rg.bitbytes, be32toh(h.rg_bitbytes))
    if skip != 0 and skip != dist:
        report(fs, K_RG_SKIP, rg.addr, 0, dist, skip)
    if be32toh(h.rg_flags) & ~<uint32_t>0x1F:
        report(fs, K_RG_FLAGS, rg.addr, 0, be32toh(h.rg_flags) & 0x1F, be32toh(h.rg_flags))


cdef int _one_bitmap(fsck* fs, uint64_t i, uint64_t k, const char* buf, gfs2_rgrp* head) noexcept nogil:
    cdef rgrp* rg = &fs.rg[i]
    cdef chunk* c = &fs.ch[rg.chunk0 + k]
    cdef const gfs2_meta_header* mh = <const gfs2_meta_header*>buf
    cdef uint32_t want = GFS2_METATYPE_RG if k == 0 else GFS2_METATYPE_RB
    cdef uint32_t off = SIZEOF_RGRP if k == 0 else SIZEOF_META_HEADER
    cdef uint32_t j
    if be32toh(mh.mh_magic) != GFS2_MAGIC:
        report(fs, K_RG_HEADER, rg.addr + k, 0, GFS2_MAGIC, be32toh(mh.mh_magic))
    elif be32toh(mh.mh_type) != want:
        report(fs, K_RG_HEADER, rg.addr + k, 0, want, be32toh(mh.mh_type))
    elif k == 0:
        memcpy(head, buf, sizeof(gfs2_rgrp))
        _check_header(fs, i, head)
    elif be32toh(mh.mh_format) != GFS2_FORMAT_RB:
        report(fs, K_META_FORMAT, rg.addr + k, 0, GFS2_FORMAT_RB, be32toh(mh.mh_format))
    for j in range(off + (c.n_blocks + 3) // 4, fs.bsize):
        if buf[j]:
            report(fs, K_RG_TAIL_BITS, rg.addr + k, 0, 0, <uint8_t>buf[j])
            break
    return _take_bits(rg, c, <const uint8_t*>buf + off)


cdef void _drop_group(fsck* fs, const rgrp* rg) noexcept nogil:
    cdef uint64_t i
    for i in range(rg.chunk0, rg.chunk0 + rg.length):
        free(fs.ch[i].bits)
        free(fs.ch[i].rank)
        fs.ch[i].bits = NULL
        fs.ch[i].rank = NULL


cdef int _one_rgrp(fsck* fs, uint64_t i) noexcept nogil:
    cdef rgrp* rg = &fs.rg[i]
    cdef gfs2_rgrp head
    cdef uint64_t list[READ_AHEAD]
    cdef uint64_t k = 0, j, n, got, known = rg.n_inodes
    cdef int rc
    memset(&head, 0, sizeof(head))
    rg.n_inodes = 0
    rg.n_free = rg.n_used = rg.n_unlinked = rg.n_dinode = 0
    while k < rg.length:
        n = rg.length - k if rg.length - k < READ_AHEAD else READ_AHEAD
        for j in range(n):
            list[j] = rg.addr + k + j
        got = wave_read(fs, &fs.w_misc, list, 8, <uint32_t>n)
        for j in range(got):
            if fs.w_misc.ptr[j] == NULL:
                fs.ch[rg.chunk0 + k + j].ino_before = rg.n_inodes
                rg.n_free += fs.ch[rg.chunk0 + k + j].n_blocks
                continue
            rc = _one_bitmap(fs, i, k + j, fs.w_misc.ptr[j], &head)
            if rc:
                return rc
        k += got
    if fs.it != NULL and rg.n_inodes != known:
        # Loaded once more, and the disk is another one than before: somebody writes to it, or it fails. The places in
        # the inode table are given away, so the group counts as empty.
        _drop_group(fs, rg)
        rg.n_inodes = known
    if head.rg_header.mh_magic != 0:
        if be32toh(head.rg_free) != rg.n_free:
            report(fs, K_RG_FREE, rg.addr, 0, rg.n_free, be32toh(head.rg_free))
        if be32toh(head.rg_dinodes) != rg.n_inodes:
            report(fs, K_RG_DINODES, rg.addr, 0, rg.n_inodes, be32toh(head.rg_dinodes))
    return 0


cdef int load_bitmaps(fsck* fs, uint64_t first, uint64_t n) noexcept nogil:
    """Load the bitmaps of groups [first, first + n) and check their headers and counts. 0 or -ENOMEM."""
    cdef uint64_t i
    cdef int rc
    for i in range(first, first + n):
        if i >= fs.n_rg:
            break
        rc = _one_rgrp(fs, i)
        if rc:
            return rc
    return 0


cdef int number_inodes(fsck* fs) noexcept nogil:
    """Give every inode of the map its place in the table, and make the table."""
    cdef uint64_t i, n = 0
    for i in range(fs.n_rg):
        fs.rg[i].ino0 = n
        n += fs.rg[i].n_inodes
    fs.n_it = n
    if fs.it == NULL:
        fs.it = <inode_entry*>calloc(n + 1, sizeof(inode_entry))
    return 0 if fs.it != NULL else -ENOMEM


cdef void drop_bitmaps(fsck* fs) noexcept nogil:
    """Forget the map, so that it can be loaded once more for the second walk."""
    cdef uint64_t i
    for i in range(fs.n_rg):
        _drop_group(fs, &fs.rg[i])


# ---- what nobody referenced ----

cdef void _leak(fsck* fs, uint64_t first, uint64_t n) noexcept nogil:
    cdef finding* f = report(fs, K_BLOCK_LEAKED, first, 0, 0, 1)
    if f != NULL:
        f.aux = n


cdef void find_leaks(fsck* fs, uint64_t first, uint64_t n) noexcept nogil:
    """After the walk: blocks that the bitmap calls used and that no inode has, run by run."""
    cdef uint64_t i, k, run = 0, start = 0
    cdef uint64_t word, mask = <uint64_t>0x5555555555555555
    cdef uint32_t bit
    cdef chunk* c
    for i in range(first, first + n):
        if i >= fs.n_rg:
            break
        for k in range(fs.rg[i].length):
            c = &fs.ch[fs.rg[i].chunk0 + k]
            if c.bits == NULL:
                continue
            bit = 0
            while bit < c.n_blocks:
                if bit & 31 == 0 and bit + 32 <= c.n_blocks:
                    memcpy(&word, c.bits + (bit >> 2), 8)
                    if (word & mask & ~(word >> 1)) == 0:
                        bit += 32
                        continue
                if chunk_get(c, bit) == 1:
                    if run and start + run == c.first + bit:
                        run += 1
                    else:
                        if run:
                            _leak(fs, start, run)
                        start = c.first + bit
                        run = 1
                bit += 1
    if run:
        _leak(fs, start, run)
