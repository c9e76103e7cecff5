"""The null file system: all in memory, nothing kept. It shows what a request costs when the disk costs nothing, and
lets every opcode of the session be tried by system calls.

Names that begin with ".hold" are special while hold(True): looking them up parks the request until release().
"""
from libc.errno cimport (EBADF, EEXIST, EFBIG, EINTR, EINVAL, EISDIR, ENODATA, ENOENT, ENOMEM, ENOSYS, ENOTDIR,
                         ENOTEMPTY, ENOTTY, EOPNOTSUPP, ERANGE, ESTALE)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._nulltree cimport *
from gfs2py.fuse._ops cimport *
from gfs2py.fuse._proto cimport FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE
from gfs2py.fuse._sys cimport *

cdef enum:
    IFMT = 0o170000
    IFDIR = 0o040000
    IFREG = 0o100000
    IFLNK = 0o120000
    ISUID = 0o4000
    ISGID = 0o2000
    IXGRP = 0o10
    MAX_HELD = 1024
    COPY_BUF = 65536

cdef uint32_t FS_IOC_GETFLAGS = 0x80086601U
cdef uint32_t FS_IOC_SETFLAGS = 0x40086602U
cdef uint32_t FS_IOC_FSGETXATTR = 0x801C581FU       # chattr(1) makes the kernel ask this first

cdef struct nullfs:
    ntree* tree
    uint64_t valid_ns
    uint32_t open_flags
    int holding
    uint64_t held[MAX_HELD]
    int n_held
    uint64_t n_syncs, n_destroys, n_forgets


cdef inline nnode* get(nullfs* f, uint64_t ino) noexcept nogil:
    """The inode, its mutex taken. The kernel knows it, so it does not go away meanwhile."""
    cdef nnode* n
    pthread_mutex_lock(&f.tree.mutex)
    n = node_get(f.tree, ino)
    if n != NULL:
        pthread_mutex_lock(&n.mutex)
    pthread_mutex_unlock(&f.tree.mutex)
    return n


cdef inline void put(nnode* n) noexcept nogil:
    pthread_mutex_unlock(&n.mutex)


cdef void fill_attr(const nnode* n, fs_attr* a) noexcept nogil:
    a.ino = n.ino
    a.size = n.size
    a.blocks = n.used_chunks * (CHUNK // 512)
    a.atime = n.atime
    a.mtime = n.mtime
    a.ctime = n.ctime
    a.atimensec = n.atimensec
    a.mtimensec = n.mtimensec
    a.ctimensec = n.ctimensec
    a.mode = n.mode
    a.nlink = n.nlink
    a.uid = n.uid
    a.gid = n.gid
    a.rdev = n.rdev
    a.blksize = 4096
    a.flags = 0


cdef void fill_entry(nullfs* f, nnode* n, fs_entry* e) noexcept nogil:
    """An answer that makes the kernel know the inode once more; tree.mutex is held."""
    n.nlookup += 1
    e.nodeid = n.ino
    e.generation = n.generation
    e.entry_valid_ns = f.valid_ns
    e.attr_valid_ns = f.valid_ns
    fill_attr(n, &e.attr)


cdef inline void kill_priv(nnode* n) noexcept nogil:
    n.mode &= ~<uint32_t>ISUID
    if n.mode & IXGRP:
        n.mode &= ~<uint32_t>ISGID


cdef int hold_back(nullfs* f, fs_req* rq, const char* name, uint32_t n) noexcept nogil:
    if n < 5 or memcmp(name, <const char*>".hold", 5) != 0 or not fz_load(&f.holding):
        return 0
    if rq.interrupted:
        return -EINTR
    if f.n_held < MAX_HELD:
        f.held[f.n_held] = rq.unique
        f.n_held += 1
    return OP_PARK


cdef int op_lookup(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, fs_entry* out) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* d
    cdef ndent* e = NULL
    cdef int err = 0
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, parent)
    err = -ESTALE if d == NULL else hold_back(f, rq, name, n)
    if err == 0:
        e = dir_find(d, name, n)
        if e == NULL:
            err = -ENOENT
        else:
            fill_entry(f, node_get(f.tree, e.ino), out)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef void op_forget(void* fs, uint64_t ino, uint64_t nlookup) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* n
    pthread_mutex_lock(&f.tree.mutex)
    n = node_get(f.tree, ino)
    f.n_forgets += 1
    if n != NULL:
        n.nlookup = n.nlookup - nlookup if n.nlookup > nlookup else 0
        node_release_if_unused(f.tree, n)
    pthread_mutex_unlock(&f.tree.mutex)


