"""gfs2_edit: print what is on a GFS2 disk, block by block, and change a value to test other programs.

The printing part of gfs2_edit(8) of gfs2-utils; there is no interactive editor. Exit status: 0, or 1 with one
line that says what was wrong.
"""

import os
import sys
from collections.abc import Iterator, Sequence

from gfs2py.block._device import BlockDevice
from gfs2py.block.opening import open_device as open_source
from gfs2py.edit import patch, targets
from gfs2py.edit.reader import Reader
from gfs2py.edit.show import show_value
from gfs2py.edit.targets import Target, UnknownTarget
from gfs2py.ondisk import structs
from gfs2py.ondisk.structs import DamageError

USAGE = """Usage: gfs2_edit [-x] [identify] [-p STRUCTURE|BLOCK ...] DEVICE
       gfs2_edit rgcount DEVICE
       gfs2_edit rgflags NUMBER [VALUE] DEVICE

-p prints; without a structure or block, the superblock:
   sb                   the superblock
   size                 the size of the device
   root, master         the root directory, the directory of the system files
   jindex, per_node     system directories
   inum, statfs, rindex, quota, inum_rangeN, statfs_changeN, quota_changeN
                        system files
   rg N, rgs            one resource group, all of them
   journalN, journals   the log headers and descriptors of a journal, the state of all journals
   /path                the inode of a file or directory
   1234, 0x4d2          a block
and behind one of these:
   blocktype            the type of the block
   blockalloc [0-3]     print or change its state in the bitmap (free, used, unlinked, inode)
   blockbits            the block with that part of the bitmap
   blockrg              the resource group the block lies in
   field NAME [VALUE]   print or change a field of the structure that stands there
   find TYPE            the next block of type sb rg rb di in lf jd lh ld ea ed lb qc
-x  print in hexadecimal
-h  this help
-V  the version"""
MODIFIERS = ("blocktype", "blockalloc", "blockbits", "blockrg", "field", "find")


class UsageError(Exception):
    pass


def open_device(path: str, *, write: bool) -> BlockDevice:
    return open_source(path, readonly=not write, direct=False, exclusive=write)


def parse_value(text: str) -> int | bytes:
    """A number, decimal or 0x; anything else is text."""
    try:
        return int(text, 0)
    except ValueError:
        return text.encode()


