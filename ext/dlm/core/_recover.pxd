"""The steps of recovery that look at resources and locks. Source: fs/dlm/recover.c, dir.c and lock.c, kernel 6.1."""
from dlm.core._engine cimport dlm_ls, dlm_member
from dlm.core._wire cimport wrcom

cdef void create_root_list(dlm_ls* ls) noexcept nogil
cdef void release_root_list(dlm_ls* ls) noexcept nogil
# Forgets what an abandoned recovery is waiting for.
cdef void clear_recover_lists(dlm_ls* ls) noexcept nogil
cdef void recover_dir_nodeids(dlm_ls* ls) noexcept nogil

# Directory: the names that we master and `nodeid` has to know, from behind the last one that it has seen.
cdef void send_names(dlm_ls* ls, const wrcom* rc) noexcept nogil
# The answer to that; 1: it was the last, 0: ask again, or -errno.
cdef int take_names(dlm_ls* ls, dlm_member* memb, const wrcom* rc) noexcept nogil

# Operations that wait for a dead master: marked for another try, or brought to an end.
cdef void recover_waiters_pre(dlm_ls* ls) noexcept nogil
cdef void recover_waiters_post(dlm_ls* ls) noexcept nogil
# Locks of the dead.
cdef void recover_purge(dlm_ls* ls) noexcept nogil

# New masters: from ls.cursor on as many questions as the window allows; True when all are asked and answered.
cdef bint recover_masters(dlm_ls* ls) noexcept nogil
cdef void receive_lookup(dlm_ls* ls, const wrcom* rc) noexcept nogil
cdef void receive_lookup_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil

# Our locks for the new masters, in the same way.
cdef bint recover_locks(dlm_ls* ls) noexcept nogil
cdef void receive_lock(dlm_ls* ls, const wrcom* rc) noexcept nogil
cdef void receive_lock_reply(dlm_ls* ls, const wrcom* rc) noexcept nogil

# As master: modes of conversions, value blocks, who has to look again at what can be granted.
cdef void recover_rsbs(dlm_ls* ls) noexcept nogil
cdef void recover_grant(dlm_ls* ls) noexcept nogil
