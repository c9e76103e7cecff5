"""Any structure, any block as lines of text, by the table of the format.

Source for the looks: gfs2_edit(8) of gfs2-utils.
"""

import stat
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial

from gfs2py.edit.reader import (
    SIZEOF_DIRENT,
    SIZEOF_LEAF,
    SIZEOF_RINDEX,
    Dirent,
    Inode,
    Reader,
    pointers,
)
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.geometry import SIZEOF_DINODE, SIZEOF_META_HEADER, SIZEOF_RGRP
from gfs2py.ondisk.spec import DIRENT_TYPES, EA_TYPES, Field, Kind, Structure, Unit, structure
from gfs2py.ondisk.structs import DamageError, Value, num

RULE = "-" * 54
SIZEOF_LD = 72
SIZEOF_EA_HEADER = 16
TYPE_NAMES = {1: "Fifo", 2: "CharDev", 4: "Dir", 6: "BlkDev", 8: "File", 10: "Symlnk", 12: "Socket"}
EA_PREFIX = {"USR": "user.", "SYS": "system.", "SECURITY": "security.", "TRUSTED": "trusted."}
STATES = ("free", "used", "unlinked", "dinode")

Lines = Iterator[str]


def flag_names(field: Field, value: int) -> str:
    """The names of the bits that are set, and what has no name as a number."""
    assert field.mask is not None
    names = [name for bit, name in field.mask.items() if value & bit]
    rest = value & ~sum(field.mask)
    return "/".join(names + ([f"0x{rest:x}"] if rest else []))


def note(field: Field, value: int) -> str:
    """What a number means, where a number alone says little."""
    if field.mask is not None:
        return flag_names(field, value)
    if field.values is not None and not field.hexadecimal:
        name = field.values.get(value, "?")
        return "" if name == str(value) else name
    match field.unit:
        case Unit.SECS if value:
            try:
                return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
            except (OverflowError, ValueError, OSError):
                return "no time"
        case Unit.MODE:
            return f"0{value:o} {stat.filemode(value)}"
    return ""


def show_value(field: Field, value: Value) -> str:
    """One field's value: decimal, hexadecimal, meaning."""
    if not isinstance(value, int):
        if field.kind is Kind.UUID:
            return str(uuid.UUID(bytes=value))
        return structs.text(value) if field.kind is Kind.STRING else value.hex()
    pattern = value & (1 << 8 * field.width) - 1
    if field.hexadecimal:
        return f"0x{pattern:0{2 * field.width}x}"
    return f"{value:<20}0x{pattern:<18x}{note(field, value)}".rstrip()


def show_struct(which: str | Structure, data: bytes, at: int = 0) -> Lines:
    """Every field but reserved space."""
    st = which if isinstance(which, Structure) else structure(which)
    values = structs.unpack(st, data, at)
    for field in st.fields:
        if field.kind is not Kind.RESERVED:
            yield f"  {field.name:<28}{show_value(field, values[field.name])}".rstrip()


def hexdump(data: bytes, base: int = 0) -> Lines:
    """16 bytes a line; runs of equal lines are shown by a star."""
    last, starred = b"", False
    for at in range(0, len(data), 16):
        part = data[at:at + 16]
        if part == last and at + 16 < len(data):
            if not starred:
                yield "*"
            starred = True
            continue
        last, starred = part, False
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        yield f"  {base + at:08x}  {part[:8].hex(' '):<24} {part[8:].hex(' '):<24} [{text}]"


def show_dirent(index: int, of: int, e: Dirent) -> str:
    name = e.name.decode("utf-8", "backslashreplace")
    kind = TYPE_NAMES.get(e.type, DIRENT_TYPES.get(e.type, f"?{e.type}"))
    return (f"   {index}/{of} [{e.hash:08X}] {e.formal_ino}/{e.addr} (0x{e.formal_ino:x}/0x{e.addr:x}) "
            f"+{e.at}: {kind:<7} {name}")


def show_dirents(reader: Reader, block: int, raw: bytes, at: int) -> Lines:
    """The entries of one block, as far as they can be followed."""
    found = []
    problem = ""
    try:
        for e in reader.dirents_in(block, raw, at):
            found.append(e)
    except DamageError as error:
        problem = f"  ! {error.strerror}"
    yield f"Directory block: {len(found)} entries"
    yield from (show_dirent(i, len(found), e) for i, e in enumerate(found, 1))
    if problem:
        yield problem


def show_pointers(data: bytes, what: str = "points to") -> Lines:
    """The pointers that are set; consecutive ones as one line."""
    table = pointers(data)
    i = 0
    while i < len(table):
        if not table[i]:
            i += 1
            continue
        n = 1
        while i + n < len(table) and table[i + n] == table[i] + n:
            n += 1
        if n == 1:
            yield f"   {i} {what} {table[i]} (0x{table[i]:x})"
        else:
            yield (f"   {i}-{i + n - 1} {what} {table[i]}-{table[i] + n - 1} "
                   f"(0x{table[i]:x}-0x{table[i] + n - 1:x})")
        i += n


