"""What the engine keeps in memory: every struct that more than one of its modules touches.

Lock order, outermost first: rename mutex -> inode glocks (several at once: by address) -> quota -> rgrp glocks
(ascending) -> transaction (log.flush_lock shared) -> log.lock -> cache shard mutex. A blocking glock is never taken
inside a transaction. Source of names: fs/gfs2/incore.h.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from gfs2py.block._device cimport bio_seg, blkdev
from gfs2py.engine._observe cimport observer
from gfs2py.engine._sync cimport dlink, pthread_cond_t, pthread_mutex_t, pthread_rwlock_t, pthread_t
from gfs2py.fuse._ops cimport fs_kernel

cdef enum:
    # glock types and states (as LM_TYPE_*, LM_ST_*)
    LM_TYPE_NONDISK = 1, LM_TYPE_INODE = 2, LM_TYPE_RGRP = 3, LM_TYPE_META = 4, LM_TYPE_IOPEN = 5
    LM_TYPE_FLOCK = 6, LM_TYPE_QUOTA = 8, LM_TYPE_JOURNAL = 9
    LM_ST_UNLOCKED = 0, LM_ST_SHARED = 1, LM_ST_DEFERRED = 2, LM_ST_EXCLUSIVE = 3

    # buf.flags, changed under the shard's mutex only
    B_UPTODATE = 1          # data is what the disk or a transaction says
    B_READING = 2
    B_PINNED = 4            # changed by the running transaction: must not be written in place
    B_DIRTY = 8             # committed to the log, not yet in place (on an AIL)
    B_WRITING = 16          # a copy is on its way in place
    B_JDATA = 32            # logged as journaled data (no meta header; escaped)
    B_DATA = 64             # file data, never logged
    B_DDIRTY = 128          # file data newer than the disk, on its inode's list
    B_FREED = 256           # the block was freed by the running transaction
    B_NEW = 512             # B_DDIRTY data of a block that may hold another file's old content on the disk

    # inode.iflags
    I_VALID = 1             # mirrors the dinode (else re-read under the glock)
    I_DEAD = 4              # dinode freed: -ESTALE to everyone
    I_UNLINKED = 8          # nlink reached 0: dealloc at the last put
    I_SYSTEM = 16
    I_NOXATTR = 32          # known to have no extended attributes
    I_DYING = 64            # cut loose; freed when its glock has been let go

    KEEP_MAX = 8            # glocks that stay for one parked operation
    GLOCK_TYPES = 10        # 1 to this: more than there are
    LKS_N = 8               # glx.stats

    # mount flags
    SDF_RDONLY = 1, SDF_WRITEBACK = 2, SDF_QUOTA_ACCOUNT = 4, SDF_QUOTA_ENFORCE = 8, SDF_ACL = 16
    SDF_NOBARRIER = 32, SDF_DISCARD = 64, SDF_NOATIME = 128, SDF_RELATIME = 256, SDF_SPECTATOR = 512
    SDF_ERRORS_PANIC = 1024, SDF_DEBUG = 2048, SDF_SUIDDIR = 4096, SDF_NODIRATIME = 8192, SDF_QUOTA_QUIET = 16384
    SDF_SHARED = 32768      # other nodes may write this disk (lock_dlm)

cdef struct sbd
cdef struct glx
cdef struct gls
cdef struct gwaiter
cdef struct inode
cdef struct rgrpd
cdef struct logtxn
cdef struct opctx

cdef struct glock:
    uint32_t type
    uint64_t number
    int32_t state                   # what the cluster granted this node; lock_nolock: always EXCLUSIVE
    int32_t avail                   # up to which mode operations are admitted now, atomic (the gate)
    pthread_rwlock_t rw             # holders on this node
    uint64_t since                  # buffers of its owner read before this (sbd.epoch) are void
    uint8_t lvb[32]
    void* owner                     # inode* or rgrpd*
    glx* x                          # the cluster's side of it (_glock); NULL: one node

cdef struct gwaiter:                # one operation that waits for a glock, or has just got it
    gwaiter* next                   # on its glx
    glx* x
    int32_t mode
    uint32_t flags                  # GL_*
    bint waiting
    int32_t err
    uint64_t unique                 # 0: a thread sleeps; else the parked request
    uint64_t woken_ns
    uint32_t n_kept                 # glocks that stay here until its next run
    glx* kept[KEEP_MAX]
    gwaiter* hnext                  # parked: by unique

cdef struct glx:
    glock* gl
    sbd* sd
    dlink all                       # gls.all
    dlink work                      # a demoter's list
    dlink unreg                     # gls.unreg or gls.registering, oldest first
    uint64_t reg_no                 # its number there
    uint64_t need_reg               # demotion: births with lower numbers must be known to the lock manager first
    void* handle                    # the lock manager's
    int32_t req                     # mode asked for; -1: nothing is under way
    uint32_t req_flags              # LM_*
    int32_t demote                  # mode that others leave us; -1: nobody complains
    uint32_t flags                  # GLX_*
    int32_t pin                     # GLX_PINNED: at least this mode stays
    uint32_t n_kept                 # operations that were woken for it and have not run yet
    gwaiter* waiters
    uint64_t asked_ns, granted_ns, due_ns
    uint64_t wait_ns, sync_ns       # the last acquisition, the last demotion
    uint64_t dirty_seq              # the newest transaction in which something under it was changed, atomic
    int32_t leaving                 # a demoter waits for the last holder, atomic
    # inode: what the kernel has of it (_glock, "the kernel's caches")
    uint64_t fills                  # READs for its page cache that were answered, atomic
    uint64_t dropped                # how many there were when it had given back all pages
    uint64_t before                 # how many when it was last told to, atomic
    int32_t taking                  # TAKE_*
    uint32_t ticks                  # how long that has taken
    uint64_t deleted                # inode: generation that a node deleted, from the lock value block
    uint64_t wanted_ns              # when another node asked for it (demote)
    # As the kernel counts (gfs2-glocks.rst): smoothed round trip and its variance of requests that cannot block, of
    # those that can, time between requests and its variance, requests, holders.
    int64_t stats[LKS_N]

cdef struct lm_ops:
    # Asks for mode `want` where `have` is held (LM_ST_UNLOCKED, not GLX_KNOWN: a new lock). Answered by glock_answer.
    # The lock value block: gl.lvb is set before the answer to a grant of SH or EX, and taken when EX is given back.
    void (*lock)(void* lm, glx* x, int32_t have, int32_t want, uint32_t flags) noexcept nogil
    # The lock manager shall forget it. Not answered; x may be freed afterwards.
    void (*unlock)(void* lm, glx* x, int32_t have) noexcept nogil
    # This thread asks for much at once: between True and False nothing need be said yet. NULL: all is said at once.
    void (*gather)(void* lm, bint on) noexcept nogil

cdef struct demoter:
    gls* gs
    dlink work
    pthread_cond_t cond
    pthread_t thread
    bint on

cdef struct gls:
    sbd* sd
    const lm_ops* ops
    void* lm
    pthread_mutex_t lock            # all glx fields but the atomic ones
    pthread_cond_t cond             # sleepers, registration
    dlink all, unreg
    dlink registering               # born, and the lock manager is being told
    uint64_t reg_next
    gwaiter* parked[256]
    uint32_t n_parked
    demoter demoters[2]             # inodes; all others
    bint stop
    # flush and forget what is under x before it goes down to `target` (its rw is held for writing)
    int (*go)(glx* x, int32_t target) noexcept nogil
    # the lock has gone down; x may be freed here
    void (*gone)(glx* x) noexcept nogil
    fs_kernel kernel                # how the kernel is told to give back what it caches
    int32_t has_kernel              # atomic; False: it caches nothing
    dlink taking                    # glx (by work) whose pages it is giving back
    int32_t giving_back             # inodes that it gives back after a withdraw, atomic
    void (*unpark)(void* arg, uint64_t unique) noexcept nogil       # NULL: operations sleep
    void* unpark_arg
    bint (*known)(sbd* sd, uint64_t addr) noexcept nogil            # does the kernel know this inode?
    void (*wanted)(sbd* sd, uint64_t addr) noexcept nogil           # another node wants to delete it
    # other nodes want the iopen glock `x`, which stays here: whoever waits for it is to go on without
    void (*poke)(glx* x) noexcept nogil
    void* iopens                    # _iopen
    void* flocks                    # _flock
    int32_t planted                 # a bug for tests to find
    uint64_t n_requests, n_grants, n_refused, n_basts, n_demotes, n_parks, n_sleeps, n_registered, n_rounds
    int64_t stats[GLOCK_TYPES][LKS_N]       # as glx.stats, per type from 1 on

cdef struct buf:
    uint64_t blkno
    uint8_t* data                   # sd.bsize bytes
    int32_t refs                    # under the shard's mutex
    uint32_t flags                  # B_*
    buf* hnext
    dlink lru                       # shard LRU (all unreferenced buffers)
    dlink tr                        # running transaction: bufs or dbufs list
    dlink ail                       # a committed transaction's AIL
    logtxn* ail_tr
    dlink dirty                     # B_DATA: its inode's dirty list
    uint64_t since                  # sbd.epoch when its content was read or made
    inode* ip                       # B_DATA|B_DDIRTY: whose
    uint64_t lblk                   # B_DATA: the file block it holds

cdef struct cache_shard:
    pthread_mutex_t lock
    pthread_cond_t cond             # B_READING or B_WRITING ended
    buf** table
    uint32_t mask, count
    dlink lru                       # head.next = oldest
    uint64_t hits, misses, evictions

cdef struct bufcache:
    cache_shard* shards
    uint32_t n_shards, limit_per_shard      # buffers
    pthread_mutex_t slab_lock
    buf* free_list                          # through hnext
    void** slabs
    uint32_t n_slabs, cap_slabs
    uint64_t n_allocated                    # buffers ever carved out of slabs

cdef struct extent:                 # `len` file blocks at `lblk` lie at `dblk` (0: a hole)
    uint64_t lblk, dblk, len

cdef struct dwrange:                # a direct write under way, on its writer's stack, on its inode's list
    uint64_t seq                    # counts up in the order they began
    uint64_t lblk, end              # file blocks [lblk, end)
    dwrange* next

cdef struct inode:
    uint64_t no_addr, no_formal_ino
    sbd* sd
    glock gl
    int32_t refs                    # users in memory, under icache.lock
    uint32_t iflags                 # I_*, atomic where noted
    inode* hnext
    bint unhashed                   # cut loose: its block has been given to another inode (icache.lock)
    dlink lru                       # icache LRU when refs == 0
    # the dinode, valid under the glock with I_VALID
    uint32_t mode, uid, gid, nlink
    uint64_t size, blocks
    int64_t atime, mtime, ctime
    uint32_t atime_nsec, mtime_nsec, ctime_nsec
    uint32_t major, minor
    uint64_t goal                   # block near which the next allocation should start
    uint64_t generation
    uint32_t diskflags              # GFS2_DIF_*
    uint16_t height, depth
    uint32_t entries
    uint64_t eattr
    # space: a reservation of free blocks held for this inode (rgrp.pyx owns these)
    rgrpd* rs_rgd
    uint64_t rs_start
    uint32_t rs_len
    dlink rs_link                   # on rs_rgd.rs_list
    rgrpd* rgd_hint                 # where the last allocation came from
    # file data: dirty bufs, direct writes in flight
    pthread_mutex_t dlock           # guards dirty, ndirty, dw_*, wb_err, ext, hash_cache filling
    pthread_cond_t dcond
    dlink dirty
    uint32_t ndirty                 # dirty or being written; > 0 holds a reference to the inode
    bint wb_on                      # a write-back of this inode is under way
    dwrange* dw_list                # direct writes, maybe into blocks that an uncommitted transaction has allocated
    uint64_t dw_started             # how many ever began; one begins only under the glock EX
    int32_t wb_err                  # the last error of writing its data
    uint32_t wb_seq, wb_told        # how many there were; how many when somebody was last told
    int32_t n_mappers               # handles here that may map it to write, atomic
    dlink ordered                   # running transaction's ordered list (log.lock)
    bint ordered_on
    bint ordered_must               # its data go before the commit in data=writeback, too
    uint64_t meta_seq               # log sequence that carries the last change of the dinode
    uint64_t data_seq               # the same for changes that fdatasync must keep (size, blocks)
    # caches under the glock
    extent ext                      # last mapping found (SH holders update it under dlock)
    uint64_t* hash_cache            # directory: the hash table, big-endian as on disk, or NULL
    uint32_t hash_cache_len         # entries
    uint64_t dir_gen                # counts changes of this directory in memory
    int32_t dir_cachers             # directory: open handles whose kernel may keep the listing, at most one; atomic
    void* locks                     # flock/fcntl state, owned by the lock code

cdef struct icache:
    pthread_mutex_t lock
    inode** table
    uint32_t mask, count, limit
    dlink lru
    dlink dying                     # cut loose, waiting for their glocks to be let go (inode.lru)

cdef struct blkrange:               # blocks of one group, by position
    uint32_t start, len

cdef struct rgrpd:
    sbd* sd
    uint32_t index
    uint64_t addr, data0            # header block; first data block
    uint32_t data, length, bitbytes # data blocks; header+bitmap blocks; bytes of bitmap
    glock gl
    # mirror of the header, valid under the glock when `loaded`
    bint loaded
    uint32_t flags, free, dinodes, unlinked
    uint64_t igeneration
    uint32_t free_clone             # blocks allocatable now: free minus those freed by uncommitted transactions
    uint32_t reserved               # blocks in reservations
    uint64_t last_alloc             # position in the group
    buf** bits                      # `length` buffers; set while bits_held (at least while the glock is held)
    bint bits_held
    opctx* owner                    # whose operation holds the glock here, and how often
    uint32_t depth
    dlink hot                       # on sd.rg_hot: bits stay held after unlock
    # mx, innermost of all locks but log.lock: clones, freed, free_clone, extfail, reserved, rs_list
    pthread_mutex_t mx
    uint8_t** clones                # per bitmap block: NULL, or a copy in which uncommitted frees still look used
    blkrange* freed                 # by the running transaction
    uint32_t n_freed, cap_freed
    blkrange* freed_c               # by the transaction being committed
    uint32_t n_freed_c, cap_freed_c
    dlink clone_link                # on sd.clone_list when n_freed
    dlink commit_link               # on sd.clone_committing when n_freed_c
    dlink rs_list                   # reservations (inode.rs_link), ascending
    uint32_t n_rs
    uint32_t extfail                # no free run of this many blocks was found; 0: not known

cdef struct logtxn:                 # a compound transaction: running, then committing, then on the AIL
    uint64_t seq
    dlink link                      # log.ail_list, oldest first
    dlink bufs, dbufs               # running: buffers pinned (metadata; jdata)
    uint32_t nbufs, ndbufs
    uint64_t* revokes
    uint32_t nrevokes, cap_revokes
    dlink ordered                   # running: inodes whose data must be on disk before this commits
    inode** ord                     # committing: the same, taken off the list at the switch
    uint32_t n_ord
    dlink freed                     # buffers of blocks freed (through buf.tr), held until the commit
    uint32_t nfreed
    dlink ail                       # committed: buffers not yet in place
    uint32_t n_ail
    uint64_t tail_seq               # of its header: the oldest transaction that a replay begins with
    uint32_t first                  # log block where it begins
    uint32_t nblocks                # log blocks it occupies

cdef struct jlog:
    sbd* sd
    pthread_rwlock_t flush_lock     # shared: a transaction; exclusive: the moment of the switch
    pthread_mutex_t lock            # the fields below, and every txn list
    pthread_cond_t cond             # space or a commit arrived
    pthread_mutex_t commit_lock     # one commit at a time
    extent* ext                     # where the journal file lies, by log block
    uint32_t n_ext
    uint64_t jinode                 # journal dinode's address
    uint32_t jid
    uint32_t nblocks                # of the journal
    uint32_t head                   # next log block to write
    uint32_t tail                   # tail in the newest header on disk
    uint32_t free                   # log blocks neither live nor reserved for the commit under way
    uint32_t reserved               # blocks reserved by open transactions
    uint32_t reserved_revokes
    uint64_t sequence               # of the next header
    logtxn* running
    uint64_t committed_seq          # all transactions with seq <= this are durable
    uint64_t tail_seq               # none below this is replayed any more, by the newest header on disk
    dlink ail_list
    uint32_t n_ail                  # buffers on all AILs
    bint live                       # headers may be written
    uint8_t* io_buf                 # staging of a commit (commit_lock)
    uint64_t io_cap
    pthread_mutex_t ail_lock        # one AIL writer at a time
    uint8_t* ail_buf
    # the log daemon
    pthread_t thread
    bint thread_on, stop, kick
    uint32_t commit_ms              # periodic commit
    uint64_t n_trans                # transactions begun
    uint64_t n_commits, n_blocks_logged, n_revokes, n_ail_writes, n_flush_waits
    uint64_t n_flushes              # device flushes begun; all but the newest have ended, that one under commit_lock
    int32_t data_err                # a data write-back failed since the last syncfs

cdef struct freezer:                # _freeze
    pthread_mutex_t lock
    pthread_cond_t cond             # the state has changed, or the last of `writers` is through
    int32_t state                   # FZ_*, atomic; changed under lock
    int32_t writers                 # operations under way that may change something, atomic
    bint ended                      # the mount ends: nobody waits here any more
    bint emptying                   # a freeze is at work on the log
    uint64_t n_late                 # how often the engine's own threads came in
    void (*drain)(void* arg) noexcept nogil     # waits for deletions that are queued
    void* drain_arg
    uint64_t* parked                # requests put away until the thaw
    uint32_t n_parked, cap_parked
    uint64_t since_ns               # when the last freeze began
    void (*unpark)(void* arg, uint64_t unique) noexcept nogil       # NULL: operations sleep
    void* unpark_arg

cdef struct opctx:                  # one operation under way, on one thread's stack
    sbd* sd
    uint32_t uid, gid, pid, umask
    int64_t now_sec                 # the operation's time
    uint32_t now_nsec
    # the open transaction
    bint tr_on
    uint32_t tr_blocks, tr_revokes  # reserved
    uint32_t tr_nbuf, tr_ndbuf, tr_nrevoke   # used
    bint tr_touched
    # the resource group held for allocation (inplace_reserve ... inplace_release)
    rgrpd* rgd
    uint32_t rg_target
    uint32_t rg_held                # groups locked by this operation
    rgrpd* rg_top                   # the one with the highest address
    # cluster locks
    uint64_t unique                 # not 0: the request's number, under which it may be parked (OP_PARK)
    uint32_t gl_flags               # GL_* for all inode glocks it takes
    uint64_t last_seq               # the newest transaction it was part of
    int* interrupted                # may be NULL
    bint no_times                   # write(): the kernel keeps mtime itself (write-back of its page cache)
    uint32_t ea_mode                # not 0: the inode's mode from the change of an extended attribute on
    # among nodes: the last block that was no dinode when one was looked for there, and what it had instead
    uint64_t no_dinode
    const char* no_dinode_field
    uint64_t no_dinode_wanted, no_dinode_found

cdef struct sbd:
    blkdev* dev
    # geometry
    uint32_t bsize, bsize_shift, fs_format
    uint32_t diptrs, inptrs         # pointers in a dinode, in an indirect block
    uint32_t jbsize                 # bytes of a jdata directory block (bsize - 24)
    uint32_t hash_bsize, hash_ptrs, hash_bsize_shift     # exhash table blocks: bsize/2 ...
    uint32_t max_height, max_jheight
    uint64_t heightsize[11]
    uint64_t jheightsize[11]
    uint32_t ldptrs                 # block numbers in a metadata log descriptor
    uint32_t jdptrs                 # in a jdata descriptor
    uint64_t fs_blocks              # device size in blocks
    uint64_t sb_block               # the superblock's; nothing before it is the file system's
    uint32_t flags                  # SDF_*
    uint64_t root_addr, master_addr, root_formal
    char lockproto[64]
    char locktable[64]
    uint8_t uuid[16]
    # parts
    gls* gls                        # the cluster's locks; NULL: one node
    uint64_t epoch                  # counts up when a glock is granted anew (glock.since), atomic
    bufcache* bc
    icache* ic
    jlog* log
    rgrpd* rgrps                    # sorted by addr
    uint32_t n_rgrps, cap_rgrps
    uint32_t n_journals             # as many nodes share the groups
    pthread_mutex_t rg_lock         # reservations, clone_list, choice of rgrps
    dlink clone_list                # groups in which the running transaction freed something
    dlink clone_committing          # the same of the transaction being committed
    dlink rg_hot                    # groups whose bitmaps stay held, oldest first
    uint32_t n_rg_hot
    uint32_t rg_next                # round robin start for new directories
    # system files
    inode* master
    inode* jindex
    inode* rindex
    inode* statfs_ip
    inode* quota_ip
    inode* sc_ip                    # statfs_change of this jid
    inode* qc_ip                    # quota_change of this jid
    # statfs: master and the local difference, under st_lock
    pthread_mutex_t st_lock
    int64_t st_total, st_free, st_dinodes
    int64_t sl_total, sl_free, sl_dinodes
    bint sl_dirty
    buf* sc_buf                     # statfs_change's dinode, held by _statfs
    # hooks of layers above (NULL: nothing)
    void* quota                     # quota.pyx
    void (*quota_change)(opctx* cx, int64_t change, uint32_t uid, uint32_t gid) noexcept nogil
    int (*quota_check)(opctx* cx, uint32_t uid, uint32_t gid, uint64_t blocks) noexcept nogil   # 0 or -EDQUOT
    void (*at_switch)(sbd* sd, opctx* cx) noexcept nogil    # within the exclusive moment of a commit
    void (*after_commit)(sbd* sd) noexcept nogil            # the transactions of the last switch are durable
    int (*data_writeback)(sbd* sd, inode* ip) noexcept nogil
    int (*data_write_many)(sbd* sd, inode** ips, uint32_t n_ips, const bio_seg* more, uint32_t n_more) noexcept nogil
    void (*inode_put)(inode* ip) noexcept nogil
    void (*inode_evict)(sbd* sd, inode* ip) noexcept nogil  # leaves the cache: reservations go back
    int (*truncate_resume)(opctx* cx, inode* ip) noexcept nogil
    void (*inode_hold)(inode* ip) noexcept nogil
    # Tries to free UNLINKED dinodes of a group whose space is wanted; waits for no glock (trylock only)
    # and uses an opctx of its own.
    void (*reclaim)(opctx* cx, rgrpd* rgd) noexcept nogil
    void (*delete_again)(sbd* sd, uint64_t addr) noexcept nogil     # an unlinked inode that another node has open
    # errors
    int32_t withdrawn               # atomic
    int32_t tell_fd                 # an eventfd that says so; -1: nobody wants to know
    freezer fz
    pthread_mutex_t err_lock
    char err_text[512]              # first reason
    char jid_name[64]
    void* mnt                       # mount.pyx
    void* names                     # _names; NULL: none are kept
    pthread_mutex_t rename_lock     # moving directories between directories
    glock rename_gl                 # the same among nodes
    glock journal_gl                # EX: this journal has an owner
    bint quiet                      # tests: no messages to stderr
    uint64_t n_corrupt
    int64_t n_ddirty                # dirty data blocks of all inodes, atomic
    int64_t ddirty_limit            # above it writers write back themselves
    observer ob
