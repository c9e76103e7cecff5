"""Glocks as DLM locks; see _manager.pyx."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from dlm.core._engine cimport dlm_lksb, dlm_ls
from dlm.core._lockspace cimport Lockspace
from gfs2py.engine._incore cimport glx
from gfs2py.engine._lockmanager cimport LockManager
from gfs2py.engine._sync cimport dlink, pthread_mutex_t, pthread_rwlock_t

cdef struct manager:
    pthread_mutex_t mutex           # all, frozen, blocked; held.x against _unlock
    dlm_ls* ls
    dlink all                       # of held
    dlink frozen                    # grants kept back while `blocked`, oldest first
    bint blocked
    pthread_rwlock_t alive          # read: a glock is being told something; written: from now on none is
    bint silent
    bint orphan                     # its DlmLocks is gone; goes with the last of `all`
    uint64_t n_asked, n_frozen, n_again, n_invalid, n_declined

cdef struct held:                   # a glock's lock in the lockspace; it and its value stay until the unlock is done
    manager* lm
    glx* x                          # NULL: given up, the unlock is under way
    dlm_lksb lksb
    char value[32]
    char name[24]
    dlink all, frozen
    bint known                      # the lockspace has it
    bint again                      # the lockspace was busy with calls for it: ask once more at the next
    bint declining                  # a grant that came at the wrong time is being given back
    int32_t have, want              # of the request under way
    uint32_t flags                  # LM_*

cdef class DlmLocks(LockManager):
    cdef manager* m
    cdef Lockspace lockspace        # kept alive
