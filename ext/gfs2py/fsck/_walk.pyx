"""Pass 1: every inode, the tree below it (directories' trees wait for pass 2) and its extended attributes.

Source of the rules: fs/gfs2/glops.c gfs2_dinode_in, fs/gfs2/bmap.c, gfs2-utils gfs2/fsck/pass1.c.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memchr, memcpy, memset

from gfs2py.fsck._eattr cimport ea_indirect, ea_leaf
from gfs2py.fsck._state cimport *
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<sys/stat.h>" nogil:
    enum:
        S_IFMT, S_IFDIR, S_IFREG, S_IFLNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK

cdef enum:
    KNOWN_FLAGS = 0x60000FFF    # bits 2 and 11 are the format's unused ones; INHERIT_JDATA is added below
    TYPE_BAD_MODE = 15
    DT_DIR_ = 4


cdef int walker_init(walker* w) noexcept nogil:
    memset(w, 0, sizeof(walker))
    w.cap = 4096
    w.stack = <item*>calloc(w.cap, sizeof(item))
    return 0 if w.stack != NULL else -ENOMEM


cdef void walker_free(walker* w) noexcept nogil:
    free(w.stack)
    w.stack = NULL


# ---- the stack of work ----

cdef void push(walker* w, uint64_t block, uint64_t parent, uint32_t slot, int kind, int level) noexcept nogil:
    cdef item* grown
    if w.n == w.cap:
        grown = <item*>realloc(w.stack, w.cap * 2 * sizeof(item))
        if grown == NULL:
            w.nomem = 1
            return
        w.stack = grown
        w.cap *= 2
    w.stack[w.n].block = block
    w.stack[w.n].parent = parent
    w.stack[w.n].slot = slot
    w.stack[w.n].kind = <uint8_t>kind
    w.stack[w.n].level = <uint8_t>level
    w.n += 1


cdef int _cmp_item(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const item*>a).block, y = (<const item*>b).block
    return -1 if x < y else (1 if x > y else 0)


cdef int check_header(fsck* fs, const char* buf, uint64_t block, uint64_t inode, uint32_t mtype,
                      uint32_t fmt) noexcept nogil:
    """Is this a metadata block of that type? 1 or 0 (reported). A wrong format number is only reported."""
    cdef const gfs2_meta_header* mh = <const gfs2_meta_header*>buf
    cdef finding* f
    if be32toh(mh.mh_magic) != GFS2_MAGIC:
        f = report(fs, K_META_HEADER, block, inode, GFS2_MAGIC, be32toh(mh.mh_magic))
        if f != NULL:
            f.aux = mtype
        return 0
    if be32toh(mh.mh_type) != mtype:
        f = report(fs, K_META_HEADER, block, inode, mtype, be32toh(mh.mh_type))
        if f != NULL:
            f.aux = mtype
        return 0
    if be32toh(mh.mh_format) != fmt:
        report(fs, K_META_FORMAT, block, inode, fmt, be32toh(mh.mh_format))
    return 1


cdef void _pointers(fsck* fs, walker* w, uint32_t s, uint64_t holder, const char* buf, uint32_t off,
                    uint32_t n, int level) noexcept nogil:
    """Claim what a block's pointers lead to; `level` 0: data, else indirect blocks of that level."""
    cdef const uint64_t* p = <const uint64_t*>(buf + off)
    cdef uint64_t inode = w.slots[s].addr, ptr
    cdef uint32_t i = 0, at
    cdef int rc
    cdef finding* f
    while i < n:
        # Most files are small: most of the pointers are zeros.
        if i & 7 == 0 and i + 8 <= n and (p[i] | p[i + 1] | p[i + 2] | p[i + 3]
                                          | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7]) == 0:
            i += 8
            continue
        at = i
        i += 1
        if p[at] == 0:
            continue
        ptr = be64toh(p[at])
        rc = take(fs, w, ptr, inode, HOW_INDIRECT if level else HOW_DATA)
        if rc < 0:
            f = report(fs, K_PTR_RANGE, holder, inode, 0, ptr)
            if f != NULL:
                f.aux = off + at * 8
            continue
        w.slots[s].counted += 1
        if level and rc == 0:
            push(w, ptr, holder, s, ITEM_INDIRECT, level)


cdef void _do_item(fsck* fs, walker* w, const item* it, const char* buf) noexcept nogil:
    cdef uint64_t inode = w.slots[it.slot].addr
    if it.kind == ITEM_INDIRECT:
        if check_header(fs, buf, it.block, inode, GFS2_METATYPE_IN, GFS2_FORMAT_IN):
            _pointers(fs, w, it.slot, it.block, buf, SIZEOF_META_HEADER, fs.inptrs, it.level - 1)
    elif it.kind == ITEM_EA_INDIRECT:
        if check_header(fs, buf, it.block, inode, GFS2_METATYPE_IN, GFS2_FORMAT_IN):
            ea_indirect(fs, w, it, buf)
    elif it.kind == ITEM_EA_LEAF:
        if check_header(fs, buf, it.block, inode, GFS2_METATYPE_EA, GFS2_FORMAT_EA):
            ea_leaf(fs, w, it, buf)
    else:
        check_header(fs, buf, it.block, inode, GFS2_METATYPE_ED, GFS2_FORMAT_ED)


