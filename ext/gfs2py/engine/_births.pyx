"""Inodes born here whose locks the lock manager does not know: before others can know them it is told."""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.engine._glock cimport GLX_BUSY, GLX_REGISTERING, GLX_UNREG
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, LM_TYPE_INODE, LM_TYPE_RGRP, gls, glx, inode)
from gfs2py.engine._sync cimport dl_add_head, dl_del, dlink, pthread_mutex_lock, pthread_mutex_unlock

cdef enum:
    TOGETHER = 64                   # births of which the lock manager is told in one go


cdef bint births_reveals(const glx* x) noexcept nogil:
    """Whether other nodes can learn from what is under x of inodes that were born here: directories, groups."""
    if x.gl.type == LM_TYPE_INODE:
        return ((<const inode*>x.gl.owner).mode & <uint32_t>0o170000) == <uint32_t>0o040000
    return x.gl.type == LM_TYPE_RGRP


cdef inline glx* _first(dlink* head, uint64_t below) noexcept nogil:
    """The oldest of a list, if it was born before `below`."""
    cdef glx* x = <glx*>head.next.owner
    return x if head.next != head and x.reg_no < below else NULL


cdef void _asked(gls* gs, glx* x) noexcept nogil:
    """From the one list to the other, which is in order of birth, too: some were busy when their turn came."""
    cdef dlink* at = gs.registering.prev
    while at != &gs.registering and (<glx*>at.owner).reg_no > x.reg_no:
        at = at.prev
    dl_del(&x.unreg)
    dl_add_head(at, &x.unreg)


cdef bint births_pending(const gls* gs, const glx* x) noexcept nogil:
    """Whether births that x waits for are still on their way to the lock manager: until then there is no use in looking
    at x again (gls.lock held)."""
    return x.need_reg != 0 and _first(<dlink*>&gs.registering, x.need_reg) != NULL


cdef bint births_register(gls* gs, glx* x) noexcept nogil:
    """Before a directory or a group is let go: all born before are known to the lock manager (gls.lock held).

    True: done. Else the requests are on their way and x is to be tried again. The lock is dropped and taken again.
    Those that are asked for go to a list of their own, so that thousands of them cost one step each.
    """
    cdef glx* head
    cdef dlink* l
    cdef uint32_t asked = 0
    if x.flags & GLX_UNREG:
        return True         # nobody can look into what he cannot know; whoever reveals it reveals its children
    if x.need_reg == 0:
        x.need_reg = gs.reg_next
    while True:
        head = NULL
        l = gs.unreg.next
        while l != &gs.unreg and (<glx*>l.owner).reg_no < x.need_reg and head == NULL:
            if not (<glx*>l.owner).flags & GLX_BUSY:
                head = <glx*>l.owner
            l = l.next
        if gs.ops.gather != NULL and asked and (head == NULL or asked % TOGETHER == 0):
            pthread_mutex_unlock(&gs.lock)
            gs.ops.gather(gs.lm, False)
            pthread_mutex_lock(&gs.lock)
            if head != NULL:        # the lock was dropped: it may be busy by now
                asked = 0
                continue
        if head == NULL:
            return _first(&gs.unreg, x.need_reg) == NULL and _first(&gs.registering, x.need_reg) == NULL
        _asked(gs, head)
        head.flags |= GLX_REGISTERING
        head.req = LM_ST_EXCLUSIVE
        head.req_flags = 0
        pthread_mutex_unlock(&gs.lock)
        if gs.ops.gather != NULL and asked == 0:
            gs.ops.gather(gs.lm, True)
        asked += 1
        gs.ops.lock(gs.lm, head, LM_ST_UNLOCKED, LM_ST_EXCLUSIVE, 0)
        pthread_mutex_lock(&gs.lock)
