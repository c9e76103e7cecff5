"""Choosing a resource group, reserving runs of blocks for inodes, and allocating.

A file that grows holds a *reservation*: a run of free blocks that others keep off while there is other space. Its
length follows the file's size, so that big files come in long extents and small ones do not spread. It is only in
memory and never a promise: when space is short it is taken away. What inplace_reserve promises (*got) rests on the
group's lock, which is kept until inplace_release.

The passes over the groups, from choosy to desperate:
    PASS_EASY    groups that nobody uses right now, with enough unreserved space and a decent run
    PASS_WAIT    waits for busy ones; any run
    PASS_STEAL   takes other inodes' reservations (after a log flush, if frees are waiting for a commit)
    PASS_LEAST   settles for min_target
    PASS_LAST    the same after UNLINKED dinodes were reclaimed and the log flushed once more
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport LM_ST_EXCLUSIVE, LM_ST_UNLOCKED, inode, opctx, rgrpd, sbd
from gfs2py.engine._log cimport log_flush
from gfs2py.engine._rgrp_core cimport (rg_header_out, rg_next, rg_next_word, rg_run_end, rg_set, rgrp_find,
                                       rgrp_lock, rgrp_trylock, rgrp_unlock)
from gfs2py.engine._sbd cimport sd_assert_failed
from gfs2py.engine._sync cimport (dl_del, dl_empty, dl_init, dlink, gl_atomic_add64, pthread_mutex_lock,
                                  pthread_mutex_unlock)
from gfs2py.ondisk._ondisk cimport (GFS2_BLKST_DINODE, GFS2_BLKST_FREE, GFS2_BLKST_USED, GFS2_DIF_SYSTEM,
                                    GFS2_DIF_TOPDIR, GFS2_LFC_INPLACE_RESERVE, GFS2_RGF_NOALLOC)

cdef extern from "<errno.h>" nogil:
    int EBUSY, EDEADLK, EINVAL, EIO, ENOSPC, EROFS
cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int usec)

cdef enum:
    S_IFMT = 0o170000, S_IFDIR = 0o040000, S_IFREG = 0o100000
    RS_MIN = 32                     # blocks in the smallest reservation
    RS_MAX = 8192                   # in the largest
    WORDLESS = 62                   # the longest run that need not fill an aligned word of 32
    WORD_RUNS = 2048                # free runs looked at in one search by words
    HOLE_RUNS = 256                 # and one by one
    RS_PER_GROUP = 256              # reservations at most, the list is searched from its head
    ORLOV_SAMPLE = 8                # groups compared for a new top directory
    TRIES_MAX = 16                  # groups that nobody here has, asked of the lock manager in one pass
    BUSY_ROUNDS = 200               # of 1 ms, when groups below a held one are busy
    PASS_EASY = 0, PASS_WAIT = 1, PASS_STEAL = 2, PASS_LEAST = 3, PASS_LAST = 4, PASS_END = 5


# ---- reservations (rgd.mx held) -------------------------------------------------------------------------------------

cdef inline uint32_t _rs_start(dlink* l, rgrpd* rgd) noexcept nogil:
    return <uint32_t>((<inode*>l.owner).rs_start - rgd.data0)


cdef void _rs_remove(rgrpd* rgd, inode* ip) noexcept nogil:
    if ip.rs_len == 0:
        return
    dl_del(&ip.rs_link)
    rgd.n_rs -= 1
    rgd.reserved -= ip.rs_len
    # What comes back may touch other free blocks, so a longer run than before may exist.
    if rgd.extfail:
        rgd.extfail += ip.rs_len
    ip.rs_len = 0


cdef void _rs_insert(rgrpd* rgd, inode* ip, uint32_t pos, uint32_t n) noexcept nogil:
    cdef dlink* l = rgd.rs_list.prev
    while l != &rgd.rs_list and _rs_start(l, rgd) > pos:
        l = l.prev
    dl_init(&ip.rs_link, ip)
    ip.rs_link.prev = l
    ip.rs_link.next = l.next
    l.next.prev = &ip.rs_link
    l.next = &ip.rs_link
    ip.rs_start = rgd.data0 + pos
    ip.rs_len = n
    rgd.reserved += n
    rgd.n_rs += 1


cdef void _rs_steal(rgrpd* rgd, inode* keep) noexcept nogil:
    """Takes every reservation of the group but that of `keep`; its owner finds rs_len 0."""
    cdef dlink* l = rgd.rs_list.next
    cdef dlink* after
    while l != &rgd.rs_list:
        after = l.next
        if l.owner != <void*>keep:
            _rs_remove(rgd, <inode*>l.owner)
        l = after


cdef void rs_drop(sbd* sd, inode* ip) noexcept nogil:
    """May race with a writer of the same inode: rs_rgd becomes NULL and non-NULL only under that group's mx."""
    cdef rgrpd* rgd
    cdef bint done = 0
    while not done:
        rgd = ip.rs_rgd
        if rgd == NULL or sd.rgrps == NULL:
            return
        pthread_mutex_lock(&rgd.mx)
        if ip.rs_rgd == rgd:
            _rs_remove(rgd, ip)
            ip.rs_rgd = NULL
            done = 1
        pthread_mutex_unlock(&rgd.mx)


