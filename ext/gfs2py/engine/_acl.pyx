"""POSIX ACLs; see _acl.pxd. An ACL is worked on in its external form, entry by entry, in place."""
from libc.errno cimport E2BIG, EINVAL, ENODATA, EOPNOTSUPP
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from gfs2py.engine._incore cimport inode, opctx, sbd, SDF_ACL
from gfs2py.engine._sbd cimport sd_corrupt
from gfs2py.engine._xattr cimport xattr_get, xattr_set

cdef extern from "<endian.h>" nogil:
    uint16_t le16toh(uint16_t v)
    uint32_t le32toh(uint32_t v)
    uint16_t htole16(uint16_t v)

cdef enum:
    ACL_VERSION = 2
    ACL_HEADER = 4
    ACL_ENTRY = 8
    TAG_USER_OBJ = 0x01, TAG_USER = 0x02, TAG_GROUP_OBJ = 0x04, TAG_GROUP = 0x08, TAG_MASK = 0x10, TAG_OTHER = 0x20
    S_IFMT_ = 0o170000, S_IFDIR_ = 0o040000, S_IFLNK_ = 0o120000
    RWXU = 0o700, RWXG = 0o070, RWXO = 0o007
    NO_ID = 0xffffffff

cdef struct acl_entry:              # as in the attribute, little-endian
    uint16_t tag
    uint16_t perm
    uint32_t id


cdef inline acl_entry* entries_of(uint8_t* value) noexcept nogil:
    return <acl_entry*>(value + ACL_HEADER)


cdef int parse(const uint8_t* value, uint32_t size, uint32_t* count) noexcept nogil:
    """The grammar: owner, users, group, groups, a mask (a must if users or groups are named), others."""
    cdef const acl_entry* e
    cdef uint32_t version
    cdef uint32_t i
    cdef uint32_t stage = TAG_USER_OBJ      # the least tag that may come now
    cdef uint32_t tag
    cdef bint need_mask = False
    cdef bint complete = False
    if size < ACL_HEADER or (size - ACL_HEADER) % ACL_ENTRY:
        return -EINVAL
    memcpy(&version, value, 4)
    if le32toh(version) != ACL_VERSION:
        return -EOPNOTSUPP
    count[0] = (size - ACL_HEADER) // ACL_ENTRY
    if count[0] == 0:
        return 0
    for i in range(count[0]):
        e = <const acl_entry*>(value + ACL_HEADER) + i
        tag = le16toh(e.tag)
        if complete or le16toh(e.perm) & ~7 or tag < stage:
            return -EINVAL
        if tag == TAG_USER_OBJ:
            stage = TAG_USER
        elif tag == TAG_USER or tag == TAG_GROUP:
            # Named entries repeat; they come after the owner and the owning group.
            if e.id == NO_ID or stage != tag:
                return -EINVAL
            need_mask = True
        elif tag == TAG_GROUP_OBJ:
            if stage != TAG_USER:
                return -EINVAL
            stage = TAG_GROUP
        elif tag == TAG_MASK:
            if stage != TAG_GROUP:
                return -EINVAL
            stage = TAG_OTHER
            need_mask = False
        elif tag == TAG_OTHER:
            if need_mask or stage < TAG_GROUP:
                return -EINVAL
            complete = True
        else:
            return -EINVAL
    return 0 if complete else -EINVAL


cdef int acl_check(const sbd* sd, const uint8_t* value, uint32_t size, uint32_t* count) noexcept nogil:
    cdef int err = parse(value, size, count)
    if err == 0 and count[0] > (<uint32_t>300 << sd.bsize_shift) >> 12:
        err = -E2BIG
    return err


cdef int acl_to_mode(const uint8_t* value, uint32_t size, uint32_t* mode, bint* drop) noexcept nogil:
    cdef const acl_entry* e
    cdef uint32_t bits = 0
    cdef uint32_t group = 0
    cdef uint32_t perm
    cdef uint32_t count = 0
    cdef uint32_t i
    cdef uint32_t tag
    cdef bint masked = False
    cdef bint named = False
    cdef int err = parse(value, size, &count)
    if err:
        return err
    drop[0] = True
    if count == 0:
        return 0
    for i in range(count):
        e = <const acl_entry*>(value + ACL_HEADER) + i
        tag = le16toh(e.tag)
        perm = le16toh(e.perm)
        if tag == TAG_USER_OBJ:
            bits |= perm << 6
        elif tag == TAG_OTHER:
            bits |= perm
        elif tag == TAG_MASK:
            group = perm
            masked = True
        elif tag == TAG_GROUP_OBJ:
            group = perm
        else:
            named = True
    mode[0] = (mode[0] & ~<uint32_t>0o777) | bits | (group << 3)
    drop[0] = not (masked or named)
    return 0


cdef bint limit_to_mode(uint8_t* acl, uint32_t count, uint32_t* mode) noexcept nogil:
    """A new inode's ACL keeps only what the requested mode grants, and the mode only what the ACL grants.

    Returns whether the ACL says more than the mode can.
    """
    cdef acl_entry* e
    cdef acl_entry* group = NULL
    cdef acl_entry* mask = NULL
    cdef uint32_t want = mode[0] & 0o777
    cdef uint32_t perm
    cdef uint32_t i
    cdef uint32_t tag
    cdef bint more = False
    for i in range(count):
        e = entries_of(acl) + i
        tag = le16toh(e.tag)
        perm = le16toh(e.perm)
        if tag == TAG_USER_OBJ:
            perm &= want >> 6
            want = (want & ~<uint32_t>RWXU) | perm << 6
            e.perm = htole16(<uint16_t>perm)
        elif tag == TAG_OTHER:
            perm &= want
            want = (want & ~<uint32_t>RWXO) | perm
            e.perm = htole16(<uint16_t>perm)
        elif tag == TAG_GROUP_OBJ:
            group = e
        elif tag == TAG_MASK:
            mask = e
            more = True
        else:
            more = True
    e = mask if mask != NULL else group
    if e != NULL:
        perm = le16toh(e.perm) & want >> 3 & 7
        want = (want & ~<uint32_t>RWXG) | perm << 3
        e.perm = htole16(<uint16_t>perm)
    mode[0] = (mode[0] & ~<uint32_t>0o777) | want
    return more


