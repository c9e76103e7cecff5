"""Loops over the lock engine at the speed of C, as gfs2d's worker threads use it: without the GIL, asts at once.

Each function returns the nanoseconds that the loop took. Raises: RuntimeError if one does not complete at once.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from dlm.core._engine cimport LKF_CONVERT, MODE_EX, MODE_NL, MODE_PR, dlm_lksb, dlm_ls
from dlm.core._lock cimport dlm_lock, dlm_unlock
from dlm.core._lockspace cimport Lockspace

cdef enum:
    NAME_LENGTH = 24
    EUNLOCK = 0x10002

cdef struct lock:
    dlm_lksb lksb
    uint32_t casts


cdef void on_cast(void* arg) noexcept nogil:
    (<lock*>arg).casts += 1


cdef void on_bast(void* arg, int mode) noexcept nogil:
    pass


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef int take(dlm_ls* ls, lock* l, int thread, uint32_t number) noexcept nogil:
    cdef char name[NAME_LENGTH + 1]
    snprintf(name, NAME_LENGTH + 1, "%8x%16x", <uint32_t>thread, number)
    return dlm_lock(ls, MODE_EX, &l.lksb, 0, name, NAME_LENGTH, on_cast, l, on_bast)


cdef int finish(int error, lock* l, uint32_t casts, int status) noexcept nogil:
    return 0 if error == 0 and l.casts == casts and l.lksb.sb_status == status else -1


def lock_unlock(Lockspace lockspace not None, int thread, uint32_t n, uint32_t names):
    """n times: a new lock EX, an unlock; on `names` names in turn."""
    cdef dlm_ls* ls = lockspace.ls
    cdef lock l
    cdef int64_t start
    cdef uint32_t i
    cdef int error = 0
    with nogil:
        start = now()
        for i in range(n):
            l.casts = 0
            l.lksb.sb_lvbptr = NULL
            error = finish(take(ls, &l, thread, i % names), &l, 1, 0)
            if error == 0:
                error = finish(dlm_unlock(ls, l.lksb.sb_lkid, 0, &l.lksb, &l), &l, 2, -EUNLOCK)
            if error:
                break
        start = now() - start
    if error:
        raise RuntimeError("an uncontended lock did not complete at once")
    return start


def convert(Lockspace lockspace not None, int thread, uint32_t n, uint32_t names):
    """n conversions, EX to NL and back, of `names` locks in turn."""
    cdef dlm_ls* ls = lockspace.ls
    cdef lock* locks = <lock*>calloc(names, sizeof(lock))
    cdef lock* l
    cdef int64_t start = 0
    cdef uint32_t i
    cdef int error = 0
    if locks == NULL:
        raise MemoryError
    with nogil:
        for i in range(names):
            error = error or finish(take(ls, &locks[i], thread, i), &locks[i], 1, 0)
        start = now()
        for i in range(n if not error else 0):
            l = &locks[i % names]
            l.casts = 0
            error = finish(dlm_lock(ls, MODE_EX if (i / names) % 2 else MODE_NL, &l.lksb, LKF_CONVERT, NULL, 0, on_cast,
                                    l, on_bast), l, 1, 0)
            if error:
                break
        start = now() - start
        for i in range(names):
            dlm_unlock(ls, locks[i].lksb.sb_lkid, 0, NULL, &locks[i])
    free(locks)
    if error:
        raise RuntimeError("an uncontended conversion did not complete at once")
    return start


def keep(Lockspace lockspace not None, int thread, uint32_t n):
    """n new locks that stay, on as many names: what creating files costs; given back afterwards, untimed."""
    cdef dlm_ls* ls = lockspace.ls
    cdef lock* locks = <lock*>calloc(n, sizeof(lock))
    cdef int64_t start = 0
    cdef uint32_t i
    cdef int error = 0
    if locks == NULL:
        raise MemoryError
    with nogil:
        start = now()
        for i in range(n):
            error = finish(take(ls, &locks[i], thread, i), &locks[i], 1, 0)
            if error:
                break
        start = now() - start
        for i in range(n):
            if locks[i].casts:
                dlm_unlock(ls, locks[i].lksb.sb_lkid, 0, NULL, &locks[i])
    free(locks)
    if error:
        raise RuntimeError("a new lock did not complete at once")
    return start
