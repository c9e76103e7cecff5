"""Freeing a hashed directory."""
from gfs2py.engine._incore cimport inode, opctx

# Frees all leaves, chunk by chunk, each in a transaction that leaves a directory which can be freed again after a
# crash; with the last chunk the inode becomes a plain file, whose blocks (the former table) are freed at the end. EX
# held.
cdef int exhash_dealloc(opctx* cx, inode* dip) noexcept nogil
