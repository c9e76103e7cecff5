"""Directories: hash tables, leaves and chains; then connectivity and link counts.

Source of the rules: fs/gfs2/dir.c, gfs2-utils gfs2/fsck/pass2.c, pass3.c and pass4.c.
A leaf is responsible for 2^(di_depth - lf_depth) consecutive slots of the hash table, aligned to that number.
"""
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memset

from gfs2py.fsck._dirent cimport dir_number, dirents
from gfs2py.fsck._file cimport MAX_BSIZE
from gfs2py.fsck._state cimport *
from gfs2py.fsck._walk cimport *
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    DT_DIR_ = 4
    WAVE_DIRS = 512


cdef int dirs_init(fsck* fs, dirs* ds) noexcept nogil:
    """List the directories of the inode table. 0 or -ENOMEM."""
    cdef uint64_t i, n = 0
    memset(ds, 0, sizeof(dirs))
    for i in range(fs.n_it):
        if fs.it[i].word >> IT_TYPE_SHIFT == DT_DIR_:
            n += 1
    ds.d = <dir_entry*>calloc(n + 1, sizeof(dir_entry))
    if ds.d == NULL:
        return -ENOMEM
    for i in range(fs.n_it):
        if fs.it[i].word >> IT_TYPE_SHIFT == DT_DIR_:
            ds.d[ds.n].index = i
            ds.n += 1
    return 0


cdef void dirs_free(dirs* ds) noexcept nogil:
    free(ds.d)
    free(ds.table)
    free(ds.level_a)
    free(ds.level_b)
    free(ds.leaves)
    free(ds.more)
    free(ds.names)
    free(ds.refs)
    memset(ds, 0, sizeof(dirs))


cdef int _cmp_ref(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const name_ref*>a).inode, y = (<const name_ref*>b).inode
    return -1 if x < y else (1 if x > y else 0)


cdef name_ref* find_ref(dirs* ds, uint64_t inode) noexcept nogil:
    cdef uint64_t lo = 0, hi = ds.n_refs, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if ds.refs[mid].inode < inode:
            lo = mid + 1
        else:
            hi = mid
    return &ds.refs[lo] if lo < ds.n_refs and ds.refs[lo].inode == inode else NULL


cdef int want_names(fsck* fs, dirs* ds) noexcept nogil:
    """Before pass 2: it shall note where the inodes that have findings so far are named. 0 or -ENOMEM."""
    cdef uint64_t i, n = 0
    if fs.n_fnd == 0 or ds.refs != NULL:
        return 0
    ds.refs = <name_ref*>calloc(fs.n_fnd, sizeof(name_ref))
    if ds.refs == NULL:
        return -ENOMEM
    for i in range(fs.n_fnd):
        if fs.fnd[i].inode:
            ds.refs[n].inode = fs.fnd[i].inode
            n += 1
    qsort(ds.refs, n, sizeof(name_ref), _cmp_ref)
    for i in range(n):
        if ds.n_refs == 0 or ds.refs[ds.n_refs - 1].inode != ds.refs[i].inode:
            ds.refs[ds.n_refs] = ds.refs[i]
            ds.n_refs += 1
    return 0


cdef int _need_buffers(dirs* ds) noexcept nogil:
    """Memory for hash tables, when the first one is met."""
    if ds.table == NULL:
        ds.table = <uint64_t*>malloc(MAX_TABLE * 8)
    if ds.level_a == NULL:
        ds.level_a = <uint64_t*>malloc(MAX_HASH_BLOCKS * 8)
    if ds.level_b == NULL:
        ds.level_b = <uint64_t*>malloc(MAX_HASH_BLOCKS * 8)
    return 0 if ds.table != NULL and ds.level_a != NULL and ds.level_b != NULL else -ENOMEM


cdef int _add_leaf(dirs* ds, uint64_t block, uint64_t prev, uint32_t start, uint32_t count,
                   uint32_t dist) noexcept nogil:
    cdef leaf_item* grown
    cdef uint64_t cap
    if ds.n_more == ds.leaves_cap:
        cap = ds.leaves_cap * 2 if ds.leaves_cap else 1024
        grown = <leaf_item*>realloc(ds.more, cap * sizeof(leaf_item))
        if grown == NULL:
            return -ENOMEM
        ds.more = grown
        grown = <leaf_item*>realloc(ds.leaves, cap * sizeof(leaf_item))
        if grown == NULL:
            return -ENOMEM
        ds.leaves = grown
        ds.leaves_cap = cap
    ds.more[ds.n_more].block = block
    ds.more[ds.n_more].prev = prev
    ds.more[ds.n_more].start = start
    ds.more[ds.n_more].count = count
    ds.more[ds.n_more].dist = dist
    ds.n_more += 1
    return 0


