"""Mounting and unmounting: superblock, system files, recovery of journals, going live, going away.

Order of a mount: superblock; master directory, jindex, journals (read as they are); recovery of every journal as the
first mounter; then all that was read is forgotten and read again, for replay may have changed it; rindex, statfs,
quota; the log; threads. Source of behaviour: fs/gfs2/ops_fstype.c.
"""
from libc.errno cimport EAGAIN, EINVAL, EIO, ENOENT, ENOMEM, EROFS, EUSERS
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strlen

from gfs2py.block._device cimport BlockDevice, dev_alloc, dev_free
from gfs2py.engine._cache cimport cache_destroy, cache_init
from gfs2py.engine._data cimport data_write_many, data_writeback
from gfs2py.engine._dealloc cimport fs_dealloc
from gfs2py.engine._dir cimport dir_found, dir_search
from gfs2py.engine._flock cimport flocks_destroy, flocks_init
from gfs2py.engine._freeze cimport fz_destroy, fz_init, fz_settle, fz_shutdown
from gfs2py.engine._fs cimport FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, gfs2_fs, gfs2_fs_ops
from gfs2py.engine._gls cimport gls_init, gls_release_all
from gfs2py.engine._glock cimport (GL_NOEXP, GL_TRY, glock_enter, glock_free, glock_init, glock_leave, glock_pin,
                                   gls_destroy, gls_start, gls_stop, glx, gwaiter)
from gfs2py.engine._glops cimport glop_go, glop_gone, glop_poke
from gfs2py.engine._incore cimport *
from gfs2py.engine._inode cimport (icache_destroy, icache_forget, icache_init, inode_get, inode_hold, inode_lock,
                                   inode_put, inode_unlock)
from gfs2py.engine._iopen cimport iopen_forgotten, iopens_destroy, iopens_init
from gfs2py.engine._levels cimport levels
from gfs2py.engine._lockmanager cimport LockManager
from gfs2py.engine._log cimport log_destroy, log_init, log_shutdown, log_start, log_stop
from gfs2py.engine._names cimport names_destroy, names_init
from gfs2py.engine._nodes cimport (node_delete_again, node_known, node_want, nodes_destroy, nodes_drain,
                                   nodes_forget_all, nodes_init, nodes_start, nodes_stop)
