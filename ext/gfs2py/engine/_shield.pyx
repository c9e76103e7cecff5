"""Shields (see _shield.pxd)."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_init, dlink, gl_atomic_dec32, gl_atomic_inc32,
                                  gl_atomic_load32, pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from gfs2py.fuse._ops cimport OP_WRITE_BACK, fs_req

cdef extern from "<errno.h>" nogil:
    int ENOMEM

cdef struct shield:
    dlink link
    uint64_t unique, no_addr, start, end, answer


cdef void shields_init(shields* s) noexcept nogil:
    pthread_mutex_init(&s.mutex, NULL)
    dl_init(&s.all, NULL)
    s.n = 0


cdef void shields_destroy(shields* s) noexcept nogil:
    cdef dlink* l = s.all.next
    cdef dlink* after
    while l != NULL and l != &s.all:
        after = l.next
        free(l.owner)
        l = after
    pthread_mutex_destroy(&s.mutex)


cdef int shield_raise(shields* s, uint64_t unique, uint64_t no_addr, uint64_t start, uint64_t end,
                      uint64_t answer) noexcept nogil:
    cdef shield* made = <shield*>calloc(1, sizeof(shield))
    if made == NULL:
        return -ENOMEM
    dl_init(&made.link, made)
    made.unique = unique
    made.no_addr = no_addr
    made.start = start
    made.end = end
    made.answer = answer
    pthread_mutex_lock(&s.mutex)
    dl_add_tail(&s.all, &made.link)
    gl_atomic_inc32(&s.n)
    pthread_mutex_unlock(&s.mutex)
    return 0


cdef shield* _of(shields* s, uint64_t unique) noexcept nogil:
    """The mutex is held."""
    cdef dlink* l = s.all.next
    while l != &s.all:
        if (<shield*>l.owner).unique == unique:
            return <shield*>l.owner
        l = l.next
    return NULL


cdef bint _drop(shields* s, uint64_t unique, uint64_t* answer) noexcept nogil:
    cdef shield* found
    pthread_mutex_lock(&s.mutex)
    found = _of(s, unique)
    if found != NULL:
        dl_del(&found.link)
        gl_atomic_dec32(&s.n)
        answer[0] = found.answer
    pthread_mutex_unlock(&s.mutex)
    free(found)
    return found != NULL


cdef void shield_forget(shields* s, uint64_t unique) noexcept nogil:
    cdef uint64_t answer
    if gl_atomic_load32(&s.n):
        _drop(s, unique, &answer)


cdef int shield_lower(shields* s, const fs_req* rq, uint64_t* answer) noexcept nogil:
    cdef shield* found
    if rq.runs == 0 or gl_atomic_load32(&s.n) == 0:
        return SHIELD_NONE
    if not rq.interrupted:
        return 0 if _drop(s, rq.unique, answer) else SHIELD_NONE
    pthread_mutex_lock(&s.mutex)
    found = _of(s, rq.unique)
    if found != NULL:
        answer[0] = found.answer
    pthread_mutex_unlock(&s.mutex)
    return OP_WRITE_BACK if found != NULL else SHIELD_NONE


cdef void shield_in(shields* s, uint64_t no_addr, uint64_t off, uint64_t end, uint64_t* start,
                    uint64_t* stop) noexcept nogil:
    cdef dlink* l
    cdef shield* one
    start[0] = end
    stop[0] = end
    if gl_atomic_load32(&s.n) == 0:
        return
    pthread_mutex_lock(&s.mutex)
    l = s.all.next
    while l != &s.all:
        one = <shield*>l.owner
        if one.no_addr == no_addr and one.start < end and one.end > off and max(one.start, off) < start[0]:
            start[0] = max(one.start, off)
            stop[0] = min(one.end, end)
        l = l.next
    pthread_mutex_unlock(&s.mutex)
