"""Requests checked and handed to the table of operations, one handler per opcode.

Nothing in a message is believed: the fixed part must be there (ARG_MIN), names must end in NUL within it, be 1 to
255 bytes and hold no slash, counts must fit what was received. A message that breaks this gets EIO or EINVAL.
"""
from libc.errno cimport EINVAL, EIO, ENAMETOOLONG, ENOMEM, ENOSYS
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._locks cimport LOCK_WAIT, locktab_cancel, locktab_drop_fh, locktab_drop_owner, locktab_get, locktab_set
from gfs2py.fuse._notify cimport session_notify_inval_inode
from gfs2py.fuse._ops cimport (OP_PARK, OP_WRITE_BACK, fs_attr, fs_entry, fs_lock, fs_open, fs_ops, fs_statfs)
from gfs2py.fuse._proto cimport *
from gfs2py.fuse._reply cimport dirent_writer, dirent_writer_init, put_entry, put_valid
from gfs2py.fuse._state cimport REQ_NOREPLY, handler_fn, request, session
from gfs2py.fuse._sys cimport F_UNLCK, free, fz_bump, malloc, memchr, memcpy, memset
from gfs2py.fuse._worker cimport wake_request

cdef struct op_desc:
    handler_fn fn
    uint32_t arg_min            # bytes the message must have after its header
    const char* name

cdef op_desc OPS[OP_LIMIT]


cdef inline int take_name(request* r, uint32_t* at, const char** name, uint32_t* namelen) noexcept nogil:
    """The NUL-terminated name at *at of the argument; *at moves behind it."""
    cdef const char* p = <const char*>r.arg + at[0]
    cdef const char* end
    if at[0] >= r.arg_len:
        return -EINVAL
    end = <const char*>memchr(p, 0, r.arg_len - at[0])
    if end == NULL or end == p:
        return -EINVAL
    namelen[0] = <uint32_t>(end - p)
    at[0] += namelen[0] + 1
    if namelen[0] > NAME_MAX_BYTES:
        return -ENAMETOOLONG
    name[0] = p
    return 0


cdef inline int take_entry_name(request* r, uint32_t* at, const char** name, uint32_t* namelen) noexcept nogil:
    """A name of a directory entry: no slash, neither '.' nor '..'."""
    cdef int err = take_name(r, at, name, namelen)
    if err < 0:
        return err
    if memchr(name[0], c'/', namelen[0]) != NULL:
        return -EINVAL
    if name[0][0] == c'.' and (namelen[0] == 1 or (namelen[0] == 2 and name[0][1] == c'.')):
        return -EINVAL
    return 0


cdef inline int entry_out(request* r, int err, fs_entry* e) noexcept nogil:
    if err == 0:
        put_entry(e, <fuse_entry_out*>r.out)
        r.entry_nodeid = e.nodeid
        r.out_len = <uint32_t>sizeof(fuse_entry_out)
    return err


cdef inline int open_out(request* r, int err, const fs_open* fo, uint32_t at) noexcept nogil:
    cdef fuse_open_out* o = <fuse_open_out*>(r.out + at)
    if err == 0:
        memset(o, 0, sizeof(fuse_open_out))
        o.fh = fo.fh
        o.open_flags = fo.open_flags
        r.out_len = at + <uint32_t>sizeof(fuse_open_out)
    return err


cdef int do_lookup(request* r) noexcept nogil:
    cdef fs_entry e
    cdef const char* name
    cdef uint32_t n, at = 0
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    e.nodeid = 0
    return entry_out(r, r.se.ops.lookup(r.se.fs, &r.rq, r.h.nodeid, name, n, &e), &e)


cdef int do_forget(request* r) noexcept nogil:
    if r.se.ops.forget != NULL:
        r.se.ops.forget(r.se.fs, r.h.nodeid, (<fuse_forget_in*>r.arg).nlookup)
    return REQ_NOREPLY


cdef int do_batch_forget(request* r) noexcept nogil:
    cdef uint32_t i, count = (<fuse_batch_forget_in*>r.arg).count
    cdef fuse_forget_one* f = <fuse_forget_one*>(r.arg + 8)
    if count > (r.arg_len - 8) // sizeof(fuse_forget_one):
        fz_bump(&r.se.n_malformed, 1)
        return REQ_NOREPLY
    if r.se.ops.forget != NULL:
        for i in range(count):
            r.se.ops.forget(r.se.fs, f[i].nodeid, f[i].nlookup)
    return REQ_NOREPLY