from gfs2py.engine._observe cimport ob_attach, ob_background, ob_detach, ob_latencies
from gfs2py.engine._plock cimport FileLocks
from gfs2py.engine._quota cimport quota_destroy, quota_init, quota_sync
from gfs2py.engine._quotad cimport quotad_reclaim, quotad_start, quotad_stop
from gfs2py.engine._recovery cimport (jdesc, jhead, jhead_find, journal_close, journal_open, journal_recover, jstats)
from gfs2py.engine._retire cimport log_retire
from gfs2py.engine._rgrp cimport rgrps_after_commit, rgrps_at_switch, rgrps_destroy, rgrps_read, rs_drop
from gfs2py.engine._sbd cimport ctx_init, sd_assert_failed, sd_dead, sd_set_geometry
from gfs2py.engine._shield cimport shields_destroy, shields_init
from gfs2py.engine._statfs cimport statfs_at_switch, statfs_destroy, statfs_get, statfs_init, statfs_sync
from gfs2py.engine._sync cimport (dl_init, dlink, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from gfs2py.engine._truncate cimport truncate_resume
from gfs2py.ondisk._ondisk cimport *

import os

from gfs2py.errors import CorruptionError, MountError

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    NOLOCK_VALID_S = 86400 * 365    # nobody else changes the disk: the kernel may believe us for long
    CACHE_DEFAULT = 256 << 20
    INODES_DEFAULT = 65536
    JOURNALS_MAX = 10000

FLAGS = {
    "rdonly": SDF_RDONLY, "writeback": SDF_WRITEBACK, "quota_account": SDF_QUOTA_ACCOUNT,
    "quota_enforce": SDF_QUOTA_ENFORCE, "quota_quiet": SDF_QUOTA_QUIET, "acl": SDF_ACL, "nobarrier": SDF_NOBARRIER,
    "discard": SDF_DISCARD, "noatime": SDF_NOATIME, "nodiratime": SDF_NODIRATIME, "relatime": SDF_RELATIME,
    "spectator": SDF_SPECTATOR, "errors_panic": SDF_ERRORS_PANIC, "debug": SDF_DEBUG, "suiddir": SDF_SUIDDIR,
}


# ---------------------------------------------------------------------------------------------- hooks

cdef void _at_switch(sbd* sd, opctx* cx) noexcept nogil:
    statfs_at_switch(sd, cx)
    rgrps_at_switch(sd)


cdef void _reclaim(opctx* cx, rgrpd* rgd) noexcept nogil:
    quotad_reclaim(&(<mounted*>cx.sd.mnt).q, cx, rgd)


cdef bint _nobody(sbd* sd, uint64_t addr) noexcept nogil:
    return False                    # not mounted yet


cdef void _not_yet(sbd* sd, uint64_t addr) noexcept nogil:
    pass


cdef bint _known(sbd* sd, uint64_t addr) noexcept nogil:
    return node_known(&(<mounted*>sd.mnt).f.nd, addr)


cdef void _wanted(sbd* sd, uint64_t addr) noexcept nogil:
    """Another node wants to delete what our kernel knows: tried here until the kernel has let go of it."""
    node_want(&(<mounted*>sd.mnt).f.nd, addr)
    node_delete_again(&(<mounted*>sd.mnt).f.nd, addr)


cdef void _delete_again(sbd* sd, uint64_t addr) noexcept nogil:
    node_delete_again(&(<mounted*>sd.mnt).f.nd, addr)


cdef void _put_inode(inode** p) noexcept nogil:
    if p[0] != NULL:
        inode_put(p[0])
        p[0] = NULL


cdef void _put_system(sbd* sd) noexcept nogil:
    _put_inode(&sd.master)
    _put_inode(&sd.jindex)
    _put_inode(&sd.rindex)
    _put_inode(&sd.statfs_ip)
    _put_inode(&sd.quota_ip)
    _put_inode(&sd.sc_ip)
    _put_inode(&sd.qc_ip)


cdef int _shutdown(gfs2_fs* f) noexcept nogil:
    """Everything to disk and the journal clean; afterwards only freeing is left. Idempotent."""
    cdef mounted* m = <mounted*>f.sd.mnt
    cdef sbd* sd = f.sd
    cdef opctx cx
    cdef int err = 0
    cdef bint frozen
    if m.shut:
        return 0
    m.shut = True
    frozen = fz_settle(sd)
    quotad_stop(&m.q)
    if frozen and sd.log != NULL and sd.log.live:
        nodes_stop(&f.nd)
        fz_shutdown(sd)
    elif sd.log != NULL and sd.log.live:
        nodes_forget_all(&f.nd)
        nodes_drain(&f.nd)
        ctx_init(&cx, sd, 0, 0)
        if not sd_dead(sd) and sd.flags & SDF_QUOTA_ACCOUNT:
            quota_sync(&cx)
        if not sd_dead(sd):
            statfs_sync(&cx)
        if sd.gls != NULL:
            gls_stop(sd.gls)        # no demotion may commit behind the header that says "clean"
        err = log_shutdown(sd)
        if sd.gls != NULL and err == 0 and not sd_dead(sd):
            gls_release_all(sd.gls)
    nodes_stop(&f.nd)
    return err


# ---------------------------------------------------------------------------------------------- system files

cdef int _find_in(opctx* cx, inode* dip, const char* name, inode** out) noexcept nogil:
    cdef dir_found found
    cdef int err = inode_lock(cx, dip, LM_ST_SHARED)
    if err:
        return err
    err = dir_search(cx, dip, name, <uint32_t>strlen(name), &found)
    inode_unlock(cx, dip)
    if err == 0:
        err = inode_get(cx.sd, found.no_addr, out)
    if err == 0:
        out[0].iflags |= I_SYSTEM
        err = inode_lock(cx, out[0], LM_ST_SHARED)      # reads and checks the dinode
        if err == 0:
            inode_unlock(cx, out[0])
    return err


cdef int _load_per_node(opctx* cx, uint32_t jid) noexcept nogil:
    cdef inode* per_node = NULL
    cdef char name[32]
    cdef int err = _find_in(cx, cx.sd.master, b"per_node", &per_node)
    if err == 0:
        snprintf(name, 32, b"statfs_change%u", jid)
        err = _find_in(cx, per_node, name, &cx.sd.sc_ip)
    if err == 0:
        snprintf(name, 32, b"quota_change%u", jid)
        err = _find_in(cx, per_node, name, &cx.sd.qc_ip)
    if err == 0 and cx.sd.gls != NULL:
        err = _own_exclusive(cx, cx.sd.sc_ip)
        if err == 0:
            err = _own_exclusive(cx, cx.sd.qc_ip)
    _put_inode(&per_node)
    return err


cdef int _read_rindex(opctx* cx) noexcept nogil:
    cdef int err = inode_lock(cx, cx.sd.rindex, LM_ST_SHARED)
    if err == 0:
        err = rgrps_read(cx)
        inode_unlock(cx, cx.sd.rindex)
    return err


cdef int _own_exclusive(opctx* cx, inode* ip) noexcept nogil:
    """A file of this node alone: EX for the life of the mount, for it is changed at every commit."""
    cdef int err = inode_lock(cx, ip, LM_ST_EXCLUSIVE)
    if err == 0:
        glock_pin(&ip.gl)
        inode_unlock(cx, ip)
    return err


cdef class Gfs2(FileSystemHandle):
    """A mounted GFS2.

    locks: the queue to a lock manager that answers (lock_dlm), or None (lock_nolock). first: no other node has it
    mounted; then all journals are recovered, else only our own.

    device: an open BlockDevice, kept open by the caller until close(). flags: names of FLAGS. jid: which journal is
    ours. cache_bytes: the limit of the buffer cache. commit_ms: time between commits; 0: no log daemon, only syncs
    and lack of log space commit. say: called with one line per step of the mount.
    Raises MountError (errno EINVAL, EROFS, EUSERS, ENOENT), CorruptionError (EIO), OSError from the device.
    """

    def __cinit__(self):
        self.m = <mounted*>calloc(1, sizeof(mounted))
        if self.m == NULL:
            raise MemoryError
        self.jid = -1
        self.recovered = []
        fz_init(&self.m.sd)

    def __init__(self, BlockDevice device not None, *, flags=(), int jid=0, bint norecovery=False,
                 cache_bytes=CACHE_DEFAULT, uint32_t inodes=INODES_DEFAULT, uint32_t commit_ms=30000,
                 uint32_t statfs_s=30, uint32_t quota_s=60, lockproto=None, locktable=None, bint quiet=False,
                 bint background=True, say=None, LockManager locks=None, bint first=True):
        cdef sbd* sd = &self.m.sd
        self.device = device
        self.first = first
        self.say = say or (lambda text: None)
        sd.dev = &device.dev
        ob_attach(&sd.ob, sd.dev)
        sd.quiet = quiet
        sd.mnt = self.m
        self.m.f.sd = sd
        for name in flags:
            sd.flags |= <uint32_t>FLAGS[name]
        pthread_mutex_init(&sd.err_lock, NULL)
        pthread_mutex_init(&sd.rg_lock, NULL)
        pthread_mutex_init(&sd.st_lock, NULL)
        pthread_mutex_init(&sd.rename_lock, NULL)
        dl_init(&sd.clone_list, NULL)
        try:
            sd.tell_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if locks is not None:
                self._shared(locks)
            self._read_superblock(lockproto, locktable)
            glock_init(sd, &sd.rename_gl, LM_TYPE_NONDISK, 3, NULL)
            glock_init(sd, &sd.journal_gl, LM_TYPE_JOURNAL, <uint64_t>max(jid, 0), NULL)
            self._caches(cache_bytes, inodes)
            self._find_journals()
            self._choose_journal(jid)
            sd.n_journals = self.journals
            if sd.gls != NULL and not sd.flags & SDF_SPECTATOR:
                self._pin(&sd.journal_gl, f"journal {jid}")
            if not norecovery and not sd.flags & SDF_SPECTATOR:
                self._recover_all()
                if self.recovered:      # what was read before may be older than what the replay wrote
                    self._forget_all(cache_bytes, inodes)
            self._load_system()
            self._go_live(commit_ms, statfs_s, quota_s, background)
        except BaseException:
            self._free()
            raise

    # -- steps of the mount

    cdef _shared(self, LockManager locks):
        cdef sbd* sd = &self.m.sd
        locks.attach(&self.m.locks)
        gls_init(&self.m.locks, sd, locks.ops, locks.lm)
        self.locks = locks
        self.m.locks.go = glop_go
        self.m.locks.gone = glop_gone
        self.m.locks.poke = glop_poke
        self.m.locks.known = _nobody
        self.m.locks.wanted = _not_yet
        sd.gls = &self.m.locks
        if iopens_init(sd) or names_init(sd) or flocks_init(sd):
            raise MemoryError
        self.file_locks = FileLocks()
        self.m.f.plocks = self.file_locks.p
        sd.flags |= SDF_SHARED
        if gls_start(sd.gls):
            raise MemoryError

    cdef _pin(self, glock* gl, what):
        """Takes a glock of the mount itself for good. Waits: a survivor may still look at the journal, and a try that
        is granted while somebody else comes or dies would be given back."""
        cdef opctx cx
        cdef int err
        ctx_init(&cx, &self.m.sd, 0, 0)
        with nogil:
            err = glock_enter(&cx, gl, LM_ST_EXCLUSIVE, GL_NOEXP)
            if err == 0:
                glock_pin(gl)
                glock_leave(&cx, gl)
        self._check(err, what)

    cdef int _find_named(self, inode* dip, bytes name, inode** out) except? -1:
        cdef opctx cx
        cdef const char* p = name
        cdef int err
        ctx_init(&cx, &self.m.sd, 0, 0)
        cx.gl_flags = GL_NOEXP
        with nogil:
            err = _find_in(&cx, dip, p, out)
        return err

    def _read_superblock(self, lockproto, locktable):
        cdef sbd* sd = &self.m.sd
        cdef gfs2_sb sb
        name = (<bytes>sd.dev.name).decode(errors="replace")
        if sd.dev.size_bytes < GFS2_SB_BYTE_ADDR + 4096:
            raise MountError(EINVAL, f"{name} is too small for a GFS2 file system ({sd.dev.size_bytes} bytes)")
        raw = self.device.read(GFS2_SB_BYTE_ADDR, 512)
        memcpy(&sb, <const char*>raw, sizeof(gfs2_sb))
        if be32toh(sb.sb_header.mh_magic) != GFS2_MAGIC or be32toh(sb.sb_header.mh_type) != GFS2_METATYPE_SB:
            raise MountError(EINVAL, f"{name} has no GFS2 superblock (block at byte {GFS2_SB_BYTE_ADDR}): "
                             "not a GFS2 file system")
        fmt = be32toh(sb.sb_fs_format)
        multi = be32toh(sb.sb_multihost_format)
        if not 1801 <= fmt <= 1802 or multi != GFS2_FORMAT_MULTI:
            raise MountError(EINVAL, f"{name}: on-disk format {fmt}, multihost {multi} is not supported "
                             f"(1801 to 1802, {GFS2_FORMAT_MULTI})")
        bsize = be32toh(sb.sb_bsize)
        if sd_set_geometry(sd, bsize) or be32toh(sb.sb_bsize_shift) != sd.bsize_shift:
            raise CorruptionError(EIO, f"{name}: superblock: sb_bsize {bsize}, sb_bsize_shift "
                                  f"{be32toh(sb.sb_bsize_shift)}: no valid block size")
        if sd.dev.align > sd.bsize:
            raise MountError(EINVAL, f"{name}: blocks of {bsize} bytes, but the device's sectors are "
                             f"{sd.dev.align} bytes")
        sd.fs_format = fmt
        sd.fs_blocks = sd.dev.size_bytes >> sd.bsize_shift
        sd.sb_block = GFS2_SB_BYTE_ADDR >> sd.bsize_shift
        sd.master_addr = be64toh(sb.sb_master_dir.no_addr)
        sd.root_addr = be64toh(sb.sb_root_dir.no_addr)
        sd.root_formal = be64toh(sb.sb_root_dir.no_formal_ino)
        for what, addr in (("sb_master_dir", sd.master_addr), ("sb_root_dir", sd.root_addr)):
            if not sd.sb_block < addr < sd.fs_blocks:
                raise CorruptionError(EIO, f"{name}: superblock: {what}.no_addr is {addr}, wanted "
                                      f"{sd.sb_block + 1} to {sd.fs_blocks - 1}")
        memcpy(sd.lockproto, sb.sb_lockproto, 63)
        memcpy(sd.locktable, sb.sb_locktable, 63)
        memcpy(sd.uuid, sb.sb_uuid, 16)
        proto = lockproto if lockproto is not None else (<bytes>sd.lockproto).decode(errors="replace")
        table = locktable if locktable is not None else (<bytes>sd.locktable).decode(errors="replace")
        self.mounted_as = (proto, table)
        if proto != "lock_nolock" and self.locks is None:
            raise MountError(EINVAL, f"{name}: lock protocol {proto!r} is not supported yet; for one node mount it "
                             "with -o lockproto=lock_nolock")
        table_raw = (table or os.path.basename(name)).encode()[:55]
        memcpy(sd.jid_name, <const char*>table_raw, len(table_raw))
        self.say(f"superblock: format {fmt}, block size {bsize}, lock protocol {proto}, table {table!r}")

    cdef _caches(self, cache_bytes, uint32_t inodes):
        cdef sbd* sd = &self.m.sd
        cdef int err = cache_init(sd, cache_bytes)
        if err == 0:
            err = icache_init(sd, inodes)
        if err == 0 and sd.log == NULL:
            err = log_init(sd)
        if err:
            raise MemoryError
        sd.ddirty_limit = max(<int64_t>256, <int64_t>(cache_bytes >> sd.bsize_shift) // 4)
        sd.inode_hold = inode_hold
        sd.inode_put = inode_put
        sd.inode_evict = rs_drop
        sd.data_writeback = data_writeback
        sd.data_write_many = data_write_many

    cdef _check(self, int err, what):
        """Turns a negative errno of the engine into an exception that says what is wrong."""
        cdef sbd* sd = &self.m.sd
        name = (<bytes>sd.dev.name).decode(errors="replace")
        if err >= 0:
            return
        if sd.err_text[0]:
            text = (<bytes>sd.err_text).decode(errors="replace")
            raise CorruptionError(-err, f"{name}: {what}: {text}")
        raise MountError(-err, f"{name}: {what}: {os.strerror(-err)}")

    cdef _find_journals(self):
        """Master directory, jindex, and how many journals there are."""
        cdef sbd* sd = &self.m.sd
        cdef inode* ip = NULL
        cdef int err
        self._check(inode_get(sd, sd.master_addr, &sd.master), "master directory")
        sd.master.iflags |= I_SYSTEM
        self._check(self._find_named(sd.master, b"jindex", &sd.jindex), "jindex")
        n = 0
        sizes = []
        while n < JOURNALS_MAX:
            err = self._find_named(sd.jindex, b"journal%d" % n, &ip)
            if err == 0:
                sizes.append(ip.size)
            _put_inode(&ip)
            if err == -ENOENT:
                break
            self._check(err, f"journal{n}")
            n += 1
        if n == 0:
            addr = sd.jindex.no_addr
            raise CorruptionError(EIO, f"{(<bytes>sd.dev.name).decode(errors='replace')}: damaged block {addr} "
                                  f"({addr:#x}): jindex.journal0 is 0 (0x0), wanted 1 (0x1): it holds no journals")
        self.journals = n
        self.journal_sizes = sizes

    cdef _choose_journal(self, int jid):
        if jid >= self.journals and self.m.sd.gls != NULL:
            raise MountError(EUSERS, f"no journal is free: the file system has {self.journals}, and other nodes have "
                             "taken them (gfs2_jadd adds more)")
        if not 0 <= jid < self.journals:
            raise MountError(EUSERS, f"journal {jid} was asked for, but there are only {self.journals} journals "
                             "(gfs2_jadd adds more)")
        self.jid = jid
        text = (<bytes>self.m.sd.jid_name + b".%d" % jid)[:63]
        memcpy(self.m.sd.jid_name, <const char*>text, len(text))

    cdef uint64_t _addr_of(self, where, name) except 0:
        """The dinode address of a system file: where is 'jindex', 'per_node' or 'master'."""
        cdef sbd* sd = &self.m.sd
        cdef inode* dip = NULL
        cdef inode* ip = NULL
        cdef uint64_t addr = 0
        raw = name.encode()
        if where == "per_node":
            err = self._find_named(sd.master, b"per_node", &dip)
        else:
            dip = sd.jindex if where == "jindex" else sd.master
            inode_hold(dip)
            err = 0
        if err == 0:
            err = self._find_named(dip, raw, &ip)
        if err == 0:
            addr = ip.no_addr
        _put_inode(&ip)
        _put_inode(&dip)
        self._check(err, name)
        return addr

    cdef _recover_all(self):
        """As the first mounter: every journal that is not clean is replayed."""
        cdef sbd* sd = &self.m.sd
        cdef uint64_t master = self._addr_of("master", "statfs")
        for jid in range(self.journals) if self.first or sd.gls == NULL else [self.jid]:
            self._recover_one(jid, master, self._addr_of("jindex", f"journal{jid}"),
                              self._addr_of("per_node", f"statfs_change{jid}"))

    cdef _recover_one(self, int jid, uint64_t master, uint64_t addr, uint64_t local):
        cdef sbd* sd = &self.m.sd
        cdef jdesc jd
        cdef jhead head
        cdef jstats st
        cdef opctx cx
        cdef inode* ip = NULL
        cdef int err
        memset(&jd, 0, sizeof(jd))
        memset(&st, 0, sizeof(st))
        ctx_init(&cx, sd, 0, 0)
        with nogil:
            err = journal_open(&jd, sd.dev, sd.bsize, sd.fs_blocks, addr)
            if err == 0:
                err = jhead_find(&jd, &head)
        try:
            self._journal_check(err, jid, &jd)
            if head.flags & GFS2_LOG_HEAD_UNMOUNT:
                if jid == self.jid:
                    self.own_jd = jd
                    self.own_head = head
                    self.own_clean = True
                    jd.ext = NULL
                return
            if sd.dev.flags & 1:
                raise MountError(EROFS, f"journal {jid} must be replayed, but the device is read-only "
                                 "(mount it writable once, or use -o norecovery)")
            self.replaying_jid = jid
            self.replaying = &st
            self.say(f"jid={jid}: Trying to acquire journal lock...")
            self.say(f"jid={jid}: Looking at journal...")
            # Replay writes behind the cache's back, and adds to the master statfs file, which others change, too.
            self._check(inode_get(sd, master, &ip), "statfs")
            ip.iflags |= I_SYSTEM
            cx.gl_flags = GL_NOEXP
            with nogil:
                err = inode_lock(&cx, ip, LM_ST_EXCLUSIVE) if sd.gls != NULL else 0
                if err == 0 and sd.gls != NULL:
                    err = log_retire(sd, ip.gl.x.dirty_seq, True)
                if err == 0:
                    err = journal_recover(&jd, &head, &st, master, local, <uint32_t>self.jid, cx.now_sec, cx.now_nsec)
                    if sd.gls != NULL:
                        icache_forget(sd, ip)
                        inode_unlock(&cx, ip)
                inode_put(ip)
            self._journal_check(err, jid, &jd)
            self.recovered.append({"jid": jid, "log_blocks": st.log_blocks, "replayed": st.replayed,
                                   "revoked": st.revoked, "read_ns": st.read_ns, "write_ns": st.write_ns})
            self.say(f"jid={jid}: Replayed {st.replayed} of {st.found_meta + st.found_data} blocks, "
                     f"{st.revoked} revoked")
            self.say(f"jid={jid}: Done")
        finally:
            self.replaying = NULL
            journal_close(&jd)

    cdef _journal_check(self, int err, int jid, jdesc* jd):
        if err == 0:
            return
        name = (<bytes>self.m.sd.dev.name).decode(errors="replace")
        if jd.err.structure != NULL:
            structure = (<bytes>jd.err.structure).decode()
            field = (<bytes>jd.err.field).decode() if jd.err.field != NULL else "?"
            raise CorruptionError(-err, f"{name}: journal {jid}: damaged block {jd.err.block} ({jd.err.block:#x}): "
                                  f"{structure}.{field} is {jd.err.found} ({jd.err.found:#x}), wanted "
                                  f"{jd.err.wanted} ({jd.err.wanted:#x})")
        raise MountError(-err, f"{name}: journal {jid}: {os.strerror(-err)}")

    cdef _forget_all(self, cache_bytes, uint32_t inodes):
        cdef sbd* sd = &self.m.sd
        _put_system(sd)
        if sd.gls != NULL:
            icache_forget(sd, NULL)
            self._find_journals()
            return
        icache_destroy(sd)
        cache_destroy(sd)
        self._caches(cache_bytes, inodes)
        self._find_journals()

    cdef _load_system(self):
        cdef sbd* sd = &self.m.sd
        cdef opctx cx
        cdef uint32_t jid = <uint32_t>self.jid
        cdef int err = 0
        ctx_init(&cx, sd, 0, 0)
        self._check(self._find_named(sd.master, b"rindex", &sd.rindex), "rindex")
        self._check(self._find_named(sd.master, b"statfs", &sd.statfs_ip), "statfs")
        self._check(self._find_named(sd.master, b"quota", &sd.quota_ip), "quota")
        if not sd.flags & SDF_SPECTATOR:
            with nogil:
                err = _load_per_node(&cx, jid)
            self._check(err, "per_node")
        with nogil:
            err = _read_rindex(&cx)
        self._check(err, "rindex")
        with nogil:
            err = statfs_init(&cx)
        self._check(err, "statfs")

    cdef _open_journal(self):
        """Our journal's map and head into the log."""
        cdef sbd* sd = &self.m.sd
        cdef jdesc jd
        cdef jhead head
        cdef int err
        addr = self._addr_of("jindex", f"journal{self.jid}")
        memset(&jd, 0, sizeof(jd))
        try:
            if self.own_clean:
                jd = self.own_jd        # found when it was looked at, and clean: still so
                head = self.own_head
                self.own_jd.ext = NULL
            else:
                self._journal_check(journal_open(&jd, sd.dev, sd.bsize, sd.fs_blocks, addr), self.jid, &jd)
                self._journal_check(jhead_find(&jd, &head), self.jid, &jd)
            sd.log.ext = jd.ext
            sd.log.n_ext = jd.n_ext
            sd.log.nblocks = jd.nblocks
            jd.ext = NULL
            jd.n_ext = 0
        finally:
            journal_close(&jd)
        sd.log.jinode = addr
        sd.log.jid = self.jid
        sd.log.head = (head.blkno + 1) % sd.log.nblocks
        sd.log.sequence = head.sequence + 1

    cdef _go_live(self, uint32_t commit_ms, uint32_t statfs_s, uint32_t quota_s, bint background):
        cdef sbd* sd = &self.m.sd
        cdef gfs2_fs* f = &self.m.f
        cdef opctx cx
        cdef int err
        sd.at_switch = _at_switch
        sd.after_commit = rgrps_after_commit
        sd.truncate_resume = truncate_resume
        if sd.gls == NULL:
            sd.reclaim = _reclaim
        f.shutdown = _shutdown
        shields_init(&f.shields)
        f.entry_ns = <uint64_t>NOLOCK_VALID_S * 1000000000
        f.attr_ns = f.entry_ns
        f.open_flags = FOPEN_KEEP_CACHE
        f.write_flags = FOPEN_KEEP_CACHE
        f.dir_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR
        if sd.gls != NULL:
            # Attributes and pages stay in the kernel as long as the glock does (_kcache); names and listings do not.
            f.entry_ns = 0
            f.write_flags = FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO
            f.dir_flags = 0
        if nodes_init(&f.nd, sd, fs_dealloc):
            raise MemoryError
        if sd.gls != NULL:
            f.nd.forgotten = iopen_forgotten
            sd.gls.known = _known
            sd.gls.wanted = _wanted
            sd.delete_again = _delete_again
        if sd.flags & SDF_SPECTATOR:
            sd.flags |= SDF_RDONLY
        if not sd.flags & SDF_RDONLY:
            self._open_journal()
            sd.log.commit_ms = commit_ms
            self._check(log_start(sd), "starting the log")
            self.was_live = True
            ctx_init(&cx, sd, 0, 0)
            with nogil:
                err = quota_init(&cx)
            self._check(err, "quota")
            if nodes_start(&f.nd):
                raise MemoryError
            self.m.q.statfs_s = statfs_s
            self.m.q.quota_s = quota_s
            # Also after a clean unmount: it may have been a replay by the kernel or read-only, which reclaim nothing.
            # Among nodes what is unlinked may be open elsewhere: only whoever is alone looks.
            self.m.q.scan_unlinked = sd.gls == NULL or self.first
            self.m.q.fs = f
            if background and quotad_start(&self.m.q, f):
                raise MemoryError
        self.ops = gfs2_fs_ops(sd.gls != NULL)
        self.fs = f
        self.say(f"mounted with jid={self.jid}, {self.journals} journals, {sd.n_rgrps} resource groups")

    # -- the rest of its life

    cdef bint enter(self):
        if self.m == NULL or self.closing or self.fs == NULL:
            return False
        self.users += 1
        return True

    cdef void leave(self):
        self.users -= 1

    cdef _nobody_looks(self):
        """From here on; who does already is let finish."""
        self.closing = True
        while self.users:
            with nogil:
                usleep(1000)

    def _free(self):
        cdef sbd* sd
        self._nobody_looks()
        if self.m == NULL:
            return
        sd = &self.m.sd
        if sd.gls != NULL:
            self.locks.silence()
            if self.file_locks is not None:
                self.file_locks.detach()
            with nogil:
                gls_stop(sd.gls)
        if self.m.f.nd.sd != NULL:
            nodes_stop(&self.m.f.nd)
        log_stop(sd)
        quota_destroy(sd)
        statfs_destroy(sd)
        rgrps_destroy(sd)
        if sd.ic != NULL:
            _put_system(sd)
        if sd.log != NULL:
            log_destroy(sd)
        journal_close(&self.own_jd)
        icache_destroy(sd)
        cache_destroy(sd)
        if sd.gls != NULL:
            iopens_destroy(sd)
            flocks_destroy(sd)
            glock_free(&sd.rename_gl)
            glock_free(&sd.journal_gl)
            gls_destroy(sd.gls)
            self.locks.detach()
        names_destroy(sd)
        ob_detach(&sd.ob, sd.dev)
        if sd.tell_fd >= 0:
            os.close(sd.tell_fd)
        fz_destroy(sd)
        if self.m.f.nd.sd != NULL:
            nodes_destroy(&self.m.f.nd)
            shields_destroy(&self.m.f.shields)
        free(self.m)
        self.m = NULL
        self.ops = NULL
        self.fs = NULL

    def close(self):
        """Unmount: everything to disk, journal clean, memory freed. Raises OSError when that failed; idempotent."""
        cdef int err
        if self.m == NULL:
            return
        self._nobody_looks()
        with nogil:
            err = _shutdown(&self.m.f)
        reason = self.withdrawn
        self.closed_well = err == 0 and reason is None
        name = (<bytes>self.m.sd.dev.name).decode(errors="replace")
        self._free()
        if err:
            raise OSError(-err, f"{name}: unmounting: {reason or os.strerror(-err)}")

    def abandon(self):
        """Free everything and write nothing more: what a power cut leaves stays on the device (for tests)."""
        if self.m == NULL:
            return
        self._nobody_looks()
        self.m.sd.withdrawn = 1
        with nogil:
            if self.m.sd.gls != NULL:
                gls_stop(self.m.sd.gls)
            _shutdown(&self.m.f)
        self._free()

    def __dealloc__(self):
        if self.m != NULL:
            self.m.sd.withdrawn = 1
            _shutdown(&self.m.f)
            self._free()

    def plant(self, int number):
        """For tests: a bug (PLANT_* of _glock) for them to find."""
        if self.m.sd.gls != NULL:
            self.m.sd.gls.planted = number

    def recover_jid(self, int jid):
        """Replay the journal of a node that is dead (fenced). What the replay did, or None if there was nothing to do.
        Its locks may go only afterwards. Raises BlockingIOError while another node is at it, CorruptionError,
        MountError, OSError."""
        cdef sbd* sd = &self.m.sd
        cdef glock gl
        cdef opctx cx
        cdef int err
        if not 0 <= jid < self.journals or jid == self.jid:
            raise ValueError(f"journal {jid} is not another node's")
        memset(&gl, 0, sizeof(gl))
        if glock_init(sd, &gl, LM_TYPE_JOURNAL, <uint64_t>jid, NULL):
            raise MemoryError
        ctx_init(&cx, sd, 0, 0)
        try:
            with nogil:
                err = glock_enter(&cx, &gl, LM_ST_EXCLUSIVE, GL_TRY | GL_NOEXP)
                if err == 0:
                    glock_pin(&gl)
                    glock_leave(&cx, &gl)
            if err == -EAGAIN:
                raise BlockingIOError(EAGAIN, f"journal {jid}: another node is at it")
            self._check(err, f"journal {jid}")
            before = len(self.recovered)
            self._recover_one(jid, self._addr_of("master", "statfs"), self._addr_of("jindex", f"journal{jid}"),
                              self._addr_of("per_node", f"statfs_change{jid}"))
            return self.recovered[before] if len(self.recovered) > before else None
        finally:
            with nogil:
                glock_free(&gl)

    @property
    def replay_percent(self):
        """How far the replay of a journal is that is under way, as (jid, percent); None: there is none.

        Reading the log counts for one half, writing in place for the other.
        """
        cdef uint64_t percent = 0
        if self.replaying == NULL:
            return None
        if self.replaying.log_blocks:
            percent = 50 * <uint64_t>self.replaying.walked // self.replaying.log_blocks
        if self.replaying.replayed:
            percent += 50 * <uint64_t>self.replaying.written // self.replaying.replayed
        return self.replaying_jid, percent

    def withdraw(self, reason="by request"):
        """Stops the mount at once: nothing more is written, every request gets EIO. Its locks stand until others have
        replayed its journal."""
        if self.m != NULL:
            text = reason.encode()
            sd_assert_failed(&self.m.sd, text)

    def glocks(self):
        """Every cluster lock of this mount: what is held, asked for, wanted by others, and waited for."""
        cdef dlink* l
        cdef glx* x
        cdef gwaiter* w
        out = []
        if self.m == NULL or self.m.sd.gls == NULL:
            return out
        pthread_mutex_lock(&self.m.locks.lock)
        l = self.m.locks.all.next
        while l != &self.m.locks.all:
            x = <glx*>l.owner
            l = l.next
            n = 0
            w = x.waiters
            while w != NULL:
                n += 1
                w = w.next
            out.append({"type": x.gl.type, "number": x.gl.number, "state": x.gl.state, "open": x.gl.avail,
                        "asked": x.req, "demote": x.demote, "flags": x.flags, "kept": x.n_kept, "waiters": n,
                        "dirty": x.dirty_seq})
        pthread_mutex_unlock(&self.m.locks.lock)
        return out

    def drain(self):
        """Wait until every queued deletion has been carried out."""
        if self.m != NULL and self.m.f.nd.sd != NULL:
            with nogil:
                nodes_drain(&self.m.f.nd)

    @property
    def withdrawn(self):
        """Why the mount withdrew; None while it is well."""
        if self.m == NULL or not self.m.sd.withdrawn:
            return None
        return (<bytes>self.m.sd.err_text).decode(errors="replace") or "abandoned"

    @property
    def kernel_may_write_back(self):
        # Write-back of the kernel's comes without the user's id, so limits could not be enforced in time.
        return self.m != NULL and not self.m.sd.flags & (SDF_QUOTA_ENFORCE | SDF_RDONLY | SDF_SHARED)

    @property
    def kernel_may_lock(self):
        return self.m != NULL and not self.m.sd.flags & SDF_SHARED

    @property
    def label(self):
        return (<bytes>self.m.sd.jid_name).decode(errors="replace") if self.m != NULL else ""

    @property
    def block_size(self):
        return self.m.sd.bsize

    def statistics(self):
        """Counters and levels of cache, log, inodes, space. Numbers only; may be called while requests hang."""
        if self.m == NULL or self.m.sd.bc == NULL or self.m.sd.log == NULL or self.m.sd.ic == NULL:
            return {}
        return levels(&self.m.f)

    def latencies(self):
        """Histograms: the device's operations, commits, and each kind of wait."""
        return ob_latencies(&self.m.sd.ob) if self.m != NULL else {}

    def background(self):
        """What the log daemon, the statfs and quota daemon and the deletion thread wait for; idle ones are left out."""
        return ob_background(&self.m.sd.ob) if self.m != NULL else []

    def describe(self):
        """Superblock, mount, journals and space, as gfs2_tool df shows them."""
        cdef sbd* sd
        if self.m == NULL:
            return {}
        sd = &self.m.sd
        proto, table = self.mounted_as
        return {
            "sb_lockproto": (<bytes>sd.lockproto).decode(errors="replace"),
            "sb_locktable": (<bytes>sd.locktable).decode(errors="replace"),
            "ondisk_format": sd.fs_format, "multihost_format": <int>GFS2_FORMAT_MULTI, "block_size": sd.bsize,
            "journals": [{"name": f"journal{i}", "size_bytes": size} for i, size in enumerate(self.journal_sizes)],
            "resource_groups": sd.n_rgrps, "lockproto": proto, "locktable": table, "jid": self.jid,
            "hostdata": f"jid={self.jid}:id=0:first=1", "lock_module_flags": 0,
            "local_flocks": sd.gls == NULL, "local_caching": sd.gls == NULL,      # one node: all locks are its own
            "read_only": bool(sd.flags & SDF_RDONLY), "spectator": bool(sd.flags & SDF_SPECTATOR),
            "blocks_total": sd.st_total + sd.sl_total, "blocks_free": sd.st_free + sd.sl_free,
            "dinodes": sd.st_dinodes + sd.sl_dinodes, "withdrawn": self.withdrawn,
        }
