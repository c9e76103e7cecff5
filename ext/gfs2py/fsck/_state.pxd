"""The checker's state: geometry, resource groups and bitmaps, the inode table, findings, the reader.

The block map is the image's own bitmap, loaded block by block (an all-free bitmap block is not held at all).
The walk *consumes* it: a referenced block goes from USED to FREE. What is still USED at the end has no owner;
a reference that meets FREE is a second one, or one to a block the bitmap calls free: such blocks go into the
conflict table, and a second walk over a fresh map names all their owners.
Pass 1 may be shared by threads (_crew.pxd): each has a copy of this struct whose map, inode table and groups are
everybody's, and whose rest is its own; then a bit of the map is cleared atomically.
The inode table has eight bytes per inode: the n-th inode of the map (DINODE or UNLINKED) is the n-th entry.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from gfs2py.block._device cimport bio_seg, blkdev

cdef extern from *:
    """
    #define fsck_clear(p, mask) __atomic_fetch_and((p), (unsigned char)~(mask), __ATOMIC_RELAXED)
    """
    uint8_t fsck_clear(uint8_t* p, uint8_t mask) noexcept nogil    # what was there before

cdef enum:
    MAX_FINDINGS = 4096         # stored in all
    MAX_PER_KIND = 64           # stored of one kind; more are only counted
    MAX_CONFLICTS = 65536       # blocks whose owners are looked up
    MAX_OWNERS = 4              # owners named per conflict
    RAW_BYTES = 1048576         # one wave's buffer
    GAP_BLOCKS = 1              # blocks between two wanted ones that are read along
    SEG_BYTES = 1048576         # one request of a wave
    NAME_BYTES = 96
    RANK_BYTES = 64

# As what a block is claimed.
cdef enum:
    HOW_DATA = 1
    HOW_INDIRECT
    HOW_HASH
    HOW_LEAF
    HOW_EATTR

# What an inode table entry's word holds.
cdef enum:
    IT_REM_MASK = 0x01FFFFFF    # links still to be found (nlink at first), modulo 2^25
    IT_SEEN = 0x02000000        # an entry other than '.' and '..' leads here
    IT_SYSTEM = 0x04000000
    IT_UNLINKED = 0x08000000
    IT_TYPE_SHIFT = 28          # DT_* of the mode; 0: not a valid dinode

cpdef enum Kind:
    K_NONE
    K_IO_ERROR
    # superblock and what hangs on it
    K_SB_HEADER
    K_SB_FORMAT
    K_SB_MULTIHOST
    K_SB_BSIZE
    K_SB_BSIZE_SHIFT
    K_SB_MASTER
    K_SB_ROOT
    K_SB_LOCKPROTO
    K_SB_LOCKTABLE
    K_DEVICE_SHORT
    # resource groups
    K_RINDEX_MISSING
    K_RINDEX_SIZE
    K_RINDEX_ENTRY
    K_RINDEX_OVERLAP
    K_RINDEX_GAP
    K_RG_HEADER
    K_RG_CRC
    K_RG_FREE
    K_RG_DINODES
    K_RG_DATA0
    K_RG_DATA
    K_RG_BITBYTES
    K_RG_SKIP
    K_RG_FLAGS
    K_RG_TAIL_BITS
    # block map
    K_BLOCK_LEAKED
    K_BLOCK_NOT_ALLOCATED
    K_BLOCK_DUPLICATE
    K_BLOCK_IS_DINODE
    # dinodes
    K_DI_HEADER
    K_DI_NUM
    K_DI_FORMAL
    K_DI_MODE
    K_DI_SIZE
    K_DI_HEIGHT
    K_DI_BLOCKS
    K_DI_GOAL
    K_DI_FLAGS
    K_DI_PAYLOAD
    K_DI_DEPTH
    K_DI_EATTR
    K_DI_NSEC
    K_DI_UNLINKED
    K_DI_TRUNC
    K_DI_SYMLINK
    K_PTR_RANGE
    K_META_HEADER
    K_META_FORMAT
    # extended attributes
    K_EA_REC_LEN
    K_EA_NAME
    K_EA_TYPE
    K_EA_LAST
    K_EA_DATA_LEN
    K_EA_PTRS
    K_EA_PTR_RANGE
    K_EA_HOLE
    K_EA_DUPLICATE
    # directories
    K_DIR_HASH_HOLE
    K_DIR_HASH_RUN
    K_DIR_HASH_PTR
    K_LEAF_DEPTH
    K_LEAF_ENTRIES
    K_LEAF_INODE
    K_LEAF_DIST
    K_LEAF_FORMAT
    K_LEAF_LOOP
    K_DE_REC_LEN
    K_DE_NAME_LEN
    K_DE_SENTINEL
    K_DE_NAME
    K_DE_HASH
    K_DE_WRONG_LEAF
    K_DE_INUM_RANGE
    K_DE_TARGET
    K_DE_FORMAL
    K_DE_TYPE
    K_DE_DUPLICATE
    K_DE_SYSTEM
    K_DOT_MISSING
    K_DOT_WRONG
    K_DOTDOT_MISSING
    K_DOTDOT_WRONG
    K_DIR_ENTRIES
    # links
    K_NLINK
    K_ORPHAN
    K_DIR_HARD_LINK
    K_DIR_UNREACHABLE
    # journals and system files
    K_SYS_MISSING
    K_SYS_SIZE
    K_JOURNAL_HOLE
    K_JOURNAL_SIZE
    K_JOURNAL_NO_HEAD
    K_JOURNAL_HEADER
    K_JOURNAL_SEQ
    K_JOURNAL_DIRTY
    K_JINDEX_NAME
    K_STATFS
    K_STATFS_PENDING
    K_QC_HEADER
    K_QC_FLAGS
    K_QUOTA_USAGE
    K_COUNT

cdef struct finding:
    uint32_t kind
    uint32_t name_len
    uint64_t block              # where it was read
    uint64_t inode              # whose it is, or 0
    uint64_t wanted
    uint64_t found
    uint64_t aux
    uint64_t unit               # which part of a shared pass found it
    char name[NAME_BYTES]

cdef struct chunk:              # one bitmap block
    uint8_t* bits               # NULL: every block free
    uint64_t first              # the fs block of bit pair 0
    uint32_t n_blocks
    uint32_t ino_before         # inodes in the rgrp's earlier chunks
    uint16_t* rank              # inodes before each RANK_BYTES of bits; NULL: no inode here

cdef struct rgrp:
    uint64_t addr
    uint64_t data0
    uint32_t data
    uint32_t length
    uint32_t bitbytes
    uint32_t n_inodes
    uint64_t chunk0             # index of the first chunk
    uint64_t ino0               # index of the first inode
    uint64_t n_free, n_used, n_unlinked, n_dinode

cdef struct inode_entry:
    uint32_t formal             # low half of no_formal_ino; ~0: see the exceptions
    uint32_t word               # IT_*

cdef struct exception_entry:    # an inode whose formal number or link count does not fit
    uint64_t index
    uint64_t formal

cdef struct conflict:
    uint64_t block
    uint32_t n_claims
    uint32_t n_first            # in the first walk
    uint32_t state              # what the bitmap on disk says
    uint64_t owner[MAX_OWNERS]
    uint8_t how[MAX_OWNERS]

cdef struct wave:               # blocks read together
    char* raw
    uint64_t raw_bytes
    char** ptr                  # where block i came to lie; NULL: read error
    uint32_t max_blocks
    bio_seg* segs
    uint32_t* seg_of
    uint32_t max_segs

cdef struct usage_entry:
    uint64_t key                # id * 2 + is_group, + 1
    int64_t blocks

cdef struct fsck:
    blkdev* dev
    uint32_t bsize, bshift
    uint32_t fs_format
    uint64_t dev_blocks
    uint64_t sb_block           # first block that can be fs data is above this
    uint64_t max_block          # highest block of any rgrp
    uint64_t master, root
    uint32_t diptrs, inptrs, jbsize
    uint32_t max_height, max_jheight
    rgrp* rg
    uint64_t n_rg
    uint64_t rg_hint
    chunk* ch
    uint64_t n_ch
    inode_entry* it
    uint64_t n_it
    exception_entry* exc
    uint64_t n_exc, exc_cap
    conflict* conf              # open addressing
    uint64_t conf_cap, n_conf
    int conf_full
    int hunting                 # second walk: only owners of conflicts are of interest
    int shared                  # other threads claim blocks in the same map
    uint64_t unit               # the part of a shared pass that is at work, from 1
    finding* fnd
    uint32_t n_fnd, fnd_cap
    uint64_t kind_total[K_COUNT]
    uint32_t kind_stored[K_COUNT]
    usage_entry* usage          # open addressing, by uid and gid
    uint64_t usage_cap, n_usage
    int usage_off
    wave w_di, w_item, w_misc
    char* bm_buf                # one bitmap block as it is on the disk, for disk_state
    uint64_t bm_block

cdef int fsck_init(fsck* fs, blkdev* dev) noexcept nogil
cdef int waves_init(fsck* fs) noexcept nogil
cdef void fsck_free(fsck* fs) noexcept nogil
cdef int wave_init(wave* w, uint32_t max_blocks, uint64_t raw_bytes) noexcept nogil
cdef void wave_free(wave* w) noexcept nogil
cdef uint32_t wave_read(fsck* fs, wave* w, const uint64_t* blocks, uint32_t stride,
                        uint32_t n) noexcept nogil
cdef int read_block(fsck* fs, uint64_t block, void* buf) noexcept nogil
cdef finding* report(fsck* fs, Kind kind, uint64_t block, uint64_t inode, uint64_t wanted,
                     uint64_t found) noexcept nogil
cdef void finding_name(finding* f, const char* name, uint64_t length) noexcept nogil
cdef rgrp* find_rgrp(fsck* fs, uint64_t block) noexcept nogil
cdef chunk* find_chunk(fsck* fs, uint64_t block, uint32_t* bit) noexcept nogil
cdef int claim_slow(fsck* fs, uint64_t block, int state, uint64_t owner, int how) noexcept nogil
cdef conflict* conflict_find(fsck* fs, uint64_t block) noexcept nogil
cdef int disk_state(fsck* fs, uint64_t block) noexcept nogil
cdef int64_t inode_index(fsck* fs, uint64_t block) noexcept nogil
cdef uint64_t inode_block(fsck* fs, uint64_t index) noexcept nogil
cdef int set_formal(fsck* fs, uint64_t index, uint64_t formal) noexcept nogil
cdef uint64_t get_formal(fsck* fs, uint64_t index) noexcept nogil
cdef void usage_one(fsck* fs, uint64_t key, int64_t blocks) noexcept nogil
cdef void usage_add(fsck* fs, uint32_t uid, uint32_t gid, int64_t blocks) noexcept nogil

cdef inline int chunk_get(const chunk* c, uint32_t bit) noexcept nogil:
    if c.bits == NULL:
        return 0
    return (c.bits[bit >> 2] >> ((bit & 3) * 2)) & 3

cdef inline int clear_used(fsck* fs, uint8_t* byte, uint8_t shift) noexcept nogil:
    """USED becomes FREE. What the pair was just before: in a shared pass another thread may have been quicker."""
    if fs.shared:
        return (fsck_clear(byte, <uint8_t>(1 << shift)) >> shift) & 3
    byte[0] &= <uint8_t>(~(1 << shift))
    return 1

cdef inline int claim(fsck* fs, uint64_t block, uint64_t owner, int how) noexcept nogil:
    """Take a block for `owner`. 0: the first to do so, go on into it; 1: do not; -1: no block of the fs."""
    cdef uint32_t bit
    cdef chunk* c = find_chunk(fs, block, &bit)
    cdef int state
    if c == NULL:
        return -1
    state = chunk_get(c, bit)
    if state == 1:
        state = clear_used(fs, &c.bits[bit >> 2], <uint8_t>((bit & 3) * 2))
        if state == 1 and (not fs.hunting or fs.n_conf == 0):
            return 0
    return claim_slow(fs, block, state, owner, how)

cdef inline int block_state(fsck* fs, uint64_t block) noexcept nogil:
    """What the map says now: 0..3, or -1 outside the data areas."""
    cdef uint32_t bit
    cdef chunk* c = find_chunk(fs, block, &bit)
    return -1 if c == NULL else chunk_get(c, bit)
