"""The hot loop of mkfs: the log headers that fill a new journal.

Every block of a new journal is a log header with the flags UNMOUNT and USERSPACE; the sequence numbers rise from a
random start and wrap at the number of blocks, so that the head is found somewhere inside.
Source: gfs2-utils libgfs2/structures.c lgfs2_write_journal_data
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from gfs2py.ondisk._checksum cimport crc32c, log_header_hash
from gfs2py.ondisk._ondisk cimport (
    GFS2_FORMAT_LH, GFS2_LH_V1_SIZE, GFS2_LOG_HEAD_UNMOUNT, GFS2_LOG_HEAD_USERSPACE, GFS2_MAGIC, GFS2_METATYPE_LH,
    gfs2_log_header, htobe32, htobe64,
)

cdef struct zero_tail:
    # What appending `n` zero bytes does to a CRC: linear, so one table per byte of the state is enough.
    uint32_t t[4][256]


cdef void zero_tail_init(zero_tail* z, const uint8_t* zeros, uint64_t n) noexcept nogil:
    cdef uint32_t bit[32]
    cdef uint32_t v, acc
    cdef int i, b, k
    for i in range(32):
        bit[i] = crc32c(<uint32_t>1 << i, zeros, n)
    for b in range(4):
        for i in range(256):
            acc = 0
            for k in range(8):
                if i & (1 << k):
                    acc ^= bit[8 * b + k]
            z.t[b][i] = acc


cdef uint32_t zero_tail_apply(const zero_tail* z, uint32_t c) noexcept nogil:
    return z.t[0][c & 0xff] ^ z.t[1][(c >> 8) & 0xff] ^ z.t[2][(c >> 16) & 0xff] ^ z.t[3][c >> 24]


cdef void fill(uint8_t* buf, uint64_t buflen, uint32_t bsize, uint32_t first, uint32_t count, uint32_t jblocks,
               uint64_t jext0, uint64_t jinode, uint64_t seq) noexcept nogil:
    cdef zero_tail tail
    cdef gfs2_log_header* lh
    cdef uint32_t i, blkno
    cdef uint64_t at
    memset(buf, 0, buflen)
    zero_tail_init(&tail, buf, bsize - sizeof(gfs2_log_header))
    for i in range(count):
        blkno = first + i
        at = <uint64_t>i * bsize
        lh = <gfs2_log_header*>(buf + at)
        lh.lh_header.mh_magic = htobe32(GFS2_MAGIC)
        lh.lh_header.mh_type = htobe32(GFS2_METATYPE_LH)
        lh.lh_header.mh_format = htobe32(GFS2_FORMAT_LH)
        lh.lh_flags = htobe32(<uint32_t>GFS2_LOG_HEAD_UNMOUNT | GFS2_LOG_HEAD_USERSPACE)
        lh.lh_jinode = htobe64(jinode)
        lh.lh_sequence = htobe64((seq + blkno) % jblocks)
        lh.lh_blkno = htobe32(blkno)
        lh.lh_addr = htobe64(jext0 + blkno)
        lh.lh_hash = htobe32(log_header_hash(lh))
        lh.lh_crc = htobe32(zero_tail_apply(&tail, crc32c(
            0xffffffff, <const uint8_t*>lh + GFS2_LH_V1_SIZE + 4, sizeof(gfs2_log_header) - GFS2_LH_V1_SIZE - 4)))


def fill_journal(uint8_t[::1] buf not None, uint32_t bsize, uint32_t first, uint32_t count, uint32_t jblocks,
                 uint64_t jext0, uint64_t jinode, uint64_t seq):
    """Makes the blocks `first`..`first + count` of a journal of `jblocks` blocks at the start of `buf`.

    `jext0` is the block address of the journal's first block, `seq` the sequence number of its block 0. The rest
    of `buf` becomes zeros. Raises ValueError for a nonsensical request.
    """
    if bsize < 512 or bsize > 65536 or bsize & (bsize - 1):
        raise ValueError(f"bad block size {bsize}")
    if jblocks == 0 or <uint64_t>first + count > jblocks:
        raise ValueError(f"a journal of {jblocks} blocks has no blocks {first}..{first + count}")
    if <uint64_t>count * bsize > <uint64_t>buf.shape[0] or count == 0:
        raise ValueError(f"{count} blocks do not fit into {buf.shape[0]} bytes")
    with nogil:
        fill(&buf[0], <uint64_t>buf.shape[0], bsize, first, count, jblocks, jext0, jinode, seq)