cdef void drain(fsck* fs, walker* w) noexcept nogil:
    """Work the stack off, wave by wave from the top."""
    cdef item batch[MAX_SLOTS]
    cdef uint32_t n, limit, done, got, i
    while w.n:
        # Items that bring many others are taken a few at a time, so that the stack stays short.
        limit = 32 if w.stack[w.n - 1].level > 1 else MAX_SLOTS
        n = 0
        while w.n and n < limit and (limit > 32 or w.stack[w.n - 1].level > 1):
            if limit > 32 and w.stack[w.n - 1].level > 1:
                break
            w.n -= 1
            batch[n] = w.stack[w.n]
            n += 1
        qsort(batch, n, sizeof(item), _cmp_item)
        done = 0
        while done < n:
            got = wave_read(fs, &fs.w_item, &batch[done].block, sizeof(item), n - done)
            for i in range(got):
                if fs.w_item.ptr[i] != NULL:
                    _do_item(fs, w, &batch[done + i], fs.w_item.ptr[i])
            done += got


# ---- inodes being counted ----

cdef uint32_t slot_open(walker* w, uint64_t addr, const gfs2_dinode* d) noexcept nogil:
    """A slot for an inode; the caller drains and finishes before there are more than MAX_SLOTS."""
    cdef slot* s = &w.slots[w.n_slots]
    s.addr = addr
    s.counted = 1
    s.di_blocks = be64toh(d.di_blocks)
    s.uid = be32toh(d.di_uid)
    s.gid = be32toh(d.di_gid)
    s.flags = be32toh(d.di_flags)
    w.n_slots += 1
    return w.n_slots - 1


cdef void finish_slots(fsck* fs, walker* w) noexcept nogil:
    """The stack is empty: all blocks of the open inodes have been counted."""
    cdef uint32_t i
    cdef slot* s
    for i in range(w.n_slots):
        s = &w.slots[i]
        if s.counted != s.di_blocks:
            report(fs, K_DI_BLOCKS, s.addr, s.addr, s.counted, s.di_blocks)
        if not (s.flags & GFS2_DIF_SYSTEM):
            usage_add(fs, s.uid, s.gid, <int64_t>s.counted)
    w.n_slots = 0


cdef void start_eattr(fsck* fs, walker* w, uint32_t s, const gfs2_dinode* d) noexcept nogil:
    """di_eattr: the first block of the inode's extended attributes."""
    cdef uint64_t ptr = be64toh(d.di_eattr), inode = w.slots[s].addr
    cdef int indirect = 1 if be32toh(d.di_flags) & GFS2_DIF_EA_INDIRECT else 0
    cdef int rc
    if ptr == 0:
        if indirect:
            report(fs, K_DI_EATTR, inode, inode, 0, 0)
        return
    rc = take(fs, w, ptr, inode, HOW_EATTR)
    if rc < 0:
        report(fs, K_DI_EATTR, inode, inode, 0, ptr)
        return
    w.slots[s].counted += 1
    if rc == 0:
        push(w, ptr, inode, s, ITEM_EA_INDIRECT if indirect else ITEM_EA_LEAF, 0)


# ---- one dinode ----

cdef int _type_of(uint32_t mode) noexcept nogil:
    """DT_* of a mode; TYPE_BAD_MODE for none."""
    cdef uint32_t t = mode & S_IFMT
    if t == S_IFDIR or t == S_IFREG or t == S_IFLNK or t == S_IFBLK or t == S_IFCHR or t == S_IFIFO \
            or t == S_IFSOCK:
        return <int>(t >> 12)
    return TYPE_BAD_MODE


