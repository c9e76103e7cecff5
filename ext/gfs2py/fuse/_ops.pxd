"""The seam between the FUSE session and a file system: one table of operations.

The session parses requests and writes replies; the file system behind the table knows nothing of FUSE's wire.
Every operation returns 0 or -errno, or OP_PARK: it changed nothing, it lacks a cluster lock, and the session
shall keep the request and run it again from the start when told so. `fs` is the file system's own pointer.

Parking: before it returns OP_PARK the operation notes `rq.unique`; session_unpark(session, unique) runs it again, also
if that call comes before the session has put the request away. A signal to the caller runs it again with
`rq.interrupted` set: then it must not park, but answer (-EINTR when it would have to wait). Where the answer is with
somebody who has to be told first, it clears `rq.interrupted` and parks once more; it will be run again, soon. If it
finds `rq.interrupted` set then, nobody waits for it any more.

OP_WRITE_BACK, on a first run in a session (rq.priv is set): of lseek, whose answer depends on data that only the kernel
has, dirty pages; of fallocate and copy_file_range, after the change was made under pages that the kernel may have. The
session has the kernel write back and drop them and runs the request again; then `rq.runs` is not 0.

Modes of create, mkdir, mknod, tmpfile come with the umask not applied: take `mode & ~rq.umask` unless the parent has a
default ACL. A file handle `fh` must be unique among open files (locks of an open file are dropped by it). An operation
left NULL is answered with ENOSYS, which the kernel remembers; flush, release, forget, opendir and the like answer 0.
With getlk and setlk left NULL the session keeps local locks itself (_locks.pyx).
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    OP_PARK = -100000
    OP_WRITE_BACK = -100010
    # setattr valid bits (as FATTR_* of the uapi header)
    SA_MODE = 1, SA_UID = 2, SA_GID = 4, SA_SIZE = 8, SA_ATIME = 16, SA_MTIME = 32, SA_FH = 64
    SA_ATIME_NOW = 128, SA_MTIME_NOW = 256, SA_LOCKOWNER = 512, SA_CTIME = 1024, SA_KILL_SUIDGID = 2048

cdef struct fs_req:                 # who asks; one per request
    uint64_t unique
    uint32_t uid, gid, pid
    uint32_t umask
    uint32_t worker                 # index of the worker thread
    int interrupted                 # in: a parked request is run again because its caller got a signal; see above
    void* priv                      # the session's
    uint32_t sup_gid                # the parent directory's group, if has_sup: the caller is in it (create, mkdir...)
    bint has_sup
    bint kill_suidgid               # OPEN with O_TRUNC and WRITE: the caller may not keep setuid/setgid bits
    bint kernel_times               # WRITE: it keeps mtime and ctime itself, and sends them with a SETATTR
    bint fills                      # READ: what is answered stays in the kernel's page cache
    bint waited                     # out: the operation waited for the device; who else wants something now waits, too
    uint32_t runs                   # 0 the first time, then how often the request was parked

cdef struct fs_attr:
    uint64_t ino, size, blocks      # blocks of 512 bytes
    int64_t atime, mtime, ctime
    uint32_t atimensec, mtimensec, ctimensec
    uint32_t mode, nlink, uid, gid, rdev, blksize
    uint32_t flags

cdef struct fs_entry:
    uint64_t nodeid, generation
    uint64_t entry_valid_ns, attr_valid_ns
    fs_attr attr

cdef struct fs_open:
    uint64_t fh
    uint32_t open_flags             # FOPEN_*

cdef struct fs_lock:
    uint64_t start, end             # end inclusive
    uint32_t type, pid              # F_RDLCK, F_WRLCK, F_UNLCK

cdef struct fs_statfs:
    uint64_t blocks, bfree, bavail, files, ffree
    uint32_t bsize, namelen, frsize

cdef struct fs_dirbuf:              # what readdir fills; add returns 0 when taken, 1 when full
    void* priv
    int (*add)(fs_dirbuf* d, const char* name, uint32_t namelen, uint64_t ino, uint32_t dtype,
               uint64_t next_off, fs_entry* entry) noexcept nogil
    bint plus                       # entries with attributes are wanted (each counts as one lookup)

ctypedef void (*unpark_fn)(void* arg, uint64_t unique) noexcept nogil

# How the file system takes back what the kernel caches. Neither may be called by a thread that serves requests.
cdef struct fs_kernel:
    void* arg
    # A write around the page cache leaves no page there that is older (Linux 6.14; 6.13 has it, too, but does not say
    # so). Else nothing may be in it of a file that others write.
    bint direct_drops
    # All pages and attributes of an inode, by a thread of the session's own: it blocks while a READ or WRITE of the
    # file is not answered. begin(who) right before, done(who, 0 or -errno) after it. Not 0: neither will be called.
    int (*drop_inode)(void* arg, uint64_t nodeid, void (*begin)(void* who) noexcept nogil,
                      void (*done)(void* who, int result) noexcept nogil, void* who) noexcept nogil
    # The attributes alone, by the caller's thread: it does not block. -ENOENT: the kernel does not know the inode, or
    # not yet, while a reply that names it is on its way. -ENOTCONN: the session has ended.
    int (*drop_attrs)(void* arg, uint64_t nodeid) noexcept nogil
    # The inode itself, if nobody uses it, by a thread of the session's own; its FORGET tells. -ENOSYS: a kernel before
    # Linux 6.18 keeps it until it needs the memory.
    int (*drop_unused)(void* arg, uint64_t nodeid) noexcept nogil

cdef struct fs_ops:
    void (*init)(void* fs) noexcept nogil
    void (*destroy)(void* fs) noexcept nogil
    # Before the first request, where requests may be parked: whom to tell that one may go on. NULL: it never parks.
    void (*attach)(void* fs, unpark_fn unpark, void* arg) noexcept nogil
    # The same of what the kernel caches. NULL: nobody else changes the files.
    void (*attach_kernel)(void* fs, const fs_kernel* kernel) noexcept nogil
    # A request that was parked (rq.runs) has been answered, or will not be run any more.
    void (*parked_done)(void* fs, uint64_t unique) noexcept nogil
    int (*lookup)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen,
                  fs_entry* out) noexcept nogil
    void (*forget)(void* fs, uint64_t nodeid, uint64_t nlookup) noexcept nogil
    int (*getattr)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, fs_attr* out, uint64_t* valid_ns) noexcept nogil
    int (*setattr)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t valid, fs_attr* want, fs_attr* out,
                   uint64_t* valid_ns) noexcept nogil
    int (*readlink)(void* fs, fs_req* rq, uint64_t nodeid, char* buf, uint32_t size, uint32_t* length) noexcept nogil
    int (*mknod)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                 uint32_t rdev, fs_entry* out) noexcept nogil
    int (*mkdir)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                 fs_entry* out) noexcept nogil
    int (*symlink)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, const char* target,
                   uint32_t targetlen, fs_entry* out) noexcept nogil
    int (*unlink)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil
    int (*rmdir)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil
    int (*rename)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint64_t newparent,
                  const char* newname, uint32_t newnamelen, uint32_t flags) noexcept nogil
    int (*link)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t newparent, const char* name, uint32_t namelen,
                fs_entry* out) noexcept nogil
    int (*create)(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                  uint32_t flags, fs_entry* out, fs_open* fo) noexcept nogil
    int (*tmpfile)(void* fs, fs_req* rq, uint64_t parent, uint32_t mode, uint32_t flags, fs_entry* out,
                   fs_open* fo) noexcept nogil
    int (*open)(void* fs, fs_req* rq, uint64_t nodeid, uint32_t flags, fs_open* fo) noexcept nogil
    int (*release)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t flags, uint64_t lock_owner,
                   bint flock_unlock) noexcept nogil
    int (*opendir)(void* fs, fs_req* rq, uint64_t nodeid, uint32_t flags, fs_open* fo) noexcept nogil
    int (*releasedir)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh) noexcept nogil
    # read fills buf (page aligned, room for `size`) and sets *length; write's buf is page aligned too
    int (*read)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t size, uint8_t* buf,
                uint32_t* length) noexcept nogil
    int (*write)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t size,
                 const uint8_t* buf, uint32_t write_flags, uint32_t open_flags, uint32_t* written) noexcept nogil
    int (*flush)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t lock_owner) noexcept nogil
    int (*fsync)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, bint datasync) noexcept nogil
    int (*fsyncdir)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, bint datasync) noexcept nogil
    int (*readdir)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, fs_dirbuf* out) noexcept nogil
    int (*statfs)(void* fs, fs_req* rq, fs_statfs* out) noexcept nogil
    int (*syncfs)(void* fs, fs_req* rq) noexcept nogil
    int (*setxattr)(void* fs, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen, const uint8_t* value,
                    uint32_t size, uint32_t flags, uint32_t setxattr_flags) noexcept nogil
    # size 0 asks for the length; otherwise -ERANGE when it does not fit
    int (*getxattr)(void* fs, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen, uint8_t* buf,
                    uint32_t size, uint32_t* length) noexcept nogil
    int (*listxattr)(void* fs, fs_req* rq, uint64_t nodeid, uint8_t* buf, uint32_t size,
                     uint32_t* length) noexcept nogil
    int (*removexattr)(void* fs, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen) noexcept nogil
    int (*fallocate)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t mode, uint64_t off,
                     uint64_t length) noexcept nogil
    int (*lseek)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, uint32_t whence,
                 uint64_t* out) noexcept nogil
    int (*copy_file_range)(void* fs, fs_req* rq, uint64_t node_in, uint64_t fh_in, uint64_t off_in, uint64_t node_out,
                           uint64_t fh_out, uint64_t off_out, uint64_t length, uint64_t* copied) noexcept nogil
    int (*ioctl)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t cmd, bint isdir, const uint8_t* inbuf,
                 uint32_t in_size, uint8_t* outbuf, uint32_t out_size, uint32_t* out_len) noexcept nogil
    int (*getlk)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t owner, fs_lock* lk) noexcept nogil
    # sleep: SETLKW. May return OP_PARK; run again with rq.interrupted it gives up its wait and answers -EINTR
    int (*setlk)(void* fs, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t owner, fs_lock* lk, bint flock,
                 bint sleep) noexcept nogil

cdef class FileSystemHandle:
    """Python's handle of a mounted file system: what a session serves.

    A subclass fills `ops` and `fs` before the session starts and keeps them valid until close(). The session calls
    ops.destroy(fs) once, when the kernel has unmounted; close() comes after it and frees.
    """
    cdef const fs_ops* ops
    cdef void* fs
