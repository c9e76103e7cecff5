"""A mount that meets damage says block, structure, field, wanted and found in its log and stops writing; other mounts
live on; it can be unmounted, and mounted again."""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gfs2py.block import FileDevice
from gfs2py.edit.journal import find_head
from gfs2py.edit.patch import patch_bytes, patch_field
from gfs2py.edit.reader import Reader, pointers
from interop.commands import CommandFailed, Commands, Mounted, Mounts

pytestmark = [pytest.mark.mount, pytest.mark.interop]

LINE = re.compile(r"damaged block (\d+) \((0x[0-9a-f]+)\): ([\w -]+)\.(.+) is (\d+) \(0x[0-9a-f]+\), wanted (\d+)")
NAMES = 400
FAR = 1 << 24


@dataclass
class Planted:
    """What was damaged and how it is met: the block and structure that the log must name."""

    block: int
    structure: str
    meet: Callable[[Path], object]
    undo: bytes


def fill(root: Path) -> None:
    (root / "file").write_bytes(b"stuffed")
    (root / "good").write_bytes(b"x" * 10_000)
    with (root / "far").open("wb") as f:
        f.seek(FAR)
        f.write(b"end")
    (root / "hashed").mkdir()
    for n in range(NAMES):
        (root / "hashed" / f"name-{n}-{'y' * 40}").touch()


def bad_dinode(dev: FileDevice, r: Reader) -> Planted:
    block = r.path("file").addr
    undo = r.block(block)
    patch_field(dev, block, "dinode", "di_height", 77)
    return Planted(block, "dinode", lambda root: (root / "file").read_bytes(), undo)


def bad_leaf(dev: FileDevice, r: Reader) -> Planted:
    block = list(r.leaves(r.path("hashed")))[1][0]
    undo = r.block(block)
    patch_field(dev, block, "leaf", "lf_depth", 40)
    return Planted(block, "leaf", lambda root: [os.stat(root / "hashed" / f"name-{n}-{'y' * 40}")
                                                               for n in range(NAMES)], undo)


def bad_indirect(dev: FileDevice, r: Reader) -> Planted:
    ino = r.path("far")
    assert ino.height > 1
    block = next(p for p in pointers(ino.block[232:]) if p)
    undo = r.block(block)
    patch_field(dev, block, "indirect", "mh_type", 9)
    return Planted(block, "meta_header", lambda root: (root / "far").read_bytes(), undo)


def bad_rgrp(dev: FileDevice, r: Reader) -> Planted:
    """All of them: which one a new file goes to is the allocator's choice. The first stands for them."""
    blocks = [int(ri["ri_addr"]) for ri in r.rindex()]
    undo = r.block(blocks[-1])
    patch_field(dev, blocks[-1], "rgrp", "rg_free", 1 << 30, seal=True)

    def meet(root: Path) -> None:
        for n in range(3000):
            fd = os.open(root / f"new{n}", os.O_CREAT | os.O_RDWR)
            try:
                os.posix_fallocate(fd, 0, 1 << 20)
            finally:
                os.close(fd)
    return Planted(blocks[-1], "rgrp", meet, undo)


WAYS = [bad_dinode, bad_leaf, bad_indirect, bad_rgrp]


class Scene:
    """Two images of one content, one of them to be damaged."""

    def __init__(self, commands: Commands, mounts: Mounts, make_image: Callable[..., Path], top: Path) -> None:
        self.commands, self.mounts, self.top = commands, mounts, top
        self.image, self.other = make_image(48, "image"), make_image(48, "other")
        for image in (self.image, self.other):
            commands.mkfs(image, "-J", "8", "-r", "32")
            mounted = mounts.mount(image)
            fill(mounted.path)
            mounted.umount()

    def log(self) -> list[str]:
        return (self.top / "log").read_text().splitlines()

    def mount(self, options: str = "rw") -> Mounted:
        (self.top / "log").write_text("")
        return self.mounts.mount(self.image, f"{options},logfile={self.top / 'log'}")

    def damage(self, plant: Callable[[FileDevice, Reader], Planted]) -> Planted:
        with FileDevice(os.fspath(self.image)) as dev:
            return plant(dev, Reader(dev))

    def repair(self, planted: Planted) -> None:
        with FileDevice(os.fspath(self.image)) as dev:
            patch_bytes(dev, planted.block, 0, planted.undo)