# ---- the hash table ----

cdef int _expand(fsck* fs, walker* w, uint32_t s, uint64_t holder, const uint64_t* p, uint32_t n_ptrs,
                 uint32_t off, uint64_t* out, uint64_t at, uint64_t n_out, int how) noexcept nogil:
    """Claim one block's pointers; those for places [at, n_out) of the next level go into `out` (0: none)."""
    cdef uint32_t i
    cdef uint64_t ptr
    cdef int rc
    cdef finding* f
    for i in range(n_ptrs):
        ptr = be64toh(p[i])
        rc = 1
        if ptr:
            rc = take(fs, w, ptr, w.slots[s].addr, how)
            if rc < 0:
                f = report(fs, K_PTR_RANGE, holder, w.slots[s].addr, 0, ptr)
                if f != NULL:
                    f.aux = off + i * 8
            else:
                w.slots[s].counted += 1
        if at + i < n_out:
            out[at + i] = ptr if rc == 0 else 0
    return 0


cdef void _copy_table(fsck* fs, dirs* ds, dir_ctx* x, const uint64_t* blocks, uint64_t n) noexcept nogil:
    """The content of the hash table's blocks, piece by piece, into ds.table."""
    cdef uint64_t i = 0, j, part, total = <uint64_t>8 << x.depth
    cdef uint32_t got
    memset(ds.table, 0, total)
    while i < n:
        got = wave_read(fs, &fs.w_item, &blocks[i], 8, <uint32_t>(n - i if n - i < MAX_SLOTS else MAX_SLOTS))
        for j in range(got):
            if blocks[i + j] == 0 or fs.w_item.ptr[j] == NULL:
                continue
            if not check_header(fs, fs.w_item.ptr[j], blocks[i + j], x.addr, GFS2_METATYPE_JD,
                                GFS2_FORMAT_JD):
                continue
            part = total - (i + j) * fs.jbsize
            if part > fs.jbsize:
                part = fs.jbsize
            memcpy(<char*>ds.table + (i + j) * fs.jbsize, fs.w_item.ptr[j] + SIZEOF_META_HEADER, part)
        i += got


cdef int _load_table(fsck* fs, walker* w, dirs* ds, dir_ctx* x, uint32_t s, const char* buf) noexcept nogil:
    """Read the hash table into ds.table, claiming its blocks. 0; 1: there is none that makes sense."""
    cdef const gfs2_dinode* d = <const gfs2_dinode*>buf
    cdef uint32_t height = be16toh(d.di_height), level, got
    cdef uint64_t total = <uint64_t>8 << x.depth, n, per, width, i, j
    cdef uint64_t* cur = ds.level_a
    cdef uint64_t* nxt = ds.level_b
    if height == 0:
        if total > fs.bsize - SIZEOF_DINODE:
            return 1
        memcpy(ds.table, buf + SIZEOF_DINODE, total)
        return 0
    n = (total + fs.jbsize - 1) // fs.jbsize
    if height > fs.max_height or n > MAX_HASH_BLOCKS:
        return 1
    # How many blocks the level below the dinode must have, going up from the table's own blocks.
    width = n
    for level in range(height - 1):
        width = (width + fs.inptrs - 1) // fs.inptrs
    _expand(fs, w, s, x.addr, <const uint64_t*>(buf + SIZEOF_DINODE), fs.diptrs, SIZEOF_DINODE, cur, 0, width,
            HOW_HASH if height == 1 else HOW_INDIRECT)
    if width > fs.diptrs:
        return 1
    for level in range(1, height):
        # `per` blocks on the next level: as many as the table needs there.
        per = n
        for i in range(height - 1 - level):
            per = (per + fs.inptrs - 1) // fs.inptrs
        memset(nxt, 0, per * 8)
        i = 0
        while i < width:
            got = wave_read(fs, &fs.w_item, &cur[i], 8, <uint32_t>(width - i))
            for j in range(got):
                if cur[i + j] == 0 or fs.w_item.ptr[j] == NULL:
                    continue
                if check_header(fs, fs.w_item.ptr[j], cur[i + j], x.addr, GFS2_METATYPE_IN, GFS2_FORMAT_IN):
                    _expand(fs, w, s, cur[i + j], <const uint64_t*>(fs.w_item.ptr[j] + SIZEOF_META_HEADER),
                            fs.inptrs, SIZEOF_META_HEADER, nxt, (i + j) * fs.inptrs, per,
                            HOW_HASH if level == height - 1 else HOW_INDIRECT)
            i += got
        cur, nxt = nxt, cur
        width = per
    _copy_table(fs, ds, x, cur, n)
    return 0


