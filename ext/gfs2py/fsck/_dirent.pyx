"""Directory entries: their form, their place, and what they lead to.

Source of the rules: fs/gfs2/dir.c gfs2_check_dirent and gfs2_dirent_scan, gfs2-utils gfs2/fsck/metawalk.c
check_entries and pass2.c. Links are counted by taking one off the inode's remaining links per entry.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memchr, memcmp

from gfs2py.fsck._dir cimport *
from gfs2py.fsck._state cimport *
from gfs2py.ondisk._checksum cimport gfs2_dir_hash
from gfs2py.ondisk._ondisk cimport *

cdef enum:
    MAX_OFFS = 128              # entries that fit into a block of 4096 bytes: at most 96
    DT_DIR_ = 4


cdef uint64_t dir_number(dirs* ds, uint64_t index) noexcept nogil:
    """The number + 1 of the directory with that place in the inode table; 0 if it is none."""
    cdef uint64_t lo = 0, hi = ds.n, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if ds.d[mid].index < index:
            lo = mid + 1
        else:
            hi = mid
    return lo + 1 if lo < ds.n and ds.d[lo].index == index else 0


cdef finding* _de(fsck* fs, Kind kind, dir_ctx* x, uint64_t block, uint32_t off, const char* buf,
                  uint64_t wanted, uint64_t found) noexcept nogil:
    """A finding about the entry at `off`, with its name."""
    cdef finding* f = report(fs, kind, block, x.addr, wanted, found)
    cdef const gfs2_dirent* de = <const gfs2_dirent*>(buf + off)
    cdef uint32_t n
    if f == NULL:
        return f
    f.aux = off
    n = be16toh(de.de_name_len)
    if off + SIZEOF_DIRENT + n <= fs.bsize:
        finding_name(f, buf + off + SIZEOF_DIRENT, n)
    return f


cdef uint64_t _second_hash(const char* name, uint32_t n) noexcept nogil:
    cdef uint64_t h = <uint64_t>0xCBF29CE484222325
    cdef uint32_t i
    for i in range(n):
        h = (h ^ <uint8_t>name[i]) * <uint64_t>0x100000001B3
    return h


cdef void _keep_name(dirs* ds, uint32_t start, uint32_t hash, const char* name, uint32_t n,
                     uint64_t block) noexcept nogil:
    """Remember a name of a chain of leaves; when all of it was read it is searched for duplicates."""
    cdef name_record* grown
    cdef uint64_t cap
    if ds.n_names >= MAX_CHAIN_NAMES:
        return
    if ds.n_names == ds.names_cap:
        cap = ds.names_cap * 2 if ds.names_cap else 1024
        grown = <name_record*>realloc(ds.names, cap * sizeof(name_record))
        if grown == NULL:
            return
        ds.names = grown
        ds.names_cap = cap
    ds.names[ds.n_names].start = start
    ds.names[ds.n_names].hash = hash
    ds.names[ds.n_names].second = _second_hash(name, n)
    ds.names[ds.n_names].block = block
    ds.n_names += 1


cdef int _earlier(const char* buf, const uint32_t* offs, uint32_t n, uint32_t off) noexcept nogil:
    """Has the block an earlier entry of the same name?"""
    cdef const gfs2_dirent* a = <const gfs2_dirent*>(buf + off)
    cdef const gfs2_dirent* b
    cdef uint32_t i
    for i in range(n):
        b = <const gfs2_dirent*>(buf + offs[i])
        if a.de_hash == b.de_hash and a.de_name_len == b.de_name_len \
                and memcmp(buf + off + SIZEOF_DIRENT, buf + offs[i] + SIZEOF_DIRENT,
                           be16toh(a.de_name_len)) == 0:
            return 1
    return 0


cdef void _dot(fsck* fs, dirs* ds, dir_ctx* x, const char* buf, uint64_t block, uint32_t off, int64_t target,
               int n) noexcept nogil:
    """'.' (n = 1) or '..' (n = 2)."""
    cdef const gfs2_dirent* de = <const gfs2_dirent*>(buf + off)
    cdef uint64_t addr = be64toh(de.de_inum.no_addr), number
    if n == 1:
        x.n_dot += 1
        if x.n_dot > 1:
            _de(fs, K_DE_DUPLICATE, x, block, off, buf, 0, addr)
        elif addr != x.addr:
            _de(fs, K_DOT_WRONG, x, block, off, buf, x.addr, addr)
        return
    x.n_dotdot += 1
    if x.n_dotdot > 1:
        _de(fs, K_DE_DUPLICATE, x, block, off, buf, 0, addr)
        return
    number = dir_number(ds, <uint64_t>target) if target >= 0 else 0
    if number == 0:
        _de(fs, K_DOTDOT_WRONG, x, block, off, buf, 0, addr)
    else:
        ds.d[x.ordinal - 1].dotdot = <uint32_t>number


cdef void _child_dir(fsck* fs, dirs* ds, dir_ctx* x, const char* buf, uint64_t block, uint32_t off,
                     uint64_t index) noexcept nogil:
    """An entry, not '.' or '..', that leads to a directory: it must be the only one."""
    cdef uint64_t number = dir_number(ds, index)
    cdef dir_entry* d
    if number == 0:
        return
    d = &ds.d[number - 1]
    if d.parent != NO_DIR:
        _de(fs, K_DIR_HARD_LINK, x, block, off, buf, inode_block(fs, ds.d[d.parent - 1].index), x.addr)
        return
    d.parent = x.ordinal
    d.parent_block = block


cdef void _target(fsck* fs, dirs* ds, dir_ctx* x, const char* buf, uint64_t block, uint32_t off,
                  int dots) noexcept nogil:
    """What the entry leads to: an inode in use, with that formal number and that type."""
    cdef const gfs2_dirent* de = <const gfs2_dirent*>(buf + off)
    cdef uint64_t addr = be64toh(de.de_inum.no_addr), formal
    cdef int64_t index = inode_index(fs, addr)
    cdef uint32_t word, kind
    cdef int state
    cdef name_ref* ref
    if dots and fs.it[x.index].word & IT_UNLINKED:
        # A removed directory that waits to be freed: what it says of itself and its parent counts no more.
        return
    if index < 0:
        state = block_state(fs, addr)
        if state < 0:
            _de(fs, K_DE_INUM_RANGE, x, block, off, buf, 0, addr)
        else:
            _de(fs, K_DE_TARGET, x, block, off, buf, addr, <uint64_t>disk_state(fs, addr))
        if dots:
            _dot(fs, ds, x, buf, block, off, -1, dots)
        return
    word = fs.it[index].word
    kind = word >> IT_TYPE_SHIFT
    if kind == 0 or word & IT_UNLINKED:
        _de(fs, K_DE_TARGET, x, block, off, buf, addr, 2 if word & IT_UNLINKED else 3)
    else:
        formal = get_formal(fs, <uint64_t>index)
        if formal != be64toh(de.de_inum.no_formal_ino):
            _de(fs, K_DE_FORMAL, x, block, off, buf, formal, be64toh(de.de_inum.no_formal_ino))
        if kind != be16toh(de.de_type):
            _de(fs, K_DE_TYPE, x, block, off, buf, kind, be16toh(de.de_type))
        if (word & IT_SYSTEM) != (IT_SYSTEM if x.system else 0) and not dots:
            _de(fs, K_DE_SYSTEM, x, block, off, buf, x.system, 1 if word & IT_SYSTEM else 0)
    fs.it[index].word = (word & ~<uint32_t>IT_REM_MASK) | ((word - 1) & IT_REM_MASK)
    if dots:
        _dot(fs, ds, x, buf, block, off, index, dots)
        return
    fs.it[index].word |= IT_SEEN
    if ds.n_refs:
        ref = find_ref(ds, addr)
        if ref != NULL:
            ref.block = block
            ref.parent = x.ordinal
    if kind == DT_DIR_:
        _child_dir(fs, ds, x, buf, block, off, <uint64_t>index)


cdef int _form(fsck* fs, dir_ctx* x, const char* buf, uint64_t block, uint32_t off, uint32_t lo,
               uint32_t count) noexcept nogil:
    """Name, hash and leaf of an entry. 1: go on to what it leads to."""
    cdef const gfs2_dirent* de = <const gfs2_dirent*>(buf + off)
    cdef const char* name = buf + off + SIZEOF_DIRENT
    cdef uint32_t n = be16toh(de.de_name_len), rec = be16toh(de.de_rec_len), hash
    cdef uint32_t place
    if n == 0 or n > GFS2_FNAMESIZE or SIZEOF_DIRENT + ((n + 7) & ~<uint32_t>7) > rec:
        _de(fs, K_DE_NAME_LEN, x, block, off, buf, rec - SIZEOF_DIRENT, n)
        return 0
    if memchr(name, c'/', n) != NULL or memchr(name, 0, n) != NULL:
        _de(fs, K_DE_NAME, x, block, off, buf, 0, 0)
    hash = gfs2_dir_hash(name, n)
    if be32toh(de.de_hash) != hash:
        _de(fs, K_DE_HASH, x, block, off, buf, hash, be32toh(de.de_hash))
    elif x.exhash and x.depth:
        place = hash >> (32 - x.depth)
        if place < lo or place - lo >= count:
            _de(fs, K_DE_WRONG_LEAF, x, block, off, buf, place, lo)
    return 1


cdef uint32_t dirents(fsck* fs, dirs* ds, dir_ctx* x, const char* buf, uint64_t block, uint32_t start,
                      uint32_t lo, uint32_t count, int chained) noexcept nogil:
    """Check all entries of a block, from byte `start`; returns how many there are.

    `lo` and `count` are the leaf's part of the hash table; the names of a `chained` leaf are remembered.
    """
    cdef uint32_t off = start, rec, n = 0, n_offs = 0, name_len
    cdef uint32_t offs[MAX_OFFS]
    cdef int first = 1, dots
    cdef const gfs2_dirent* de
    cdef const char* name
    while off < fs.bsize:
        if off + SIZEOF_DIRENT > fs.bsize:
            report(fs, K_DE_REC_LEN, block, x.addr, 0, fs.bsize - off)
            break
        de = <const gfs2_dirent*>(buf + off)
        rec = be16toh(de.de_rec_len)
        if rec < SIZEOF_DIRENT or rec & 7 or rec > fs.bsize - off:
            _de(fs, K_DE_REC_LEN, x, block, off, buf, fs.bsize - off, rec)
            break
        if de.de_inum.no_addr == 0 or de.de_inum.no_formal_ino == 0:
            if not first:
                _de(fs, K_DE_SENTINEL, x, block, off, buf, 0, be64toh(de.de_inum.no_addr))
            first = 0
            off += rec
            continue
        first = 0
        n += 1
        if _form(fs, x, buf, block, off, lo, count):
            name = buf + off + SIZEOF_DIRENT
            name_len = be16toh(de.de_name_len)
            dots = 0
            if name[0] == c'.' and (name_len == 1 or (name_len == 2 and name[1] == c'.')):
                dots = <int>name_len
            elif _earlier(buf, offs, n_offs, off):
                _de(fs, K_DE_DUPLICATE, x, block, off, buf, 0, be64toh(de.de_inum.no_addr))
            if chained and not dots:
                _keep_name(ds, lo, be32toh(de.de_hash), name, name_len, block)
            if n_offs < MAX_OFFS and not dots:
                offs[n_offs] = off
                n_offs += 1
            _target(fs, ds, x, buf, block, off, dots)
        off += rec
    return n
