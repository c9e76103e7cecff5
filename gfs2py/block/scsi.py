"""SCSI commands as bytes: what is asked of a disk, and how its answers are read. No I/O.

Numbers are big-endian. Every length in an answer is checked against what came.
Source: SBC-3 (READ CAPACITY, Block Limits, Logical Block Provisioning), SPC-4 (INQUIRY, MODE SENSE, persistent
reservations).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum

CHECK_CONDITION, RESERVATION_CONFLICT = 0x02, 0x18
ILLEGAL_REQUEST, DATA_PROTECT = 5, 7
INVALID_OPCODE, INVALID_FIELD, NO_SUCH_LUN = 0x2000, 0x2400, 0x2500
ALLOCATION_BYTES = 252
TYPE_DISK = 0


class ScsiError(OSError):
    """A command that the target refused.

    errno: EBADE for a reservation conflict, ENODEV for a missing LUN, EOPNOTSUPP for a command that the target does not
    have, else EIO.
    """

    def __init__(self, what: str, name: str, code: int, status: int = 0, key: int = 0, ascq: int = 0) -> None:
        if status == RESERVATION_CONFLICT:
            text = f"{what}: reservation conflict (this node is not registered: fenced)"
        elif status == CHECK_CONDITION:
            text = f"{what}: refused (sense key {key:x}, code {ascq >> 8:02x}/{ascq & 255:02x})"
        else:
            text = f"{what}: SCSI status {status:02x}"
        super().__init__(code, text, name)
        self.status, self.key, self.ascq = status, key, ascq


class AnswerError(OSError):
    """An answer that makes no sense; EIO."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EIO, why)


def _want(data: bytes, n: int, what: str) -> None:
    if len(data) < n:
        raise AnswerError(f"{what}: {len(data)} bytes came, at least {n} were wanted")


# -- what a disk is ---------------------------------------------------------------------------------------------------

def inquiry(page: int | None = None) -> bytes:
    """INQUIRY, of a page of vital product data or the standard one."""
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, ALLOCATION_BYTES, 0)


def read_capacity16() -> bytes:
    return struct.pack(">BBQIH", 0x9E, 0x10, 0, 32, 0)


def mode_sense6(page: int) -> bytes:
    """MODE SENSE(6) without block descriptors."""
    return struct.pack(">BBBBBB", 0x1A, 0x08, page, 0, 192, 0)


def synchronize_cache10() -> bytes:
    return struct.pack(">BBIBHB", 0x35, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """The standard answer."""

    device_type: int
    vendor: str
    product: str

    @classmethod
    def parse(cls, data: bytes) -> Inquiry:
        _want(data, 36, "INQUIRY")
        return cls(data[0] & 0x1F, data[8:16].decode("latin-1").strip(), data[16:32].decode("latin-1").strip())

    @property
    def present(self) -> bool:
        return self.device_type != 0x1F


@dataclass(frozen=True, slots=True)
class Capacity:
    """READ CAPACITY(16)."""

    blocks: int
    block_bytes: int
    physical_bytes: int
    thin: bool              # LBPME: blocks can be given back

    @classmethod
    def parse(cls, data: bytes) -> Capacity:
        _want(data, 16, "READ CAPACITY")
        last, block, _, exponent, flags = struct.unpack(">QIBBB", data[:15])
        if block < 512 or block > 65536 or block & (block - 1):
            raise AnswerError(f"READ CAPACITY: block length of {block} bytes")
        if last >= (1 << 64) // block - 1:
            raise AnswerError(f"READ CAPACITY: last block {last}")
        return cls(last + 1, block, block << (exponent & 0xF), bool(flags & 0x80))


@dataclass(frozen=True, slots=True)
class Limits:
    """The pages B0 (Block Limits) and B2 (Logical Block Provisioning); 0: no limit given."""

    transfer_blocks: int = 0
    unmap_blocks: int = 0       # 0: no UNMAP
    optimal_blocks: int = 0

    @classmethod
    def parse(cls, b0: bytes, b2: bytes) -> Limits:
        """Of answers that may be empty: not every disk has the pages."""
        transfer = unmap = optimal = descriptors = 0
        if len(b0) >= 16 and b0[1] == 0xB0:
            transfer, optimal = struct.unpack(">II", b0[8:16])
        if len(b0) >= 28 and b0[1] == 0xB0:
            unmap, descriptors = struct.unpack(">II", b0[20:28])
        offered = len(b2) >= 6 and b2[1] == 0xB2 and bool(b2[5] & 0x80)
        return cls(transfer, unmap if offered and descriptors else 0, optimal)


@dataclass(frozen=True, slots=True)
class ModeHeader:
    """MODE SENSE(6) of the caching page: what the disk says about writes."""

    write_protected: bool
    fua: bool
    write_cache: bool | None        # None: it does not say

    @classmethod
    def parse(cls, data: bytes) -> ModeHeader:
        _want(data, 4, "MODE SENSE")
        page = data[4 + data[3]:]
        known = len(page) >= 3 and page[0] & 0x3F == 0x08
        return cls(bool(data[2] & 0x80), bool(data[2] & 0x10), bool(page[2] & 0x04) if known else None)


# -- persistent reservations ------------------------------------------------------------------------------------------

class Reservation(IntEnum):
    """Types of persistent reservations."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


class ReserveOut(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE = 6


@dataclass(frozen=True, slots=True)
class Keys:
    """READ KEYS. The generation counts changes and begins at 0 when the target starts."""

    generation: int
    keys: tuple[int, ...]

    @classmethod
    def parse(cls, data: bytes) -> Keys:
        _want(data, 8, "READ KEYS")
        generation, length = struct.unpack(">II", data[:8])
        length = min(length, len(data) - 8) // 8
        return cls(generation, struct.unpack(f">{length}Q", data[8:8 + 8 * length]))


@dataclass(frozen=True, slots=True)
class Holder:
    """READ RESERVATION: the key that holds it (0 with the types of all registrants) and its type."""

    key: int
    type: int

    @classmethod
    def parse(cls, data: bytes) -> Holder | None:
        _want(data, 8, "READ RESERVATION")
        if struct.unpack(">I", data[4:8])[0] == 0:
            return None
        _want(data, 24, "READ RESERVATION")
        return cls(struct.unpack(">Q", data[8:16])[0], data[21] & 0x0F)


def reserve_in(action: int, length: int) -> bytes:
    """PERSISTENT RESERVE IN: 0 READ KEYS, 1 READ RESERVATION."""
    return struct.pack(">BB5xHB", 0x5E, action, length, 0)


def reserve_out(action: ReserveOut, kind: int = 0) -> bytes:
    """PERSISTENT RESERVE OUT with the parameters of reserve_parameters()."""
    return struct.pack(">BBB2xIB", 0x5F, action, kind, 24, 0)


def reserve_parameters(key: int, service_key: int = 0) -> bytes:
    """Raises ValueError for keys that do not fit 64 bits."""
    for one in (key, service_key):
        if not 0 <= one < 1 << 64:
            raise ValueError(f"reservation key {one:#x} does not fit into 64 bits")
    return struct.pack(">QQ8x", key, service_key)
