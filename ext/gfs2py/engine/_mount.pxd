"""Mounting and unmounting: a device becomes a Gfs2, the handle that a FUSE session or a test serves."""
from gfs2py.block._device cimport BlockDevice
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._glock cimport gls
from gfs2py.engine._incore cimport glock, inode, opctx, sbd
from gfs2py.engine._lockmanager cimport LockManager
from gfs2py.engine._plock cimport FileLocks
from gfs2py.engine._quotad cimport quotad
from gfs2py.engine._recovery cimport jdesc, jhead, jstats
from gfs2py.fuse._ops cimport FileSystemHandle
from libc.stdint cimport uint32_t, uint64_t

cdef struct mounted:                # everything of one mount, at one address for its life
    sbd sd
    gfs2_fs f
    quotad q
    bint shut
    gls locks

cdef class Gfs2(FileSystemHandle):
    cdef mounted* m
    cdef BlockDevice device
    cdef readonly int jid
    cdef readonly int journals
    cdef list journal_sizes         # bytes
    cdef tuple mounted_as           # lock protocol and table
    cdef readonly list recovered    # what replay did, by journal
    cdef const jstats* replaying    # of the thread that replays; NULL: none does
    cdef int replaying_jid
    cdef readonly bint was_live     # its journal may have been written
    cdef readonly bint closed_well  # all of it is in place and the journal says so
    cdef object say
    cdef jdesc own_jd               # our journal's map and head, if recovery found it clean
    cdef jhead own_head
    cdef bint own_clean
    cdef LockManager locks            # None: lock_nolock
    cdef readonly FileLocks file_locks      # fcntl locks of a shared mount, for the cluster's side; None: lock_nolock
    cdef bint first                 # no other node has it mounted
    cdef int users                  # of _inspect, which look at *m without the GIL
    cdef bint closing
    cdef bint enter(self)           # True: *m stays until leave()
    cdef void leave(self)
    cdef _nobody_looks(self)
    # the steps of a mount, in order
    cdef _caches(self, cache_bytes, uint32_t inodes)
    cdef _find_journals(self)
    cdef _choose_journal(self, int jid)
    cdef _recover_all(self)
    cdef _recover_one(self, int jid, uint64_t master, uint64_t addr, uint64_t local)
    cdef _shared(self, LockManager locks)
    cdef _pin(self, glock* gl, what)
    cdef int _find_named(self, inode* dip, bytes name, inode** out) except? -1
    cdef _forget_all(self, cache_bytes, uint32_t inodes)
    cdef _load_system(self)
    cdef _open_journal(self)
    cdef _go_live(self, uint32_t commit_ms, uint32_t statfs_s, uint32_t quota_s, bint background)
    cdef _check(self, int err, what)
    cdef uint64_t _addr_of(self, where, name) except 0
    cdef _journal_check(self, int err, int jid, jdesc* jd)
