"""CRC-32, CRC-32C and the sums built on them; see _checksum.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from gfs2py.ondisk._ondisk cimport (
    be32toh, gfs2_log_header, gfs2_rgrp, htobe32, GFS2_LH_V1_SIZE, SIZEOF_RGRP,
)

cdef extern from "<zlib.h>" nogil:
    unsigned long z_crc32 "crc32"(unsigned long crc, const unsigned char* buf, unsigned int length)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__x86_64__)
    static int gfs2py_have_crc32(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2") != 0;
    }
    __attribute__((target("sse4.2")))
    static uint32_t gfs2py_crc32c_hw(uint32_t crc, const uint8_t *p, uint64_t n) {
        uint64_t c = crc, w;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&w, p, 8);
            c = __builtin_ia32_crc32di(c, w);
        }
        for (; n; n--, p++)
            c = __builtin_ia32_crc32qi((uint32_t)c, *p);
        return (uint32_t)c;
    }
    #else
    static int gfs2py_have_crc32(void) { return 0; }
    static uint32_t gfs2py_crc32c_hw(uint32_t crc, const uint8_t *p, uint64_t n) { return crc; }
    #endif
    """
    int gfs2py_have_crc32() noexcept nogil
    uint32_t gfs2py_crc32c_hw(uint32_t crc, const uint8_t* p, uint64_t n) noexcept nogil

cdef enum:
    CRC32C_POLY_REFLECTED = 0x82F63B78
    ZLIB_CHUNK = 0x40000000                 # zlib counts in 32 bits

cdef uint32_t crc32c_table[8][256]
cdef int use_hw = 0


cdef void crc32c_fill_table() noexcept nogil:
    """Slicing by eight: table k advances a byte over k further zero bytes."""
    cdef uint32_t i, c
    cdef int k
    for i in range(256):
        c = i
        for k in range(8):
            c = (c >> 1) ^ (CRC32C_POLY_REFLECTED if c & 1 else 0)
        crc32c_table[0][i] = c
    for i in range(256):
        c = crc32c_table[0][i]
        for k in range(1, 8):
            c = (c >> 8) ^ crc32c_table[0][c & 0xff]
            crc32c_table[k][i] = c