cdef void _check_dir_fields(fsck* fs, uint64_t block, const gfs2_dinode* d) noexcept nogil:
    cdef uint32_t depth = be16toh(d.di_depth), least = 0
    cdef uint64_t size = be64toh(d.di_size), stuffed = fs.bsize - SIZEOF_DINODE
    cdef uint32_t payload = 0 if be32toh(d.di_flags) & GFS2_DIF_EXHASH else GFS2_FORMAT_DE
    if be32toh(d.di_payload_format) != payload and be32toh(d.di_payload_format) != GFS2_FORMAT_DE:
        report(fs, K_DI_PAYLOAD, block, block, payload, be32toh(d.di_payload_format))
    if not (be32toh(d.di_flags) & GFS2_DIF_EXHASH):
        if be16toh(d.di_height) != 0:
            report(fs, K_DI_HEIGHT, block, block, 0, be16toh(d.di_height))
        if size != stuffed:
            report(fs, K_DI_SIZE, block, block, stuffed, size)
        if depth != 0:
            report(fs, K_DI_DEPTH, block, block, 0, depth)
        return
    while (<uint64_t>8 << least) < fs.bsize // 2:
        least += 1
    if depth < least or depth > GFS2_DIR_MAX_DEPTH:
        report(fs, K_DI_DEPTH, block, block, least if depth < least else GFS2_DIR_MAX_DEPTH, depth)
    elif size != <uint64_t>8 << depth:
        report(fs, K_DI_SIZE, block, block, <uint64_t>8 << depth, size)
    elif be16toh(d.di_height) == 0 and size > stuffed:
        report(fs, K_DI_HEIGHT, block, block, 1, 0)


cdef void _check_size(fsck* fs, uint64_t block, const gfs2_dinode* d, const char* buf,
                      int kind) noexcept nogil:
    """Size and height of anything that is no directory."""
    cdef uint64_t size = be64toh(d.di_size), stuffed = fs.bsize - SIZEOF_DINODE
    cdef uint32_t height = be16toh(d.di_height)
    if be32toh(d.di_flags) & GFS2_DIF_EXHASH:
        report(fs, K_DI_FLAGS, block, block, be32toh(d.di_flags) & ~<uint32_t>GFS2_DIF_EXHASH,
               be32toh(d.di_flags))
    if kind == S_IFREG >> 12 or kind == TYPE_BAD_MODE:
        if height == 0 and size > stuffed:
            report(fs, K_DI_SIZE, block, block, stuffed, size)
        elif size >> 63:
            report(fs, K_DI_SIZE, block, block, (<uint64_t>1 << 63) - 1, size)
        return
    if height != 0:
        report(fs, K_DI_HEIGHT, block, block, 0, height)
    if kind != S_IFLNK >> 12:
        if size != 0:
            report(fs, K_DI_SIZE, block, block, 0, size)
        return
    if size == 0 or size > stuffed:
        report(fs, K_DI_SIZE, block, block, stuffed, size)
    elif height == 0 and memchr(buf + SIZEOF_DINODE, 0, size) != NULL:
        report(fs, K_DI_SYMLINK, block, block, size,
               <uint64_t>(<const char*>memchr(buf + SIZEOF_DINODE, 0, size) - (buf + SIZEOF_DINODE)))


cdef void _check_nsec(fsck* fs, uint64_t block, const gfs2_dinode* d) noexcept nogil:
    cdef uint32_t worst = be32toh(d.di_atime_nsec)
    if be32toh(d.di_mtime_nsec) > worst:
        worst = be32toh(d.di_mtime_nsec)
    if be32toh(d.di_ctime_nsec) > worst:
        worst = be32toh(d.di_ctime_nsec)
    if worst > 999999999:
        report(fs, K_DI_NSEC, block, block, 999999999, worst)


cdef void _check_common(fsck* fs, uint64_t block, const gfs2_dinode* d) noexcept nogil:
    """The fields that every inode has."""
    cdef uint32_t flags = be32toh(d.di_flags), known = KNOWN_FLAGS | GFS2_DIF_INHERIT_JDATA
    cdef uint64_t goal = be64toh(d.di_goal_meta)
    if be32toh(d.di_header.mh_format) != GFS2_FORMAT_DI:
        report(fs, K_META_FORMAT, block, block, GFS2_FORMAT_DI, be32toh(d.di_header.mh_format))
    if be64toh(d.di_num.no_addr) != block:
        report(fs, K_DI_NUM, block, block, block, be64toh(d.di_num.no_addr))
    if d.di_num.no_formal_ino == 0:
        report(fs, K_DI_FORMAL, block, block, 1, 0)
    if flags & ~known:
        report(fs, K_DI_FLAGS, block, block, flags & known, flags)
    if flags & GFS2_DIF_TRUNC_IN_PROG:
        report(fs, K_DI_TRUNC, block, block, 0, be64toh(d.di_size))
    if not (flags & GFS2_DIF_SYSTEM) and (goal <= fs.sb_block or goal > fs.max_block):
        report(fs, K_DI_GOAL, block, block, block, goal)
    if be32toh(d.di_nlink) > IT_REM_MASK:
        report(fs, K_NLINK, block, block, 1, be32toh(d.di_nlink))
    _check_nsec(fs, block, d)


