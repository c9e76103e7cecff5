"""What has to happen before a glock goes down, type by type. Source of behaviour: fs/gfs2/glops.c."""
from libc.stdint cimport int32_t
from gfs2py.engine._glock cimport glx

# gls.go: writes and forgets what memory has under x (rw is held for writing). 0, or an error after which the mount is
# withdrawn and the lock stays.
cdef int glop_go(glx* x, int32_t target) noexcept nogil
# gls.gone: x has gone down.
cdef void glop_gone(glx* x) noexcept nogil
# gls.poke: an iopen glock that stays is wanted by a node that deletes the inode. A kernel node waits for the lock for
# five seconds, unless somebody asks for the inode's glock meanwhile: that is the sign that the inode is in use.
cdef void glop_poke(glx* x) noexcept nogil
