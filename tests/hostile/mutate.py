"""Draws the damage of a case: from a seed and a number always the same patches of the same base image."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gfs2py.block import MemoryDevice
from gfs2py.ondisk import structs
from gfs2py.ondisk.spec import STRUCTURES, Field, Kind
from hostile.bank import PIECE_BYTES, Base
from hostile.sites import Map, Site

# Lock value blocks live in the lock manager, not on the disk.
ON_DISK = [st for name, st in STRUCTURES.items() if not name.endswith("_lvb")]
FIELDS = [(st.name, f.name) for st in ON_DISK for f in st.fields]
SEALED = ("gfs2_rgrp", "gfs2_log_header")
SMALL = (2, 3, 4, 7, 8, 15, 16, 17, 23, 24, 31, 32, 39, 40, 41, 47, 48, 64, 96, 103, 104, 231, 232, 255, 256, 257)
MAGIC = b"\x01\x16\x19\x70"


@dataclass
class Damage:
    """What a case does to its image: patches in order, and perhaps a shorter device."""

    base: Base
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    size_bytes: int = 0
    text: list[str] = field(default_factory=list)
    fields: set[tuple[str, str]] = field(default_factory=set)

    def device(self) -> MemoryDevice:
        """The damaged image."""
        dev = MemoryDevice.from_snapshot(self.base.snapshot, name=self.base.name)
        for at, data in self.patches:
            dev.write(at, data)
        if self.size_bytes:
            short = MemoryDevice(self.size_bytes, name=self.base.name)
            for at in self.base.pieces:
                if at < self.size_bytes:
                    short.write(at, dev.read(at, min(PIECE_BYTES, self.size_bytes - at)))
            return short
        return dev

    def blocks(self) -> set[int]:
        """Every block that was changed."""
        bsize = self.base.map.bsize
        return {b for at, data in self.patches for b in range(at // bsize, (at + len(data) - 1) // bsize + 1)}


class Mutator:
    """Draws one case's damage."""

    def __init__(self, bases: Sequence[Base], seed: int, number: int) -> None:
        self.rng = random.Random(f"hostile/{seed}/{number}")
        self.number = number
        self.bases = bases
        self.content: dict[int, bytearray] = {}

    def draw(self) -> Damage:
        if self.number % 2 == 0:
            # In turn through all fields, so that each comes up whatever the seed.
            struct_name, name = FIELDS[self.number // 2 % len(FIELDS)]
            short = struct_name.removeprefix("gfs2_")
            self.begin(self.rng.choice([b for b in self.bases if b.map.sites[short]]))
            self.change_field(short, name)
            if self.rng.random() < 0.15:
                self.any_kind()
        else:
            self.begin(self.rng.choice(self.bases))
            for _ in range(self.rng.choice((1, 1, 1, 1, 2, 3, 6))):
                self.any_kind()
        for block, raw in sorted(self.content.items()):
            self.damage.patches.append((block * self.map.bsize, bytes(raw)))
        return self.damage

    def begin(self, base: Base) -> None:
        self.damage = Damage(base)
        self.map: Map = base.map

    def any_kind(self) -> None:
        kinds: list[tuple[int, Callable[[], None]]] = [
            (30, self.some_field), (25, self.some_pointer), (10, self.some_bitmap), (10, self.flip_bits),
            (6, self.some_bytes), (3, self.zero_block), (4, self.copy_block), (3, self.swap_blocks),
            (4, self.change_type), (4, self.swap_pointers), (3, self.swap_fields), (2, self.cut_device)]
        self.rng.choices([k for _, k in kinds], [w for w, _ in kinds])[0]()

    # -- tools

    def raw(self, block: int) -> bytearray:
        """The block as changed so far; what is done to it will be written."""
        if block not in self.content:
            self.content[block] = bytearray(self.map.r.block(block))
        return self.content[block]

    def seal(self, block: int, text: str) -> None:
        """Make a checksum right again, mostly: damage behind one goes deeper."""
        raw = self.raw(block)
        st = structs.identify(raw)
        if st is not None and st.name in SEALED and self.rng.random() < 0.75:
            structs.seal(st, raw)
            text += " (checksum made right)"
        self.damage.text.append(text)

    def site(self, short: str) -> Site:
        roles = self.map.sites[short]
        # The active part of a journal is where damage counts.
        names = sorted(roles)
        weights = [6 if "dirty active" in role else 2 if "active" in role else 1 for role in names]
        return self.rng.choice(roles[self.rng.choices(names, weights)[0]])

    def any_site(self) -> Site:
        names = sorted(name for name in self.map.sites if name not in ("meta_header", "inum") and self.map.sites[name])
        return self.site(self.rng.choice(names))

    def some_block(self) -> int:
        """The number of a block: nowhere, of another structure, somebody's, free, the journal's."""
        m, rng = self.map, self.rng
        kind = rng.randrange(11)
        if kind == 0:
            return rng.choice((0, 1, m.sb - 1, m.sb, m.sb + 1))
        if kind == 1:
            return rng.choice((m.blocks, m.blocks - 1, m.blocks + 1, 1 << 32, 1 << 48, 1 << 63, (1 << 64) - 1))
        if kind == 2:
            return rng.randrange(m.blocks)
        if kind == 3:
            return rng.choice(sorted(m.owned))
        if kind == 4:
            return rng.choice(sorted(m.journal))
        if kind == 5:
            return rng.choice(sorted(m.rgrp_blocks))
        if kind == 6:
            return m.states.index(0, rng.randrange(m.sb, m.blocks * 3 // 4))
        if kind < 9:
            return rng.choice(m.metadata)
        return rng.choice(sorted(rng.choice(list(m.owned.values()))))

    def number_for(self, f: Field, old: int, block: int) -> int:
        """A nasty number for a field."""
        rng, bits = self.rng, 8 * f.width
        top = (1 << bits) - 1
        old &= top
        choices = [lambda: rng.choice((0, 1, top, top >> 1, 1 << (bits - 1), top - 1)),
                   lambda: rng.choice((old - 1, old + 1, old * 2, old // 2, ~old)),
                   lambda: old ^ 1 << rng.randrange(bits),
                   lambda: rng.getrandbits(bits),
                   lambda: rng.choice((*SMALL, self.map.bsize, self.map.bsize - 1, self.map.bsize + 1))]
        if f.points_to or f.width == 8:
            choices += [self.some_block, self.some_block, lambda: block]
        if f.values:
            choices += [lambda: rng.choice(sorted(f.values or (0,)))] * 2
        if f.mask:
            choices += [lambda: old ^ rng.choice(sorted(f.mask or (0,)))] * 3
        if f.maximum:
            choices.append(lambda: rng.choice(((f.maximum or 0) + 1, f.maximum or 0)))
        if f.width > 1:
            choices.append(lambda: int.from_bytes(old.to_bytes(f.width, "big"), "little"))
        for _ in range(8):
            value = rng.choice(choices)() & top
            if value != old:
                return value
        return old ^ 1

    # -- kinds of damage

    def change_field(self, short: str, name: str) -> None:
        site = self.site(short)
        st = STRUCTURES["gfs2_" + short]
        f = st.field(name)
        raw = self.raw(site.block)
        here = slice(site.at + f.offset, site.at + f.end)
        old = bytes(raw[here])
        if f.is_number:
            number = int.from_bytes(old, "big")
            value = self.number_for(f, number, site.block)
            raw[here] = value.to_bytes(f.width, "big")
            shown = f"{number:#x} -> {value:#x}"
        else:
            raw[here] = self.rng.choice((b"\xff" * f.width, self.rng.randbytes(f.width), bytes(f.width)))
            shown = "other bytes"
        self.damage.fields.add((st.name, f.name))
        checked = short in ("rgrp", "log_header") and f.name in ("rg_crc", "lh_hash", "lh_crc")
        text = f"block {site.block}+{site.at} {short} ({site.role}) {name}: {shown}"
        if checked:
            self.damage.text.append(text)
        else:
            self.seal(site.block, text)

    def some_field(self) -> None:
        site = self.any_site()
        self.change_field(site.struct, self.rng.choice(STRUCTURES["gfs2_" + site.struct].fields).name)

    def some_pointer(self) -> None:
        roles = sorted(self.map.pointers)
        p = self.rng.choice(self.map.pointers[self.rng.choice(roles)])
        raw = self.raw(p.block)
        value = p.block if self.rng.random() < 0.1 else self.some_block()
        if self.rng.random() < 0.2:
            value = (int.from_bytes(raw[p.at:p.at + 8], "big") + self.rng.choice((1, -1))) & (1 << 64) - 1
        raw[p.at:p.at + 8] = struct.pack(">Q", value)
        self.damage.text.append(f"block {p.block}+{p.at} pointer ({p.role}) -> {value:#x}")

    def swap_pointers(self) -> None:
        role = self.rng.choice(sorted(self.map.pointers))
        a, b = (self.rng.choice(self.map.pointers[role]) for _ in range(2))
        one, two = self.raw(a.block), self.raw(b.block)
        one[a.at:a.at + 8], two[b.at:b.at + 8] = two[b.at:b.at + 8], one[a.at:a.at + 8]
        self.damage.text.append(f"block {a.block}+{a.at} and {b.block}+{b.at} pointers ({role}) swapped")

    def some_bitmap(self) -> None:
        """Blocks in another state, with the group's counts as they were or not."""
        rng = self.rng
        block = rng.choice(sorted(self.map.bitmaps))
        at, length, first = self.map.bitmaps[block]
        raw = self.raw(block)
        kind = rng.randrange(3)
        if kind == 0:
            # The state of a block that is somebody's.
            mine = [b for b in self.map.metadata if first <= b < first + 4 * length]
            target = rng.choice(mine) if mine else first
            byte, shift = at + (target - first) // 4, (target - first) % 4 * 2
            state = rng.randrange(4)
            raw[byte] = raw[byte] & ~(3 << shift) & 0xFF | state << shift
            text = f"bitmap {block}: block {target} in state {state}"
        elif kind == 1:
            start = rng.randrange(length)
            n = min(rng.choice((1, 2, 8, 100, length)), length - start)
            value = rng.choice((0, 0x55, 0xAA, 0xFF, rng.randrange(256)))
            raw[at + start:at + start + n] = bytes([value]) * n
            text = f"bitmap {block}: {n} bytes at {start} are {value:#x}"
        else:
            byte = at + rng.randrange(length)
            raw[byte] ^= 1 << rng.randrange(8)
            text = f"bitmap {block}: a bit of byte {byte}"
        self.seal(block, text)

    def flip_bits(self) -> None:
        site = self.any_site()
        raw = self.raw(site.block)
        low, high = (0, self.map.bsize) if self.rng.random() < 0.5 else (0, min(256, self.map.bsize))
        n = 1 << self.rng.randrange(7)
        for _ in range(n):
            raw[self.rng.randrange(low, high)] ^= 1 << self.rng.randrange(8)
        self.seal(site.block, f"block {site.block} ({site.struct}): {n} bits")

    def some_bytes(self) -> None:
        site = self.any_site()
        raw = self.raw(site.block)
        start = self.rng.randrange(self.map.bsize)
        n = min(self.rng.choice((1, 4, 8, 64, 512)), self.map.bsize - start)
        raw[start:start + n] = self.rng.choice((bytes(n), b"\xff" * n, self.rng.randbytes(n)))
        self.seal(site.block, f"block {site.block} ({site.struct}): {n} bytes at {start}")

    def zero_block(self) -> None:
        site = self.any_site()
        size = self.map.bsize
        self.raw(site.block)[:] = self.rng.choice((bytes(size), b"\xff" * size, self.rng.randbytes(size)))
        self.damage.text.append(f"block {site.block} ({site.struct}) zeroed or filled")

    def copy_block(self) -> None:
        a, b = self.any_site(), self.any_site()
        if self.rng.random() < 0.5:
            b = self.site(a.struct)
        self.raw(b.block)[:] = self.map.r.block(a.block)
        self.damage.text.append(f"block {a.block} ({a.struct}) written to {b.block} ({b.struct}), too")

    def swap_blocks(self) -> None:
        a, b = self.any_site(), self.any_site()
        one, two = bytes(self.raw(a.block)), bytes(self.raw(b.block))
        self.raw(a.block)[:], self.raw(b.block)[:] = two, one
        self.damage.text.append(f"blocks {a.block} ({a.struct}) and {b.block} ({b.struct}) swapped")

    def change_type(self) -> None:
        """Another structure's header, with its format."""
        site = self.any_site()
        other = self.rng.choice([st for st in ON_DISK if st.mh_type is not None])
        self.raw(site.block)[:24] = MAGIC + struct.pack(">IQII", other.mh_type, 0, other.mh_format, 0)
        self.seal(site.block, f"block {site.block} ({site.struct}) says it is a {other.name}")

    def swap_fields(self) -> None:
        site = self.any_site()
        by_width: dict[int, list[Field]] = {}
        for f in STRUCTURES["gfs2_" + site.struct].fields:
            if f.kind is not Kind.RESERVED:
                by_width.setdefault(f.width, []).append(f)
        found = [fs for fs in by_width.values() if len(fs) > 1]
        if not found:
            return
        a, b = self.rng.sample(self.rng.choice(found), 2)
        raw = self.raw(site.block)
        x, y = slice(site.at + a.offset, site.at + a.end), slice(site.at + b.offset, site.at + b.end)
        raw[x], raw[y] = raw[y], raw[x]
        self.seal(site.block, f"block {site.block}+{site.at} {site.struct}: {a.name} and {b.name} swapped")

    def cut_device(self) -> None:
        """A device shorter than the file system, sometimes not by whole blocks."""
        size = self.map.dev.size_bytes
        cut = self.rng.choice((self.rng.randrange(size), self.rng.randrange(128 << 10), size - self.map.bsize,
                               size - 512, size - (1 << 20)))
        self.damage.size_bytes = max(cut - cut % 512, 512)
        self.content = {b: raw for b, raw in self.content.items() if (b + 1) * self.map.bsize <= self.damage.size_bytes}
        self.damage.text.append(f"the device has only {self.damage.size_bytes} bytes")


def draw(bases: Sequence[Base], seed: int, number: int) -> Damage:
    return Mutator(bases, seed, number).draw()