cdef void follow_mode(uint8_t* acl, uint32_t count, uint32_t mode) noexcept nogil:
    """chmod: owner and others get the mode's bits; the group bits go to the mask if there is one, else to the group."""
    cdef acl_entry* e
    cdef acl_entry* group = NULL
    cdef acl_entry* mask = NULL
    cdef uint32_t i
    cdef uint32_t tag
    for i in range(count):
        e = entries_of(acl) + i
        tag = le16toh(e.tag)
        if tag == TAG_USER_OBJ:
            e.perm = htole16(<uint16_t>(mode >> 6 & 7))
        elif tag == TAG_OTHER:
            e.perm = htole16(<uint16_t>(mode & 7))
        elif tag == TAG_GROUP_OBJ:
            group = e
        elif tag == TAG_MASK:
            mask = e
    e = mask if mask != NULL else group
    if e != NULL:
        e.perm = htole16(<uint16_t>(mode >> 3 & 7))


cdef int load(opctx* cx, inode* ip, const char* name, uint32_t namelen, uint8_t* acl, uint32_t* size,
              uint32_t* count) noexcept nogil:
    """The stored ACL, checked; *count = 0 when there is none."""
    cdef int err
    count[0] = 0
    size[0] = 0
    if ip.eattr == 0:
        return 0
    err = xattr_get(cx, ip, name, namelen, acl, ACL_BUF, size)
    if err == -ENODATA:
        size[0] = 0
        return 0
    if err:
        return err
    if size[0] == 0:
        return 0
    if parse(acl, size[0], count) < 0:
        return sd_corrupt(cx.sd, ip.eattr, b"extended attribute", b"ACL value", ACL_VERSION, size[0])
    return 0


cdef int acl_inherit(opctx* cx, inode* dip, uint32_t mode, uint32_t umask, uint32_t* new_mode, uint8_t* access,
                     uint32_t* access_len, uint8_t* dflt, uint32_t* dflt_len) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t size = 0
    cdef int err
    new_mode[0] = mode
    access_len[0] = 0
    dflt_len[0] = 0
    if mode & S_IFMT_ == S_IFLNK_:
        return 0
    if cx.sd.flags & SDF_ACL:
        err = load(cx, dip, b"system.posix_acl_default", 24, dflt, &size, &count)
        if err:
            return err
    if count == 0:
        new_mode[0] = mode & ~(umask & <uint32_t>0o777)
        return 0
    memcpy(access, dflt, size)
    if limit_to_mode(access, count, new_mode):
        access_len[0] = size
    if mode & S_IFMT_ == S_IFDIR_:
        dflt_len[0] = size
    return 0


cdef int acl_chmod(opctx* cx, inode* ip, uint32_t mode) noexcept nogil:
    cdef uint8_t acl[ACL_BUF]
    cdef uint32_t count = 0
    cdef uint32_t size = 0
    cdef int err
    if not cx.sd.flags & SDF_ACL or ip.mode & S_IFMT_ == S_IFLNK_:
        return 0
    err = load(cx, ip, b"system.posix_acl_access", 23, acl, &size, &count)
    if err or count == 0:
        return err
    follow_mode(acl, count, mode)
    return xattr_set(cx, ip, b"system.posix_acl_access", 23, acl, size, 0)


# ---- edges for tests -------------------------------------------------------------------------------------------

cdef object refuse(int err):
    return OSError(-err, "not an ACL")


def py_parse(const uint8_t[::1] value not None) -> int:
    """Number of entries; OSError when the value is no ACL."""
    cdef uint32_t count = 0
    cdef int err = parse(&value[0], <uint32_t>value.shape[0], &count) if value.shape[0] else -EINVAL
    if err:
        raise refuse(err)
    return count


def py_to_mode(const uint8_t[::1] value not None, uint32_t mode) -> tuple:
    """(new mode, whether the ACL is the mode and nothing more)."""
    cdef bint drop = False
    cdef int err = acl_to_mode(&value[0], <uint32_t>value.shape[0], &mode, &drop) if value.shape[0] else -EINVAL
    if err:
        raise refuse(err)
    return mode, bool(drop)


def py_inherit(bytearray value not None, uint32_t mode) -> tuple:
    """The default ACL as a new inode's access ACL, in place: (mode, whether it must be stored)."""
    cdef uint32_t count = 0
    cdef uint8_t* p = <uint8_t*><char*>value
    cdef int err = parse(p, <uint32_t>len(value), &count)
    if err:
        raise refuse(err)
    more = bool(limit_to_mode(p, count, &mode))
    return mode, more


def py_chmod(bytearray value not None, uint32_t mode) -> None:
    """The access ACL after chmod, in place."""
    cdef uint32_t count = 0
    cdef uint8_t* p = <uint8_t*><char*>value
    cdef int err = parse(p, <uint32_t>len(value), &count)
    if err:
        raise refuse(err)
    follow_mode(p, count, mode)