cdef void _find_leaves(fsck* fs, walker* w, dirs* ds, dir_ctx* x, uint32_t s) noexcept nogil:
    """Cut the hash table into runs of one leaf each."""
    cdef uint32_t i = 0, n = <uint32_t>1 << x.depth, run
    cdef uint64_t ptr
    cdef int rc
    cdef finding* f
    while i < n:
        run = 1
        while i + run < n and ds.table[i + run] == ds.table[i]:
            run += 1
        ptr = be64toh(ds.table[i])
        if ptr == 0:
            f = report(fs, K_DIR_HASH_HOLE, x.addr, x.addr, 0, i)
            if f != NULL:
                f.aux = run
            i += run
            continue
        if run & (run - 1) or i & (run - 1):
            f = report(fs, K_DIR_HASH_RUN, x.addr, x.addr, ptr, run)
            if f != NULL:
                f.aux = i
        rc = take(fs, w, ptr, x.addr, HOW_LEAF)
        if rc < 0:
            f = report(fs, K_DIR_HASH_PTR, x.addr, x.addr, 0, ptr)
            if f != NULL:
                f.aux = i
        else:
            w.slots[s].counted += 1
            if rc == 0 and _add_leaf(ds, ptr, 0, i, run, 1):
                ds.nomem = 1
        i += run


# ---- leaves ----

cdef int _cmp_leaf(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const leaf_item*>a).block, y = (<const leaf_item*>b).block
    return -1 if x < y else (1 if x > y else 0)


cdef void _one_leaf(fsck* fs, walker* w, dirs* ds, dir_ctx* x, uint32_t s, const leaf_item* it,
                    const char* buf) noexcept nogil:
    cdef const gfs2_leaf* lf = <const gfs2_leaf*>buf
    cdef uint32_t depth = be16toh(lf.lf_depth), n, fmt = be32toh(lf.lf_dirent_format)
    cdef uint64_t nxt = be64toh(lf.lf_next)
    cdef int rc
    cdef finding* f
    if not check_header(fs, buf, it.block, x.addr, GFS2_METATYPE_LF, GFS2_FORMAT_LF):
        return
    if depth > x.depth or (it.dist == 1 and <uint32_t>1 << (x.depth - depth) != it.count):
        f = report(fs, K_LEAF_DEPTH, it.block, x.addr, it.count, depth)
        if f != NULL:
            f.aux = x.depth
    # Early kernels stored the format in the upper half.
    if fmt != GFS2_FORMAT_DE and fmt != <uint32_t>GFS2_FORMAT_DE << 16:
        report(fs, K_LEAF_FORMAT, it.block, x.addr, GFS2_FORMAT_DE, fmt)
    if lf.lf_inode != 0 and be64toh(lf.lf_inode) != x.addr:
        report(fs, K_LEAF_INODE, it.block, x.addr, x.addr, be64toh(lf.lf_inode))
    if be32toh(lf.lf_dist) != it.dist and lf.lf_inode != 0 and be32toh(lf.lf_dist) > 1:
        report(fs, K_LEAF_DIST, it.block, x.addr, it.dist, be32toh(lf.lf_dist))
    if not fs.hunting:
        n = dirents(fs, ds, x, buf, it.block, SIZEOF_LEAF, it.start, it.count, it.dist > 1 or nxt != 0)
        x.n_entries += n
        if n != be16toh(lf.lf_entries):
            report(fs, K_LEAF_ENTRIES, it.block, x.addr, n, be16toh(lf.lf_entries))
    if nxt == 0:
        return
    rc = take(fs, w, nxt, x.addr, HOW_LEAF)
    if rc < 0:
        report(fs, K_PTR_RANGE, it.block, x.addr, 0, nxt)
        return
    w.slots[s].counted += 1
    if rc == 0:
        if _add_leaf(ds, nxt, it.block, it.start, it.count, it.dist + 1):
            ds.nomem = 1
    elif conflict_find(fs, nxt) != NULL and conflict_find(fs, nxt).state == 1:
        report(fs, K_LEAF_LOOP, it.block, x.addr, 0, nxt)


cdef int _cmp_name(const void* a, const void* b) noexcept nogil:
    cdef const name_record* x = <const name_record*>a
    cdef const name_record* y = <const name_record*>b
    if x.start != y.start:
        return -1 if x.start < y.start else 1
    if x.hash != y.hash:
        return -1 if x.hash < y.hash else 1
    if x.second != y.second:
        return -1 if x.second < y.second else 1
    return 0


