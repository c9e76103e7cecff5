"""Setting, removing and freeing extended attributes: one transaction each, planned before it begins."""
from libc.stdint cimport uint8_t, uint32_t
from gfs2py.engine._ea cimport ea_key
from gfs2py.engine._incore cimport inode, opctx

# EX held, no transaction open. The old value stays until the new one is in the same transaction: a failure keeps it.
cdef int ea_replace(opctx* cx, inode* ip, const ea_key* key, const uint8_t* value, uint32_t size) noexcept nogil
cdef int ea_remove(opctx* cx, inode* ip, const ea_key* key) noexcept nogil
cdef int ea_free_all(opctx* cx, inode* ip) noexcept nogil