cdef void rs_drop_all(rgrpd* rgd) noexcept nogil:
    pthread_mutex_lock(&rgd.mx)
    _rs_steal(rgd, NULL)
    pthread_mutex_unlock(&rgd.mx)


cdef inline bint _rs_in(inode* ip, rgrpd* rgd) noexcept nogil:
    return ip.rs_rgd == rgd and ip.rs_len != 0


# ---- searching (group locked, rgd.mx held) --------------------------------------------------------------------------

cdef uint32_t _candidate(rgrpd* rgd, uint32_t pos, uint32_t end, bint coarse) noexcept nogil:
    """The start of the next free run from pos on; coarse: of the next one that fills a word of the bitmap."""
    cdef uint32_t at
    if not coarse:
        return rg_next(rgd, pos, end, GFS2_BLKST_FREE, 1)
    at = rg_next_word(rgd, pos, end)
    if at < end:
        # The run begins in the word before.
        while at > pos and rg_run_end(rgd, at - 1, at, GFS2_BLKST_FREE, 1) == at:
            at -= 1
    return at


cdef uint32_t _search_part(rgrpd* rgd, inode* ip, uint32_t pos, uint32_t end, uint32_t want, bint coarse,
                           uint32_t* budget, uint32_t* best, uint32_t best_len) noexcept nogil:
    """The first run of `want` allocatable blocks in [pos, end) off others' reservations, else the longest one seen.

    Returns its length and sets *best, unless nothing longer than best_len is found (then best_len). Looks at *budget
    runs, and at as many more as it takes to find one at all.
    """
    cdef dlink* l = rgd.rs_list.next
    cdef inode* other
    cdef uint32_t at, stop, rs
    while pos < end and (budget[0] or best_len == 0):
        at = _candidate(rgd, pos, end, coarse)
        if at == end:
            break
        budget[0] -= 1 if budget[0] else 0
        stop = rg_run_end(rgd, at, min(end, at + want), GFS2_BLKST_FREE, 1)
        while l != &rgd.rs_list and (l.owner == <void*>ip or
                                     _rs_start(l, rgd) + (<inode*>l.owner).rs_len <= at):
            l = l.next
        pos = stop
        if l != &rgd.rs_list:
            other = <inode*>l.owner
            rs = _rs_start(l, rgd)
            if rs < stop:
                stop = max(rs, at)
                pos = rs + other.rs_len
        if stop - at > best_len:
            best[0] = at
            best_len = stop - at
            if best_len >= want:
                break
    return best_len


cdef uint32_t _search_all(rgrpd* rgd, inode* ip, uint32_t goal, uint32_t want, bint coarse, uint32_t* budget,
                          uint32_t* pos) noexcept nogil:
    """Both parts of the group, from the goal on first."""
    cdef uint32_t n = _search_part(rgd, ip, goal, rgd.data, want, coarse, budget, pos, 0)
    if n < want and goal and (budget[0] or n == 0):
        # So far beyond the goal that a run across it is seen whole.
        n = _search_part(rgd, ip, 0, <uint32_t>min(goal + <uint64_t>want, <uint64_t>rgd.data), want, coarse, budget,
                         pos, n)
    return n


