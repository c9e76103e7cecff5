"""The inode cache and the dinode's image in memory.

An inode in memory is a mirror of its dinode block, true under its glock. Unreferenced inodes stay on an LRU up to a
limit and can be dropped at any moment: everything they say stands in the dinode's buffer. Dirty data, an ordered list,
an open file hold references.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from gfs2py.engine._cache cimport buf_put, buf_read, meta_read
from gfs2py.engine._glock cimport (GL_NOPARK, glock_born, glock_drop, glock_free, glock_idle, glock_init, glock_keep,
                                   glock_leave, glock_settled, glock_slow)
from gfs2py.engine._incore cimport (B_DIRTY, B_PINNED, I_DEAD, I_DYING, I_SYSTEM, I_UNLINKED, I_VALID,
                                    LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_TYPE_INODE, buf, icache, inode, opctx, sbd)
from gfs2py.engine._log cimport trans_add_meta, trans_seq
from gfs2py.engine._observe cimport ob_rdlock, ob_wrlock
from gfs2py.engine._sbd cimport sd_corrupt, sd_dead
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, gl_atomic_add64, gl_atomic_load32,
                                  gl_atomic_load64,
                                  pthread_cond_destroy, pthread_cond_init, pthread_mutex_destroy, pthread_mutex_init,
                                  pthread_mutex_lock, pthread_mutex_unlock, pthread_rwlock_unlock)
from gfs2py.fuse._ops cimport OP_PARK
from gfs2py.fuse._stat cimport WAIT_INODE
from gfs2py.ondisk._ondisk cimport *

cdef extern from "<errno.h>" nogil:
    int EIO, ENOMEM, ESTALE
cdef extern from "<sys/stat.h>" nogil:
    uint32_t S_IFMT, S_IFREG, S_IFDIR, S_IFLNK, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK

cdef enum:
    TABLE_MIN = 1024


# ---------------------------------------------------------------------------------------------- cache

cdef int icache_init(sbd* sd, uint32_t limit) noexcept nogil:
    cdef icache* ic = <icache*>calloc(1, sizeof(icache))
    cdef uint32_t size = TABLE_MIN
    if ic == NULL:
        return -ENOMEM
    while size < limit:
        size *= 2
    ic.table = <inode**>calloc(size, sizeof(void*))
    if ic.table == NULL:
        free(ic)
        return -ENOMEM
    ic.mask = size - 1
    ic.limit = limit
    pthread_mutex_init(&ic.lock, NULL)
    dl_init(&ic.lru, NULL)
    dl_init(&ic.dying, NULL)
    sd.ic = ic
    return 0


cdef inline inode** _slot(icache* ic, uint64_t addr) noexcept nogil:
    return &ic.table[(addr * <uint64_t>0x9E3779B97F4A7C15 >> 32) & ic.mask]


cdef void _destroy(sbd* sd, inode* ip) noexcept nogil:
    if sd.inode_evict != NULL:
        sd.inode_evict(sd, ip)
    glock_free(&ip.gl)
    pthread_mutex_destroy(&ip.dlock)
    pthread_cond_destroy(&ip.dcond)
    free(ip.hash_cache)
    free(ip)


cdef void icache_destroy(sbd* sd) noexcept nogil:
    cdef icache* ic = sd.ic
    cdef inode* ip
    cdef uint32_t i
    if ic == NULL:
        return
    for i in range(ic.mask + 1):
        while ic.table[i] != NULL:
            ip = ic.table[i]
            ic.table[i] = ip.hnext
            _destroy(sd, ip)
    while not dl_empty(&ic.dying):
        ip = <inode*>ic.dying.next.owner
        dl_del(&ip.lru)
        _destroy(sd, ip)
    pthread_mutex_destroy(&ic.lock)
    free(ic.table)
    free(ic)
    sd.ic = NULL


cdef inode* _find(icache* ic, uint64_t addr) noexcept nogil:
    cdef inode* ip = _slot(ic, addr)[0]
    while ip != NULL and ip.no_addr != addr:
        ip = ip.hnext
    return ip


cdef void _unhash(icache* ic, inode* ip) noexcept nogil:
    cdef inode** p = _slot(ic, ip.no_addr)
    while p[0] != ip:
        p = &p[0].hnext
    p[0] = ip.hnext
    ic.count -= 1


cdef inode* _new(sbd* sd, uint64_t addr) noexcept nogil:
    cdef inode* ip = <inode*>calloc(1, sizeof(inode))
    if ip == NULL:
        return NULL
    ip.no_addr = addr
    ip.sd = sd
    if glock_init(sd, &ip.gl, LM_TYPE_INODE, addr, ip):
        free(ip)
        return NULL
    pthread_mutex_init(&ip.dlock, NULL)
    pthread_cond_init(&ip.dcond, NULL)
    dl_init(&ip.lru, ip)
    dl_init(&ip.dirty, ip)
    dl_init(&ip.ordered, ip)
    dl_init(&ip.rs_link, ip)
    return ip


cdef inode* _evict(icache* ic) noexcept nogil:
    """The inode that was not used for the longest time, if it can be freed. One whose glock is held lets that go first
    and gets its turn again (ic.lock held)."""
    cdef inode* victim = <inode*>ic.lru.next.owner
    dl_del(&victim.lru)
    if victim.gl.x != NULL and not glock_idle(&victim.gl):
        glock_drop(&victim.gl)
        dl_add_tail(&ic.lru, &victim.lru)
        return NULL
    _unhash(ic, victim)
    return victim


cdef inode* _retired(icache* ic, inode* ip) noexcept nogil:
    """An inode that is cut loose and that nobody uses: itself if it may be freed, else it dies when its glock has been
    let go (ic.lock held)."""
    if ip.gl.x == NULL or glock_idle(&ip.gl):
        return ip
    ip.iflags |= I_DYING
    dl_add_tail(&ic.dying, &ip.lru)
    glock_drop(&ip.gl)
    return NULL


cdef void inode_let_go(inode* ip) noexcept nogil:
    cdef sbd* sd = ip.sd
    cdef icache* ic = sd.ic
    cdef bint dead
    pthread_mutex_lock(&ic.lock)
    glock_settled(ip.gl.x)
    dead = ip.iflags & I_DYING and ip.refs == 0 and glock_idle(&ip.gl)
    if dead:
        dl_del(&ip.lru)
    pthread_mutex_unlock(&ic.lock)
    if dead:
        _destroy(sd, ip)


cdef int inode_get(sbd* sd, uint64_t addr, inode** out) noexcept nogil:
    cdef icache* ic = sd.ic
    cdef inode* ip
    cdef inode* victim = NULL
    cdef inode** slot
    pthread_mutex_lock(&ic.lock)
    ip = _find(ic, addr)
    if ip == NULL:
        ip = _new(sd, addr)
        if ip == NULL:
            pthread_mutex_unlock(&ic.lock)
            return -ENOMEM
        slot = _slot(ic, addr)
        ip.hnext = slot[0]
        slot[0] = ip
        ic.count += 1
        if ic.count > ic.limit and not dl_empty(&ic.lru):
            victim = _evict(ic)
    elif ip.refs == 0:
        dl_del(&ip.lru)
    ip.refs += 1
    pthread_mutex_unlock(&ic.lock)
    if victim != NULL:
        _destroy(sd, victim)
    out[0] = ip
    return 0


cdef int inode_fresh(sbd* sd, uint64_t addr, inode** out) noexcept nogil:
    cdef icache* ic = sd.ic
    cdef inode* old
    cdef int err
    pthread_mutex_lock(&ic.lock)
    old = _find(ic, addr)
    if old != NULL:
        _unhash(ic, old)
        if old.refs == 0:
            dl_del(&old.lru)
            old.iflags |= I_DEAD
            old = _retired(ic, old)
        else:
            old.unhashed = True
            old.iflags |= I_DEAD
            old = NULL
    pthread_mutex_unlock(&ic.lock)
    if old != NULL:
        _destroy(sd, old)
    err = inode_get(sd, addr, out)
    if err == 0:
        glock_born(&out[0].gl)
    return err


cdef inode* inode_peek(sbd* sd, uint64_t addr) noexcept nogil:
    cdef icache* ic = sd.ic
    cdef inode* ip
    pthread_mutex_lock(&ic.lock)
    ip = _find(ic, addr)
    if ip != NULL:
        if ip.refs == 0:
            dl_del(&ip.lru)
        ip.refs += 1
    pthread_mutex_unlock(&ic.lock)
    return ip


cdef void inode_hold(inode* ip) noexcept nogil:
    pthread_mutex_lock(&ip.sd.ic.lock)
    ip.refs += 1
    pthread_mutex_unlock(&ip.sd.ic.lock)


cdef void inode_put(inode* ip) noexcept nogil:
    cdef sbd* sd
    cdef icache* ic
    cdef inode* victim = NULL
    if ip == NULL:
        return
    sd = ip.sd
    ic = sd.ic
    pthread_mutex_lock(&ic.lock)
    ip.refs -= 1
    if ip.refs == 0:
        if ip.unhashed:
            victim = _retired(ic, ip)
        elif ip.iflags & I_DEAD or (ic.count > ic.limit and ip.gl.x == NULL):
            _unhash(ic, ip)
            victim = _retired(ic, ip)
        else:
            dl_add_tail(&ic.lru, &ip.lru)
    pthread_mutex_unlock(&ic.lock)
    if victim != NULL:
        _destroy(sd, victim)


cdef void icache_drop(sbd* sd, inode* ip) noexcept nogil:
    """What memory says of ip is void (the caller holds its glock EX): the next lock reads the dinode again."""
    pthread_mutex_lock(&ip.dlock)
    ip.iflags &= ~<uint32_t>I_VALID
    ip.ext.len = 0
    free(ip.hash_cache)
    ip.hash_cache = NULL
    pthread_mutex_unlock(&ip.dlock)


cdef void icache_forget(sbd* sd, inode* only) noexcept nogil:
    cdef icache* ic = sd.ic
    cdef inode* ip
    cdef uint32_t i
    pthread_mutex_lock(&ic.lock)
    for i in range(ic.mask + 1):
        ip = ic.table[i]
        while ip != NULL:
            if only == NULL or only == ip:
                icache_drop(sd, ip)
                ip.gl.since = gl_atomic_add64(<int64_t*>&sd.epoch, 1)
            ip = ip.hnext
    pthread_mutex_unlock(&ic.lock)


# ---------------------------------------------------------------------------------------------- glock

cdef int _still_dinode(opctx* cx, inode* ip) noexcept nogil:
    """-ESTALE when another node has freed the dinode since its number was found, and something else is there now.

    What our kernel knows no other node frees: there it is damage, and so it is when inode_damaged's caller has proof.
    """
    cdef buf* b = NULL
    cdef gfs2_dinode* di
    cdef int err = buf_read(cx.sd, &ip.gl, ip.no_addr, &b)
    if err:
        return err
    di = <gfs2_dinode*>b.data
    if be32toh(di.di_header.mh_magic) != GFS2_MAGIC:
        err = _no_dinode(cx, ip, b"mh_magic", GFS2_MAGIC, be32toh(di.di_header.mh_magic))
    elif be32toh(di.di_header.mh_type) != GFS2_METATYPE_DI:
        err = _no_dinode(cx, ip, b"mh_type", GFS2_METATYPE_DI, be32toh(di.di_header.mh_type))
    elif be64toh(di.di_num.no_addr) != ip.no_addr:
        err = _no_dinode(cx, ip, b"di_num.no_addr", ip.no_addr, be64toh(di.di_num.no_addr))
    buf_put(cx.sd, b)
    return err


cdef int _no_dinode(opctx* cx, const inode* ip, const char* field, uint64_t wanted, uint64_t found) noexcept nogil:
    cx.no_dinode = ip.no_addr
    cx.no_dinode_field = field
    cx.no_dinode_wanted = wanted
    cx.no_dinode_found = found
    if ip.no_addr == cx.sd.root_addr or cx.sd.gls.known(cx.sd, ip.no_addr):
        return inode_damaged(cx)
    return -ESTALE


cdef int inode_damaged(opctx* cx) noexcept nogil:
    return sd_corrupt(cx.sd, cx.no_dinode, b"dinode", cx.no_dinode_field, cx.no_dinode_wanted, cx.no_dinode_found)


cdef int _instantiate(opctx* cx, inode* ip) noexcept nogil:
    """Reads the dinode; sharers that arrive together do it once."""
    cdef buf* b = NULL
    cdef int err = 0
    pthread_mutex_lock(&ip.dlock)
    if not (ip.iflags & I_VALID):
        if ip.gl.x != NULL and not (ip.iflags & I_SYSTEM):
            err = _still_dinode(cx, ip)
            if err:
                pthread_mutex_unlock(&ip.dlock)
                return err
        err = meta_read(cx.sd, &ip.gl, ip.no_addr, GFS2_METATYPE_DI, &b)
        if err == 0:
            err = dinode_in(ip, b)
            if err == 0 and b.flags & (B_PINNED | B_DIRTY) and cx.sd.log != NULL:
                # Its last change may not be durable yet, and what memory knew of that went with the inode that was
                # evicted: an fsync must wait for everything up to now.
                ip.meta_seq = gl_atomic_load64(&cx.sd.log.sequence)
                ip.data_seq = ip.meta_seq
            buf_put(cx.sd, b)
        if err == 0:
            ip.iflags |= I_VALID | (I_UNLINKED if ip.nlink == 0 else 0)
    pthread_mutex_unlock(&ip.dlock)
    return err


cdef int inode_lock(opctx* cx, inode* ip, int mode) noexcept nogil:
    cdef int err = 0
    if mode == LM_ST_EXCLUSIVE:
        ob_wrlock(&cx.sd.ob, &ip.gl.rw, WAIT_INODE, ip.no_addr)
    else:
        ob_rdlock(&cx.sd.ob, &ip.gl.rw, WAIT_INODE, ip.no_addr)
    if ip.gl.x != NULL:
        if gl_atomic_load32(&ip.gl.avail) < mode:
            pthread_rwlock_unlock(&ip.gl.rw)
            err = glock_slow(cx, &ip.gl, mode, cx.gl_flags | (GL_NOPARK if ip.iflags & I_SYSTEM else 0))
            if err:
                return err
    if ip.iflags & I_DEAD:
        err = -ESTALE
    elif sd_dead(cx.sd):
        err = -EIO
    elif not (ip.iflags & I_VALID):
        err = _instantiate(cx, ip)
    if (err == 0 and mode == LM_ST_EXCLUSIVE and ip.diskflags & GFS2_DIF_TRUNC_IN_PROG
            and cx.sd.truncate_resume != NULL and cx.sd.log != NULL and cx.sd.log.live):
        err = cx.sd.truncate_resume(cx, ip)
    if err:
        inode_unlock(cx, ip)
    return err


cdef void inode_unlock(opctx* cx, inode* ip) noexcept nogil:
    if ip.gl.x != NULL:
        glock_leave(cx, &ip.gl)
    else:
        pthread_rwlock_unlock(&ip.gl.rw)


cdef int _sorted_unique(inode** ips, int n, inode** out) noexcept nogil:
    cdef int i, j, k
    cdef int m = 0
    for i in range(n):
        k = m
        while k > 0 and out[k - 1].no_addr > ips[i].no_addr:
            k -= 1
        if k > 0 and out[k - 1] == ips[i]:
            continue
        m += 1
        for j in range(m - 1, k, -1):
            out[j] = out[j - 1]
        out[k] = ips[i]
    return m


cdef int inodes_lock(opctx* cx, inode** ips, int n) noexcept nogil:
    cdef inode* order[8]
    cdef int m = _sorted_unique(ips, n, order)
    cdef int i, err
    for i in range(m):
        err = inode_lock(cx, order[i], LM_ST_EXCLUSIVE)
        if err:
            while i > 0:
                i -= 1
                if err == OP_PARK:
                    # Else two operations could take each other's locks away for ever.
                    glock_keep(cx, &order[i].gl)
                inode_unlock(cx, order[i])
            return err
    return 0


cdef void inodes_unlock(opctx* cx, inode** ips, int n) noexcept nogil:
    cdef inode* order[8]
    cdef int m = _sorted_unique(ips, n, order)
    cdef int i
    for i in range(m):
        inode_unlock(cx, order[i])


# ---------------------------------------------------------------------------------------------- the dinode

cdef int inode_buf(opctx* cx, inode* ip, buf** out) noexcept nogil:
    return meta_read(cx.sd, &ip.gl, ip.no_addr, GFS2_METATYPE_DI, out)


cdef int _check_shape(inode* ip, uint64_t addr) noexcept nogil:
    """Fields that later code relies on without looking again."""
    cdef sbd* sd = ip.sd
    cdef uint32_t kind = ip.mode & S_IFMT
    cdef bint isdir = kind == S_IFDIR
    cdef uint32_t max_h = sd.max_jheight if isdir else sd.max_height
    if (kind != S_IFREG and not isdir and kind != S_IFLNK and kind != S_IFBLK and kind != S_IFCHR
            and kind != S_IFIFO and kind != S_IFSOCK):
        return sd_corrupt(sd, addr, b"dinode", b"di_mode", S_IFREG, ip.mode)
    if ip.height > max_h:
        return sd_corrupt(sd, addr, b"dinode", b"di_height", max_h, ip.height)
    if ip.depth > GFS2_DIR_MAX_DEPTH:
        return sd_corrupt(sd, addr, b"dinode", b"di_depth", GFS2_DIR_MAX_DEPTH, ip.depth)
    if ip.size >> 63:
        return sd_corrupt(sd, addr, b"dinode", b"di_size", <uint64_t>1 << 62, ip.size)
    if ip.height == 0 and ip.size > sd.bsize - sizeof(gfs2_dinode) and kind != S_IFBLK and kind != S_IFCHR:
        return sd_corrupt(sd, addr, b"dinode", b"di_size", sd.bsize - sizeof(gfs2_dinode), ip.size)
    if isdir and ip.diskflags & GFS2_DIF_EXHASH:
        if ip.size != <uint64_t>8 << ip.depth:
            return sd_corrupt(sd, addr, b"dinode", b"di_size", <uint64_t>8 << ip.depth, ip.size)
    elif isdir and ip.height != 0:
        return sd_corrupt(sd, addr, b"dinode", b"di_height", 0, ip.height)
    if ip.eattr >= sd.fs_blocks:
        return sd_corrupt(sd, addr, b"dinode", b"di_eattr", sd.fs_blocks - 1, ip.eattr)
    if ip.blocks > sd.fs_blocks:
        return sd_corrupt(sd, addr, b"dinode", b"di_blocks", sd.fs_blocks, ip.blocks)
    return 0


cdef int dinode_in(inode* ip, buf* b) noexcept nogil:
    cdef gfs2_dinode* di = <gfs2_dinode*>b.data
    if be64toh(di.di_num.no_addr) != ip.no_addr:
        return sd_corrupt(ip.sd, b.blkno, b"dinode", b"di_num.no_addr", ip.no_addr, be64toh(di.di_num.no_addr))
    ip.no_formal_ino = be64toh(di.di_num.no_formal_ino)
    ip.mode = be32toh(di.di_mode)
    ip.uid = be32toh(di.di_uid)
    ip.gid = be32toh(di.di_gid)
    ip.nlink = be32toh(di.di_nlink)
    ip.size = be64toh(di.di_size)
    ip.blocks = be64toh(di.di_blocks)
    ip.atime = <int64_t>be64toh(di.di_atime)
    ip.mtime = <int64_t>be64toh(di.di_mtime)
    ip.ctime = <int64_t>be64toh(di.di_ctime)
    ip.atime_nsec = be32toh(di.di_atime_nsec)
    ip.mtime_nsec = be32toh(di.di_mtime_nsec)
    ip.ctime_nsec = be32toh(di.di_ctime_nsec)
    ip.major = be32toh(di.di_major)
    ip.minor = be32toh(di.di_minor)
    ip.goal = be64toh(di.di_goal_meta)
    if ip.goal == 0 or ip.goal >= ip.sd.fs_blocks:
        ip.goal = ip.no_addr
    ip.generation = be64toh(di.di_generation)
    ip.diskflags = be32toh(di.di_flags)
    ip.height = be16toh(di.di_height)
    ip.depth = be16toh(di.di_depth)
    ip.entries = be32toh(di.di_entries)
    ip.eattr = be64toh(di.di_eattr)
    ip.ext.len = 0
    return _check_shape(ip, b.blkno)


cdef void dinode_new(inode* ip, buf* b) noexcept nogil:
    cdef gfs2_dinode* di = <gfs2_dinode*>b.data
    di.di_header.mh_magic = htobe32(GFS2_MAGIC)
    di.di_header.mh_type = htobe32(GFS2_METATYPE_DI)
    di.di_header.mh_format = htobe32(GFS2_FORMAT_DI)
    di.di_num.no_addr = htobe64(ip.no_addr)
    di.di_num.no_formal_ino = htobe64(ip.no_formal_ino)


cdef void dinode_out(inode* ip, buf* b) noexcept nogil:
    cdef gfs2_dinode* di = <gfs2_dinode*>b.data
    di.di_mode = htobe32(ip.mode)
    di.di_uid = htobe32(ip.uid)
    di.di_gid = htobe32(ip.gid)
    di.di_nlink = htobe32(ip.nlink)
    di.di_size = htobe64(ip.size)
    di.di_blocks = htobe64(ip.blocks)
    di.di_atime = htobe64(<uint64_t>ip.atime)
    di.di_mtime = htobe64(<uint64_t>ip.mtime)
    di.di_ctime = htobe64(<uint64_t>ip.ctime)
    di.di_atime_nsec = htobe32(ip.atime_nsec)
    di.di_mtime_nsec = htobe32(ip.mtime_nsec)
    di.di_ctime_nsec = htobe32(ip.ctime_nsec)
    di.di_major = htobe32(ip.major)
    di.di_minor = htobe32(ip.minor)
    di.di_goal_meta = htobe64(ip.goal)
    di.di_goal_data = htobe64(ip.goal)
    di.di_generation = htobe64(ip.generation)
    di.di_flags = htobe32(ip.diskflags)
    di.di_height = htobe16(ip.height)
    di.di_depth = htobe16(ip.depth)
    di.di_entries = htobe32(ip.entries)
    di.di_eattr = htobe64(ip.eattr)
    # Directories say what their payload is: dirents, unless they are hashed (then the dinode's flag says it).
    di.di_payload_format = htobe32(GFS2_FORMAT_DE if (ip.mode & S_IFMT) == S_IFDIR
                                   and not (ip.diskflags & GFS2_DIF_EXHASH) else 0)


cdef int inode_dirty(opctx* cx, inode* ip) noexcept nogil:
    cdef buf* b = NULL
    cdef int err = inode_buf(cx, ip, &b)
    if err:
        return err
    trans_add_meta(cx, b)
    dinode_out(ip, b)
    ip.meta_seq = trans_seq(cx)
    buf_put(cx.sd, b)
    return 0


cdef void inode_touch(opctx* cx, inode* ip, bint mtime, bint ctime) noexcept nogil:
    if mtime:
        ip.mtime = cx.now_sec
        ip.mtime_nsec = cx.now_nsec
    if ctime:
        ip.ctime = cx.now_sec
        ip.ctime_nsec = cx.now_nsec
