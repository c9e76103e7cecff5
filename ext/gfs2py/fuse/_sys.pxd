"""System calls, threads and relaxed atomics as the session uses them."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    static inline int fz_load(int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fz_store(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline int fz_add(int *p, int v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline uint64_t fz_load64(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fz_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void fz_order64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void fz_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static __thread void *fz_self;
    static inline void *fz_get_self(void) { return fz_self; }
    static inline void fz_set_self(void *p) { fz_self = p; }
    /* One writer per counter: a relaxed load and store, no locked instruction. */
    static inline void fz_bump(uint64_t *p, uint64_t v)
    { __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED); }
    static inline int fz_log2(uint64_t v) { return v ? 63 - __builtin_clzll(v) : 0; }
    """
    int fz_load(int* p) noexcept nogil
    void fz_store(int* p, int v) noexcept nogil
    int fz_add(int* p, int v) noexcept nogil
    uint64_t fz_load64(uint64_t* p) noexcept nogil
    void fz_store64(uint64_t* p, uint64_t v) noexcept nogil
    void fz_order64(uint64_t* p, uint64_t v) noexcept nogil     # sequentially consistent
    void fz_fence() noexcept nogil
    void* fz_get_self() noexcept nogil      # a pointer of this thread and this module
    void fz_set_self(void* p) noexcept nogil
    void fz_bump(uint64_t* p, uint64_t v) noexcept nogil
    int fz_log2(uint64_t v) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_create(pthread_t* t, const pthread_attr_t* a, void* (*fn)(void*) noexcept nogil, void* arg)
    int pthread_join(pthread_t t, void** ret)
    pthread_t pthread_self()
    int pthread_kill(pthread_t t, int sig)
    int pthread_setname_np(pthread_t t, const char* name)
    int pthread_attr_init(pthread_attr_t* a)
    int pthread_attr_setstacksize(pthread_attr_t* a, size_t n)
    int pthread_attr_destroy(pthread_attr_t* a)
    int pthread_mutex_init(pthread_mutex_t* m, void* a)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)
    int pthread_cond_init(pthread_cond_t* c, const pthread_condattr_t* a)
    int pthread_cond_destroy(pthread_cond_t* c)
    int pthread_cond_wait(pthread_cond_t* c, pthread_mutex_t* m)
    int pthread_cond_timedwait(pthread_cond_t* c, pthread_mutex_t* m, const timespec* ts)
    int pthread_cond_signal(pthread_cond_t* c)
    int pthread_cond_broadcast(pthread_cond_t* c)
    int pthread_condattr_init(pthread_condattr_t* a)
    int pthread_condattr_setclock(pthread_condattr_t* a, int clock)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    ctypedef struct siginfo_t:
        pass
    struct sigaction_t "sigaction":
        void (*sa_handler)(int) noexcept nogil
        int sa_flags
        sigset_t sa_mask
    int sigaction(int sig, const sigaction_t* act, sigaction_t* old)
    int sigfillset(sigset_t* s)
    int sigemptyset(sigset_t* s)
    int sigdelset(sigset_t* s, int sig)
    int pthread_sigmask(int how, const sigset_t* s, sigset_t* old)
    int SIG_SETMASK, SIGRTMIN

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    int nanosleep(const timespec* ts, timespec* left)
    int CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_COARSE

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buf, size_t n)
    ssize_t write(int fd, const void* buf, size_t n)
    int close(int fd)
    int dup(int fd)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events, revents
    int poll(pollfd* fds, unsigned long n, int timeout_ms)
    short POLLIN

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec* v, int n)

cdef extern from "<fcntl.h>" nogil:
    int open(const char* path, int flags, ...)
    int O_RDWR, O_CLOEXEC, O_TRUNC, O_APPEND, O_ACCMODE, O_WRONLY, O_RDONLY, O_DIRECT
    int F_RDLCK, F_WRLCK, F_UNLCK

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long rq, ...)

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, int64_t off)
    int munmap(void* addr, size_t n)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void* MAP_FAILED

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int v, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<string.h>" nogil:
    void* memchr(const void* p, int c, size_t n)
    void* memcpy(void* d, const void* s, size_t n)
    void* memmove(void* d, const void* s, size_t n)
    void* memset(void* d, int c, size_t n)
    int memcmp(const void* a, const void* b, size_t n)

cdef extern from "<stdlib.h>" nogil:
    void* malloc(size_t n)
    void* calloc(size_t n, size_t m)
    void* realloc(void* p, size_t n)
    void free(void* p)
    int posix_memalign(void** p, size_t a, size_t n)

cdef extern from "<errno.h>" nogil:
    int errno, EDEADLK

cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t>ts.tv_sec * 1000000000 + <uint64_t>ts.tv_nsec

cdef inline void sleep_us(long us) noexcept nogil:
    cdef timespec ts
    ts.tv_sec = us // 1000000
    ts.tv_nsec = (us % 1000000) * 1000
    nanosleep(&ts, NULL)
