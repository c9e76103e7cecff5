"""A device in memory: sparse, so that a 1 TiB disk costs what was written to it.

The content is a two-level table of chunks of CHUNK_BYTES. A snapshot shares leaves and chunks (they are reference
counted, and copied on the first write after), so that thousands of disk images of one history are cheap.
"""
from libc.errno cimport ENOMEM, EROFS
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from gfs2py.block._device cimport (
    DEV_HAS_DISCARD, DEV_HAS_FLUSH, DEV_RDONLY, BlockDevice, blkdev, blkdev_ops, dev_check_range, dev_count,
    dev_readv_loop, dev_writev_loop,
)

import os

cdef extern from *:
    """
    static inline void gfs2py_ref_get(int32_t *r) { __atomic_fetch_add(r, 1, __ATOMIC_RELAXED); }
    static inline int32_t gfs2py_ref_put(int32_t *r) { return __atomic_sub_fetch(r, 1, __ATOMIC_ACQ_REL); }
    static inline int32_t gfs2py_ref_count(int32_t *r) { return __atomic_load_n(r, __ATOMIC_ACQUIRE); }
    """
    void ref_get "gfs2py_ref_get" (int32_t* r) noexcept nogil
    int32_t ref_put "gfs2py_ref_put" (int32_t* r) noexcept nogil
    int32_t ref_count "gfs2py_ref_count" (int32_t* r) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_rwlock_t:
        pass
    int pthread_rwlock_init(pthread_rwlock_t* l, void* attr)
    int pthread_rwlock_destroy(pthread_rwlock_t* l)
    int pthread_rwlock_rdlock(pthread_rwlock_t* l)
    int pthread_rwlock_wrlock(pthread_rwlock_t* l)
    int pthread_rwlock_unlock(pthread_rwlock_t* l)

cdef enum:
    LOAD_BYTES = 1048576


# -- the tree ---------------------------------------------------------------------------------------------------------

cdef int tree_init(mem_tree* t, uint64_t size_bytes) noexcept nogil:
    t.size_bytes = size_bytes
    t.n_top = size_bytes // LEAF_BYTES + (1 if size_bytes % LEAF_BYTES else 0)
    t.top = <mem_leaf**> calloc(t.n_top + 1, sizeof(mem_leaf*))
    return 0 if t.top != NULL else -ENOMEM


cdef int tree_share(mem_tree* t, const mem_tree* of) noexcept nogil:
    """Make `t` another view of the same content; the caller keeps writers of `of` out meanwhile."""
    cdef uint64_t i
    cdef int err = tree_init(t, of.size_bytes)
    if err:
        return err
    for i in range(of.n_top):
        t.top[i] = of.top[i]
        if t.top[i] != NULL:
            ref_get(&t.top[i].refs)
    return 0


cdef void put_leaf(mem_leaf* leaf) noexcept nogil:
    cdef uint32_t i
    if leaf == NULL or ref_put(&leaf.refs) > 0:
        return
    for i in range(<uint32_t> LEAF_CHUNKS):
        if leaf.chunk[i] != NULL and ref_put(&leaf.chunk[i].refs) == 0:
            free(leaf.chunk[i])
    free(leaf)


cdef void tree_free(mem_tree* t) noexcept nogil:
    cdef uint64_t i
    if t.top == NULL:
        return
    for i in range(t.n_top):
        put_leaf(t.top[i])
    free(t.top)
    t.top = NULL
    t.n_top = 0


