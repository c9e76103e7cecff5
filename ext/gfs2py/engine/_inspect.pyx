"""The glocks, groups and tunables of a mount for those who look from outside: what the control files are made of.

Nothing here stops the mount. The tables are copied in small pieces, each under the table's own lock, with a placeholder
that keeps the place in between; so a picture is true line by line, not as a whole. Counters and modes are read as they
stand. The order of the fields is that of the kernel's debugfs files (fs/gfs2/glock.c gfs2_dump_glock and
gfs2_glstats_seq_show, glops.c inode_go_dump, rgrp.c gfs2_rgrp_dump).
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from gfs2py.engine._glock cimport (GLX_BUSY, GLX_KNOWN, GLX_REGISTERING, LM_TRY, LM_TRY_1CB)
from gfs2py.engine._incore cimport (GLOCK_TYPES, I_VALID, LKS_N, LM_ST_UNLOCKED, LM_TYPE_INODE, LM_TYPE_RGRP, glock,
                                    gls, glx, gwaiter, icache, inode, rgrpd, sbd)
from gfs2py.engine._mount cimport Gfs2
from gfs2py.engine._names cimport hint, names_find
from gfs2py.engine._quotad cimport QUOTAD_QUOTA, QUOTAD_STATFS, quotad_ask, quotad_done
from gfs2py.engine._sync cimport (dl_add_head, dl_add_tail, dl_del, dl_init, dlink, gl_atomic_load64,
                                  pthread_mutex_lock, pthread_mutex_unlock, pthread_rwlock_t)
from gfs2py.fuse._stat cimport stat_now

from typing import NamedTuple

cdef extern from *:
    """
    /* Who holds a lock, by the C library's own notes (glibc's nptl/pthread_rwlock_common.c): for people who look, never
       for a decision. Elsewhere nobody seems to hold anything. */
    #ifdef __GLIBC__
    static inline int gfs2py_rw_writer(const pthread_rwlock_t *l)
    { return __atomic_load_n(&l->__data.__cur_writer, __ATOMIC_RELAXED); }
    static inline unsigned gfs2py_rw_readers(const pthread_rwlock_t *l)
    {
        unsigned r = __atomic_load_n(&l->__data.__readers, __ATOMIC_RELAXED);
        return (r & 1) ? 0 : r >> 3;            /* 1: a writer's turn, those counted wait */
    }
    #else
    static inline int gfs2py_rw_writer(const pthread_rwlock_t *l) { (void)l; return 0; }
    static inline unsigned gfs2py_rw_readers(const pthread_rwlock_t *l) { (void)l; return 0; }
    #endif
    """
    int gfs2py_rw_writer(const pthread_rwlock_t* l) noexcept nogil
    unsigned int gfs2py_rw_readers(const pthread_rwlock_t* l) noexcept nogil

cdef enum:
    PIECE = 64                      # glocks copied under one hold of a table's lock
    WAITERS_MAX = 8                 # parked requests of one glock that are told
    LINE_MAX = 320
    DEPTH_MAX = 64                  # directories of a path
    BUCKETS = 256                   # of the inode table, looked through under one hold of its lock

cdef struct waiting:
    uint64_t unique
    int32_t mode
    uint32_t flags

cdef struct picture:                # one glock as it was
    uint32_t type, flags, req_flags, readers, n_kept, n_waiters
    int32_t state, req, demote, writer
    bint dirty, owned, pending
    uint64_t number, wanted_ns, hold_ns
    int64_t stats[LKS_N]
    waiting waiters[WAITERS_MAX]
    # an inode's
    uint64_t formal, size
    uint32_t mode, iflags, diskflags, refs
    # a group's
    uint32_t rg_flags, rg_free, rg_clone, rg_dinodes, rg_reserved, rg_extfail

cdef struct walk:                   # a way through all glocks of a mount
    sbd* sd
    gls* gs
    glx mark                        # stands in gls.all between two pieces
    glock mark_gl
    bint marked, done
    uint32_t bucket, rgrp           # lock_nolock: where we are
    uint32_t n
    picture piece[PIECE]


class BusyGlock(NamedTuple):
    """A glock that somebody holds, waits for, or wants elsewhere; the lines about its holders stand between the two.

    writer: the thread that holds it exclusively, 0: none. readers: how many threads share it. waiters: of parked
    requests number, mode and flags (GL_*). asked, demote: a mode, -1: none. waited_ns: since another node wanted it.
    """

    head: bytes
    tail: bytes
    type: int
    number: int
    state: int
    asked: int
    demote: int
    waited_ns: int
    flags: int
    writer: int
    readers: int
    waiters: tuple


# ---- copying --------------------------------------------------------------------------------------------------------

cdef void _copy(picture* p, const glock* gl, uint64_t committed, uint64_t now) noexcept nogil:
    cdef const glx* x = gl.x
    cdef const gwaiter* w
    cdef const inode* ip
    cdef const rgrpd* rgd
    memset(p, 0, sizeof(picture))
    p.type = gl.type
    p.number = gl.number
    p.state = gl.state
    p.req = -1
    p.demote = -1
    p.writer = gfs2py_rw_writer(&gl.rw)
    p.readers = gfs2py_rw_readers(&gl.rw)
    p.owned = gl.owner != NULL
    if x != NULL:
        p.flags = x.flags
        p.req = x.req
        p.req_flags = x.req_flags
        p.demote = x.demote
        p.n_kept = x.n_kept
        p.wanted_ns = now - x.wanted_ns if x.demote >= 0 and now > x.wanted_ns else 0
        p.pending = x.demote >= 0 and x.due_ns > now
        p.hold_ns = (x.wait_ns + x.sync_ns) // 4
        p.dirty = gl_atomic_load64(<uint64_t*>&x.dirty_seq) > committed
        memcpy(p.stats, x.stats, sizeof(p.stats))
        w = x.waiters
        while w != NULL:
            if w.unique and p.n_waiters < WAITERS_MAX:
                p.waiters[p.n_waiters].unique = w.unique
                p.waiters[p.n_waiters].mode = w.mode
                p.waiters[p.n_waiters].flags = w.flags
                p.n_waiters += 1
            w = w.next
    if gl.type == LM_TYPE_INODE and gl.owner != NULL:
        ip = <const inode*>gl.owner
        p.formal = ip.no_formal_ino
        p.size = ip.size
        p.mode = ip.mode
        p.iflags = ip.iflags
        p.diskflags = ip.diskflags
        p.refs = <uint32_t>max(ip.refs, 0)
    elif gl.type == LM_TYPE_RGRP and gl.owner != NULL:
        rgd = <const rgrpd*>gl.owner
        p.rg_flags = rgd.flags
        p.rg_free = rgd.free
        p.rg_clone = rgd.free_clone
        p.rg_dinodes = rgd.dinodes
        p.rg_reserved = rgd.reserved
        p.rg_extfail = rgd.extfail


cdef void _begin(walk* k, sbd* sd) noexcept nogil:
    memset(k, 0, sizeof(walk))
    k.sd = sd
    k.gs = sd.gls
    if k.gs == NULL:
        return
    # A glock of no type at UN that nobody asks for: whoever goes through the list meets nothing to do.
    k.mark.gl = &k.mark_gl
    k.mark.sd = sd
    k.mark.req = -1
    k.mark.demote = -1
    dl_init(&k.mark.all, &k.mark)
    dl_init(&k.mark.work, &k.mark)
    dl_init(&k.mark.unreg, &k.mark)
    pthread_mutex_lock(&k.gs.lock)
    dl_add_head(&k.gs.all, &k.mark.all)
    pthread_mutex_unlock(&k.gs.lock)
    k.marked = True


cdef void _end(walk* k) noexcept nogil:
    if k.marked:
        pthread_mutex_lock(&k.gs.lock)
        dl_del(&k.mark.all)
        pthread_mutex_unlock(&k.gs.lock)
        k.marked = False


cdef void _more_shared(walk* k, uint64_t committed, uint64_t now) noexcept nogil:
    cdef dlink* l
    cdef glx* x
    pthread_mutex_lock(&k.gs.lock)
    l = k.mark.all.next
    while l != &k.gs.all and k.n < PIECE:
        x = <glx*>l.owner
        l = l.next
        if x.gl.type:               # not another one's mark
            _copy(&k.piece[k.n], x.gl, committed, now)
            k.n += 1
    k.done = l == &k.gs.all
    dl_del(&k.mark.all)
    dl_add_tail(l, &k.mark.all)     # right before the first that was not seen
    pthread_mutex_unlock(&k.gs.lock)


cdef void _more_local(walk* k, uint64_t committed, uint64_t now) noexcept nogil:
    """One node: groups, then the inodes in memory, each the EX glock that nobody contests."""
    cdef icache* ic = k.sd.ic
    cdef inode* ip
    cdef uint32_t bucket
    cdef uint32_t looked = 0
    cdef uint32_t before
    while k.rgrp < k.sd.n_rgrps and k.n < PIECE:
        _copy(&k.piece[k.n], &k.sd.rgrps[k.rgrp].gl, committed, now)
        k.rgrp += 1
        k.n += 1
    pthread_mutex_lock(&ic.lock)
    while k.bucket <= ic.mask and k.n < PIECE and looked < BUCKETS:
        before = k.n
        ip = ic.table[k.bucket]
        while ip != NULL and k.n < PIECE:
            _copy(&k.piece[k.n], &ip.gl, committed, now)
            k.n += 1
            ip = ip.hnext
        if ip != NULL and before:
            k.n = before            # the whole chain comes with the next piece
            break
        k.bucket += 1
        looked += 1
    k.done = k.bucket > ic.mask and k.rgrp == k.sd.n_rgrps
    pthread_mutex_unlock(&ic.lock)


cdef void _more(walk* k) noexcept nogil:
    cdef uint64_t committed = gl_atomic_load64(&k.sd.log.committed_seq)
    cdef uint64_t now = stat_now()
    k.n = 0
    if k.gs != NULL:
        _more_shared(k, committed, now)
    else:
        _more_local(k, committed, now)


# ---- words ----------------------------------------------------------------------------------------------------------

cdef inline const char* _state(int32_t state) noexcept nogil:
    if state == 0:
        return b"UN"
    if state == 1:
        return b"SH"
    if state == 2:
        return b"DF"
    return b"EX" if state == 3 else b"??"


cdef void _flags(const picture* p, bint queued, char* out) noexcept nogil:
    cdef int n = 0
    if p.flags & (GLX_BUSY | GLX_REGISTERING) or p.req >= 0:
        out[n] = c'l'
        n += 1
    if p.demote >= 0 and p.pending:
        out[n] = c'd'
        n += 1
    elif p.demote >= 0:
        out[n] = c'D'
        n += 1
    if p.demote >= 0 and p.flags & GLX_BUSY:
        out[n] = c'p'
        n += 1
    if p.dirty:
        out[n] = c'y'
        n += 1
    if p.flags & GLX_KNOWN:
        out[n] = c'I'
        n += 1
    if queued:
        out[n] = c'q'
        n += 1
    if p.owned:
        out[n] = c'o'
        n += 1
    if p.req > p.state and not p.req_flags & (LM_TRY | LM_TRY_1CB):
        out[n] = c'b'
        n += 1
    out[n] = 0


cdef bytes _head(const picture* p, bint queued):
    cdef char line[LINE_MAX]
    cdef char flags[16]
    cdef int n
    _flags(p, queued, flags)
    n = snprintf(line, LINE_MAX, "G:  s:%s n:%u/%llx f:%s t:%s d:%s/%llu a:0 v:0 r:%u m:%llu p:0\n", _state(p.state),
                 p.type, <unsigned long long>p.number, flags, _state(p.req if p.req >= 0 else p.state),
                 _state(p.demote if p.demote >= 0 else 3), <unsigned long long>(p.wanted_ns // 1000),
                 <unsigned int>(2 + p.readers + <uint32_t>(p.writer != 0) + p.n_waiters + p.n_kept),
                 <unsigned long long>(p.hold_ns // 1000000))
    return line[:n]


cdef bytes _tail(const picture* p):
    cdef char line[LINE_MAX]
    cdef int n
    if p.state == LM_ST_UNLOCKED or not p.owned:
        return b""
    if p.type == LM_TYPE_INODE and p.iflags & I_VALID:
        n = snprintf(line, LINE_MAX, " I: n:%llu/%llu t:%u f:0x%02x d:0x%08x s:%llu p:0\n",
                     <unsigned long long>p.formal, <unsigned long long>p.number, p.mode >> 12 & 15, p.iflags,
                     p.diskflags, <unsigned long long>p.size)
        return line[:n]
    if p.type == LM_TYPE_RGRP:
        n = snprintf(line, LINE_MAX, " R: n:%llu f:%02x b:%u/%u i:%u q:%u r:%u e:%u\n",
                     <unsigned long long>p.number, p.rg_flags, p.rg_free, p.rg_clone, p.rg_dinodes, p.rg_reserved,
                     p.rg_reserved, p.rg_extfail)
        return line[:n]
    return b""


cdef bytes _statistics(const picture* p):
    cdef char line[LINE_MAX]
    cdef const int64_t* s = &p.stats[0]
    cdef int n = snprintf(line, LINE_MAX, "G: n:%u/%llx rtt:%lld/%lld rttb:%lld/%lld irt:%lld/%lld dcnt: %lld "
                          "qcnt: %lld\n", p.type, <unsigned long long>p.number, <long long>s[0], <long long>s[1],
                          <long long>s[2], <long long>s[3], <long long>s[4], <long long>s[5], <long long>s[6],
                          <long long>s[7])
    return line[:n]


cdef bint _is_busy(const picture* p) noexcept nogil:
    return (p.writer != 0 or p.readers != 0 or p.n_waiters != 0 or p.n_kept != 0 or p.demote >= 0 or p.req >= 0
            or p.flags & GLX_BUSY != 0)


cdef object _busy(const picture* p, bint queued):
    cdef uint32_t i
    waiters = []
    for i in range(p.n_waiters):
        waiters.append((p.waiters[i].unique, p.waiters[i].mode, p.waiters[i].flags))
    return BusyGlock(_head(p, queued or p.n_waiters or p.writer or p.readers), _tail(p), p.type, p.number, p.state,
                     p.req, p.demote, p.wanted_ns, p.flags, p.writer, p.readers, tuple(waiters))


# ---- from Python ----------------------------------------------------------------------------------------------------

def glocks(Gfs2 fs not None, waited=frozenset(), bint only_busy=False):
    """All glocks as kernel lines: bytes, and a BusyGlock for each that needs lines about its holders.

    waited: (type, number) of those that a thread waits for. With only_busy nothing but those.
    """
    cdef walk k
    cdef uint32_t i
    cdef bint wanted
    out = []
    text = bytearray()
    if not fs.enter():
        return out
    try:
        _begin(&k, &fs.m.sd)
        try:
            while not k.done:
                with nogil:
                    _more(&k)
                for i in range(k.n):
                    wanted = (k.piece[i].type, k.piece[i].number) in waited
                    if wanted or _is_busy(&k.piece[i]):
                        if text:
                            out.append(bytes(text))
                            text = bytearray()
                        out.append(_busy(&k.piece[i], wanted))
                    elif not only_busy:
                        text += _head(&k.piece[i], False)
                        text += _tail(&k.piece[i])
        finally:
            _end(&k)
    finally:
        fs.leave()
    if text:
        out.append(bytes(text))
    return out


def glock_statistics(Gfs2 fs not None):
    """The lines of glstats: round trips of requests to the lock manager, how often, per glock."""
    cdef walk k
    cdef uint32_t i
    text = bytearray()
    if not fs.enter():
        return b""
    try:
        _begin(&k, &fs.m.sd)
        try:
            while not k.done:
                with nogil:
                    _more(&k)
                for i in range(k.n):
                    text += _statistics(&k.piece[i])
        finally:
            _end(&k)
    finally:
        fs.leave()
    return bytes(text)


def type_statistics(Gfs2 fs not None):
    """The same eight numbers per type of glock, from type 1 on; zeroes where nothing is shared."""
    cdef gls* gs
    cdef int i, j
    out = [[0] * <int>LKS_N for _ in range(<int>GLOCK_TYPES)]
    if not fs.enter():
        return out
    gs = fs.m.sd.gls
    if gs != NULL:
        for i in range(GLOCK_TYPES):
            out[i] = [gs.stats[i][j] for j in range(<int>LKS_N)]
    fs.leave()
    return out


def resource_groups(Gfs2 fs not None):
    """One line per resource group."""
    cdef picture p
    cdef uint32_t i
    text = bytearray()
    if not fs.enter():
        return b""
    for i in range(fs.m.sd.n_rgrps):
        _copy(&p, &fs.m.sd.rgrps[i].gl, 0, 0)
        p.state = 3
        text += _tail(&p)
    fs.leave()
    return bytes(text)


def root_number(Gfs2 fs not None):
    """The root directory's address: what node 1 stands for."""
    return fs.m.sd.root_addr if fs.m != NULL else 0


