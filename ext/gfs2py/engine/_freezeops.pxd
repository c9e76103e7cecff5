"""Puts the freezer in front of a table's operations; see _freezeops.pyx."""
from gfs2py.fuse._ops cimport fs_ops

cdef void freeze_fill(fs_ops* t) noexcept nogil
