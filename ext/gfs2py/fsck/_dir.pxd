"""Pass 2: directories; pass 3 and 4: who hangs on whom, link counts."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from gfs2py.fsck._state cimport fsck
from gfs2py.fsck._walk cimport cursor, walker

cdef enum:
    MAX_TABLE = 131072          # 2 ^ GFS2_DIR_MAX_DEPTH
    MAX_HASH_BLOCKS = 4096      # blocks of a hash table (2,149 with blocks of 512 bytes)
    MAX_CHAIN_NAMES = 4194304   # names of chained leaves kept for the search for duplicates
    NO_DIR = 0

cdef struct dir_entry:          # a directory; `parent` and `dotdot` are numbers of directories + 1
    uint64_t index              # in the inode table
    uint32_t parent
    uint32_t dotdot
    uint64_t parent_block       # the block that holds the entry

cdef struct leaf_item:
    uint64_t block
    uint64_t prev               # the leaf or hash table block that points here
    uint32_t start              # first index of the hash table
    uint32_t count              # entries of the hash table
    uint32_t dist               # place in the chain, from 1

cdef struct name_record:
    uint32_t start
    uint32_t hash
    uint64_t second             # another hash of the name
    uint64_t block

cdef struct name_ref:           # an inode with findings, and the directory block that names it (0: not seen)
    uint64_t inode
    uint64_t block
    uint32_t parent             # number of the directory + 1

cdef struct dirs:
    dir_entry* d
    uint64_t n, cap
    uint64_t* table             # the hash table at hand
    uint64_t* level_a
    uint64_t* level_b
    leaf_item* leaves
    leaf_item* more
    uint64_t n_leaves, n_more, leaves_cap
    name_record* names
    uint64_t n_names, names_cap
    name_ref* refs              # sorted by inode
    uint64_t n_refs
    int nomem

cdef struct dir_ctx:            # the directory being read
    uint64_t addr
    uint64_t index
    uint32_t ordinal            # its number + 1
    uint32_t depth
    int exhash
    int system
    uint32_t n_entries
    int n_dot, n_dotdot

cdef int dirs_init(fsck* fs, dirs* ds) noexcept nogil
cdef void dirs_free(dirs* ds) noexcept nogil
cdef int want_names(fsck* fs, dirs* ds) noexcept nogil
cdef name_ref* find_ref(dirs* ds, uint64_t inode) noexcept nogil
cdef int pass2(fsck* fs, walker* w, dirs* ds, cursor* c, uint32_t n_waves) noexcept nogil
cdef int pass3(fsck* fs, dirs* ds) noexcept nogil
cdef int pass4(fsck* fs, dirs* ds, uint64_t first, uint64_t n) noexcept nogil
