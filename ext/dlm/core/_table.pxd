"""Lockspace, resources and locks as memory: creation, tables, reference counts, queues of a resource, events."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from dlm.core._engine cimport dlm_event, dlm_lkb, dlm_ls, dlm_rsb

# NULL when out of memory. The first sequence number of recovery questions is given, since a restarted node must not
# repeat those of its former life.
cdef dlm_ls* ls_create(int32_t our_nodeid, uint32_t global_id, uint32_t lvblen, uint32_t lsflags,
                       uint64_t rcom_seq) noexcept nogil
cdef void ls_destroy(dlm_ls* ls) noexcept nogil
# Nothing works after this; the first reason counts.
cdef void ls_break(dlm_ls* ls, int32_t error) noexcept nogil

cdef void ls_enter(dlm_ls* ls) noexcept nogil
# Drops the mutex, wakes the transport, makes the completion and blocking calls that came up meanwhile.
cdef void ls_leave(dlm_ls* ls) noexcept nogil

# With one reference, which is the lock's own life, on no queue. NULL: no memory or LKB_MAX locks.
cdef dlm_lkb* create_lkb(dlm_ls* ls) noexcept nogil
cdef dlm_lkb* find_lkb(dlm_ls* ls, uint32_t lkid) noexcept nogil
cdef void put_lkb(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil
cdef int alloc_lvb(dlm_ls* ls, uint8_t** lvb) noexcept nogil

cdef dlm_rsb* search_rsb(dlm_ls* ls, const void* name, uint32_t length, uint32_t hash) noexcept nogil
# In the table and not tossed, with no reference yet.
cdef dlm_rsb* create_rsb(dlm_ls* ls, const void* name, uint32_t length, uint32_t hash) noexcept nogil
cdef void free_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil
cdef void toss_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil
cdef void untoss_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil
# When the last reference goes the resource is tossed: kept a while for its known master.
cdef void put_rsb(dlm_ls* ls, dlm_rsb* r) noexcept nogil
cdef void attach_lkb(dlm_rsb* r, dlm_lkb* lkb) noexcept nogil

# On and off the grant, convert or wait queue; the queue has a reference.
cdef void add_lkb(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int status) noexcept nogil
cdef void del_lkb(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil
cdef void move_lkb(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int status) noexcept nogil

# A call for the lock's owner; casts are never dropped, a blocking call is if the one before says as much.
cdef void add_callback(dlm_ls* ls, dlm_lkb* lkb, int kind, int mode, int status, uint32_t sbflags) noexcept nogil
cdef void resume_callbacks(dlm_ls* ls) noexcept nogil

# At the end of the queue, with `extra` bytes behind it; NULL breaks the lockspace.
cdef dlm_event* add_event(dlm_ls* ls, int kind, uint32_t extra) noexcept nogil
