"""Space under a whole file system: full disks, quotas, crashes and threads; the checker judges every disk."""

import errno
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from spacekit import fresh, laboratory

from gfs2py.block._memory import MemoryDevice
from gfs2py.engine.volume import Volume
from gfs2py.fsck.check import check
from interop.commands import DEBIAN_SBIN, Commands

QUOTAS = ("relatime", "acl", "quota_account", "quota_enforce")
USER, GROUP = 0, 1
THREADS = 4


def assert_sound(dev: MemoryDevice) -> None:
    """Our checker finds nothing, but for deletions that a crash has left for a later mount."""
    found = [f for f in check(dev).findings if f.code != "di_unlinked"]
    assert not found, "\n".join(map(str, found[:20]))


def free_of(vol: Volume) -> int:
    return vol.calls.statfs()[2]


def fill(vol: Volume, prefix: str, size: int) -> list[str]:
    """Files of this size until the disk is full; the last one has what still fitted."""
    made: list[str] = []
    while True:
        name = f"/{prefix}{len(made)}"
        try:
            made.append(name)
            vol.create(name, bytes([len(made) % 251]) * size)
        except OSError as err:
            if err.errno != errno.ENOSPC:
                raise
            if not vol.exists(name):
                made.pop()
            return made


@pytest.mark.parametrize("size", [3000, 300_000])
def test_a_full_disk_gives_all_its_blocks_back(size: int) -> None:
    dev = fresh(48)
    with Volume(dev, quiet=True) as vol:
        before = free_of(vol)
    for turn in range(2):
        with Volume(dev, quiet=True) as vol:
            made = fill(vol, f"t{turn}-", size)
            assert free_of(vol) < 200
            for i, name in enumerate(made[:-1]):
                assert vol.read(name) == bytes([(i + 1) % 251]) * size
            for name in made:
                vol.unlink(name)
        # Unmounting waits for deletions; the root directory keeps the blocks it has grown to.
        with Volume(dev, quiet=True) as vol:
            assert before - free_of(vol) < 300
    assert_sound(dev)


def test_a_full_disk_survives_a_crash() -> None:
    dev = fresh(48)
    vol = Volume(dev, quiet=True)
    made = fill(vol, "f", 50_000)
    vol.sync()
    for name in made[::2]:
        vol.unlink(name)
    vol.abandon()
    with Volume(dev, quiet=True) as vol:
        for name in made[1:-1:2]:
            assert len(vol.read(name)) == 50_000
    assert_sound(dev)


def test_limits_hold_and_the_charges_are_what_the_files_use() -> None:
    dev = fresh(64)
    with laboratory(dev, quota=True) as lab:
        lab.set_quota(USER, 1000, limit=500)
    with Volume(dev, flags=QUOTAS, quiet=True, uid=0) as vol:
        vol.mkdir("/home", 0o777)
        vol.setattr("/home", mode=0o777)
        vol.calls.uid, vol.calls.gid = 1000, 1000
        vol.create("/home/a", b"x" * 400 * 4096)
        with pytest.raises(OSError) as over:
            vol.create("/home/b", b"y" * 200 * 4096)
        assert over.value.errno == errno.EDQUOT
        assert len(vol.read("/home/b")) <= 100 * 4096
        vol.unlink("/home/a")
    with Volume(dev, flags=QUOTAS, quiet=True, uid=1000, gid=1000) as vol:
        vol.create("/home/c", b"z" * 300 * 4096)
        vol.calls.uid, vol.calls.gid = 0, 0
        vol.setattr("/home/c", uid=1001, gid=7)
    assert_sound(dev)
    with laboratory(dev, quota=True) as lab:
        assert lab.quota(USER, 1000)[2] <= 500
        assert 300 <= lab.quota(USER, 1001)[2] <= 310
        assert lab.quota(USER, 1001)[2] == lab.quota(GROUP, 7)[2]


