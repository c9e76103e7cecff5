"""A device that remembers every write and can say what a disk may hold after the power failed at any moment.

The rules are those of the kernel's dm-log-writes: a write that completed is durable only after a flush that began
later has completed, or at once if it was a FUA write. Until then any subset of the writes since, each of them whole,
absent or torn at 512-byte sectors, may be on the disk; where two overlap, the one submitted later wins.

A *boundary* is a completed flush or FUA write; *epoch* e is the time from boundary e (0: the beginning) to boundary
e + 1. A cut in epoch e has every write durable at boundary e, and a chosen part of the others submitted before
boundary e + 1. It stands for a crash just before boundary e + 1, so everything acknowledged before that must hold.

A write that the base device failed is left out of the history: put a faulty device above this one, not below.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport (
    DEV_FUA, DEV_HAS_FLUSH, DEV_HAS_FUA, BlockDevice, bio_seg, blkdev, blkdev_ops, dev_check_range, dev_count,
)
from gfs2py.block._memory cimport (
    MemoryDevice, Snapshot, mem_tree, tree_free, tree_share, tree_write, tree_zero,
)

import random
from typing import NamedTuple

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* m, void* attr)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)

cdef enum:
    SECTOR = 512
    CHECKPOINT_EVERY = 32       # boundaries between kept images of the durable state

cdef enum:
    REC_WRITE = 1
    REC_DISCARD = 2

cdef struct rec:
    uint64_t off
    uint64_t len
    uint8_t* data               # NULL for a discard
    uint64_t done_at            # event number of its completion; 0 while under way
    uint64_t durable_at         # boundary at which it became durable; 0 while it is not
    uint8_t kind
    bint fua
    bint failed                 # the base refused it: not part of the history

# The durable writes with an index below `applied`, as an image; taken in epoch `epoch`.
cdef struct checkpoint:
    uint64_t epoch
    uint64_t applied
    mem_tree tree

cdef struct rec_impl:
    blkdev* base
    pthread_mutex_t lock
    rec* recs
    uint64_t n_recs
    uint64_t cap_recs
    uint64_t clock              # event counter
    uint64_t n_bounds
    uint64_t* bound_end         # bound_end[b]: writes submitted when boundary b completed; [0] is 0
    uint64_t cap_bounds
    uint64_t first_open         # every write below it is durable or failed
    uint64_t n_flushes_done


cdef int add_bound(rec_impl* r) noexcept nogil:
    cdef uint64_t* more
    if r.n_bounds + 1 >= r.cap_bounds:
        more = <uint64_t*> realloc(r.bound_end, (r.cap_bounds * 2 + 64) * sizeof(uint64_t))
        if more == NULL:
            return -ENOMEM
        r.bound_end = more
        r.cap_bounds = r.cap_bounds * 2 + 64
    r.n_bounds += 1
    r.bound_end[r.n_bounds] = r.n_recs
    return 0


cdef int submit(rec_impl* r, uint8_t kind, uint64_t off, const void* data, uint64_t length, bint fua,
                uint64_t* index) noexcept nogil:
    """Append one operation to the log, its data copied; the lock is held."""
    cdef rec* more
    cdef rec* w
    cdef uint8_t* copy = NULL
    if r.n_recs == r.cap_recs:
        more = <rec*> realloc(r.recs, (r.cap_recs * 2 + 256) * sizeof(rec))
        if more == NULL:
            return -ENOMEM
        r.recs = more
        r.cap_recs = r.cap_recs * 2 + 256
    if data != NULL:
        copy = <uint8_t*> malloc(length + 1)
        if copy == NULL:
            return -ENOMEM
        memcpy(copy, data, length)
    w = &r.recs[r.n_recs]
    memset(w, 0, sizeof(rec))
    w.off = off
    w.len = length
    w.data = copy
    w.kind = kind
    w.fua = fua
    index[0] = r.n_recs
    r.n_recs += 1
    return 0


cdef int complete(rec_impl* r, uint64_t index, int err) noexcept nogil:
    """Note that an operation came back from the base; a FUA write is a boundary. The lock is held."""
    cdef rec* w = &r.recs[index]
    r.clock += 1
    w.done_at = r.clock
    if err:
        w.failed = True
        return err
    if w.fua:
        err = add_bound(r)
        if not err:
            w.durable_at = r.n_bounds
    return err


cdef int rec_read(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    dev_count(&d.n_reads, 1)
    dev_count(&d.bytes_read, length)
    return r.base.ops.read(r.base, off, buf, length)


cdef int rec_readv(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    cdef uint32_t i
    dev_count(&d.n_reads, n)
    for i in range(n):
        dev_count(&d.bytes_read, segs[i].len)
    return r.base.ops.readv(r.base, segs, n)


cdef int rec_write(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    cdef uint64_t index = 0
    cdef int err = dev_check_range(d, off, length)
    if err:
        return err
    pthread_mutex_lock(&r.lock)
    err = submit(r, REC_WRITE, off, buf, length, flags & DEV_FUA != 0, &index)
    pthread_mutex_unlock(&r.lock)
    if err:
        return err
    dev_count(&d.n_writes, 1)
    dev_count(&d.bytes_written, length)
    err = r.base.ops.write(r.base, off, buf, length, flags)
    pthread_mutex_lock(&r.lock)
    err = complete(r, index, err)
    pthread_mutex_unlock(&r.lock)
    return err


cdef int rec_writev(blkdev* d, bio_seg* segs, uint32_t n) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    cdef uint64_t* index = <uint64_t*> malloc((n + 1) * sizeof(uint64_t))
    cdef uint32_t i, logged = 0
    cdef int err = 0
    if index == NULL:
        return -ENOMEM
    pthread_mutex_lock(&r.lock)
    for i in range(n):
        segs[i].res = 0
        err = dev_check_range(d, segs[i].off, segs[i].len)
        if not err:
            err = submit(r, REC_WRITE, segs[i].off, segs[i].buf, segs[i].len, False, &index[i])
        if err:
            break
        logged += 1
        dev_count(&d.n_writes, 1)
        dev_count(&d.bytes_written, segs[i].len)
    pthread_mutex_unlock(&r.lock)
    if not err:
        err = r.base.ops.writev(r.base, segs, n)
    else:
        segs[logged].res = err
        for i in range(logged):
            segs[i].res = err
    pthread_mutex_lock(&r.lock)
    for i in range(logged):
        complete(r, index[i], segs[i].res)
    pthread_mutex_unlock(&r.lock)
    free(index)
    return err


cdef int rec_flush(blkdev* d) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    cdef uint64_t began, i
    cdef rec* w
    cdef int err
    dev_count(&d.n_flushes, 1)
    pthread_mutex_lock(&r.lock)
    began = r.clock
    pthread_mutex_unlock(&r.lock)
    err = r.base.ops.flush(r.base)
    if err:
        return err
    pthread_mutex_lock(&r.lock)
    err = add_bound(r)
    if not err:
        r.n_flushes_done += 1
        for i in range(r.first_open, r.n_recs):
            w = &r.recs[i]
            if w.done_at and w.done_at <= began and not w.durable_at and not w.failed:
                w.durable_at = r.n_bounds
        while r.first_open < r.n_recs and (r.recs[r.first_open].durable_at or r.recs[r.first_open].failed):
            r.first_open += 1
    pthread_mutex_unlock(&r.lock)
    return err


cdef int rec_discard(blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    cdef rec_impl* r = <rec_impl*> d.impl
    cdef uint64_t index = 0
    cdef int err = dev_check_range(d, off, length)
    if err:
        return err
    pthread_mutex_lock(&r.lock)
    err = submit(r, REC_DISCARD, off, NULL, length, False, &index)
    pthread_mutex_unlock(&r.lock)
    if err:
        return err
    err = r.base.ops.discard(r.base, off, length)
    pthread_mutex_lock(&r.lock)
    err = complete(r, index, err)
    pthread_mutex_unlock(&r.lock)
    return err


cdef void rec_close(blkdev* d) noexcept nogil:
    pass                        # the history outlives the closing: tests look at it afterwards


cdef blkdev_ops rec_ops
rec_ops.read = rec_read
rec_ops.write = rec_write
rec_ops.readv = rec_readv
rec_ops.writev = rec_writev
rec_ops.flush = rec_flush
rec_ops.discard = rec_discard
rec_ops.close = rec_close


# -- images -----------------------------------------------------------------------------------------------------------

cdef uint64_t epoch_end(const rec_impl* r, uint64_t epoch) noexcept nogil:
    """How many writes had been submitted when the epoch ended."""
    return r.bound_end[epoch + 1] if epoch < r.n_bounds else r.n_recs


cdef bint is_durable(const rec* w, uint64_t epoch) noexcept nogil:
    return w.durable_at != 0 and w.durable_at <= epoch


cdef int apply(mem_tree* t, const rec* w) noexcept nogil:
    if w.data == NULL:
        return tree_zero(t, w.off, w.len)
    return tree_write(t, w.off, w.data, w.len)


cdef int advance(rec_impl* r, checkpoint* c, uint64_t epoch) noexcept nogil:
    """Bring a checkpoint forward to `epoch`: apply writes in order up to the first that is still pending."""
    cdef uint64_t end = epoch_end(r, epoch)
    cdef int err
    while c.applied < end:
        if not r.recs[c.applied].failed:
            if not is_durable(&r.recs[c.applied], epoch):
                break
            err = apply(&c.tree, &r.recs[c.applied])
            if err:
                return err
        c.applied += 1
    c.epoch = epoch
    return 0


class PendingWrite(NamedTuple):
    """A write that may or may not be on the disk: byte offset, length, and whether it was a discard or FUA."""

    off: int
    length: int
    discard: bool
    fua: bool


class Cut(NamedTuple):
    """One disk as a crash may leave it: `keep` and `torn` name writes by their index in `pending(epoch)`."""

    epoch: int
    keep: tuple
    torn: dict
    device: object


cdef class RecordingDevice(BlockDevice):
    """Passes everything to `base` and keeps the history; see the module for the rules."""
    cdef readonly BlockDevice base
    cdef rec_impl r
    cdef bint ready
    cdef checkpoint* points     # ascending by epoch; [0] is the beginning
    cdef uint64_t n_points
    cdef list _marks

    def __init__(self, BlockDevice base not None):
        cdef Snapshot start
        if self.ready:
            raise RuntimeError("a device is initialised once")
        base.check_open()
        if isinstance(base, MemoryDevice):
            start = base.snapshot()
        else:
            start = copy_content(base)
        self.base = base
        self._marks = []
        self.points = <checkpoint*> calloc(1, sizeof(checkpoint))
        if self.points == NULL or tree_share(&self.points[0].tree, &start.tree) or add_first_bound(&self.r):
            raise MemoryError("no memory for a recording")
        self.n_points = 1
        self.r.base = &base.dev
        pthread_mutex_init(&self.r.lock, NULL)
        self.ready = True
        self.dev.impl = &self.r
        self.dev.size_bytes = base.dev.size_bytes
        self.dev.align = base.dev.align
        self.dev.flags = base.dev.flags | DEV_HAS_FLUSH | DEV_HAS_FUA
        self.set_name(base.name)
        self.dev.ops = &rec_ops

    def __cinit__(self, *args, **kwargs):
        memset(&self.r, 0, sizeof(self.r))
        self.points = NULL
        self.n_points = 0
        self.ready = False

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.r.n_recs):
            free(self.r.recs[i].data)
        free(self.r.recs)
        free(self.r.bound_end)
        for i in range(self.n_points):
            tree_free(&self.points[i].tree)
        free(self.points)
        if self.ready:
            pthread_mutex_destroy(&self.r.lock)

    @property
    def epochs(self):
        """The last epoch's number: how many flushes and FUA writes have completed. Epochs are 0 .. epochs."""
        return self.r.n_bounds

    @property
    def writes(self):
        """How many writes and discards have been submitted."""
        return self.r.n_recs

    def mark(self, label):
        """Note that `label` was acknowledged now: it must hold in every cut from here on."""
        cdef uint64_t at
        with nogil:
            pthread_mutex_lock(&self.r.lock)
            at = self.r.n_bounds
            pthread_mutex_unlock(&self.r.lock)
        self._marks.append((label, at))

    @property
    def marks(self):
        """All marks in order: [(label, epoch in which it was set), ...]."""
        return list(self._marks)

    def acknowledged(self, uint64_t epoch):
        """The labels that must hold in every cut of this epoch, in order."""
        return [label for label, at in self._marks if at <= epoch]

    def pending(self, uint64_t epoch):
        """The writes that a crash in this epoch may have lost, in order of submission. Raises ValueError."""
        cdef uint64_t i
        cdef rec* w
        self._check_epoch(epoch)
        out = []
        self._lock()
        try:
            for i in range(epoch_end(&self.r, epoch)):
                w = &self.r.recs[i]
                if not w.failed and not is_durable(w, epoch):
                    out.append(PendingWrite(w.off, w.len, w.kind == REC_DISCARD, bool(w.fua)))
        finally:
            pthread_mutex_unlock(&self.r.lock)
        return out

    def cut(self, epoch, keep=(), torn=None):
        """Return the disk (a MemoryDevice) after a crash in `epoch`.

        keep: indices into pending(epoch) that reached the disk whole; torn: {index: sector numbers of 512 bytes,
        counted from the start of the write, that did}. Raises ValueError for an epoch or index that is not there.
        """
        cdef MemoryDevice out = MemoryDevice.__new__(MemoryDevice)
        cdef uint64_t e, i, nth
        cdef checkpoint* point
        cdef rec* w
        cdef int err = 0
        self._check_epoch(epoch)
        e = epoch
        whole = set(keep)
        parts = {} if torn is None else torn
        wanted = len(whole | set(parts))
        seen = 0
        self._lock()
        try:
            point = self._checkpoint(e)
            if point == NULL or tree_share(&out.tree, &point.tree):
                raise MemoryError("no memory for an image")
            # From the first pending write on, everything is applied in order of submission: the later one wins.
            nth = 0
            for i in range(point.applied, epoch_end(&self.r, e)):
                w = &self.r.recs[i]
                if w.failed:
                    continue
                if is_durable(w, e):
                    err = apply(&out.tree, w)
                else:
                    if nth in parts:
                        seen += 1
                        err = apply_torn(&out.tree, w, parts[nth])
                    elif nth in whole:
                        seen += 1
                        err = apply(&out.tree, w)
                    nth += 1
                if err:
                    raise MemoryError("no memory for an image")
        finally:
            pthread_mutex_unlock(&self.r.lock)
        if seen != wanted:
            raise ValueError(f"epoch {epoch} has {nth} pending writes, not {sorted(whole | set(parts))}")
        out.setup(self.dev.align, False, f"{self.name} cut in epoch {epoch}")
        return out

    def cut_random(self, seed):
        """Return a Cut drawn from the seed alone: epoch, subset and tears."""
        rng = random.Random(seed)
        epoch = rng.randint(0, self.epochs)
        return self._draw(epoch, self.pending(epoch), rng)

    def cuts(self, epoch, *, max_exhaustive=8, samples=32, rng=None):
        """Iterate over Cuts of an epoch: every subset while there are at most `max_exhaustive` pending writes, else
        none, all and `samples` drawn ones; then one torn variant of each write (of `samples` of them at most).
        """
        pending = self.pending(epoch)
        rng = random.Random(0) if rng is None else rng
        n = len(pending)
        if n <= max_exhaustive:
            for bits in range(1 << n):
                keep = tuple(i for i in range(n) if bits >> i & 1)
                yield Cut(epoch, keep, {}, self.cut(epoch, keep))
        else:
            for keep in ((), tuple(range(n))):
                yield Cut(epoch, keep, {}, self.cut(epoch, keep))
            for _ in range(samples):
                yield self._draw(epoch, pending, rng)
        tearable = [i for i, w in enumerate(pending) if w.length > SECTOR and not w.discard]
        if len(tearable) > samples:
            tearable = sorted(rng.sample(tearable, samples))
        for i in tearable:
            torn = {i: tear(pending[i], rng)}
            keep = tuple(j for j in range(i))
            yield Cut(epoch, keep, torn, self.cut(epoch, keep, torn))

    def _draw(self, epoch, pending, rng):
        n = len(pending)
        torn = {}
        if rng.random() < 0.25:     # a prefix: the disk kept the order, as most do
            keep = tuple(range(rng.randint(0, n)))
        else:
            share = rng.choice((0.1, 0.5, 0.9))
            keep = tuple(i for i in range(n) if rng.random() < share)
        if rng.random() < 0.5:
            for i in keep:
                if pending[i].length > SECTOR and not pending[i].discard and rng.random() < 0.1:
                    torn[i] = tear(pending[i], rng)
            keep = tuple(i for i in keep if i not in torn)
        return Cut(epoch, keep, torn, self.cut(epoch, keep, torn))

    cdef void _lock(self) noexcept:
        # Waiting with the GIL would deadlock with a thread that has the lock and wants the GIL back.
        with nogil:
            pthread_mutex_lock(&self.r.lock)

    def _check_epoch(self, epoch):
        if not 0 <= epoch <= self.r.n_bounds:
            raise ValueError(f"epoch {epoch} of {self.r.n_bounds}")

    cdef checkpoint* _checkpoint(self, uint64_t epoch) except? NULL:
        """The image of `epoch`, made from the nearest kept one before it; the lock is held. NULL: no memory."""
        cdef uint64_t i = self.n_points
        cdef uint64_t target
        cdef checkpoint* more
        cdef checkpoint* last
        while i > 1 and self.points[i - 1].epoch > epoch:
            i -= 1
        # Behind the last kept one: keep a new one every CHECKPOINT_EVERY epochs on the way.
        while i == self.n_points and self.points[i - 1].epoch + CHECKPOINT_EVERY <= epoch:
            more = <checkpoint*> realloc(self.points, (self.n_points + 1) * sizeof(checkpoint))
            if more == NULL:
                return NULL
            self.points = more
            last = &more[self.n_points - 1]
            target = last.epoch + CHECKPOINT_EVERY
            if tree_share(&more[self.n_points].tree, &last.tree):
                return NULL
            more[self.n_points].applied = last.applied
            self.n_points += 1
            i += 1
            if advance(&self.r, &more[self.n_points - 1], target):
                return NULL
        return &self.points[i - 1]


