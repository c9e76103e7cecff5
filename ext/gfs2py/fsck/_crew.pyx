"""Threads that share pass 1 (see _crew.pxd): copies of the state, and how they become one again."""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport dev_alloc
from gfs2py.fsck._rgrp cimport drop_bitmaps, load_bitmaps
from gfs2py.fsck._state cimport *


cdef int crew_member(fsck* fs, const fsck* captain) noexcept nogil:
    """A copy of the captain's state that shares its map and its table. 0 or -ENOMEM.

    crew_merge() takes what it has found; fsck_free() must be told first that map, table and groups are not its own.
    """
    fs[0] = captain[0]
    fs.exc = NULL
    fs.n_exc = fs.exc_cap = 0
    fs.conf = NULL
    fs.conf_cap = fs.n_conf = 0
    fs.fnd = NULL
    fs.n_fnd = fs.fnd_cap = 0
    memset(fs.kind_total, 0, sizeof(fs.kind_total))
    memset(fs.kind_stored, 0, sizeof(fs.kind_stored))
    fs.usage = NULL
    fs.usage_cap = fs.n_usage = 0
    fs.bm_block = <uint64_t>-1
    memset(&fs.w_di, 0, sizeof(wave))
    memset(&fs.w_item, 0, sizeof(wave))
    memset(&fs.w_misc, 0, sizeof(wave))
    fs.bm_buf = <char*>dev_alloc(65536)
    if fs.bm_buf == NULL:
        return -ENOMEM
    return waves_init(fs)


cdef void crew_begin(fsck* fs, before* was) noexcept nogil:
    """The captain's state, as crew_undo() may need it."""
    was.n_fnd = fs.n_fnd
    memcpy(was.kind_total, fs.kind_total, sizeof(fs.kind_total))
    memcpy(was.kind_stored, fs.kind_stored, sizeof(fs.kind_stored))


cdef int _cmp_exception(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const exception_entry*>a).index, y = (<const exception_entry*>b).index
    return -1 if x < y else (1 if x > y else 0)


cdef int _merge_exceptions(fsck* fs, fsck** members, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t total = fs.n_exc
    cdef exception_entry* both
    for i in range(n):
        total += members[i].n_exc
    if total == fs.n_exc:
        return 0
    both = <exception_entry*>malloc(total * sizeof(exception_entry))
    if both == NULL:
        return -ENOMEM
    memcpy(both, fs.exc, fs.n_exc * sizeof(exception_entry))
    total = fs.n_exc
    for i in range(n):
        memcpy(both + total, members[i].exc, members[i].n_exc * sizeof(exception_entry))
        total += members[i].n_exc
    qsort(both, total, sizeof(exception_entry), _cmp_exception)
    free(fs.exc)
    fs.exc = both
    fs.n_exc = fs.exc_cap = total
    return 0


cdef void _add_finding(fsck* fs, const finding* was) noexcept nogil:
    cdef finding* f
    fs.unit = was.unit
    f = report(fs, <Kind>was.kind, was.block, was.inode, was.wanted, was.found)
    if f != NULL:
        f[0] = was[0]


cdef int _merge_findings(fsck* fs, const before* was, fsck** members, uint32_t n) noexcept nogil:
    """All findings since `was` in the order of their units; within one unit all are of one member."""
    cdef uint32_t i, best, n_own = fs.n_fnd - was.n_fnd
    cdef uint32_t* at
    cdef finding* own
    cdef uint64_t total[K_COUNT]
    cdef int k
    memcpy(total, fs.kind_total, sizeof(total))
    for i in range(n):
        for k in range(K_COUNT):
            total[k] += members[i].kind_total[k]
    at = <uint32_t*>calloc(n + 1, sizeof(uint32_t))
    own = <finding*>malloc((n_own + 1) * sizeof(finding))
    if at == NULL or own == NULL:
        free(at)
        free(own)
        return -ENOMEM
    if n_own:
        memcpy(own, fs.fnd + was.n_fnd, n_own * sizeof(finding))
    fs.n_fnd = was.n_fnd
    memcpy(fs.kind_stored, was.kind_stored, sizeof(fs.kind_stored))
    while True:
        best = n + 1
        for i in range(n):
            if at[i] < members[i].n_fnd \
                    and (best > n or members[i].fnd[at[i]].unit < members[best].fnd[at[best]].unit):
                best = i
        if at[n] < n_own and (best > n or own[at[n]].unit < members[best].fnd[at[best]].unit):
            _add_finding(fs, &own[at[n]])
            at[n] += 1
        elif best < n:
            _add_finding(fs, &members[best].fnd[at[best]])
            at[best] += 1
        else:
            break
    fs.unit = 0
    memcpy(fs.kind_total, total, sizeof(total))
    free(at)
    free(own)
    return 0


cdef int crew_merge(fsck* fs, const before* was, fsck** members, uint32_t n) noexcept nogil:
    """The members are done. 0: the captain's state is that of the whole pass; 1: undo, and do it alone; -ENOMEM."""
    cdef uint32_t i
    cdef uint64_t k
    cdef int rc
    fs.shared = 0
    if fs.n_conf or fs.conf_full:
        return 1
    for i in range(n):
        if members[i].n_conf or members[i].conf_full:
            return 1
    rc = _merge_exceptions(fs, members, n)
    if rc == 0:
        rc = _merge_findings(fs, was, members, n)
    for i in range(n):
        if members[i].usage_off:
            fs.usage_off = 1
        for k in range(members[i].usage_cap):
            if members[i].usage[k].key:
                usage_one(fs, members[i].usage[k].key, members[i].usage[k].blocks)
    return rc


cdef int crew_undo(fsck* fs, const before* was) noexcept nogil:
    """Everything as before the crew, the map loaded anew. 0 or -ENOMEM."""
    cdef int rc
    fs.shared = 0
    fs.unit = 0
    fs.n_fnd = was.n_fnd
    memcpy(fs.kind_total, was.kind_total, sizeof(fs.kind_total))
    memcpy(fs.kind_stored, was.kind_stored, sizeof(fs.kind_stored))
    free(fs.conf)
    fs.conf = NULL
    fs.conf_cap = fs.n_conf = 0
    fs.conf_full = 0
    free(fs.usage)
    fs.usage = NULL
    fs.usage_cap = fs.n_usage = 0
    fs.usage_off = 0
    fs.n_exc = 0
    memset(fs.it, 0, fs.n_it * sizeof(inode_entry))
    drop_bitmaps(fs)
    # What the first loading found is known; nothing is reported twice.
    fs.hunting = 1
    rc = load_bitmaps(fs, 0, fs.n_rg)
    fs.hunting = 0
    return rc
