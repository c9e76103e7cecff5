"""The quorum disk's blocks: bytes as the suite's own programs have them, and damage that is named."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cman.qdisk.ondisk import (
    SLOTS,
    Header,
    Message,
    NodeState,
    QdiskError,
    Status,
    blank_disk,
    disk_bytes,
    offset_of,
    pack_header,
    pack_status,
    seal,
    unpack_header,
    unpack_status,
    unseal,
)

NODES = st.frozensets(st.integers(1, SLOTS))
STATUS = st.builds(
    Status, nodeid=st.integers(1, SLOTS), written_by=st.integers(0, SLOTS), timestamp=st.integers(0, 2**64 - 1),
    state=st.sampled_from(NodeState), incarnation=st.integers(0, 2**64 - 1), message=st.sampled_from(Message),
    number=st.integers(0, 0xFFFF), argument=st.integers(0, 2**32 - 1), mask=NODES, master_mask=NODES,
    score=st.integers(0, 0xFFFF), score_max=st.integers(0, 0xFFFF), cycle_us=st.integers(0, 10**10))


def test_a_status_block_byte_by_byte() -> None:
    block = pack_status(Status(3, 2, 0x5F66AABB, NodeState.RUN, 0x0102030405060708, Message.BID, 7, 9,
                               frozenset({1, 3, 10}), frozenset({16}), cycle_us=1_500_000))
    assert len(block) == 512
    magic, head_crc, data_crc, length, view, stamp = struct.unpack_from("<IIIIQQ", block)
    assert (magic, length, view, stamp) == (0x00DEBB1E, 80, 0, 0x5F66AABB)
    data = block[32:112]
    assert zlib.crc32(data) == data_crc
    assert zlib.crc32(block[:4] + b"\0\0\0\0" + block[8:32]) == head_crc
    assert data == (bytes.fromhex("47bacef8 00000002 000000005f66aabb 00000003 00000000 05 00 0000 0000 0000"
                                  "00000001 0007a120 00000000 00000000")
                    + bytes.fromhex("0807060504030201")
                    + bytes.fromhex("0001 0007 00000009") + bytes([0b101, 0b10, 0, 0, 0, 0, 0, 0])
                    + bytes([0, 0b10000000, 0, 0, 0, 0, 0, 0]))
    assert block[112:] == bytes(400)


def test_a_header_byte_by_byte() -> None:
    data = unseal(pack_header(Header("myqdisk", "web1", 0x4C72B0A0, 512)), "x")
    assert data == (bytes.fromhex("eb7a62c2 389fabc4 000000004c72b0a0") + b"web1".ljust(128, b"\0")
                    + b"myqdisk".ljust(120, b"\0") + bytes.fromhex("00000200 00000000"))


def test_a_big_endian_writer_is_understood() -> None:
    block = bytearray(pack_status(Status(1, 1, 77, NodeState.MASTER)))
    magic, _, data_crc, length, view, stamp = struct.unpack_from("<IIIIQQ", block)
    head = struct.pack(">IIIIQQ", magic, 0, data_crc, length, view, stamp)
    struct.pack_into(">IIIIQQ", block, 0, magic, zlib.crc32(head), data_crc, length, view, stamp)
    assert unpack_status(bytes(block), 1).state is NodeState.MASTER


@given(STATUS)
def test_status_there_and_back(status: Status) -> None:
    assert unpack_status(pack_status(status), status.nodeid) == status


def test_header_there_and_back() -> None:
    for header in (Header("a", "", 1, 4096), Header("x" * 119, "h" * 127, 2**33, 512)):
        assert unpack_header(pack_header(header)) == header
    for label in ("", "x" * 120, "a\0b"):
        with pytest.raises(ValueError, match="label"):
            pack_header(Header(label, "h", 1))


def test_every_flipped_bit_is_noticed(rng: random.Random) -> None:
    block = pack_status(Status(4, 4, 12345, NodeState.RUN, 99, mask=frozenset({4})))
    for bit in rng.sample(range(112 * 8), 300):
        bad = bytearray(block)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(QdiskError, match="block of node 4: "):
            unpack_status(bytes(bad), 4)


def test_another_nodes_block_and_nonsense_are_named() -> None:
    with pytest.raises(QdiskError, match="block of node 5: it is that of node 4"):
        unpack_status(pack_status(Status(4)), 5)
    with pytest.raises(QdiskError, match="the header: magic 0x00000000, wanted 0x00debb1e"):
        unpack_header(bytes(512))
    with pytest.raises(QdiskError, match="the header: magic 0x47bacef8, wanted 0xeb7a62c2"):
        unpack_header(seal(unseal(pack_status(Status(4)), "x").ljust(300, b"\0"), 1))
    with pytest.raises(QdiskError, match="no place for node 17"):
        offset_of(17, 512)


def test_a_blank_disk() -> None:
    for sector, block in ((512, 4096), (4096, 4096), (8192, 8192)):
        made = blank_disk("myqdisk", "web1", 1_282_600_000, sector)
        assert [offset for offset, _ in made] == [*(n * block for n in range(1, 17)), 0]
        assert all(len(data) == sector for _, data in made)
        assert unpack_header(made[-1][1]).label == "myqdisk"
        assert [unpack_status(data, n).state for n, (_, data) in enumerate(made[:-1], 1)] == [NodeState.NONE] * 16
        assert disk_bytes(sector) == 18 * block
