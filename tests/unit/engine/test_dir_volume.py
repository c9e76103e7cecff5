"""Directories of a mounted volume: every layout, growth, chains, colliding names, readdir, damage."""

import errno
import itertools
import random
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from collide import colliding_names, suffix_for
from gfs2py.block._memory import MemoryDevice
from gfs2py.edit.patch import get_field, patch_field, read_block, write_block
from gfs2py.edit.reader import Reader
from gfs2py.engine import _dirent as de
from gfs2py.engine.volume import Volume
from memfs import assert_clean, assert_debian_clean, free_blocks, fresh, mounted

ROOT = 1
REG, DIR = 0o100644, 0o755
EXHASH = 2


def add(volume: Volume, parent: int, name: bytes) -> None:
    node, _ = volume.calls.mknod(parent, name, REG)
    volume.calls.forget(node)


def names_of(volume: Volume, node: int, most: int = 1024) -> list[bytes]:
    """The whole directory, `most` entries per call; cookies must ascend and stay below 2^63."""
    found: list[bytes] = []
    off = -1
    while batch := volume.calls.readdir(node, max(off, 0), most):
        for entry in batch:
            assert off < entry.next_off < 1 << 63
            off = entry.next_off
            found.append(entry.name)
    return found


def listed(volume: Volume, node: int, most: int = 1024) -> set[bytes]:
    names = names_of(volume, node, most)
    assert names[:2] == [b".", b".."]
    assert len(set(names)) == len(names)
    return set(names[2:])


def outcome(call: Callable[..., object], *args: object) -> int:
    """The errno a call ends with; 0 for success."""
    try:
        call(*args)
    except OSError as failed:
        return failed.errno
    return 0


def random_names(rng: random.Random, count: int) -> list[bytes]:
    sizes = [1, 3, 8, 8, 8, 20, 60, 255]
    out = {bytes(rng.choices(range(48, 123), k=rng.choice(sizes))) + b"%d" % i for i in range(count)}
    return sorted(name[-255:] for name in out)


@pytest.mark.parametrize("bsize", [512, 1024, 2048, 4096])
def test_names_of_all_lengths_at_every_block_size(bsize: int, rng: random.Random) -> None:
    device = fresh(bsize)
    names = random_names(rng, 3000)
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
        assert listed(volume, node) == set(names)
        for name in names[::2]:
            volume.calls.unlink(node, name)
        with pytest.raises(FileNotFoundError):
            volume.calls.lookup(node, names[0])
        with pytest.raises(FileExistsError):
            volume.calls.mknod(node, names[1], REG)
    assert_clean(device)
    with mounted(device) as volume:
        assert listed(volume, volume.node("dir"), 7) == set(names[1::2])


def test_fifty_thousand_entries_and_all_deleted() -> None:
    device = fresh(1024)
    names = [b"message-%d" % i for i in range(50_000)]
    with mounted(device) as volume:
        before = free_blocks(volume)
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
        volume.sync()
        assert listed(volume, node) == set(names)
    assert_clean(device)
    with mounted(device) as volume:
        node = volume.node("dir")
        random.Random(3).shuffle(names)
        for name in names:
            volume.calls.unlink(node, name)
        assert listed(volume, node) == set()
        volume.calls.forget(node)
        volume.calls.rmdir(ROOT, b"dir")
    assert_clean(device)
    with mounted(device) as volume:
        assert free_blocks(volume) == before


def leaf_chain(device: MemoryDevice, path: str, crc: int) -> list[int]:
    """Blocks of the chain that names with this hash are in."""
    reader = Reader(device)
    inode = reader.path(path)
    depth = inode.number("di_depth")
    table = reader.data(inode)
    index = crc >> (32 - depth)
    block = int.from_bytes(table[8 * index:8 * index + 8], "big")
    chain = []
    while block:
        chain.append(block)
        block = int(get_field(device, block, "leaf", "lf_next"))
    return chain


