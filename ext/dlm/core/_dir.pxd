"""Which node knows the master of a resource, and who the master is.

The directory is spread over the members by a hash of the name. Its entries are resources too: one that only says who
the master is lies with the unused ("tossed") ones. Source: fs/dlm/dir.c and lock.c (find_rsb_dir, dlm_master_lookup,
receive_remove, shrink_bucket), kernel 6.1. The mode without a directory is not supported.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t
from dlm.core._engine cimport dlm_ls, dlm_rsb
from dlm.core._wire cimport wmsg

# For whom a resource is looked for.
cdef enum:
    FIND_LOCAL = 1
    FIND_REMOTE = 2
    FIND_RECOVER = 3

    LOOKUP_NORMAL = 0
    LOOKUP_RECOVER_DIR = 1
    LOOKUP_RECOVER_MASTER = 2

cdef int32_t hash_to_node(const dlm_ls* ls, uint32_t hash) noexcept nogil
# With a reference. -ENOTBLK: known, but we are not its master; -EBADR: not known.
cdef int find_rsb(dlm_ls* ls, const void* name, uint32_t length, int32_t from_nodeid, int how,
                  dlm_rsb** out) noexcept nogil
# As directory node: the master of a name that `from_nodeid` asks for (or says that it is); -EINVAL if not ours to tell.
cdef int master_lookup(dlm_ls* ls, int32_t from_nodeid, const void* name, uint32_t length, int how,
                       int32_t* master) noexcept nogil
cdef void receive_remove(dlm_ls* ls, const wmsg* m) noexcept nogil
# Frees what has been unused for long enough, telling directory nodes; when the next comes of age (0: none will).
cdef int64_t expire_tossed(dlm_ls* ls) noexcept nogil
cdef void clear_tossed(dlm_ls* ls) noexcept nogil
