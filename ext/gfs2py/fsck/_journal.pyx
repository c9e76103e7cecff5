"""The log headers of a journal. Source of the rules: fs/gfs2/lops.c gfs2_find_jhead, fs/gfs2/recovery.c,
gfs2-utils gfs2/libgfs2/recovery.c.

Sequence numbers grow with the position up to the head; after it come the older ones of the round before. A
quick search halves the range by that rule; a full scan reads every block and counts what does not fit.
"""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from gfs2py.fsck._file cimport MAX_BSIZE, file_ptrs, read_dinode
from gfs2py.fsck._state cimport *
from gfs2py.ondisk._checksum cimport log_header_sum_ok
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    STEP = 256                  # blocks per wave of a full scan
    PEEK = 8                    # blocks read at a time by the quick search
    MIN_BYTES = 8388608
    MAX_BYTES = 1073741824


cdef int _valid(fsck* fs, journal_info* out, const char* buf, uint64_t i) noexcept nogil:
    """Is this block a sound log header of its place? Counts the unsound ones."""
    cdef const gfs2_log_header* lh = <const gfs2_log_header*>buf
    if be32toh(lh.lh_header.mh_magic) != GFS2_MAGIC or be32toh(lh.lh_header.mh_type) != GFS2_METATYPE_LH:
        return 0
    if be32toh(lh.lh_blkno) != i or not log_header_sum_ok(lh, fs.bsize):
        out.n_bad += 1
        return 0
    return 1


cdef void _remember(journal_info* out, const char* buf, uint64_t i, uint64_t block) noexcept nogil:
    cdef const gfs2_log_header* lh = <const gfs2_log_header*>buf
    out.found = 1
    out.head = i
    out.head_block = block
    out.sequence = be64toh(lh.lh_sequence)
    out.flags = be32toh(lh.lh_flags)
    out.tail = be32toh(lh.lh_tail)
    out.local_total = <int64_t>be64toh(lh.lh_local_total)
    out.local_free = <int64_t>be64toh(lh.lh_local_free)
    out.local_dinodes = <int64_t>be64toh(lh.lh_local_dinodes)


cdef int64_t _next_header(fsck* fs, journal_info* out, const uint64_t* map, uint64_t i, uint64_t end,
                          char** buf) noexcept nogil:
    """The first valid header at or after i, before end, or -1. *buf stays valid until the next read."""
    cdef uint64_t n, k
    cdef uint32_t got
    while i < end:
        n = end - i if end - i < PEEK else PEEK
        got = wave_read(fs, &fs.w_misc, &map[i], 8, <uint32_t>n)
        for k in range(got):
            if fs.w_misc.ptr[k] != NULL and _valid(fs, out, fs.w_misc.ptr[k], i + k):
                buf[0] = fs.w_misc.ptr[k]
                return <int64_t>(i + k)
        i += got
    return -1


cdef void _quick(fsck* fs, journal_info* out, const uint64_t* map, uint64_t n) noexcept nogil:
    """Halve the range in which the head must be, by comparing with the first header."""
    cdef char* buf = NULL
    cdef uint64_t first, lo, hi = n, mid
    cdef int64_t at = _next_header(fs, out, map, 0, n, &buf)
    if at < 0:
        return
    _remember(out, buf, <uint64_t>at, map[at])
    out.n_headers += 1
    first = out.sequence
    lo = <uint64_t>at + 1
    while lo < hi:
        mid = lo + (hi - lo) // 2
        at = _next_header(fs, out, map, mid, hi, &buf)
        if at < 0 or be64toh((<gfs2_log_header*>buf).lh_sequence) < first:
            hi = mid
            continue
        out.n_headers += 1
        if be64toh((<gfs2_log_header*>buf).lh_sequence) > out.sequence:
            _remember(out, buf, <uint64_t>at, map[at])
        lo = <uint64_t>at + 1


cdef void _full(fsck* fs, journal_info* out, const uint64_t* map, uint64_t n) noexcept nogil:
    cdef uint64_t i = 0, k, seq, last = 0
    cdef uint32_t got
    cdef const gfs2_log_header* lh
    while i < n:
        got = wave_read(fs, &fs.w_misc, &map[i], 8, <uint32_t>(n - i if n - i < STEP else STEP))
        for k in range(got):
            if fs.w_misc.ptr[k] == NULL or not _valid(fs, out, fs.w_misc.ptr[k], i + k):
                continue
            lh = <const gfs2_log_header*>fs.w_misc.ptr[k]
            seq = be64toh(lh.lh_sequence)
            if out.n_headers and seq < last:
                out.n_drops += 1
            last = seq
            out.n_headers += 1
            if not out.found or seq > out.sequence:
                _remember(out, fs.w_misc.ptr[k], i + k, map[i + k])
        i += got


cdef int scan_journal(fsck* fs, uint64_t addr, int full, journal_info* out) noexcept nogil:
    """Find the head of a journal and look at its form. 0, -EINVAL (no dinode there) or -ENOMEM."""
    cdef char di[MAX_BSIZE]
    cdef const gfs2_dinode* d = <const gfs2_dinode*>&di[0]
    cdef uint64_t size, n, i = 0, k
    cdef int64_t got
    cdef uint64_t* map
    cdef uint64_t holes = 0, hole = 0
    memset(out, 0, sizeof(journal_info))
    if read_dinode(fs, addr, di):
        out.broken = 1
        return -EINVAL
    size = be64toh(d.di_size)
    if size < MIN_BYTES or size > MAX_BYTES or size % fs.bsize:
        report(fs, K_JOURNAL_SIZE, addr, addr, MIN_BYTES if size < MIN_BYTES else MAX_BYTES, size)
        if size > MAX_BYTES:
            size = MAX_BYTES
    n = size // fs.bsize
    out.n_blocks = n
    if n == 0 or be16toh(d.di_height) == 0:
        out.broken = 1
        return 0
    map = <uint64_t*>malloc(n * 8)
    if map == NULL:
        return -ENOMEM
    while i < n:
        got = file_ptrs(fs, di, i, &map[i], n - i)
        if got <= 0:
            out.broken = 1
            break
        for k in range(<uint64_t>got):
            if map[i + k] == 0:
                if holes == 0:
                    hole = i + k
                holes += 1
        i += <uint64_t>got
    if holes:
        report(fs, K_JOURNAL_HOLE, addr, addr, 0, hole)
        out.broken = 1
    if not out.broken:
        if full:
            _full(fs, out, map, n)
        else:
            _quick(fs, out, map, n)
    free(map)
    return 0
