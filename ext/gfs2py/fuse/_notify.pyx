"""The notifiers: they alone write notifications, hold no lock while they do, and serve no request.

An invalidation can block in the kernel until a READ or WRITE of this very mount is answered; written by a worker it
would wait for itself, in a state that only the abort of the connection ends.
"""
from libc.errno cimport EAGAIN, EINVAL, ENOMEM, ENOSYS
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._proto cimport (FUSE_NOTIFY_DELETE, FUSE_NOTIFY_INVAL_ENTRY, FUSE_NOTIFY_INVAL_INODE,
                                 FUSE_NOTIFY_STORE, INVAL_ENTRY_EXPIRE_ONLY, NAME_MAX_BYTES, NOTIFY_INC_EPOCH,
                                 NOTIFY_PRUNE, fuse_notify_delete_out, fuse_notify_inval_entry_out,
                                 fuse_notify_inval_inode_out, fuse_notify_store_out, fuse_out_header,
                                 notify_prune_out)
from gfs2py.fuse._ops cimport fs_kernel
from gfs2py.fuse._state cimport MAX_NOTIFIERS, NOTIFY_QUEUE, notice, notify_begin, notify_done, session
from gfs2py.fuse._sys cimport *

cdef union body:
    fuse_notify_inval_inode_out inode
    fuse_notify_inval_entry_out entry
    fuse_notify_delete_out gone
    fuse_notify_store_out store
    notify_prune_out prune

cdef int ENOTCONN = 107

cdef enum:
    DIRECT_DROPS_MINOR = 42
    PRUNE_MINOR = 45


cdef int write_notice(session* se, notice* n) noexcept nogil:
    cdef fuse_out_header h
    cdef body b
    cdef iovec v[4]
    cdef int count = 2
    cdef uint8_t zero = 0
    cdef size_t i, total = 0
    memset(&b, 0, sizeof(b))
    v[0].iov_base = &h
    v[0].iov_len = sizeof(h)
    v[1].iov_base = &b
    if n.code == FUSE_NOTIFY_INVAL_INODE:
        b.inode.ino = n.a
        b.inode.off = n.off
        b.inode.len = n.length
        v[1].iov_len = sizeof(fuse_notify_inval_inode_out)
    elif n.code == FUSE_NOTIFY_INVAL_ENTRY:
        b.entry.parent = n.a
        b.entry.namelen = n.namelen
        b.entry.flags = n.flags
        v[1].iov_len = sizeof(fuse_notify_inval_entry_out)
    elif n.code == FUSE_NOTIFY_DELETE:
        b.gone.parent = n.a
        b.gone.child = n.b
        b.gone.namelen = n.namelen
        v[1].iov_len = sizeof(fuse_notify_delete_out)
    elif n.code == FUSE_NOTIFY_STORE:
        b.store.nodeid = n.a
        b.store.offset = <uint64_t>n.off
        b.store.size = <uint32_t>n.length
        v[1].iov_len = sizeof(fuse_notify_store_out)
        v[2].iov_base = n.data
        v[2].iov_len = <size_t>n.length
        count = 3
    elif n.code == NOTIFY_PRUNE:
        b.prune.count = 1
        v[1].iov_len = sizeof(notify_prune_out)
        v[2].iov_base = &n.a
        v[2].iov_len = sizeof(uint64_t)
        count = 3
    else:
        count = 1
    if n.code == FUSE_NOTIFY_INVAL_ENTRY or n.code == FUSE_NOTIFY_DELETE:
        v[2].iov_base = n.name
        v[2].iov_len = n.namelen + 1        # with its NUL
        count = 3
    for i in range(<size_t>count):
        total += v[i].iov_len
    h.len = <uint32_t>total
    h.error = n.code
    h.unique = 0
    return 0 if writev(se.fd, v, count) >= 0 else -errno


