"""The operations: request, convert, unlock, cancel; by callers here, or by messages and recovery.

Stages, as in the kernel: dlm_lock and dlm_unlock check and find; x_lock decide between here and the remote master;
do_x change the queues on the master, and do_x_effects tell others of it. Source: fs/dlm/lock.c, kernel 6.1.
"""
from libc.stdint cimport int32_t, uint32_t
from dlm.core._engine cimport dlm_ast_fn, dlm_bast_fn, dlm_lkb, dlm_lksb, dlm_ls, dlm_rsb
from dlm.core._wire cimport wmsg

# ---- for callers, from any thread, without the GIL and without the mutex
#
# Both return 0 and tell the outcome by `ast`, at once and before they return when the lock is mastered here and free
# (unless called from within a call for the same lock); or -errno, and there will be no call:
#   -EINVAL   arguments that make no sense together
#   -ENOENT   no such lock (any more)
#   -EBUSY    an operation on this lock is under way
#   -ENOMEM   no memory, or LKB_MAX locks
#   -ENOBUFS  the transport does not keep up, or the lockspace is broken
# While the lockspace recovers operations are taken and done afterwards.
cdef int dlm_lock(dlm_ls* ls, int mode, dlm_lksb* lksb, uint32_t flags, const void* name, uint32_t namelen,
                  dlm_ast_fn ast, void* astarg, dlm_bast_fn bast) noexcept nogil
# Also cancels (LKF_CANCEL). `lksb` may be NULL and is not used; it is there for the sake of the kernel's signature.
cdef int dlm_unlock(dlm_ls* ls, uint32_t lkid, uint32_t flags, dlm_lksb* lksb, void* astarg) noexcept nogil

# ---- for the engine, under the mutex

# Do what came while locking was stopped.
cdef void replay_parked(dlm_ls* ls) noexcept nogil

cdef int add_to_waiters(dlm_ls* ls, dlm_lkb* lkb, int type, int32_t to_nodeid) noexcept nogil
# -1: no reply of this type is awaited. `granted`: the reply says that a conversion was granted.
cdef int remove_from_waiters(dlm_ls* ls, dlm_lkb* lkb, int type, bint granted) noexcept nogil
# Once more, for a lock whose owner has been told that it waits; a refused one is gone afterwards.
cdef void request_again(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef int convert_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef int unlock_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void send_common(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int type) noexcept nogil
# The master of the resource has been told or denied: on with those who waited for that.
cdef void confirm_master(dlm_ls* ls, dlm_rsb* r, int error) noexcept nogil
cdef void process_lookup_list(dlm_ls* ls, dlm_rsb* r) noexcept nogil
# What the owner's side does when the master answers a conversion.
cdef void finish_convert(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int result, const wmsg* m) noexcept nogil

cdef int do_request(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void do_request_effects(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int error) noexcept nogil
cdef int do_convert(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void do_convert_effects(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int error) noexcept nogil
cdef int do_unlock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef int do_cancel(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