def show_hash_table(table: list[int]) -> Lines:
    """Which part of the hashes each leaf holds."""
    i = 0
    while i < len(table):
        n = 1
        while i + n < len(table) and table[i + n] == table[i]:
            n += 1
        yield f"   {i}-{i + n - 1} (0x{i:x}-0x{i + n - 1:x}): leaf {table[i]} (0x{table[i]:x})"
        i += n


def show_records(name: str, data: bytes, label: Callable[[int], str], skip_empty: bool = False) -> Lines:
    """A file or block that is an array of one structure."""
    size = structure(name).size
    for i in range(len(data) // size):
        if not skip_empty or any(data[i * size:(i + 1) * size]):
            yield label(i)
            yield from show_struct(name, data, i * size)


def _quota_label(i: int) -> str:
    return f"{'group' if i & 1 else 'user'} {i >> 1}"


def _slot_label(block: int, i: int) -> str:
    return f"block {block} slot {i}"


def show_system_data(name: str, data: bytes) -> Lines | None:
    """The content of a system file by its name; None if the name is none of theirs."""
    base = name.rstrip("0123456789")
    match base:
        case "inum":
            return iter([f"Next inode num = {int.from_bytes(data[:8], 'big')}"])
        case "statfs" | "statfs_change":
            return show_struct("statfs_change", data)
        case "inum_range":
            return show_struct("inum_range", data)
        case "rindex":
            return _head(f"RG index entries found: {len(data) // SIZEOF_RINDEX}.",
                         show_records("rindex", data, lambda i: f"RG #{i}"))
        case "quota":
            return _head("quota file contents:", show_records("quota", data, _quota_label, skip_empty=True))
    return None


def _head(first: str, rest: Lines) -> Lines:
    yield first
    yield from rest


def show_inode(reader: Reader, inode: Inode, name: str = "") -> Lines:
    """What hangs on a dinode: entries, hash table, pointers, content."""
    if inode.is_dir:
        if not inode.is_hashed:
            yield from show_dirents(reader, inode.addr, inode.block, SIZEOF_DINODE)
            return
        if inode.height:
            yield "Indirect pointers:"
            yield from show_pointers(inode.block[SIZEOF_DINODE:])
        table = pointers(reader.data(inode))
        yield f"Hash table of {len(table)} slots:"
        yield from show_hash_table(table)
        for addr, raw in reader.leaves(inode):
            yield f"Leaf {addr} (0x{addr:x}):"
            yield from show_dirents(reader, addr, raw, SIZEOF_LEAF)
        return
    if inode.height:
        yield f"Pointers (height {inode.height}):"
        yield from show_pointers(inode.block[SIZEOF_DINODE:])
    known = show_system_data(name, reader.data(inode)) if name else None
    if known is not None:
        yield from known
    elif name.startswith("quota_change"):
        for lblock, addr in reader.data_blocks(inode):
            raw = reader.block(addr)[SIZEOF_META_HEADER:]
            yield from show_records("quota_change", raw, partial(_slot_label, lblock), skip_empty=True)
    elif inode.height == 0 and inode.size:
        if stat.S_ISLNK(inode.mode):
            yield "Symlink to " + reader.data(inode).decode("utf-8", "backslashreplace")
        else:
            yield "Stuffed data:"
            yield from hexdump(reader.data(inode), SIZEOF_DINODE)


def show_xattrs(raw: bytes) -> Lines:
    """The records of an extended attribute block."""
    at = SIZEOF_META_HEADER
    while at < len(raw):
        values = structs.unpack("ea_header", raw, at)
        rec_len, name_len = num(values, "ea_rec_len"), num(values, "ea_name_len")
        if rec_len < SIZEOF_EA_HEADER or rec_len % 8 or at + rec_len > len(raw):
            yield f"  ! record at byte {at}: ea_rec_len is {rec_len}, there are {len(raw) - at} bytes"
            return
        kind = EA_TYPES.get(num(values, "ea_type"), "?")
        start = at + SIZEOF_EA_HEADER
        name = raw[start:start + name_len].decode("utf-8", "backslashreplace")
        yield f"Attribute at +{at}: {EA_PREFIX.get(kind, kind + ' ')}{name if kind != 'UNUSED' else ''}"
        yield from show_struct("ea_header", raw, at)
        count = num(values, "ea_num_ptrs")
        after = start + name_len
        if kind != "UNUSED" and count:
            after = (after + 7) & ~7
            yield from show_pointers(raw[after:after + 8 * count], "value in")
        elif kind != "UNUSED":
            length = min(num(values, "ea_data_len"), at + rec_len - after)
            yield from hexdump(raw[after:after + length], after)
        if num(values, "ea_flags") & c.GFS2_EAFLAG_LAST:
            return
        at += rec_len


def show_descriptor(raw: bytes) -> Lines:
    """The block numbers that a log descriptor lists."""
    kind = structs.number("log_descriptor", raw, "ld_type")
    count = structs.number("log_descriptor", raw, "ld_data1")
    table = pointers(raw[SIZEOF_LD:])
    if kind == c.GFS2_LOG_DESC_JDATA:
        pairs = zip(table[::2], table[1::2], strict=False)
        for _, (block, escaped) in zip(range(count), pairs, strict=False):
            yield f"   {block} (0x{block:x}){' escaped' if escaped else ''}"
    else:
        yield from (f"   {block} (0x{block:x})" for block in table[:count])


def bitmap_counts(reader: Reader, addr: int) -> dict[str, int]:
    """How many blocks of the group at `addr` are in which state, by its bitmap."""
    bitbytes = structs.number("rgrp", reader.block(addr), "rg_bitbytes")
    most = reader.blocks // c.GFS2_NBBY
    if bitbytes > most:
        raise DamageError("gfs2_rgrp", "rg_bitbytes", f"at most {most}", str(bitbytes), addr)
    counts = [0, 0, 0, 0]
    for i, (offset, _, length) in enumerate(reader.geo.bitmap_layout(bitbytes)):
        part = reader.block(addr + i)[offset:offset + length]
        for byte in range(256):
            if n := part.count(byte):
                for slot in range(4):
                    counts[byte >> 2 * slot & 3] += n
    return dict(zip(STATES, counts, strict=True))


def show_payload(reader: Reader, addr: int, raw: bytes, st: Structure, name: str) -> Lines:
    """What follows the structure that begins a block."""
    match st.name:
        case "gfs2_dinode":
            yield from show_inode(reader, reader.inode(addr), name)
        case "gfs2_rgrp":
            counts = bitmap_counts(reader, addr)
            yield "Bitmap: " + ", ".join(f"{n} {state}" for state, n in counts.items())
        case "gfs2_rgrp_bitmap":
            yield from hexdump(raw[SIZEOF_META_HEADER:], SIZEOF_META_HEADER)
        case "gfs2_leaf":
            yield from show_dirents(reader, addr, raw, SIZEOF_LEAF)
        case "gfs2_indirect":
            yield from show_pointers(raw[SIZEOF_META_HEADER:])
        case "gfs2_jdata":
            yield from show_hash_table(pointers(raw[SIZEOF_META_HEADER:]))
        case "gfs2_ea_attr":
            yield from show_xattrs(raw)
        case "gfs2_log_descriptor":
            yield from show_descriptor(raw)
        case "gfs2_log_block":
            yield from (f"   revoked {p} (0x{p:x})" for p in pointers(raw[SIZEOF_META_HEADER:]) if p)
        case "gfs2_quota_change_block":
            yield from show_records("quota_change", raw[SIZEOF_META_HEADER:], lambda i: f"slot {i}",
                                    skip_empty=True)
        case "gfs2_ea_data":
            yield from hexdump(raw[SIZEOF_META_HEADER:], SIZEOF_META_HEADER)


def block_title(reader: Reader, addr: int, raw: bytes) -> str:
    st = structs.identify(raw)
    return (f"Block #{addr}    (0x{addr:x}) of {reader.blocks} (0x{reader.blocks:x}) "
            f"({st.title if st else 'data'})")


def show_block(reader: Reader, addr: int, name: str = "") -> Lines:
    """A whole block: title, fields, what the table finds wrong, what follows; `name` is a system file's."""
    raw = reader.block(addr)
    st = structs.identify(raw)
    yield block_title(reader, addr, raw)
    yield ""
    if st is None:
        yield from hexdump(raw)
        yield RULE
        return
    yield f"{st.title.capitalize()}:"
    yield from show_struct(st, raw)
    problems = structs.check(st, raw)
    yield from (f"  ! {p}" for p in problems)
    if not any(p.field.startswith("mh_") for p in problems):
        try:
            yield from show_payload(reader, addr, raw, st, name)
        except DamageError as e:
            yield f"  ! {e.strerror}"
    yield RULE


def show_rgrp(reader: Reader, index: int, addr: int) -> Lines:
    """One resource group of the list."""
    raw = reader.block(addr)
    yield f"RG #{index} located at: {addr} (0x{addr:x})"
    yield from show_struct("rgrp", raw[:SIZEOF_RGRP])
    yield from (f"  ! {p}" for p in structs.check("rgrp", raw))


assert structure("dirent").size == SIZEOF_DIRENT
