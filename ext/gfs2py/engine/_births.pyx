"""Inodes born here whose locks the lock manager does not know: before others can know them it is told."""
from libc.stdint cimport uint32_t
from gfs2py.engine._glock cimport GLX_BUSY, GLX_REGISTERING, GLX_UNREG
from gfs2py.engine._incore cimport (LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, LM_TYPE_INODE, LM_TYPE_RGRP, gls, glx, inode)
from gfs2py.engine._sync cimport dlink, pthread_mutex_lock, pthread_mutex_unlock


cdef bint births_reveals(const glx* x) noexcept nogil:
    """Whether other nodes can learn from what is under x of inodes that were born here: directories, groups."""
    if x.gl.type == LM_TYPE_INODE:
        return ((<const inode*>x.gl.owner).mode & <uint32_t>0o170000) == <uint32_t>0o040000
    return x.gl.type == LM_TYPE_RGRP


cdef bint births_register(gls* gs, glx* x) noexcept nogil:
    """Before a directory or a group is let go: all born before are known to the lock manager (gls.lock held).

    True: done. Else the requests are on their way and x is to be tried again. The lock is dropped and taken again.
    """
    cdef glx* head
    cdef dlink* l
    if x.flags & GLX_UNREG:
        return True         # nobody can look into what he cannot know; whoever reveals it reveals its children
    if x.need_reg == 0:
        x.need_reg = gs.reg_next
    while True:
        head = NULL
        l = gs.unreg.next
        while l != &gs.unreg and (<glx*>l.owner).reg_no < x.need_reg and head == NULL:
            if not (<glx*>l.owner).flags & (GLX_REGISTERING | GLX_BUSY):
                head = <glx*>l.owner
            l = l.next
        if head == NULL:
            l = gs.unreg.next
            return l == &gs.unreg or (<glx*>l.owner).reg_no >= x.need_reg
        head.flags |= GLX_REGISTERING
        head.req = LM_ST_EXCLUSIVE
        head.req_flags = 0
        pthread_mutex_unlock(&gs.lock)
        gs.ops.lock(gs.lm, head, LM_ST_UNLOCKED, LM_ST_EXCLUSIVE, 0)
        pthread_mutex_lock(&gs.lock)
