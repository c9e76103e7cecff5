"""The operations on open files; the table is filled from here."""
from gfs2py.fuse._ops cimport fs_ops

cdef void fsio_fill(fs_ops* t) noexcept nogil
