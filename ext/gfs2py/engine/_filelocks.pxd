"""File locks of a shared mount: the operations of its table that have to do with them; see _flock and _plock."""
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.fuse._ops cimport fs_ops, unpark_fn

cdef void filelocks_fill(fs_ops* table) noexcept nogil      # on top of those of a mount that is not shared
cdef void filelocks_attach(gfs2_fs* fs, unpark_fn unpark, void* arg) noexcept nogil
