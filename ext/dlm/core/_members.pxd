"""Members of the lockspace: who is in, who has just gone, weights in the directory, journal slots.

Source: fs/dlm/member.c, kernel 6.1.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from dlm.core._engine cimport dlm_ls, dlm_member, dlm_node
from dlm.core._wire cimport wrcom

cdef dlm_member* find_member(dlm_ls* ls, int32_t nodeid) noexcept nogil
# Gone, not recovered from yet, and later than `seq` (recover_seq of when what is asked about came to be; 0: while
# locking ran). It may be back as another incarnation: what it has done since then is no dead node's.
cdef bint is_removed(const dlm_ls* ls, int32_t nodeid, uint64_t seq) noexcept nogil
# 0 or -errno: what start() refuses.
cdef int check_nodes(const dlm_ls* ls, const dlm_node* nodes, uint32_t n) noexcept nogil
# Makes `nodes` the members and tells of the slots of those that are gone without being in `left`; the number of losses
# not recovered from yet.
cdef int change_members(dlm_ls* ls, const dlm_node* nodes, uint32_t n, const int32_t* left,
                        uint32_t n_left) noexcept nogil
# As the node with the lowest id: gives every member a slot, and all a generation. -1: one member has none.
cdef int assign_slots(dlm_ls* ls) noexcept nogil
# As any other node: takes the slots from its answer. 0, or -EPROTO for nonsense.
cdef int copy_slots(dlm_ls* ls, const wrcom* rc) noexcept nogil
