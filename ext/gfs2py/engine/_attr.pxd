"""Attributes: what stat shows, what chmod, chown, utimes, truncate and chattr change."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd
from gfs2py.fuse._ops cimport fs_attr

cdef void attr_fill(const inode* ip, fs_attr* out) noexcept nogil              # glock held
# Glock EX held, no transaction open.
cdef int attr_set(opctx* cx, inode* ip, uint32_t valid, const fs_attr* want) noexcept nogil
cdef int attr_kill_priv(opctx* cx, inode* ip) noexcept nogil
cdef uint32_t attr_fsflags(const inode* ip) noexcept nogil                      # FS_*_FL
cdef int attr_set_fsflags(opctx* cx, inode* ip, uint32_t fsflags) noexcept nogil
# Whether a read now should move atime (noatime, relatime; SH is enough) and the change itself (EX).
cdef bint atime_due(const opctx* cx, const inode* ip) noexcept nogil
cdef int atime_update(opctx* cx, inode* ip) noexcept nogil
