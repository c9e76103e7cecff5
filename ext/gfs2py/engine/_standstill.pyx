"""What the cluster's side of a mount asks of it when it has to stand still: for a freeze, or after a withdraw."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset
from gfs2py.engine._freeze cimport FZ_THAWED, fz_freeze, fz_thaw
from gfs2py.engine._incore cimport sbd
from gfs2py.engine._kcache cimport kcache_give_all_back
from gfs2py.engine._mount cimport Gfs2
from gfs2py.engine._observe cimport ob_passing
from gfs2py.engine._recovery cimport jdesc, jhead, jhead_find, journal_close, journal_open
from gfs2py.engine._sync cimport gl_atomic_load32, pthread_mutex_lock, pthread_mutex_unlock
from gfs2py.fuse._stat cimport stat_now
from gfs2py.ondisk._ondisk cimport GFS2_LOG_HEAD_UNMOUNT

import errno
import os


cdef int _in(Gfs2 fs) except -1:
    if not fs.enter():
        raise OSError(errno.EIO, "the file system is closed")
    return 0


def freeze(Gfs2 fs not None):
    """Nothing changes any more, all is in place, the journal is clean. Waits for operations under way.

    Raises OSError: EBUSY (frozen already), EINTR (thawed meanwhile), EIO (withdrawn).
    """
    cdef int err
    _in(fs)
    try:
        with nogil:
            err = fz_freeze(&fs.m.sd)
    finally:
        fs.leave()
    if err:
        raise OSError(-err, os.strerror(-err))


def thaw(Gfs2 fs not None):
    """Whatever waits goes on; also ends a freeze that still waits for operations under way."""
    if not fs.enter():
        return
    try:
        with nogil:
            fz_thaw(&fs.m.sd)
    finally:
        fs.leave()


def frozen(Gfs2 fs not None):
    """None, or what there is to know: state (1: operations under way are waited for, 2: frozen), for_ns, parked (the
    numbers of the requests that wait for the thaw)."""
    cdef sbd* sd
    cdef uint32_t i
    if not fs.enter():
        return None
    sd = &fs.m.sd
    try:
        pthread_mutex_lock(&sd.fz.lock)
        state = sd.fz.state
        since = sd.fz.since_ns
        parked = [sd.fz.parked[i] for i in range(sd.fz.n_parked)]
        pthread_mutex_unlock(&sd.fz.lock)
    finally:
        fs.leave()
    if state == FZ_THAWED:
        return None
    return {"state": state, "for_ns": stat_now() - since, "parked": parked}


def passing(Gfs2 fs not None):
    """How many operations that change the device are under way; at 0 after a withdraw nothing comes any more."""
    if not fs.enter():
        return 0
    passes = ob_passing(&fs.m.sd.ob)
    fs.leave()
    return passes


def take_back(Gfs2 fs not None):
    """After a withdraw: the kernel is asked to give back all that it caches; giving_back() says how many are left."""
    cdef int err = 0
    if not fs.enter():
        return
    try:
        if fs.m.sd.gls != NULL:
            with nogil:
                err = kcache_give_all_back(fs.m.sd.gls)
    finally:
        fs.leave()
    if err:
        raise MemoryError


def giving_back(Gfs2 fs not None):
    """How many inodes the kernel still gives back after take_back()."""
    if not fs.enter():
        return 0
    left = gl_atomic_load32(&fs.m.sd.gls.giving_back) if fs.m.sd.gls != NULL else 0
    fs.leave()
    return left


def dirty_journals(Gfs2 fs not None):
    """The journals that would have to be replayed if everybody stopped now, as they are on the disk.

    Raises CorruptionError, MountError, OSError.
    """
    cdef sbd* sd
    cdef jdesc jd
    cdef jhead head
    cdef uint64_t addr
    cdef int err
    _in(fs)
    found = []
    try:
        sd = &fs.m.sd
        for jid in range(fs.journals):
            addr = fs._addr_of("jindex", f"journal{jid}")
            memset(&jd, 0, sizeof(jd))
            try:
                with nogil:
                    err = journal_open(&jd, sd.dev, sd.bsize, sd.fs_blocks, addr)
                    if err == 0:
                        err = jhead_find(&jd, &head)
                fs._journal_check(err, jid, &jd)
            finally:
                journal_close(&jd)
            if not head.flags & GFS2_LOG_HEAD_UNMOUNT:
                found.append(jid)
    finally:
        fs.leave()
    return found


def withdraw_fd(Gfs2 fs not None):
    """Readable once the mount has withdrawn; the mount's own, and -1 when that is closed."""
    return fs.m.sd.tell_fd if fs.m != NULL else -1
