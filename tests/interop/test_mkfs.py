"""mkfs judged by gfs2-utils and the kernel: fsck.gfs2 is silent, Debian's mkfs.gfs2 lays out the same."""

import os
import random
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gfs2py.block._file import FileDevice
from gfs2py.edit.reader import SIZEOF_LEAF, Inode, Reader
from gfs2py.mkfs.make import make_fs
from gfs2py.mkfs.options import MIB, MkfsOptions
from gfs2py.ondisk import structs
from gfs2py.ondisk.constants import BLOCK_SIZES
from interop.commands import DEBIAN_SBIN, Commands
from interop.oracle.kernel import Kernel

pytestmark = pytest.mark.interop

MakeImage = Callable[..., Path]
U = "1b4e28ba-2fa1-11d2-883f-b9a761bde3fb"
CHUNK = MIB

# journals -> MiB: 8 journals of 8 MiB need twice that
SMALL = {1: 64, 2: 64, 8: 160}
SIZES = ("small", 10 * 1024, 100 * 1024)


def make(image: Path, **changes: object) -> None:
    options = MkfsOptions(lockproto="lock_nolock", jsize_mb=8)
    for name, value in changes.items():
        setattr(options, name, value)
    with FileDevice(image, direct=False, exclusive=True) as dev:
        make_fs(dev, options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("journals", SMALL)
@pytest.mark.parametrize("fmt", [1801, 1802])
@pytest.mark.parametrize("bsize", BLOCK_SIZES)
def test_fsck_has_nothing_to_say(commands: Commands, make_image: MakeImage, bsize: int, fmt: int,
                                 journals: int, size: int | str) -> None:
    if size == SIZES[-1] and bsize < 2048:
        size = 30 * 1024  # fsck.gfs2 spends its time in the bitmaps, which grow with the number of blocks
    image = make_image(SMALL[journals] if size == "small" else int(size))
    make(image, bsize=bsize, format=fmt, journals=journals)
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)


@pytest.mark.parametrize(("bsize", "fmt", "journals"), [
    (4096, 1802, 8), (4096, 1801, 1), (2048, 1801, 2), (1024, 1802, 2), (512, 1801, 1),
])
def test_fsck_of_a_tebibyte(commands: Commands, make_image: MakeImage, bsize: int, fmt: int,
                            journals: int) -> None:
    image = make_image(1 << 20)
    make(image, bsize=bsize, format=fmt, journals=journals)
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)


def data_chunks(path: Path) -> set[int]:
    """Numbers of the MiB that a sparse file has data in."""
    found: set[int] = set()
    with path.open("rb") as f:
        at = 0
        while True:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                return found
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            found.update(range(start // CHUNK, -(-at // CHUNK)))


def differing_blocks(ours: Path, theirs: Path, bsize: int) -> Iterator[tuple[int, bytes, bytes]]:
    with ours.open("rb") as a, theirs.open("rb") as b:
        for chunk in sorted(data_chunks(ours) | data_chunks(theirs)):
            x, y = (os.pread(f.fileno(), CHUNK, chunk * CHUNK) for f in (a, b))
            if x != y:
                for at in range(0, CHUNK, bsize):
                    if x[at:at + bsize] != y[at:at + bsize]:
                        yield (chunk * CHUNK + at) // bsize, x[at:at + bsize], y[at:at + bsize]


def same_but_for_noise(reader: Reader, block: int, a: bytes, b: bytes) -> bool:
    """Whether two blocks differ only in what means nothing.

    Debian's mkfs.gfs2 leaves old bytes behind the names of moved entries, and writes memory it never set into
    the unused fields of the resource index and behind its end.
    """
    kind, other = structs.identify(a), structs.identify(b)
    if kind is not None and kind is other and kind.name == "gfs2_leaf":
        return a[:SIZEOF_LEAF] == b[:SIZEOF_LEAF] and entries(reader, block, a) == entries(reader, block, b)
    rindex = reader.system("rindex")
    if rindex.addr == block and rindex.height == 0:
        return a[:232] == b[:232] and rindex_part(rindex, 0, a[232:]) == rindex_part(rindex, 0, b[232:])
    for lblock, addr in reader.data_blocks(rindex):
        if addr == block:
            at = lblock * reader.bsize
            return rindex_part(rindex, at, a) == rindex_part(rindex, at, b)
    return False


def entries(reader: Reader, block: int, raw: bytes) -> list[tuple[object, ...]]:
    """What a leaf says; of entries that are gone only where they are."""
    return [(e.at, e.formal_ino, e.addr, e.rec_len, e.formal_ino and (e.name, e.hash, e.type))
            for e in reader.dirents_in(block, raw, SIZEOF_LEAF, gone=True)]


def rindex_part(rindex: Inode, at: int, raw: bytes) -> bytes:
    """The bytes of the index from file offset `at` that mean something."""
    return bytes(b for i, b in enumerate(raw, at)
                 if i < rindex.size and not 12 <= i % 96 < 16 and i % 96 < 32)


class Loaded(random.Random):
    """Dice that fall as they fell for somebody else."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(0)
        self.numbers = iter(numbers)

    def randrange(self, *args: int) -> int:
        return next(self.numbers)


def first_sequences(reader: Reader, journals: int) -> list[int]:
    """The sequence number of block 0 of each journal."""
    out = []
    for j in range(journals):
        _, addr = next(reader.data_blocks(reader.system(f"jindex/journal{j}")))
        out.append(structs.num(structs.checked("log_header", reader.block(addr), block=addr), "lh_sequence"))
    return out


@pytest.mark.parametrize(("mib", "bsize", "journals", "fmt", "extra"), [
    (64, 4096, 1, 1801, {}), (200, 4096, 2, 1802, {}), (64, 512, 2, 1802, {}), (300, 512, 8, 1802, {}),
    (300, 1024, 8, 1801, {}), (1000, 2048, 3, 1802, {}), (600, 512, 30, 1802, {}),
    (40_000, 4096, 2, 1802, {}),
    (2000, 4096, 2, 1802, {"sunit": 65536, "swidth": 262144}), (1000, 1024, 1, 1802, {"rgsize_mb": 32}),
    (500, 4096, 1, 1802, {"qcsize_mb": 3, "locktable": "cl:fs"}), (500, 2048, 1, 1802, {"fssize": 99_999}),
])
def test_the_layout_is_debians(commands: Commands, make_image: MakeImage, mib: int, bsize: int, journals: int,
                               fmt: int, extra: dict[str, int | str]) -> None:
    ours, theirs = make_image(mib, "ours"), make_image(mib, "theirs")
    letters = {"rgsize_mb": "-r", "qcsize_mb": "-c", "locktable": "-t"}
    given = [x for k, v in extra.items() if k in letters for x in (letters[k], str(v))]
    keys = [f"format={fmt}", *(f"{k}={v}" for k, v in extra.items() if k in ("sunit", "swidth"))]
    commands.check(DEBIAN_SBIN / "mkfs.gfs2", "-O", "-q", "-p", "lock_nolock", "-U", U, "-b", str(bsize),
                   "-J", "8", "-j", str(journals), "-o", ",".join(keys), *given, theirs,
                   *([str(extra["fssize"])] if "fssize" in extra else []))
    with FileDevice(theirs, readonly=True, direct=False) as dev:
        reader = Reader(dev)
        now = reader.inode(reader.master_addr).number("di_ctime")
        dice = Loaded(first_sequences(reader, journals))
    make(ours, bsize=bsize, journals=journals, format=fmt, uuid=uuid.UUID(U), now=now, rng=dice, **extra)
    with FileDevice(ours, readonly=True, direct=False) as dev:
        reader = Reader(dev)
        strange = [block for block, a, b in differing_blocks(ours, theirs, bsize)
                   if not same_but_for_noise(reader, block, a, b)]
    assert strange == []


@pytest.mark.kernel
@pytest.mark.parametrize(("bsize", "fmt", "journals"), [(4096, 1802, 1), (512, 1801, 8)])
def test_the_kernel_mounts_and_uses_it(commands: Commands, kernel: Kernel, make_image: MakeImage, bsize: int,
                                       fmt: int, journals: int) -> None:
    image = make_image(200)
    make(image, bsize=bsize, format=fmt, journals=journals)
    kernel.run(image, "df -i $MNT; mkdir $MNT/d; for i in $(seq 300); do echo $i > $MNT/d/$i; done; "
                      "dd if=/dev/zero of=$MNT/big bs=64k count=100; rm $MNT/d/1*; sync")
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)
    assert "/big " in "\n".join(kernel.manifest(image))


def test_summary_reads_as_debians(commands: Commands, make_image: MakeImage) -> None:
    image = make_image(300)
    theirs, ours = (
        commands.check(where / "mkfs.gfs2", "-O", "-t", "alpha:one", "-j", "3", "-U", U, image)
        for where in (DEBIAN_SBIN, commands.bin_dir))
    summary = ours.splitlines()[-10:]
    assert summary == theirs.splitlines()[-10:]
    assert summary[0].split() == ["Device:", str(image)]
    assert summary[-1].split() == ["UUID:", U]


@pytest.mark.parametrize("args", [
    "-p badproto", "-p lock_dlm", "-p lock_nolock -r 31", "-p lock_nolock -r 2049", "-p lock_nolock -J 7",
    "-p lock_nolock -J 1025", "-p lock_nolock -c 0", "-p lock_nolock -c 65", "-p lock_nolock -j 0",
    "-p lock_nolock -j -1", "-p lock_nolock -o format=0", "-p lock_nolock -o format=1803",
    "-p lock_nolock -o bogus=1", "-p lock_nolock -o sunit=4096", "-p lock_nolock -o sunit=4096,swidth=5000",
    "-p lock_nolock -o align=2", "-p lock_nolock -b 513", "-p lock_nolock -b 8192", "-t a", "-t a:b:c",
    "-t :b", "-p lock_nolock -j 100", "-p lock_nolock -U nonsense", "-p lock_nolock -Z",
    "-p lock_nolock -o test_topology=0:1:2", "-p lock_nolock -o test_topology=0:8192:8192:0:8192",
])
def test_bad_requests_end_as_debians(commands: Commands, make_image: MakeImage, args: str) -> None:
    image = make_image(100)
    for program in (DEBIAN_SBIN / "mkfs.gfs2", commands.bin_dir / "mkfs.gfs2"):
        done = commands.run(program, "-O", *args.split(), image)
        assert done.returncode == 255, (program, done.stdout, done.stderr)
        assert done.stderr
    assert data_chunks(image) == set()


def test_block_count_beyond_the_device(commands: Commands, make_image: MakeImage) -> None:
    done = commands.ours("mkfs.gfs2", "-O", "-p", "lock_nolock", make_image(100), "25601")
    assert done.returncode == 255
    assert "bigger than the device" in done.stderr


def test_what_is_on_the_device_stays_unless_confirmed(commands: Commands, make_image: MakeImage) -> None:
    image = make_image(64)
    commands.check("/usr/sbin/mkfs.ext4", "-q", image)
    before = image.read_bytes()
    for answer in ("", "n\n", "what\nno\n"):
        done = subprocess.run([commands.bin_dir / "mkfs.gfs2", "-p", "lock_nolock", image], input=answer,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 255
        assert "existing filesystem (ext4)" in done.stdout
        assert "destroy any data" in done.stdout
    assert image.read_bytes() == before
    done = subprocess.run([commands.bin_dir / "mkfs.gfs2", "-p", "lock_nolock", image], input="y\n",
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert commands.check("blkid", "-p", "-s", "TYPE", "-o", "value", image) == "gfs2\n"
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)


@pytest.fixture
def loop(commands: Commands, make_image: MakeImage) -> Iterator[tuple[Path, Path]]:
    """(image, loop device) of 64 MiB."""
    image = make_image(64)
    device = Path(commands.check("losetup", "--show", "-f", image).strip())
    try:
        yield image, device
    finally:
        commands.run("umount", device)
        commands.check("losetup", "-d", device)


def test_a_block_device(commands: Commands, loop: tuple[Path, Path]) -> None:
    image, device = loop
    image.write_bytes(b"\xff" * (64 * MIB))
    said = commands.check(commands.bin_dir / "mkfs.gfs2", "-O", "-p", "lock_nolock", device)
    assert "Discarding device contents" in said
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", device)
    assert image.stat().st_blocks * 512 < 20 * MIB  # discarded first
    image.write_bytes(b"\xff" * (64 * MIB))
    said = commands.check(commands.bin_dir / "mkfs.gfs2", "-O", "-K", "-p", "lock_nolock", device)
    assert "Discarding" not in said
    assert image.stat().st_blocks * 512 > 60 * MIB
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", device)


def test_a_device_in_use_is_refused(commands: Commands, loop: tuple[Path, Path], tmp_path: Path) -> None:
    image, device = loop
    commands.check("/usr/sbin/mkfs.ext4", "-q", device)
    mount_point = tmp_path / "mnt"
    mount_point.mkdir()
    commands.check("mount", device, mount_point)
    before = image.read_bytes()
    for target in (device, image):
        done = commands.ours("mkfs.gfs2", "-O", "-p", "lock_nolock", target)
        assert done.returncode == 1
        assert f"{target}: Device or resource busy" in done.stderr
    assert image.read_bytes() == before


def test_things_that_are_no_device(commands: Commands, tmp_path: Path) -> None:
    for target, message in ((tmp_path, "not a block device or regular file"),
                            (tmp_path / "nothing", "No such file or directory"),
                            (Path("/dev/null"), "not a block device or regular file")):
        done = commands.ours("mkfs.gfs2", "-O", "-p", "lock_nolock", target)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_locked_image_is_refused(commands: Commands, make_image: MakeImage) -> None:
    image = make_image(64)
    with FileDevice(image, direct=False, exclusive=True):
        done = commands.ours("mkfs.gfs2", "-O", "-p", "lock_nolock", image)
    assert done.returncode == 1
    assert "busy" in done.stderr
    assert data_chunks(image) == set()


def test_quiet_is_quiet(commands: Commands, make_image: MakeImage) -> None:
    done = commands.ours("mkfs.gfs2", "-q", "-O", "-p", "lock_nolock", make_image(64))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
