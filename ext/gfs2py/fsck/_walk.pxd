"""The walk over inodes and what hangs on them, in waves: many blocks sorted and read at once, then looked at.

Work to do is a stack of items (a metadata block to read, whose inode it is); a wave takes the topmost ones
of one level. A block enters the stack only by a successful claim, so a walk ends, whatever the pointers say.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.fsck._state cimport chunk, claim, clear_used, find_chunk, fsck
from gfs2py.ondisk._ondisk cimport gfs2_dinode

cdef enum:
    MAX_SLOTS = 1024
    STACK_SOFT = 32768          # above this many items the stack is worked off before more is pushed

cdef enum:
    ITEM_INDIRECT = 1
    ITEM_EA_INDIRECT
    ITEM_EA_LEAF
    ITEM_EA_DATA

cdef struct item:
    uint64_t block
    uint64_t parent             # the block that points here
    uint32_t slot
    uint8_t kind
    uint8_t level               # 1: its pointers are data

cdef struct slot:               # an inode whose blocks are being counted
    uint64_t addr
    uint64_t counted
    uint64_t di_blocks
    uint32_t uid, gid, flags

cdef struct walker:
    item* stack
    uint64_t n, cap
    slot slots[MAX_SLOTS]
    uint32_t n_slots
    chunk* c                    # of the last claim
    int nomem

cdef struct cursor:             # a place among the inodes of the map
    uint64_t rg, k
    uint32_t bit
    uint64_t index              # of the next inode

cdef int walker_init(walker* w) noexcept nogil
cdef void walker_free(walker* w) noexcept nogil
cdef uint32_t next_inodes(fsck* fs, cursor* c, uint64_t rg_end, uint64_t* blocks, uint64_t* first,
                          uint32_t n_max) noexcept nogil
cdef void push(walker* w, uint64_t block, uint64_t parent, uint32_t slot, int kind, int level) noexcept nogil
cdef uint32_t slot_open(walker* w, uint64_t addr, const gfs2_dinode* d) noexcept nogil
cdef void start_eattr(fsck* fs, walker* w, uint32_t slot, const gfs2_dinode* d) noexcept nogil
cdef void drain(fsck* fs, walker* w) noexcept nogil
cdef void finish_slots(fsck* fs, walker* w) noexcept nogil
cdef int check_header(fsck* fs, const char* buf, uint64_t block, uint64_t inode, uint32_t mtype,
                      uint32_t fmt) noexcept nogil
cdef int pass1(fsck* fs, walker* w, uint64_t first, uint64_t n) noexcept nogil

cdef inline int take(fsck* fs, walker* w, uint64_t block, uint64_t owner, int how) noexcept nogil:
    """claim(), with the last bitmap block at hand."""
    cdef chunk* c = w.c
    cdef uint32_t bit
    cdef uint8_t sh
    if c != NULL and not fs.hunting and block >= c.first and block - c.first < c.n_blocks and c.bits != NULL:
        bit = <uint32_t>(block - c.first)
        sh = (bit & 3) * 2
        if (c.bits[bit >> 2] >> sh) & 3 == 1 and clear_used(fs, &c.bits[bit >> 2], sh) == 1:
            return 0
    else:
        w.c = find_chunk(fs, block, &bit)
    return claim(fs, block, owner, how)