cdef int op_getattr(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, fs_attr* out, uint64_t* valid) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* n = get(f, ino)
    if n == NULL:
        return -ESTALE
    fill_attr(n, out)
    valid[0] = f.valid_ns
    put(n)
    return 0


cdef int op_setattr(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint32_t valid, fs_attr* want, fs_attr* out,
                    uint64_t* valid_ns) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* n = get(f, ino)
    cdef timespec ts
    cdef int err = 0
    if n == NULL:
        return -ESTALE
    clock_gettime(CLOCK_REALTIME, &ts)
    if valid & SA_SIZE:
        err = data_resize(n, want.size)
        if err < 0:
            put(n)
            return err
        touch(n, True)
    if valid & SA_MODE:
        n.mode = (n.mode & IFMT) | (want.mode & 0o7777)
    if valid & SA_UID:
        n.uid = want.uid
    if valid & SA_GID:
        n.gid = want.gid
    if valid & SA_KILL_SUIDGID:
        kill_priv(n)
    if valid & SA_ATIME:
        n.atime = ts.tv_sec if valid & SA_ATIME_NOW else want.atime
        n.atimensec = <uint32_t>ts.tv_nsec if valid & SA_ATIME_NOW else want.atimensec
    if valid & SA_MTIME:
        n.mtime = ts.tv_sec if valid & SA_MTIME_NOW else want.mtime
        n.mtimensec = <uint32_t>ts.tv_nsec if valid & SA_MTIME_NOW else want.mtimensec
    if valid & SA_CTIME:
        n.ctime = want.ctime
        n.ctimensec = want.ctimensec
    else:
        touch(n, False)
    fill_attr(n, out)
    valid_ns[0] = f.valid_ns
    put(n)
    return 0


cdef int op_readlink(void* fs, fs_req* rq, uint64_t ino, char* buf, uint32_t size, uint32_t* length) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    if n == NULL:
        return -ESTALE
    if n.target == NULL:
        put(n)
        return -EINVAL
    length[0] = <uint32_t>n.size if n.size < size else size
    memcpy(buf, n.target, length[0])
    put(n)
    return 0


cdef nnode* make_node(nullfs* f, fs_req* rq, nnode* d, uint32_t mode) noexcept nogil:
    """An inode as a child of `d` would be: umask applied, group and setgid bit from a setgid parent."""
    cdef uint32_t gid = d.gid if d.mode & ISGID else rq.gid
    if (mode & IFMT) != IFLNK:
        mode &= ~rq.umask
    if (mode & IFMT) == IFDIR and d.mode & ISGID:
        mode |= ISGID
    return node_new(f.tree, mode, rq.uid, gid)


cdef int make_entry(nullfs* f, fs_req* rq, uint64_t parent, const char* name, uint32_t n, uint32_t mode,
                    uint32_t rdev, const char* target, uint32_t targetlen, fs_entry* out, fs_open* fo) noexcept nogil:
    cdef nnode* d
    cdef nnode* c = NULL
    cdef int err = 0
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, parent)
    if d == NULL:
        err = -ESTALE
    elif d.nlink == 0:
        err = -ENOENT
    elif dir_find(d, name, n) != NULL:
        err = -EEXIST
    else:
        c = make_node(f, rq, d, mode)
        if c == NULL:
            err = -ENOMEM
    if err == 0 and target != NULL:
        c.target = <char*>malloc(targetlen + 1)
        if c.target != NULL:
            memcpy(c.target, target, targetlen)
            c.size = targetlen
        else:
            err = -ENOMEM
    if err == 0:
        err = dir_add(d, name, n, c.ino)
    if err < 0:
        if c != NULL:
            c.nlink = 0
            node_release_if_unused(f.tree, c)
    else:
        c.rdev = rdev
        c.parent = parent
        if (mode & IFMT) == IFDIR:
            c.nlink = 2
            d.nlink += 1
        touch(d, True)
        fill_entry(f, c, out)
        if fo != NULL:
            open_node(f, c, fo)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef inline void open_node(nullfs* f, nnode* n, fs_open* fo) noexcept nogil:
    n.opens += 1
    fo.fh = f.tree.next_fh
    f.tree.next_fh += 1
    fo.open_flags = f.open_flags


