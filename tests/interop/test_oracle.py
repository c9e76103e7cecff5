"""The judge judged: the kernel, Debian's gfs2-utils and tmpfs agree on the tree of the exchange tests."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from interop import tree
from interop.commands import DEBIAN_SBIN, Commands
from interop.conftest import TREE_SOURCE, make_tree_in, shared_part
from interop.manifest import assert_same, differences
from interop.oracle.errors import EX_MOUNT
from interop.oracle.guest import Job
from interop.oracle.kernel import Kernel
from interop.oracle.walk import walk

MakeImage = Callable[..., Path]
MAKE_TREE = "python3 -S /ctl/tree.py $MNT"


def test_forged_names_share_one_hash() -> None:
    for want in (0, 1, 0x9e3779b9, 0xffffffff):
        names = list(tree.colliding_names(want, 20))
        assert len(set(names)) == 20
        assert {zlib.crc32(n) for n in names} == {want}
        assert not any(b"/" in n or b"\0" in n for n in names)


def test_plain_names_that_collide_exist() -> None:
    pairs = list(tree.colliding_pairs(300_000))
    assert pairs
    assert all(a != b and zlib.crc32(a) == zlib.crc32(b) for a, b in pairs)


def test_tree_is_the_same_each_time(tmp_path: Path) -> None:
    lines = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_tree_in(tmp_path / name, "--without", "many,xattrs,acls,fallocate,jdata,flags,sparse,collide")
        lines.append(list(walk(str(tmp_path / name))))
    # The host's own file system rounds and limits times as it likes, equally both times.
    assert_same(*lines, ignore=("blocks",))
    types = Counter(x.split(" type=", 1)[1].split()[0] for x in lines[0])
    assert set(types) == {"file", "dir", "link", "fifo", "socket", "char", "block"}


def test_differences_are_seen() -> None:
    a = ["/x type=file size=1 sha256=00", "/y type=dir nlink=2 size=4096"]
    assert differences(a, a) == []
    assert differences(a, a[:1]) == ["/y: missing"]
    assert differences(a[:1], a) == ["/y: not expected"]
    assert differences(a, ["/x type=file size=2 sha256=00", a[1]]) == ["/x: size should be 1, is 2"]
    assert differences(a, [a[0], "/y type=dir nlink=2 size=1"], ignore_of_dirs=("size",)) == []
    assert len(differences(a, ["/x type=file size=2", "/y type=dir nlink=3 size=4096"])) == 3


@pytest.mark.kernel
@pytest.mark.interop
def test_kernel_writes_the_tree_as_tmpfs_does(kernel: Kernel, commands: Commands, make_image: MakeImage,
                                              reference: list[str]) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "16", debian=True)
    kernel.run(image, MAKE_TREE, files={"tree.py": TREE_SOURCE})
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)
    found = kernel.manifest(image)
    # The kernel's gfs2 shows device nodes as 0:0 after a remount (on disk they are right).
    assert_same(reference, shared_part(found), ignore=("blocks", "rdev"), ignore_of_dirs=("size",))
    assert sum(x.startswith("/many/") for x in found) > 5000


@pytest.mark.kernel
@pytest.mark.interop
def test_crash_leaves_a_journal_that_replay_needs(kernel: Kernel, commands: Commands,
                                                  make_image: MakeImage) -> None:
    image = make_image(256)
    commands.mkfs(image, "-J", "8", debian=True)
    kernel.crash(image, "mkdir d; echo hello >d/f; sync -f .; echo lost >d/g")
    spectator = Job(str(image), b"ls d", mount_opts="spectator", readonly_device=True)
    # A spectator does not replay, and the kernel does not let it be the first on a dirty journal.
    unplayed = kernel.job(spectator)
    assert unplayed.status == EX_MOUNT
    assert any("Journal is dirty" in x for x in unplayed.messages)
    assert "/d/f type=file size=6" in kernel.manifest(image, ["type", "size"])
    # That was on an overlay, which was thrown away: the journal is as dirty as before.
    assert kernel.job(spectator).status == EX_MOUNT
    assert "/d/f type=file size=6" in kernel.manifest(image, ["type", "size"], replay="image")
    assert kernel.job(spectator).check().output == "f\n"


@pytest.mark.kernel
@pytest.mark.interop
def test_kernel_refuses_a_format_that_it_does_not_know(kernel: Kernel, commands: Commands,
                                                       make_image: MakeImage) -> None:
    image = make_image(256)
    commands.mkfs(image, "-J", "8", debian=True)
    with image.open("r+b") as f:
        f.seek(65536 + 24)
        assert struct.unpack(">I", f.read(4))[0] in (1801, 1802)
        f.seek(65536 + 24)
        f.write(struct.pack(">I", 1803))
    assert kernel.job(Job(str(image), b"true")).status == EX_MOUNT
