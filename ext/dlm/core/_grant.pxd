"""Who gets a lock when: compatibility, conversions, deadlock, lock value blocks, blocking calls.

All of it runs on the master, for local copies and master copies alike; the few functions for process copies (_pc)
repeat there what the master did. Source: fs/dlm/lock.c, kernel 6.1; the rules are those of
"VAXcluster Principles", chapter 6.
"""
from libc.stdint cimport uint8_t, uint32_t
from dlm.core._engine cimport dlm_lkb, dlm_ls, dlm_rsb

# Where a value block goes when a lock moves from one mode to another.
cdef enum:
    LVB_NOTHING = 0
    LVB_READ = 1
    LVB_WRITE = 2

cdef int lvb_operation(int grmode, int rqmode) noexcept nogil

cdef void queue_cast(dlm_ls* ls, dlm_lkb* lkb, int status) noexcept nogil
cdef void queue_bast(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, int mode) noexcept nogil

cdef void grant_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void grant_lock_pc(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb, const uint8_t* lvb, uint32_t lvb_len,
                        uint32_t lvbseq) noexcept nogil
# The lock goes for good.
cdef void remove_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void remove_lock_pc(dlm_ls* ls, dlm_lkb* lkb) noexcept nogil
# Takes back what is asked for: 0 nothing to do, 1 back on the grant queue, -1 the request is gone.
cdef int revert_lock(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil

# May it be granted, `now` that it is asked for or later from its queue? With deadlk: set when the conversion would
# deadlock. May change the lock: demoted (CONVDEADLK) or asking for another mode (ALTPR, ALTCW).
cdef bint can_be_granted(dlm_rsb* r, dlm_lkb* lkb, bint now, bint recover, bint* deadlk) noexcept nogil
# The rule alone: changes nothing.
cdef bint grantable(dlm_rsb* r, dlm_lkb* lkb, bint now, bint recover) noexcept nogil
cdef bint conversion_deadlock(dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef int grant_pending_convert(dlm_ls* ls, dlm_rsb* r, int high, bint* cw) noexcept nogil
cdef void grant_pending_locks(dlm_ls* ls, dlm_rsb* r) noexcept nogil
cdef void send_blocking_asts(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
cdef void send_blocking_asts_all(dlm_ls* ls, dlm_rsb* r, dlm_lkb* lkb) noexcept nogil
# On the master: locks that one on the convert or wait queue waits for, at most `limit`; of those queued before it only
# the first, which waits for the rest.
cdef uint32_t in_the_way(dlm_rsb* r, dlm_lkb* lkb, dlm_lkb** out, uint32_t limit) noexcept nogil