cdef int op_mknod(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, uint32_t mode, uint32_t rdev,
                  fs_entry* out) noexcept nogil:
    return make_entry(<nullfs*>fs, rq, parent, name, n, mode, rdev, NULL, 0, out, NULL)


cdef int op_mkdir(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, uint32_t mode,
                  fs_entry* out) noexcept nogil:
    return make_entry(<nullfs*>fs, rq, parent, name, n, IFDIR | (mode & 0o7777), 0, NULL, 0, out, NULL)


cdef int op_symlink(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, const char* target,
                    uint32_t targetlen, fs_entry* out) noexcept nogil:
    return make_entry(<nullfs*>fs, rq, parent, name, n, IFLNK | 0o777, 0, target, targetlen, out, NULL)


cdef int op_create(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, uint32_t mode, uint32_t flags,
                   fs_entry* out, fs_open* fo) noexcept nogil:
    return make_entry(<nullfs*>fs, rq, parent, name, n, IFREG | (mode & 0o7777), 0, NULL, 0, out, fo)


cdef int op_tmpfile(void* fs, fs_req* rq, uint64_t parent, uint32_t mode, uint32_t flags, fs_entry* out,
                    fs_open* fo) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* d
    cdef nnode* c
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, parent)
    c = make_node(f, rq, d, IFREG | (mode & 0o7777)) if d != NULL else NULL
    if c != NULL:
        c.nlink = 0
        fill_entry(f, c, out)
        open_node(f, c, fo)
    pthread_mutex_unlock(&f.tree.mutex)
    return 0 if c != NULL else (-ENOMEM if d != NULL else -ESTALE)


cdef void drop_name(nullfs* f, nnode* d, ndent* e, nnode* c) noexcept nogil:
    """Remove a name and its link; directories lose their own two. tree.mutex is held."""
    dir_remove(d, e)
    touch(d, True)
    if (c.mode & IFMT) == IFDIR:
        c.nlink = 0
        d.nlink -= 1
    else:
        c.nlink -= 1
    touch(c, False)
    node_release_if_unused(f.tree, c)


cdef int remove_entry(nullfs* f, uint64_t parent, const char* name, uint32_t n, bint isdir) noexcept nogil:
    cdef nnode* d
    cdef nnode* c
    cdef ndent* e = NULL
    cdef int err = 0
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, parent)
    if d != NULL:
        e = dir_find(d, name, n)
    if e == NULL:
        err = -ENOENT
    else:
        c = node_get(f.tree, e.ino)
        if isdir and (c.mode & IFMT) != IFDIR:
            err = -ENOTDIR
        elif not isdir and (c.mode & IFMT) == IFDIR:
            err = -EISDIR
        elif isdir and c.n_entries > 0:
            err = -ENOTEMPTY
        else:
            drop_name(f, d, e, c)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef int op_unlink(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n) noexcept nogil:
    return remove_entry(<nullfs*>fs, parent, name, n, False)


cdef int op_rmdir(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n) noexcept nogil:
    return remove_entry(<nullfs*>fs, parent, name, n, True)


cdef void reparent(nnode* c, nnode* old, nnode* new) noexcept nogil:
    if (c.mode & IFMT) == IFDIR and old != new:
        old.nlink -= 1
        new.nlink += 1
        c.parent = new.ino
    touch(c, False)


