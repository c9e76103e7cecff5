"""The operations that may change something, behind the freezer: each counts itself, or is put away until the thaw."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._freeze cimport fz_enter, fz_leave, fz_quick
from gfs2py.engine._fs cimport fs_ctx, gfs2_fs
from gfs2py.engine._incore cimport opctx
from gfs2py.fuse._ops cimport fs_attr, fs_entry, fs_open, fs_ops, fs_req

cdef extern from "<fcntl.h>" nogil:
    uint32_t O_TRUNC
cdef extern from "<linux/fs.h>" nogil:
    uint32_t FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FITRIM

cdef fs_ops _below                  # written once, when the table is made


cdef inline int _enter(void* p, fs_req* rq) noexcept nogil:
    cdef opctx cx
    if fz_quick((<gfs2_fs*>p).sd):
        return 0
    fs_ctx(&cx, <gfs2_fs*>p, rq)
    return fz_enter(&cx)


cdef int _setattr(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t valid, fs_attr* want, fs_attr* out,
                  uint64_t* valid_ns) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.setattr(p, rq, nodeid, fh, valid, want, out, valid_ns)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _mknod(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                uint32_t rdev, fs_entry* out) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.mknod(p, rq, parent, name, namelen, mode, rdev, out)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _mkdir(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                fs_entry* out) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.mkdir(p, rq, parent, name, namelen, mode, out)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _symlink(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, const char* target,
                  uint32_t targetlen, fs_entry* out) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.symlink(p, rq, parent, name, namelen, target, targetlen, out)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _unlink(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.unlink(p, rq, parent, name, namelen)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _rmdir(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.rmdir(p, rq, parent, name, namelen)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _rename(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint64_t newparent,
                 const char* newname, uint32_t newnamelen, uint32_t flags) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.rename(p, rq, parent, name, namelen, newparent, newname, newnamelen, flags)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _link(void* p, fs_req* rq, uint64_t nodeid, uint64_t newparent, const char* name, uint32_t namelen,
               fs_entry* out) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.link(p, rq, nodeid, newparent, name, namelen, out)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _create(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                 uint32_t flags, fs_entry* out, fs_open* fo) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.create(p, rq, parent, name, namelen, mode, flags, out, fo)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _tmpfile(void* p, fs_req* rq, uint64_t parent, uint32_t mode, uint32_t flags, fs_entry* out,
                  fs_open* fo) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.tmpfile(p, rq, parent, mode, flags, out, fo)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _open(void* p, fs_req* rq, uint64_t nodeid, uint32_t flags, fs_open* fo) noexcept nogil:
    cdef int err
    if not flags & O_TRUNC:
        return _below.open(p, rq, nodeid, flags, fo)
    err = _enter(p, rq)
    if err == 0:
        err = _below.open(p, rq, nodeid, flags, fo)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _write(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t size, const uint8_t* buf,
                uint32_t write_flags, uint32_t open_flags, uint32_t* written) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.write(p, rq, nodeid, fh, off, size, buf, write_flags, open_flags, written)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _setxattr(void* p, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen, const uint8_t* value,
                   uint32_t size, uint32_t flags, uint32_t setxattr_flags) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.setxattr(p, rq, nodeid, name, namelen, value, size, flags, setxattr_flags)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _removexattr(void* p, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.removexattr(p, rq, nodeid, name, namelen)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _fallocate(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t mode, uint64_t off,
                    uint64_t length) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.fallocate(p, rq, nodeid, fh, mode, off, length)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _copy_file_range(void* p, fs_req* rq, uint64_t node_in, uint64_t fh_in, uint64_t off_in, uint64_t node_out,
                          uint64_t fh_out, uint64_t off_out, uint64_t length, uint64_t* copied) noexcept nogil:
    cdef int err = _enter(p, rq)
    if err == 0:
        err = _below.copy_file_range(p, rq, node_in, fh_in, off_in, node_out, fh_out, off_out, length, copied)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef int _ioctl(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t cmd, bint isdir, const uint8_t* inbuf,
                uint32_t in_size, uint8_t* outbuf, uint32_t out_size, uint32_t* out_len) noexcept nogil:
    cdef int err
    if cmd != FS_IOC_SETFLAGS and cmd != FS_IOC_FSSETXATTR and cmd != FITRIM:
        return _below.ioctl(p, rq, nodeid, fh, cmd, isdir, inbuf, in_size, outbuf, out_size, out_len)
    err = _enter(p, rq)
    if err == 0:
        err = _below.ioctl(p, rq, nodeid, fh, cmd, isdir, inbuf, in_size, outbuf, out_size, out_len)
        fz_leave((<gfs2_fs*>p).sd)
    return err


cdef void freeze_fill(fs_ops* t) noexcept nogil:
    global _below
    _below = t[0]
    t.setattr = _setattr
    t.mknod = _mknod
    t.mkdir = _mkdir
    t.symlink = _symlink
    t.unlink = _unlink
    t.rmdir = _rmdir
    t.rename = _rename
    t.link = _link
    t.create = _create
    t.tmpfile = _tmpfile
    t.open = _open
    t.write = _write
    t.setxattr = _setxattr
    t.removexattr = _removexattr
    t.fallocate = _fallocate
    t.copy_file_range = _copy_file_range
    t.ioctl = _ioctl
