"""Threads, locks, lists and atomics for the engine: thin declarations, no logic."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clk, timespec* ts)
    int CLOCK_REALTIME
    int CLOCK_REALTIME_COARSE
    int CLOCK_MONOTONIC

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_rwlock_t:
        pass
    ctypedef struct pthread_rwlockattr_t:
        pass
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_init(pthread_cond_t*, void*)
    int pthread_cond_destroy(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, const timespec*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)
    int pthread_rwlockattr_init(pthread_rwlockattr_t*)
    int pthread_rwlockattr_setkind_np(pthread_rwlockattr_t*, int)
    int pthread_rwlock_init(pthread_rwlock_t*, pthread_rwlockattr_t*)
    int pthread_rwlock_destroy(pthread_rwlock_t*)
    int pthread_rwlock_rdlock(pthread_rwlock_t*)
    int pthread_rwlock_wrlock(pthread_rwlock_t*)
    int pthread_rwlock_tryrdlock(pthread_rwlock_t*)
    int pthread_rwlock_trywrlock(pthread_rwlock_t*)
    int pthread_rwlock_unlock(pthread_rwlock_t*)
    int pthread_create(pthread_t*, const pthread_attr_t*, void* (*fn)(void*) noexcept nogil, void* arg)
    int pthread_join(pthread_t, void**)

cdef extern from *:
    """
    #define gl_atomic_inc32(p) __atomic_add_fetch((p), 1, __ATOMIC_ACQ_REL)
    #define gl_atomic_dec32(p) __atomic_sub_fetch((p), 1, __ATOMIC_ACQ_REL)
    #define gl_atomic_add64(p, v) __atomic_add_fetch((p), (v), __ATOMIC_RELAXED)
    /* For two threads that each note something and then look for the other's note: at least one of them sees it. */
    #define gl_atomic_note32(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
    #define gl_atomic_note64(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
    #define gl_atomic_look32(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define gl_atomic_look64(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define gl_atomic_load32(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define gl_atomic_load64(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define gl_atomic_store32(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define gl_atomic_store64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    int32_t gl_atomic_inc32(int32_t* p) noexcept nogil
    int32_t gl_atomic_dec32(int32_t* p) noexcept nogil
    int64_t gl_atomic_add64(int64_t* p, int64_t v) noexcept nogil
    int32_t gl_atomic_note32(int32_t* p, int32_t v) noexcept nogil
    uint64_t gl_atomic_note64(uint64_t* p, uint64_t v) noexcept nogil
    int32_t gl_atomic_look32(int32_t* p) noexcept nogil
    uint64_t gl_atomic_look64(uint64_t* p) noexcept nogil
    int32_t gl_atomic_load32(int32_t* p) noexcept nogil
    uint64_t gl_atomic_load64(uint64_t* p) noexcept nogil
    void gl_atomic_store32(int32_t* p, int32_t v) noexcept nogil
    void gl_atomic_store64(uint64_t* p, uint64_t v) noexcept nogil

# An intrusive circular list; a link that is on no list points at itself. `owner` leads back to the struct.
cdef struct dlink:
    dlink* prev
    dlink* next
    void* owner

cdef inline void dl_init(dlink* l, void* owner) noexcept nogil:
    l.prev = l
    l.next = l
    l.owner = owner

cdef inline bint dl_empty(dlink* head) noexcept nogil:
    return head.next == head

cdef inline void dl_add_tail(dlink* head, dlink* l) noexcept nogil:
    l.prev = head.prev
    l.next = head
    head.prev.next = l
    head.prev = l

cdef inline void dl_add_head(dlink* head, dlink* l) noexcept nogil:
    l.next = head.next
    l.prev = head
    head.next.prev = l
    head.next = l

cdef inline void dl_del(dlink* l) noexcept nogil:
    l.prev.next = l.next
    l.next.prev = l.prev
    l.prev = l
    l.next = l

cdef inline void dl_splice_tail(dlink* head, dlink* src) noexcept nogil:
    """Move all of `src` to the end of `head`; `src` is empty afterwards."""
    if src.next == src:
        return
    src.next.prev = head.prev
    head.prev.next = src.next
    src.prev.next = head
    head.prev = src.prev
    src.next = src
    src.prev = src

cdef inline int rwlock_init(pthread_rwlock_t* l) noexcept nogil:
    """A rwlock whose writers are not starved; never take it for reading twice in one thread."""
    cdef pthread_rwlockattr_t attr
    pthread_rwlockattr_init(&attr)
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP)
    return pthread_rwlock_init(l, &attr)