cdef int rename_locked(nullfs* f, nnode* a, const char* an, uint32_t al, nnode* b, const char* bn, uint32_t bl,
                       uint32_t flags) noexcept nogil:
    cdef ndent* e = dir_find(a, an, al)
    cdef ndent* t = dir_find(b, bn, bl)
    cdef nnode* c
    cdef nnode* o = NULL
    cdef int err
    if e == NULL:
        return -ENOENT
    c = node_get(f.tree, e.ino)
    if t != NULL:
        o = node_get(f.tree, t.ino)
    if flags & 2:               # RENAME_EXCHANGE
        if t == NULL:
            return -ENOENT
        e.ino, t.ino = t.ino, e.ino
        reparent(c, a, b)
        reparent(o, b, a)
        touch(a, True)
        touch(b, True)
        return 0
    if flags & 4:               # RENAME_WHITEOUT
        return -EINVAL
    if t != NULL:
        if flags & 1:           # RENAME_NOREPLACE
            return -EEXIST
        if o == c:
            return 0
        if (o.mode & IFMT) == IFDIR and o.n_entries > 0:
            return -ENOTEMPTY
    err = dir_add(b, bn, bl, c.ino)     # found before the old one of that name, which then goes
    if err < 0:
        return err
    if t != NULL:
        drop_name(f, b, t, o)
    dir_remove(a, e)
    reparent(c, a, b)
    touch(a, True)
    touch(b, True)
    return 0


cdef int op_rename(void* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t n, uint64_t newparent,
                   const char* newname, uint32_t m, uint32_t flags) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* a
    cdef nnode* b
    cdef int err
    pthread_mutex_lock(&f.tree.mutex)
    a = node_get(f.tree, parent)
    b = node_get(f.tree, newparent)
    err = -ESTALE if a == NULL or b == NULL else rename_locked(f, a, name, n, b, newname, m, flags)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef int op_link(void* fs, fs_req* rq, uint64_t ino, uint64_t newparent, const char* name, uint32_t n,
                 fs_entry* out) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* d
    cdef nnode* c
    cdef int err
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, newparent)
    c = node_get(f.tree, ino)
    if d == NULL or c == NULL:
        err = -ESTALE
    elif dir_find(d, name, n) != NULL:
        err = -EEXIST
    else:
        err = dir_add(d, name, n, ino)
        if err == 0:
            c.nlink += 1
            touch(c, False)
            touch(d, True)
            fill_entry(f, c, out)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef int op_open(void* fs, fs_req* rq, uint64_t ino, uint32_t flags, fs_open* fo) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* n
    cdef int err = 0
    pthread_mutex_lock(&f.tree.mutex)
    n = node_get(f.tree, ino)
    if n == NULL:
        err = -ESTALE
    else:
        open_node(f, n, fo)
        if flags & <uint32_t>O_TRUNC:
            pthread_mutex_lock(&n.mutex)
            data_resize(n, 0)
            touch(n, True)
            if rq.kill_suidgid:
                kill_priv(n)
            pthread_mutex_unlock(&n.mutex)
    pthread_mutex_unlock(&f.tree.mutex)
    return err


cdef int op_release(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint32_t flags, uint64_t owner,
                    bint flock_unlock) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* n
    pthread_mutex_lock(&f.tree.mutex)
    n = node_get(f.tree, ino)
    if n != NULL:
        n.opens = n.opens - 1 if n.opens > 0 else 0
        node_release_if_unused(f.tree, n)
    pthread_mutex_unlock(&f.tree.mutex)
    return 0


cdef int op_opendir(void* fs, fs_req* rq, uint64_t ino, uint32_t flags, fs_open* fo) noexcept nogil:
    return op_open(fs, rq, ino, 0, fo)


cdef int op_releasedir(void* fs, fs_req* rq, uint64_t ino, uint64_t fh) noexcept nogil:
    return op_release(fs, rq, ino, fh, 0, 0, False)


