"""Replay of a journal, the statfs changes it carries, and the header that declares it clean.

Works on a device and needs no mount: used at mount, for the journals of dead nodes, and by the checker. The journal
itself, its map and its head are _jdesc's; errors are told as there. Source of behaviour: fs/gfs2/recovery.c, lops.c
(*_scan_elements).
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from gfs2py.engine._jdesc cimport (
    jdesc, jerror, jhead, jhead_find, journal_block, journal_close, journal_open, journal_open_map,
)

cdef struct jstats:
    uint32_t log_blocks             # walked, from the tail to the head
    uint32_t found_meta, found_data # copies in them
    uint32_t replayed               # blocks written in place: the last copy of each
    uint32_t walked, written        # how far it is: of log_blocks, and of replayed
    uint32_t revokes                # distinct blocks with a revoke
    uint32_t revoked                # distinct blocks not written because of one
    uint32_t stale_rgrps            # resource groups that were newer on the disk than in the journal
    uint64_t read_ns, write_ns

# Puts in place what lies between head.tail and head.blkno, then flushes. Nothing is written unless all of it is
# sound. dry_run: only checks and counts.
cdef int journal_replay(jdesc* jd, const jhead* head, bint dry_run, jstats* st) noexcept nogil
# Master statfs += the head's local changes; the local file is zeroed. local_addr 0: the one the head names.
# master_addr 0, or a version 1 head: nothing. Logged first (with a new head), so that a crash adds nothing twice; what
# goes in place after that is not flushed.
cdef int journal_statfs(jdesc* jd, jhead* head, uint64_t master_addr, uint64_t local_addr, uint32_t jid) noexcept nogil
# Flush, then the header with UNMOUNT|RECOVERY after the head, durable on return. `jid`: of the node that recovers.
# On success `head` is the new head.
cdef int journal_clean(jdesc* jd, jhead* head, uint32_t jid, int64_t sec, uint32_t nsec) noexcept nogil
# All of it: head, and if that is not clean replay, statfs and clean. `head` is then what was found on the disk.
cdef int journal_recover(jdesc* jd, jhead* head, jstats* st, uint64_t master_addr, uint64_t local_addr, uint32_t jid,
                         int64_t sec, uint32_t nsec) noexcept nogil
