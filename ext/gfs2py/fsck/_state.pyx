"""The checker's state (see _state.pxd): memory, the batched reader, findings, conflicts, the inode table."""
from libc.errno cimport EINVAL, EIO, ENOMEM
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport bio_seg, blkdev, dev_alloc, dev_free
from gfs2py.ondisk._ondisk cimport SIZEOF_META_HEADER, SIZEOF_RGRP

cdef extern from *:
    int __builtin_popcountll(unsigned long long x) noexcept nogil


# ---- memory ----

cdef enum:
    POOL = 6

# Wave buffers of checks that are over: fresh ones would cost their page faults in every small check.
# Only touched with the GIL held (a Checker's construction and end).
cdef char* pool[POOL]
cdef uint64_t pool_bytes[POOL]


cdef char* _take_raw(uint64_t length) noexcept nogil:
    cdef int i
    cdef char* p
    for i in range(POOL):
        if pool[i] != NULL and pool_bytes[i] == length:
            p = pool[i]
            pool[i] = NULL
            return p
    return <char*>dev_alloc(length)


cdef void _give_raw(char* p, uint64_t length) noexcept nogil:
    cdef int i
    if p == NULL:
        return
    for i in range(POOL):
        if pool[i] == NULL:
            pool[i] = p
            pool_bytes[i] = length
            return
    dev_free(p)


cdef int fsck_init(fsck* fs, blkdev* dev) noexcept nogil:
    """An empty state on a device; the geometry comes with the superblock. 0 or -ENOMEM."""
    memset(fs, 0, sizeof(fsck))
    fs.dev = dev
    fs.bm_buf = <char*>dev_alloc(65536)
    fs.bm_block = <uint64_t>-1
    return waves_init(fs) if fs.bm_buf != NULL else -ENOMEM