cdef int do_getattr(request* r) noexcept nogil:
    cdef fuse_attr_out* o = <fuse_attr_out*>r.out
    cdef fuse_getattr_in* a = <fuse_getattr_in*>r.arg
    cdef uint64_t valid = 0
    cdef int err = r.se.ops.getattr(r.se.fs, &r.rq, r.h.nodeid, a.fh if a.getattr_flags & FUSE_GETATTR_FH else 0,
                                    <fs_attr*>&o.attr, &valid)
    if err == 0:
        put_valid(valid, &o.attr_valid, &o.attr_valid_nsec)
        (&o.attr_valid_nsec)[1] = 0
        r.out_len = <uint32_t>sizeof(fuse_attr_out)
    return err


cdef inline void put_sx_time(sx_time* t, int64_t sec, uint32_t nsec) noexcept nogil:
    t.tv_sec = sec
    t.tv_nsec = nsec


cdef int do_statx(request* r) noexcept nogil:
    """STATX: the basic fields; GFS2 has no birth time, so the mask says that it was not given."""
    cdef statx_out* o = <statx_out*>r.out
    cdef statx_in* a = <statx_in*>r.arg
    cdef fs_attr t
    cdef uint64_t valid = 0
    cdef int err = r.se.ops.getattr(r.se.fs, &r.rq, r.h.nodeid, a.fh if a.getattr_flags & FUSE_GETATTR_FH else 0,
                                    &t, &valid)
    if err < 0:
        return err
    memset(o, 0, sizeof(statx_out))
    put_valid(valid, &o.attr_valid, &o.attr_valid_nsec)
    o.stat.mask = 0x7FF         # STATX_BASIC_STATS
    o.stat.blksize = t.blksize
    o.stat.nlink = t.nlink
    o.stat.uid = t.uid
    o.stat.gid = t.gid
    o.stat.mode = <uint32_t>t.mode & 0xFFFF
    o.stat.ino = t.ino
    o.stat.size = t.size
    o.stat.blocks = t.blocks
    put_sx_time(&o.stat.atime, t.atime, t.atimensec)
    put_sx_time(&o.stat.mtime, t.mtime, t.mtimensec)
    put_sx_time(&o.stat.ctime, t.ctime, t.ctimensec)
    o.stat.rdev_major = (t.rdev >> 8) & 0xFFF
    o.stat.rdev_minor = (t.rdev & 0xFF) | ((t.rdev >> 12) & 0xFFF00)
    r.out_len = <uint32_t>sizeof(statx_out)
    return 0


cdef int do_setattr(request* r) noexcept nogil:
    cdef fuse_setattr_in* a = <fuse_setattr_in*>r.arg
    cdef fuse_attr_out* o = <fuse_attr_out*>r.out
    cdef fs_attr want
    cdef uint64_t valid = 0
    cdef int err
    memset(&want, 0, sizeof(want))
    want.size = a.size
    want.atime = <int64_t>a.atime
    want.mtime = <int64_t>a.mtime
    want.ctime = <int64_t>a.ctime
    want.atimensec = a.atimensec
    want.mtimensec = a.mtimensec
    want.ctimensec = a.ctimensec
    want.mode = a.mode
    want.uid = a.uid
    want.gid = a.gid
    err = r.se.ops.setattr(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.valid, &want, <fs_attr*>&o.attr, &valid)
    if err == 0:
        put_valid(valid, &o.attr_valid, &o.attr_valid_nsec)
        (&o.attr_valid_nsec)[1] = 0
        r.out_len = <uint32_t>sizeof(fuse_attr_out)
    return err


cdef int do_readlink(request* r) noexcept nogil:
    cdef uint32_t length = 0
    cdef int err = r.se.ops.readlink(r.se.fs, &r.rq, r.h.nodeid, <char*>r.out, 4096, &length)
    r.out_len = length
    return err


cdef int do_symlink(request* r) noexcept nogil:
    cdef fs_entry e
    cdef const char* name
    cdef const char* target
    cdef const char* end
    cdef uint32_t n, at = 0
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    if at >= r.arg_len:
        return -EINVAL
    target = <const char*>r.arg + at
    end = <const char*>memchr(target, 0, r.arg_len - at)
    if end == NULL or end == target:
        return -EINVAL
    if end - target > 4095:
        return -ENAMETOOLONG
    return entry_out(r, r.se.ops.symlink(r.se.fs, &r.rq, r.h.nodeid, name, n, target, <uint32_t>(end - target), &e), &e)


cdef int do_mknod(request* r) noexcept nogil:
    cdef fuse_mknod_in* a = <fuse_mknod_in*>r.arg
    cdef fs_entry e
    cdef const char* name
    cdef uint32_t n, at = sizeof(fuse_mknod_in)
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    r.rq.umask = a.umask
    return entry_out(r, r.se.ops.mknod(r.se.fs, &r.rq, r.h.nodeid, name, n, a.mode, a.rdev, &e), &e)


