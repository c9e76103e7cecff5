"""Packs, unpacks and checks any structure of the table in spec.py.

Values are ints for numbers and raw bytes of the field's full width for strings, uuids and reserved space, so
that unpack and pack are exact inverses. Nothing here reads or writes a device.
"""

import errno
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from gfs2py.ondisk import _checksum
from gfs2py.ondisk import constants as c
from gfs2py.ondisk.spec import BY_METATYPE, Field, Kind, Structure, structure

Buffer = bytes | bytearray | memoryview
Value = int | bytes
Values = dict[str, Value]

_CODES = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q",
          (1, True): "b", (2, True): "h", (4, True): "i", (8, True): "q"}


class DamageError(OSError):
    """What was read from the disk is not what must stand there: errno EUCLEAN, and where and what it was."""

    def __init__(self, struct_name: str, field: str, wanted: str, found: str,
                 block: int | None = None) -> None:
        where = f"block {block} (0x{block:x}): " if block is not None else ""
        super().__init__(errno.EUCLEAN, f"{where}{struct_name}.{field}: wanted {wanted}, found {found}")
        self.struct_name = struct_name
        self.field = field
        self.wanted = wanted
        self.found = found
        self.block = block


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of check()."""

    struct_name: str
    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.struct_name}.{self.field}: wanted {self.wanted}, found {self.found}"


@cache
def _packer(name: str) -> struct.Struct:
    codes = [_CODES[f.width, f.kind is Kind.INT] if f.is_number else f"{f.width}s"
             for f in structure(name).fields]
    return struct.Struct(">" + "".join(codes))


@cache
def _defaults(name: str) -> Values:
    """What pack() puts where nothing is given."""
    st = structure(name)
    values: Values = {f.name: 0 if f.is_number else b"" for f in st.fields}
    if st.mh_type is not None and st.mh_format is not None:
        values |= {"mh_magic": c.GFS2_MAGIC, "mh_type": st.mh_type, "mh_format": st.mh_format}
    return values


def _structure(which: str | Structure) -> Structure:
    return which if isinstance(which, Structure) else structure(which)


def unpack(which: str | Structure, data: Buffer, at: int = 0) -> Values:
    """The fields of the structure at byte `at` of `data`. Raises DamageError if it does not fit."""
    st = _structure(which)
    view = memoryview(data)
    if at < 0 or view.nbytes - at < st.size:
        raise DamageError(st.name, "size", f"{st.size} bytes", f"{max(view.nbytes - at, 0)} bytes")
    return dict(zip((f.name for f in st.fields), _packer(st.name).unpack_from(view, at), strict=True))


def pack(which: str | Structure, values: Mapping[str, Value]) -> bytes:
    """The bytes of a structure. Fields not named are 0, except the header's magic, type and format.

    Raises KeyError for an unknown field and ValueError for a value that does not fit.
    """
    st = _structure(which)
    defaults = _defaults(st.name)
    if values.keys() <= defaults.keys():
        try:
            # Text is padded by the packer, but cut without a word: put() below refuses it.
            items = [values.get(name, default) for name, default in defaults.items()]
            if all(isinstance(v, int) or len(v) <= f.width for v, f in zip(items, st.fields, strict=True)):
                return _packer(st.name).pack(*items)
        except struct.error:
            pass  # put() finds out which field it is
    buf = bytearray(st.size)
    if st.mh_type is not None and st.mh_format is not None:
        put(st, buf, "mh_magic", c.GFS2_MAGIC)
        put(st, buf, "mh_type", st.mh_type)
        put(st, buf, "mh_format", st.mh_format)
    for name, value in values.items():
        put(st, buf, name, value)
    return bytes(buf)


def put(which: str | Structure, buf: bytearray | memoryview, name: str, value: Value, at: int = 0) -> None:
    """Stores one field of the structure at byte `at`. Raises KeyError, ValueError as pack()."""
    st = _structure(which)
    field = st.field(name)
    if isinstance(value, int):
        if not field.is_number:
            raise ValueError(f"{st.name}.{name} holds bytes, not a number")
        signed = field.kind is Kind.INT
        if signed and value >= 1 << (8 * field.width - 1):
            value -= 1 << (8 * field.width)  # a bit pattern was given
        try:
            raw = value.to_bytes(field.width, "big", signed=signed)
        except OverflowError:
            raise ValueError(f"{st.name}.{name} has {field.width} bytes: {value} does not fit") from None
    else:
        if field.is_number:
            raise ValueError(f"{st.name}.{name} is a number")
        if len(value) > field.width:
            raise ValueError(f"{st.name}.{name} has {field.width} bytes, {len(value)} were given")
        raw = value.ljust(field.width, b"\0")
    buf[at + field.offset:at + field.end] = raw


def get(which: str | Structure, data: Buffer, name: str, at: int = 0) -> Value:
    """One field of the structure at byte `at`. Raises KeyError, DamageError as unpack()."""
    st = _structure(which)
    field = st.field(name)
    raw = bytes(memoryview(data)[at + field.offset:at + field.end])
    if len(raw) != field.width:
        raise DamageError(st.name, name, f"{field.width} bytes", f"{len(raw)} bytes")
    return int.from_bytes(raw, "big", signed=field.kind is Kind.INT) if field.is_number else raw


def number(which: str | Structure, data: Buffer, name: str, at: int = 0) -> int:
    """One number; TypeError if the field is none."""
    return num({name: get(which, data, name, at)}, name)


def num(values: Mapping[str, Value], name: str) -> int:
    """A number out of what unpack() gave; TypeError if the field is none."""
    value = values[name]
    if not isinstance(value, int):
        raise TypeError(f"{name} is not a number")
    return value


def identify(data: Buffer) -> Structure | None:
    """Which structure stands at the start of this block by its magic and type; None for plain data."""
    view = memoryview(data)
    if view.nbytes < 24 or number("meta_header", view, "mh_magic") != c.GFS2_MAGIC:
        return None
    return BY_METATYPE.get(number("meta_header", view, "mh_type"))


def check(which: str | Structure, data: Buffer, at: int = 0, *, reserved: bool = False) -> list[Problem]:
    """What is wrong with the structure at byte `at` by the table: header, enums, masks, limits, checksums.

    `data` must reach to the end of the block for a log header, whose checksum covers it. With `reserved`,
    bytes that mean nothing must be zero too; no reader demands that.
    """
    st = _structure(which)
    values = unpack(st, data, at)
    found = [p for f in st.fields if (p := _check_field(st, f, values[f.name], reserved)) is not None]
    view = memoryview(data)[at:]
    found.extend(_check_sums(st, view, values))
    return found


def checked(which: str | Structure, data: Buffer, at: int = 0, block: int | None = None) -> Values:
    """unpack() of a structure that check() has nothing against. Raises DamageError with the first finding."""
    for p in check(which, data, at):
        raise DamageError(p.struct_name, p.field, p.wanted, p.found, block)
    return unpack(which, data, at)


def _check_field(st: Structure, field: Field, value: Value, reserved: bool) -> Problem | None:
    if not isinstance(value, int):
        if field.kind is Kind.RESERVED and reserved and any(value):
            return Problem(st.name, field.name, "zeros", value.hex())
        if field.kind is Kind.STRING and b"\0" not in value:
            return Problem(st.name, field.name, "a NUL at the end", repr(value))
        return None
    if field.name == "mh_type" and st.mh_type is not None and value != st.mh_type:
        return Problem(st.name, field.name, str(st.mh_type), str(value))
    if field.name == "mh_format" and st.mh_format is not None and value != st.mh_format:
        return Problem(st.name, field.name, str(st.mh_format), str(value))
    if field.values is not None and value not in field.values:
        return Problem(st.name, field.name, "one of " + ", ".join(field.values.values()),
                       f"0x{value:x}" if field.hexadecimal else str(value))
    if field.mask is not None and (strange := value & ~sum(field.mask)):
        return Problem(st.name, field.name, "known flags", f"0x{strange:x}")
    if field.maximum is not None and not 0 <= value <= field.maximum:
        return Problem(st.name, field.name, f"at most {field.maximum}", str(value))
    return None


def _check_sums(st: Structure, view: memoryview, values: Values) -> Iterator[Problem]:
    if st.name == "gfs2_rgrp":
        # Zero means a writer older than the field; readers of today let it pass.
        yield from _sum_differs(st, "rg_crc", values["rg_crc"], (0, _checksum.py_rgrp_crc(view)))
    elif st.name == "gfs2_log_header" and view.nbytes >= 512:
        lh_hash, lh_crc = _checksum.py_log_header_sums(view)
        yield from _sum_differs(st, "lh_hash", values["lh_hash"], (lh_hash,))
        yield from _sum_differs(st, "lh_crc", values["lh_crc"], (0, lh_crc))


def _sum_differs(st: Structure, field: str, found: Value, wanted: tuple[int, ...]) -> Iterator[Problem]:
    if isinstance(found, int) and found not in wanted:
        yield Problem(st.name, field, f"0x{wanted[-1]:x}", f"0x{found:x}")


def seal(which: str | Structure, block: bytearray | memoryview) -> None:
    """Puts the right checksums into the resource group header or log header that begins this block."""
    st = _structure(which)
    if st.name == "gfs2_rgrp":
        put(st, block, "rg_crc", _checksum.py_rgrp_crc(block))
    elif st.name == "gfs2_log_header":
        lh_hash, lh_crc = _checksum.py_log_header_sums(block)
        put(st, block, "lh_hash", lh_hash)
        put(st, block, "lh_crc", lh_crc)


def text(value: Value) -> str:
    """A NUL terminated string field as text; bytes that are no UTF-8 are shown as escapes."""
    raw = value if isinstance(value, bytes) else b""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