cdef int op_read(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint64_t off, uint32_t size, uint8_t* buf,
                 uint32_t* length) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    if n == NULL:
        return -ESTALE
    length[0] = data_read(n, off, size, buf)
    put(n)
    return 0


cdef int op_write(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint64_t off, uint32_t size, const uint8_t* buf,
                  uint32_t write_flags, uint32_t open_flags, uint32_t* written) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    cdef int err
    if n == NULL:
        return -ESTALE
    err = data_write(n, off, size, buf)
    if err == 0:
        touch(n, True)
        if rq.kill_suidgid:
            kill_priv(n)
        written[0] = size
    put(n)
    return err


cdef int op_flush(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint64_t owner) noexcept nogil:
    return 0


cdef int op_fsync(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, bint datasync) noexcept nogil:
    return 0


cdef int op_syncfs(void* fs, fs_req* rq) noexcept nogil:
    fz_bump(&(<nullfs*>fs).n_syncs, 1)
    return 0


cdef int op_readdir(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint64_t off, fs_dirbuf* out) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef nnode* d
    cdef nnode* c
    cdef ndent* e
    cdef fs_entry entry
    pthread_mutex_lock(&f.tree.mutex)
    d = node_get(f.tree, ino)
    if d == NULL:
        pthread_mutex_unlock(&f.tree.mutex)
        return -ESTALE
    if off < 1 and out.add(out, ".", 1, d.ino, 4, 1, NULL):
        off = 1 << 62
    if off < 2 and out.add(out, "..", 2, d.parent, 4, 2, NULL):
        off = 1 << 62
    e = dir_after(d, off)
    while e != NULL:
        c = node_get(f.tree, e.ino)
        if out.plus:
            fill_entry(f, c, &entry)
        if out.add(out, e.name, e.namelen, e.ino, (c.mode & IFMT) >> 12, e.cookie, &entry if out.plus else NULL):
            if out.plus:
                c.nlookup -= 1
            break
        d.hint = e
        e = e.next
    pthread_mutex_unlock(&f.tree.mutex)
    return 0


cdef int op_statfs(void* fs, fs_req* rq, fs_statfs* out) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    out.bsize = 4096
    out.frsize = 4096
    out.blocks = 1 << 28
    out.bfree = 1 << 27
    out.bavail = 1 << 27
    out.files = 1 << 30
    out.ffree = (1 << 30) - f.tree.n_live
    out.namelen = 255
    return 0


cdef nxattr** find_xattr(nnode* n, const char* name, uint32_t len_) noexcept nogil:
    cdef nxattr** p = &n.xattrs
    while p[0] != NULL and not (p[0].namelen == len_ and memcmp(p[0].name, name, len_) == 0):
        p = &p[0].next
    return p


cdef int op_setxattr(void* fs, fs_req* rq, uint64_t ino, const char* name, uint32_t nl, const uint8_t* value,
                     uint32_t size, uint32_t flags, uint32_t setxattr_flags) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    cdef nxattr** p
    cdef nxattr* x
    cdef uint8_t* copy
    if n == NULL:
        return -ESTALE
    p = find_xattr(n, name, nl)
    copy = <uint8_t*>malloc(size + 1)
    x = p[0] if p[0] != NULL else <nxattr*>calloc(1, sizeof(nxattr))
    if (flags & 1 and p[0] != NULL) or (flags & 2 and p[0] == NULL) or copy == NULL or x == NULL:
        if p[0] == NULL:
            free(x)
        put(n)
        free(copy)
        return -EEXIST if flags & 1 else (-ENODATA if flags & 2 else -ENOMEM)
    memcpy(copy, value, size)
    free(x.value)
    x.value = copy
    x.size = size
    if p[0] == NULL:
        memcpy(x.name, name, nl)
        x.namelen = nl
        p[0] = x
    touch(n, False)
    put(n)
    return 0