cdef mem_leaf* own_leaf(mem_tree* t, uint64_t at) noexcept nogil:
    """The leaf for byte `at`, made or copied so that only this tree refers to it; NULL when out of memory."""
    cdef mem_leaf** slot = &t.top[at // LEAF_BYTES]
    cdef mem_leaf* old = slot[0]
    cdef mem_leaf* leaf
    cdef uint32_t i
    if old != NULL and ref_count(&old.refs) == 1:
        return old
    leaf = <mem_leaf*> calloc(1, sizeof(mem_leaf))
    if leaf == NULL:
        return NULL
    leaf.refs = 1
    if old != NULL:
        for i in range(<uint32_t> LEAF_CHUNKS):
            leaf.chunk[i] = old.chunk[i]
            if leaf.chunk[i] != NULL:
                ref_get(&leaf.chunk[i].refs)
        put_leaf(old)
    slot[0] = leaf
    return leaf


cdef uint8_t* own_chunk(mem_leaf* leaf, uint64_t at, bint keep) noexcept nogil:
    """The data of the chunk for byte `at` of an owned leaf, writable; its content is kept if `keep`."""
    cdef mem_chunk** slot = &leaf.chunk[(at % LEAF_BYTES) // CHUNK_BYTES]
    cdef mem_chunk* old = slot[0]
    cdef mem_chunk* chunk
    if old != NULL and ref_count(&old.refs) == 1:
        return old.data
    chunk = <mem_chunk*> malloc(sizeof(mem_chunk))
    if chunk == NULL:
        return NULL
    chunk.refs = 1
    if keep:
        if old != NULL:
            memcpy(chunk.data, old.data, CHUNK_BYTES)
        else:
            memset(chunk.data, 0, CHUNK_BYTES)
    slot[0] = chunk
    if old != NULL and ref_put(&old.refs) == 0:
        free(old)
    return chunk.data


cdef mem_chunk* find_chunk(const mem_tree* t, uint64_t at) noexcept nogil:
    cdef mem_leaf* leaf = t.top[at // LEAF_BYTES]
    if leaf == NULL:
        return NULL
    return leaf.chunk[(at % LEAF_BYTES) // CHUNK_BYTES]


cdef bint all_zero(const uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint64_t i = 0
    cdef uint64_t word
    while i + 8 <= n:
        memcpy(&word, p + i, 8)
        if word:
            return False
        i += 8
    while i < n:
        if p[i]:
            return False
        i += 1
    return True


cdef void tree_read(const mem_tree* t, uint64_t off, uint8_t* buf, uint64_t length) noexcept nogil:
    cdef uint64_t n
    cdef mem_chunk* chunk
    while length:
        n = CHUNK_BYTES - off % CHUNK_BYTES
        if n > length:
            n = length
        chunk = find_chunk(t, off)
        if chunk == NULL:
            memset(buf, 0, n)
        else:
            memcpy(buf, chunk.data + off % CHUNK_BYTES, n)
        off += n
        buf += n
        length -= n


cdef int tree_write(mem_tree* t, uint64_t off, const uint8_t* buf, uint64_t length) noexcept nogil:
    cdef uint64_t n
    cdef mem_leaf* leaf
    cdef uint8_t* data
    while length:
        n = CHUNK_BYTES - off % CHUNK_BYTES
        if n > length:
            n = length
        # Zeros over a hole stay a hole: formatting a large disk must not fill the memory.
        if find_chunk(t, off) != NULL or not all_zero(buf, n):
            leaf = own_leaf(t, off)
            if leaf == NULL:
                return -ENOMEM
            data = own_chunk(leaf, off, n < CHUNK_BYTES)
            if data == NULL:
                return -ENOMEM
            memcpy(data + off % CHUNK_BYTES, buf, n)
        off += n
        buf += n
        length -= n
    return 0


cdef int tree_zero(mem_tree* t, uint64_t off, uint64_t length) noexcept nogil:
    cdef uint64_t n
    cdef mem_leaf* leaf
    cdef mem_chunk* chunk
    cdef uint8_t* data
    while length:
        n = CHUNK_BYTES - off % CHUNK_BYTES
        if n > length:
            n = length
        chunk = find_chunk(t, off)
        if chunk != NULL:
            leaf = own_leaf(t, off)
            if leaf == NULL:
                return -ENOMEM
            if n == CHUNK_BYTES:
                leaf.chunk[(off % LEAF_BYTES) // CHUNK_BYTES] = NULL
                if ref_put(&chunk.refs) == 0:
                    free(chunk)
            else:
                data = own_chunk(leaf, off, True)
                if data == NULL:
                    return -ENOMEM
                memset(data + off % CHUNK_BYTES, 0, n)
        off += n
        length -= n
    return 0


# -- the device -------------------------------------------------------------------------------------------------------

cdef struct mem_impl:
    mem_tree* tree
    pthread_rwlock_t lock


cdef int mem_read(blkdev* d, uint64_t off, void* buf, uint64_t length) noexcept nogil:
    cdef mem_impl* m = <mem_impl*> d.impl
    cdef int err = dev_check_range(d, off, length)
    if err:
        return err
    dev_count(&d.n_reads, 1)
    dev_count(&d.bytes_read, length)
    pthread_rwlock_rdlock(&m.lock)
    tree_read(m.tree, off, <uint8_t*> buf, length)
    pthread_rwlock_unlock(&m.lock)
    return 0


cdef int mem_write(blkdev* d, uint64_t off, const void* buf, uint64_t length, int flags) noexcept nogil:
    cdef mem_impl* m = <mem_impl*> d.impl
    cdef int err = dev_check_range(d, off, length)
    if d.flags & DEV_RDONLY:
        return -EROFS
    if err:
        return err
    dev_count(&d.n_writes, 1)
    dev_count(&d.bytes_written, length)
    pthread_rwlock_wrlock(&m.lock)
    err = tree_write(m.tree, off, <const uint8_t*> buf, length)
    pthread_rwlock_unlock(&m.lock)
    return err


cdef int mem_flush(blkdev* d) noexcept nogil:
    dev_count(&d.n_flushes, 1)
    return 0


cdef int mem_discard(blkdev* d, uint64_t off, uint64_t length) noexcept nogil:
    cdef mem_impl* m = <mem_impl*> d.impl
    cdef int err = dev_check_range(d, off, length)
    if d.flags & DEV_RDONLY:
        return -EROFS
    if err:
        return err
    pthread_rwlock_wrlock(&m.lock)
    err = tree_zero(m.tree, off, length)
    pthread_rwlock_unlock(&m.lock)
    return err


cdef void mem_close(blkdev* d) noexcept nogil:
    cdef mem_impl* m = <mem_impl*> d.impl
    if m == NULL:
        return
    tree_free(m.tree)
    pthread_rwlock_destroy(&m.lock)
    free(m)
    d.impl = NULL


cdef blkdev_ops mem_ops
mem_ops.read = mem_read
mem_ops.write = mem_write
mem_ops.readv = dev_readv_loop
mem_ops.writev = dev_writev_loop
mem_ops.flush = mem_flush
mem_ops.discard = mem_discard
mem_ops.close = mem_close


cdef class Snapshot:
    """The immutable content of a memory device at one moment; cheap to take and to build devices on."""

    def __cinit__(self):
        memset(&self.tree, 0, sizeof(self.tree))

    def __dealloc__(self):
        tree_free(&self.tree)

    @property
    def size_bytes(self):
        """Size of the device it was taken from, bytes."""
        return self.tree.size_bytes


cdef class MemoryDevice(BlockDevice):
    """A sparse device of `size` bytes in memory; `align` is its logical block size."""

    def __init__(self, size, *, uint32_t align=512, bint readonly=False, str name="memory"):
        if size <= 0 or align < 512 or align > CHUNK_BYTES or align & (align - 1) or size % align:
            raise ValueError(f"memory device of {size} bytes with blocks of {align}")
        if self.dev.ops != NULL:
            raise RuntimeError("a device is initialised once")
        if tree_init(&self.tree, size):
            raise MemoryError(f"no memory for the index of a device of {size} bytes")
        self.setup(align, readonly, name)

    cdef int setup(self, uint32_t align, bint readonly, str name) except -1:
        """Everything but the tree, which the caller has made."""
        cdef mem_impl* m = <mem_impl*> calloc(1, sizeof(mem_impl))
        if m == NULL or pthread_rwlock_init(&m.lock, NULL) != 0:
            free(m)
            raise MemoryError("no memory for a device")
        m.tree = &self.tree
        self.lock = &m.lock
        self.dev.impl = m
        self.dev.size_bytes = self.tree.size_bytes
        self.dev.align = align
        self.dev.flags = DEV_HAS_FLUSH | DEV_HAS_DISCARD | (DEV_RDONLY if readonly else 0)
        self.set_name(name)
        self.dev.ops = &mem_ops
        return 0

    def __dealloc__(self):
        # The base's __dealloc__ runs after this one and closes; an object that failed in __init__ has only a tree.
        if self.dev.ops == NULL:
            tree_free(&self.tree)

    @staticmethod
    def from_snapshot(Snapshot snap not None, *, bint readonly=False, str name="memory"):
        """Return a device that begins with the snapshot's content; writes stay its own."""
        cdef MemoryDevice dev = MemoryDevice.__new__(MemoryDevice)
        if tree_share(&dev.tree, &snap.tree):
            raise MemoryError("no memory for the index of a device")
        dev.setup(snap.align, readonly, name)
        return dev

    @staticmethod
    def load(path, *, uint32_t align=512, str name=None):
        """Return a device with the content of a file (holes stay holes). Raises OSError, ValueError."""
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            dev = MemoryDevice(size - size % align, align=align, name=name or os.fsdecode(path))
            pos = 0
            while pos < dev.size_bytes:
                try:
                    pos = os.lseek(fd, pos, os.SEEK_DATA)
                except OSError:         # ENXIO: only a hole is left
                    break
                pos -= pos % align
                data = os.pread(fd, min(LOAD_BYTES, dev.size_bytes - pos), pos)
                if not data:
                    break
                dev.write(pos, data)
                pos += len(data)
            return dev
        finally:
            os.close(fd)

    def save(self, path):
        """Write the content to a (sparse) file, replacing it. Raises OSError."""
        cdef uint64_t i, n
        cdef uint64_t n_chunks = (self.tree.size_bytes + CHUNK_BYTES - 1) // CHUNK_BYTES
        self.check_open()
        with open(path, "wb") as f:
            f.truncate(self.tree.size_bytes)
            i = 0
            while i < n_chunks:
                if self.tree.top[i // LEAF_CHUNKS] == NULL:
                    i = (i // LEAF_CHUNKS + 1) * LEAF_CHUNKS
                    continue
                if find_chunk(&self.tree, i * CHUNK_BYTES) != NULL:
                    f.seek(i * CHUNK_BYTES)
                    n = self.tree.size_bytes - i * CHUNK_BYTES
                    if n > <uint64_t> CHUNK_BYTES:
                        n = CHUNK_BYTES
                    f.write(self.read(i * CHUNK_BYTES, n))
                i += 1

    def snapshot(self):
        """Return a Snapshot of the content now."""
        cdef Snapshot snap = Snapshot.__new__(Snapshot)
        cdef int err
        cdef pthread_rwlock_t* lock
        self.check_open()
        lock = <pthread_rwlock_t*> self.lock
        with nogil:
            pthread_rwlock_wrlock(lock)
            err = tree_share(&snap.tree, &self.tree)
            pthread_rwlock_unlock(lock)
        if err:
            raise MemoryError("no memory for a snapshot")
        snap.align = self.dev.align
        return snap

    @property
    def used_bytes(self):
        """Bytes of chunks this device refers to (shared ones included)."""
        cdef uint64_t i, total = 0
        cdef uint32_t j
        self.check_open()
        for i in range(self.tree.n_top):
            if self.tree.top[i] != NULL:
                for j in range(<uint32_t> LEAF_CHUNKS):
                    if self.tree.top[i].chunk[j] != NULL:
                        total += CHUNK_BYTES
        return total