cdef int do_mkdir(request* r) noexcept nogil:
    cdef fuse_mkdir_in* a = <fuse_mkdir_in*>r.arg
    cdef fs_entry e
    cdef const char* name
    cdef uint32_t n, at = sizeof(fuse_mkdir_in)
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    r.rq.umask = a.umask
    return entry_out(r, r.se.ops.mkdir(r.se.fs, &r.rq, r.h.nodeid, name, n, a.mode, &e), &e)


cdef int do_unlink(request* r) noexcept nogil:
    cdef const char* name
    cdef uint32_t n, at = 0
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    return r.se.ops.unlink(r.se.fs, &r.rq, r.h.nodeid, name, n)


cdef int do_rmdir(request* r) noexcept nogil:
    cdef const char* name
    cdef uint32_t n, at = 0
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    return r.se.ops.rmdir(r.se.fs, &r.rq, r.h.nodeid, name, n)


cdef int rename_names(request* r, uint32_t at, uint64_t newdir, uint32_t flags) noexcept nogil:
    cdef const char* name
    cdef const char* newname
    cdef uint32_t n, m
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err == 0:
        err = take_entry_name(r, &at, &newname, &m)
    if err < 0:
        return err
    return r.se.ops.rename(r.se.fs, &r.rq, r.h.nodeid, name, n, newdir, newname, m, flags)


cdef int do_rename(request* r) noexcept nogil:
    return rename_names(r, sizeof(fuse_rename_in), (<fuse_rename_in*>r.arg).newdir, 0)


cdef int do_rename2(request* r) noexcept nogil:
    cdef fuse_rename2_in* a = <fuse_rename2_in*>r.arg
    if a.flags & ~<uint32_t>7:      # NOREPLACE, EXCHANGE, WHITEOUT
        return -EINVAL
    return rename_names(r, sizeof(fuse_rename2_in), a.newdir, a.flags)


cdef int do_link(request* r) noexcept nogil:
    cdef fs_entry e
    cdef const char* name
    cdef uint32_t n, at = sizeof(fuse_link_in)
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    return entry_out(r, r.se.ops.link(r.se.fs, &r.rq, (<fuse_link_in*>r.arg).oldnodeid, r.h.nodeid, name, n, &e), &e)


