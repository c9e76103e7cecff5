"""A laboratory for the space code: resource groups, quotas and statfs of a formatted device, without a name space.

Tests drive allocation directly here: inodes are bare structs, blocks that they get belong to nobody on disk. One
journal is used as if it were clean. Every call is one operation with a context of its own and runs without the GIL, so
threads may call at once. Not part of a mount.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from gfs2py.block._device cimport BlockDevice
from gfs2py.engine._cache cimport cache_destroy, cache_init
from gfs2py.engine._dir cimport dir_found, dir_search
from gfs2py.engine._incore cimport (LM_ST_SHARED, SDF_QUOTA_ACCOUNT, SDF_QUOTA_ENFORCE, extent, inode, opctx, rgrpd,
                                    sbd)
from gfs2py.engine._inode cimport (icache_destroy, icache_init, inode_get, inode_hold, inode_lock, inode_put,
                                   inode_unlock)
from gfs2py.engine._log cimport (log_destroy, log_flush, log_init, log_shutdown, log_start, log_stop, trans_begin,
                                 trans_end)
from gfs2py.engine._quota cimport (quota_check, quota_chown, quota_chown_check, quota_destroy, quota_get, quota_info,
                                   quota_init, quota_set, quota_sync)
from gfs2py.engine._recovery cimport jdesc, jhead, jhead_find, journal_close, journal_open
from gfs2py.engine._rgrp cimport *
from gfs2py.engine._sbd cimport ctx_init, sd_set_geometry
from gfs2py.engine._statfs cimport statfs_at_switch, statfs_destroy, statfs_get, statfs_init, statfs_slow, statfs_sync
from gfs2py.engine._sync cimport pthread_mutex_init
from gfs2py.ondisk._ondisk cimport GFS2_SB_BYTE_ADDR, be32toh, be64toh, gfs2_sb

cdef enum:
    MAX_OWNERS = 4096


cdef void _at_switch(sbd* sd, opctx* cx) noexcept nogil:
    statfs_at_switch(sd, cx)
    rgrps_at_switch(sd)


cdef int _data_writeback(sbd* sd, inode* ip) noexcept nogil:
    return 0


cdef int _note(opctx* cx, uint64_t blk, void* arg) noexcept nogil:
    """Keeps up to 64 block numbers in arg, the first word of which counts them."""
    cdef uint64_t* words = <uint64_t*>arg
    if words[0] == 64:
        return 1
    words[0] += 1
    words[words[0]] = blk
    return 0


cdef class SpaceLab:
    """Opens a device that mkfs has formatted. Errors of the engine raise OSError with their errno."""

    cdef BlockDevice dev
    cdef sbd* sd
    cdef inode* owners
    cdef uint32_t n_owners
    cdef bint open

    def __cinit__(self, BlockDevice dev not None, *, bint quota=False, uint64_t cache_bytes=64 << 20,
                  uint32_t hide_groups=0):
        cdef uint64_t block = 0
        self.dev = dev
        self.sd = <sbd*>calloc(1, sizeof(sbd))
        self.owners = <inode*>calloc(MAX_OWNERS, sizeof(inode))
        if self.sd == NULL or self.owners == NULL:
            raise MemoryError
        pthread_mutex_init(&self.sd.err_lock, NULL)
        pthread_mutex_init(&self.sd.st_lock, NULL)
        self.sd.dev = &dev.dev
        self.sd.quiet = True
        self.sd.inode_put = inode_put
        self.sd.inode_hold = inode_hold
        self.sd.inode_evict = rs_drop
        self.sd.data_writeback = &_data_writeback
        if quota:
            self.sd.flags |= SDF_QUOTA_ACCOUNT | SDF_QUOTA_ENFORCE
        self._start(dev.read(GFS2_SB_BYTE_ADDR, 512), cache_bytes, hide_groups)
        self.open = True

    cdef inode* _system(self, inode* dip, bytes name) except NULL:
        """The inode of that name in a system directory, held."""
        cdef opctx cx
        cdef dir_found f
        cdef inode* ip = NULL
        cdef int err
        ctx_init(&cx, self.sd, 0, 0)
        err = inode_lock(&cx, dip, LM_ST_SHARED)
        if err == 0:
            err = dir_search(&cx, dip, name, <uint32_t>len(name), &f)
            inode_unlock(&cx, dip)
        if err == 0:
            err = inode_get(self.sd, f.no_addr, &ip)
        self._raise(err)
        err = inode_lock(&cx, ip, LM_ST_SHARED)
        if err == 0:
            inode_unlock(&cx, ip)
        self._raise(err)
        return ip

    cdef int _start(self, bytes block, uint64_t cache_bytes, uint32_t hide_groups) except -1:
        cdef gfs2_sb* sb = <gfs2_sb*><char*>block
        cdef inode* per_node
        cdef inode* journal
        cdef opctx cx
        cdef jdesc jd
        cdef jhead head
        self._raise(sd_set_geometry(self.sd, be32toh(sb.sb_bsize)))
        self.sd.fs_blocks = self.dev.dev.size_bytes >> self.sd.bsize_shift
        self.sd.root_addr = be64toh(sb.sb_root_dir.no_addr)
        self._raise(cache_init(self.sd, cache_bytes))
        self._raise(icache_init(self.sd, 1024))
        self._raise(log_init(self.sd))
        self._raise(inode_get(self.sd, be64toh(sb.sb_master_dir.no_addr), &self.sd.master))
        per_node = self._system(self.sd.master, b"per_node")
        self.sd.jindex = self._system(self.sd.master, b"jindex")
        self.sd.rindex = self._system(self.sd.master, b"rindex")
        self.sd.statfs_ip = self._system(self.sd.master, b"statfs")
        self.sd.quota_ip = self._system(self.sd.master, b"quota")
        self.sd.sc_ip = self._system(per_node, b"statfs_change0")
        self.sd.qc_ip = self._system(per_node, b"quota_change0")
        journal = self._system(self.sd.jindex, b"journal0")
        inode_put(per_node)
        self._raise(journal_open(&jd, self.sd.dev, self.sd.bsize, self.sd.fs_blocks, journal.no_addr))
        self._raise(jhead_find(&jd, &head))
        self.sd.log.ext = <extent*>calloc(jd.n_ext, sizeof(extent))
        memcpy(self.sd.log.ext, jd.ext, jd.n_ext * sizeof(extent))
        self.sd.log.n_ext = jd.n_ext
        self.sd.log.jinode = journal.no_addr
        self.sd.log.nblocks = jd.nblocks
        self.sd.log.head = (head.blkno + 1) % jd.nblocks
        self.sd.log.sequence = head.sequence + 1
        journal_close(&jd)
        inode_put(journal)
        ctx_init(&cx, self.sd, 0, 0)
        self.sd.rindex.size -= 96 * <uint64_t>hide_groups
        self._raise(rgrps_read(&cx))
        self.sd.rindex.size += 96 * <uint64_t>hide_groups
        self._raise(statfs_init(&cx))
        self._raise(quota_init(&cx))
        self.sd.at_switch = &_at_switch
        self.sd.after_commit = rgrps_after_commit
        self._raise(log_start(self.sd))
        return 0

    cdef int _raise(self, int err) except -1:
        if err < 0:
            raise OSError(-err, self.sd.err_text.decode() or "the engine refused")
        return 0

    def close(self, *, bint crash=False):
        """Unmounts cleanly, or stops with everything uncommitted lost (crash)."""
        cdef int err = 0
        if not self.open:
            return
        self.open = False
        with nogil:
            if crash:
                log_stop(self.sd)
            else:
                err = log_shutdown(self.sd)
            statfs_destroy(self.sd)
            quota_destroy(self.sd)
            log_destroy(self.sd)
            icache_destroy(self.sd)
            rgrps_destroy(self.sd)
            cache_destroy(self.sd)
        self._raise(err)

    def __dealloc__(self):
        free(self.owners)
        free(self.sd)

    # ---- inodes that exist in memory only ----

    def owner(self, uint32_t mode, *, uint64_t goal=0, uint64_t blocks=0, uint32_t uid=0, uint32_t gid=0,
              uint32_t diskflags=0, uint64_t no_addr=0):
        """A new bare inode; returns its number."""
        cdef inode* ip
        if self.n_owners == MAX_OWNERS:
            raise ValueError("too many owners")
        ip = &self.owners[self.n_owners]
        ip.sd = self.sd
        ip.no_addr = no_addr
        ip.mode = mode
        ip.goal = goal
        ip.blocks = blocks
        ip.uid = uid
        ip.gid = gid
        ip.diskflags = diskflags
        self.n_owners += 1
        return self.n_owners - 1

    cdef inode* _ip(self, Py_ssize_t owner) except NULL:
        if not self.open or owner < 0 or <uint32_t>owner >= self.n_owners:
            raise ValueError("no such owner, or closed")
        return &self.owners[owner]

    def become(self, Py_ssize_t owner, uint32_t uid, uint32_t gid):
        """Changes an owner's ids without moving its charge."""
        cdef inode* ip = self._ip(owner)
        ip.uid = uid
        ip.gid = gid

    @property
    def addresses(self):
        """Dinodes of journal, master statfs file and local statfs file, as recovery wants them."""
        return self.sd.log.jinode, self.sd.statfs_ip.no_addr, self.sd.sc_ip.no_addr

    def reservation(self, Py_ssize_t owner):
        """(first block, length) of the run reserved for it, or None."""
        cdef inode* ip = self._ip(owner)
        return (ip.rs_start, ip.rs_len) if ip.rs_rgd != NULL and ip.rs_len else None

    def drop_reservation(self, Py_ssize_t owner):
        rs_drop(self.sd, self._ip(owner))

    # ---- allocating and freeing ----

    def alloc(self, Py_ssize_t owner, uint32_t target, *, uint32_t min_target=0, bint dinode=False, bint orlov=False,
              uint32_t uid=0):
        """One operation that allocates up to `target` blocks: [(block, length)], for dinodes [(block, generation)]."""
        cdef inode* ip = self._ip(owner)
        cdef opctx cx
        cdef uint32_t got = 0, n
        cdef uint64_t blk, gen = 0
        cdef uint64_t runs[128]
        cdef int n_runs = 0, i
        cdef int err = 0
        if target > 1 << 20:
            raise ValueError("more than the laboratory takes")
        with nogil:
            ctx_init(&cx, self.sd, uid, 0)
            if self.sd.quota_check != NULL:
                err = self.sd.quota_check(&cx, ip.uid, ip.gid, target)
            if err == 0 and orlov:
                err = inplace_reserve_orlov(&cx, ip, target, min_target if min_target else target, &got)
            elif err == 0:
                err = inplace_reserve(&cx, ip, target, min_target if min_target else target, &got)
            if err == 0:
                err = trans_begin(&cx, 1 + rgrp_trans_blocks(cx.rgd, got), 0)
                while err == 0 and got and n_runs < 64:
                    n = got
                    err = rgrp_alloc(&cx, ip, &blk, &n, dinode, &gen)
                    if err == 0:
                        runs[2 * n_runs] = blk
                        runs[2 * n_runs + 1] = gen if dinode else n
                        n_runs += 1
                        got -= n
                        ip.blocks += n
                if cx.tr_on:
                    trans_end(&cx)
                inplace_release(&cx, ip)
        self._raise(err)
        return [(runs[2 * i], runs[2 * i + 1]) for i in range(n_runs)]

    def free(self, uint64_t blk, uint32_t n, *, Py_ssize_t owner=-1, bint meta=False):
        """Frees a run within one group."""
        cdef inode* ip = NULL if owner < 0 else self._ip(owner)
        self._raise(self._change(0, blk, n, ip, meta))

    def unlink_dinode(self, uint64_t blk):
        self._raise(self._change(1, blk, 1, NULL, False))

    def relink_dinode(self, uint64_t blk):
        self._raise(self._change(2, blk, 1, NULL, False))

    def free_dinode(self, uint64_t blk):
        cdef inode ip
        memset(&ip, 0, sizeof(ip))
        ip.no_addr = blk
        self._raise(self._change(3, blk, 1, &ip, True))

    cdef int _change(self, int what, uint64_t blk, uint32_t n, inode* ip, bint meta) noexcept nogil:
        cdef opctx cx
        cdef rgrpd* rgd
        cdef int err
        ctx_init(&cx, self.sd, 0, 0)
        rgd = rgrp_find(self.sd, blk)
        if rgd == NULL:
            return -22
        err = rgrp_lock(&cx, rgd)
        if err:
            return err
        err = trans_begin(&cx, 1 + rgrp_trans_blocks(rgd, n), n if meta else 0)
        if err == 0:
            if what == 0:
                err = rgrp_free(&cx, rgd, ip, blk, n, meta)
            elif what == 1:
                err = rgrp_unlink_di(&cx, rgd, blk)
            elif what == 2:
                err = rgrp_relink_di(&cx, rgd, blk)
            else:
                err = rgrp_free_di(&cx, rgd, ip)
            trans_end(&cx)
        rgrp_unlock(&cx, rgd)
        return err

    def flush(self):
        """Commits; what was freed before may be allocated afterwards."""
        cdef int err
        with nogil:
            err = log_flush(self.sd, 0, 0)
        self._raise(err)

    def switch(self):
        """As the log does in the exclusive moment, without writing anything: for testing after_commit's order."""
        rgrps_at_switch(self.sd)

    def after_commit(self):
        rgrps_after_commit(self.sd)

    # ---- looking ----

    def groups(self):
        """What is in memory of every group."""
        cdef uint32_t i
        cdef rgrpd* rgd
        out = []
        for i in range(self.sd.n_rgrps):
            rgd = &self.sd.rgrps[i]
            out.append({"addr": rgd.addr, "data0": rgd.data0, "data": rgd.data, "length": rgd.length,
                        "bitbytes": rgd.bitbytes, "loaded": bool(rgd.loaded), "held": bool(rgd.bits_held),
                        "flags": rgd.flags, "free": rgd.free, "free_clone": rgd.free_clone, "dinodes": rgd.dinodes,
                        "unlinked": rgd.unlinked, "reserved": rgd.reserved, "n_rs": rgd.n_rs,
                        "igeneration": rgd.igeneration, "extfail": rgd.extfail,
                        "clones": sum(1 for j in range(rgd.length) if rgd.clones[j] != NULL)})
        return out

    def read_index(self):
        """Reads the index again, as after gfs2_grow."""
        cdef opctx cx
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(rgrps_read(&cx))

    def find(self, uint64_t blk):
        """Index of the group whose data holds the block, or None."""
        cdef rgrpd* rgd = rgrp_find(self.sd, blk)
        return None if rgd == NULL else rgd.index

    def state(self, uint64_t blk):
        """GFS2_BLKST_* of a block."""
        cdef opctx cx
        cdef int err
        ctx_init(&cx, self.sd, 0, 0)
        err = rgrp_blk_state(&cx, blk)
        self._raise(err)
        return err

    def unlinked(self, uint32_t group):
        """The UNLINKED dinodes of a group, at most 64."""
        cdef opctx cx
        cdef uint64_t words[65]
        cdef uint64_t i
        if group >= self.sd.n_rgrps:
            raise ValueError("no such group")
        words[0] = 0
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(rgrp_each_unlinked(&cx, &self.sd.rgrps[group], &_note, words))
        return [words[1 + i] for i in range(words[0])]

    def statfs(self, *, bint slow=False):
        """(total, free, dinodes)"""
        cdef uint64_t total, blocks, dinodes
        cdef opctx cx
        ctx_init(&cx, self.sd, 0, 0)
        if slow:
            self._raise(statfs_slow(&cx, &total, &blocks, &dinodes))
        else:
            statfs_get(self.sd, &total, &blocks, &dinodes)
        return total, blocks, dinodes

    def statfs_sync(self):
        cdef opctx cx
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(statfs_sync(&cx))

    def trim(self, uint64_t start, uint64_t end, uint64_t minlen=1):
        """fitrim over blocks; how many were discarded."""
        cdef opctx cx
        cdef uint64_t trimmed
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(rgrp_fitrim(&cx, start, end, minlen, &trimmed))
        return trimmed

    def set_flag(self, uint32_t flag):
        """Sets SDF_* mount flags."""
        self.sd.flags |= flag

    # ---- quotas ----

    def quota(self, uint32_t kind, uint32_t id):
        """(limit, warn, value, change) of an id."""
        cdef opctx cx
        cdef quota_info info
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(quota_get(&cx, kind, id, &info))
        return info.limit, info.warn, info.value, info.change

    def set_quota(self, uint32_t kind, uint32_t id, *, limit=None, warn=None, value=None):
        cdef opctx cx
        cdef uint32_t what = (1 if limit is not None else 0) | (2 if warn is not None else 0) | \
            (4 if value is not None else 0)
        ctx_init(&cx, self.sd, 0, 0)
        self._raise(quota_set(&cx, kind, id, what, limit or 0, warn or 0, value or 0))

    def quota_sync(self):
        cdef opctx cx
        cdef int err
        with nogil:
            ctx_init(&cx, self.sd, 0, 0)
            err = quota_sync(&cx)
        self._raise(err)

    def chown(self, Py_ssize_t owner, uint32_t uid, uint32_t gid, *, uint32_t asker=0):
        """Moves an owner's charge as chown does."""
        cdef inode* ip = self._ip(owner)
        cdef opctx cx
        cdef int err
        ctx_init(&cx, self.sd, asker, 0)
        err = quota_chown_check(&cx, ip, uid, gid)
        if err == 0:
            err = trans_begin(&cx, 1, 0)
        if err == 0:
            quota_chown(&cx, ip, uid, gid)
            trans_end(&cx)
            ip.uid = uid
            ip.gid = gid
        self._raise(err)