def tear(write, rng):
    """Draw the sectors of a torn write that survive: usually a prefix, sometimes any subset; never all or none."""
    n = write.length // SECTOR
    if rng.random() < 0.7:
        return tuple(range(rng.randint(1, n - 1)))
    kept = tuple(i for i in range(n) if rng.random() < 0.5)
    return kept if 0 < len(kept) < n else (n - 1,)


cdef int add_first_bound(rec_impl* r) noexcept nogil:
    r.bound_end = <uint64_t*> calloc(64, sizeof(uint64_t))
    r.cap_bounds = 64
    return 0 if r.bound_end != NULL else -ENOMEM


cdef int apply_torn(mem_tree* t, const rec* w, sectors) except? -1:
    cdef uint64_t s
    cdef int err
    for sector in sectors:
        if not 0 <= sector < w.len // SECTOR:
            raise ValueError(f"a write of {w.len} bytes has no sector {sector}")
        s = sector * SECTOR
        err = tree_zero(t, w.off + s, SECTOR) if w.data == NULL else tree_write(t, w.off + s, w.data + s, SECTOR)
        if err:
            return err
    return 0


cdef Snapshot copy_content(BlockDevice base):
    cdef MemoryDevice copy = MemoryDevice(base.size_bytes, align=base.align)
    cdef uint64_t pos = 0
    cdef uint64_t n
    while pos < base.dev.size_bytes:
        n = base.dev.size_bytes - pos
        if n > <uint64_t> 1 << 20:
            n = <uint64_t> 1 << 20
        copy.write(pos, base.read(pos, n))
        pos += n
    return copy.snapshot()
