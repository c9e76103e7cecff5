"""Inodes, directories and contents in memory: what the null file system consists of."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from gfs2py.fuse._sys cimport pthread_mutex_t

cdef enum:
    CHUNK = 65536           # bytes of content allocated at once

cdef struct ndent:
    ndent* chain            # same hash bucket
    ndent* next             # in order of cookies
    ndent* prev
    uint64_t cookie
    uint64_t ino
    uint32_t hash, namelen
    char name[256]

cdef struct nxattr:
    nxattr* next
    uint32_t namelen, size
    char name[256]
    uint8_t* value

cdef struct nnode:
    pthread_mutex_t mutex   # attributes, content, xattrs; names are under the tree's
    uint64_t ino, generation, nlookup
    uint32_t nlink, opens
    uint64_t size
    int64_t atime, mtime, ctime
    uint32_t atimensec, mtimensec, ctimensec
    uint32_t mode, uid, gid, rdev, flags
    ndent** buckets         # directories
    uint32_t n_buckets, n_entries
    ndent* first
    ndent* last
    ndent* hint             # where the last readdir stopped
    uint64_t next_cookie
    uint64_t parent
    uint8_t** chunks        # regular files; NULL is a hole
    uint64_t n_chunks, used_chunks
    char* target            # symbolic links
    nxattr* xattrs

cdef struct ntree:
    pthread_mutex_t mutex
    nnode** nodes           # by inode number
    uint64_t n_nodes, cap_nodes, n_live
    uint64_t* spare         # numbers to use again
    uint64_t n_spare, cap_spare
    uint64_t generation
    uint64_t next_fh

cdef ntree* tree_new() noexcept nogil
cdef void tree_free(ntree* t) noexcept nogil
# tree.mutex is held for all that follow up to dir_remove
cdef nnode* node_get(ntree* t, uint64_t ino) noexcept nogil
cdef nnode* node_new(ntree* t, uint32_t mode, uint32_t uid, uint32_t gid) noexcept nogil
cdef void node_release_if_unused(ntree* t, nnode* n) noexcept nogil
cdef ndent* dir_find(nnode* d, const char* name, uint32_t namelen) noexcept nogil
cdef int dir_add(nnode* d, const char* name, uint32_t namelen, uint64_t ino) noexcept nogil
cdef void dir_remove(nnode* d, ndent* e) noexcept nogil
cdef ndent* dir_after(nnode* d, uint64_t cookie) noexcept nogil
# node.mutex is held
cdef void touch(nnode* n, bint modified) noexcept nogil
cdef uint32_t data_read(nnode* n, uint64_t off, uint32_t size, uint8_t* buf) noexcept nogil
cdef int data_write(nnode* n, uint64_t off, uint32_t size, const uint8_t* buf) noexcept nogil
cdef int data_resize(nnode* n, uint64_t size) noexcept nogil
cdef void data_punch(nnode* n, uint64_t off, uint64_t length) noexcept nogil
cdef int data_allocate(nnode* n, uint64_t off, uint64_t length) noexcept nogil
cdef int data_seek(nnode* n, uint64_t off, bint hole, uint64_t* out) noexcept nogil
