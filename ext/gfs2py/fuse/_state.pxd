"""What the threads of a session share: workers, parked requests, counters, the notification queue.

Threads: workers read requests from clones of /dev/fuse, run them and write the answer; runners serve parked requests
that may go on; notifiers write notifications; the sentinel decides how many workers read. None touches Python. A
request takes no lock of the session; `mutex` guards parking, interrupts and the coming and going of threads.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from gfs2py.fuse._locks cimport locktab
from gfs2py.fuse._ops cimport fs_ops, fs_req
from gfs2py.fuse._proto cimport OP_LIMIT, fuse_in_header
from gfs2py.fuse._stat cimport fs_wait, hist
from gfs2py.fuse._sys cimport pthread_cond_t, pthread_mutex_t, pthread_t

cdef enum:
    MAX_THREADS = 64            # workers and runners of a session
    NOTIFY_QUEUE = 4096         # notifications waiting to be written
    MAX_NOTIFIERS = 4
    OUT_HEADROOM = 4096         # bytes before a reply's payload, the header at their end
    REQ_NOREPLY = -100002       # handler result: the request has no answer
    REQ_LATER = -100003         # the handler answers by itself

cdef enum:                      # session.state
    S_NEW = 0
    S_RUNNING = 1
    S_ENDED = 2                 # the connection is gone, all workers have left

cdef struct op_stat:
    hist took                   # from taking the request to its answer; a parked one from when it came
    uint64_t errors, bytes      # bytes: of READ given, of WRITE taken

cdef struct parked:             # a request put away: a copy of its message, exactly as long
    parked* next
    uint64_t unique
    uint64_t since_ns
    int fd                      # the clone it was read from: only there its answer is taken
    int interrupted
    uint32_t runs
    uint32_t len
    uint8_t* base               # what to free
    uint8_t* msg                # page - WRITE_HEADERS

cdef struct request:
    fs_req rq
    session* se
    worker* w
    fuse_in_header* h
    uint8_t* arg                # after the header
    uint32_t arg_len            # without extensions
    uint8_t* out                # payload of the answer, page aligned
    uint32_t out_cap
    uint32_t out_len
    uint64_t entry_nodeid       # a lookup was counted: taken back if the answer cannot be delivered
    int fd
    parked* node                # the parked copy this run came from, or NULL

cdef struct worker:
    session* se
    pthread_t thread
    int fd
    int index
    bint runner
    bint joined
    bint blocking               # it said that it may wait long: it does not count as a reader meanwhile
    uint8_t* area               # the mapping of both buffers
    size_t area_len
    uint8_t* inbuf
    size_t incap
    uint8_t* out
    uint32_t out_cap
    uint64_t current            # unique of the request in hand, 0 when none
    uint64_t served             # requests taken so far
    uint64_t started_ns         # when it was taken
    uint64_t nodeid             # whom it is about, who asks for what: for those who look at `current`
    uint32_t opcode, pid
    uint32_t tid                # the thread's number, as the kernel and locks know it
    fs_wait wait                # what it waits for
    uint64_t intr               # unique of an INTERRUPT seen while that request was in hand
    uint64_t early              # unparked before it was put away
    uint64_t reply_errors
    op_stat stats[OP_LIMIT]

ctypedef void (*notify_done)(void* arg, int result) noexcept nogil
ctypedef void (*notify_begin)(void* arg) noexcept nogil

cdef struct notice:
    int code
    uint64_t a, b               # inode or parent; child
    int64_t off, length
    uint32_t flags, namelen
    uint8_t* data               # STORE: owned
    notify_begin begin          # right before it is written
    notify_done done
    void* arg
    char name[256]

cdef struct session:
    const fs_ops* ops
    void* fs
    int fd                      # the one that was mounted
    int event_fd                # readable: look at `state` and `destroy`
    bint cloned                 # clones work; not on the sockets of tests
    bint local_locks            # the kernel keeps file locks to itself: no lock requests, and no FLUSH for them
    bint hold_destroy           # DESTROY is answered only after Python said so
    uint32_t minor, flags, flags2
    uint32_t want_flags, want_flags2
    uint32_t kernel_minor, kernel_flags, kernel_flags2
    uint32_t max_write, max_pages, max_readahead, max_background, congestion
    size_t buf_len              # payload room of each worker
    int state, stopping, destroy    # destroy: 0, 1 draining and waiting for Python, 2 answer
    int destroyed               # ops.destroy was called
    int n_workers, max_workers, n_runners, max_runners, live
    int n_active                # workers that read requests or serve one, without those that said they block
    int target                  # how many of them there shall be; more go to stand by
    int n_standby, tickets      # waiting on standby_cond; how many of them may go
    int n_cpus
    uint64_t n_stalls           # times that all readers were found busy for long
    pthread_t sentinel
    bint has_sentinel
    int sentinel_asleep
    bint idle_poll              # keep idle processors from halting while requests flow (_idle.pyx)
    int idle_fd                 # held open meanwhile, else -1
    unsigned int idle_history   # one bit per look of the sentinel, the last one lowest: requests came
    uint64_t idle_since_ns, idle_ns, n_idle_polls
    pthread_cond_t standby_cond
    pthread_cond_t sentinel_cond
    pthread_mutex_t mutex
    pthread_cond_t run_cond     # runners wait for runnable
    pthread_cond_t state_cond
    worker* workers[MAX_THREADS]
    parked* parked_list
    parked* run_head
    parked* run_tail
    int n_parked, n_runnable, runners_idle
    uint64_t n_interrupts, n_parks, n_malformed
    locktab* locks
    pthread_mutex_t nq_mutex
    pthread_cond_t nq_cond      # something to write, or stop
    pthread_cond_t nq_idle      # the queue ran empty
    notice* nq
    uint32_t nq_head, nq_len
    int n_notifiers, nq_busy, nq_direct     # nq_direct: notifications that others write themselves
    pthread_t notifiers[MAX_NOTIFIERS]
    uint64_t n_notices, n_notice_errors

# dispatch (_dispatch.pyx): the request in r.h .. is run; REQ_NOREPLY, OP_PARK, 0 or -errno
ctypedef int (*handler_fn)(request* r) noexcept nogil