@pytest.mark.parametrize("bsize", [512, 4096])
def test_names_with_one_hash_make_a_chain_at_depth_17(bsize: int, rng: random.Random) -> None:
    device = fresh(bsize)
    crc = 0xDEADBEEF
    names = list(itertools.islice(colliding_names(crc), 60 if bsize == 512 else 300))
    with mounted(device) as volume:
        before = free_blocks(volume)
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
        assert listed(volume, node, 1) == set(names)
        assert volume.calls.getattr(node).size == 8 << 17
    assert_clean(device)
    chain = leaf_chain(device, "dir", crc)
    assert len(chain) >= 4
    assert [get_field(device, block, "leaf", "lf_dist") for block in chain] == list(range(1, len(chain) + 1))
    assert {get_field(device, block, "leaf", "lf_depth") for block in chain} == {17}
    with mounted(device) as volume:
        node = volume.node("dir")
        gone = rng.sample(names, len(names) // 2)
        for name in gone:
            volume.calls.unlink(node, name)
        for name in gone[:10]:
            add(volume, node, name)
        assert listed(volume, node, 3) == set(names) - set(gone[10:])
        for name in set(names) - set(gone[10:]):
            volume.calls.unlink(node, name)
        volume.calls.forget(node)
        volume.calls.rmdir(ROOT, b"dir")
    assert_clean(device)
    with mounted(device) as volume:
        assert free_blocks(volume) == before


def test_long_chain_is_freed_in_rounds() -> None:
    """More leaves in one chain than one transaction frees."""
    device = fresh(512)
    names = list(itertools.islice(colliding_names(), 600 * 7))
    with mounted(device) as volume:
        before = free_blocks(volume)
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
        for name in names:
            volume.calls.unlink(node, name)
    assert len(leaf_chain(device, "dir", 0x12345678)) > 512
    with mounted(device) as volume:
        volume.rmdir("dir")
    assert_clean(device)
    with mounted(device) as volume:
        assert free_blocks(volume) == before


def alike_in_both_hashes(count: int) -> list[list[bytes]]:
    """Groups of names that neither the CRC nor the second hash tells apart."""
    groups: dict[int, list[bytes]] = {}
    for name in itertools.islice(colliding_names(prefix="pair"), 8000):
        groups.setdefault(de.py_second_hash(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1][:count]


def test_names_alike_in_both_hashes_are_each_read_once() -> None:
    pairs = alike_in_both_hashes(5)
    assert len(pairs) == 5
    names = [name for pair in pairs for name in pair]
    device = fresh(4096)
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
        for most in (1, 2, 3, 100):
            assert listed(volume, node, most) == set(names)


@pytest.mark.parametrize("bsize", [512, 4096])
def test_hash_prefix_forces_doubling_one_by_one(bsize: int) -> None:
    """Names that share more and more leading bits: each block full of them takes the table one bit deeper."""
    device = fresh(bsize)
    names = []
    for bits in range(14):
        for number in range(bsize // 40):
            stem = b"%d.%d" % (bits, number)
            crc = (1 << 31 >> bits) | (zlib.crc32(stem) & ((1 << 31 >> bits) - 1))
            name = stem + suffix_for(stem, crc)
            if b"/" not in name and b"\0" not in name:
                names.append(name)
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        sizes = set()
        for name in names:
            add(volume, node, name)
            sizes.add(volume.calls.getattr(node).size)
        assert len(sizes) >= 4
        assert listed(volume, node, 5) == set(names)
    assert_clean(device)


def test_walk_sees_every_name_that_stays_once_while_others_come_and_go(rng: random.Random) -> None:
    device = fresh(512)
    stay = [b"stay%d" % i for i in range(500)] + list(itertools.islice(colliding_names(), 40))
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in stay:
            add(volume, node, name)
        others: set[bytes] = set()
        seen: list[bytes] = []
        off = 0
        while batch := volume.calls.readdir(node, off, rng.randrange(1, 6)):
            seen += [entry.name for entry in batch]
            off = batch[-1].next_off
            for _ in range(rng.randrange(12)):
                name = b"other%d" % rng.randrange(100_000)
                if name not in others:
                    add(volume, node, name)
                    others.add(name)
            for name in rng.sample(sorted(others), len(others) // 3):
                volume.calls.unlink(node, name)
                others.discard(name)
        assert len(set(seen)) == len(seen)
        assert set(stay) <= set(seen)
    assert_clean(device)


def test_reader_among_colliding_names_loses_none_when_those_read_are_removed(rng: random.Random) -> None:
    """The usual way to empty a directory: read some, unlink them, read on from the cookie."""
    names = list(itertools.islice(colliding_names(), 60))
    with mounted(fresh(512)) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names[::2]:
            add(volume, node, name)
        late = names[1::2]
        seen: list[bytes] = []
        off = 0
        while batch := volume.calls.readdir(node, off, rng.randrange(1, 4)):
            off = batch[-1].next_off
            for entry in batch:
                seen.append(entry.name)
                if entry.name in names:
                    volume.calls.unlink(node, entry.name)
            if late:
                add(volume, node, late.pop())
        assert set(names[::2]) <= set(seen)
        assert len(set(seen)) == len(seen)


def test_threads_share_a_growing_directory() -> None:
    """Two write, two read; the table doubles and leaves split under the readers."""
    device = fresh(512)
    stay = {b"stay%d" % i for i in range(200)}
    rounds = 4000

    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in stay:
            add(volume, node, name)

        def write(who: int) -> None:
            for i in range(rounds):
                add(volume, node, b"%d.%d" % (who, i))
                if i % 3 == 2:
                    volume.calls.unlink(node, b"%d.%d" % (who, i - 1))

        def read() -> int:
            walks = 0
            while not all(writer.done() for writer in writers):
                found = listed(volume, node, 50)
                assert stay <= found
                for name in (b"stay7", b"stay99"):
                    made, _ = volume.calls.lookup(node, name)
                    volume.calls.forget(made)
                walks += 1
            return walks

        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, who) for who in range(2)]
            readers = [pool.submit(read) for _ in range(2)]
            for future in writers:
                future.result()
            assert all(future.result() > 0 for future in readers)
        gone = {b"%d.%d" % (who, i - 1) for who in range(2) for i in range(2, rounds, 3)}
        assert listed(volume, node) == stay | {b"%d.%d" % (who, i) for who in range(2)
                                               for i in range(rounds)} - gone
    assert_clean(device)


def test_links_and_dotdot_follow_moves() -> None:
    device = fresh(512)
    with mounted(device) as volume:
        a, _ = volume.calls.mkdir(ROOT, b"a", DIR)
        b, _ = volume.calls.mkdir(ROOT, b"b", DIR)
        for i in range(30):
            volume.mkdir(f"/a/sub{i}")
        assert volume.calls.getattr(a).nlink == 32
        assert volume.calls.getattr(ROOT).nlink == 4
        volume.rename("/a/sub3", "/b/moved")
        volume.rename("/a/sub4", "/b/moved")
        assert (volume.calls.getattr(a).nlink, volume.calls.getattr(b).nlink) == (30, 3)
        volume.create("/b/file")
        volume.rename("/a/sub5", "/b/file", 2)
        assert (volume.calls.getattr(a).nlink, volume.calls.getattr(b).nlink) == (29, 4)
        up = {entry.name: entry.ino for entry in volume.calls.readdir(volume.node("/b/moved"))}
        assert up[b".."] == volume.calls.getattr(b).ino
        with pytest.raises(OSError) as caught:
            volume.rmdir("/b")
        assert caught.value.errno == errno.ENOTEMPTY
    assert_clean(device)


def test_name_too_long() -> None:
    with mounted(fresh(512)) as volume:
        add(volume, ROOT, b"x" * 255)
        long = b"x" * 256
        for call in (lambda: volume.calls.mknod(ROOT, long, REG), lambda: volume.calls.lookup(ROOT, long)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENAMETOOLONG


def test_full_file_system_refuses_names_and_recovers() -> None:
    device = fresh(512, 24)
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        made = 0
        while (code := outcome(add, volume, node, b"%d" % made)) == 0:
            made += 1
        assert code == errno.ENOSPC
        assert made > 5000
        for i in range(made):
            volume.calls.unlink(node, b"%d" % i)
        volume.sync()
        for i in range(1000):
            add(volume, node, b"again%d" % i)
        assert len(listed(volume, node)) == 1000
        assert volume.fs.withdrawn is None
    assert_clean(device)


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 4096])
def test_debian_accepts_grown_and_chained_directories(bsize: int, tmp_path: Path, rng: random.Random) -> None:
    device = fresh(bsize)
    with mounted(device) as volume:
        for where, names in ((b"big", random_names(rng, 4000)),
                             (b"alike", list(itertools.islice(colliding_names(), 200)))):
            node, _ = volume.calls.mkdir(ROOT, where, DIR)
            for name in names:
                add(volume, node, name)
            for name in names[::3]:
                volume.calls.unlink(node, name)
    assert_clean(device)
    assert_debian_clean(device, tmp_path)


# ---- damage

def hashed_device() -> tuple[MemoryDevice, list[bytes]]:
    device = fresh(512, 64)
    names = [b"name%d" % i for i in range(400)]
    with mounted(device) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir", DIR)
        for name in names:
            add(volume, node, name)
    return device, names


def use_everything(volume: Volume, names: list[bytes]) -> None:
    node = volume.node("dir")
    for name in names:
        volume.calls.lookup(node, name)
    listed(volume, node)
    for i in range(1000):
        add(volume, node, b"more%d" % i)


def expect_damage(device: MemoryDevice, what: str, names: list[bytes]) -> None:
    """Listing, looking up or adding meets the damage: EIO, and the mount withdraws and says why."""
    volume = mounted(device, quiet=True)
    try:
        assert outcome(use_everything, volume, names) == errno.EIO
        reason = volume.fs.withdrawn
        assert reason is not None
        assert what in reason
    finally:
        volume.abandon()


@pytest.mark.parametrize(("struct", "field", "value", "what"), [
    ("leaf", "lf_depth", 18, "lf_depth"), ("leaf", "lf_depth", 0, "leaf pointer"),
    ("leaf", "lf_entries", 60000, "lf_entries"),
    ("leaf", "lf_inode", 5, "lf_inode"), ("leaf", "lf_next", -1, "lf_next"), ("leaf", "lf_next", 1 << 60, ""),
    ("meta_header", "mh_type", 7, "mh_type"), ("dinode", "di_depth", 30, "di_depth"),
    ("dinode", "di_size", 4096, "di_size"),
])
def test_damage_is_named_and_withdraws(struct: str, field: str, value: int, what: str) -> None:
    device, names = hashed_device()
    reader = Reader(device)
    inode = reader.path("dir")
    leaf = next(iter(reader.leaves(inode)))[0]
    block = inode.addr if struct == "dinode" else leaf
    patch_field(device, block, struct, field, leaf if value == -1 else value)
    expect_damage(device, what, names)


@pytest.mark.parametrize("value", [0, 1, 1 << 50])
def test_bad_pointer_in_the_hash_table(value: int) -> None:
    device, names = hashed_device()
    reader = Reader(device)
    block = next(iter(reader.data_blocks(reader.path("dir"))))[1]
    raw = bytearray(read_block(device, block))
    raw[24 + 8:24 + 16] = value.to_bytes(8, "big")
    write_block(device, block, bytes(raw))
    expect_damage(device, "", names)


def directory_blocks(device: MemoryDevice) -> list[int]:
    reader = Reader(device)
    inode = reader.path("dir")
    table = [block for _, block in reader.data_blocks(inode)]
    return [inode.addr, *table, *(block for block, _ in reader.leaves(inode))]


def change_everything(volume: Volume, gone: list[bytes]) -> None:
    node = volume.node("dir")
    names_of(volume, node)
    for name in gone:
        volume.calls.unlink(node, name)
    for i in range(100):
        add(volume, node, b"new%d" % i)
    volume.rename("/dir/new1", "/dir/new2")
    names_of(volume, node, 1)


@pytest.mark.parametrize("part", range(4))
def test_random_damage_never_crashes(part: int, rng: random.Random) -> None:
    """Any bytes in a directory's blocks: calls succeed or raise OSError, in bounded time."""
    device, names = hashed_device()
    blocks = directory_blocks(device)
    base = device.snapshot()
    for _ in range(60):
        victim = MemoryDevice.from_snapshot(base)
        for _ in range(rng.randrange(1, 4)):
            block = rng.choice(blocks)
            raw = bytearray(read_block(victim, block))
            for _ in range(rng.randrange(1, 4)):
                raw[rng.randrange(24, len(raw))] = rng.choice([0, 1, 255, rng.randrange(256)])
            write_block(victim, block, bytes(raw))
        volume = mounted(victim, quiet=True)
        try:
            code = outcome(change_everything, volume, rng.sample(names, 100))
        finally:
            volume.abandon()
        assert code in (0, errno.EIO, errno.ENOENT, errno.EEXIST, errno.ESTALE, errno.EOVERFLOW,
                        errno.ENOTDIR, errno.EPERM, errno.EMLINK, errno.ENOSPC)
