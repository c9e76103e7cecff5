"""Packing of directory entries in a block; see _dirent.pxd. Source of behaviour: fs/gfs2/dir.c."""
from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from gfs2py.ondisk._checksum cimport gfs2_dir_hash
from gfs2py.ondisk._ondisk cimport (
    be16toh, be32toh, be64toh, gfs2_dirent, GFS2_FNAMESIZE, htobe16, htobe32, htobe64, SIZEOF_DINODE,
    SIZEOF_DIRENT, SIZEOF_LEAF,
)

cdef int bad_field(dent_bad* bad, const char* field, uint64_t wanted, uint64_t found) noexcept nogil:
    bad.field = field
    bad.wanted = wanted
    bad.found = found
    return -EIO


cdef int dent_check(const uint8_t* blk, uint32_t off, uint32_t start, uint32_t bsize, dent_bad* bad) noexcept nogil:
    cdef const gfs2_dirent* d = <const gfs2_dirent*>(blk + off)
    cdef uint32_t rec, namelen
    if off + SIZEOF_DIRENT > bsize:
        return bad_field(bad, b"de_rec_len (the record before leaves too little)", bsize - SIZEOF_DIRENT, off)
    rec = be16toh(d.de_rec_len)
    if rec < SIZEOF_DIRENT or rec & 7:
        return bad_field(bad, b"de_rec_len", SIZEOF_DIRENT, rec)
    if off + rec > bsize:
        return bad_field(bad, b"de_rec_len (beyond the block)", bsize - off, rec)
    if dent_sentinel(d):
        if off != start:
            return bad_field(bad, b"de_inum (only the first record may be free)", 1, 0)
        return <int>rec
    namelen = be16toh(d.de_name_len)
    if namelen == 0 or namelen > GFS2_FNAMESIZE or SIZEOF_DIRENT + namelen > rec:
        return bad_field(bad, b"de_name_len", rec - SIZEOF_DIRENT, namelen)
    return <int>rec


cdef inline uint32_t sound_rec(const gfs2_dirent* d, uint32_t left) noexcept nogil:
    """Length of a live record that is sound and has `left` bytes up to the block's end; 0: dent_check must look."""
    cdef uint32_t rec
    cdef uint32_t namelen
    if left < SIZEOF_DIRENT:
        return 0
    rec = be16toh(d.de_rec_len)
    namelen = be16toh(d.de_name_len)
    if rec & 7 or rec > left or namelen - 1 >= GFS2_FNAMESIZE or SIZEOF_DIRENT + namelen > rec or dent_sentinel(d):
        return 0
    return rec


cdef int dents_check(const uint8_t* blk, uint32_t start, uint32_t bsize, uint32_t* count, dent_bad* bad) noexcept nogil:
    cdef uint32_t off = start
    cdef uint32_t n = 0
    cdef int rec
    while off < bsize:
        rec = dent_check(blk, off, start, bsize, bad)
        if rec < 0:
            return rec
        if not dent_sentinel(<const gfs2_dirent*>(blk + off)):
            n += 1
        off += <uint32_t>rec
    count[0] = n
    return 0


cdef int dents_find(const uint8_t* blk, uint32_t start, uint32_t bsize, const char* name, uint32_t namelen,
                    uint32_t hash, uint32_t* off, uint32_t* prev, dent_bad* bad) noexcept nogil:
    cdef uint32_t at = start
    cdef uint32_t before = 0
    cdef uint32_t be_hash = htobe32(hash)
    cdef uint16_t be_len = htobe16(<uint16_t>namelen)
    cdef const gfs2_dirent* d
    cdef uint32_t rec
    cdef int checked
    while at < bsize:
        d = <const gfs2_dirent*>(blk + at)
        rec = sound_rec(d, bsize - at)
        if rec == 0:
            checked = dent_check(blk, at, start, bsize, bad)
            if checked < 0:
                return checked
            rec = <uint32_t>checked
        if (d.de_hash == be_hash and d.de_name_len == be_len and not dent_sentinel(d)
                and memcmp(blk + at + SIZEOF_DIRENT, name, namelen) == 0):
            off[0] = at
            prev[0] = before
            return 1
        before = at
        at += rec
    return 0