cdef uint32_t _search(rgrpd* rgd, inode* ip, uint32_t goal, uint32_t want, uint32_t* pos) noexcept nogil:
    """A run of up to `want` blocks, from goal on and around; 0 when there is no block off others' reservations.

    Long runs are sought by whole words, which costs microseconds even in a group of many holes: a run of WORDLESS + 1
    blocks cannot but fill one. Only when there is none are holes looked at one by one.
    """
    cdef uint32_t n, budget = WORD_RUNS
    gl_atomic_add64(<int64_t*>&rgd.sd.ob.n_rgrp_scans, 1)
    if rgd.extfail and want >= rgd.extfail:
        want = max(rgd.extfail - 1, <uint32_t>1)
    if want >= 32 and (rgd.extfail == 0 or rgd.extfail > WORDLESS + 1):
        n = _search_all(rgd, ip, goal, want, 1, &budget, pos)
        if n < want and budget:
            rgd.extfail = max(n, <uint32_t>WORDLESS) + 1
        if n >= 32:
            return n
    budget = HOLE_RUNS
    want = min(want, <uint32_t>WORDLESS)
    n = _search_all(rgd, ip, goal, want, 0, &budget, pos)
    if n < want and budget:
        rgd.extfail = n + 1
    return n


cdef uint32_t _goal(rgrpd* rgd, inode* ip, bint dinode) noexcept nogil:
    """Behind the inode's last block if that is here, else where the group was used last."""
    if not dinode and ip.goal >= rgd.data0 and ip.goal - rgd.data0 < rgd.data:
        return <uint32_t>(ip.goal - rgd.data0)
    if rgd.last_alloc < rgd.data:
        return <uint32_t>rgd.last_alloc
    return 0


