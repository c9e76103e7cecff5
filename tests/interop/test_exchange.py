"""One disk, two drivers: what we write the kernel's gfs2 lists identically, and the other way round."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from interop.commands import Commands, Mounts
from interop.conftest import TREE_SOURCE, make_tree_in, shared_part
from interop.manifest import assert_same
from interop.oracle.kernel import Kernel
from interop.oracle.walk import walk

pytestmark = [pytest.mark.mount, pytest.mark.interop, pytest.mark.kernel, pytest.mark.slow]
MakeImage = Callable[..., Path]

MAKE_TREE = "python3 -S /ctl/tree.py"
# The kernel's gfs2 shows device nodes as 0:0 once the inode was read from disk, where it is right.
KERNEL_IGNORES = ("rdev",)


def listing(path: Path) -> list[str]:
    return list(walk(os.fspath(path)))


@pytest.mark.parametrize(("bsize", "fs_format"), [(4096, 1802), (1024, 1801)])
def test_ours_to_kernel(kernel: Kernel, commands: Commands, mounts: Mounts, make_image: MakeImage,
                        reference: list[str], bsize: int, fs_format: int) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-b", str(bsize), "-J", "32", "-o", f"format={fs_format}")
    mounted = mounts.mount(image, "acl")
    # Format 1801 knows no trusted xattrs.
    make_tree_in(mounted.path, "--bsize", str(bsize), "--without", "trusted" if fs_format == 1801 else "")
    ours = listing(mounted.path)
    mounted.umount()
    commands.assert_clean(image)
    if bsize == 4096:       # the tree depends on the block size; the reference is made for this one
        assert_same(reference, shared_part(ours), ignore=("blocks",), ignore_of_dirs=("size",))
    assert_same(ours, kernel.manifest(image), ignore=KERNEL_IGNORES)
    again = mounts.mount(image, "acl")
    assert_same(ours, listing(again.path))
    again.umount()
    commands.assert_clean(image)


@pytest.mark.parametrize("debian_mkfs", [True, False], ids=["mkfs-debian", "mkfs-ours"])
def test_kernel_to_ours(kernel: Kernel, commands: Commands, mounts: Mounts, make_image: MakeImage,
                        reference: list[str], debian_mkfs: bool) -> None:
    image = make_image(1024)
    commands.mkfs(image, "-J", "32", debian=debian_mkfs)
    kernel.run(image, f"{MAKE_TREE} $MNT", files={"tree.py": TREE_SOURCE})
    commands.assert_clean(image)
    wanted = kernel.manifest(image)
    mounted = mounts.mount(image, "acl")
    ours = listing(mounted.path)
    mounted.umount()
    assert_same(wanted, ours, ignore=KERNEL_IGNORES)
    assert_same(reference, shared_part(ours), ignore=("blocks",), ignore_of_dirs=("size",))
    commands.assert_clean(image)


def test_turns(kernel: Kernel, commands: Commands, mounts: Mounts, make_image: MakeImage) -> None:
    """Each side works on what the other left: removes a part of it, and adds a tree of its own."""
    image = make_image(1024)
    small = "--scale 0.2 --without many,flags"
    commands.mkfs(image, "-J", "32")
    mounted = mounts.mount(image, "acl")
    (mounted.path / "ours").mkdir()
    make_tree_in(mounted.path / "ours", "--seed", "2", *small.split())
    mounted.umount()
    kernel.run(image, "rm -r ours/x* ours/links ours/wide; mkdir theirs\n"
                      f"{MAKE_TREE} --seed 3 {small} theirs\n"
                      "find ours -type f -name '*1*' -exec sh -c 'echo more >>$0' {} ';'",
               files={"tree.py": TREE_SOURCE})
    commands.assert_clean(image)
    mounted = mounts.mount(image, "acl")
    for name in ("collide", "xattrs", "wide"):
        shutil.rmtree(mounted.path / "theirs" / name)
    for path in sorted((mounted.path / "ours").rglob("*2*")):
        if path.is_file() and not path.is_symlink():
            with path.open("ab") as f:
                f.write(b"ours again")
    (mounted.path / "theirs").rename(mounted.path / "ours" / "theirs")
    (mounted.path / "ours" / "theirs" / "new").mkdir()
    make_tree_in(mounted.path / "ours" / "theirs" / "new", "--seed", "4", *small.split())
    ours = listing(mounted.path)
    mounted.umount()
    commands.assert_clean(image)
    assert_same(ours, kernel.manifest(image), ignore=KERNEL_IGNORES)
    kernel.run(image, "rm -rf ours; [ -z \"$(ls)\" ]")
    commands.assert_clean(image)
    mounted = mounts.mount(image)
    assert os.listdir(mounted.path) == []
    mounted.umount()
