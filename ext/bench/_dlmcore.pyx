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

cdef struct held:
    dlm_lksb lksb
    uint32_t casts


cdef void on_cast(void* arg) noexcept nogil:
    (<held*>arg).casts += 1


cdef void on_bast(void* arg, int mode) noexcept nogil:
    pass


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef int take(dlm_ls* ls, held* l, int thread, uint32_t number) noexcept nogil:
    cdef char name[NAME_LENGTH + 1]
    snprintf(name, NAME_LENGTH + 1, "%8x%16x", <uint32_t>thread, number)
    return dlm_lock(ls, MODE_EX, &l.lksb, 0, name, NAME_LENGTH, on_cast, l, on_bast)


cdef int finish(int error, held* l, uint32_t casts, int status) noexcept nogil:
    return 0 if error == 0 and l.casts == casts and l.lksb.sb_status == status else -1


def lock_unlock(Lockspace lockspace not None, int thread, uint32_t n, uint32_t names):
    """n times: a new lock EX, an unlock; on `names` names in turn."""
    cdef dlm_ls* ls = lockspace.ls
    cdef held l
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
    cdef held* locks = <held*>calloc(names, sizeof(held))
    cdef held* l
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
    cdef held* locks = <held*>calloc(n, sizeof(held))
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


cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from *:
    """
    #define bench_load32(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define bench_add32(p) __atomic_add_fetch((p), 1, __ATOMIC_ACQ_REL)
    """
    uint32_t bench_load32(uint32_t* p) noexcept nogil
    uint32_t bench_add32(uint32_t* p) noexcept nogil

cdef struct shared:
    # Only ever changed by who holds the lock EX; without exclusion some of it gets lost.
    uint32_t counter
    uint32_t inside

cdef struct contender:
    held l
    uint32_t basts
    uint32_t wrong


cdef void contender_cast(void* arg) noexcept nogil:
    bench_add32(&(<contender*>arg).l.casts)


cdef void contender_bast(void* arg, int mode) noexcept nogil:
    bench_add32(&(<contender*>arg).basts)


cdef int await_casts(contender* c, uint32_t casts, int status) noexcept nogil:
    """Whichever thread makes the call; a call too many is one that came twice."""
    while bench_load32(&c.l.casts) < casts:
        sched_yield()
    return 0 if bench_load32(&c.l.casts) == casts and c.l.lksb.sb_status == status else -1


cdef int take_turns(dlm_ls* ls, shared* s, uint32_t n) noexcept nogil:
    cdef contender c
    cdef uint32_t i, casts = 0
    cdef char* name = b"contended"
    c.l.casts = 0
    c.basts = 0
    c.l.lksb.sb_lvbptr = NULL
    if dlm_lock(ls, MODE_NL, &c.l.lksb, 0, name, 9, contender_cast, &c, contender_bast):
        return -1
    casts += 1
    if await_casts(&c, casts, 0):
        return -2
    for i in range(n):
        if dlm_lock(ls, MODE_EX, &c.l.lksb, LKF_CONVERT, NULL, 0, contender_cast, &c, contender_bast):
            return -3
        casts += 1
        if await_casts(&c, casts, 0):
            return -4
        s.inside += 1
        s.counter += 1
        if s.inside != 1:
            return -5
        s.inside -= 1
        if dlm_lock(ls, MODE_NL, &c.l.lksb, LKF_CONVERT, NULL, 0, contender_cast, &c, contender_bast):
            return -6
        casts += 1
        if await_casts(&c, casts, 0):
            return -7
    if dlm_unlock(ls, c.l.lksb.sb_lkid, 0, NULL, &c):
        return -8
    return await_casts(&c, casts + 1, -EUNLOCK)


cdef class Turns:
    """Threads that take turns with one lock EX, and count under it."""

    cdef shared s

    def run(self, Lockspace lockspace not None, uint32_t n):
        """n turns of this thread: 0, or what went wrong first."""
        cdef dlm_ls* ls = lockspace.ls
        cdef int error
        with nogil:
            error = take_turns(ls, &self.s, n)
        return error

    def count(self):
        return self.s.counter
