"""Extended attributes and ACLs of a mounted volume: prefixes, limits, ENOSPC, damage, inheritance."""

import errno
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gfs2py.block._memory import MemoryDevice
from gfs2py.edit.patch import patch_bytes, read_block, write_block
from gfs2py.edit.reader import Reader
from gfs2py.engine.volume import Volume
from memfs import assert_clean, assert_debian_clean, free_blocks, fresh, mounted

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
NO_ID = 0xFFFFFFFF
Entry = tuple[int, int, int]


def outcome(call: Callable[..., object], *args: object) -> int:
    """The errno a call ends with; 0 for success."""
    try:
        call(*args)
    except OSError as failed:
        return failed.errno
    return 0


def acl(*entries: Entry) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def perms(value: bytes) -> dict[int, int]:
    return {tag: perm for tag, perm, _ in struct.iter_unpack("<HHI", value[4:])}


NAMED = acl((1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))


@pytest.mark.parametrize(("fs_format", "trusted"), [(1801, errno.EOPNOTSUPP), (1802, 0)])
def test_prefixes(fs_format: int, trusted: int) -> None:
    device = fresh(fs_format=fs_format)
    with mounted(device) as volume:
        volume.create("f")
        for name, wanted in ((b"user.a", 0), (b"security.a", 0), (b"trusted.a", trusted),
                             (b"user.", errno.EINVAL), (b"system.other", errno.EOPNOTSUPP),
                             (b"nothing", errno.EOPNOTSUPP), (b"user." + b"n" * 250, 0),
                             (b"user." + b"n" * 256, errno.ERANGE)):
            assert outcome(volume.setxattr, "f", name, b"v") == wanted, name
        assert len(volume.listxattr("f")) == 3 + (trusted == 0)
    assert_clean(device)


def test_buffer_too_small() -> None:
    with mounted(fresh()) as volume:
        volume.create("f")
        volume.setxattr("f", b"user.a", b"x" * 5000)
        node = volume.node("f")
        assert outcome(volume.calls.getxattr, node, b"user.a", 4999) == errno.ERANGE
        assert volume.calls.getxattr(node, b"user.a", 5000) == b"x" * 5000


@pytest.mark.parametrize("bsize", [512, 4096])
def test_many_attributes_and_all_freed(bsize: int, tmp_path: Path) -> None:
    device = fresh(bsize, 64)
    sizes = [0, 1, 100, 400, 487, 488, 489, 3000] + ([] if bsize == 512 else [4072, 20000, 65536])
    with mounted(device) as volume:
        before = free_blocks(volume)
        volume.create("f")
        for i in range(200):
            volume.setxattr("f", b"user.%d" % i, random.Random(i).randbytes(sizes[i % len(sizes)]))
        for i in range(0, 200, 3):
            volume.setxattr("f", b"user.%d" % i, random.Random(-i).randbytes(sizes[i * 7 % len(sizes)]))
        for i in range(1, 200, 3):
            volume.removexattr("f", b"user.%d" % i)
        assert len(volume.listxattr("f")) == 133
    assert_clean(device)
    with mounted(device) as volume:
        for i in range(0, 200, 3):
            wanted = random.Random(-i).randbytes(sizes[i * 7 % len(sizes)])
            assert volume.getxattr("f", b"user.%d" % i) == wanted
        volume.unlink("f")
    assert_clean(device)
    with mounted(device) as volume:
        assert free_blocks(volume) == before


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 1024, 4096])
def test_debian_accepts_attributes(bsize: int, tmp_path: Path, rng: random.Random) -> None:
    device = fresh(bsize, 64)
    top = 488 * 2 if bsize == 512 else 65536
    with mounted(device) as volume:
        for number in range(20):
            path = f"f{number}"
            volume.create(path)
            for _ in range(30):
                name = b"user.%d" % rng.randrange(12)
                if rng.random() < 0.25 and name in volume.listxattr(path):
                    volume.removexattr(path, name)
                else:
                    size = rng.choice([3, 50, 300, 1000, rng.randrange(top)])
                    volume.setxattr(path, name, rng.randbytes(size))
            volume.setxattr(path, ACCESS, NAMED)
    assert_clean(device)
    assert_debian_clean(device, tmp_path)


def test_old_value_survives_a_full_file_system() -> None:
    device = fresh(4096, 24)
    with mounted(device) as volume:
        volume.create("f")
        volume.setxattr("f", b"user.kept", b"old" * 3000)
        volume.create("filler")
        size = 0
        while outcome(volume.write, "filler", size, bytes(65536)) == 0:
            size += 65536
        while outcome(volume.write, "filler", size, bytes(4096)) == 0:
            size += 4096
        assert outcome(volume.setxattr, "f", b"user.kept", b"new" * 20000) == errno.ENOSPC
        assert outcome(volume.setxattr, "f", b"user.other", b"new" * 20000) == errno.ENOSPC
        assert volume.getxattr("f", b"user.kept") == b"old" * 3000
        volume.setxattr("f", b"user.kept", b"small" * 100)      # frees, needs nothing
        assert volume.getxattr("f", b"user.kept") == b"small" * 100
        assert volume.listxattr("f") == [b"user.kept"]
    assert_clean(device)


def test_blocks_that_a_crashed_kernel_left_are_freed_with_the_inode() -> None:
    """The kernel replaces in two steps; in between an unused record still has the old value's blocks."""
    device = fresh(4096, 64)
    with mounted(device) as volume:
        before = free_blocks(volume)
        volume.create("f")
        volume.setxattr("f", b"user.old", b"o" * 10000)
        volume.setxattr("f", b"user.other", b"kept")
    block = Reader(device).path("f").number("di_eattr")
    patch_bytes(device, block, 24 + 9, b"\0")
    with mounted(device) as volume:
        assert volume.listxattr("f") == [b"user.other"]
        volume.setxattr("f", b"user.new", b"n" * 20000)
        assert volume.getxattr("f", b"user.new") == b"n" * 20000
        assert volume.getxattr("f", b"user.other") == b"kept"
        volume.unlink("f")
    assert_clean(device)
    with mounted(device) as volume:
        assert free_blocks(volume) == before


# ---- ACLs


def test_default_acl_is_inherited_and_chmod_moves_the_mask() -> None:
    device = fresh()
    with mounted(device) as volume:
        volume.mkdir("d")
        volume.setxattr("d", DEFAULT, NAMED)
        assert volume.create("d/file", mode=0o666).mode & 0o777 == 0o660
        assert perms(volume.getxattr("d/file", ACCESS)) == {1: 6, 2: 7, 4: 5, 16: 6, 32: 0}
        assert outcome(volume.getxattr, "d/file", DEFAULT) == errno.ENODATA
        volume.mkdir("d/sub", mode=0o777)
        assert volume.getxattr("d/sub", DEFAULT) == NAMED
        assert volume.stat("d/sub").mode & 0o777 == 0o770
        volume.setattr("d/file", mode=0o744)
        assert perms(volume.getxattr("d/file", ACCESS)) == {1: 7, 2: 7, 4: 5, 16: 4, 32: 4}
        assert volume.stat("d/file").mode & 0o777 == 0o744
    assert_clean(device)


def test_setting_an_acl_sets_the_mode() -> None:
    device = fresh()
    with mounted(device) as volume:
        volume.create("f", mode=0o600)
        volume.setxattr("f", ACCESS, NAMED)
        assert volume.stat("f").mode & 0o777 == 0o770
        assert volume.getxattr("f", ACCESS) == NAMED
        volume.setxattr("f", ACCESS, acl((1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)))
        assert volume.stat("f").mode & 0o777 == 0o644
        assert outcome(volume.getxattr, "f", ACCESS) == errno.ENODATA      # it says no more than the mode
    assert_clean(device)


def test_what_is_no_acl_is_refused() -> None:
    with mounted(fresh(512)) as volume:
        volume.create("f")
        volume.mkdir("d")
        assert outcome(volume.setxattr, "f", ACCESS, b"rubbish") == errno.EINVAL
        assert outcome(volume.setxattr, "f", ACCESS, b"\1\0\0\0" + NAMED[4:]) == errno.EOPNOTSUPP
        assert outcome(volume.setxattr, "d", DEFAULT, NAMED[:-8]) == errno.EINVAL
        assert outcome(volume.setxattr, "f", DEFAULT, NAMED) == errno.EACCES
        many = [(2, 7, i) for i in range(40)]
        huge = acl((1, 7, NO_ID), *many, (4, 5, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID))
        assert outcome(volume.setxattr, "d", DEFAULT, huge) == errno.E2BIG


# ---- damage


def attribute_device() -> MemoryDevice:
    device = fresh(1024, 64)
    with mounted(device) as volume:
        volume.create("f")
        for i in range(40):
            volume.setxattr("f", b"user.%d" % i, bytes([i]) * (40 * i + 1))
    return device


def use_everything(volume: Volume) -> None:
    for name in volume.listxattr("f"):
        volume.getxattr("f", name)
    for i in range(30):
        volume.setxattr("f", b"user.%d" % i, b"x" * (2000 - 60 * i))
    for i in range(30):
        volume.removexattr("f", b"user.%d" % i)
    volume.unlink("f")
    volume.close()


def record_blocks(device: MemoryDevice) -> list[int]:
    inode = Reader(device).path("f")
    indirect = inode.number("di_eattr")
    raw = read_block(device, indirect)
    pointers = [p for p, in struct.iter_unpack(">Q", raw[24:]) if p]
    return [indirect, *pointers]


@pytest.mark.parametrize(("at", "data", "what"), [
    (24, b"\0\0\0\0", "ea_rec_len"), (24, b"\0\1\0\0", "ea_rec_len"), (33, b"\7", "ea_type"),
    (32, b"\xff", "ea_"), (4, b"\0\0\0\5", "mh_type"),
])
def test_damage_is_named_and_withdraws(at: int, data: bytes, what: str) -> None:
    device = attribute_device()
    patch_bytes(device, record_blocks(device)[1], at, data)
    volume = mounted(device, quiet=True)
    try:
        assert outcome(use_everything, volume) == errno.EIO
        assert what in str(volume.fs.withdrawn)
    finally:
        volume.abandon()


@pytest.mark.parametrize("part", range(3))
def test_random_damage_never_crashes(part: int, rng: random.Random) -> None:
    device = attribute_device()
    blocks = record_blocks(device)
    base = device.snapshot()
    for _ in range(60):
        victim = MemoryDevice.from_snapshot(base)
        block = rng.choice(blocks)
        raw = bytearray(read_block(victim, block))
        for _ in range(rng.randrange(1, 5)):
            raw[rng.randrange(24, len(raw))] = rng.choice([0, 1, 255, rng.randrange(256)])
        write_block(victim, block, bytes(raw))
        volume = mounted(victim, quiet=True)
        try:
            code = outcome(use_everything, volume)
        finally:
            volume.abandon()
        assert code in (0, errno.EIO, errno.ENODATA, errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE)