class Words:
    """The words between -p and the device, taken one by one."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.at = 0

    def peek(self) -> str | None:
        return self.words[self.at] if self.at < len(self.words) else None

    def take(self, what: str) -> str:
        word = self.peek()
        if word is None:
            raise UsageError(f"{what} is missing")
        self.at += 1
        return word

    def take_value(self) -> str | None:
        """The next word if it can be a value; a word that starts something new is none."""
        word = self.peek()
        if word is None or word in MODIFIERS:
            return None
        self.at += 1
        return word


def wants_write(words: list[str]) -> bool:
    """Whether a value follows `field NAME` or `blockalloc`."""
    w = Words(words)
    while (word := w.peek()) is not None:
        w.at += 1
        if word == "field":
            w.take("the name of a field")
            if w.take_value() is not None:
                return True
        elif word == "blockalloc" and w.take_value() is not None:
            return True
    return False


def run_print(dev: BlockDevice, words: list[str], *, as_hex: bool, identify: bool) -> Iterator[str]:
    """Each target, with what is asked of it. Raises UnknownTarget, UsageError, DamageError."""
    reader = Reader(dev, lenient=True)
    w = Words(words or ["sb"])
    while (word := w.peek()) is not None:
        w.at += 1
        if word in MODIFIERS:
            raise UsageError(f"{word} must follow a structure or block")
        if word == "rg":
            target = targets.rgrp_target(reader, w.take("the number of a resource group"))
        else:
            target = targets.find_target(reader, word)
        asked = False
        while w.peek() in MODIFIERS:
            asked = True
            yield from modify(dev, reader, target, w)
        if identify and not asked:
            yield f"Block {target.block} is type {targets.type_name(reader.block(target.block))}"
        elif not asked:
            yield from targets.show_target(reader, target, as_hex=as_hex)


def modify(dev: BlockDevice, reader: Reader, target: Target, w: Words) -> Iterator[str]:
    """One of the words that may follow a target."""
    block = target.block
    match w.take(""):
        case "blocktype":
            kind = targets.type_name(reader.block(block))
            yield f"{kind.split(' ')[0]} (Block {block} is type {kind.replace(' (', ': ').rstrip(')')})"
        case "blockrg":
            yield str(targets.rgrp_of(reader, block)[0])
        case "blockbits":
            addr, data0 = targets.rgrp_of(reader, block)
            yield str(patch.bitmap_state_at(reader.bsize, addr, data0, block)[0])
        case "blockalloc":
            yield block_alloc(dev, reader, block, w.take_value())
        case "find":
            yield str(targets.find_next(reader, block, w.take("the type to find")))
        case "field":
            yield field(dev, reader, target, w.take("the name of a field"), w.take_value())


def block_alloc(dev: BlockDevice, reader: Reader, block: int, value: str | None) -> str:
    names = ("Free", "Data", "Unlinked", "Metadata")
    addr, data0 = targets.rgrp_of(reader, block)
    if value is None:
        where, byte, shift = patch.bitmap_state_at(reader.bsize, addr, data0, block)
        state = reader.block(where)[byte] >> shift & 3
        return f"{state} ({names[state]})"
    if value not in ("0", "1", "2", "3"):
        raise UsageError(f"blockalloc wants a state from 0 to 3, not {value!r}")
    patch.patch_bitmap(dev, addr, block, int(value))
    return value


def field(dev: BlockDevice, reader: Reader, target: Target, name: str, value: str | None) -> str:
    st = targets.structure_at(reader, target.block)
    try:
        what = st.field(name)
    except KeyError:
        raise UnknownTarget(f"No field {name!r} in block type {st.name!r}") from None
    if value is not None:
        given = parse_value(value)
        if what.is_number != isinstance(given, int):
            given = value.encode()
        patch.patch_field(dev, target.block, st.name, name, given, bsize=reader.bsize)
    now = structs.get(st, reader.block(target.block), name)
    return str(now) if isinstance(now, int) else show_value(what, now)


def rgflags(path: str, words: list[str]) -> Iterator[str]:
    """Prints rg_flags of one group or of all, or sets them."""
    if len(words) > 2:
        raise UsageError("rgflags wants the number of a resource group and perhaps a value")
    with open_device(path, write=len(words) == 2) as dev:
        reader = Reader(dev)
        if len(words) == 2:
            try:
                flags = int(words[1], 0)
            except ValueError:
                raise UsageError(f"{words[1]!r} is no number") from None
            group = targets.rgrp_target(reader, words[0])
            patch.patch_field(dev, group.block, "rgrp", "rg_flags", flags, seal=True)
        addrs = targets.rgrp_addrs(reader)
        which = [targets.rgrp_target(reader, words[0]).index] if words else range(len(addrs))
        for i in which:
            flags = structs.number("rgrp", reader.block(addrs[i]), "rg_flags")
            yield f"RG #{i} (block {addrs[i]} / 0x{addrs[i]:x}) rg_flags = 0x{flags:08x}"


def run(argv: list[str]) -> Iterator[str]:
    """The lines of the output. Raises what main() reports."""
    as_hex = identify = False
    words = list(argv)
    while words and words[0] in ("-x", "-d", "identify", "-p", "-h", "-help", "--help", "-usage", "-V"):
        word = words.pop(0)
        if word in ("-h", "-help", "--help", "-usage"):
            yield USAGE
            return
        if word == "-V":
            from importlib.metadata import version  # slow to load, and nobody else needs it
            yield f"gfs2_edit {version('gfs2py')}"
            return
        as_hex = as_hex or word == "-x"
        identify = identify or word == "identify"
    if not words:
        raise UsageError("no device was given")
    path = words.pop()
    if words and words[0] in ("rgcount", "rgflags"):
        if words.pop(0) == "rgflags":
            yield from rgflags(path, words)
            return
        with open_device(path, write=False) as dev:
            yield f"{len(targets.rgrp_addrs(Reader(dev)))} RGs in this file system."
        return
    if words and words[0].startswith("-"):
        raise UsageError(f"unknown option {words[0]}")
    write = wants_write(words)
    with open_device(path, write=write) as dev:
        yield from run_print(dev, words, as_hex=as_hex, identify=identify)
        if write:
            dev.flush()


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    device = given[-1] if given else ""
    try:
        for line in run(given):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0
    except UsageError as e:
        print(f"gfs2_edit: {e}\n{USAGE}", file=sys.stderr)
        return 1
    except DamageError as e:
        print(f"gfs2_edit: {device}: {e.strerror}", file=sys.stderr)
        return 1
    except (UnknownTarget, ValueError) as e:
        print(f"gfs2_edit: {device}: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"gfs2_edit: {device}: {e.strerror or e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
