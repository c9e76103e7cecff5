"""Attributes: what stat shows, what chmod, chown, utimes, truncate and chattr change."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from gfs2py.engine._data cimport data_writeback
from gfs2py.engine._freeze cimport fz_cold
from gfs2py.engine._incore cimport (SDF_ACL, SDF_NOATIME, SDF_NODIRATIME, SDF_RDONLY, SDF_RELATIME, inode, opctx, sbd)
from gfs2py.engine._inode cimport inode_dirty, inode_touch
from gfs2py.engine._log cimport log_ail_flush, trans_begin, trans_end
from gfs2py.engine._quota cimport quota_chown, quota_chown_check
from gfs2py.engine._truncate cimport inode_set_size
from gfs2py.engine._xattr cimport acl_chmod
from gfs2py.fuse._ops cimport (SA_ATIME, SA_ATIME_NOW, SA_CTIME, SA_GID, SA_KILL_SUIDGID, SA_MODE, SA_MTIME,
                               SA_MTIME_NOW, SA_SIZE, SA_UID)
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<errno.h>" nogil:
    int EINVAL, EISDIR, EOPNOTSUPP, EPERM
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFREG, S_IFDIR, S_IFBLK, S_IFCHR, S_ISUID, S_ISGID, S_IXGRP
cdef extern from "<linux/fs.h>" nogil:
    enum:
        FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOATIME_FL, FS_JOURNAL_DATA_FL, FS_TOPDIR_FL, FS_INDEX_FL

cdef enum:
    ATIME_DAY = 86400               # relatime moves an atime older than this in any case


cdef void attr_fill(const inode* ip, fs_attr* out) noexcept nogil:
    memset(out, 0, sizeof(fs_attr))
    out.ino = ip.no_addr
    out.size = ip.size
    out.blocks = ip.blocks << (ip.sd.bsize_shift - 9)
    out.atime = ip.atime
    out.mtime = ip.mtime
    out.ctime = ip.ctime
    out.atimensec = ip.atime_nsec
    out.mtimensec = ip.mtime_nsec
    out.ctimensec = ip.ctime_nsec
    out.mode = ip.mode
    out.nlink = ip.nlink
    out.uid = ip.uid
    out.gid = ip.gid
    if (ip.mode & S_IFMT) == S_IFBLK or (ip.mode & S_IFMT) == S_IFCHR:
        # the kernel's 32-bit form of a device number
        out.rdev = (ip.minor & 0xff) | (ip.major << 8) | ((ip.minor & ~<uint32_t>0xff) << 12)
    out.blksize = ip.sd.bsize


cdef void _chown(opctx* cx, inode* ip, uint32_t uid, uint32_t gid) noexcept nogil:
    """Within the transaction: the blocks change accounts too."""
    if cx.sd.quota_change != NULL and (uid != ip.uid or gid != ip.gid):
        quota_chown(cx, ip, uid, gid)
    ip.uid = uid
    ip.gid = gid


cdef void _set_times(opctx* cx, inode* ip, uint32_t valid, const fs_attr* want) noexcept nogil:
    if valid & (SA_ATIME | SA_ATIME_NOW):
        ip.atime = cx.now_sec if valid & SA_ATIME_NOW else want.atime
        ip.atime_nsec = cx.now_nsec if valid & SA_ATIME_NOW else want.atimensec
    if valid & (SA_MTIME | SA_MTIME_NOW):
        ip.mtime = cx.now_sec if valid & SA_MTIME_NOW else want.mtime
        ip.mtime_nsec = cx.now_nsec if valid & SA_MTIME_NOW else want.mtimensec
    if valid & SA_CTIME:
        ip.ctime = want.ctime
        ip.ctime_nsec = want.ctimensec
    else:
        inode_touch(cx, ip, False, True)


cdef int _check(opctx* cx, inode* ip, uint32_t valid, const fs_attr* want, uint32_t uid, uint32_t gid) noexcept nogil:
    cdef sbd* sd = cx.sd
    if ip.diskflags & GFS2_DIF_IMMUTABLE:
        return -EPERM
    if ip.diskflags & GFS2_DIF_APPENDONLY and valid & (SA_MODE | SA_UID | SA_GID | SA_SIZE | SA_ATIME | SA_MTIME):
        return -EPERM
    if valid & SA_SIZE:
        if (ip.mode & S_IFMT) == S_IFDIR:
            return -EISDIR
        if (ip.mode & S_IFMT) != S_IFREG:
            return -EINVAL
    if (uid != ip.uid or gid != ip.gid) and sd.quota_check != NULL:
        return quota_chown_check(cx, ip, uid, gid)
    return 0


cdef int attr_set(opctx* cx, inode* ip, uint32_t valid, const fs_attr* want) noexcept nogil:
    cdef uint32_t uid = want.uid if valid & SA_UID else ip.uid
    cdef uint32_t gid = want.gid if valid & SA_GID else ip.gid
    cdef uint32_t mode = (ip.mode & S_IFMT) | (want.mode & <uint32_t>0o7777) if valid & SA_MODE else ip.mode
    cdef int err = _check(cx, ip, valid, want, uid, gid)
    if err:
        return err
    if valid & SA_SIZE:
        err = inode_set_size(cx, ip, want.size)
        ip.data_seq = ip.meta_seq
        if err:
            return err
    if valid & SA_KILL_SUIDGID and (ip.mode & S_IFMT) != S_IFDIR:
        mode &= ~<uint32_t>S_ISUID
        if mode & S_IXGRP:
            mode &= ~<uint32_t>S_ISGID
    if mode != ip.mode and valid & SA_MODE and cx.sd.flags & SDF_ACL and ip.eattr:
        cx.ea_mode = mode       # with the list, in one transaction
        err = acl_chmod(cx, ip, mode)
        cx.ea_mode = 0
        if err:
            return err
    err = trans_begin(cx, 3, 0)
    if err:
        return err
    ip.mode = mode
    _chown(cx, ip, uid, gid)
    _set_times(cx, ip, valid, want)
    err = inode_dirty(cx, ip)
    trans_end(cx)
    return err


cdef int attr_kill_priv(opctx* cx, inode* ip) noexcept nogil:
    """A write by someone without the privilege to keep them: setuid and setgid go."""
    cdef fs_attr none
    if not (ip.mode & (S_ISUID | S_ISGID)):
        return 0
    memset(&none, 0, sizeof(none))
    return attr_set(cx, ip, SA_KILL_SUIDGID, &none)


cdef uint32_t attr_fsflags(const inode* ip) noexcept nogil:
    cdef uint32_t f = 0
    cdef uint32_t d = ip.diskflags
    cdef bint isdir = (ip.mode & S_IFMT) == S_IFDIR
    if d & GFS2_DIF_SYNC:
        f |= FS_SYNC_FL
    if d & GFS2_DIF_IMMUTABLE:
        f |= FS_IMMUTABLE_FL
    if d & GFS2_DIF_APPENDONLY:
        f |= FS_APPEND_FL
    if d & GFS2_DIF_NOATIME:
        f |= FS_NOATIME_FL
    if d & GFS2_DIF_TOPDIR:
        f |= FS_TOPDIR_FL
    if d & GFS2_DIF_EXHASH:
        f |= FS_INDEX_FL
    if (isdir and d & GFS2_DIF_INHERIT_JDATA) or (not isdir and d & GFS2_DIF_JDATA):
        f |= FS_JOURNAL_DATA_FL
    return f


cdef int attr_set_fsflags(opctx* cx, inode* ip, uint32_t fsflags) noexcept nogil:
    cdef bint isdir = (ip.mode & S_IFMT) == S_IFDIR
    cdef uint32_t settable = (GFS2_DIF_SYNC | GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY | GFS2_DIF_NOATIME)
    cdef uint32_t want = 0
    cdef int err
    if fsflags & ~<uint32_t>(FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NOATIME_FL | FS_JOURNAL_DATA_FL
                             | FS_TOPDIR_FL | FS_INDEX_FL):
        return -EOPNOTSUPP
    if ip.diskflags & GFS2_DIF_SYSTEM:
        return -EPERM
    if fsflags & FS_TOPDIR_FL and not isdir:
        return -EINVAL
    if fsflags & FS_JOURNAL_DATA_FL and not isdir and (ip.mode & S_IFMT) != S_IFREG:
        return -EINVAL
    if (fsflags & FS_INDEX_FL != 0) != (ip.diskflags & GFS2_DIF_EXHASH != 0) and fsflags & FS_INDEX_FL:
        return -EINVAL
    if fsflags & FS_SYNC_FL:
        want |= GFS2_DIF_SYNC
    if fsflags & FS_IMMUTABLE_FL:
        want |= GFS2_DIF_IMMUTABLE
    if fsflags & FS_APPEND_FL:
        want |= GFS2_DIF_APPENDONLY
    if fsflags & FS_NOATIME_FL:
        want |= GFS2_DIF_NOATIME
    if isdir:
        settable |= GFS2_DIF_TOPDIR | GFS2_DIF_INHERIT_JDATA
        want |= (GFS2_DIF_TOPDIR if fsflags & FS_TOPDIR_FL else 0)
        want |= (GFS2_DIF_INHERIT_JDATA if fsflags & FS_JOURNAL_DATA_FL else 0)
    elif (ip.mode & S_IFMT) == S_IFREG:
        settable |= GFS2_DIF_JDATA
        want |= (<uint32_t>GFS2_DIF_JDATA if fsflags & FS_JOURNAL_DATA_FL else 0)
        if (ip.diskflags ^ want) & GFS2_DIF_JDATA:
            # The log must hold no copy of this file's data, and no data may wait outside it.
            err = data_writeback(cx.sd, ip)
            if err == 0:
                err = log_ail_flush(cx.sd)
            if err:
                return err
    err = trans_begin(cx, 1, 0)
    if err:
        return err
    ip.diskflags = (ip.diskflags & ~settable) | want
    inode_touch(cx, ip, False, True)
    err = inode_dirty(cx, ip)
    trans_end(cx)
    return err


cdef bint atime_due(const opctx* cx, const inode* ip) noexcept nogil:
    cdef uint32_t f = cx.sd.flags
    if f & (SDF_NOATIME | SDF_RDONLY) or ip.diskflags & (GFS2_DIF_NOATIME | GFS2_DIF_IMMUTABLE) or fz_cold(cx.sd):
        return False
    if f & SDF_NODIRATIME and (ip.mode & S_IFMT) == S_IFDIR:
        return False
    if not (f & SDF_RELATIME):
        return ip.atime != cx.now_sec or ip.atime_nsec != cx.now_nsec
    if ip.atime < ip.mtime or (ip.atime == ip.mtime and ip.atime_nsec <= ip.mtime_nsec):
        return True
    if ip.atime < ip.ctime or (ip.atime == ip.ctime and ip.atime_nsec <= ip.ctime_nsec):
        return True
    return cx.now_sec - ip.atime >= ATIME_DAY


cdef int atime_update(opctx* cx, inode* ip) noexcept nogil:
    cdef int err
    if not atime_due(cx, ip):
        return 0
    err = trans_begin(cx, 1, 0)
    if err:
        return err
    ip.atime = cx.now_sec
    ip.atime_nsec = cx.now_nsec
    err = inode_dirty(cx, ip)
    trans_end(cx)
    return err