cdef int waves_init(fsck* fs) noexcept nogil:
    """The buffers that blocks are read into. 0 or -ENOMEM."""
    if wave_init(&fs.w_di, 1024, RAW_BYTES) or wave_init(&fs.w_item, 1024, RAW_BYTES):
        return -ENOMEM
    return wave_init(&fs.w_misc, 512, RAW_BYTES // 2)


cdef void fsck_free(fsck* fs) noexcept nogil:
    cdef uint64_t i
    if fs.ch != NULL:
        for i in range(fs.n_ch):
            free(fs.ch[i].bits)
            free(fs.ch[i].rank)
    free(fs.ch)
    free(fs.rg)
    free(fs.it)
    free(fs.exc)
    free(fs.conf)
    free(fs.fnd)
    free(fs.usage)
    wave_free(&fs.w_di)
    wave_free(&fs.w_item)
    wave_free(&fs.w_misc)
    dev_free(fs.bm_buf)
    memset(fs, 0, sizeof(fsck))


cdef int wave_init(wave* w, uint32_t max_blocks, uint64_t raw_bytes) noexcept nogil:
    w.raw = _take_raw(raw_bytes)
    w.raw_bytes = raw_bytes
    w.max_blocks = max_blocks
    w.max_segs = max_blocks
    w.ptr = <char**>calloc(max_blocks, sizeof(char*))
    w.segs = <bio_seg*>calloc(max_blocks, sizeof(bio_seg))
    w.seg_of = <uint32_t*>calloc(max_blocks, sizeof(uint32_t))
    if w.raw == NULL or w.ptr == NULL or w.segs == NULL or w.seg_of == NULL:
        return -ENOMEM
    return 0


cdef void wave_free(wave* w) noexcept nogil:
    _give_raw(w.raw, w.raw_bytes)
    free(w.ptr)
    free(w.segs)
    free(w.seg_of)
    memset(w, 0, sizeof(wave))


# ---- reading ----

cdef int _read_range(fsck* fs, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    return fs.dev.ops.read(fs.dev, off, buf, length)


cdef int read_block(fsck* fs, uint64_t block, void* buf) noexcept nogil:
    """One block into `buf` (bsize bytes). 0, -EINVAL beyond the device, or the device's error."""
    cdef uint64_t off, base, length, a = fs.dev.align
    cdef int rc
    if block >= fs.dev_blocks:
        return -EINVAL
    off = block * fs.bsize
    base = off & ~(a - 1)
    length = (off + fs.bsize - base + a - 1) & ~(a - 1)
    if length > 65536 or fs.w_misc.raw == NULL:
        return -EINVAL
    # The last part of the misc buffer serves as the bounce buffer.
    rc = _read_range(fs, base, fs.w_misc.raw + fs.w_misc.raw_bytes - 65536, length)
    if rc:
        return rc
    memcpy(buf, fs.w_misc.raw + fs.w_misc.raw_bytes - 65536 + (off - base), fs.bsize)
    return 0


cdef void _reread(fsck* fs, wave* w, const char* blocks, uint32_t stride, uint32_t n,
                  uint32_t seg) noexcept nogil:
    """A request failed: read its blocks one by one, so that only the bad ones are lost."""
    cdef uint32_t i
    cdef uint64_t block, last = <uint64_t>-1
    cdef char* last_ptr = NULL
    cdef int rc
    for i in range(n):
        if w.seg_of[i] != seg or w.ptr[i] == NULL:
            continue
        block = (<const uint64_t*>(blocks + <uint64_t>i * stride))[0]
        if block == last:
            w.ptr[i] = last_ptr
            continue
        rc = read_block(fs, block, w.ptr[i])
        if rc:
            report(fs, K_IO_ERROR, block, 0, 0, <uint64_t>(-rc))
            w.ptr[i] = NULL
        last = block
        last_ptr = w.ptr[i]


cdef uint32_t wave_read(fsck* fs, wave* w, const uint64_t* blocks, uint32_t stride,
                        uint32_t n) noexcept nogil:
    """Read a sorted list of blocks, `stride` bytes from one number to the next, as far as one wave goes.

    Returns how many were dealt with (at least 1 if n is); w.ptr[i] is the i-th one, NULL after an error.
    """
    cdef uint64_t a = fs.dev.align, used = 0, block, off, end, grow, seg_end = 0
    cdef uint64_t limit = w.raw_bytes - 65536
    cdef uint32_t i = 0, n_segs = 0, s
    cdef bio_seg* seg = NULL
    cdef const char* base = <const char*>blocks
    if n > w.max_blocks:
        n = w.max_blocks
    while i < n:
        block = (<const uint64_t*>(base + <uint64_t>i * stride))[0]
        if block >= fs.dev_blocks:
            w.ptr[i] = NULL
            w.seg_of[i] = <uint32_t>-1
            i += 1
            continue
        off = block * fs.bsize
        end = (off + fs.bsize + a - 1) & ~(a - 1)
        if seg != NULL and off >= seg.off and off <= seg_end + <uint64_t>GAP_BLOCKS * fs.bsize \
                and end - seg.off <= SEG_BYTES:
            grow = end - seg_end if end > seg_end else 0
            if used + grow > limit:
                break
            used += grow
            seg_end += grow
            seg.len = seg_end - seg.off
        else:
            grow = end - (off & ~(a - 1))
            if used + grow > limit or n_segs == w.max_segs:
                break
            seg = &w.segs[n_segs]
            n_segs += 1
            seg.off = off & ~(a - 1)
            seg.buf = w.raw + used
            seg.len = grow
            seg.res = 0
            seg_end = end
            used += grow
        w.ptr[i] = <char*>seg.buf + (off - seg.off)
        w.seg_of[i] = n_segs - 1
        i += 1
    if n_segs:
        if n_segs == 1:
            w.segs[0].res = _read_range(fs, w.segs[0].off, w.segs[0].buf, w.segs[0].len)
        else:
            fs.dev.ops.readv(fs.dev, w.segs, n_segs)
        for s in range(n_segs):
            if w.segs[s].res != 0:
                _reread(fs, w, base, stride, i, s)
    return i


# ---- findings ----

cdef finding* report(fsck* fs, Kind kind, uint64_t block, uint64_t inode, uint64_t wanted,
                     uint64_t found) noexcept nogil:
    """Note a finding. The result can be given a name and `aux`; NULL when it was only counted."""
    cdef finding* f
    cdef finding* grown
    cdef uint32_t cap
    if fs.hunting or <int>kind <= 0 or <int>kind >= K_COUNT:
        return NULL
    fs.kind_total[<int>kind] += 1
    if fs.kind_stored[<int>kind] >= MAX_PER_KIND or fs.n_fnd >= MAX_FINDINGS:
        return NULL
    if fs.n_fnd == fs.fnd_cap:
        cap = fs.fnd_cap * 2 if fs.fnd_cap else 16
        grown = <finding*>realloc(fs.fnd, cap * sizeof(finding))
        if grown == NULL:
            return NULL
        fs.fnd = grown
        fs.fnd_cap = cap
    f = &fs.fnd[fs.n_fnd]
    fs.n_fnd += 1
    fs.kind_stored[<int>kind] += 1
    memset(f, 0, sizeof(finding))
    f.kind = <uint32_t>kind
    f.unit = fs.unit
    f.block = block
    f.inode = inode
    f.wanted = wanted
    f.found = found
    return f


cdef void finding_name(finding* f, const char* name, uint64_t length) noexcept nogil:
    if f == NULL:
        return
    f.name_len = <uint32_t>(length if length < NAME_BYTES else NAME_BYTES)
    memcpy(f.name, name, f.name_len)


# ---- where a block is ----

cdef rgrp* find_rgrp(fsck* fs, uint64_t block) noexcept nogil:
    """The resource group whose data area holds the block, or NULL."""
    cdef rgrp* rg
    cdef uint64_t lo = 0, hi = fs.n_rg, mid
    if fs.n_rg == 0:
        return NULL
    rg = &fs.rg[fs.rg_hint]
    if block >= rg.data0 and block - rg.data0 < rg.data:
        return rg
    while lo < hi:
        mid = (lo + hi) >> 1
        if fs.rg[mid].data0 <= block:
            lo = mid + 1
        else:
            hi = mid
    if lo == 0:
        return NULL
    rg = &fs.rg[lo - 1]
    if block - rg.data0 >= rg.data:
        return NULL
    fs.rg_hint = lo - 1
    return rg


cdef chunk* find_chunk(fsck* fs, uint64_t block, uint32_t* bit) noexcept nogil:
    """The bitmap block that speaks of `block`, and the pair in it; NULL outside the data areas."""
    cdef rgrp* rg = find_rgrp(fs, block)
    cdef uint64_t off, n0, n1
    if rg == NULL:
        return NULL
    off = block - rg.data0
    n0 = <uint64_t>(fs.bsize - SIZEOF_RGRP) * 4
    if off < n0:
        bit[0] = <uint32_t>off
        return &fs.ch[rg.chunk0]
    off -= n0
    n1 = <uint64_t>(fs.bsize - SIZEOF_META_HEADER) * 4
    bit[0] = <uint32_t>(off % n1)
    return &fs.ch[rg.chunk0 + 1 + off // n1]


cdef int disk_state(fsck* fs, uint64_t block) noexcept nogil:
    """What the bitmap on the disk says of a block (the map in memory is used up): 0..3, or negative."""
    cdef uint32_t bit
    cdef chunk* c = find_chunk(fs, block, &bit)
    cdef rgrp* rg = find_rgrp(fs, block)
    cdef uint64_t k
    cdef uint32_t head
    if c == NULL:
        return -1
    k = <uint64_t>(c - &fs.ch[rg.chunk0])
    if fs.bm_block != rg.addr + k:
        fs.bm_block = <uint64_t>-1
        if read_block(fs, rg.addr + k, fs.bm_buf):
            return -1
        fs.bm_block = rg.addr + k
    head = SIZEOF_RGRP if k == 0 else SIZEOF_META_HEADER
    return (<uint8_t>fs.bm_buf[head + (bit >> 2)] >> ((bit & 3) * 2)) & 3


# ---- blocks with more than one owner, or none by the bitmap ----

cdef conflict* conflict_find(fsck* fs, uint64_t block) noexcept nogil:
    cdef uint64_t i
    if fs.conf_cap == 0:
        return NULL
    i = (block * <uint64_t>0x9E3779B97F4A7C15) & (fs.conf_cap - 1)
    while fs.conf[i].block != 0:
        if fs.conf[i].block == block:
            return &fs.conf[i]
        i = (i + 1) & (fs.conf_cap - 1)
    return NULL


cdef conflict* _conflict_add(fsck* fs, uint64_t block) noexcept nogil:
    cdef conflict* old = fs.conf
    cdef uint64_t i, j, old_cap = fs.conf_cap, cap
    cdef conflict* grown
    if fs.n_conf >= MAX_CONFLICTS:
        fs.conf_full = 1
        return NULL
    if fs.n_conf * 2 >= old_cap:
        cap = old_cap * 4 if old_cap else 64
        grown = <conflict*>calloc(cap, sizeof(conflict))
        if grown == NULL:
            fs.conf_full = 1
            return NULL
        for i in range(old_cap):
            if old[i].block == 0:
                continue
            j = (old[i].block * <uint64_t>0x9E3779B97F4A7C15) & (cap - 1)
            while grown[j].block != 0:
                j = (j + 1) & (cap - 1)
            grown[j] = old[i]
        free(old)
        fs.conf = grown
        fs.conf_cap = cap
    i = (block * <uint64_t>0x9E3779B97F4A7C15) & (fs.conf_cap - 1)
    while fs.conf[i].block != 0:
        i = (i + 1) & (fs.conf_cap - 1)
    fs.conf[i].block = block
    fs.n_conf += 1
    return &fs.conf[i]


cdef int claim_slow(fsck* fs, uint64_t block, int state, uint64_t owner, int how) noexcept nogil:
    """A claim on a block that is not simply USED in the map, or any claim of the second walk."""
    cdef conflict* c = conflict_find(fs, block)
    cdef uint32_t before
    if c == NULL:
        if fs.hunting:
            return 0 if state == 1 else 1
        c = _conflict_add(fs, block)
        if c == NULL:
            return 1
        c.state = <uint32_t>(state if state else disk_state(fs, block))
        if c.state == 1:
            # Somebody took it before; only the second walk knows who.
            c.n_claims = 1
            c.owner[0] = 0
    before = c.n_claims
    if before < MAX_OWNERS:
        c.owner[before] = owner
        c.how[before] = <uint8_t>how
    c.n_claims = before + 1
    if state == 1:
        return 0
    return 0 if state == 0 and before == 0 else 1


# ---- the inode table ----

cdef int64_t inode_index(fsck* fs, uint64_t block) noexcept nogil:
    """The place of an inode in the table, -1 if the map knows no inode there."""
    cdef uint32_t bit, byte, i, count
    cdef uint64_t word
    cdef chunk* c = find_chunk(fs, block, &bit)
    cdef rgrp* rg
    if c == NULL or c.rank == NULL or not (chunk_get(c, bit) & 2):
        return -1
    rg = find_rgrp(fs, block)
    byte = bit >> 2
    count = c.rank[byte // RANK_BYTES]
    i = byte - byte % RANK_BYTES
    while i + 8 <= byte:
        memcpy(&word, c.bits + i, 8)
        count += <uint32_t>__builtin_popcountll(word & <uint64_t>0xAAAAAAAAAAAAAAAA)
        i += 8
    while i < byte:
        count += <uint32_t>__builtin_popcountll(c.bits[i] & 0xAA)
        i += 1
    count += <uint32_t>__builtin_popcountll(c.bits[byte] & 0xAA & ((1 << ((bit & 3) * 2)) - 1))
    return <int64_t>(rg.ino0 + c.ino_before + count)


cdef uint64_t inode_block(fsck* fs, uint64_t index) noexcept nogil:
    """The block of the index-th inode; 0 if there is none."""
    cdef uint64_t lo = 0, hi = fs.n_rg, mid, k, left
    cdef rgrp* rg
    cdef chunk* c
    cdef uint32_t bit
    if index >= fs.n_it:
        return 0
    while lo < hi:
        mid = (lo + hi) >> 1
        if fs.rg[mid].ino0 <= index:
            lo = mid + 1
        else:
            hi = mid
    if lo == 0:
        return 0
    rg = &fs.rg[lo - 1]
    left = index - rg.ino0
    lo = 0
    hi = rg.length
    while lo < hi:
        mid = (lo + hi) >> 1
        if fs.ch[rg.chunk0 + mid].ino_before <= left:
            lo = mid + 1
        else:
            hi = mid
    c = &fs.ch[rg.chunk0 + lo - 1]
    left -= c.ino_before
    if c.rank == NULL:
        return 0
    lo = 0
    hi = (c.n_blocks + RANK_BYTES * 4 - 1) // (RANK_BYTES * 4)
    while lo < hi:
        mid = (lo + hi) >> 1
        if c.rank[mid] <= left:
            lo = mid + 1
        else:
            hi = mid
    left -= c.rank[lo - 1]
    for bit in range(<uint32_t>(lo - 1) * RANK_BYTES * 4, c.n_blocks):
        if chunk_get(c, bit) & 2:
            if left == 0:
                return c.first + bit
            left -= 1
    return 0


cdef int set_formal(fsck* fs, uint64_t index, uint64_t formal) noexcept nogil:
    """Note an inode's formal number (in the order of the table). 0 or -ENOMEM."""
    cdef exception_entry* grown
    if formal < <uint64_t>0xFFFFFFFF:
        fs.it[index].formal = <uint32_t>formal
        return 0
    fs.it[index].formal = <uint32_t>0xFFFFFFFF
    if fs.n_exc == fs.exc_cap:
        grown = <exception_entry*>realloc(fs.exc, (fs.exc_cap * 2 + 16) * sizeof(exception_entry))
        if grown == NULL:
            return -ENOMEM
        fs.exc = grown
        fs.exc_cap = fs.exc_cap * 2 + 16
    fs.exc[fs.n_exc].index = index
    fs.exc[fs.n_exc].formal = formal
    fs.n_exc += 1
    return 0


cdef uint64_t get_formal(fsck* fs, uint64_t index) noexcept nogil:
    cdef uint64_t lo = 0, hi = fs.n_exc, mid
    if fs.it[index].formal != <uint32_t>0xFFFFFFFF:
        return fs.it[index].formal
    while lo < hi:
        mid = (lo + hi) >> 1
        if fs.exc[mid].index < index:
            lo = mid + 1
        else:
            hi = mid
    if lo < fs.n_exc and fs.exc[lo].index == index:
        return fs.exc[lo].formal
    return 0


# ---- blocks per user and group ----

cdef void usage_one(fsck* fs, uint64_t key, int64_t blocks) noexcept nogil:
    cdef usage_entry* grown
    cdef uint64_t i, j, cap
    if fs.n_usage * 2 >= fs.usage_cap:
        cap = fs.usage_cap * 2 if fs.usage_cap else 64
        grown = <usage_entry*>calloc(cap, sizeof(usage_entry)) if cap <= 2097152 else NULL
        if grown == NULL:
            fs.usage_off = 1
            return
        for i in range(fs.usage_cap):
            if fs.usage[i].key:
                j = (fs.usage[i].key * <uint64_t>0x9E3779B97F4A7C15) & (cap - 1)
                while grown[j].key:
                    j = (j + 1) & (cap - 1)
                grown[j] = fs.usage[i]
        free(fs.usage)
        fs.usage = grown
        fs.usage_cap = cap
    i = (key * <uint64_t>0x9E3779B97F4A7C15) & (fs.usage_cap - 1)
    while fs.usage[i].key and fs.usage[i].key != key:
        i = (i + 1) & (fs.usage_cap - 1)
    if fs.usage[i].key == 0:
        fs.usage[i].key = key
        fs.n_usage += 1
    fs.usage[i].blocks += blocks


cdef void usage_add(fsck* fs, uint32_t uid, uint32_t gid, int64_t blocks) noexcept nogil:
    """Count an inode's blocks for its owner and group, unless there are too many of them to keep."""
    if fs.usage_off or fs.hunting:
        return
    usage_one(fs, <uint64_t>uid * 2 + 1, blocks)
    usage_one(fs, <uint64_t>gid * 2 + 2, blocks)