def uuid(Gfs2 fs not None):
    """The file system's, 16 bytes."""
    return (<char*>fs.m.sd.uuid)[:16] if fs.m != NULL else bytes(16)


TUNABLES = ("log_flush_secs", "quota_quantum", "statfs_quantum")
SECONDS_MAX = 86400


def tune(Gfs2 fs not None):
    """The tunables and their values, in seconds."""
    if fs.m == NULL:
        return {}
    return {"log_flush_secs": fs.m.sd.log.commit_ms // 1000, "quota_quantum": fs.m.q.quota_s,
            "statfs_quantum": fs.m.q.statfs_s}


def set_tune(Gfs2 fs not None, name, int value):
    """Counts from the next round of the thread that it is for. Raises KeyError, ValueError."""
    if name not in TUNABLES:
        raise KeyError(name)
    if not 1 <= value <= SECONDS_MAX:
        raise ValueError(f"{name} is 1 to {SECONDS_MAX} seconds, not {value}")
    if fs.m == NULL:
        return
    if name == "log_flush_secs":
        # 0: there is no thread that could wait shorter.
        if fs.m.sd.log.commit_ms:
            fs.m.sd.log.commit_ms = <uint32_t>value * 1000
    elif name == "quota_quantum":
        fs.m.q.quota_s = <uint32_t>value
    else:
        fs.m.q.statfs_s = <uint32_t>value


