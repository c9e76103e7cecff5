"""The threads of a session: workers on clones of /dev/fuse, runners of parked requests."""
from libc.stdint cimport uint64_t

from gfs2py.fuse._state cimport session, worker

# Start the first threads; the others follow when all are busy. 0 or -errno.
cdef int workers_start(session* se, int first) noexcept nogil
# Ask all threads to leave; workers in read(2) are kicked out of it by a signal until they have.
cdef void workers_stop(session* se) noexcept nogil
# Wait for every thread, close the clones, let the file system destroy itself.
cdef void workers_free(session* se) noexcept nogil
cdef void workers_forget(session* se) noexcept nogil
# Run the parked request of this number again (from any thread, without the GIL).
cdef void session_unpark(session* se, uint64_t unique) noexcept nogil
# Run everything parked again, as interrupted when `interrupted`. Returns how many.
cdef int session_unpark_all(session* se, bint interrupted) noexcept nogil
cdef void wake_request(void* se, uint64_t unique) noexcept nogil
# A worker's request is about to wait long (a disk flush, a full journal) / has done so: another worker reads meanwhile.
# No-ops in other threads. Pairs do not nest.
cdef void worker_blocks() noexcept nogil
cdef void worker_unblocks() noexcept nogil