cdef void _inode(fsck* fs, walker* w, uint64_t block, uint64_t index,
                 const char* buf) noexcept nogil:
    """Check one dinode, put it into the table, and start on its tree unless it is a directory."""
    cdef const gfs2_dinode* d = <const gfs2_dinode*>buf
    cdef int kind, unlinked = 1 if block_state(fs, block) == 2 else 0
    cdef uint32_t word, s, height = be16toh(d.di_height)
    if be32toh(d.di_header.mh_magic) != GFS2_MAGIC or be32toh(d.di_header.mh_type) != GFS2_METATYPE_DI:
        if be32toh(d.di_header.mh_magic) != GFS2_MAGIC:
            report(fs, K_DI_HEADER, block, block, GFS2_MAGIC, be32toh(d.di_header.mh_magic))
        else:
            report(fs, K_DI_HEADER, block, block, GFS2_METATYPE_DI, be32toh(d.di_header.mh_type))
        return
    kind = _type_of(be32toh(d.di_mode))
    if not fs.hunting:
        if unlinked:
            report(fs, K_DI_UNLINKED, block, block, 0, be32toh(d.di_nlink))
        if kind == TYPE_BAD_MODE:
            report(fs, K_DI_MODE, block, block, 0, be32toh(d.di_mode))
        _check_common(fs, block, d)
        if kind == DT_DIR_:
            _check_dir_fields(fs, block, d)
        else:
            _check_size(fs, block, d, buf, kind)
        word = be32toh(d.di_nlink) & IT_REM_MASK
        word |= <uint32_t>kind << IT_TYPE_SHIFT
        if be32toh(d.di_flags) & GFS2_DIF_SYSTEM:
            word |= IT_SYSTEM
        if unlinked:
            word |= IT_UNLINKED
        fs.it[index].word = word
        if set_formal(fs, index, be64toh(d.di_num.no_formal_ino)):
            w.nomem = 1
        if height > fs.max_height:
            report(fs, K_DI_HEIGHT, block, block, fs.max_height, height)
    if kind == DT_DIR_:
        return
    s = slot_open(w, block, d)
    if height and height <= fs.max_height:
        _pointers(fs, w, s, block, buf, SIZEOF_DINODE, fs.diptrs, <int>height - 1)
    start_eattr(fs, w, s, d)


# ---- all dinodes of some resource groups ----

cdef uint32_t next_inodes(fsck* fs, cursor* c, uint64_t rg_end, uint64_t* blocks, uint64_t* first,
                          uint32_t n_max) noexcept nogil:
    """The next inodes of the map in block order, up to `n_max`; *first: the table index of blocks[0]."""
    cdef uint32_t n = 0
    cdef uint64_t word
    cdef chunk* ch
    first[0] = c.index
    while c.rg < rg_end and n < n_max:
        if c.k >= fs.rg[c.rg].length:
            c.rg += 1
            c.k = 0
            c.bit = 0
            if c.rg < fs.n_rg and c.index != fs.rg[c.rg].ino0:
                c.index = fs.rg[c.rg].ino0      # a group before it counts as empty
                if n:
                    break
                first[0] = c.index
            continue
        ch = &fs.ch[fs.rg[c.rg].chunk0 + c.k]
        if ch.rank == NULL or c.bit >= ch.n_blocks:
            c.k += 1
            c.bit = 0
            continue
        if c.bit & 31 == 0 and c.bit + 32 <= ch.n_blocks:
            memcpy(&word, ch.bits + (c.bit >> 2), 8)
            if word & <uint64_t>0xAAAAAAAAAAAAAAAA == 0:
                c.bit += 32
                continue
        if chunk_get(ch, c.bit) & 2:
            blocks[n] = ch.first + c.bit
            n += 1
            c.index += 1
        c.bit += 1
    return n


cdef int pass1(fsck* fs, walker* w, uint64_t first, uint64_t n) noexcept nogil:
    """Check the inodes of groups [first, first + n). 0 or -ENOMEM."""
    cdef uint64_t blocks[MAX_SLOTS]
    cdef uint64_t index, end = first + n
    cdef uint32_t found, done, got, i
    cdef cursor c
    if end > fs.n_rg:
        end = fs.n_rg
    if first >= end:
        return 0
    memset(&c, 0, sizeof(c))
    c.rg = first
    c.index = fs.rg[first].ino0
    fs.unit = first + 1
    while True:
        found = next_inodes(fs, &c, end, blocks, &index, MAX_SLOTS)
        if found == 0:
            return -ENOMEM if w.nomem else 0
        done = 0
        while done < found:
            got = wave_read(fs, &fs.w_di, &blocks[done], 8, found - done)
            for i in range(got):
                if fs.w_di.ptr[i] != NULL:
                    _inode(fs, w, blocks[done + i], index + done + i, fs.w_di.ptr[i])
                    if w.n > STACK_SOFT:
                        drain(fs, w)
            drain(fs, w)
            finish_slots(fs, w)
            done += got
