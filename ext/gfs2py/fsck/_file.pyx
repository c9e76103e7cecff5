"""Superblock, file contents and names, read straight from the device: what the checker needs before it walks.

Everything here distrusts what it reads: a broken pointer is an error code, never an access outside a buffer.
"""
from libc.errno cimport EINVAL, EIO, ENOENT
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from gfs2py.fsck._state cimport *
from gfs2py.ondisk._checksum cimport gfs2_dir_hash
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<sys/stat.h>" nogil:
    enum:
        S_IFMT, S_IFDIR


cdef int _lock_name_ok(const char* s) noexcept nogil:
    return memcmp(s, b"lock_nolock\0", 12) == 0 or memcmp(s, b"lock_dlm\0", 9) == 0


cdef void _sizes(fsck* fs) noexcept nogil:
    """The geometry that follows from the block size. Source: fs/gfs2/ops_fstype.c gfs2_read_sb."""
    cdef uint64_t space
    cdef uint32_t h
    fs.diptrs = (fs.bsize - SIZEOF_DINODE) // 8
    fs.inptrs = (fs.bsize - SIZEOF_META_HEADER) // 8
    fs.jbsize = fs.bsize - SIZEOF_META_HEADER
    fs.sb_block = GFS2_SB_BYTE_ADDR // fs.bsize
    # The tallest tree is the first whose capacity no longer fits into 64 bits of bytes, at most 10.
    space = <uint64_t>fs.bsize * fs.diptrs
    h = 1
    while h < 10:
        h += 1
        if space > <uint64_t>0xFFFFFFFFFFFFFFFF // fs.inptrs:
            break
        space *= fs.inptrs
    fs.max_height = h
    fs.max_jheight = h


cdef int open_sb(fsck* fs) noexcept nogil:
    """Read and check the superblock. 0; -EINVAL: not a file system that can be checked (findings say why)."""
    cdef char* buf = fs.w_di.raw
    cdef gfs2_sb* sb = <gfs2_sb*>fs.w_di.raw
    cdef uint32_t shift
    cdef uint64_t at
    cdef int rc
    cdef finding* f
    if fs.dev.size_bytes < GFS2_SB_BYTE_ADDR + MAX_BSIZE:
        report(fs, K_DEVICE_SHORT, 0, 0, GFS2_SB_BYTE_ADDR + MAX_BSIZE, fs.dev.size_bytes)
        return -EINVAL
    rc = fs.dev.ops.read(fs.dev, GFS2_SB_BYTE_ADDR, buf, MAX_BSIZE)
    at = GFS2_SB_BYTE_ADDR // MAX_BSIZE
    if rc:
        report(fs, K_IO_ERROR, at, 0, 0, <uint64_t>(-rc))
        return -EIO
    if be32toh(sb.sb_header.mh_magic) != GFS2_MAGIC:
        report(fs, K_SB_HEADER, at, 0, GFS2_MAGIC, be32toh(sb.sb_header.mh_magic))
        return -EINVAL
    if be32toh(sb.sb_header.mh_type) != GFS2_METATYPE_SB:
        report(fs, K_SB_HEADER, at, 0, GFS2_METATYPE_SB, be32toh(sb.sb_header.mh_type))
        return -EINVAL
    fs.bsize = be32toh(sb.sb_bsize)
    if fs.bsize < 512 or fs.bsize > MAX_BSIZE or fs.bsize & (fs.bsize - 1):
        report(fs, K_SB_BSIZE, at, 0, 4096, fs.bsize)
        fs.bsize = MAX_BSIZE
        return -EINVAL
    shift = 9
    while (<uint32_t>1 << shift) < fs.bsize:
        shift += 1
    fs.bshift = shift
    at = GFS2_SB_BYTE_ADDR >> shift
    fs.dev_blocks = fs.dev.size_bytes >> shift
    fs.fs_format = be32toh(sb.sb_fs_format)
    if fs.fs_format < 1801 or fs.fs_format > 1802:
        report(fs, K_SB_FORMAT, at, 0, 1802, fs.fs_format)
        return -EINVAL
    if be32toh(sb.sb_header.mh_format) != GFS2_FORMAT_SB:
        report(fs, K_META_FORMAT, at, 0, GFS2_FORMAT_SB, be32toh(sb.sb_header.mh_format))
    if be32toh(sb.sb_multihost_format) != GFS2_FORMAT_MULTI:
        report(fs, K_SB_MULTIHOST, at, 0, GFS2_FORMAT_MULTI, be32toh(sb.sb_multihost_format))
    if be32toh(sb.sb_bsize_shift) != shift:
        report(fs, K_SB_BSIZE_SHIFT, at, 0, shift, be32toh(sb.sb_bsize_shift))
    if not _lock_name_ok(sb.sb_lockproto):
        f = report(fs, K_SB_LOCKPROTO, at, 0, 0, 0)
        finding_name(f, sb.sb_lockproto, 64)
    if memchr(sb.sb_locktable, 0, 64) == NULL:
        f = report(fs, K_SB_LOCKTABLE, at, 0, 0, 0)
        finding_name(f, sb.sb_locktable, 64)
    _sizes(fs)
    fs.master = be64toh(sb.sb_master_dir.no_addr)
    fs.root = be64toh(sb.sb_root_dir.no_addr)
    if fs.root <= fs.sb_block or fs.root >= fs.dev_blocks or fs.root == fs.master:
        report(fs, K_SB_ROOT, at, 0, 0, fs.root)
        fs.root = 0
    if fs.master <= fs.sb_block or fs.master >= fs.dev_blocks:
        report(fs, K_SB_MASTER, at, 0, 0, fs.master)
        return -EINVAL
    return 0