cdef int dents_room(const uint8_t* blk, uint32_t start, uint32_t bsize, uint32_t namelen, uint32_t* off,
                    dent_bad* bad) noexcept nogil:
    cdef uint32_t at = start
    cdef uint32_t need = dent_size(namelen)
    cdef uint32_t used
    cdef const gfs2_dirent* d
    cdef uint32_t rec
    cdef int checked
    while at < bsize:
        d = <const gfs2_dirent*>(blk + at)
        rec = sound_rec(d, bsize - at)
        used = dent_size(be16toh(d.de_name_len)) if rec else 0
        if rec == 0:
            checked = dent_check(blk, at, start, bsize, bad)    # damage, or the free record at the start
            if checked < 0:
                return checked
            rec = <uint32_t>checked
        if used + need <= rec:
            off[0] = at
            return 1
        at += rec
    return 0


cdef uint32_t dents_put(uint8_t* blk, uint32_t off, const char* name, uint32_t namelen, uint32_t hash, uint64_t no_addr,
                        uint64_t no_formal_ino, uint16_t dtype) noexcept nogil:
    cdef gfs2_dirent* d = <gfs2_dirent*>(blk + off)
    cdef uint32_t rec = be16toh(d.de_rec_len)
    cdef uint32_t used = 0 if dent_sentinel(d) else dent_size(be16toh(d.de_name_len))
    if used:
        d.de_rec_len = htobe16(<uint16_t>used)
    d = <gfs2_dirent*>(blk + off + used)
    memset(d, 0, dent_size(namelen))
    d.de_inum.no_addr = htobe64(no_addr)
    d.de_inum.no_formal_ino = htobe64(no_formal_ino)
    d.de_hash = htobe32(hash)
    d.de_rec_len = htobe16(<uint16_t>(rec - used))
    d.de_name_len = htobe16(<uint16_t>namelen)
    d.de_type = htobe16(dtype)
    memcpy(<uint8_t*>d + SIZEOF_DIRENT, name, namelen)
    return off + used


cdef void dents_take(uint8_t* blk, uint32_t off, uint32_t prev) noexcept nogil:
    cdef gfs2_dirent* d = <gfs2_dirent*>(blk + off)
    cdef gfs2_dirent* p
    if prev == 0:
        d.de_inum.no_addr = 0
        d.de_inum.no_formal_ino = 0
        return
    p = <gfs2_dirent*>(blk + prev)
    p.de_rec_len = htobe16(<uint16_t>(be16toh(p.de_rec_len) + be16toh(d.de_rec_len)))


cdef void dents_init(uint8_t* blk, uint32_t start, uint32_t bsize) noexcept nogil:
    cdef gfs2_dirent* d = <gfs2_dirent*>(blk + start)
    memset(blk + start, 0, bsize - start)
    d.de_rec_len = htobe16(<uint16_t>(bsize - start))


cdef inline uint32_t close_gap(uint8_t* blk, uint32_t start, uint32_t last, uint32_t off) noexcept nogil:
    """The record before the entry at `off` now reaches up to it: `last`, or a sentinel at the start. Returns off."""
    cdef gfs2_dirent* d
    if last:
        (<gfs2_dirent*>(blk + last)).de_rec_len = htobe16(<uint16_t>(off - last))
    elif off > start:
        d = <gfs2_dirent*>(blk + start)
        memset(d, 0, SIZEOF_DIRENT)
        d.de_rec_len = htobe16(<uint16_t>(off - start))
    return off


cdef uint32_t dents_split(uint8_t* old, uint8_t* new, uint32_t start, uint32_t bsize, uint32_t divider) noexcept nogil:
    cdef uint32_t off = start
    cdef uint32_t last_old = 0
    cdef uint32_t last_new = 0
    cdef uint32_t moved = 0
    cdef uint32_t rec
    cdef gfs2_dirent* d
    while off < bsize:
        d = <gfs2_dirent*>(old + off)
        rec = be16toh(d.de_rec_len)
        if dent_sentinel(d):
            pass
        elif be32toh(d.de_hash) < divider:
            memcpy(new + off, d, dent_size(be16toh(d.de_name_len)))
            last_new = close_gap(new, start, last_new, off)
            moved += 1
        else:
            last_old = close_gap(old, start, last_old, off)
        off += rec
    # What follows the last entry is its free room; without any entry the whole block is one sentinel.
    close_gap(old, start, last_old, bsize)
    close_gap(new, start, last_new, bsize)
    return moved