def ask_sync(Gfs2 fs not None, bint quota):
    """Has the mount's own thread fold quota (or else statfs) changes into the master files soon: a ticket for
    sync_done(). 0: there is no such thread (read-only, or the mount is ending)."""
    cdef uint64_t ticket = 0
    if fs.enter():
        ticket = quotad_ask(&fs.m.q, QUOTAD_QUOTA if quota else QUOTAD_STATFS)
        fs.leave()
    return ticket


def sync_done(Gfs2 fs not None, uint64_t ticket):
    """Whether that has been carried out; an end of the mount counts, too."""
    cdef bint done = True
    if fs.enter():
        done = quotad_done(&fs.m.q, ticket)
        fs.leave()
    return done


def path_hint(Gfs2 fs not None, uint64_t number):
    """Where this inode was found last on this node, from the mount point on, as far up as is known; None: nowhere.

    b"/a/b", or b".../b" where the directory's own name is not known.
    """
    cdef hint h
    cdef int depth
    cdef uint64_t at = number
    parts = []
    if not fs.enter():
        return None
    try:
        for depth in range(<int>DEPTH_MAX):
            if at == fs.m.sd.root_addr:
                return b"/" + b"/".join(reversed(parts))
            if not names_find(&fs.m.sd, at, &h):
                break
            parts.append(h.name[:h.length])
            at = h.parent
    finally:
        fs.leave()
    return b".../" + b"/".join(reversed(parts)) if parts else None
