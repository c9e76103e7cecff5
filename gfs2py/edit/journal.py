"""A journal as lines of text: its log headers and descriptors, and what they list.

The copies behind a descriptor never look like log headers or descriptors (data that does is escaped), so
every block that does is one. Revokes that go on in further blocks are listed with their descriptor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gfs2py.edit.reader import Inode, Reader, pointers
from gfs2py.edit.show import SIZEOF_LD, flag_names, show_descriptor
from gfs2py.ondisk import constants as c
from gfs2py.ondisk import structs
from gfs2py.ondisk.geometry import SIZEOF_META_HEADER
from gfs2py.ondisk.spec import LOG_DESCRIPTORS, structure
from gfs2py.ondisk.structs import num


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal ends: the valid log header with the highest sequence number."""

    lblock: int
    block: int
    sequence: int
    tail: int
    flags: int

    @property
    def clean(self) -> bool:
        return bool(self.flags & c.GFS2_LOG_HEAD_UNMOUNT)


def find_head(reader: Reader, inode: Inode) -> Head | None:
    """The newest valid log header; None if there is none at all."""
    best = None
    for lblock, addr, raw in reader.contents(reader.data_blocks(inode)):
        st = structs.identify(raw)
        if st is None or st.name != "gfs2_log_header" or structs.check(st, raw):
            continue
        values = structs.unpack(st, raw)
        if num(values, "lh_blkno") != lblock:
            continue
        sequence = num(values, "lh_sequence")
        if best is None or sequence > best.sequence:
            best = Head(lblock, addr, sequence, num(values, "lh_tail"), num(values, "lh_flags"))
    return best


def show_head(head: Head | None) -> str:
    if head is None:
        return "no valid log header"
    state = "clean" if head.clean else "dirty"
    return f"{state}, head at j+{head.lblock:x} (block {head.block}), sequence 0x{head.sequence:x}"


def show_journal(reader: Reader, inode: Inode, number: int) -> Iterator[str]:
    """Headers and descriptors in the order of the journal, then its state."""
    yield f"Dumping journal #{number}."
    for lblock, addr, raw in reader.contents(reader.data_blocks(inode)):
        st = structs.identify(raw)
        where = f"0x{addr:x} (j+{lblock:4x}): "
        match st.name if st else "":
            case "gfs2_log_header":
                yield where + _header(raw)
            case "gfs2_log_descriptor":
                yield where + _descriptor(raw)
                if structs.number("log_descriptor", raw, "ld_type") == c.GFS2_LOG_DESC_REVOKE:
                    yield from _revokes(reader, inode, lblock, raw)
                else:
                    yield from show_descriptor(raw)
    yield f"Journal #{number}: {show_head(find_head(reader, inode))}"


def _header(raw: bytes) -> str:
    values = structs.unpack("log_header", raw)
    flags = flag_names(structure("log_header").field("lh_flags"), num(values, "lh_flags"))
    wrong = "; ".join(str(p) for p in structs.check("log_header", raw))
    return (f"Log header: Seq: 0x{num(values, 'lh_sequence'):x}, tail: 0x{num(values, 'lh_tail'):x}, "
            f"blk: 0x{num(values, 'lh_blkno'):x} [{flags}]{' ! ' + wrong if wrong else ''}")


def _descriptor(raw: bytes) -> str:
    values = structs.unpack("log_descriptor", raw)
    kind = num(values, "ld_type")
    return (f"Log descriptor, type {kind} ({LOG_DESCRIPTORS.get(kind, '?')}), "
            f"len: {num(values, 'ld_length')}, data1: {num(values, 'ld_data1')}")


def _revokes(reader: Reader, inode: Inode, lblock: int, raw: bytes) -> Iterator[str]:
    """The revoked block numbers of a descriptor and its continuation blocks."""
    left = structs.number("log_descriptor", raw, "ld_data1")
    table = pointers(raw[SIZEOF_LD:])
    more = min(structs.number("log_descriptor", raw, "ld_length") - 1, reader.blocks)
    blocks = dict(reader.data_blocks(inode)) if more > 0 else {}
    for i in range(1, more + 1):
        addr = blocks.get((lblock + i) % len(blocks))
        if addr is None or len(table) >= left:
            break
        table += pointers(reader.block(addr)[SIZEOF_META_HEADER:])
    yield from (f"   revoked {block} (0x{block:x})" for block in table[:left])