@pytest.fixture
def scene(commands: Commands, mounts: Mounts, make_image: Callable[..., Path], tmp_path: Path) -> Scene:
    return Scene(commands, mounts, make_image, tmp_path)


def fails_with_eio(what: Callable[[], object]) -> None:
    with pytest.raises(OSError) as raised:
        what()
    assert raised.value.errno == errno.EIO


def alive(mounted: Mounted, name: str) -> None:
    (mounted.path / name).write_bytes(b"still here")
    os.sync()
    assert (mounted.path / name).read_bytes() == b"still here"
    assert len(os.listdir(mounted.path / "hashed")) == NAMES


@pytest.mark.parametrize("plant", WAYS)
def test_withdrawn_mount(scene: Scene, plant: Callable[[FileDevice, Reader], Planted]) -> None:
    planted = scene.damage(plant)
    other = scene.mounts.mount(scene.other, name="mnt2")
    mounted = scene.mount()
    root = mounted.path
    fails_with_eio(lambda: planted.meet(root))
    # From here on everything fails at once, in all ways there are, and nobody hangs.
    fails_with_eio(lambda: (root / "after").touch())
    fails_with_eio(lambda: os.unlink(root / "good"))
    fails_with_eio(lambda: os.rename(root / "good", root / "gone"))
    fails_with_eio(lambda: os.truncate(root / "good", 5))
    fails_with_eio(lambda: os.setxattr(root / "good", "user.x", b"1"))
    alive(other, "one")
    mounted.umount()
    alive(other, "two")
    lines = [line for line in scene.log() if "damaged block" in line and "withdrawing" in line]
    assert len(lines) == 1, "one line, the first reason:\n" + "\n".join(scene.log())
    found = LINE.search(lines[0])
    assert found, lines[0]
    assert int(found.group(1)) == planted.block
    assert found.group(3).startswith(planted.structure), lines[0]
    assert " ERROR " in lines[0]
    # It can be mounted again: what is not damaged is there, the damage is met again.
    again = scene.mount("ro")
    assert (again.path / "good").read_bytes() == b"x" * 10_000
    again.umount()
    again = scene.mount()
    fails_with_eio(lambda: planted.meet(again.path))
    again.umount()
    scene.repair(planted)
    scene.mount().umount()
    other.umount()
    for image in (scene.image, scene.other):
        scene.commands.assert_clean(image)


def test_bad_journal_header(scene: Scene) -> None:
    """A journal that cannot be replayed refuses the mount, in one line; others live on."""
    other = scene.mounts.mount(scene.other, name="mnt2")
    mounted = scene.mount()
    for n in range(20):
        (mounted.path / f"late{n}").write_bytes(b"late" * 100)
    os.sync()
    mounted.kill()

    def plant(dev: FileDevice, r: Reader) -> Planted:
        journal = r.system("jindex/journal0")
        head = find_head(r, journal)
        assert head is not None
        assert not head.clean
        # The tail's block must be a descriptor.
        block = dict(r.data_blocks(journal))[head.tail]
        undo = r.block(block)
        assert struct.unpack_from(">II", undo) == (0x01161970, 9)
        patch_field(dev, block, "log_descriptor", "ld_length", 1 << 30)
        return Planted(block, "log descriptor", os.listdir, undo)
    planted = scene.damage(plant)
    with pytest.raises(CommandFailed) as refused:
        scene.mount()
    found = LINE.search(str(refused.value))
    assert found, refused.value
    assert int(found.group(1)) == planted.block
    assert found.group(3) == "log descriptor"
    assert "exit status 32" in str(refused.value)
    alive(other, "one")
    scene.repair(planted)
    again = scene.mount()
    assert (again.path / "late19").read_bytes() == b"late" * 100
    again.umount()
    other.umount()
    scene.commands.assert_clean(scene.image)