cdef int op_getxattr(void* fs, fs_req* rq, uint64_t ino, const char* name, uint32_t nl, uint8_t* buf, uint32_t size,
                     uint32_t* length) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    cdef nxattr* x
    cdef int err = 0
    if n == NULL:
        return -ESTALE
    x = find_xattr(n, name, nl)[0]
    if x == NULL:
        err = -ENODATA
    else:
        length[0] = x.size
        if size > 0:
            if x.size > size:
                err = -ERANGE
            else:
                memcpy(buf, x.value, x.size)
    put(n)
    return err


cdef int op_listxattr(void* fs, fs_req* rq, uint64_t ino, uint8_t* buf, uint32_t size, uint32_t* length) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    cdef nxattr* x
    cdef uint32_t used = 0
    cdef int err = 0
    if n == NULL:
        return -ESTALE
    x = n.xattrs
    while x != NULL and err == 0:
        if size > 0 and used + x.namelen + 1 > size:
            err = -ERANGE
        elif size > 0:
            memcpy(buf + used, x.name, x.namelen)
            buf[used + x.namelen] = 0
        used += x.namelen + 1
        x = x.next
    length[0] = used
    put(n)
    return err


cdef int op_removexattr(void* fs, fs_req* rq, uint64_t ino, const char* name, uint32_t nl) noexcept nogil:
    cdef nnode* n = get(<nullfs*>fs, ino)
    cdef nxattr** p
    cdef nxattr* x
    if n == NULL:
        return -ESTALE
    p = find_xattr(n, name, nl)
    x = p[0]
    if x != NULL:
        p[0] = x.next
        free(x.value)
        free(x)
        touch(n, False)
    put(n)
    return 0 if x != NULL else -ENODATA


cdef int op_fallocate(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint32_t mode, uint64_t off,
                      uint64_t length) noexcept nogil:
    cdef nnode* n
    cdef int err = 0
    if mode & ~<uint32_t>0x13:          # KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
        return -EOPNOTSUPP
    n = get(<nullfs*>fs, ino)
    if n == NULL:
        return -ESTALE
    if mode & 0x12:
        data_punch(n, off, length)
    if not mode & 2:
        err = data_allocate(n, off, length)
    if err == 0 and not mode & 1 and off + length > n.size:
        err = data_resize(n, off + length)
    touch(n, True)
    put(n)
    return err


cdef int op_lseek(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint64_t off, uint32_t whence,
                  uint64_t* out) noexcept nogil:
    cdef nnode* n
    cdef int err
    if whence != 3 and whence != 4:     # SEEK_DATA, SEEK_HOLE
        return -EINVAL
    n = get(<nullfs*>fs, ino)
    if n == NULL:
        return -ESTALE
    err = data_seek(n, off, whence == 4, out)
    put(n)
    return err


cdef int op_copy(void* fs, fs_req* rq, uint64_t node_in, uint64_t fh_in, uint64_t off_in, uint64_t node_out,
                 uint64_t fh_out, uint64_t off_out, uint64_t length, uint64_t* copied) noexcept nogil:
    cdef nullfs* f = <nullfs*>fs
    cdef uint8_t* buf = <uint8_t*>malloc(COPY_BUF)
    cdef nnode* n
    cdef uint32_t got
    cdef int err = 0
    copied[0] = 0
    if buf == NULL:
        return -ENOMEM
    while err == 0 and copied[0] < length:
        n = get(f, node_in)
        if n == NULL:
            err = -ESTALE
            break
        got = data_read(n, off_in + copied[0], <uint32_t>(COPY_BUF if length - copied[0] > COPY_BUF
                                                         else length - copied[0]), buf)
        put(n)
        if got == 0:
            break
        n = get(f, node_out)
        if n == NULL:
            err = -ESTALE
            break
        err = data_write(n, off_out + copied[0], got, buf)
        touch(n, True)
        put(n)
        if err == 0:
            copied[0] += got
    free(buf)
    return 0 if copied[0] > 0 else err


