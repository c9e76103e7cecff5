"""What the words of `gfs2_edit -p` stand for: blocks by name, number or path, and how each is printed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gfs2py.edit.journal import find_head, show_head, show_journal
from gfs2py.edit.reader import Reader
from gfs2py.edit.show import RULE, hexdump, show_block, show_rgrp
from gfs2py.ondisk import structs
from gfs2py.ondisk.spec import BY_METATYPE, Structure
from gfs2py.ondisk.structs import num

MASTER_FILES = ("jindex", "per_node", "inum", "statfs", "rindex", "quota")
ALIASES = {"superblock": "sb", "rgindex": "rindex"}
TITLES = {"root": "Root directory", "master": "Master directory", "jindex": "Journal index",
          "per_node": "Per-node directory", "inum": "Inum file", "statfs": "statfs file",
          "rindex": "rindex file", "quota": "Quota file"}
FIND_TYPES = {"none": 0, "sb": 1, "rg": 2, "rb": 3, "di": 4, "in": 5, "lf": 6, "jd": 7, "lh": 8, "ld": 9,
              "ea": 10, "ed": 11, "lb": 12, "13": 13, "qc": 14}


class UnknownTarget(Exception):
    """A word that means nothing here; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to print: a block, or a list that is made of several (`block` is then where it begins)."""

    word: str
    block: int
    name: str = ""  # of a system file, without its directory
    kind: str = "block"  # block, rgs, journal, journals, size
    index: int = 0


def rgrp_addrs(reader: Reader) -> list[int]:
    return [num(ri, "ri_addr") for ri in reader.rindex()]


def rgrp_target(reader: Reader, text: str) -> Target:
    """Resource group number `text`. Raises UnknownTarget."""
    reader.require_superblock()
    addrs = rgrp_addrs(reader)
    if not text.isdecimal() or int(text) >= len(addrs):
        raise UnknownTarget(f"there is no resource group {text}; the last one is {len(addrs) - 1}")
    return Target(f"rg {text}", addrs[int(text)], kind="rg", index=int(text))


def find_target(reader: Reader, word: str) -> Target:
    """The target that a word names. Raises UnknownTarget, DamageError."""
    word = ALIASES.get(word, word)
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", word):
        block = int(word, 16 if word[:2] in ("0x", "0X") else 10)
        if block >= reader.blocks:
            raise UnknownTarget(f"block {block} (0x{block:x}) lies behind the end of the device; the last "
                                f"one is {reader.blocks - 1}")
        return Target(word, block)
    if word == "sb":
        return Target(word, reader.geo.sb_block)
    reader.require_superblock()
    match word:
        case "root":
            return Target(word, reader.root_addr, "root")
        case "master":
            return Target(word, reader.master_addr, "master")
        case "rgs" | "journals" | "size":
            return Target(word, 0, kind=word)
    if word in MASTER_FILES:
        return Target(word, reader.system(word).addr, word)
    try:
        if found := re.fullmatch(r"journal([0-9]+)", word):
            inode = reader.system(f"jindex/{word}")
            return Target(word, inode.addr, kind="journal", index=int(found[1]))
        if re.fullmatch(r"(inum_range|statfs_change|quota_change)[0-9]+", word):
            return Target(word, reader.system(f"per_node/{word}").addr, word)
        if word.startswith(("jindex/", "per_node/")):
            return Target(word, reader.system(word).addr, word.rsplit("/", 1)[1])
        if word.startswith("/"):
            return Target(word, reader.path(word).addr)
    except FileNotFoundError as e:
        raise UnknownTarget(f"{word}: there is no {e.filename!r}") from None
    raise UnknownTarget(f"I don't know what {word!r} means.")


def show_target(reader: Reader, target: Target, *, as_hex: bool = False) -> Iterator[str]:
    """The lines for one target."""
    match target.kind:
        case "size":
            yield f"Device size: {reader.blocks} blocks of {reader.bsize} bytes"
        case "rgs":
            addrs = rgrp_addrs(reader)
            yield f"RG index entries found: {len(addrs)}."
            for i, addr in enumerate(addrs):
                yield from show_rgrp(reader, i, addr)
            yield RULE
        case "rg" if not as_hex:
            yield from show_rgrp(reader, target.index, target.block)
        case "journals":
            yield from show_journals(reader)
        case "journal" if not as_hex:
            yield from show_journal(reader, reader.inode(target.block), target.index)
        case _ if as_hex:
            yield f"Block #{target.block}    (0x{target.block:x})"
            yield from hexdump(reader.block(target.block))
        case _:
            if target.name in TITLES:
                yield f" {TITLES[target.name]} ".center(49, "-")
            yield from show_block(reader, target.block, target.name)


def show_journals(reader: Reader) -> Iterator[str]:
    """One line for each journal."""
    entries = [e for e in reader.dirents(reader.system("jindex")) if e.name not in (b".", b"..")]
    for entry in sorted(entries, key=lambda e: (len(e.name), e.name)):
        inode = reader.inode(entry.addr)
        yield (f"{entry.name.decode(errors='backslashreplace')}: inode {entry.addr}, {inode.size >> 20}MB, "
               f"{show_head(find_head(reader, inode))}")


def rgrp_of(reader: Reader, block: int) -> tuple[int, int]:
    """(address of the resource group, its first data block) that `block` lies in. Raises UnknownTarget."""
    for ri in reader.rindex():
        addr, data0 = num(ri, "ri_addr"), num(ri, "ri_data0")
        if addr <= block < data0 + num(ri, "ri_data"):
            return addr, data0
    raise UnknownTarget(f"block {block} (0x{block:x}) lies in no resource group")


def structure_at(reader: Reader, block: int) -> Structure:
    """What stands at a block. Raises UnknownTarget for plain data."""
    st = structs.identify(reader.block(block))
    if st is None:
        raise UnknownTarget(f"block {block} (0x{block:x}) holds no metadata")
    return st


def find_next(reader: Reader, start: int, word: str) -> int:
    """The first block behind `start` that has this metadata type. Raises UnknownTarget."""
    if word not in FIND_TYPES:
        raise UnknownTarget(f"I don't know what to find: {word!r} is none of {', '.join(FIND_TYPES)}")
    wanted = FIND_TYPES[word]
    step = max((1 << 20) // reader.bsize, 1)
    for first in range(start + 1, reader.blocks, step):
        count = min(step, reader.blocks - first)
        data = reader.dev.read(first * reader.bsize, count * reader.bsize)
        at = 0
        while (at := data.find(b"\x01\x16\x19\x70", at)) >= 0:
            if at % reader.bsize == 0 and int.from_bytes(data[at + 4:at + 8], "big") == wanted:
                return first + at // reader.bsize
            at += 1
    raise UnknownTarget(f"there is no {word} block behind {start}")


def type_name(raw: bytes) -> str:
    st = structs.identify(raw)
    if st is None or st.mh_type not in BY_METATYPE:
        return "0 (no metadata)"
    return f"{st.mh_type} ({st.title})"