cdef void* notifier_main(void* arg) noexcept nogil:
    cdef session* se = <session*>arg
    cdef notice n
    cdef int err
    pthread_setname_np(pthread_self(), "gfs2d-notify")
    pthread_mutex_lock(&se.nq_mutex)
    while True:
        while se.nq_len == 0 and not se.stopping:
            if se.nq_busy == 0:
                pthread_cond_broadcast(&se.nq_idle)
            pthread_cond_wait(&se.nq_cond, &se.nq_mutex)
        if se.nq_len == 0:
            break
        n = se.nq[se.nq_head]
        se.nq_head = (se.nq_head + 1) % NOTIFY_QUEUE
        se.nq_len -= 1
        se.nq_busy += 1
        pthread_mutex_unlock(&se.nq_mutex)
        if n.begin != NULL:
            n.begin(n.arg)
        err = -ENOTCONN if se.stopping else write_notice(se, &n)
        if n.done != NULL:
            n.done(n.arg, err)
        free(n.data)
        pthread_mutex_lock(&se.nq_mutex)
        se.nq_busy -= 1
        se.n_notices += 1
        if err < 0:
            se.n_notice_errors += 1
    pthread_cond_broadcast(&se.nq_idle)
    pthread_mutex_unlock(&se.nq_mutex)
    return NULL


cdef int add_notifier(session* se) noexcept nogil:
    """One more notifier; nq_mutex is held."""
    cdef sigset_t full, old
    cdef int err
    if se.n_notifiers == MAX_NOTIFIERS:
        return 0
    sigfillset(&full)
    pthread_sigmask(SIG_SETMASK, &full, &old)
    err = pthread_create(&se.notifiers[se.n_notifiers], NULL, notifier_main, se)
    pthread_sigmask(SIG_SETMASK, &old, NULL)
    if err == 0:
        se.n_notifiers += 1
    return -err


cdef int notify_start(session* se) noexcept nogil:
    se.nq = <notice*>calloc(NOTIFY_QUEUE, sizeof(notice))
    return 0 if se.nq != NULL else -ENOMEM


cdef void notify_stop(session* se) noexcept nogil:
    """Join the notifiers; what still stood in the queue is answered with ENOTCONN. se.stopping must be set."""
    cdef int i
    pthread_mutex_lock(&se.nq_mutex)
    pthread_cond_broadcast(&se.nq_cond)
    pthread_mutex_unlock(&se.nq_mutex)
    for i in range(se.n_notifiers):
        pthread_join(se.notifiers[i], NULL)
    se.n_notifiers = 0
    pthread_mutex_lock(&se.nq_mutex)
    while se.nq_direct:
        pthread_cond_wait(&se.nq_idle, &se.nq_mutex)
    pthread_mutex_unlock(&se.nq_mutex)
    free(se.nq)
    se.nq = NULL


cdef int push(session* se, notice* n) noexcept nogil:
    """Queue a copy. A notifier that blocks in the kernel must not hold up the rest: another one is started."""
    cdef int err = 0
    pthread_mutex_lock(&se.nq_mutex)
    if se.stopping or se.nq == NULL:
        err = -ENOTCONN
    elif se.nq_len == NOTIFY_QUEUE:
        err = -EAGAIN
    elif se.nq_busy >= se.n_notifiers:
        err = add_notifier(se)
        if se.n_notifiers > 0:
            err = 0
    if err == 0:
        se.nq[(se.nq_head + se.nq_len) % NOTIFY_QUEUE] = n[0]
        se.nq_len += 1
        pthread_cond_signal(&se.nq_cond)
    pthread_mutex_unlock(&se.nq_mutex)
    return err


cdef inline void fresh(notice* n, int code, uint64_t a, notify_done done, void* arg) noexcept nogil:
    memset(n, 0, sizeof(notice))
    n.code = code
    n.a = a
    n.done = done
    n.arg = arg


cdef int named(session* se, notice* n, const char* name, uint32_t namelen) noexcept nogil:
    if namelen == 0 or namelen > NAME_MAX_BYTES:
        return -EINVAL
    memcpy(n.name, name, namelen)
    n.namelen = namelen
    return push(se, n)