cdef uint32_t _wish(rgrpd* rgd, inode* ip, uint32_t target) noexcept nogil:
    """How long a reservation should be: half the file again, within bounds, and no big part of what is free."""
    cdef uint64_t n = ip.blocks // 2
    n = max(n, <uint64_t>target)
    n = max(min(n, <uint64_t>RS_MAX), <uint64_t>RS_MIN)
    return <uint32_t>max(min(n, <uint64_t>(rgd.free_clone // 8)), <uint64_t>1)


cdef void _make_reservation(rgrpd* rgd, inode* ip, uint32_t target, uint32_t least) noexcept nogil:
    """Tries to reserve a run of at least `least` blocks for a regular file that has none."""
    cdef uint32_t pos = 0, n
    cdef uint32_t want = _wish(rgd, ip, target)
    if rgd.n_rs >= RS_PER_GROUP or rgd.free_clone <= rgd.reserved:
        return
    n = _search(rgd, ip, _goal(rgd, ip, 0), want, &pos)
    if n >= least and n:
        ip.rs_rgd = rgd
        _rs_insert(rgd, ip, pos, n)


# ---- choosing a group -----------------------------------------------------------------------------------------------

cdef bint _fits(rgrpd* rgd, inode* ip, int turn, uint32_t target, uint32_t least) noexcept nogil:
    """Whether the locked group serves in this pass; makes the reservation."""
    cdef bint ok
    cdef uint32_t others, decent
    if rgd.flags & GFS2_RGF_NOALLOC:
        return 0
    pthread_mutex_lock(&rgd.mx)
    others = rgd.reserved - (ip.rs_len if _rs_in(ip, rgd) else 0)
    if turn < PASS_STEAL:
        ok = rgd.free_clone >= others and rgd.free_clone - others >= target
        decent = min(target, <uint32_t>RS_MIN) if turn == PASS_EASY else 1
        if ok and not _rs_in(ip, rgd) and ip.mode & S_IFMT == S_IFREG:
            _make_reservation(rgd, ip, target, decent)
            ok = _rs_in(ip, rgd) or turn != PASS_EASY
    else:
        ok = rgd.free_clone >= (target if turn == PASS_STEAL else least)
        if ok and (rgd.free_clone < others or rgd.free_clone - others < target):
            _rs_steal(rgd, ip)
    pthread_mutex_unlock(&rgd.mx)
    return ok


cdef bint _hopeless(rgrpd* rgd, inode* ip, int turn, uint32_t target, uint32_t least) noexcept nogil:
    """From what is known without the lock (a hint): not worth locking in this pass."""
    if not rgd.loaded:
        return 0
    if rgd.flags & GFS2_RGF_NOALLOC:
        return 1
    if rgd.free_clone < (least if turn >= PASS_LEAST else target):
        return 1
    return turn == PASS_EASY and rgd.extfail != 0 and min(target, <uint32_t>RS_MIN) >= rgd.extfail


cdef int _try_group(opctx* cx, rgrpd* rgd, inode* ip, int turn, uint32_t target, uint32_t least, uint32_t* got,
                    bint* busy) noexcept nogil:
    """1: cx.rgd is this group; 0: it does not serve; else an error."""
    cdef int err
    cdef bint mine = rgd.owner == cx
    if _hopeless(rgd, ip, turn, target, least) and not mine:
        return 0
    if turn == PASS_EASY and not _rs_in(ip, rgd):
        err = rgrp_trylock(cx, rgd)
    else:
        err = rgrp_lock(cx, rgd)
    if err == -EBUSY or err == -EDEADLK:
        busy[0] = 1
        return 0
    if err:
        return err
    # The group of an active reservation comes first: whoever gets here has found it too small.
    if ip.rs_rgd != rgd:
        rs_drop(cx.sd, ip)
    if _fits(rgd, ip, turn, target, least):
        cx.rgd = rgd
        ip.rgd_hint = rgd
        got[0] = min(target, rgd.free_clone)
        cx.rg_target = got[0]
        return 1
    rgrp_unlock(cx, rgd)
    return 0


cdef bint _frees_pending(sbd* sd) noexcept nogil:
    cdef bint some
    pthread_mutex_lock(&sd.rg_lock)
    some = not dl_empty(&sd.clone_list) or not dl_empty(&sd.clone_committing)
    pthread_mutex_unlock(&sd.rg_lock)
    return some


cdef int _reclaim(opctx* cx) noexcept nogil:
    """Lets the layer above free dinodes that nobody has open any more, then makes what it freed allocatable."""
    cdef sbd* sd = cx.sd
    cdef uint32_t i
    # The hook works in a context of its own and must be able to lock every group.
    if sd.reclaim == NULL or cx.rg_held:
        return 0
    for i in range(sd.n_rgrps):
        if not sd.rgrps[i].loaded or sd.rgrps[i].unlinked:
            sd.reclaim(cx, &sd.rgrps[i])
    return 0


cdef rgrpd* _first_group(sbd* sd, inode* ip) noexcept nogil:
    cdef rgrpd* rgd = ip.rs_rgd
    if rgd != NULL and ip.rs_len:
        return rgd
    rgd = rgrp_find(sd, ip.goal) if ip.goal else NULL
    if rgd == NULL:
        rgd = ip.rgd_hint
    if rgd == NULL:
        rgd = rgrp_find(sd, ip.no_addr)
    return rgd if rgd != NULL else &sd.rgrps[0]


cdef rgrpd* _emptier_group(sbd* sd) noexcept nogil:
    """The emptiest of a few groups spread over the file system; unread ones count as empty."""
    cdef uint32_t i, at, start
    cdef uint64_t room, most = 0
    cdef rgrpd* best
    pthread_mutex_lock(&sd.rg_lock)
    start = sd.rg_next % sd.n_rgrps
    sd.rg_next = start + 1
    pthread_mutex_unlock(&sd.rg_lock)
    best = &sd.rgrps[start]
    for i in range(<uint32_t>ORLOV_SAMPLE):
        at = <uint32_t>((start + <uint64_t>i * sd.n_rgrps // ORLOV_SAMPLE) % sd.n_rgrps)
        room = sd.rgrps[at].free_clone if sd.rgrps[at].loaded else sd.rgrps[at].data
        # A clear lead is asked for, so that equal groups are taken in turn.
        if room > most + most // 8:
            most = room
            best = &sd.rgrps[at]
    return best


cdef int _one_pass(opctx* cx, inode* ip, rgrpd* first, int turn, uint32_t target, uint32_t least, uint32_t* got,
                   bint* busy) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef uint32_t i, at
    cdef int res
    if sd.gls != NULL and turn == PASS_EASY:
        return _own_first(cx, ip, first, target, least, got, busy)
    for i in range(sd.n_rgrps):
        at = <uint32_t>((first.index + <uint64_t>i) % sd.n_rgrps)
        res = _try_group(cx, &sd.rgrps[at], ip, turn, target, least, got, busy)
        if res:
            return res
    return 0


cdef int _own_first(opctx* cx, inode* ip, rgrpd* first, uint32_t target, uint32_t least, uint32_t* got,
                    bint* busy) noexcept nogil:
    """PASS_EASY among nodes: groups that are locked here already, then a few that nobody has, from this node's share
    of the disk on. A group that another node uses is not asked of it as long as there is any other."""
    cdef sbd* sd = cx.sd
    cdef uint32_t i, at
    cdef uint32_t tries = 0
    cdef uint32_t start = <uint32_t>(<uint64_t>sd.log.jid * sd.n_rgrps // max(sd.n_journals, <uint32_t>1))
    cdef int res
    for i in range(sd.n_rgrps):
        at = <uint32_t>((first.index + <uint64_t>i) % sd.n_rgrps)
        if sd.rgrps[at].gl.avail == LM_ST_EXCLUSIVE:
            res = _try_group(cx, &sd.rgrps[at], ip, PASS_EASY, target, least, got, busy)
            if res:
                return res
    for i in range(sd.n_rgrps):
        at = <uint32_t>((start + <uint64_t>i) % sd.n_rgrps)
        if sd.rgrps[at].gl.avail == LM_ST_UNLOCKED and tries < TRIES_MAX:
            tries += 1
            res = _try_group(cx, &sd.rgrps[at], ip, PASS_EASY, target, least, got, busy)
            if res:
                return res
    return 0


cdef int _reserve(opctx* cx, inode* ip, uint32_t target, uint32_t least, uint32_t* got, rgrpd* first) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef int turn, res, rounds
    cdef bint busy, flushed = 0
    for turn in range(PASS_END):
        if turn == PASS_LAST:
            _reclaim(cx)
        if turn == PASS_STEAL or turn == PASS_LAST or (turn == PASS_LEAST and not flushed):
            if _frees_pending(sd):
                res = log_flush(sd, 0, GFS2_LFC_INPLACE_RESERVE)
                if res:
                    return res
                flushed = 1
        for rounds in range(BUSY_ROUNDS):
            busy = 0
            res = _one_pass(cx, ip, first, turn, target, least, got, &busy)
            if res:
                return 0 if res == 1 else res
            if turn == PASS_EASY or not busy:
                break
            usleep(1000)
    return -ENOSPC


cdef int _check_call(opctx* cx, inode* ip, uint32_t target) noexcept nogil:
    if cx.sd.withdrawn:
        return -EIO
    if target == 0 or cx.sd.n_rgrps == 0:
        return -EINVAL
    if cx.tr_on or cx.rgd != NULL:
        return sd_assert_failed(cx.sd, b"space is reserved inside a transaction, or twice")
    return 0


cdef int inplace_reserve(opctx* cx, inode* ip, uint32_t target, uint32_t min_target, uint32_t* got) noexcept nogil:
    cdef int err = _check_call(cx, ip, target)
    if err:
        return err
    return _reserve(cx, ip, target, max(min(min_target, target), <uint32_t>1), got, _first_group(cx.sd, ip))


cdef int inplace_reserve_orlov(opctx* cx, inode* dip, uint32_t target, uint32_t min_target,
                               uint32_t* got) noexcept nogil:
    cdef rgrpd* first
    cdef int err = _check_call(cx, dip, target)
    if err:
        return err
    if dip.no_addr == cx.sd.root_addr or dip.diskflags & GFS2_DIF_TOPDIR:
        first = _emptier_group(cx.sd)
    else:
        first = _first_group(cx.sd, dip)
    return _reserve(cx, dip, target, max(min(min_target, target), <uint32_t>1), got, first)


cdef void inplace_release(opctx* cx, inode* ip) noexcept nogil:
    cdef rgrpd* rgd = cx.rgd
    cx.rgd = NULL
    cx.rg_target = 0
    if rgd != NULL:
        rgrp_unlock(cx, rgd)


# ---- allocating -----------------------------------------------------------------------------------------------------

cdef uint32_t _take(rgrpd* rgd, inode* ip, uint32_t want, bint dinode, uint32_t* pos) noexcept nogil:
    """Picks up to `want` contiguous blocks (mx held) and takes them from the inode's reservation; 0: none is free."""
    cdef uint32_t n = 0, used
    cdef dlink* l
    if _rs_in(ip, rgd):
        pos[0] = <uint32_t>(ip.rs_start - rgd.data0)
        n = rg_run_end(rgd, pos[0], min(pos[0] + want, rgd.data), GFS2_BLKST_FREE, 1) - pos[0]
        # Past its own end the run goes on as far as nobody else's begins.
        l = ip.rs_link.next
        if l != &rgd.rs_list:
            n = min(n, _rs_start(l, rgd) - pos[0])
        used = min(n, ip.rs_len)
        if used == 0:
            _rs_remove(rgd, ip)
        else:
            ip.rs_start += used
            ip.rs_len -= used
            rgd.reserved -= used
            if ip.rs_len == 0:
                dl_del(&ip.rs_link)
                rgd.n_rs -= 1
            return n
    n = _search(rgd, ip, _goal(rgd, ip, dinode), want, pos)
    if n == 0:
        _rs_steal(rgd, ip)
        rgd.extfail = 0
        n = _search(rgd, ip, _goal(rgd, ip, dinode), want, pos)
    return n


cdef int rgrp_alloc(opctx* cx, inode* ip, uint64_t* blk, uint32_t* n, bint dinode, uint64_t* generation) noexcept nogil:
    cdef sbd* sd = cx.sd
    cdef rgrpd* rgd = cx.rgd
    cdef uint32_t pos = 0, take
    if rgd == NULL or rgd.owner != cx or not cx.tr_on or n[0] == 0:
        return sd_assert_failed(sd, b"blocks are allocated without a reserved group or a transaction")
    pthread_mutex_lock(&rgd.mx)
    take = min(<uint32_t>1 if dinode else n[0], min(rgd.free_clone, rgd.free))
    if take:
        take = _take(rgd, ip, take, dinode, &pos)
    rgd.free_clone -= take
    pthread_mutex_unlock(&rgd.mx)
    if take == 0:
        return sd_assert_failed(sd, b"more blocks are allocated than were reserved")
    rg_set(cx, rgd, pos, take, GFS2_BLKST_DINODE if dinode else GFS2_BLKST_USED, 1)
    rgd.free -= take
    rgd.last_alloc = pos + take - 1
    cx.rg_target = cx.rg_target - take if cx.rg_target > take else 0
    if dinode:
        rgd.dinodes += 1
        generation[0] = rgd.igeneration
        rgd.igeneration += 1
        if generation[0] == 0:
            generation[0] = rgd.igeneration
            rgd.igeneration += 1
    else:
        ip.goal = rgd.data0 + pos + take - 1
    rg_header_out(cx, rgd)
    pthread_mutex_lock(&sd.st_lock)
    sd.sl_free -= take
    sd.sl_dinodes += 1 if dinode else 0
    sd.sl_dirty = 1
    pthread_mutex_unlock(&sd.st_lock)
    if not dinode and sd.quota_change != NULL and not ip.diskflags & GFS2_DIF_SYSTEM:
        sd.quota_change(cx, take, ip.uid, ip.gid)
    blk[0] = rgd.data0 + pos
    n[0] = take
    return 0
