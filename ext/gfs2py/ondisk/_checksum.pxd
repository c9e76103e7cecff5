"""Checksums of the format, for the engine, mkfs and the checker to cimport.

Source: fs/gfs2/dir.h gfs2_disk_hash, fs/gfs2/log.c gfs2_write_log_header, fs/gfs2/rgrp.c gfs2_rgrp_out
"""
from libc.stdint cimport uint32_t, uint64_t
from gfs2py.ondisk._ondisk cimport gfs2_log_header, gfs2_rgrp

# Plain zlib CRC-32: start with seed 0; the result of one call is the seed of the next.
cdef uint32_t crc32_zlib(uint32_t seed, const void* p, uint64_t n) noexcept nogil
# Castagnoli CRC as the kernel's crc32c(): the caller gives the seed (~0 for log headers), nothing is inverted.
cdef uint32_t crc32c(uint32_t seed, const void* p, uint64_t n) noexcept nogil
# The hash that places a name in an extendible directory, and de_hash.
cdef uint32_t gfs2_dir_hash(const char* name, uint32_t length) noexcept nogil

# rg_crc of a header as it stands (the field itself counts as 0); native byte order.
cdef uint32_t rgrp_crc(const gfs2_rgrp* rg) noexcept nogil
cdef void rgrp_set_crc(gfs2_rgrp* rg) noexcept nogil

# lh_hash and lh_crc of a header, native byte order. `lh` of log_header_crc must be a whole block of `bsize` bytes.
cdef uint32_t log_header_hash(const gfs2_log_header* lh) noexcept nogil
cdef uint32_t log_header_crc(const gfs2_log_header* lh, uint32_t bsize) noexcept nogil
# Stores both: lh_hash first, then lh_crc.
cdef void log_header_seal(gfs2_log_header* lh, uint32_t bsize) noexcept nogil
# 1 when lh_hash is right and lh_crc is right or 0 (a version 1 header), else 0.
cdef int log_header_sum_ok(const gfs2_log_header* lh, uint32_t bsize) noexcept nogil