cdef int read_dinode(fsck* fs, uint64_t addr, char* di) noexcept nogil:
    """A block that must be a dinode into `di` (bsize bytes). 0, -EIO, -EINVAL when it is none."""
    cdef gfs2_dinode* d = <gfs2_dinode*>di
    cdef int rc = read_block(fs, addr, di)
    if rc:
        return rc
    if be32toh(d.di_header.mh_magic) != GFS2_MAGIC or be32toh(d.di_header.mh_type) != GFS2_METATYPE_DI:
        return -EINVAL
    if be16toh(d.di_height) > fs.max_height:
        return -EINVAL
    return 0


cdef int64_t file_ptrs(fsck* fs, const char* di, uint64_t lblock, uint64_t* out,
                       uint64_t n_max) noexcept nogil:
    """Block pointers of a file from block `lblock` on (0: hole): as many as one last-level block holds.

    Returns how many, at least 1 if n_max is, or -errno (a bad indirect block).
    """
    cdef const gfs2_dinode* d = <const gfs2_dinode*>di
    cdef char buf[MAX_BSIZE]
    cdef uint32_t height = be16toh(d.di_height), level, i
    cdef uint64_t digits[12]
    cdef uint64_t rest = lblock, block, n, k
    cdef const gfs2_meta_header* mh = <const gfs2_meta_header*>&buf[0]
    cdef const uint64_t* p
    if height == 0 or height > 10 or n_max == 0:
        return -EINVAL
    level = height - 1
    while level > 0:
        digits[level] = rest % fs.inptrs
        rest //= fs.inptrs
        level -= 1
    digits[0] = rest
    n = fs.inptrs - digits[height - 1] if height > 1 else 0
    if rest >= fs.diptrs:
        # Beyond what the tree can hold: a hole.
        memset(out, 0, n_max * 8)
        return <int64_t>n_max
    p = <const uint64_t*>(di + SIZEOF_DINODE)
    if height == 1:
        n = fs.diptrs - digits[0]
    if n > n_max:
        n = n_max
    for level in range(height - 1):
        block = be64toh(p[digits[level]])
        if block == 0:
            memset(out, 0, n * 8)
            return <int64_t>n
        if block <= fs.sb_block or read_block(fs, block, buf):
            return -EIO
        if be32toh(mh.mh_magic) != GFS2_MAGIC or be32toh(mh.mh_type) != GFS2_METATYPE_IN:
            return -EIO
        p = <const uint64_t*>(&buf[0] + SIZEOF_META_HEADER)
    for k in range(n):
        out[k] = be64toh(p[digits[height - 1] + k])
    return <int64_t>n


