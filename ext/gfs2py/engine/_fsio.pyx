"""Operations on open files: open, read, write, fsync, fallocate, seeking, copying, chattr, statfs, syncfs."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from gfs2py.engine._attr cimport (atime_due, atime_update, attr_fsflags, attr_kill_priv, attr_set, attr_set_fsflags)
from gfs2py.engine._bmap cimport bmap_seek
from gfs2py.engine._data cimport data_throttle
from gfs2py.engine._file cimport (file_copy_range, file_fallocate, file_fsync, file_read, file_write, file_write_late,
                                  late_write)
from gfs2py.engine._fs cimport FOPEN_CACHE_DIR, fs_ctx, gfs2_fs, handle, node_addr
from gfs2py.engine._glock cimport GL_LOCAL, glock_rerun
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_ST_SHARED, inode, opctx, sbd
from gfs2py.engine._inode cimport inode_get, inode_lock, inode_put, inode_unlock, inodes_lock, inodes_unlock
from gfs2py.engine._kcache cimport glock_fill, glock_filled
from gfs2py.engine._log cimport log_sync
from gfs2py.engine._nodes cimport node_appended, node_delete_again, node_wanted, node_writers, node_written
from gfs2py.engine._rgrp cimport rgrp_fitrim, rs_drop
from gfs2py.engine._shield cimport SHIELD_NONE, shield_in, shield_lower, shield_raise
from gfs2py.engine._statfs cimport statfs_get
from gfs2py.engine._sync cimport (gl_atomic_dec32, gl_atomic_inc32, gl_atomic_load32, gl_atomic_look32,
                                  gl_atomic_note32, gl_atomic_store32)
from gfs2py.engine._truncate cimport inode_set_size
from gfs2py.fuse._ops cimport OP_PARK, OP_WRITE_BACK, SA_SIZE, fs_attr, fs_open, fs_ops, fs_req, fs_statfs
from gfs2py.ondisk._ondisk cimport (GFS2_DIF_APPENDONLY, GFS2_DIF_IMMUTABLE, GFS2_LFC_SYNC_FS)

cdef extern from "<errno.h>" nogil:
    int EBADF, EFBIG, EINVAL, EISDIR, ENOMEM, ENOTTY, EPERM, EROFS
cdef extern from "<fcntl.h>" nogil:
    uint32_t O_ACCMODE, O_RDONLY, O_RDWR, O_TRUNC, O_APPEND, O_DIRECT, O_NOATIME
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFDIR, S_IFREG
cdef extern from "<linux/fs.h>" nogil:
    uint32_t FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR, FITRIM
    uint32_t FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND, FS_XFLAG_SYNC, FS_XFLAG_NOATIME
    enum:
        FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NOATIME_FL, FS_JOURNAL_DATA_FL, FS_TOPDIR_FL, FS_INDEX_FL
cdef enum:
    WRITE_CACHE = 1, WRITE_KILL_SUIDGID = 4      # FUSE_WRITE_*
    SEEK_DATA_ = 3, SEEK_HOLE_ = 4
    PUNCH_HOLE = 2, ZERO_RANGE = 16              # FALLOC_FL_*


cdef int _node(gfs2_fs* fs, uint64_t nodeid, inode** out) noexcept nogil:
    return inode_get(fs.sd, node_addr(fs, nodeid), out)


cdef handle* _new_handle(inode* ip, uint32_t flags) noexcept nogil:
    """Takes over the caller's reference."""
    cdef handle* h = <handle*>calloc(1, sizeof(handle))
    if h != NULL:
        h.ip = ip
        h.flags = flags
        h.wb_seen = ip.wb_told      # an error that nobody heard of is news to him, too
    return h


cdef uint32_t open_flags_for(const gfs2_fs* fs, uint32_t flags) noexcept nogil:
    return fs.open_flags if (flags & O_ACCMODE) == O_RDONLY else fs.write_flags


cdef bint may_map(const inode* ip, uint32_t flags) noexcept nogil:
    """Whether such a handle may map the file to write, on a disk that others write."""
    return ip.gl.x != NULL and (flags & O_ACCMODE) == O_RDWR


cdef void mapper_gone(inode* ip, uint32_t flags) noexcept nogil:
    if may_map(ip, flags) and gl_atomic_note32(&ip.n_mappers, -1) == 0:
        glock_rerun(&ip.gl)         # READs that asked for EX: now SH does