cdef void _chain_duplicates(fsck* fs, dirs* ds, dir_ctx* x) noexcept nogil:
    """Names that two leaves of one chain have."""
    cdef uint64_t i
    if ds.n_names > 1:
        qsort(ds.names, ds.n_names, sizeof(name_record), _cmp_name)
    for i in range(1, ds.n_names):
        if _cmp_name(&ds.names[i], &ds.names[i - 1]) == 0 and ds.names[i].block != ds.names[i - 1].block:
            report(fs, K_DE_DUPLICATE, ds.names[i].block, x.addr, 0, ds.names[i - 1].block)
    ds.n_names = 0


cdef void _exhash(fsck* fs, walker* w, dirs* ds, dir_ctx* x, uint32_t s, const char* buf) noexcept nogil:
    """A directory with a hash table. `buf` must not lie in the item wave's buffer."""
    cdef leaf_item* t
    cdef uint64_t done
    cdef uint32_t got, i
    if x.depth == 0 or x.depth > GFS2_DIR_MAX_DEPTH or _need_buffers(ds):
        return
    if _load_table(fs, w, ds, x, s, buf):
        return
    ds.n_more = 0
    ds.n_names = 0
    _find_leaves(fs, w, ds, x, s)
    while ds.n_more:
        t = ds.leaves
        ds.leaves = ds.more
        ds.more = t
        ds.n_leaves = ds.n_more
        ds.n_more = 0
        qsort(ds.leaves, ds.n_leaves, sizeof(leaf_item), _cmp_leaf)
        done = 0
        while done < ds.n_leaves:
            got = wave_read(fs, &fs.w_item, &ds.leaves[done].block, sizeof(leaf_item),
                            <uint32_t>(ds.n_leaves - done if ds.n_leaves - done < MAX_SLOTS else MAX_SLOTS))
            for i in range(got):
                if fs.w_item.ptr[i] != NULL:
                    _one_leaf(fs, w, ds, x, s, &ds.leaves[done + i], fs.w_item.ptr[i])
            done += got
    _chain_duplicates(fs, ds, x)


# ---- pass 2 ----

cdef void _one_dir(fsck* fs, walker* w, dirs* ds, uint64_t block, uint64_t index,
                   const char* buf) noexcept nogil:
    cdef const gfs2_dinode* d = <const gfs2_dinode*>buf
    cdef dir_ctx x
    cdef uint32_t s = slot_open(w, block, d)
    memset(&x, 0, sizeof(x))
    x.addr = block
    x.index = index
    x.ordinal = <uint32_t>dir_number(ds, index)
    x.depth = be16toh(d.di_depth)
    x.system = 1 if be32toh(d.di_flags) & GFS2_DIF_SYSTEM else 0
    if x.ordinal == 0:
        return
    start_eattr(fs, w, s, d)
    if be32toh(d.di_flags) & GFS2_DIF_EXHASH:
        x.exhash = 1
        _exhash(fs, w, ds, &x, s, buf)
    elif be16toh(d.di_height) == 0 and not fs.hunting:
        x.n_entries = dirents(fs, ds, &x, buf, block, SIZEOF_DINODE, 0, 0, 0)
    if fs.hunting or fs.it[index].word & IT_UNLINKED:
        return
    if x.n_entries != be32toh(d.di_entries):
        report(fs, K_DIR_ENTRIES, block, block, x.n_entries, be32toh(d.di_entries))
    if x.n_dot == 0:
        report(fs, K_DOT_MISSING, block, block, block, 0)
    if x.n_dotdot == 0:
        report(fs, K_DOTDOT_MISSING, block, block, 0, 0)


cdef int pass2(fsck* fs, walker* w, dirs* ds, cursor* c, uint32_t n_waves) noexcept nogil:
    """Check directories from the cursor on, a few waves of them. 1: more to do; 0: all done; -ENOMEM."""
    cdef uint64_t blocks[WAVE_DIRS]
    cdef uint64_t wanted[WAVE_DIRS]
    cdef uint64_t where[WAVE_DIRS]
    cdef uint64_t first, wave_no = 0
    cdef uint32_t found, n, i, done, got
    while wave_no < n_waves:
        # Collect a wave of directories; files between them are passed over.
        n = 0
        found = 1
        while n < WAVE_DIRS and found:
            found = next_inodes(fs, c, fs.n_rg, blocks, &first, WAVE_DIRS - n)
            for i in range(found):
                if fs.it[first + i].word >> IT_TYPE_SHIFT == DT_DIR_:
                    wanted[n] = blocks[i]
                    where[n] = first + i
                    n += 1
        if n == 0:
            return -ENOMEM if w.nomem or ds.nomem else 0
        done = 0
        while done < n:
            got = wave_read(fs, &fs.w_di, &wanted[done], 8, n - done)
            for i in range(got):
                if fs.w_di.ptr[i] != NULL:
                    _one_dir(fs, w, ds, wanted[done + i], where[done + i], fs.w_di.ptr[i])
            drain(fs, w)
            finish_slots(fs, w)
            done += got
        wave_no += 1
    return 1


