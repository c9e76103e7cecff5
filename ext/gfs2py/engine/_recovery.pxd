"""Journals on the disk: where they lie, their head, replay, and the header that declares them clean.

Works on a device and needs no mount: used at mount, for the journals of dead nodes, and by the checker. Every function
returns 0 or -errno; after -EIO `jd.err.structure` is not NULL if the disk is damaged (rather than failing), and the
rest of `jd.err` says where and how. Source of behaviour: fs/gfs2/recovery.c, lops.c (gfs2_find_jhead, *_scan_elements).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
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

cdef struct jstats:
    uint32_t log_blocks             # walked, from the tail to the head
    uint32_t found_meta, found_data # copies in them
    uint32_t replayed               # blocks written in place: the last copy of each
    uint32_t revokes                # distinct blocks with a revoke
    uint32_t revoked                # distinct blocks not written because of one
    uint32_t stale_rgrps            # resource groups that were newer on the disk than in the journal
    uint64_t read_ns, write_ns

# Reads the journal's dinode and indirect blocks; jd must be closed afterwards whatever is returned.
cdef int journal_open(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, uint64_t addr) noexcept nogil
# The same from a known map (copied), sorted by lblk without gaps.
cdef int journal_open_map(jdesc* jd, blkdev* dev, uint32_t bsize, uint64_t fs_blocks, const extent* ext,
                          uint32_t n_ext) noexcept nogil
cdef void journal_close(jdesc* jd) noexcept nogil
cdef uint64_t journal_block(const jdesc* jd, uint32_t lblk) noexcept nogil      # lblk < nblocks
cdef int jhead_find(jdesc* jd, jhead* head) noexcept nogil
# Puts in place what lies between head.tail and head.blkno, then flushes. Nothing is written unless all of it is
# sound. dry_run: only checks and counts.
cdef int journal_replay(jdesc* jd, const jhead* head, bint dry_run, jstats* st) noexcept nogil
# Master statfs += the head's local changes; the local file is zeroed. local_addr 0: the one the head names.
# master_addr 0, or a version 1 head: nothing. No flush.
cdef int journal_statfs(jdesc* jd, const jhead* head, uint64_t master_addr, uint64_t local_addr) noexcept nogil
# Flush, then the header with UNMOUNT|RECOVERY after the head, durable on return. `jid`: of the node that recovers.
# On success `head` is the new head.
cdef int journal_clean(jdesc* jd, jhead* head, uint32_t jid, int64_t sec, uint32_t nsec) noexcept nogil
# All of it: head, and if that is not clean replay, statfs and clean. `head` is then what was found on the disk.
cdef int journal_recover(jdesc* jd, jhead* head, jstats* st, uint64_t master_addr, uint64_t local_addr, uint32_t jid,
                         int64_t sec, uint32_t nsec) noexcept nogil
