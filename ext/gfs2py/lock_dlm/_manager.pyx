"""Glocks as locks of a DLM lockspace: what a shared mount's glocks ask, and who wakes them.

Every glock that was ever asked for has a `held` here, its lock in the lockspace. Operations come from any thread and
are answered by whichever thread brought the grant: at once where this node masters the resource and nobody is in the
way, so an uncontended lock costs neither a message nor a switch of threads.

Names, modes, flags and value blocks are lock_dlm's, so that kernel nodes may share the lockspace:
    name    24 columns: type in 8, number in 16, hexadecimal, to the right
    mode    UN = NL (a lock once taken is kept at NL), SH = PR, DF = CW, EX = EX
    value   32 bytes for inodes, groups and quotas
Source: fs/gfs2/lock_dlm.c (make_strname, make_mode, make_flags, gdlm_ast, gdlm_bast), kernel 6.1.

While a node's death is being dealt with (block() to unblock()) grants are kept back: what that node had under its lock
is only on the disk when its journal has been replayed. Locks asked for with LM_NOEXP are the replay's own and pass.
So do iopen locks, under which nothing is written: letting an inode go asks for one, and the replay may wait for that.
What only tried is not kept back but given back, and told -EAGAIN: a lock that the replay needs, too, must not lie with
somebody who waits for the replay.

Lock order: alive (shared) -> mutex -> gls.lock. The lockspace is called without mutex and gls.lock.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from dlm._bridge cimport bridge_gather
from dlm.core._engine cimport (LKF_CONVERT, LKF_NOQUEUE, LKF_NOQUEUEBAST, LKF_QUECVT, LKF_VALBLK, MODE_CW, MODE_EX,
                               MODE_NL, MODE_PR, SBF_VALNOTVALID)
from dlm.core._lock cimport dlm_lock, dlm_unlock
from dlm.core._lockspace cimport Lockspace
from gfs2py.engine._glock cimport LM_NOEXP, LM_QUECVT, LM_TRY, LM_TRY_1CB, glock_answer, glock_wanted
from gfs2py.engine._incore cimport (LM_ST_DEFERRED, LM_ST_EXCLUSIVE, LM_ST_SHARED, LM_ST_UNLOCKED, LM_TYPE_INODE,
                                    LM_TYPE_IOPEN, LM_TYPE_QUOTA, LM_TYPE_RGRP, gls, glx, lm_ops)
from gfs2py.engine._sync cimport (dl_add_tail, dl_del, dl_empty, dl_init, dlink, gl_atomic_add64, pthread_mutex_destroy,
                                  pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, pthread_rwlock_destroy,
                                  pthread_rwlock_init, pthread_rwlock_rdlock, pthread_rwlock_unlock,
                                  pthread_rwlock_wrlock)

cdef extern from "<errno.h>" nogil:
    int EAGAIN, EBUSY, ENOENT, ENOMEM

cdef enum:
    NAME_BYTES = 24
    VALUE_BYTES = 32
    # How the lockspace reports the end of a lock.
    E_UNLOCK = 0x10002


# ---- words ----------------------------------------------------------------------------------------------------------

cdef inline int dlm_mode(int32_t state) noexcept nogil:
    if state == LM_ST_EXCLUSIVE:
        return MODE_EX
    if state == LM_ST_SHARED:
        return MODE_PR
    return MODE_CW if state == LM_ST_DEFERRED else MODE_NL


cdef inline bint has_value(uint32_t type) noexcept nogil:
    return type == LM_TYPE_INODE or type == LM_TYPE_RGRP or type == LM_TYPE_QUOTA


cdef uint32_t _flags_of(const held* h) noexcept nogil:
    cdef uint32_t f = LKF_VALBLK if h.lksb.sb_lvbptr != NULL else 0
    if h.known:
        f |= LKF_CONVERT
    if h.flags & LM_TRY_1CB:
        return f | LKF_NOQUEUE | LKF_NOQUEUEBAST
    if h.flags & LM_TRY:
        return f | LKF_NOQUEUE
    # Only from NL is a place at the end of the queue allowed for every mode.
    if h.known and h.flags & LM_QUECVT and h.have == LM_ST_UNLOCKED:
        f |= LKF_QUECVT
    return f


# ---- from the lockspace ---------------------------------------------------------------------------------------------

cdef void _destroy(manager* m) noexcept nogil:
    pthread_mutex_destroy(&m.mutex)
    pthread_rwlock_destroy(&m.alive)
    free(m)


cdef void _free(held* h) noexcept nogil:
    cdef manager* m = h.lm
    cdef bint last
    pthread_mutex_lock(&m.mutex)
    dl_del(&h.all)
    dl_del(&h.frozen)
    last = m.orphan and dl_empty(&m.all)
    pthread_mutex_unlock(&m.mutex)
    free(h)
    if last:
        _destroy(m)


cdef inline bint _passes(const held* h) noexcept nogil:
    """Whether a grant is none that has to wait for a replay."""
    return h.want <= h.have or h.flags & LM_NOEXP or (h.x != NULL and h.x.gl.type == LM_TYPE_IOPEN)


cdef bint _blocks(held* h) noexcept nogil:
    """Whether a grant comes while somebody's journal waits for its replay, and is not the replay's own."""
    cdef manager* m = h.lm
    cdef bint yes
    if _passes(h):
        return False
    pthread_mutex_lock(&m.mutex)
    yes = m.blocked
    pthread_mutex_unlock(&m.mutex)
    return yes


cdef bint _kept_back(held* h) noexcept nogil:
    """The same; it is on the list then, and told when all is done."""
    cdef manager* m = h.lm
    cdef bint yes
    if _passes(h):
        return False
    pthread_mutex_lock(&m.mutex)
    yes = m.blocked
    if yes:
        dl_add_tail(&m.frozen, &h.frozen)
        m.n_frozen += 1
    pthread_mutex_unlock(&m.mutex)
    return yes


cdef void _decline(held* h) noexcept nogil:
    """Back to what was held before; its value is not touched, for nobody here has had the lock."""
    cdef manager* m = h.lm
    cdef int err
    h.declining = True
    gl_atomic_add64(<int64_t*>&m.n_declined, 1)
    err = dlm_lock(m.ls, dlm_mode(h.have), &h.lksb, LKF_CONVERT, h.name, NAME_BYTES, _ast, h, _bast)
    if err == -EBUSY:
        h.again = True
    elif err:
        h.declining = False
        glock_answer(h.x, err)


cdef void _ast(void* arg) noexcept nogil:
    """An operation has ended. No other is begun for this lock before glock_answer."""
    cdef held* h = <held*>arg
    cdef manager* m = h.lm
    if h.lksb.sb_status == -<int>E_UNLOCK:
        _free(h)
        return
    pthread_rwlock_rdlock(&m.alive)
    if not m.silent:
        _ended(h, h.x)
    pthread_rwlock_unlock(&m.alive)


cdef void _ended(held* h, glx* x) noexcept nogil:
    cdef int status = h.lksb.sb_status
    if h.declining:
        h.declining = False
        glock_answer(x, -EAGAIN)
        return
    if status == 0:
        h.known = True
    elif not h.known:
        h.lksb.sb_lkid = 0
    if status == 0 and h.want > h.have and h.lksb.sb_lvbptr != NULL:
        if h.lksb.sb_flags & SBF_VALNOTVALID:
            # Whoever wrote it last has died with a newer one: to us it says nothing.
            memset(h.value, 0, VALUE_BYTES)
            gl_atomic_add64(<int64_t*>&h.lm.n_invalid, 1)
        # A born lock keeps what this node says of it.
        if x.gl.state != LM_ST_EXCLUSIVE:
            memcpy(x.gl.lvb, h.value, VALUE_BYTES)
    if status == 0 and h.flags & LM_TRY_1CB and _blocks(h):
        _decline(h)
        return
    if status == 0 and _kept_back(h):
        return
    glock_answer(x, status)


cdef void _bast(void* arg, int mode) noexcept nogil:
    cdef held* h = <held*>arg
    cdef manager* m = h.lm
    cdef int32_t leave = LM_ST_UNLOCKED
    cdef bint again
    if mode == MODE_PR:
        leave = LM_ST_SHARED
    elif mode == MODE_CW:
        leave = LM_ST_DEFERRED
    pthread_rwlock_rdlock(&m.alive)
    if not m.silent:
        pthread_mutex_lock(&m.mutex)        # an unlock could free x
        again = h.again
        h.again = False
        if h.x != NULL:
            glock_wanted(h.x, leave)
        pthread_mutex_unlock(&m.mutex)
        if again and h.declining:
            _decline(h)
        elif again:
            _ask(h)
    pthread_rwlock_unlock(&m.alive)


# ---- from the glocks ------------------------------------------------------------------------------------------------

cdef held* _held_of(manager* m, glx* x) noexcept nogil:
    cdef held* h = <held*>x.handle
    cdef char text[32]
    if h != NULL:
        return h
    h = <held*>calloc(1, sizeof(held))
    if h == NULL:
        return NULL
    h.lm = m
    h.x = x
    dl_init(&h.all, h)
    dl_init(&h.frozen, h)
    snprintf(text, sizeof(text), b"%8x%16llx", x.gl.type, <unsigned long long>x.gl.number)
    memcpy(h.name, text, NAME_BYTES)
    if has_value(x.gl.type):
        h.lksb.sb_lvbptr = h.value
    x.handle = h
    pthread_mutex_lock(&m.mutex)
    dl_add_tail(&m.all, &h.all)
    pthread_mutex_unlock(&m.mutex)
    return h


cdef void _ask(held* h) noexcept nogil:
    cdef manager* m = h.lm
    cdef glx* x = h.x
    cdef int err
    err = dlm_lock(m.ls, dlm_mode(h.want), &h.lksb, _flags_of(h), h.name, NAME_BYTES, _ast, h, _bast)
    if err == -EBUSY:
        # Calls for this lock are still on their way to us; the next of them asks again.
        h.again = True
        gl_atomic_add64(<int64_t*>&m.n_again, 1)
    elif err:
        glock_answer(x, err)


cdef void _lock(void* lm, glx* x, int32_t have, int32_t want, uint32_t flags) noexcept nogil:
    cdef manager* m = <manager*>lm
    cdef held* h = _held_of(m, x)
    if h == NULL:
        glock_answer(x, -ENOMEM)
        return
    h.have = have
    h.want = want
    h.flags = flags
    if want < have and have == LM_ST_EXCLUSIVE:
        memcpy(h.value, x.gl.lvb, VALUE_BYTES)
    gl_atomic_add64(<int64_t*>&m.n_asked, 1)
    _ask(h)


cdef void _unlock(void* lm, glx* x, int32_t have) noexcept nogil:
    cdef manager* m = <manager*>lm
    cdef held* h = <held*>x.handle
    cdef int err
    if h == NULL:
        return
    if have == LM_ST_EXCLUSIVE:
        memcpy(h.value, x.gl.lvb, VALUE_BYTES)
    pthread_mutex_lock(&m.mutex)
    h.x = NULL
    pthread_mutex_unlock(&m.mutex)
    x.handle = NULL
    err = dlm_unlock(m.ls, h.lksb.sb_lkid, LKF_VALBLK if h.lksb.sb_lvbptr != NULL else 0, &h.lksb, h) \
        if h.known else -ENOENT
    # Never granted, or forgotten by the lockspace: no call will come. With any other error (the lockspace is broken) it
    # still has our block, which goes with the mount.
    if err == -ENOENT:
        _free(h)


cdef void _gather(void* lm, bint on) noexcept nogil:
    bridge_gather((<manager*>lm).ls, on)


cdef lm_ops _ops
_ops.lock = _lock
_ops.unlock = _unlock
_ops.gather = _gather


cdef class DlmLocks(LockManager):
    """The lock manager of one mount: Gfs2(locks=DlmLocks(lockspace)). The lockspace is the mount's own."""

    def __cinit__(self, Lockspace lockspace not None):
        if lockspace.lvblen != VALUE_BYTES:
            raise ValueError(f"a lockspace for GFS2 has value blocks of {VALUE_BYTES} bytes, not {lockspace.lvblen}")
        self.m = <manager*>calloc(1, sizeof(manager))
        if self.m == NULL:
            raise MemoryError
        pthread_mutex_init(&self.m.mutex, NULL)
        pthread_rwlock_init(&self.m.alive, NULL)    # for readers first: they may come again from within a call
        dl_init(&self.m.all, NULL)
        dl_init(&self.m.frozen, NULL)
        self.lockspace = lockspace
        self.m.ls = lockspace.ls
        self.lm = self.m
        self.ops = &_ops

    def __dealloc__(self):
        # The lockspace has the blocks of locks whose unlock is still under way; the last of them takes the rest along.
        cdef bint last
        if self.m == NULL:
            return
        pthread_mutex_lock(&self.m.mutex)
        self.m.orphan = True
        last = dl_empty(&self.m.all)
        pthread_mutex_unlock(&self.m.mutex)
        if last:
            _destroy(self.m)

    cdef void silence(self):
        with nogil:
            pthread_rwlock_wrlock(&self.m.alive)
            self.m.silent = True
            pthread_rwlock_unlock(&self.m.alive)

    cdef void detach(self):
        cdef dlink* l
        pthread_mutex_lock(&self.m.mutex)
        l = self.m.all.next
        while l != &self.m.all:
            (<held*>l.owner).x = NULL
            l = l.next
        while not dl_empty(&self.m.frozen):
            dl_del(self.m.frozen.next)
        pthread_mutex_unlock(&self.m.mutex)
        self.gs = NULL

    def block(self):
        """From here on grants are kept back: a node may have died whose journal is not replayed.

        To be called before the lockspace is stopped, so that no grant of its recovery slips through.
        """
        pthread_mutex_lock(&self.m.mutex)
        self.m.blocked = True
        pthread_mutex_unlock(&self.m.mutex)

    def unblock(self):
        """All journals of dead nodes are replayed: what was kept back is given out, in order. Returns how many."""
        cdef held* h
        cdef int n = 0
        with nogil:
            while True:
                pthread_mutex_lock(&self.m.mutex)
                self.m.blocked = False
                h = NULL
                if not dl_empty(&self.m.frozen):
                    h = <held*>self.m.frozen.next.owner
                    dl_del(&h.frozen)
                pthread_mutex_unlock(&self.m.mutex)
                if h == NULL:
                    break
                pthread_rwlock_rdlock(&self.m.alive)
                if not self.m.silent:
                    n += 1
                    glock_answer(h.x, 0)
                pthread_rwlock_unlock(&self.m.alive)
        return n

    @property
    def blocked(self):
        return bool(self.m.blocked)

    def statistics(self):
        """Requests asked for, grants kept back or given back, requests asked once more, value blocks not valid."""
        return {"asked": self.m.n_asked, "kept_back": self.m.n_frozen, "declined": self.m.n_declined,
                "asked_again": self.m.n_again,
                "values_invalid": self.m.n_invalid}