cdef int session_notify_inval_inode(session* se, uint64_t ino, int64_t off, int64_t length, notify_done done,
                                    void* arg) noexcept nogil:
    cdef notice n
    fresh(&n, FUSE_NOTIFY_INVAL_INODE, ino, done, arg)
    n.off = off
    n.length = length
    return push(se, &n)


cdef int session_notify_inval_entry(session* se, uint64_t parent, const char* name, uint32_t namelen, bint expire_only,
                                    notify_done done, void* arg) noexcept nogil:
    cdef notice n
    fresh(&n, FUSE_NOTIFY_INVAL_ENTRY, parent, done, arg)
    n.flags = INVAL_ENTRY_EXPIRE_ONLY if expire_only else 0
    return named(se, &n, name, namelen)


cdef int session_notify_delete(session* se, uint64_t parent, uint64_t child, const char* name, uint32_t namelen,
                               notify_done done, void* arg) noexcept nogil:
    cdef notice n
    fresh(&n, FUSE_NOTIFY_DELETE, parent, done, arg)
    n.b = child
    return named(se, &n, name, namelen)


cdef int session_notify_prune(session* se, uint64_t ino, notify_done done, void* arg) noexcept nogil:
    cdef notice n
    fresh(&n, NOTIFY_PRUNE, ino, done, arg)
    return push(se, &n)


cdef int session_notify_inc_epoch(session* se, notify_done done, void* arg) noexcept nogil:
    cdef notice n
    fresh(&n, NOTIFY_INC_EPOCH, 0, done, arg)
    return push(se, &n)


cdef int session_notify_store(session* se, uint64_t ino, uint64_t off, const uint8_t* data, uint32_t length,
                              notify_done done, void* arg) noexcept nogil:
    cdef notice n
    cdef int err
    fresh(&n, FUSE_NOTIFY_STORE, ino, done, arg)
    n.off = <int64_t>off
    n.length = length
    n.data = <uint8_t*>malloc(length if length > 0 else 1)
    if n.data == NULL:
        return -ENOMEM
    memcpy(n.data, data, length)
    err = push(se, &n)
    if err < 0:
        free(n.data)
    return err


# ---- what a file system takes back (fs_kernel) ----------------------------------------------------------------------

cdef int _drop_inode(void* arg, uint64_t nodeid, notify_begin begin, notify_done done, void* who) noexcept nogil:
    cdef notice n
    fresh(&n, FUSE_NOTIFY_INVAL_INODE, nodeid, done, who)
    n.begin = begin
    return push(<session*>arg, &n)


cdef int _drop_attrs(void* arg, uint64_t nodeid) noexcept nogil:
    cdef session* se = <session*>arg
    cdef notice n
    cdef int err
    pthread_mutex_lock(&se.nq_mutex)
    if se.stopping or se.nq == NULL:
        pthread_mutex_unlock(&se.nq_mutex)
        return -ENOTCONN
    se.nq_direct += 1
    pthread_mutex_unlock(&se.nq_mutex)
    fresh(&n, FUSE_NOTIFY_INVAL_INODE, nodeid, NULL, NULL)
    n.off = -1
    err = write_notice(se, &n)
    pthread_mutex_lock(&se.nq_mutex)
    se.n_notices += 1
    se.nq_direct -= 1
    if se.nq_direct == 0:
        pthread_cond_broadcast(&se.nq_idle)
    pthread_mutex_unlock(&se.nq_mutex)
    return err


cdef int _drop_unused(void* arg, uint64_t nodeid) noexcept nogil:
    if (<session*>arg).kernel_minor < PRUNE_MINOR:
        return -ENOSYS
    return session_notify_prune(<session*>arg, nodeid, NULL, NULL)


cdef void session_kernel(session* se, fs_kernel* out) noexcept nogil:
    out.arg = se
    out.direct_drops = se.kernel_minor >= DIRECT_DROPS_MINOR
    out.drop_inode = _drop_inode
    out.drop_attrs = _drop_attrs
    out.drop_unused = _drop_unused
