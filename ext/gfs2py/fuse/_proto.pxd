"""The wire of /dev/fuse: structures and constants of protocol 7.45.

Debian's header knows 7.38; what came later is declared here with names of our own, so that a newer header does
not collide. All integers are in the machine's byte order.
Source: include/uapi/linux/fuse.h (facts: names, numbers, offsets).
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<linux/fuse.h>" nogil:
    enum:
        FUSE_ROOT_ID, FUSE_MIN_READ_BUFFER
        FUSE_LOOKUP, FUSE_FORGET, FUSE_GETATTR, FUSE_SETATTR, FUSE_READLINK, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR
        FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_LINK, FUSE_OPEN, FUSE_READ, FUSE_WRITE, FUSE_STATFS, FUSE_RELEASE
        FUSE_FSYNC, FUSE_SETXATTR, FUSE_GETXATTR, FUSE_LISTXATTR, FUSE_REMOVEXATTR, FUSE_FLUSH, FUSE_INIT
        FUSE_OPENDIR, FUSE_READDIR, FUSE_RELEASEDIR, FUSE_FSYNCDIR, FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW
        FUSE_ACCESS, FUSE_CREATE, FUSE_INTERRUPT, FUSE_BMAP, FUSE_DESTROY, FUSE_IOCTL, FUSE_POLL
        FUSE_NOTIFY_REPLY, FUSE_BATCH_FORGET, FUSE_FALLOCATE, FUSE_READDIRPLUS, FUSE_RENAME2, FUSE_LSEEK
        FUSE_COPY_FILE_RANGE, FUSE_SYNCFS, FUSE_TMPFILE
        FUSE_NOTIFY_INVAL_INODE, FUSE_NOTIFY_INVAL_ENTRY, FUSE_NOTIFY_STORE, FUSE_NOTIFY_DELETE
        FUSE_ASYNC_READ, FUSE_POSIX_LOCKS, FUSE_ATOMIC_O_TRUNC, FUSE_BIG_WRITES, FUSE_DONT_MASK, FUSE_FLOCK_LOCKS
        FUSE_HAS_IOCTL_DIR, FUSE_AUTO_INVAL_DATA, FUSE_DO_READDIRPLUS, FUSE_READDIRPLUS_AUTO, FUSE_ASYNC_DIO
        FUSE_WRITEBACK_CACHE, FUSE_PARALLEL_DIROPS, FUSE_POSIX_ACL, FUSE_ABORT_ERROR, FUSE_MAX_PAGES
        FUSE_CACHE_SYMLINKS, FUSE_HANDLE_KILLPRIV_V2, FUSE_SETXATTR_EXT, FUSE_INIT_EXT
        FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR, FOPEN_NOFLUSH, FOPEN_PARALLEL_DIRECT_WRITES
        FUSE_RELEASE_FLUSH, FUSE_RELEASE_FLOCK_UNLOCK, FUSE_GETATTR_FH, FUSE_LK_FLOCK
        FUSE_READ_LOCKOWNER, FUSE_WRITE_CACHE, FUSE_WRITE_LOCKOWNER, FUSE_WRITE_KILL_SUIDGID
        FUSE_IOCTL_DIR, FUSE_FSYNC_FDATASYNC, FUSE_OPEN_KILL_SUIDGID, FUSE_SETXATTR_ACL_KILL_SGID

    unsigned long FUSE_DEV_IOC_CLONE

    struct fuse_in_header:
        uint32_t len, opcode
        uint64_t unique, nodeid
        uint32_t uid, gid, pid
        uint16_t total_extlen       # of the extensions at the end, in units of 8 bytes
    struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique
    struct fuse_attr:
        uint64_t ino, size, blocks
        uint64_t atime, mtime, ctime
        uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags
    struct fuse_kstatfs:
        uint64_t blocks, bfree, bavail, files, ffree
        uint32_t bsize, namelen, frsize
    struct fuse_statfs_out:
        fuse_kstatfs st
    struct fuse_file_lock:
        uint64_t start, end
        uint32_t type, pid
    struct fuse_entry_out:
        uint64_t nodeid, generation, entry_valid, attr_valid
        uint32_t entry_valid_nsec, attr_valid_nsec
        fuse_attr attr
    struct fuse_forget_in:
        uint64_t nlookup
    struct fuse_forget_one:
        uint64_t nodeid, nlookup
    struct fuse_batch_forget_in:
        uint32_t count
    struct fuse_getattr_in:
        uint32_t getattr_flags
        uint64_t fh
    struct fuse_attr_out:
        uint64_t attr_valid
        uint32_t attr_valid_nsec
        fuse_attr attr
    struct fuse_mknod_in:
        uint32_t mode, rdev, umask
    struct fuse_mkdir_in:
        uint32_t mode, umask
    struct fuse_rename_in:
        uint64_t newdir
    struct fuse_rename2_in:
        uint64_t newdir
        uint32_t flags
    struct fuse_link_in:
        uint64_t oldnodeid
    struct fuse_setattr_in:
        uint32_t valid
        uint64_t fh, size, lock_owner, atime, mtime, ctime
        uint32_t atimensec, mtimensec, ctimensec, mode, uid, gid
    struct fuse_open_in:
        uint32_t flags, open_flags
    struct fuse_create_in:
        uint32_t flags, mode, umask, open_flags
    struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags
    struct fuse_release_in:
        uint64_t fh
        uint32_t flags, release_flags
        uint64_t lock_owner
    struct fuse_flush_in:
        uint64_t fh, lock_owner
    struct fuse_read_in:
        uint64_t fh, offset
        uint32_t size, read_flags
        uint64_t lock_owner
        uint32_t flags
    struct fuse_write_in:
        uint64_t fh, offset
        uint32_t size, write_flags
        uint64_t lock_owner
        uint32_t flags
    struct fuse_write_out:
        uint32_t size
    struct fuse_fsync_in:
        uint64_t fh
        uint32_t fsync_flags
    struct fuse_setxattr_in:
        uint32_t size, flags, setxattr_flags
    struct fuse_getxattr_in:
        uint32_t size
    struct fuse_getxattr_out:
        uint32_t size
    struct fuse_lk_in:
        uint64_t fh, owner
        fuse_file_lock lk
        uint32_t lk_flags
    struct fuse_lk_out:
        fuse_file_lock lk
    struct fuse_init_in:
        uint32_t major, minor, max_readahead, flags, flags2
    struct fuse_init_out:
        uint32_t major, minor, max_readahead, flags
        uint16_t max_background, congestion_threshold
        uint32_t max_write, time_gran
        uint16_t max_pages, map_alignment
        uint32_t flags2
    struct fuse_interrupt_in:
        uint64_t unique
    struct fuse_ioctl_in:
        uint64_t fh
        uint32_t flags, cmd
        uint64_t arg
        uint32_t in_size, out_size
    struct fuse_ioctl_out:
        int32_t result
        uint32_t flags, in_iovs, out_iovs
    struct fuse_fallocate_in:
        uint64_t fh, offset, length
        uint32_t mode
    struct fuse_dirent:
        uint64_t ino, off
        uint32_t namelen, type
    struct fuse_lseek_in:
        uint64_t fh, offset
        uint32_t whence
    struct fuse_lseek_out:
        uint64_t offset
    struct fuse_copy_file_range_in:
        uint64_t fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
    struct fuse_notify_inval_inode_out:
        uint64_t ino
        int64_t off, len
    struct fuse_notify_inval_entry_out:
        uint64_t parent
        uint32_t namelen, flags
    struct fuse_notify_delete_out:
        uint64_t parent, child
        uint32_t namelen, padding
    struct fuse_notify_store_out:
        uint64_t nodeid, offset
        uint32_t size, padding

cdef enum:
    PROTO_MAJOR = 7
    PROTO_MINOR = 45
    PROTO_MINOR_MIN = 31            # older kernels lack what we cannot do without (Linux 5.4)
    # opcodes younger than Debian's header
    OP_STATX = 52
    OP_COPY_FILE_RANGE_64 = 53
    OP_LIMIT = 64                   # opcodes at or above this are answered with ENOSYS
    # notification codes younger than it
    NOTIFY_RESEND = 7
    NOTIFY_INC_EPOCH = 8
    NOTIFY_PRUNE = 9
    INVAL_ENTRY_EXPIRE_ONLY = 1
    # INIT flags2: bit n here is bit n+32 of the protocol's 64
    F2_SECURITY_CTX = 1 << 0
    F2_CREATE_SUPP_GROUP = 1 << 2
    F2_HAS_EXPIRE_ONLY = 1 << 3
    F2_DIRECT_IO_ALLOW_MMAP = 1 << 4
    F2_PASSTHROUGH = 1 << 5
    F2_HAS_RESEND = 1 << 7
    F2_ALLOW_IDMAP = 1 << 8
    F2_OVER_IO_URING = 1 << 9
    F2_REQUEST_TIMEOUT = 1 << 10
    EXT_GROUPS = 32                 # fuse_ext_header.type of a list of supplementary groups
    WRITE_HEADERS = 80              # bytes before the payload of a WRITE: in_header + write_in
    NAME_MAX_BYTES = 255
    DIRENT_NAME = 24                # offset of the name in a dirent
    INIT_OUT_SIZE = 64

cdef struct ext_header:
    uint32_t size, type

cdef struct supp_groups:
    uint32_t nr_groups

cdef struct sx_time:
    int64_t tv_sec
    uint32_t tv_nsec
    int32_t reserved

cdef struct sx:                     # struct fuse_statx, 256 bytes
    uint32_t mask, blksize
    uint64_t attributes
    uint32_t nlink, uid, gid
    uint16_t mode, spare0
    uint64_t ino, size, blocks, attributes_mask
    sx_time atime, btime, ctime, mtime
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor
    uint64_t spare2[14]

cdef struct statx_in:
    uint32_t getattr_flags, reserved
    uint64_t fh
    uint32_t sx_flags, sx_mask

cdef struct statx_out:
    uint64_t attr_valid
    uint32_t attr_valid_nsec, flags
    uint64_t spare[2]
    sx stat

cdef struct copy_file_range_out:
    uint64_t bytes_copied

cdef struct notify_prune_out:       # followed by `count` node ids
    uint32_t count, padding
    uint64_t spare
