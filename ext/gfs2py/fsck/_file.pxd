"""Reading files and looking names up before (or without) a full walk: superblock, system files."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.fsck._state cimport fsck

cdef enum:
    MAX_BSIZE = 4096

cdef int open_sb(fsck* fs) noexcept nogil
cdef int read_dinode(fsck* fs, uint64_t addr, char* di) noexcept nogil
cdef int64_t file_ptrs(fsck* fs, const char* di, uint64_t lblock, uint64_t* out,
                       uint64_t n_max) noexcept nogil
cdef int64_t file_read(fsck* fs, const char* di, uint64_t off, char* dst, uint64_t length,
                       uint32_t head) noexcept nogil
cdef uint64_t dir_lookup(fsck* fs, uint64_t dir_addr, const char* name, uint32_t length) noexcept nogil