cdef int _lock_to_open(opctx* cx, inode* ip, int mode, bint mapper) noexcept nogil:
    """As inode_lock; a mapper is counted, and takes over pages that the kernel has only under EX."""
    cdef int err
    if mapper and ip.gl.state != LM_ST_EXCLUSIVE and glock_filled(&ip.gl):
        mode = LM_ST_EXCLUSIVE
    while True:
        err = inode_lock(cx, ip, mode)
        if err or not mapper:
            return err
        gl_atomic_note32(&ip.n_mappers, 1)
        if ip.gl.state == LM_ST_EXCLUSIVE or not glock_filled(&ip.gl):
            return 0
        gl_atomic_note32(&ip.n_mappers, -1)
        inode_unlock(cx, ip)
        mode = LM_ST_EXCLUSIVE


cdef int do_open(void* p, fs_req* rq, uint64_t nodeid, uint32_t flags, fs_open* fo) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef handle* h
    cdef bint writes = (flags & O_ACCMODE) != O_RDONLY
    cdef bint trunc = (flags & O_TRUNC) != 0
    cdef bint locked = False
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = _node(fs, nodeid, &ip)
    if err:
        return err
    err = _lock_to_open(&cx, ip, LM_ST_EXCLUSIVE if trunc else LM_ST_SHARED, may_map(ip, flags))
    if err == 0:
        if writes and ip.diskflags & GFS2_DIF_IMMUTABLE:
            err = -EPERM
        elif writes and ip.diskflags & GFS2_DIF_APPENDONLY and (not (flags & O_APPEND) or trunc):
            err = -EPERM
        elif trunc and (ip.mode & S_IFMT) == S_IFREG:
            err = attr_kill_priv(&cx, ip) if rq.kill_suidgid else 0
            if err == 0:
                err = inode_set_size(&cx, ip, 0)
                ip.data_seq = ip.meta_seq
        locked = True
        inode_unlock(&cx, ip)
    h = _new_handle(ip, flags) if err == 0 else NULL
    if h == NULL:
        if locked:
            mapper_gone(ip, flags)
        inode_put(ip)
        return err if err else -ENOMEM
    if writes:
        node_writers(&fs.nd, ip.no_addr, 1, (flags & O_APPEND) != 0)
    fo.fh = <uint64_t>h
    fo.open_flags = open_flags_for(fs, flags)
    # After an append to a file that others have made longer the kernel takes its own old size and the length for the
    # new size, and drops an answer about the size that was on its way: a reader of pages would end in the middle of
    # what was written at once (fs/fuse/file.c, fuse_write_update_attr; dir.c, fuse_change_attributes).
    if fs.sd.gls != NULL and not writes and node_appended(&fs.nd, ip.no_addr):
        fo.open_flags = fs.write_flags
    return 0


cdef inline void _closed(gfs2_fs* fs, inode* ip) noexcept nogil:
    """What another node wanted to delete meanwhile is tried from here; our kernel lets go of it when it is asked."""
    if fs.sd.gls != NULL and node_wanted(&fs.nd, ip.no_addr):
        node_delete_again(&fs.nd, ip.no_addr)


cdef int do_release(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t flags, uint64_t lock_owner,
                    bint flock_unlock) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef handle* h = <handle*>fh
    if h == NULL:
        return 0
    if (h.flags & O_ACCMODE) != O_RDONLY:
        rs_drop(fs.sd, h.ip)
        node_writers(&fs.nd, h.ip.no_addr, -1, (h.flags & O_APPEND) != 0)
    mapper_gone(h.ip, h.flags)
    _closed(fs, h.ip)
    inode_put(h.ip)
    free(h)
    return 0


cdef int do_opendir(void* p, fs_req* rq, uint64_t nodeid, uint32_t flags, fs_open* fo) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef inode* ip = NULL
    cdef handle* h
    cdef int err = _node(fs, nodeid, &ip)
    if err:
        return err
    h = _new_handle(ip, flags)
    if h == NULL:
        inode_put(ip)
        return -ENOMEM
    # One handle at a time may have the listing kept. With two, a kernel that has thrown the kept listing away and
    # filled it again through the second looks for the first one's position in it; if the name there is gone and the
    # listing fills its last page to the byte, it takes that for the end and the first reader misses the rest (seen up
    # to Linux 6.18, fuse_readdir_cached).
    fo.fh = <uint64_t>h
    fo.open_flags = fs.dir_flags
    if fs.dir_flags & FOPEN_CACHE_DIR:
        h.caches = gl_atomic_inc32(&ip.dir_cachers) == 1
        if not h.caches:
            gl_atomic_dec32(&ip.dir_cachers)
            fo.open_flags &= ~<uint32_t>FOPEN_CACHE_DIR
    return 0


