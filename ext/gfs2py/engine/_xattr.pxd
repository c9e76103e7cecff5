"""Extended attributes and POSIX ACLs. Source of behaviour: fs/gfs2/xattr.c, fs/gfs2/acl.c."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

# `name` is the full name ("user.x"); -EOPNOTSUPP for unknown prefixes; trusted on format 1801 -EOPNOTSUPP.
# Glock SH / EX held, no transaction open. size 0: only the length.
cdef int xattr_get(opctx* cx, inode* ip, const char* name, uint32_t namelen, uint8_t* out, uint32_t size, uint32_t* length) noexcept nogil
cdef int xattr_list(opctx* cx, inode* ip, uint8_t* out, uint32_t size, uint32_t* length) noexcept nogil
cdef int xattr_set(opctx* cx, inode* ip, const char* name, uint32_t namelen, const uint8_t* value, uint32_t size,
                   uint32_t flags) noexcept nogil                # XATTR_CREATE, XATTR_REPLACE; value NULL removes
cdef int xattr_dealloc(opctx* cx, inode* ip) noexcept nogil     # frees all blocks; many transactions
# The ACLs and mode that a new inode inherits from its directory; buffers are the caller's (max 4 KiB each), length 0: none.
cdef int acl_inherit(opctx* cx, inode* dip, uint32_t mode, uint32_t umask, uint32_t* new_mode, uint8_t* access,
                     uint32_t* access_len, uint8_t* dflt, uint32_t* dflt_len) noexcept nogil
# After chmod: the access ACL follows the mode.
cdef int acl_chmod(opctx* cx, inode* ip, uint32_t mode) noexcept nogil
# Setting system.posix_acl_access may change the mode: *mode is updated; *drop set when the ACL says no more than the mode.
cdef int acl_to_mode(const uint8_t* value, uint32_t size, uint32_t* mode, bint* drop) noexcept nogil
