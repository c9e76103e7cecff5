"""Messages from other nodes. Source: fs/dlm/lock.c (receive_ functions) and requestqueue.c, kernel 6.1."""
from libc.stdint cimport uint8_t, uint32_t
from dlm.core._engine cimport dlm_lkb, dlm_ls
from dlm.core._wire cimport wmsg

# Now, or after recovery if locking is stopped; `data` is the packet that `m` was parsed from.
cdef void receive_message(dlm_ls* ls, const wmsg* m, const uint8_t* data, uint32_t size) noexcept nogil
# At the end of recovery: forgets what recovery has made void, later handles the rest.
cdef void purge_requestqueue(dlm_ls* ls) noexcept nogil
cdef void process_requestqueue(dlm_ls* ls) noexcept nogil
# The owner's side of a reply to UNLOCK and CANCEL; recovery gives such replies in the name of dead masters.
cdef void finish_unlock(dlm_ls* ls, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil
cdef void finish_cancel(dlm_ls* ls, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil
