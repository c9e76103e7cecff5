"""The table of operations: names and attributes. Operations on open files are in _fsio."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset
from gfs2py.engine._attr cimport atime_due, atime_update, attr_fill, attr_set
from gfs2py.engine._cache cimport buf_peek, buf_put, buf_readahead
from gfs2py.engine._dir cimport dir_read
from gfs2py.engine._file cimport file_read
from gfs2py.engine._freeze cimport fz_attach, fz_forget
from gfs2py.engine._freezeops cimport freeze_fill
from gfs2py.engine._fs cimport gfs2_fs, handle, node_addr
from gfs2py.engine._filelocks cimport filelocks_attach, filelocks_fill
from gfs2py.engine._fsio cimport fsio_fill, may_map, mapper_gone, open_flags_for
from gfs2py.engine._glock cimport GL_LOCAL, glock_done
from gfs2py.engine._incore cimport (I_VALID, LM_ST_EXCLUSIVE, LM_ST_SHARED, SDF_ACL, SDF_SHARED, buf, inode, opctx, sbd)
from gfs2py.engine._inode cimport (inode_damaged, inode_dirty, inode_get, inode_lock, inode_put, inode_touch,
                                   inode_unlock)
from gfs2py.engine._log cimport trans_begin, trans_end
from gfs2py.engine._namei cimport fs_create, fs_link, fs_lookup, fs_rename, fs_unlink, new_inode
from gfs2py.engine._names cimport names_note
from gfs2py.engine._nodes cimport (node_delete_later, node_forget, node_looked_up, node_relinked, node_unlinked,
                                   node_writers)
from gfs2py.engine._sbd cimport ctx_init
from gfs2py.engine._shield cimport shield_forget
from gfs2py.engine._sync cimport gl_atomic_note32, gl_atomic_store32
from gfs2py.engine._xattr cimport acl_to_mode, xattr_get, xattr_list, xattr_set
from gfs2py.fuse._ops cimport fs_attr, fs_dirbuf, fs_entry, fs_kernel, fs_open, fs_ops, fs_req, unpark_fn
from gfs2py.ondisk._ondisk cimport GFS2_DIF_IMMUTABLE

cdef extern from "<errno.h>" nogil:
    int EEXIST, EINVAL, EIO, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOPNOTSUPP, EPERM, ESTALE, ENODATA
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFDIR, S_IFREG, S_IFLNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK, S_ISGID
cdef extern from "<fcntl.h>" nogil:
    uint32_t O_ACCMODE, O_APPEND, O_EXCL, O_RDONLY, O_NOATIME

cdef enum:
    COLLECT_BYTES = 65536           # names of one readdir round
    COLLECT_MAX = 1024              # entries of one readdir round
    PLUS_MAX = 256                  # with attributes a reply holds fewer
    READAHEAD_BATCH = 64            # what buf_readahead takes at a time
    NEAR = 128                      # a dinode this close to the last cold one is one of a run
    RUN = 64                        # blocks then read together
    LARGE_DIR = 1000                # entries: its first READDIRPLUS reads no dinodes
    STALE_TRIES = 100               # a name that changes this often under us: somebody else's loop
    SETXATTR_ACL_KILL_SGID = 1      # FUSE_SETXATTR_ACL_KILL_SGID


cdef void fs_ctx(opctx* cx, gfs2_fs* fs, fs_req* rq) noexcept nogil:
    ctx_init(cx, fs.sd, rq.uid, rq.gid)
    cx.pid = rq.pid
    cx.umask = rq.umask
    cx.unique = rq.unique
    cx.interrupted = &rq.interrupted


cdef struct making:                 # what _made fills
    gfs2_fs* fs
    fs_entry* out
    uint32_t flags                  # O_* of the handle that it gets
    bint linked


cdef void _made(void* arg, inode* ip) noexcept nogil:
    cdef making* m = <making*>arg
    if m.linked:
        node_relinked(&m.fs.nd, ip.no_addr)
    if may_map(ip, m.flags):
        gl_atomic_note32(&ip.n_mappers, 1)
    _fill_entry(m.fs, ip, m.out)
    if m.linked and ip.gl.x != NULL:
        m.out.attr_valid_ns = 0     # as with setattr


cdef int _entry(gfs2_fs* fs, opctx* cx, inode* ip, uint64_t formal, fs_entry* out) noexcept nogil:
    """Attributes under a shared lock; the kernel's lookup count goes up by one.

    -ESTALE: since the entry was read another node has deleted the inode that it means.
    """
    cdef int err = inode_lock(cx, ip, LM_ST_SHARED)
    if err:
        return err
    if ip.gl.x != NULL and (ip.no_formal_ino != formal or ip.nlink == 0):
        err = -ESTALE
    else:
        _fill_entry(fs, ip, out)
    inode_unlock(cx, ip)
    return err


cdef void _fill_entry(gfs2_fs* fs, inode* ip, fs_entry* out) noexcept nogil:
    out.nodeid = 1 if ip.no_addr == fs.sd.root_addr else ip.no_addr
    out.generation = ip.no_formal_ino
    out.entry_valid_ns = fs.entry_ns
    out.attr_valid_ns = fs.attr_ns
    attr_fill(ip, &out.attr)
    node_looked_up(&fs.nd, ip.no_addr, ip.nlink == 0)


cdef bint _in_memory(gfs2_fs* fs, uint64_t addr) noexcept nogil:
    cdef buf* b = buf_peek(fs.sd, addr)
    if b == NULL:
        return False
    buf_put(fs.sd, b)
    return True


cdef void _dinode_run(gfs2_fs* fs, uint64_t addr) noexcept nogil:
    """Files made together have neighbouring dinodes: a walk that misses one after another reads them in runs.

    Not on a shared disk: a block may be read only under its own glock there.
    """
    cdef uint64_t blocks[RUN]
    cdef uint64_t last = fs.last_cold
    cdef uint32_t i
    fs.last_cold = addr
    if fs.sd.flags & SDF_SHARED or addr - last + NEAR > 2 * NEAR or _in_memory(fs, addr):
        return
    for i in range(<uint32_t>RUN):
        blocks[i] = addr + i
    buf_readahead(fs.sd, blocks, RUN)


cdef int do_lookup(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen,
                   fs_entry* out) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* dip = NULL
    cdef inode* ip = NULL
    cdef uint64_t formal = 0
    cdef uint64_t missing = 0
    cdef int tries, err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, parent), &dip)
    if err:
        return err
    for tries in range(STALE_TRIES):
        err = fs_lookup(&cx, dip, name, namelen, &ip, &formal)
        if err:
            break
        if not (ip.iflags & I_VALID):
            _dinode_run(fs, ip.no_addr)
        if missing and cx.no_dinode == ip.no_addr and missing == formal:
            # The entry has outlasted our look at the dinode: nobody had deleted it.
            err = inode_damaged(&cx)
            inode_put(ip)
            break
        cx.no_dinode = 0
        err = _entry(fs, &cx, ip, formal, out)
        missing = formal if cx.no_dinode else 0
        if err == 0:
            names_note(fs.sd, ip.no_addr, dip.no_addr, name, namelen)
        inode_put(ip)
        if err != -ESTALE:
            break
    inode_put(dip)
    if err == -ENOENT and fs.entry_ns:
        # nodeid 0: the kernel remembers that there is nothing of this name.
        memset(out, 0, sizeof(fs_entry))
        out.entry_valid_ns = fs.entry_ns
        return 0
    return err


cdef void do_forget(void* p, uint64_t nodeid, uint64_t n) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    node_forget(&fs.nd, node_addr(fs, nodeid), n)


cdef int do_getattr(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, fs_attr* out, uint64_t* valid_ns) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_SHARED)
    if err == 0:
        attr_fill(ip, out)
        valid_ns[0] = fs.attr_ns
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef int do_setattr(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint32_t valid, fs_attr* want, fs_attr* out,
                    uint64_t* valid_ns) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        err = attr_set(&cx, ip, valid, want)
        attr_fill(ip, out)
        # What this answer says the kernel believes whenever it comes to read it, also when it has been told meanwhile
        # to forget; so among nodes it may not believe it for long (fs/fuse/dir.c, fuse_do_setattr).
        valid_ns[0] = fs.attr_ns if ip.gl.x == NULL else 0
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef int do_readlink(void* p, fs_req* rq, uint64_t nodeid, char* out, uint32_t size, uint32_t* length) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef uint64_t got = 0
    cdef bint due = False
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_SHARED)
    if err == 0:
        if (ip.mode & S_IFMT) != S_IFLNK:
            err = -EINVAL
        else:
            err = file_read(&cx, ip, 0, size, <uint8_t*>out, &got)
            due = err == 0 and atime_due(&cx, ip)
        inode_unlock(&cx, ip)
    cx.gl_flags = GL_LOCAL
    if due and inode_lock(&cx, ip, LM_ST_EXCLUSIVE) == 0:
        atime_update(&cx, ip)
        inode_unlock(&cx, ip)
    inode_put(ip)
    length[0] = <uint32_t>got
    return err


# ---------------------------------------------------------------------------------------------- making and removing

cdef int _new_entry(gfs2_fs* fs, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, new_inode* want,
                    fs_entry* out, inode** keep, uint32_t flags) noexcept nogil:
    """Makes an inode and fills the reply; with `keep` the reference stays with the caller."""
    cdef opctx cx
    cdef inode* dip = NULL
    cdef inode* ip = NULL
    cdef making m
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, parent), &dip)
    if err:
        return err
    m.fs = fs
    m.out = out
    m.flags = flags
    m.linked = False
    err = fs_create(&cx, dip, name, namelen, want, &ip, _made, &m)
    inode_put(dip)
    if err:
        if ip != NULL:
            node_delete_later(&fs.nd, ip.no_addr)
            inode_put(ip)
        return err
    if name != NULL:
        names_note(fs.sd, ip.no_addr, node_addr(fs, parent), name, namelen)
    if keep != NULL:
        keep[0] = ip
    else:
        inode_put(ip)
    return 0


cdef int do_mknod(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                  uint32_t rdev, fs_entry* out) noexcept nogil:
    cdef new_inode want
    cdef uint32_t kind = mode & S_IFMT
    memset(&want, 0, sizeof(want))
    want.mode = mode if kind else mode | S_IFREG
    if kind != 0 and kind not in (S_IFREG, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK):
        return -EINVAL
    if kind == S_IFBLK or kind == S_IFCHR:
        want.major = (rdev & 0xfff00) >> 8
        want.minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00)
    return _new_entry(<gfs2_fs*>p, rq, parent, name, namelen, &want, out, NULL, 0)


cdef int do_mkdir(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                  fs_entry* out) noexcept nogil:
    cdef new_inode want
    memset(&want, 0, sizeof(want))
    want.mode = S_IFDIR | (mode & <uint32_t>0o7777)
    return _new_entry(<gfs2_fs*>p, rq, parent, name, namelen, &want, out, NULL, 0)


cdef int do_symlink(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, const char* target,
                    uint32_t targetlen, fs_entry* out) noexcept nogil:
    cdef new_inode want
    memset(&want, 0, sizeof(want))
    if targetlen == 0:
        return -ENOENT
    want.mode = S_IFLNK | <uint32_t>0o777
    want.target = target
    want.targetlen = targetlen
    return _new_entry(<gfs2_fs*>p, rq, parent, name, namelen, &want, out, NULL, 0)


cdef int _created(gfs2_fs* fs, inode* ip, uint32_t flags, fs_entry* out, fs_open* fo) noexcept nogil:
    """The handle of a file just made; takes over the reference."""
    cdef handle* h = <handle*>calloc(1, sizeof(handle))
    if h == NULL:
        mapper_gone(ip, flags)
        node_forget(&fs.nd, ip.no_addr, 1)
        inode_put(ip)
        return -ENOMEM
    h.ip = ip
    h.flags = flags
    h.wb_seen = ip.wb_told
    if (flags & O_ACCMODE) != O_RDONLY:
        node_writers(&fs.nd, ip.no_addr, 1, (flags & O_APPEND) != 0)
    fo.fh = <uint64_t>h
    fo.open_flags = open_flags_for(fs, flags)
    return 0


cdef int do_create(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint32_t mode,
                   uint32_t flags, fs_entry* out, fs_open* fo) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef new_inode want
    cdef inode* ip = NULL
    cdef int err
    memset(&want, 0, sizeof(want))
    want.mode = S_IFREG | (mode & <uint32_t>0o7777)
    err = _new_entry(fs, rq, parent, name, namelen, &want, out, &ip, flags)
    if err == -EEXIST and not flags & O_EXCL:
        # Another node was faster than this open(2), whose lookup found nothing. The kernel takes what it gets from here
        # for new (neither access nor O_TRUNC would be looked at): it is sent to look again, as ESTALE makes it do.
        return -ESTALE
    return err if err else _created(fs, ip, flags, out, fo)


cdef int do_tmpfile(void* p, fs_req* rq, uint64_t parent, uint32_t mode, uint32_t flags, fs_entry* out,
                    fs_open* fo) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef new_inode want
    cdef inode* ip = NULL
    cdef int err
    memset(&want, 0, sizeof(want))
    want.mode = S_IFREG | (mode & <uint32_t>0o7777)
    want.unnamed = True
    err = _new_entry(fs, rq, parent, NULL, 0, &want, out, &ip, flags)
    return err if err else _created(fs, ip, flags, out, fo)


cdef int _remove(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, bint rmdir) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* dip = NULL
    cdef uint64_t gone = 0
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, parent), &dip)
    if err:
        return err
    err = fs_unlink(&cx, dip, name, namelen, rmdir, &gone)
    inode_put(dip)
    if gone:
        node_unlinked(&fs.nd, gone)
    return err


cdef int do_unlink(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil:
    return _remove(p, rq, parent, name, namelen, False)


cdef int do_rmdir(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen) noexcept nogil:
    return _remove(p, rq, parent, name, namelen, True)


cdef int do_rename(void* p, fs_req* rq, uint64_t parent, const char* name, uint32_t namelen, uint64_t newparent,
                   const char* newname, uint32_t newnamelen, uint32_t flags) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* odip = NULL
    cdef inode* ndip = NULL
    cdef uint64_t gone = 0
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, parent), &odip)
    if err == 0:
        err = inode_get(fs.sd, node_addr(fs, newparent), &ndip)
    if err == 0:
        err = fs_rename(&cx, odip, name, namelen, ndip, newname, newnamelen, flags, &gone)
    inode_put(odip)
    inode_put(ndip)
    if gone:
        node_unlinked(&fs.nd, gone)
    return err


cdef int do_link(void* p, fs_req* rq, uint64_t nodeid, uint64_t newparent, const char* name, uint32_t namelen,
                 fs_entry* out) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef inode* dip = NULL
    cdef making m
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err == 0:
        err = inode_get(fs.sd, node_addr(fs, newparent), &dip)
    m.fs = fs
    m.out = out
    m.flags = 0
    m.linked = True
    if err == 0:
        err = fs_link(&cx, ip, dip, name, namelen, _made, &m)
    inode_put(ip)
    inode_put(dip)
    return err


# ---------------------------------------------------------------------------------------------- reading directories

cdef struct found:                  # one collected entry
    uint64_t addr, formal, next_off
    uint32_t at, namelen
    uint32_t dtype

cdef struct collector:
    found* list
    char* names
    uint32_t n, used, most


cdef int _collect(void* arg, const char* name, uint32_t namelen, uint64_t addr, uint64_t formal, uint16_t dtype,
                  uint64_t next_off) noexcept nogil:
    cdef collector* c = <collector*>arg
    if c.n == c.most or c.used + namelen > COLLECT_BYTES:
        return 1
    c.list[c.n].addr = addr
    c.list[c.n].formal = formal
    c.list[c.n].next_off = next_off
    c.list[c.n].at = c.used
    c.list[c.n].namelen = namelen
    c.list[c.n].dtype = dtype
    memcpy(c.names + c.used, name, namelen)
    c.used += namelen
    c.n += 1
    return 0


cdef inline bint _is_dot(const char* name, uint32_t n) noexcept nogil:
    return name[0] == c'.' and (n == 1 or (n == 2 and name[1] == c'.'))


cdef int _emit(gfs2_fs* fs, opctx* cx, collector* c, fs_dirbuf* out, bint cheap) noexcept nogil:
    """Hands the collected entries over until the reply is full, with attributes where wanted.

    `cheap`: only where their dinode is in memory; the kernel takes an entry without.
    """
    cdef fs_entry e
    cdef inode* ip = NULL
    cdef found* f
    cdef uint32_t i
    cdef fs_entry* ep
    for i in range(c.n):
        f = &c.list[i]
        ep = NULL
        if out.plus and not _is_dot(c.names + f.at, f.namelen) and not (cheap and not _in_memory(fs, f.addr)):
            if inode_get(fs.sd, f.addr, &ip) == 0:
                if _entry(fs, cx, ip, f.formal, &e) == 0:
                    ep = &e
                inode_put(ip)
        if out.add(out, c.names + f.at, f.namelen, f.addr, f.dtype, f.next_off, ep):
            if ep != NULL:
                node_forget(&fs.nd, f.addr, 1)
            return 1
    return 0


cdef int _by_addr(const void* x, const void* y) noexcept nogil:
    cdef uint64_t a = (<const uint64_t*>x)[0]
    cdef uint64_t b = (<const uint64_t*>y)[0]
    return 0 if a == b else (-1 if a < b else 1)


cdef void _ahead(gfs2_fs* fs, collector* c) noexcept nogil:
    """The dinodes that READDIRPLUS will want, in parallel; by address, for names come in the order of their hashes."""
    cdef uint64_t blocks[PLUS_MAX]
    cdef uint32_t i
    cdef uint32_t n = min(c.n, <uint32_t>PLUS_MAX)
    for i in range(n):
        blocks[i] = c.list[i].addr
    qsort(blocks, n, sizeof(uint64_t), _by_addr)
    i = 0
    while i < n:
        buf_readahead(fs.sd, blocks + i, min(n - i, <uint32_t>READAHEAD_BATCH))
        i += READAHEAD_BATCH


cdef int do_readdir(void* p, fs_req* rq, uint64_t nodeid, uint64_t fh, uint64_t off, fs_dirbuf* out) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef collector c
    cdef bint due = False
    cdef bint cheap = False
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    c.n = 0
    c.used = 0
    c.most = PLUS_MAX if out.plus else COLLECT_MAX
    c.list = <found*>malloc(COLLECT_MAX * sizeof(found))
    c.names = <char*>malloc(COLLECT_BYTES)
    err = -ENOMEM
    if c.list != NULL and c.names != NULL:
        err = inode_lock(&cx, ip, LM_ST_SHARED)
        if err == 0:
            err = dir_read(&cx, ip, off, _collect, &c) if (ip.mode & S_IFMT) == S_IFDIR else -ENOTDIR
            due = off == 0 and not (fh and (<handle*>fh).flags & O_NOATIME) and atime_due(&cx, ip)
            # The kernel always begins with READDIRPLUS, and goes on with it only if names were looked up meanwhile.
            cheap = off == 0 and ip.entries > <uint32_t>LARGE_DIR
            inode_unlock(&cx, ip)
    if err >= 0:
        err = 0
        if out.plus and not cheap and fs.sd.gls == NULL:
            _ahead(fs, &c)
        # Attributes of what is locked here; for the others the kernel asks when it wants them.
        cx.gl_flags = GL_LOCAL
        _emit(fs, &cx, &c, out, cheap and fs.sd.gls == NULL)
    cx.gl_flags = GL_LOCAL
    if due and inode_lock(&cx, ip, LM_ST_EXCLUSIVE) == 0:
        atime_update(&cx, ip)
        inode_unlock(&cx, ip)
    free(c.list)
    free(c.names)
    inode_put(ip)
    return err


# ---------------------------------------------------------------------------------------------- extended attributes

cdef inline bint _named(const char* name, uint32_t namelen, const char* what, uint32_t n) noexcept nogil:
    return namelen == n and memcmp(name, what, n) == 0


cdef int _set_access_acl(opctx* cx, inode* ip, const char* name, uint32_t namelen, const uint8_t* value, uint32_t size,
                         uint32_t flags, bint kill_sgid) noexcept nogil:
    """system.posix_acl_access: the mode follows the ACL, and an ACL that says no more than a mode is not kept."""
    cdef uint32_t mode = ip.mode
    cdef bint drop = False
    cdef int err = acl_to_mode(value, size, &mode, &drop)
    if err:
        return err
    if kill_sgid:
        mode &= ~S_ISGID
    # In one transaction: a list without its mode would grant what neither the old nor the new list does.
    cx.ea_mode = mode
    if drop:
        err = xattr_set(cx, ip, name, namelen, NULL, 0, flags)
    else:
        err = xattr_set(cx, ip, name, namelen, value, size, flags)
    cx.ea_mode = 0
    if err == -ENODATA and drop:
        err = 0
    if err == 0 and mode != ip.mode:
        err = trans_begin(cx, 1, 0)
        if err == 0:
            ip.mode = mode
            inode_touch(cx, ip, False, True)
            err = inode_dirty(cx, ip)
            trans_end(cx)
    return err


cdef int do_setxattr(void* p, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen, const uint8_t* value,
                     uint32_t size, uint32_t flags, uint32_t setxattr_flags) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef bint acl = namelen > 17 and memcmp(name, b"system.posix_acl_", 17) == 0
    cdef int err
    if acl and not (fs.sd.flags & SDF_ACL):
        return -EOPNOTSUPP
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        if ip.diskflags & GFS2_DIF_IMMUTABLE:
            err = -EPERM
        elif _named(name, namelen, b"system.posix_acl_access", 23) and size:
            err = _set_access_acl(&cx, ip, name, namelen, value, size, flags,
                                  (setxattr_flags & SETXATTR_ACL_KILL_SGID) != 0)
        elif acl and size == 0:
            err = xattr_set(&cx, ip, name, namelen, NULL, 0, 0)
        else:
            # A value of no bytes is a value: only a NULL pointer means removal.
            err = xattr_set(&cx, ip, name, namelen, value if value != NULL else <const uint8_t*>b"", size, flags)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef int do_getxattr(void* p, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen, uint8_t* out,
                     uint32_t size, uint32_t* length) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    if namelen > 17 and memcmp(name, b"system.posix_acl_", 17) == 0 and not (fs.sd.flags & SDF_ACL):
        return -EOPNOTSUPP
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_SHARED)
    if err == 0:
        err = xattr_get(&cx, ip, name, namelen, out, size, length)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef int do_listxattr(void* p, fs_req* rq, uint64_t nodeid, uint8_t* out, uint32_t size,
                      uint32_t* length) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_SHARED)
    if err == 0:
        err = xattr_list(&cx, ip, out, size, length)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


cdef int do_removexattr(void* p, fs_req* rq, uint64_t nodeid, const char* name, uint32_t namelen) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    cdef opctx cx
    cdef inode* ip = NULL
    cdef int err
    fs_ctx(&cx, fs, rq)
    err = inode_get(fs.sd, node_addr(fs, nodeid), &ip)
    if err:
        return err
    err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        err = -EPERM if ip.diskflags & GFS2_DIF_IMMUTABLE else xattr_set(&cx, ip, name, namelen, NULL, 0, 0)
        inode_unlock(&cx, ip)
    inode_put(ip)
    return err


# ---------------------------------------------------------------------------------------------- the table

cdef fs_ops _table
cdef fs_ops _shared_table           # file locks are the cluster's


cdef void do_destroy(void* p) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    if fs.shutdown != NULL:
        fs.shutdown(fs)


cdef void do_attach(void* p, unpark_fn unpark, void* arg) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    fz_attach(fs.sd, unpark, arg)
    if fs.sd.gls != NULL:
        fs.sd.gls.unpark_arg = arg
        fs.sd.gls.unpark = unpark
        filelocks_attach(fs, unpark, arg)


cdef void do_attach_kernel(void* p, const fs_kernel* kernel) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    fs.sd.gls.kernel = kernel[0]
    if not kernel.direct_drops:
        fs.open_flags = fs.write_flags
    gl_atomic_store32(&fs.sd.gls.has_kernel, True)


cdef void do_parked_done(void* p, uint64_t unique) noexcept nogil:
    cdef gfs2_fs* fs = <gfs2_fs*>p
    fz_forget(fs.sd, unique)
    glock_done(fs.sd.gls, unique)
    shield_forget(&fs.shields, unique)


cdef void _fill_table() noexcept nogil:
    memset(&_table, 0, sizeof(_table))
    _table.destroy = do_destroy
    _table.attach = do_attach
    _table.parked_done = do_parked_done
    _table.lookup = do_lookup
    _table.forget = do_forget
    _table.getattr = do_getattr
    _table.setattr = do_setattr
    _table.readlink = do_readlink
    _table.mknod = do_mknod
    _table.mkdir = do_mkdir
    _table.symlink = do_symlink
    _table.unlink = do_unlink
    _table.rmdir = do_rmdir
    _table.rename = do_rename
    _table.link = do_link
    _table.create = do_create
    _table.tmpfile = do_tmpfile
    _table.readdir = do_readdir
    _table.setxattr = do_setxattr
    _table.getxattr = do_getxattr
    _table.listxattr = do_listxattr
    _table.removexattr = do_removexattr
    fsio_fill(&_table)
    freeze_fill(&_table)


cdef const fs_ops* gfs2_fs_ops(bint shared) noexcept nogil:
    return &_shared_table if shared else &_table


_fill_table()
_shared_table = _table
_shared_table.attach_kernel = do_attach_kernel
filelocks_fill(&_shared_table)