# ---- pass 3: connectivity ----

cdef int pass3(fsck* fs, dirs* ds) noexcept nogil:
    """Every directory must lead up to root or master, by its one entry, and its '..' must say the same."""
    cdef uint8_t* mark = <uint8_t*>calloc(ds.n + 1, 1)
    cdef uint64_t i, k, block, verdict
    cdef int have_root = 0, have_master = 0
    cdef dir_entry* d
    if mark == NULL:
        return -ENOMEM
    for i in range(ds.n):
        d = &ds.d[i]
        block = inode_block(fs, d.index)
        if block == fs.root or block == fs.master:
            mark[i] = 1
            have_root |= block == fs.root
            have_master |= block == fs.master
            if d.dotdot and d.dotdot != i + 1:
                report(fs, K_DOTDOT_WRONG, block, block, block, inode_block(fs, ds.d[d.dotdot - 1].index))
            if d.parent:
                report(fs, K_DIR_HARD_LINK, d.parent_block, block, 0, block)
        elif fs.it[d.index].word & IT_UNLINKED:
            mark[i] = 1
        elif d.parent and d.dotdot and d.dotdot != d.parent:
            report(fs, K_DOTDOT_WRONG, block, block, inode_block(fs, ds.d[d.parent - 1].index),
                   inode_block(fs, ds.d[d.dotdot - 1].index))
    if fs.root and not have_root:
        report(fs, K_SB_ROOT, fs.sb_block, fs.root, 0, fs.root)
    if not have_master:
        report(fs, K_SB_MASTER, fs.sb_block, fs.master, 0, fs.master)
    for i in range(ds.n):
        # Up until something is known: 1 connected, 2 not; 3 is the way just gone.
        k = i
        while mark[k] == 0 and ds.d[k].parent:
            mark[k] = 3
            k = ds.d[k].parent - 1
        verdict = mark[k]
        if verdict == 3:
            block = inode_block(fs, ds.d[k].index)
            report(fs, K_DIR_UNREACHABLE, block, block, 0, inode_block(fs, ds.d[ds.d[k].parent - 1].index))
            verdict = 2
        elif verdict == 0:
            # No entry leads here: pass 4 reports it as an orphan.
            verdict = 2
        if mark[k] == 0:
            mark[k] = 2
        k = i
        while mark[k] == 3:
            mark[k] = <uint8_t>verdict
            k = ds.d[k].parent - 1
    free(mark)
    return 0


# ---- pass 4: link counts ----

cdef int pass4(fsck* fs, dirs* ds, uint64_t first, uint64_t n) noexcept nogil:
    """Compare links found with di_nlink, for the inodes [first, first + n) of the table."""
    cdef char buf[MAX_BSIZE]
    cdef const gfs2_dinode* d = <const gfs2_dinode*>&buf[0]
    cdef uint64_t i, block, end = first + n
    cdef int64_t root = inode_index(fs, fs.root), master = inode_index(fs, fs.master)
    cdef uint32_t word, nlink, counted
    cdef int orphan
    cdef Kind kind
    if end > fs.n_it:
        end = fs.n_it
    for i in range(first, end):
        word = fs.it[i].word
        if word >> IT_TYPE_SHIFT == 0 or word & IT_UNLINKED:
            continue
        if word & IT_REM_MASK == 0 and word & IT_SEEN:
            continue
        orphan = 0 if word & IT_SEEN or <int64_t>i == root or <int64_t>i == master else 1
        if not orphan and word & IT_REM_MASK == 0:
            continue
        # Finding an inode's block takes a while: when enough are stored the others are only counted.
        kind = K_ORPHAN if orphan else K_NLINK
        if fs.kind_stored[<int>kind] >= MAX_PER_KIND:
            report(fs, kind, 0, 0, 0, 0)
            continue
        block = inode_block(fs, i)
        if orphan:
            report(fs, K_ORPHAN, block, block, 1, 0)
            continue
        if read_block(fs, block, buf):
            report(fs, K_IO_ERROR, block, block, 0, EIO)
            continue
        nlink = be32toh(d.di_nlink)
        counted = (nlink - word) & IT_REM_MASK
        report(fs, K_NLINK, block, block, counted, nlink)
    return 0
