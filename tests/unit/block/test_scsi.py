"""SCSI commands and answers as bytes."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.block import scsi


def test_lengths_of_commands() -> None:
    assert [len(c) for c in (scsi.inquiry(), scsi.inquiry(0x83), scsi.mode_sense6(8))] == [6, 6, 6]
    assert [len(c) for c in (scsi.synchronize_cache10(), scsi.reserve_in(0, 8192),
                             scsi.reserve_out(scsi.ReserveOut.PREEMPT, 5))] == [10, 10, 10]
    assert len(scsi.read_capacity16()) == 16
    assert len(scsi.reserve_parameters(1, 2)) == 24
    assert scsi.reserve_out(scsi.ReserveOut.PREEMPT, 7) == bytes([0x5F, 4, 7, 0, 0, 0, 0, 0, 24, 0])
    assert scsi.reserve_in(0, 0x2000) == bytes([0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0])


def test_capacity() -> None:
    found = scsi.Capacity.parse(struct.pack(">QIBBB17x", 2047, 512, 0, 3, 0x80))
    assert found == scsi.Capacity(2048, 512, 4096, True)
    for last, block in ((10, 0), (10, 500), (10, 1 << 17), ((1 << 64) - 1, 512), (1 << 60, 4096)):
        with pytest.raises(scsi.AnswerError):
            scsi.Capacity.parse(struct.pack(">QI20x", last, block))


def test_limits() -> None:
    b0 = bytes([0, 0xB0, 0, 60]) + struct.pack(">4xII4xII", 128, 64, 1000, 1)
    b2 = bytes([0, 0xB2, 0, 4, 0, 0x80])
    assert scsi.Limits.parse(b0, b2) == scsi.Limits(128, 1000, 64)
    assert scsi.Limits.parse(b0, b"").unmap_blocks == 0
    assert scsi.Limits.parse(b"", b"") == scsi.Limits()


def test_mode_page() -> None:
    assert scsi.ModeHeader.parse(bytes([22, 0, 0x90, 0, 8, 18, 4])) == scsi.ModeHeader(True, True, True)
    assert scsi.ModeHeader.parse(bytes([22, 0, 0, 2, 0, 0, 8, 18, 0])) == scsi.ModeHeader(False, False, False)
    assert scsi.ModeHeader.parse(bytes([3, 0, 0, 0])).write_cache is None


def test_reservations() -> None:
    assert scsi.Keys.parse(struct.pack(">IIQQ", 7, 16, 1, 2)) == scsi.Keys(7, (1, 2))
    assert scsi.Keys.parse(struct.pack(">IIQ", 7, 800, 1)) == scsi.Keys(7, (1,))
    assert scsi.Holder.parse(bytes(8)) is None
    assert scsi.Holder.parse(struct.pack(">IIQ5xB2x", 1, 16, 9, 0x05)) == scsi.Holder(9, 5)
    with pytest.raises(ValueError):
        scsi.reserve_parameters(1 << 64)


@given(st.binary(max_size=80))
def test_any_answer_is_read_or_refused(data: bytes) -> None:
    for parse in (scsi.Inquiry.parse, scsi.Capacity.parse, scsi.ModeHeader.parse, scsi.Keys.parse, scsi.Holder.parse):
        with contextlib.suppress(scsi.AnswerError):
            parse(data)
    scsi.Limits.parse(data, data)


def test_the_error_says_what_was_refused() -> None:
    conflict = scsi.ScsiError("WRITE", "url", 52, scsi.RESERVATION_CONFLICT)
    assert "fenced" in str(conflict)
    assert "05" not in str(conflict)
    assert "code 25/00" in str(scsi.ScsiError("READ", "url", 5, scsi.CHECK_CONDITION, 5, 0x2500))