def churn(vol: Volume, who: int, seed: int) -> None:
    """Makes, moves, cuts and removes files in a directory of its own and in a shared one."""
    rng = random.Random(seed)
    mine: dict[str, bytes] = {}
    vol.mkdir(f"/d{who}")
    for step in range(1000):
        where = f"/d{who}" if rng.random() < 0.7 else "/shared"
        name = f"{where}/{who}-{step}"
        roll = rng.random()
        if roll < 0.5 or not mine:
            mine[name] = bytes([rng.randrange(256)]) * rng.choice([0, 10, 5000, 40_000, 300_000])
            vol.create(name, mine[name])
        elif roll < 0.75:
            victim = rng.choice(sorted(mine))
            vol.unlink(victim)
            del mine[victim]
        elif roll < 0.85:
            victim = rng.choice(sorted(mine))
            vol.rename(victim, name)
            mine[name] = mine.pop(victim)
        elif roll < 0.95:
            victim = rng.choice(sorted(mine))
            size = rng.randrange(len(mine[victim]) + 1)
            vol.truncate(victim, size)
            mine[victim] = mine[victim][:size]
        else:
            vol.sync()
    for name, data in mine.items():
        assert vol.read(name) == data, name


def crowd(vol: Volume, who: int, seed: int) -> int:
    """Writes and deletes on a disk that is too small for all; returns how often it was full."""
    rng = random.Random(seed)
    mine: dict[str, bytes] = {}
    full = 0
    for step in range(300):
        name = f"/{who}-{step}"
        data = bytes([rng.randrange(256)]) * rng.choice([100, 20_000, 400_000, 3_000_000])
        try:
            vol.create(name, data)
            mine[name] = data
        except OSError as err:
            if err.errno != errno.ENOSPC:
                raise
            full += 1
            if vol.exists(name):
                vol.unlink(name)
            for victim in rng.sample(sorted(mine), k=len(mine) // 3):
                vol.unlink(victim)
                del mine[victim]
    for name, data in mine.items():
        assert vol.read(name) == data, name
    return full


@pytest.mark.parametrize("crash", [False, True])
def test_threads_on_one_volume(seed: int, crash: bool) -> None:
    dev = fresh(256)
    vol = Volume(dev, flags=QUOTAS, quiet=True)
    vol.mkdir("/shared")
    with ThreadPoolExecutor(THREADS) as pool:
        for work in [pool.submit(churn, vol, i, seed + i) for i in range(THREADS)]:
            work.result()
    if crash:
        vol.abandon()
        vol = Volume(dev, flags=QUOTAS, quiet=True)
    vol.close()
    assert_sound(dev)


def test_threads_on_a_full_volume(seed: int) -> None:
    dev = fresh(64)
    with Volume(dev, flags=QUOTAS, quiet=True) as vol, ThreadPoolExecutor(THREADS) as pool:
        works = [pool.submit(crowd, vol, i, seed + i) for i in range(THREADS)]
        assert sum(work.result() for work in works), "the disk never became full"
    assert_sound(dev)


@pytest.mark.interop
@pytest.mark.parametrize("bsize", [512, 4096])
def test_fsck_accepts_quota_files_and_groups(bsize: int, tmp_path: Path, commands: Commands) -> None:
    dev = fresh(96, bsize)
    with Volume(dev, flags=QUOTAS, quiet=True) as vol:
        vol.mkdir("/home")
        for uid in (1, 46, 5000, 70_000, 0x7FFFFFFF, 0xFFFFFFFE):
            for i in range(20):
                vol.create(f"/home/{uid}-{i}", b"q" * 3000 * i)
                vol.setattr(f"/home/{uid}-{i}", uid=uid, gid=uid)
        for uid in (46, 70_000):
            for i in range(0, 20, 2):
                vol.unlink(f"/home/{uid}-{i}")
    assert_sound(dev)
    image = tmp_path / "image"
    dev.save(image)
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)


def test_the_scan_after_a_crash_spares_what_is_open() -> None:
    """A recovering mount frees what the crash left unlinked, in the background, but nothing of its own."""
    # Many groups, so that the scan is still under way when the files are made.
    dev = fresh(4096, 512)
    vol = Volume(dev, quiet=True)
    vol.create("/gone", b"left behind")
    vol.sync()
    vol.abandon()
    with Volume(dev, quiet=True) as vol:
        held = []
        for i in range(300):
            node, fh, _ = vol.calls.create(1, b"f%d" % i)
            vol.calls.write(node, 0, b"data %d" % i)
            vol.calls.unlink(1, b"f%d" % i)
            held.append((node, fh))
        held += [vol.calls.tmpfile(1)[:2] for _ in range(100)]
        vol.sync()
        for i, (node, fh) in enumerate(held):
            assert vol.calls.getattr(node).nlink == 0
            assert i >= 300 or vol.calls.read(node, 0, 100) == b"data %d" % i
            vol.calls.release(node, fh)
            vol.calls.forget(node)
    assert_sound(dev)
