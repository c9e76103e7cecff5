"""A compiled caller of the lock manager, as gfs2d is one: asks, sleeps until it is done, without the interpreter."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from dlm.core._engine cimport LKF_CONVERT, dlm_bast_fn, dlm_lksb, dlm_ls
from dlm.core._lock cimport dlm_lock, dlm_unlock
from dlm.core._lockspace cimport Lockspace

import os


cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t*, int, unsigned int)
    int sem_destroy(sem_t*)
    int sem_post(sem_t*)
    int sem_wait(sem_t*)


cdef struct waiter:
    sem_t done
    dlm_lksb lksb


cdef void on_ast(void* arg) noexcept nogil:
    sem_post(&(<waiter*>arg).done)


cdef int sleep_until_done(waiter* w) noexcept nogil:
    while sem_wait(&w.done) and errno == EINTR:
        pass
    return w.lksb.sb_status


cdef int ask(dlm_ls* ls, waiter* w, int mode, uint32_t flags, const char* name, uint32_t length) noexcept nogil:
    cdef int error = dlm_lock(ls, mode, &w.lksb, flags, name, length, on_ast, w, <dlm_bast_fn>NULL)
    return error if error else sleep_until_done(w)


def converts(Lockspace space not None, bytes name not None, int low, int high, int count):
    """Take a lock in mode `low`, go up to `high` and down again `count` times, release. Raises OSError."""
    cdef waiter w
    cdef dlm_ls* ls = space.ls
    cdef const char* key = PyBytes_AS_STRING(name)
    cdef uint32_t length = <uint32_t>PyBytes_GET_SIZE(name)
    cdef int i, error
    memset(&w, 0, sizeof(w))
    sem_init(&w.done, 0, 0)
    with nogil:
        error = ask(ls, &w, low, 0, key, length)
        for i in range(count):
            if error:
                break
            error = ask(ls, &w, high, LKF_CONVERT, key, length)
            if not error:
                error = ask(ls, &w, low, LKF_CONVERT, key, length)
        if not error and dlm_unlock(ls, w.lksb.sb_lkid, 0, &w.lksb, &w) == 0:
            sleep_until_done(&w)
    sem_destroy(&w.done)
    if error:
        raise OSError(-error, os.strerror(-error))
