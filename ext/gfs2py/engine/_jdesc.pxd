"""Where a journal lies on the disk, and its head: the newest log header.

Works on a device and needs no mount. Every function returns 0 or -errno; after -EIO `jd.err.structure` is not NULL if
the disk is damaged (rather than failing), and the rest of `jd.err` says where and how.
Source of behaviour: fs/gfs2/lops.c gfs2_find_jhead, recovery.c __get_log_header, bmap.c.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from gfs2py.block._device cimport blkdev
from gfs2py.engine._incore cimport extent

cdef struct jerror:
    uint64_t block                  # of the file system
    const char* structure           # NULL: no damage noted
    const char* field
    uint64_t wanted, found

cdef struct jdesc:                  # one journal
    blkdev* dev
    uint32_t bsize
    uint64_t fs_blocks              # no block number may reach this
    uint64_t jinode                 # its dinode's address; 0 when made from extents
    uint32_t nblocks
    uint32_t n_ext
    extent* ext                     # by log block, adjacent ones merged
    jerror err

cdef struct jhead:                  # the newest log header
    uint64_t sequence
    uint32_t flags, tail, blkno
    bint v1                         # no CRC: the fields below mean nothing
    uint64_t jinode, statfs_addr, quota_addr
    int64_t local_total, local_free, local_dinodes
    uint32_t n_headers              # valid headers seen on the way

# Reads the journal's dinode and indirect blocks; jd must be closed afterwards whatever is returned.
cdef int journal_open(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, uint64_t addr) noexcept nogil
# The same from a known map (copied), sorted by lblk without gaps.
cdef int journal_open_map(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, const extent* ext,
                          uint32_t n_ext) noexcept nogil
cdef void journal_close(jdesc* jd) noexcept nogil
cdef uint64_t journal_block(const jdesc* jd, uint32_t lblk) noexcept nogil      # lblk < nblocks
cdef int jhead_find(jdesc* jd, jhead* head) noexcept nogil

# For the replay. damage() fills jd.err and returns -EIO.
cdef int damage(jdesc* jd, uint64_t block, const char* structure, const char* field, uint64_t wanted,
                uint64_t found) noexcept nogil
cdef int check_block(jdesc* jd, uint64_t holder, const char* structure, const char* field,
                     uint64_t blkno) noexcept nogil
cdef int check_meta(jdesc* jd, uint64_t block, const void* p, uint32_t mtype, const char* structure) noexcept nogil
cdef int read_dinode(jdesc* jd, uint64_t addr, uint8_t* block, const char* structure) noexcept nogil
cdef int read_log(jdesc* jd, uint32_t lblk, uint32_t n, uint8_t* buf) noexcept nogil
cdef bint header_ok(const jdesc* jd, const void* p, uint32_t lblk) noexcept nogil
cdef void take_head(jhead* head, const void* p) noexcept nogil