cdef int op_ioctl(void* fs, fs_req* rq, uint64_t ino, uint64_t fh, uint32_t cmd, bint isdir, const uint8_t* inbuf,
                  uint32_t in_size, uint8_t* outbuf, uint32_t out_size, uint32_t* out_len) noexcept nogil:
    cdef nnode* n
    if cmd == FS_IOC_FSGETXATTR and out_size >= 28:
        memset(outbuf, 0, 28)
        out_len[0] = 28
        return 0
    if cmd != FS_IOC_GETFLAGS and cmd != FS_IOC_SETFLAGS:
        return -ENOTTY
    n = get(<nullfs*>fs, ino)
    if n == NULL:
        return -ESTALE
    if cmd == FS_IOC_GETFLAGS and out_size >= 4:
        memcpy(outbuf, &n.flags, 4)
        out_len[0] = 4
    elif cmd == FS_IOC_SETFLAGS and in_size >= 4:
        memcpy(&n.flags, inbuf, 4)
        touch(n, False)
    put(n)
    return 0


cdef void op_destroy(void* fs) noexcept nogil:
    fz_bump(&(<nullfs*>fs).n_destroys, 1)


cdef fs_ops NULL_OPS
memset(&NULL_OPS, 0, sizeof(NULL_OPS))
NULL_OPS.destroy = op_destroy
NULL_OPS.lookup = op_lookup
NULL_OPS.forget = op_forget
NULL_OPS.getattr = op_getattr
NULL_OPS.setattr = op_setattr
NULL_OPS.readlink = op_readlink
NULL_OPS.mknod = op_mknod
NULL_OPS.mkdir = op_mkdir
NULL_OPS.symlink = op_symlink
NULL_OPS.unlink = op_unlink
NULL_OPS.rmdir = op_rmdir
NULL_OPS.rename = op_rename
NULL_OPS.link = op_link
NULL_OPS.create = op_create
NULL_OPS.tmpfile = op_tmpfile
NULL_OPS.open = op_open
NULL_OPS.release = op_release
NULL_OPS.opendir = op_opendir
NULL_OPS.releasedir = op_releasedir
NULL_OPS.read = op_read
NULL_OPS.write = op_write
NULL_OPS.flush = op_flush
NULL_OPS.fsync = op_fsync
NULL_OPS.fsyncdir = op_fsync
NULL_OPS.readdir = op_readdir
NULL_OPS.statfs = op_statfs
NULL_OPS.syncfs = op_syncfs
NULL_OPS.setxattr = op_setxattr
NULL_OPS.getxattr = op_getxattr
NULL_OPS.listxattr = op_listxattr
NULL_OPS.removexattr = op_removexattr
NULL_OPS.fallocate = op_fallocate
NULL_OPS.lseek = op_lseek
NULL_OPS.copy_file_range = op_copy
NULL_OPS.ioctl = op_ioctl


cdef class NullFileSystem(FileSystemHandle):
    """A file system in memory. `valid_ns`: how long the kernel may cache entries and attributes."""
    cdef nullfs state
    cdef bint freed

    def __cinit__(self, *, uint64_t valid_ns=0, bint keep_cache=True, bint direct_io=False):
        memset(&self.state, 0, sizeof(self.state))
        self.state.tree = tree_new()
        if self.state.tree == NULL:
            raise MemoryError
        self.state.valid_ns = valid_ns
        self.state.open_flags = (FOPEN_KEEP_CACHE if keep_cache else 0) | (FOPEN_DIRECT_IO if direct_io else 0)
        self.ops = &NULL_OPS
        self.fs = &self.state

    def __dealloc__(self):
        tree_free(self.state.tree)

    @property
    def label(self):
        return "null"

    def hold(self, bint on):
        """Park lookups of names that begin with '.hold', or stop to."""
        fz_store(&self.state.holding, on)

    def held(self):
        """Request numbers parked by hold() since the last call."""
        cdef int i
        pthread_mutex_lock(&self.state.tree.mutex)
        out = [self.state.held[i] for i in range(self.state.n_held)]
        self.state.n_held = 0
        pthread_mutex_unlock(&self.state.tree.mutex)
        return out

    def statistics(self):
        """Live inodes and calls seen."""
        return {"inodes": self.state.tree.n_live, "syncs": self.state.n_syncs, "destroys": self.state.n_destroys,
                "forgets": self.state.n_forgets}