cdef void dents_to_leaf(const uint8_t* src, uint8_t* leaf, uint32_t bsize) noexcept nogil:
    cdef uint32_t off = SIZEOF_LEAF
    cdef uint32_t end = SIZEOF_LEAF + bsize - SIZEOF_DINODE
    cdef uint32_t rec
    cdef gfs2_dirent* d
    memcpy(leaf + SIZEOF_LEAF, src + SIZEOF_DINODE, bsize - SIZEOF_DINODE)
    memset(leaf + end, 0, bsize - end)
    while True:
        d = <gfs2_dirent*>(leaf + off)
        rec = be16toh(d.de_rec_len)
        if off + rec >= end:
            d.de_rec_len = htobe16(<uint16_t>(bsize - off))
            return
        off += rec


cdef uint32_t dent_second_hash(const char* name, uint32_t namelen) noexcept nogil:
    cdef uint64_t h = <uint64_t>0x9E3779B97F4A7C15 ^ <uint64_t>namelen
    cdef uint64_t w
    while namelen >= 8:
        memcpy(&w, name, 8)
        h = (h ^ w) * <uint64_t>0xBF58476D1CE4E5B9
        h ^= h >> 29
        name += 8
        namelen -= 8
    if namelen:
        w = 0
        memcpy(&w, name, namelen)
        h = (h ^ w) * <uint64_t>0xBF58476D1CE4E5B9
        h ^= h >> 29
    h *= <uint64_t>0x94D049BB133111EB
    return <uint32_t>(h >> (64 - COOKIE_SECOND_BITS))


# ---- edges for tests -------------------------------------------------------------------------------------------

cdef uint32_t block_size(const uint8_t[::1] block, uint32_t start) except 0:
    cdef Py_ssize_t n = block.shape[0]
    if n not in (512, 1024, 2048, 4096):
        raise ValueError(f"a block has 512 to 4096 bytes, not {n}")
    if start not in (SIZEOF_DINODE, SIZEOF_LEAF):
        raise ValueError(f"entries begin at {SIZEOF_DINODE} or {SIZEOF_LEAF}, not {start}")
    return <uint32_t>n


cdef int name_size(const unsigned char[::1] name) except 0:
    if not 0 < name.shape[0] <= GFS2_FNAMESIZE:
        raise ValueError(f"a name has 1 to {GFS2_FNAMESIZE} bytes, not {name.shape[0]}")
    return <int>name.shape[0]


cdef object damage(dent_bad* bad):
    return ValueError(f"{(<bytes>bad.field).decode()}: wanted {bad.wanted}, found {bad.found}")


def py_init(uint8_t[::1] block not None, uint32_t start) -> None:
    """Makes the block one free record."""
    dents_init(&block[0], start, block_size(block, start))


def py_check(const uint8_t[::1] block not None, uint32_t start) -> int:
    """Number of live entries; ValueError names the field when the block is damaged."""
    cdef uint32_t bsize = block_size(block, start)
    cdef uint32_t count = 0
    cdef dent_bad bad
    if dents_check(&block[0], start, bsize, &count, &bad) < 0:
        raise damage(&bad)
    return count


def py_entries(const uint8_t[::1] block not None, uint32_t start) -> list:
    """(offset, name, no_addr, no_formal_ino, hash, type) of every live entry, in block order."""
    cdef uint32_t bsize = block_size(block, start)
    cdef uint32_t off = start
    cdef const gfs2_dirent* d
    cdef dent_bad bad
    cdef int rec
    out = []
    while off < bsize:
        rec = dent_check(&block[0], off, start, bsize, &bad)
        if rec < 0:
            raise damage(&bad)
        d = <const gfs2_dirent*>&block[off]
        if not dent_sentinel(d):
            name = (<const char*>&block[off + SIZEOF_DIRENT])[:be16toh(d.de_name_len)]
            out.append((off, name, be64toh(d.de_inum.no_addr), be64toh(d.de_inum.no_formal_ino),
                        be32toh(d.de_hash), be16toh(d.de_type)))
        off += <uint32_t>rec
    return out


