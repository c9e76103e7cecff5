"""Counters and levels of a mount (see _levels.pxd)."""
from libc.stdint cimport uint32_t
from gfs2py.engine._fs cimport gfs2_fs
from gfs2py.engine._incore cimport *
from gfs2py.engine._nodes cimport nodes_count
from gfs2py.engine._sync cimport pthread_mutex_lock, pthread_mutex_unlock


cdef dict levels(gfs2_fs* fs):
    cdef sbd* sd = fs.sd
    cdef uint32_t i
    hits = misses = evictions = buffers = reservations = reserved = pinned = 0
    for i in range(sd.bc.n_shards):
        hits += sd.bc.shards[i].hits
        misses += sd.bc.shards[i].misses
        evictions += sd.bc.shards[i].evictions
        buffers += sd.bc.shards[i].count
    for i in range(sd.n_rgrps):
        reservations += sd.rgrps[i].n_rs
        reserved += sd.rgrps[i].reserved
    pthread_mutex_lock(&sd.log.lock)
    if sd.log.running != NULL:
        pinned = sd.log.running.nbufs + sd.log.running.ndbufs
    pthread_mutex_unlock(&sd.log.lock)
    return {
        "cache_hits": hits, "cache_misses": misses, "cache_evictions": evictions, "cache_buffers": buffers,
        "cache_limit_buffers": sd.bc.n_shards * sd.bc.limit_per_shard, "cache_allocated": sd.bc.n_allocated,
        "inodes": sd.ic.count, "inodes_limit": sd.ic.limit,
        "nodes": nodes_count(&fs.nd), "dirty_data_blocks": sd.n_ddirty,
        "pinned_buffers": pinned, "ail_buffers": sd.log.n_ail, "transactions": sd.log.n_trans,
        "log_blocks": sd.log.nblocks, "log_free": sd.log.free, "log_commits": sd.log.n_commits,
        "log_blocks_written": sd.log.n_blocks_logged, "log_revokes": sd.log.n_revokes,
        "log_waits": sd.log.n_flush_waits, "log_flushes": sd.log.n_flushes, "ail_writes": sd.log.n_ail_writes,
        "reservations": reservations, "reserved_blocks": reserved, "rgrp_scans": sd.ob.n_rgrp_scans,
        "device_reads": sd.dev.n_reads, "device_read_bytes": sd.dev.bytes_read,
        "device_writes": sd.dev.n_writes, "device_written_bytes": sd.dev.bytes_written,
        "device_flushes": sd.dev.n_flushes, "withdrawn": int(sd.withdrawn),
    }
