"""What the engine needs from C: locks, little-endian numbers, lists. Declarations and one-liners, no logic."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "<endian.h>" nogil:
    uint16_t htole16(uint16_t)
    uint16_t htobe16(uint16_t)
    uint16_t be16toh(uint16_t)
    uint16_t le16toh(uint16_t)
    uint32_t htole32(uint32_t)
    uint32_t le32toh(uint32_t)
    uint64_t htole64(uint64_t)
    uint64_t le64toh(uint64_t)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_mutexattr_t:
        pass
    int PTHREAD_MUTEX_ADAPTIVE_NP
    int pthread_mutexattr_init(pthread_mutexattr_t*)
    int pthread_mutexattr_settype(pthread_mutexattr_t*, int)
    int pthread_mutex_init(pthread_mutex_t*, const pthread_mutexattr_t*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)

# errno of the operations. Those above 34 are written down as the protocol has them: it fixed the numbers of
# most Linux machines for all.
cdef enum:
    E_NOENT = 2
    E_SRCH = 3
    E_INTR = 4
    E_AGAIN = 11
    E_NOMEM = 12
    E_NOTBLK = 15
    E_BUSY = 16
    E_EXIST = 17
    E_INVAL = 22
    E_DEADLK = 35
    E_BADR = 53
    E_PROTO = 71
    E_OPNOTSUPP = 95
    E_NOBUFS = 105
    E_TIMEDOUT = 110
    E_INPROGRESS = 115
    E_CANCEL = 0x10001
    E_UNLOCK = 0x10002

# An intrusive circular list; a link that is on no list points at itself. `owner` leads back to the struct.
cdef struct dlink:
    dlink* prev
    dlink* next
    void* owner

cdef inline void dl_init(dlink* l, void* owner) noexcept nogil:
    l.prev = l
    l.next = l
    l.owner = owner

cdef inline bint dl_empty(const dlink* head) noexcept nogil:
    return head.next == head

cdef inline void dl_add_tail(dlink* head, dlink* l) noexcept nogil:
    """Also "before": the element in front of `head`, whatever `head` is."""
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
    """Moves all of `src` to the end of `head`; `src` is empty afterwards."""
    if src.next == src:
        return
    src.next.prev = head.prev
    head.prev.next = src.next
    src.prev.next = head
    head.prev = src.prev
    src.next = src
    src.prev = src
