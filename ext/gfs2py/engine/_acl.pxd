"""POSIX ACLs in Linux's attribute format (version 2, little-endian). Source: fs/posix_acl.c, fs/gfs2/acl.c."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from gfs2py.engine._incore cimport inode, opctx, sbd

cdef enum:
    ACL_BUF = 4096                  # room for any ACL of any block size: 4 + 8 x 300

# Whether the value is a well-formed ACL that this file system takes; *count = entries (0: it says "no ACL").
# -EINVAL, -EOPNOTSUPP (another version), -E2BIG.
cdef int acl_check(const sbd* sd, const uint8_t* value, uint32_t size, uint32_t* count) noexcept nogil
# The ACLs and mode that a new inode inherits from its directory; buffers are the caller's (ACL_BUF each), length 0:
# none.
cdef int acl_inherit(opctx* cx, inode* dip, uint32_t mode, uint32_t umask, uint32_t* new_mode, uint8_t* access,
                     uint32_t* access_len, uint8_t* dflt, uint32_t* dflt_len) noexcept nogil
# After chmod: the access ACL follows the mode. EX held, no transaction open.
cdef int acl_chmod(opctx* cx, inode* ip, uint32_t mode) noexcept nogil
# Setting system.posix_acl_access may change the mode: *mode is updated; *drop set when the ACL says no more than the
# mode. -EINVAL, -EOPNOTSUPP for what is no ACL.
cdef int acl_to_mode(const uint8_t* value, uint32_t size, uint32_t* mode, bint* drop) noexcept nogil