cdef int do_create(request* r) noexcept nogil:
    cdef fuse_create_in* a = <fuse_create_in*>r.arg
    cdef fs_entry e
    cdef fs_open fo
    cdef const char* name
    cdef uint32_t n, at = sizeof(fuse_create_in)
    cdef int err = take_entry_name(r, &at, &name, &n)
    if err < 0:
        return err
    r.rq.umask = a.umask
    fo.fh = 0
    fo.open_flags = 0
    r.rq.kill_suidgid = (a.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0
    err = entry_out(r, r.se.ops.create(r.se.fs, &r.rq, r.h.nodeid, name, n, a.mode, a.flags, &e, &fo), &e)
    return open_out(r, err, &fo, sizeof(fuse_entry_out))


cdef int do_tmpfile(request* r) noexcept nogil:
    cdef fuse_create_in* a = <fuse_create_in*>r.arg     # a name follows; it means nothing
    cdef fs_entry e
    cdef fs_open fo
    cdef int err
    r.rq.umask = a.umask
    fo.fh = 0
    fo.open_flags = 0
    err = entry_out(r, r.se.ops.tmpfile(r.se.fs, &r.rq, r.h.nodeid, a.mode, a.flags, &e, &fo), &e)
    return open_out(r, err, &fo, sizeof(fuse_entry_out))


cdef int do_open(request* r) noexcept nogil:
    cdef fs_open fo
    fo.fh = 0
    fo.open_flags = 0
    r.rq.kill_suidgid = ((<fuse_open_in*>r.arg).open_flags & FUSE_OPEN_KILL_SUIDGID) != 0
    return open_out(r, r.se.ops.open(r.se.fs, &r.rq, r.h.nodeid, (<fuse_open_in*>r.arg).flags, &fo), &fo, 0)


cdef int do_release(request* r) noexcept nogil:
    cdef fuse_release_in* a = <fuse_release_in*>r.arg
    if r.se.ops.setlk == NULL:
        locktab_drop_fh(r.se.locks, r.h.nodeid, a.fh)
    if r.se.ops.release == NULL:
        return 0
    return r.se.ops.release(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.flags, a.lock_owner,
                            (a.release_flags & FUSE_RELEASE_FLOCK_UNLOCK) != 0)


cdef int do_opendir(request* r) noexcept nogil:
    cdef fs_open fo
    fo.fh = 0
    fo.open_flags = 0
    if r.se.ops.opendir == NULL:
        return open_out(r, 0, &fo, 0)
    return open_out(r, r.se.ops.opendir(r.se.fs, &r.rq, r.h.nodeid, (<fuse_open_in*>r.arg).flags, &fo), &fo, 0)


cdef int do_releasedir(request* r) noexcept nogil:
    cdef fuse_release_in* a = <fuse_release_in*>r.arg
    if r.se.ops.setlk == NULL:
        locktab_drop_fh(r.se.locks, r.h.nodeid, a.fh)       # directories can be flocked too
    if r.se.ops.releasedir == NULL:
        return 0
    return r.se.ops.releasedir(r.se.fs, &r.rq, r.h.nodeid, a.fh)


cdef int do_read(request* r) noexcept nogil:
    cdef fuse_read_in* a = <fuse_read_in*>r.arg
    cdef uint32_t length = 0
    cdef int err
    if a.size > r.out_cap:
        return -EINVAL
    # Only reads that go around the page cache name the lock owner (fs/fuse/file.c, fuse_send_read).
    r.rq.fills = not (a.read_flags & FUSE_READ_LOCKOWNER)
    err = r.se.ops.read(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.offset, a.size, r.out, &length)
    r.out_len = length
    return err


cdef int do_write(request* r) noexcept nogil:
    cdef fuse_write_in* a = <fuse_write_in*>r.arg
    cdef fuse_write_out* o = <fuse_write_out*>r.out
    cdef bint cached = (a.write_flags & FUSE_WRITE_CACHE) != 0
    cdef uint32_t written = 0
    cdef int err
    if a.size > r.arg_len - sizeof(fuse_write_in):
        return -EINVAL
    r.rq.kill_suidgid = (a.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0
    r.rq.kernel_times = cached and (r.se.flags & FUSE_WRITEBACK_CACHE) != 0
    err = r.se.ops.write(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.offset, a.size, r.arg + sizeof(fuse_write_in),
                         a.write_flags, a.flags, &written)
    if err == 0 and cached and not r.rq.kernel_times:
        # A page stored to through a mapping: the kernel holds times for good that are no longer true.
        session_notify_inval_inode(r.se, r.h.nodeid, -1, 0, NULL, NULL)
    (<uint64_t*>o)[0] = 0
    o.size = written
    r.out_len = <uint32_t>sizeof(fuse_write_out)
    return err


cdef int do_flush(request* r) noexcept nogil:
    cdef fuse_flush_in* a = <fuse_flush_in*>r.arg
    if r.se.local_locks:
        return -ENOSYS              # the kernel never asks again: what it has to write it has written by now
    if r.se.ops.setlk == NULL:
        locktab_drop_owner(r.se.locks, r.h.nodeid, a.lock_owner)
    if r.se.ops.flush == NULL:
        return 0                    # not ENOSYS: the kernel would stop telling, and locks would leak
    return r.se.ops.flush(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.lock_owner)


cdef int do_fsync(request* r) noexcept nogil:
    cdef fuse_fsync_in* a = <fuse_fsync_in*>r.arg
    return r.se.ops.fsync(r.se.fs, &r.rq, r.h.nodeid, a.fh, (a.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0)


cdef int do_fsyncdir(request* r) noexcept nogil:
    cdef fuse_fsync_in* a = <fuse_fsync_in*>r.arg
    return r.se.ops.fsyncdir(r.se.fs, &r.rq, r.h.nodeid, a.fh, (a.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0)


cdef int read_directory(request* r, bint plus) noexcept nogil:
    cdef fuse_read_in* a = <fuse_read_in*>r.arg
    cdef dirent_writer d
    cdef int err
    if a.size > r.out_cap:
        return -EINVAL
    dirent_writer_init(&d, r.out, a.size, plus)
    err = r.se.ops.readdir(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.offset, &d.buf)
    r.out_len = d.used
    if err < 0 and err != OP_PARK and d.used > 0:
        return 0        # entries already taken count as lookups: deliver them, the error comes next time
    return err


cdef int do_readdir(request* r) noexcept nogil:
    return read_directory(r, False)


cdef int do_readdirplus(request* r) noexcept nogil:
    return read_directory(r, True)


cdef int do_statfs(request* r) noexcept nogil:
    cdef fs_statfs s
    cdef fuse_statfs_out* o = <fuse_statfs_out*>r.out
    cdef int err
    memset(&s, 0, sizeof(s))
    err = r.se.ops.statfs(r.se.fs, &r.rq, &s)
    if err < 0:
        return err
    memset(o, 0, sizeof(fuse_statfs_out))
    o.st.blocks = s.blocks
    o.st.bfree = s.bfree
    o.st.bavail = s.bavail
    o.st.files = s.files
    o.st.ffree = s.ffree
    o.st.bsize = s.bsize
    o.st.namelen = s.namelen
    o.st.frsize = s.frsize if s.frsize else s.bsize
    r.out_len = <uint32_t>sizeof(fuse_statfs_out)
    return 0


cdef int do_syncfs(request* r) noexcept nogil:
    return r.se.ops.syncfs(r.se.fs, &r.rq)


cdef int do_setxattr(request* r) noexcept nogil:
    cdef fuse_setxattr_in* a = <fuse_setxattr_in*>r.arg
    cdef bint ext = (r.se.flags & FUSE_SETXATTR_EXT) != 0
    cdef uint32_t at = sizeof(fuse_setxattr_in) if ext else 8
    cdef const char* name
    cdef uint32_t n
    cdef int err
    if r.arg_len < at:
        return -EINVAL
    err = take_name(r, &at, &name, &n)
    if err < 0:
        return err
    if a.size > r.arg_len - at:
        return -EINVAL
    return r.se.ops.setxattr(r.se.fs, &r.rq, r.h.nodeid, name, n, r.arg + at, a.size, a.flags,
                             a.setxattr_flags if ext else 0)


cdef int xattr_length(request* r, int err, uint32_t asked, uint32_t length) noexcept nogil:
    """Asked for size 0 the answer is a number, else the bytes."""
    if err < 0:
        return err
    if asked == 0:
        (<uint64_t*>r.out)[0] = 0
        (<fuse_getxattr_out*>r.out).size = length
        r.out_len = <uint32_t>sizeof(fuse_getxattr_out)
    else:
        r.out_len = length
    return 0


cdef int do_getxattr(request* r) noexcept nogil:
    cdef uint32_t size = (<fuse_getxattr_in*>r.arg).size
    cdef const char* name
    cdef uint32_t n, length = 0, at = sizeof(fuse_getxattr_in)
    cdef int err = take_name(r, &at, &name, &n)
    if err < 0:
        return err
    if size > r.out_cap:
        return -EINVAL
    # The length is read after the call: C leaves open in which order arguments are evaluated.
    err = r.se.ops.getxattr(r.se.fs, &r.rq, r.h.nodeid, name, n, r.out, size, &length)
    return xattr_length(r, err, size, length)


cdef int do_listxattr(request* r) noexcept nogil:
    cdef uint32_t size = (<fuse_getxattr_in*>r.arg).size
    cdef uint32_t length = 0
    cdef int err
    if size > r.out_cap:
        return -EINVAL
    err = r.se.ops.listxattr(r.se.fs, &r.rq, r.h.nodeid, r.out, size, &length)
    return xattr_length(r, err, size, length)


cdef int do_removexattr(request* r) noexcept nogil:
    cdef const char* name
    cdef uint32_t n, at = 0
    cdef int err = take_name(r, &at, &name, &n)
    if err < 0:
        return err
    return r.se.ops.removexattr(r.se.fs, &r.rq, r.h.nodeid, name, n)


cdef struct wakeup:
    session* se
    uint64_t unique


cdef void written_back(void* arg, int result) noexcept nogil:
    """By the notifier. A page that somebody dirties right now may have stayed: its writer races with the reader."""
    cdef wakeup* k = <wakeup*>arg
    wake_request(k.se, k.unique)
    free(k)


cdef int after_write_back(request* r, uint64_t nodeid, uint64_t off, uint64_t length) noexcept nogil:
    """Park a request until the kernel has written back and dropped the node's pages there; length 0: to the end.

    Not for a signal: the kernel asks once per request, and the wait ends by itself.
    """
    cdef wakeup* k = <wakeup*>malloc(sizeof(wakeup))
    cdef int err
    if k == NULL:
        return -ENOMEM
    k.se = r.se
    k.unique = r.h.unique
    r.rq.interrupted = 0
    if r.node != NULL:
        r.node.interrupted = 0
    if off >> 63:
        off = 0
    err = session_notify_inval_inode(r.se, nodeid, <int64_t>off, <int64_t>length, written_back, k)
    if err < 0:
        free(k)
        return err
    return OP_PARK


cdef int do_fallocate(request* r) noexcept nogil:
    cdef fuse_fallocate_in* a = <fuse_fallocate_in*>r.arg
    cdef int err
    if a.length == 0 or a.offset > <uint64_t>0x7FFFFFFFFFFFFFFF - a.length or a.length > <uint64_t>0x7FFFFFFFFFFFFFFF:
        return -EINVAL
    while True:
        err = r.se.ops.fallocate(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.mode, a.offset, a.length)
        if err != OP_WRITE_BACK:
            return err
        if after_write_back(r, r.h.nodeid, a.offset, a.length) == OP_PARK:
            return OP_PARK
        r.rq.runs += 1              # the kernel cannot be told; but the change was made


cdef int do_lseek(request* r) noexcept nogil:
    """SEEK_DATA and SEEK_HOLE: the kernel asks before it has written back what it caches (fs/fuse, fuse_lseek)."""
    cdef fuse_lseek_in* a = <fuse_lseek_in*>r.arg
    cdef fuse_lseek_out* o = <fuse_lseek_out*>r.out
    cdef int err
    if r.rq.runs and r.rq.interrupted:
        return after_write_back(r, r.h.nodeid, a.offset, 0)
    r.out_len = <uint32_t>sizeof(fuse_lseek_out)
    err = r.se.ops.lseek(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.offset, a.whence, &o.offset)
    return after_write_back(r, r.h.nodeid, a.offset, 0) if err == OP_WRITE_BACK else err


cdef int copy_range(request* r, uint64_t* copied, uint64_t limit) noexcept nogil:
    cdef fuse_copy_file_range_in* a = <fuse_copy_file_range_in*>r.arg
    cdef int err
    if a.flags != 0:
        return -EINVAL
    while True:
        err = r.se.ops.copy_file_range(r.se.fs, &r.rq, r.h.nodeid, a.fh_in, a.off_in, a.nodeid_out, a.fh_out,
                                       a.off_out, a.len if a.len < limit else limit, copied)
        if err != OP_WRITE_BACK:
            return err
        if after_write_back(r, a.nodeid_out, a.off_out, copied[0]) == OP_PARK:
            return OP_PARK
        r.rq.runs += 1              # as with fallocate


cdef int do_copy_file_range(request* r) noexcept nogil:
    cdef uint64_t copied = 0
    cdef int err = copy_range(r, &copied, 0x7FFFF000)
    (<uint64_t*>r.out)[0] = 0
    (<fuse_write_out*>r.out).size = <uint32_t>copied
    r.out_len = <uint32_t>sizeof(fuse_write_out)
    return err


cdef int do_copy_file_range_64(request* r) noexcept nogil:
    cdef copy_file_range_out* o = <copy_file_range_out*>r.out
    o.bytes_copied = 0
    r.out_len = <uint32_t>sizeof(copy_file_range_out)
    return copy_range(r, &o.bytes_copied, 0x7FFFFFFFFFFFF000)


cdef int do_ioctl(request* r) noexcept nogil:
    cdef fuse_ioctl_in* a = <fuse_ioctl_in*>r.arg
    cdef fuse_ioctl_out* o = <fuse_ioctl_out*>r.out
    cdef uint32_t length = 0
    cdef int err
    if a.in_size > r.arg_len - sizeof(fuse_ioctl_in) or a.out_size > r.out_cap - sizeof(fuse_ioctl_out):
        return -EINVAL
    err = r.se.ops.ioctl(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.cmd, (a.flags & FUSE_IOCTL_DIR) != 0,
                         r.arg + sizeof(fuse_ioctl_in), a.in_size, r.out + sizeof(fuse_ioctl_out), a.out_size, &length)
    memset(o, 0, sizeof(fuse_ioctl_out))
    if err == 0 and length > a.out_size:
        return -EIO
    r.out_len = <uint32_t>sizeof(fuse_ioctl_out) + length
    return err


cdef inline void take_lock(const fuse_lk_in* a, fs_lock* lk) noexcept nogil:
    lk.start = a.lk.start
    lk.end = a.lk.end
    lk.type = a.lk.type
    lk.pid = a.lk.pid


cdef int do_getlk(request* r) noexcept nogil:
    cdef fuse_lk_in* a = <fuse_lk_in*>r.arg
    cdef fuse_lk_out* o = <fuse_lk_out*>r.out
    cdef fs_lock lk
    cdef int err
    take_lock(a, &lk)
    if r.se.ops.getlk != NULL:
        err = r.se.ops.getlk(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.owner, &lk)
    else:
        err = locktab_get(r.se.locks, r.h.nodeid, a.owner, &lk)
    o.lk.start = lk.start
    o.lk.end = lk.end
    o.lk.type = lk.type
    o.lk.pid = lk.pid
    r.out_len = <uint32_t>sizeof(fuse_lk_out)
    return err


cdef int set_lock(request* r, bint sleep) noexcept nogil:
    cdef fuse_lk_in* a = <fuse_lk_in*>r.arg
    cdef bint flock = (a.lk_flags & FUSE_LK_FLOCK) != 0
    cdef fs_lock lk
    cdef int err
    take_lock(a, &lk)
    if r.se.ops.setlk != NULL:
        return r.se.ops.setlk(r.se.fs, &r.rq, r.h.nodeid, a.fh, a.owner, &lk, flock, sleep)
    err = locktab_set(r.se.locks, r.h.unique, r.h.nodeid, a.fh, a.owner, &lk, flock, sleep)
    if err != LOCK_WAIT:
        return err
    if r.rq.interrupted:
        locktab_cancel(r.se.locks, r.h.unique)
        return -4               # EINTR
    return OP_PARK


cdef int do_setlk(request* r) noexcept nogil:
    return set_lock(r, False)


cdef int do_setlkw(request* r) noexcept nogil:
    return set_lock(r, True)


cdef inline void describe(uint32_t op, handler_fn fn, uint32_t arg_min, const char* name) noexcept nogil:
    OPS[op].fn = fn
    OPS[op].arg_min = arg_min
    OPS[op].name = name


cdef void fill_table() noexcept nogil:
    memset(OPS, 0, sizeof(OPS))
    describe(FUSE_LOOKUP, do_lookup, 2, "LOOKUP")
    describe(FUSE_FORGET, do_forget, sizeof(fuse_forget_in), "FORGET")
    describe(FUSE_BATCH_FORGET, do_batch_forget, 8, "BATCH_FORGET")
    describe(FUSE_GETATTR, do_getattr, sizeof(fuse_getattr_in), "GETATTR")
    describe(OP_STATX, do_statx, sizeof(statx_in), "STATX")
    describe(FUSE_SETATTR, do_setattr, sizeof(fuse_setattr_in), "SETATTR")
    describe(FUSE_READLINK, do_readlink, 0, "READLINK")
    describe(FUSE_SYMLINK, do_symlink, 4, "SYMLINK")
    describe(FUSE_MKNOD, do_mknod, sizeof(fuse_mknod_in) + 2, "MKNOD")
    describe(FUSE_MKDIR, do_mkdir, sizeof(fuse_mkdir_in) + 2, "MKDIR")
    describe(FUSE_UNLINK, do_unlink, 2, "UNLINK")
    describe(FUSE_RMDIR, do_rmdir, 2, "RMDIR")
    describe(FUSE_RENAME, do_rename, sizeof(fuse_rename_in) + 4, "RENAME")
    describe(FUSE_RENAME2, do_rename2, sizeof(fuse_rename2_in) + 4, "RENAME2")
    describe(FUSE_LINK, do_link, sizeof(fuse_link_in) + 2, "LINK")
    describe(FUSE_CREATE, do_create, sizeof(fuse_create_in) + 2, "CREATE")
    describe(FUSE_TMPFILE, do_tmpfile, sizeof(fuse_create_in), "TMPFILE")
    describe(FUSE_OPEN, do_open, sizeof(fuse_open_in), "OPEN")
    describe(FUSE_RELEASE, do_release, sizeof(fuse_release_in), "RELEASE")
    describe(FUSE_OPENDIR, do_opendir, sizeof(fuse_open_in), "OPENDIR")
    describe(FUSE_RELEASEDIR, do_releasedir, sizeof(fuse_release_in), "RELEASEDIR")
    describe(FUSE_READ, do_read, sizeof(fuse_read_in), "READ")
    describe(FUSE_WRITE, do_write, sizeof(fuse_write_in), "WRITE")
    describe(FUSE_FLUSH, do_flush, sizeof(fuse_flush_in), "FLUSH")
    describe(FUSE_FSYNC, do_fsync, sizeof(fuse_fsync_in), "FSYNC")
    describe(FUSE_FSYNCDIR, do_fsyncdir, sizeof(fuse_fsync_in), "FSYNCDIR")
    describe(FUSE_READDIR, do_readdir, sizeof(fuse_read_in), "READDIR")
    describe(FUSE_READDIRPLUS, do_readdirplus, sizeof(fuse_read_in), "READDIRPLUS")
    describe(FUSE_STATFS, do_statfs, 0, "STATFS")
    describe(FUSE_SYNCFS, do_syncfs, 8, "SYNCFS")
    describe(FUSE_SETXATTR, do_setxattr, 10, "SETXATTR")
    describe(FUSE_GETXATTR, do_getxattr, sizeof(fuse_getxattr_in) + 2, "GETXATTR")
    describe(FUSE_LISTXATTR, do_listxattr, sizeof(fuse_getxattr_in), "LISTXATTR")
    describe(FUSE_REMOVEXATTR, do_removexattr, 2, "REMOVEXATTR")
    describe(FUSE_FALLOCATE, do_fallocate, sizeof(fuse_fallocate_in), "FALLOCATE")
    describe(FUSE_LSEEK, do_lseek, sizeof(fuse_lseek_in), "LSEEK")
    describe(FUSE_COPY_FILE_RANGE, do_copy_file_range, sizeof(fuse_copy_file_range_in), "COPY_FILE_RANGE")
    describe(OP_COPY_FILE_RANGE_64, do_copy_file_range_64, sizeof(fuse_copy_file_range_in), "COPY_FILE_RANGE_64")
    describe(FUSE_IOCTL, do_ioctl, sizeof(fuse_ioctl_in), "IOCTL")
    describe(FUSE_GETLK, do_getlk, sizeof(fuse_lk_in), "GETLK")
    describe(FUSE_SETLK, do_setlk, sizeof(fuse_lk_in), "SETLK")
    describe(FUSE_SETLKW, do_setlkw, sizeof(fuse_lk_in), "SETLKW")
    # served by the session itself, or not at all; named for the statistics
    OPS[FUSE_INIT].name = "INIT"
    OPS[FUSE_DESTROY].name = "DESTROY"
    OPS[FUSE_INTERRUPT].name = "INTERRUPT"
    OPS[FUSE_ACCESS].name = "ACCESS"
    OPS[FUSE_BMAP].name = "BMAP"
    OPS[FUSE_POLL].name = "POLL"
    OPS[FUSE_NOTIFY_REPLY].name = "NOTIFY_REPLY"


cdef bint offered(const fs_ops* ops, uint32_t op) noexcept nogil:
    """Whether the file system has what this opcode calls; the others handle a missing operation themselves."""
    if op == FUSE_LOOKUP: return ops.lookup != NULL
    if op == FUSE_GETATTR or op == OP_STATX: return ops.getattr != NULL
    if op == FUSE_SETATTR: return ops.setattr != NULL
    if op == FUSE_READLINK: return ops.readlink != NULL
    if op == FUSE_SYMLINK: return ops.symlink != NULL
    if op == FUSE_MKNOD: return ops.mknod != NULL
    if op == FUSE_MKDIR: return ops.mkdir != NULL
    if op == FUSE_UNLINK: return ops.unlink != NULL
    if op == FUSE_RMDIR: return ops.rmdir != NULL
    if op == FUSE_RENAME or op == FUSE_RENAME2: return ops.rename != NULL
    if op == FUSE_LINK: return ops.link != NULL
    if op == FUSE_CREATE: return ops.create != NULL
    if op == FUSE_TMPFILE: return ops.tmpfile != NULL
    if op == FUSE_OPEN: return ops.open != NULL
    if op == FUSE_READ: return ops.read != NULL
    if op == FUSE_WRITE: return ops.write != NULL
    if op == FUSE_FSYNC: return ops.fsync != NULL
    if op == FUSE_FSYNCDIR: return ops.fsyncdir != NULL
    if op == FUSE_READDIR or op == FUSE_READDIRPLUS: return ops.readdir != NULL
    if op == FUSE_STATFS: return ops.statfs != NULL
    if op == FUSE_SYNCFS: return ops.syncfs != NULL
    if op == FUSE_SETXATTR: return ops.setxattr != NULL
    if op == FUSE_GETXATTR: return ops.getxattr != NULL
    if op == FUSE_LISTXATTR: return ops.listxattr != NULL
    if op == FUSE_REMOVEXATTR: return ops.removexattr != NULL
    if op == FUSE_FALLOCATE: return ops.fallocate != NULL
    if op == FUSE_LSEEK: return ops.lseek != NULL
    if op == FUSE_COPY_FILE_RANGE or op == OP_COPY_FILE_RANGE_64: return ops.copy_file_range != NULL
    if op == FUSE_IOCTL: return ops.ioctl != NULL
    return True


cdef int take_extensions(request* r, uint32_t ext_len) noexcept nogil:
    """The list of extensions at the end: of it, the group of the parent directory that the caller is in."""
    cdef uint8_t* p = r.arg + r.arg_len
    cdef ext_header* x
    while ext_len >= sizeof(ext_header):
        x = <ext_header*>p
        if x.size < sizeof(ext_header) or x.size > ext_len or x.size & 7:
            return -EINVAL
        if x.type == EXT_GROUPS and x.size >= sizeof(ext_header) + 8 and (<uint32_t*>p)[2] >= 1:
            r.rq.has_sup = True
            r.rq.sup_gid = (<uint32_t*>p)[3]
        p += x.size
        ext_len -= x.size
    return 0


cdef int dispatch(request* r) noexcept nogil:
    cdef uint32_t op = r.h.opcode
    cdef uint32_t ext_len = <uint32_t>r.h.total_extlen * 8
    if op >= OP_LIMIT or OPS[op].fn == NULL or not offered(r.se.ops, op):
        return -ENOSYS
    if ext_len != 0:
        if ext_len > r.arg_len:
            return -EINVAL
        r.arg_len -= ext_len
        if take_extensions(r, ext_len) < 0:
            return -EINVAL
    if r.arg_len < OPS[op].arg_min:
        return -EINVAL
    return OPS[op].fn(r)


cdef const char* op_name(uint32_t opcode) noexcept nogil:
    if opcode >= OP_LIMIT or OPS[opcode].name == NULL:
        return NULL
    return OPS[opcode].name


if sizeof(statx_out) != 288 or sizeof(fuse_attr_out) != 104 or sizeof(fuse_write_in) != WRITE_HEADERS - 40:
    raise ImportError("the wire structures of FUSE have unexpected sizes")
fill_table()