def py_find(const uint8_t[::1] block not None, uint32_t start, const unsigned char[::1] name not None) -> object:
    """(no_addr, type) of the name, or None."""
    cdef uint32_t bsize = block_size(block, start)
    cdef uint32_t n = <uint32_t>name_size(name)
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef const gfs2_dirent* d
    cdef dent_bad bad
    cdef int r = dents_find(&block[0], start, bsize, <const char*>&name[0], n,
                            gfs2_dir_hash(<const char*>&name[0], n), &off, &prev, &bad)
    if r < 0:
        raise damage(&bad)
    if r == 0:
        return None
    d = <const gfs2_dirent*>&block[off]
    return (be64toh(d.de_inum.no_addr), be16toh(d.de_type))


def py_insert(uint8_t[::1] block not None, uint32_t start, const unsigned char[::1] name not None, uint64_t no_addr,
              uint64_t no_formal_ino, uint16_t dtype, hash_: int | None = None) -> bool:
    """Puts the name into the block; False when there is no room. `hash_` overrides the name's hash."""
    cdef uint32_t bsize = block_size(block, start)
    cdef uint32_t n = <uint32_t>name_size(name)
    cdef uint32_t off = 0
    cdef uint32_t h = gfs2_dir_hash(<const char*>&name[0], n) if hash_ is None else hash_
    cdef dent_bad bad
    cdef int r = dents_room(&block[0], start, bsize, n, &off, &bad)
    if r < 0:
        raise damage(&bad)
    if r == 0:
        return False
    dents_put(&block[0], off, <const char*>&name[0], n, h, no_addr, no_formal_ino, dtype)
    return True


def py_remove(uint8_t[::1] block not None, uint32_t start, const unsigned char[::1] name not None) -> bool:
    """Takes the name out of the block; False when it is not there."""
    cdef uint32_t bsize = block_size(block, start)
    cdef uint32_t n = <uint32_t>name_size(name)
    cdef uint32_t off = 0
    cdef uint32_t prev = 0
    cdef dent_bad bad
    cdef int r = dents_find(&block[0], start, bsize, <const char*>&name[0], n,
                            gfs2_dir_hash(<const char*>&name[0], n), &off, &prev, &bad)
    if r < 0:
        raise damage(&bad)
    if r:
        dents_take(&block[0], off, prev)
    return bool(r)


def py_split(uint8_t[::1] old not None, uint8_t[::1] new not None, uint32_t divider) -> int:
    """Splits a leaf: entries with a hash below `divider` move to `new`; returns how many."""
    cdef uint32_t bsize = block_size(old, SIZEOF_LEAF)
    cdef uint32_t count = 0
    cdef dent_bad bad
    if new.shape[0] != old.shape[0]:
        raise ValueError("both leaves must have the same size")
    if dents_check(&old[0], SIZEOF_LEAF, bsize, &count, &bad) < 0:
        raise damage(&bad)
    return dents_split(&old[0], &new[0], SIZEOF_LEAF, bsize, divider)


def py_to_leaf(const uint8_t[::1] dinode not None, uint8_t[::1] leaf not None) -> None:
    """Copies the entries of a stuffed directory into a leaf."""
    cdef uint32_t bsize = block_size(dinode, SIZEOF_DINODE)
    cdef uint32_t count = 0
    cdef dent_bad bad
    if leaf.shape[0] != dinode.shape[0]:
        raise ValueError("both blocks must have the same size")
    if dents_check(&dinode[0], SIZEOF_DINODE, bsize, &count, &bad) < 0:
        raise damage(&bad)
    dents_to_leaf(&dinode[0], &leaf[0], bsize)


def py_second_hash(const unsigned char[::1] name not None) -> int:
    """The second hash in a readdir cookie, COOKIE_SECOND_BITS wide."""
    return dent_second_hash(<const char*>&name[0], <uint32_t>name_size(name))