cdef int do_releasedir(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef handle* h = <handle*>fh
    if h != NULL:
        if h.caches:
            gl_atomic_dec32(&h.ip.dir_cachers)
        _closed(fs, h.ip)
        inode_put(h.ip)
        free(h)
    return 0


cdef inline int _ip_of(gfs2_fs* fs, uint64_t nodeid, uint64_t fh, inode** out) noexcept nogil:
    """The inode of a handle, or of the node when there is none; *out carries a reference only in the second case."""
    if fh:
        out[0] = (<handle*>fh).ip
        return 0
    return _node(fs, nodeid, out)


cdef inline void _ip_done(uint64_t fh, inode* ip) noexcept nogil:
    if fh == 0:
        inode_put(ip)


cdef int _lock_to_read(opctx* cx, inode* ip, bint fills) noexcept nogil:
    """As inode_lock. What goes into the kernel's page cache while somebody may write to it there needs EX."""
    cdef int mode = LM_ST_SHARED
    cdef int err
    if fills and gl_atomic_look32(&ip.n_mappers):
        mode = LM_ST_EXCLUSIVE
    while True:
        err = inode_lock(cx, ip, mode)
        if err == OP_PARK and mode == LM_ST_EXCLUSIVE and gl_atomic_look32(&ip.n_mappers) == 0:
            glock_rerun(&ip.gl)     # the last mapper left before this one was seen to wait
        if err or not fills or glock_fill(&ip.gl, mode, &ip.n_mappers):
            return err
        inode_unlock(cx, ip)
        mode = LM_ST_EXCLUSIVE


cdef int do_read(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t size, uint8_t* out,
                 uint32_t* length) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef uint64_t got = 0
    cdef uint64_t reads = fs.sd.dev.n_reads     # relaxed, of all threads: it need not be exact
    cdef bint due = False
    cdef int err
    fs_ctx(&cx, fs, rq)
    length[0] = 0
    err = _ip_of(fs, nodeid, fh, &ip)
    if err:
        return err
    err = _lock_to_read(&cx, ip, rq.fills)
    if err == 0:
        if (ip.mode & S_IFMT) == S_IFDIR:
            err = -EISDIR
        else:
            err = file_read(&cx, ip, off, size, out, &got)
            due = err == 0 and not (fh and (<handle*>fh).flags & O_NOATIME) and atime_due(&cx, ip)
        inode_unlock(&cx, ip)
        rq.waited = fs.sd.dev.n_reads != reads
    cx.gl_flags = GL_LOCAL          # the time of a read is not worth another node's work
    if due and inode_lock(&cx, ip, LM_ST_EXCLUSIVE) == 0:
        atime_update(&cx, ip)       # the data was read: a failure here is not the reader's
        inode_unlock(&cx, ip)
    _ip_done(fh, ip)
    length[0] = <uint32_t>got
    return err


cdef int _write_all(opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src,
                    late_write* late) noexcept nogil:
    cdef uint64_t done
    cdef int err = 0
    late.on = False
    while size:
        err = file_write_late(cx.sd, ip, late)
        if err == 0:
            err = file_write(cx, ip, off, size, src, &done, late)
        if err:
            return err
        off += done
        src += done
        size -= done
    return 0


cdef int _write_around(gfs2_fs* fs, opctx* cx, inode* ip, uint64_t off, uint64_t size, const uint8_t* src,
                       late_write* late) noexcept nogil:
    """As _write_all, but for parts that are being changed under the kernel's pages (_shield)."""
    cdef uint64_t end = off + size
    cdef uint64_t start, stop
    cdef int err = 0
    late.on = False
    while off < end and err == 0:
        shield_in(&fs.shields, ip.no_addr, off, end, &start, &stop)
        if start >= ip.size:        # what makes the file longer is nobody's old content
            start = stop = end
        elif stop > ip.size:
            stop = ip.size
        err = file_write_late(fs.sd, ip, late)
        if err == 0:
            err = _write_all(cx, ip, off, start - off, src, late)
        src += stop - off
        off = stop
    return err


cdef int do_write(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t size, const uint8_t* src,
                  uint32_t write_flags, uint32_t open_flags, uint32_t* written) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef late_write late
    cdef uint64_t done = 0
    cdef uint32_t beyond = 0
    cdef int err, e
    fs_ctx(&cx, fs, rq)
    written[0] = 0
    late.on = False
    err = _ip_of(fs, nodeid, fh, &ip)
    if err:
        return err
    cx.no_times = rq.kernel_times
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        if (ip.mode & S_IFMT) != S_IFREG:
            err = -EINVAL
        if err == 0 and write_flags & WRITE_KILL_SUIDGID:
            err = attr_kill_priv(&cx, ip)
        # With O_APPEND too the kernel's offset counts: it may hold pages of the file that we have not been sent yet,
        # and sends one large append as several requests at once. Among nodes it knows the size no better than others.
        if fs.sd.gls != NULL and open_flags & O_APPEND and not write_flags & WRITE_CACHE:
            off = ip.size
        if fs.sd.gls != NULL and write_flags & WRITE_CACHE:
            # Pages written through a mapping never make a file longer; the kernel may think it longer than it is.
            beyond = size - <uint32_t>min(<uint64_t>size, ip.size - off if ip.size > off else 0)
            size -= beyond
        if err == 0 and (write_flags & WRITE_CACHE or open_flags & O_DIRECT):
            # All or an error: of a short answer the kernel's write-back tells nobody, and a direct write makes EIO
            # (fs/fuse/file.c, fuse_writepage_end and fuse_get_res_by_io).
            if write_flags & WRITE_CACHE:
                err = _write_around(fs, &cx, ip, off, size, src, &late)
            else:
                err = _write_all(&cx, ip, off, size, src, &late)
            done = size
        elif err == 0:
            err = file_write(&cx, ip, off, size, src, &done, &late)
        inode_unlock(&cx, ip)
        e = file_write_late(fs.sd, ip, &late)
        if e:
            err = e
            done = 0
        data_throttle(fs.sd, ip)
    _ip_done(fh, ip)
    written[0] = <uint32_t>done + beyond if err == 0 else 0
    return err


cdef int do_flush(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t lock_owner) noexcept nogil:
    return 0


cdef int do_fsync(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, bint datasync) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = _ip_of(fs, nodeid, fh, &ip)
    if err:
        return err
    err = file_fsync(&cx, ip, datasync, &(<handle*>fh).wb_seen if fh else NULL)
    _ip_done(fh, ip)
    return err


cdef int do_syncfs(void* p, fs_req* rq) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef int err
    cdef int data_err
    if not fs.sd.log.live:
        return 0
    err = log_sync(fs.sd, 0, GFS2_LFC_SYNC_FS)
    # Data that could not be written: told once to whoever syncs the file system, and once per file by fsync.
    data_err = gl_atomic_load32(&fs.sd.log.data_err)
    if data_err:
        gl_atomic_store32(&fs.sd.log.data_err, 0)
    return err if err else data_err


cdef int do_statfs(void* p, fs_req* rq, fs_statfs* out) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef uint64_t total, free_blocks, dinodes
    statfs_get(fs.sd, &total, &free_blocks, &dinodes)
    out.bsize = fs.sd.bsize
    out.frsize = fs.sd.bsize
    out.namelen = 255
    out.blocks = total
    out.bfree = free_blocks
    out.bavail = free_blocks
    out.files = dinodes + free_blocks
    out.ffree = free_blocks
    return 0


cdef int _shielded(gfs2_fs* fs, fs_req* rq, inode* ip, uint64_t off, uint64_t length, uint64_t answer) noexcept nogil:
    """A change was made under pages that the kernel may hold (EX held): 0, or OP_WRITE_BACK to have it drop them."""
    if rq.priv == NULL or fs.sd.gls != NULL or length == 0:
        return 0
    # Without memory for it, it is as the kernel alone would have it.
    return OP_WRITE_BACK if shield_raise(&fs.shields, rq.unique, ip.no_addr, off, off + length, answer) == 0 else 0


cdef int do_fallocate(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t mode, uint64_t off,
                      uint64_t length) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef uint64_t answer
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = shield_lower(&fs.shields, rq, &answer)
    if err != SHIELD_NONE:
        return err
    err = _ip_of(fs, nodeid, fh, &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        if ip.diskflags & GFS2_DIF_IMMUTABLE or (ip.diskflags & GFS2_DIF_APPENDONLY and mode & ~<uint32_t>1):
            err = -EPERM
        elif (ip.mode & S_IFMT) != S_IFREG:
            err = -EINVAL
        else:
            err = attr_kill_priv(&cx, ip) if cx.uid else 0
            if err == 0:
                err = file_fallocate(&cx, ip, mode, off, length)
            if err == 0 and mode & (PUNCH_HOLE | ZERO_RANGE):
                err = _shielded(fs, rq, ip, off, length, 0)
        inode_unlock(&cx, ip)
    _ip_done(fh, ip)
    return err


cdef int do_lseek(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t whence,
                  uint64_t* out) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    if whence != SEEK_DATA_ and whence != SEEK_HOLE_:
        return -EINVAL
    if rq.priv != NULL and rq.runs == 0 and node_written(&fs.nd, node_addr(fs, nodeid)):
        return OP_WRITE_BACK
    err = _ip_of(fs, nodeid, fh, &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_SHARED)
    if err == 0:
        err = bmap_seek(&cx, ip, off, whence == SEEK_HOLE_, out)
        inode_unlock(&cx, ip)
    _ip_done(fh, ip)
    return err


cdef int do_copy(void* p, fs_req* rq, uint64_t node_in, uint64_t fh_in, uint64_t off_in, uint64_t node_out,
                 uint64_t fh_out, uint64_t off_out, uint64_t length, uint64_t* copied) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* both[2]
    cdef int err
    fs_ctx(&cx, fs, rq)
    copied[0] = 0
    both[0] = NULL
    both[1] = NULL
    err = shield_lower(&fs.shields, rq, copied)
    if err != SHIELD_NONE:
        return err
    err = _ip_of(fs, node_in, fh_in, &both[0])
    if err == 0:
        err = _ip_of(fs, node_out, fh_out, &both[1])
    if err == 0:
        # A bounded piece per call: other requests on these files get their turn, and the caller asks again.
        length = min(length, <uint64_t>(16 << 20))
        err = inodes_lock(&cx, both, 2)
        if err == 0:
            if both[1].diskflags & (GFS2_DIF_IMMUTABLE | GFS2_DIF_APPENDONLY):
                err = -EPERM
            elif (both[0].mode & S_IFMT) != S_IFREG or (both[1].mode & S_IFMT) != S_IFREG:
                err = -EINVAL
            else:
                err = attr_kill_priv(&cx, both[1]) if cx.uid else 0
            if err == 0:
                err = file_copy_range(&cx, both[0], off_in, both[1], off_out, length, copied)
            if err == 0 and not (fh_in and (<handle*>fh_in).flags & O_NOATIME):
                atime_update(&cx, both[0])
            if err == 0:
                err = _shielded(fs, rq, both[1], off_out, copied[0], copied[0])
            inodes_unlock(&cx, both, 2)
    if both[0] != NULL:
        _ip_done(fh_in, both[0])
    if both[1] != NULL:
        _ip_done(fh_out, both[1])
    return err


# ---------------------------------------------------------------------------------------------- ioctl

cdef struct fsxattr_:               # struct fsxattr of the uapi
    uint32_t xflags, extsize, nextents, projid, cowextsize
    uint8_t pad[8]

cdef struct trim_range:             # struct fstrim_range
    uint64_t start, len, minlen


cdef int _ioctl_flags(opctx* cx, inode* ip, uint32_t cmd, const uint8_t* inbuf, uint32_t in_size, uint8_t* outbuf,
                      uint32_t out_size, uint32_t* out_len) noexcept nogil:
    cdef uint32_t flags
    cdef fsxattr_ x
    if cmd == FS_IOC_GETFLAGS:
        if out_size < 4:
            return -EINVAL
        flags = attr_fsflags(ip)
        memcpy(outbuf, &flags, 4)
        out_len[0] = 4
        return 0
    if cmd == FS_IOC_SETFLAGS:
        if in_size < 4:
            return -EINVAL
        memcpy(&flags, inbuf, 4)
        return attr_set_fsflags(cx, ip, flags)
    if cmd == FS_IOC_FSGETXATTR:
        if out_size < sizeof(fsxattr_):
            return -EINVAL
        memset(&x, 0, sizeof(x))
        flags = attr_fsflags(ip)
        x.xflags = ((FS_XFLAG_IMMUTABLE if flags & FS_IMMUTABLE_FL else 0)
                    | (FS_XFLAG_APPEND if flags & FS_APPEND_FL else 0)
                    | (FS_XFLAG_SYNC if flags & FS_SYNC_FL else 0) | (FS_XFLAG_NOATIME if flags & FS_NOATIME_FL else 0))
        memcpy(outbuf, &x, sizeof(x))
        out_len[0] = sizeof(x)
        return 0
    if in_size < sizeof(fsxattr_):
        return -EINVAL
    memcpy(&x, inbuf, sizeof(x))
    if (x.xflags & ~(FS_XFLAG_IMMUTABLE | FS_XFLAG_APPEND | FS_XFLAG_SYNC | FS_XFLAG_NOATIME)
            or x.extsize or x.projid or x.cowextsize):
        return -EINVAL
    flags = attr_fsflags(ip) & (FS_JOURNAL_DATA_FL | FS_TOPDIR_FL | FS_INDEX_FL)
    flags |= ((FS_IMMUTABLE_FL if x.xflags & FS_XFLAG_IMMUTABLE else 0)
              | (FS_APPEND_FL if x.xflags & FS_XFLAG_APPEND else 0)
              | (FS_SYNC_FL if x.xflags & FS_XFLAG_SYNC else 0) | (FS_NOATIME_FL if x.xflags & FS_XFLAG_NOATIME else 0))
    return attr_set_fsflags(cx, ip, flags)


cdef int _fitrim(gfs2_fs* fs, opctx* cx, const uint8_t* inbuf, uint32_t in_size, uint8_t* outbuf, uint32_t out_size,
                 uint32_t* out_len) noexcept nogil:
    cdef trim_range r
    cdef uint32_t shift = fs.sd.bsize_shift
    cdef uint64_t trimmed = 0
    cdef uint64_t end
    cdef int err
    if cx.uid:
        return -EPERM
    if in_size < sizeof(r) or out_size < sizeof(r):
        return -EINVAL
    memcpy(&r, inbuf, sizeof(r))
    end = fs.sd.fs_blocks
    if r.start >> shift < end and r.len < (end << shift) - r.start:
        end = (r.start + r.len) >> shift
    if r.start >> shift >= fs.sd.fs_blocks:
        return -EINVAL
    err = rgrp_fitrim(cx, r.start >> shift, end, max(<uint64_t>1, r.minlen >> shift), &trimmed)
    r.len = trimmed << shift
    memcpy(outbuf, &r, sizeof(r))
    out_len[0] = sizeof(r)
    return err


cdef int do_ioctl(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t cmd, bint isdir, const uint8_t* inbuf,
                  uint32_t in_size, uint8_t* outbuf, uint32_t out_size, uint32_t* out_len) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef bint sets = cmd == FS_IOC_SETFLAGS or cmd == FS_IOC_FSSETXATTR
    cdef int err
    out_len[0] = 0
    fs_ctx(&cx, fs, rq)
    if cmd == FITRIM:
        return _fitrim(fs, &cx, inbuf, in_size, outbuf, out_size, out_len)
    if not sets and cmd != FS_IOC_GETFLAGS and cmd != FS_IOC_FSGETXATTR:
        return -ENOTTY
    err = _node(fs, nodeid, &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE if sets else LM_ST_SHARED)
    if err == 0:
        if sets and cx.uid and cx.uid != ip.uid:
            err = -EPERM
        else:
            err = _ioctl_flags(&cx, ip, cmd, inbuf, in_size, outbuf, out_size, out_len)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef void fsio_fill(fs_ops* t) noexcept nogil:
    t.open = do_open
    t.release = do_release
    t.opendir = do_opendir
    t.releasedir = do_releasedir
    t.read = do_read
    t.write = do_write
    t.flush = do_flush
    t.fsync = do_fsync
    t.fsyncdir = do_fsync
    t.syncfs = do_syncfs
    t.statfs = do_statfs
    t.fallocate = do_fallocate
    t.lseek = do_lseek
    t.copy_file_range = do_copy
    t.ioctl = do_ioctl
