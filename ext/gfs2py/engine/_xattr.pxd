"""Extended attributes and POSIX ACLs. Source of behaviour: fs/gfs2/xattr.c, fs/gfs2/acl.c."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._acl cimport ACL_BUF, acl_check, acl_chmod, acl_inherit, acl_to_mode
from gfs2py.engine._ea cimport ea_key
from gfs2py.engine._incore cimport buf, inode, opctx, sbd

# `name` is the full name ("user.x"); -EOPNOTSUPP for unknown prefixes; trusted on format 1801 -EOPNOTSUPP.
# Glock SH / EX held, no transaction open. size 0: only the length. -ENODATA, -ERANGE (buffer, name or value size),
# -EPERM (immutable, append only), -EEXIST, -ENOSPC, -EDQUOT; ACL values are checked. Removing an ACL that is not there
# is no error.
cdef int xattr_get(opctx* cx, inode* ip, const char* name, uint32_t namelen, uint8_t* out, uint32_t size,
                   uint32_t* length) noexcept nogil
cdef int xattr_list(opctx* cx, inode* ip, uint8_t* out, uint32_t size, uint32_t* length) noexcept nogil
cdef int xattr_set(opctx* cx, inode* ip, const char* name, uint32_t namelen, const uint8_t* value, uint32_t size,
                   uint32_t flags) noexcept nogil                # XATTR_CREATE, XATTR_REPLACE; value NULL removes
cdef int xattr_dealloc(opctx* cx, inode* ip) noexcept nogil     # frees all blocks; many transactions

# For the engine's own parts: the index-th block of records, checked (-ENOENT: no more), and a record by its key
# (-ENODATA).
cdef uint32_t ea_max_type(const sbd* sd) noexcept nogil
cdef int ea_block(opctx* cx, inode* ip, uint32_t index, buf** out) noexcept nogil
cdef int ea_locate(opctx* cx, inode* ip, const ea_key* key, buf** out, uint32_t* off, uint32_t* prev) noexcept nogil