cdef int64_t file_read(fsck* fs, const char* di, uint64_t off, char* dst, uint64_t length,
                       uint32_t head) noexcept nogil:
    """Bytes of a file; `head` bytes at the start of each data block are not content (24 for a hash table).

    Returns how many were read (short at the end of the file) or -errno.
    """
    cdef const gfs2_dinode* d = <const gfs2_dinode*>di
    cdef uint64_t size = be64toh(d.di_size), done = 0, part, per = fs.bsize - head, block
    cdef int64_t got
    cdef int rc
    cdef char buf[MAX_BSIZE]
    if off >= size:
        return 0
    if length > size - off:
        length = size - off
    if be16toh(d.di_height) == 0:
        if size > fs.bsize - SIZEOF_DINODE:
            return -EINVAL
        memcpy(dst, di + SIZEOF_DINODE + off, length)
        return <int64_t>length
    while done < length:
        part = per - (off + done) % per
        if part > length - done:
            part = length - done
        got = file_ptrs(fs, di, (off + done) // per, &block, 1)
        if got < 0:
            return got
        if block == 0:
            memset(dst + done, 0, part)
        else:
            rc = read_block(fs, block, buf)
            if rc:
                return rc
            memcpy(dst + done, &buf[0] + head + (off + done) % per, part)
        done += part
    return <int64_t>done


cdef uint64_t _scan(const char* buf, uint32_t start, uint32_t bsize, uint32_t hash, const char* name,
                    uint32_t length) noexcept nogil:
    cdef uint32_t off = start, rec
    cdef const gfs2_dirent* de
    while off + SIZEOF_DIRENT <= bsize:
        de = <const gfs2_dirent*>(buf + off)
        rec = be16toh(de.de_rec_len)
        if rec < SIZEOF_DIRENT or off + rec > bsize:
            return 0
        if de.de_inum.no_addr != 0 and be32toh(de.de_hash) == hash and be16toh(de.de_name_len) == length \
                and SIZEOF_DIRENT + length <= rec and memcmp(buf + off + SIZEOF_DIRENT, name, length) == 0:
            return be64toh(de.de_inum.no_addr)
        off += rec
    return 0


cdef uint64_t dir_lookup(fsck* fs, uint64_t dir_addr, const char* name, uint32_t length) noexcept nogil:
    """The inode a directory has under a name; 0 if none (or the directory cannot be read that far)."""
    cdef char di[MAX_BSIZE]
    cdef const gfs2_dinode* d = <const gfs2_dinode*>&di[0]
    cdef char leaf[MAX_BSIZE]
    cdef const gfs2_leaf* lf = <const gfs2_leaf*>&leaf[0]
    cdef uint32_t hash = gfs2_dir_hash(name, length), depth, n
    cdef uint64_t ptr = 0, block, hit
    if read_dinode(fs, dir_addr, di) or (be32toh(d.di_mode) & S_IFMT) != S_IFDIR:
        return 0
    if not (be32toh(d.di_flags) & GFS2_DIF_EXHASH):
        return _scan(di, SIZEOF_DINODE, fs.bsize, hash, name, length)
    depth = be16toh(d.di_depth)
    if depth == 0 or depth > GFS2_DIR_MAX_DEPTH:
        return 0
    if file_read(fs, di, <uint64_t>(hash >> (32 - depth)) * 8, <char*>&ptr, 8, SIZEOF_META_HEADER) != 8:
        return 0
    block = be64toh(ptr)
    for n in range(1024):
        if block <= fs.sb_block or read_block(fs, block, leaf):
            return 0
        if be32toh(lf.lf_header.mh_magic) != GFS2_MAGIC or be32toh(lf.lf_header.mh_type) != GFS2_METATYPE_LF:
            return 0
        hit = _scan(leaf, SIZEOF_LEAF, fs.bsize, hash, name, length)
        if hit:
            return hit
        block = be64toh(lf.lf_next)
        if block == 0:
            return 0
    return 0
