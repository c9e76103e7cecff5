"""The sparse chunk tree behind memory devices and their snapshots, for the other test devices."""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from gfs2py.block._device cimport BlockDevice, blkdev

cdef enum:
    CHUNK_BYTES = 16384
    LEAF_CHUNKS = 1024
    LEAF_BYTES = 16777216       # CHUNK_BYTES * LEAF_CHUNKS

cdef struct mem_chunk:
    int32_t refs
    uint8_t data[16384]

cdef struct mem_leaf:
    int32_t refs
    mem_chunk* chunk[1024]      # NULL reads as zeros

# A tree belongs to one device or snapshot; leaves and chunks are shared, counted, and copied before a change.
cdef struct mem_tree:
    uint64_t size_bytes
    uint64_t n_top
    mem_leaf** top              # NULL reads as zeros

cdef int tree_init(mem_tree* t, uint64_t size_bytes) noexcept nogil
cdef int tree_share(mem_tree* t, const mem_tree* of) noexcept nogil
cdef void tree_free(mem_tree* t) noexcept nogil
# The range must lie inside the tree.
cdef void tree_read(const mem_tree* t, uint64_t off, uint8_t* buf, uint64_t length) noexcept nogil
cdef int tree_write(mem_tree* t, uint64_t off, const uint8_t* buf, uint64_t length) noexcept nogil
cdef int tree_zero(mem_tree* t, uint64_t off, uint64_t length) noexcept nogil

cdef class Snapshot:
    """The immutable content of a device at one moment."""
    cdef mem_tree tree
    cdef readonly uint32_t align

cdef class MemoryDevice(BlockDevice):
    """A sparse device in memory."""
    cdef mem_tree tree
    cdef void* lock
    cdef int setup(self, uint32_t align, bint readonly, str name) except -1
