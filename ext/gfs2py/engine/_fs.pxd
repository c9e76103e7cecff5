"""A mounted GFS2 as the FUSE session sees it: the state behind the table of operations."""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from gfs2py.engine._incore cimport inode, opctx, sbd
from gfs2py.engine._nodes cimport nodes
from gfs2py.engine._plock cimport plocks
from gfs2py.engine._shield cimport shields
from gfs2py.fuse._ops cimport fs_entry, fs_ops, fs_req

cdef enum:                          # linux/fuse.h
    FOPEN_DIRECT_IO = 1, FOPEN_KEEP_CACHE = 2, FOPEN_CACHE_DIR = 8

cdef struct gfs2_fs

cdef struct gfs2_fs:
    sbd* sd
    nodes nd
    uint64_t entry_ns, attr_ns      # how long the kernel may believe names and attributes
    uint32_t open_flags             # FOPEN_* of every file open to read
    uint32_t write_flags            # of one open to write
    uint32_t dir_flags
    uint64_t last_cold              # the dinode that was last looked up and not in memory
    plocks* plocks                  # fcntl locks; NULL: not shared
    shields shields                 # parts of files that the kernel's pages must not overwrite now
    int (*shutdown)(gfs2_fs* fs) noexcept nogil     # at the kernel's DESTROY: everything to disk, journal clean

cdef struct handle:                 # an open file or directory
    inode* ip
    uint32_t flags
    uint32_t wb_seen                # ip.wb_seq as far as this opener knows
    bint caches                     # directory: it is the one that ip.dir_cachers counts

cdef const fs_ops* gfs2_fs_ops(bint shared) noexcept nogil
cdef void fs_ctx(opctx* cx, gfs2_fs* fs, fs_req* rq) noexcept nogil
cdef inline uint64_t node_addr(gfs2_fs* fs, uint64_t nodeid) noexcept nogil:
    """Node ids are dinode addresses; only the root's is 1 by convention."""
    return fs.sd.root_addr if nodeid == 1 else nodeid
