"""Cluster locks of one mount: who of this node may do what under a glock; the way up and down. docs/design/glocks.md.

A glock has two sides. `glock` (in the inode or group) is the local one: operations hold `rw`, and look at `avail`, the
mode up to which they are admitted. `glx` is the cluster's: what was granted, what is under way, who waits, what other
nodes want. With lock_nolock there is no glx, and nothing of this module runs.

    acquire   avail too low -> waiter -> lock manager asked -> granted -> avail raised, waiters woken (or unparked)
    demote    another node wants it -> minimum hold -> gate closed (avail lowered) -> the last holder leaves ->
              demoter thread: flush and forget (gls.go) -> lock manager told

Locks: lock manager's own -> gls.lock -> the session's. Operations of the lock manager are called without gls.lock; it
calls glock_answer and glock_wanted from any thread, also from within its operation.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport demoter, glock, gls, glx, gwaiter, lm_ops, opctx, sbd

cdef enum:
    # opctx.gl_flags and the flags of glock_rgrp
    GL_TRY = 1                      # -EAGAIN rather than wait for another node
    GL_NOEXP = 2                    # granted although a dead node's locks still stand: for recovery
    GL_NOPARK = 4                   # sleep for it, whoever asks
    GL_LOCAL = 8                    # -EAGAIN unless it is here already: nobody is asked
    GL_PARKTRY = 16                 # with GL_TRY: parks until the answer has come

    # flags to the lock manager
    LM_TRY = 1                      # refuse (-EAGAIN) what cannot be granted at once; the lock stays as it was
    LM_TRY_1CB = 2                  # the same, and the holders are told once
    LM_NOEXP = 4                    # as GL_NOEXP
    LM_QUECVT = 8                   # a conversion goes to the end of the queue

    # glx.flags
    GLX_BUSY = 1                    # a demoter works on it
    GLX_UNREG = 2                   # EX on this node by birth: the lock manager does not know it yet
    GLX_REGISTERING = 4             # it is being told
    GLX_KNOWN = 8                   # the lock manager keeps something for it
    GLX_NOUP = 16                   # a conversion from SH to EX was refused: down first
    GLX_CONTENDED = 32              # another node wanted it
    GLX_DROP = 64                   # the demotion under way is our own wish
    GLX_PINNED = 128                # glx.pin stays, whoever wants more
    GLX_GOING = 256                 # gls.gone is to be called
    GLX_POKE = 512                  # pinned, and wanted by others: gls.poke is to be called

cdef enum:                          # gls.planted
    PLANT_NONE = 0, PLANT_NO_FLUSH = 1, PLANT_KEEP_VALID = 2, PLANT_KEEP_BUFFERS = 3, PLANT_NO_LVB = 4
    PLANT_NO_TAIL = 5, PLANT_NO_DATA = 6, PLANT_KEEP_PAGES = 7, PLANT_KEEP_ATTRS = 8, PLANT_ONE_ROUND = 9
    PLANT_KEEP_INODES = 10

cdef enum:                          # glx.taking: the kernel's pages
    TAKE_NO = 0
    TAKE_ASKED = 1                  # it was told to give them back
    TAKE_DONE = 2                   # it has given back what it had when `before` was noted

# -- setting up
cdef int gls_start(gls* gs) noexcept nogil
cdef void gls_stop(gls* gs) noexcept nogil          # no demotion begins any more; whoever waits gets -EIO
cdef void gls_destroy(gls* gs) noexcept nogil
cdef int glock_init(sbd* sd, glock* gl, uint32_t type, uint64_t number, void* owner) noexcept nogil
cdef void glock_free(glock* gl) noexcept nogil      # unlocked, or at the end; nobody uses it
# The glock of an inode that this node has just made: nobody else can know it.
cdef void glock_born(glock* gl) noexcept nogil

# -- operations
# Takes rw and waits for the cluster if need be (where gl.x is not NULL). 0, OP_PARK, -EAGAIN, -EINTR, -EIO.
cdef int glock_enter(opctx* cx, glock* gl, int32_t mode, uint32_t flags) noexcept nogil
# Only the slow half: rw is not held, and is when this returns 0.
cdef int glock_slow(opctx* cx, glock* gl, int32_t mode, uint32_t flags) noexcept nogil
cdef void glock_leave(opctx* cx, glock* gl) noexcept nogil              # drops rw
# A request that was parked is answered: what was kept for it is free. Without this call it is after a while.
cdef void glock_done(gls* gs, uint64_t unique) noexcept nogil
# The operation parks for another glock: this one, which it held, stays until it has run again.
cdef void glock_keep(opctx* cx, glock* gl) noexcept nogil
cdef void glock_changed(opctx* cx, glock* gl) noexcept nogil            # cx's transactions changed what is under it

# -- the lock manager
cdef void glock_answer(glx* x, int32_t err) noexcept nogil              # of the request under way
cdef void glock_wanted(glx* x, int32_t leave) noexcept nogil            # another node leaves us this mode (BAST)

cdef void glock_rerun(glock* gl) noexcept nogil     # parked requests that wait for it look again what they need

# -- ourselves
cdef void glock_drop(glock* gl) noexcept nogil      # down to UN when nobody holds it
cdef void glock_pin(glock* gl) noexcept nogil       # held (rw): it stays, whoever wants it
cdef void glock_pin_at(glock* gl, int32_t mode) noexcept nogil      # held or pinned: at least this mode stays
cdef bint glock_unpin(glock* gl) noexcept nogil     # True: others have wanted it meanwhile
# Every gls.gone calls it, under the lock under which glock_idle decides that x is freed.
cdef void glock_settled(glx* x) noexcept nogil
cdef bint glock_idle(glock* gl) noexcept nogil      # UN, nothing under way, nobody waits: may be freed