cdef uint32_t crc32c_sw(uint32_t seed, const uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint32_t c = seed
    cdef uint32_t lo
    while n >= 8:
        lo = c ^ (p[0] | (<uint32_t>p[1] << 8) | (<uint32_t>p[2] << 16) | (<uint32_t>p[3] << 24))
        c = (crc32c_table[7][lo & 0xff] ^ crc32c_table[6][(lo >> 8) & 0xff]
             ^ crc32c_table[5][(lo >> 16) & 0xff] ^ crc32c_table[4][lo >> 24]
             ^ crc32c_table[3][p[4]] ^ crc32c_table[2][p[5]] ^ crc32c_table[1][p[6]] ^ crc32c_table[0][p[7]])
        p += 8
        n -= 8
    while n:
        c = (c >> 8) ^ crc32c_table[0][(c ^ p[0]) & 0xff]
        p += 1
        n -= 1
    return c


cdef uint32_t crc32c(uint32_t seed, const void* p, uint64_t n) noexcept nogil:
    if use_hw:
        return gfs2py_crc32c_hw(seed, <const uint8_t*>p, n)
    return crc32c_sw(seed, <const uint8_t*>p, n)


cdef uint32_t crc32_zlib(uint32_t seed, const void* p, uint64_t n) noexcept nogil:
    cdef unsigned long c = seed
    cdef const unsigned char* b = <const unsigned char*>p
    cdef unsigned int step
    while n:
        step = <unsigned int>(n if n < ZLIB_CHUNK else ZLIB_CHUNK)
        c = z_crc32(c, b, step)
        b += step
        n -= step
    return <uint32_t>c


cdef uint32_t gfs2_dir_hash(const char* name, uint32_t length) noexcept nogil:
    return crc32_zlib(0, name, length)


cdef uint32_t rgrp_crc(const gfs2_rgrp* rg) noexcept nogil:
    cdef gfs2_rgrp tmp
    memcpy(&tmp, rg, SIZEOF_RGRP)
    tmp.rg_crc = 0
    return crc32_zlib(0, &tmp, SIZEOF_RGRP)


cdef void rgrp_set_crc(gfs2_rgrp* rg) noexcept nogil:
    rg.rg_crc = htobe32(rgrp_crc(rg))


cdef uint32_t log_header_hash(const gfs2_log_header* lh) noexcept nogil:
    cdef uint8_t tmp[GFS2_LH_V1_SIZE]
    memcpy(tmp, lh, GFS2_LH_V1_SIZE)
    memset(tmp + GFS2_LH_V1_SIZE - 4, 0, 4)
    return crc32_zlib(0, tmp, GFS2_LH_V1_SIZE)


cdef uint32_t log_header_crc(const gfs2_log_header* lh, uint32_t bsize) noexcept nogil:
    return crc32c(0xffffffff, <const uint8_t*>lh + GFS2_LH_V1_SIZE + 4, bsize - GFS2_LH_V1_SIZE - 4)


cdef void log_header_seal(gfs2_log_header* lh, uint32_t bsize) noexcept nogil:
    lh.lh_hash = htobe32(log_header_hash(lh))
    lh.lh_crc = htobe32(log_header_crc(lh, bsize))


cdef int log_header_sum_ok(const gfs2_log_header* lh, uint32_t bsize) noexcept nogil:
    if be32toh(lh.lh_hash) != log_header_hash(lh):
        return 0
    return lh.lh_crc == 0 or be32toh(lh.lh_crc) == log_header_crc(lh, bsize)


crc32c_fill_table()
use_hw = gfs2py_have_crc32()


# Python edges: for tests, mkfs and the printer.

def py_crc32c(const uint8_t[::1] data not None, uint32_t seed=0xffffffff, bint table=False):
    """CRC-32C over `data`, kernel style (no inversion); `table` avoids the processor's instruction."""
    cdef uint64_t n = <uint64_t>data.shape[0]
    cdef const uint8_t* p = &data[0] if n else NULL
    return crc32c_sw(seed, p, n) if table else crc32c(seed, p, n)


def py_crc32_zlib(const uint8_t[::1] data not None, uint32_t seed=0):
    """zlib's CRC-32 of `data`, continued from `seed`."""
    cdef uint64_t n = <uint64_t>data.shape[0]
    return crc32_zlib(seed, &data[0], n) if n else seed


def py_dir_hash(const uint8_t[::1] name not None):
    """The hash of a directory entry's name."""
    cdef uint64_t n = <uint64_t>name.shape[0]
    return gfs2_dir_hash(<const char*>&name[0], <uint32_t>n) if n else 0


def py_rgrp_crc(const uint8_t[::1] block not None):
    """What rg_crc of the resource group header in `block` must be. Raises ValueError if too short."""
    if block.shape[0] < SIZEOF_RGRP:
        raise ValueError(f"a resource group header has {SIZEOF_RGRP} bytes, not {block.shape[0]}")
    return rgrp_crc(<const gfs2_rgrp*>&block[0])


def py_log_header_sums(const uint8_t[::1] block not None):
    """(lh_hash, lh_crc) that the log header in this whole block must have. Raises ValueError if too short."""
    cdef const gfs2_log_header* lh
    if block.shape[0] < 512 or block.shape[0] > 65536:
        raise ValueError(f"not a journal block: {block.shape[0]} bytes")
    lh = <const gfs2_log_header*>&block[0]
    return log_header_hash(lh), log_header_crc(lh, <uint32_t>block.shape[0])


def has_hardware_crc32c():
    """Whether CRC-32C uses the processor's instruction here."""
    return bool(use_hw)
