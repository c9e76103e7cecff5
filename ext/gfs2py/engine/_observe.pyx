"""Waits measured and named, device operations timed (see _observe.pxd)."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from gfs2py.block._device cimport bio_seg, blkdev, blkdev_ops
from gfs2py.engine._sync cimport (gl_atomic_look32, gl_atomic_note32, pthread_cond_t, pthread_cond_wait,
                                  pthread_mutex_lock, pthread_mutex_t, pthread_rwlock_rdlock, pthread_rwlock_t,
                                  pthread_rwlock_wrlock)
from gfs2py.fuse._stat cimport (WAIT_BUFFER, WAIT_COMMIT, WAIT_DATA, WAIT_DISCARD, WAIT_FLUSH, WAIT_INODE, WAIT_READ,
                                WAIT_RENAME, WAIT_RGRP, WAIT_SPACE, WAIT_SWITCH, WAIT_WRITE, fs_wait, hist_add,
                                hist_dict, stat_now, wait_dict, wait_set, wait_slot)

cdef extern from "<errno.h>" nogil:
    int EIO


cdef void ob_begin(ob_mark* m, uint32_t kind, uint64_t what) noexcept nogil:
    m.slot = wait_slot()
    m.outer = m.slot[0]
    m.kind = kind
    m.since = stat_now()
    wait_set(m.slot, kind, what, m.since)


cdef void ob_end(observer* ob, ob_mark* m) noexcept nogil:
    hist_add(&ob.took[m.kind], stat_now() - m.since)
    wait_set(m.slot, m.outer.kind, m.outer.what, m.outer.since_ns)


cdef void ob_cond_wait(observer* ob, pthread_cond_t* c, pthread_mutex_t* m, uint32_t kind,
                       uint64_t what) noexcept nogil:
    cdef ob_mark mark
    ob_begin(&mark, kind, what)
    pthread_cond_wait(c, m)
    ob_end(ob, &mark)


cdef void ob_slow_rwlock(observer* ob, pthread_rwlock_t* l, bint write, uint32_t kind, uint64_t what) noexcept nogil:
    cdef ob_mark mark
    ob_begin(&mark, kind, what)
    if write:
        pthread_rwlock_wrlock(l)
    else:
        pthread_rwlock_rdlock(l)
    ob_end(ob, &mark)


cdef void ob_slow_mutex(observer* ob, pthread_mutex_t* l, uint32_t kind, uint64_t what) noexcept nogil:
    cdef ob_mark mark
    ob_begin(&mark, kind, what)
    pthread_mutex_lock(l)
    ob_end(ob, &mark)


# ---------------------------------------------------------------------------------------------- the device

cdef inline bint _pass(observer* ob) noexcept nogil:
    """Whoever counts himself and then finds the gate open is seen by whoever shuts it and then counts."""
    gl_atomic_note32(&ob.passing, 1)
    if gl_atomic_look32(&ob.shut) == 0:
        return True
    gl_atomic_note32(&ob.passing, -1)
    return False


cdef inline void _passed(observer* ob) noexcept nogil:
    gl_atomic_note32(&ob.passing, -1)


cdef void ob_shut(observer* ob) noexcept nogil:
    gl_atomic_note32(&ob.shut, 1)


cdef int32_t ob_passing(observer* ob) noexcept nogil:
    return gl_atomic_look32(&ob.passing)


cdef int _read(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    ob_begin(&mark, WAIT_READ, off)
    err = ob.below.read(d, off, buf, length)
    ob_end(ob, &mark)
    return err


cdef int _write(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    if not _pass(ob):
        return -EIO
    ob_begin(&mark, WAIT_WRITE, off)
    err = ob.below.write(d, off, buf, length, flags)
    ob_end(ob, &mark)
    _passed(ob)
    return err


cdef int _readv(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    ob_begin(&mark, WAIT_READ, segs[0].off if n else 0)
    err = ob.below.readv(d, segs, n)
    ob_end(ob, &mark)
    return err


cdef int _writev(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    if not _pass(ob):
        return -EIO
    ob_begin(&mark, WAIT_WRITE, segs[0].off if n else 0)
    err = ob.below.writev(d, segs, n)
    ob_end(ob, &mark)
    _passed(ob)
    return err


cdef int _flush(blkdev* d) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    if not _pass(ob):
        return -EIO
    ob_begin(&mark, WAIT_FLUSH, 0)
    err = ob.below.flush(d)
    ob_end(ob, &mark)
    _passed(ob)
    return err


cdef int _discard(blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    cdef observer* ob = <observer*>d.observer
    cdef ob_mark mark
    cdef int err
    if not _pass(ob):
        return -EIO
    ob_begin(&mark, WAIT_DISCARD, off)
    err = ob.below.discard(d, off, length)
    ob_end(ob, &mark)
    _passed(ob)
    return err


cdef void ob_attach(observer* ob, blkdev* d) noexcept nogil:
    if d.observer != NULL:
        return
    ob.below = d.ops
    ob.ops = d.ops[0]
    ob.ops.read = _read
    ob.ops.write = _write
    ob.ops.readv = _readv
    ob.ops.writev = _writev
    ob.ops.flush = _flush
    ob.ops.discard = _discard
    d.observer = ob
    d.ops = &ob.ops


cdef void ob_detach(observer* ob, blkdev* d) noexcept nogil:
    if d != NULL and d.observer == ob:
        d.ops = ob.below
        d.observer = NULL


# ---------------------------------------------------------------------------------------------- reading

cdef dict ob_latencies(observer* ob):
    names = {"device_read": WAIT_READ, "device_write": WAIT_WRITE, "device_flush": WAIT_FLUSH,
             "device_discard": WAIT_DISCARD, "inode_lock_wait": WAIT_INODE, "rgrp_lock_wait": WAIT_RGRP,
             "rename_lock_wait": WAIT_RENAME, "transaction_switch_wait": WAIT_SWITCH, "commit_wait": WAIT_COMMIT,
             "log_space_wait": WAIT_SPACE, "block_wait": WAIT_BUFFER, "data_write_back_wait": WAIT_DATA}
    cdef size_t kind
    out = {"commit": hist_dict(&ob.commit)}
    for name, number in names.items():
        kind = number
        out[name] = hist_dict(&ob.took[kind])
    return out


cdef list ob_background(observer* ob):
    out = []
    for name, told in (("log daemon", wait_dict(&ob.logd)), ("quota and statfs daemon", wait_dict(&ob.quotad)),
                       ("deletion", wait_dict(&ob.deleter))):
        if told is not None:
            out.append({"name": name, **told})
    return out
