"""Directories: stuffed, hashed, chained. Source of behaviour: fs/gfs2/dir.c."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd

cdef struct dir_found:
    uint64_t no_addr, no_formal_ino
    uint16_t dtype                  # DT_*

# The directory's glock is held (SH is enough). 0 or -ENOENT.
cdef int dir_search(opctx* cx, inode* dip, const char* name, uint32_t namelen, dir_found* out) noexcept nogil
# Log blocks and (worst) allocated blocks that dir_add of one entry of this name length needs right now (EX held): a
# stuffed insert needs none to be allocated; a split, a new chain leaf, a doubled hash table do. -ENOSPC-free planning.
# The log blocks are those of the directory with its dinode; the resource group's (rgrp_trans_blocks) come on top.
# -EFBIG, -EMLINK: 2^32 - 1 entries or links.
cdef int dir_add_need(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint32_t* alloc_blocks,
                      uint32_t* log_blocks) noexcept nogil
# Within a transaction that reserved that much: inserts; updates entries, times, nlink of dip when isdir; dirties dip.
cdef int dir_add(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint64_t no_addr, uint64_t no_formal_ino,
                 uint16_t dtype) noexcept nogil
cdef int dir_del(opctx* cx, inode* dip, const char* name, uint32_t namelen) noexcept nogil     # log: 2 blocks + dinode
# The entry points at another inode (rename; '..' of a moved directory). nlink of dip follows when the type changes
# between directory and not.
cdef int dir_change(opctx* cx, inode* dip, const char* name, uint32_t namelen, uint64_t no_addr, uint64_t no_formal_ino,
                    uint16_t dtype) noexcept nogil
# Writes '.' and '..' into a new stuffed directory's dinode buffer data (entries = 2).
cdef void dir_init_stuffed(sbd* sd, uint8_t* block, uint64_t self_addr, uint64_t self_formal, uint64_t parent_addr,
                           uint64_t parent_formal) noexcept nogil
# Calls fn for every entry at or after cookie `off`, in hash order; the cookie of the *next* entry is passed. fn returns
# nonzero to stop (that entry counts as not read). Under change every entry that stays is returned exactly once; '.' and
# '..' come first; cookies are below 2^63 (see _readdir.pxd).
cdef int dir_read(opctx* cx, inode* dip, uint64_t off, int (*fn)(void* arg, const char* name, uint32_t namelen,
                  uint64_t no_addr, uint64_t no_formal_ino, uint16_t dtype, uint64_t next_off) noexcept nogil,
                  void* arg) noexcept nogil
# Frees the leaves and the hash table of a directory being deallocated; many transactions of its own.
cdef int dir_dealloc_leaves(opctx* cx, inode* dip) noexcept nogil
cdef void dir_forget_cache(inode* dip) noexcept nogil          # drops hash_cache
