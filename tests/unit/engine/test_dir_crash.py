"""Power cuts while directories grow, and while directories and attributes are freed."""

import itertools
import random
import time

from collide import colliding_names
from gfs2py.block._memory import MemoryDevice
from gfs2py.block._recording import RecordingDevice
from gfs2py.engine.volume import Volume
from memfs import assert_clean, free_blocks, fresh, mounted

ROOT = 1
REG = 0o100644
CUTS = 40


def add(volume: Volume, node: int, name: bytes) -> None:
    made, _ = volume.calls.mknod(node, name, REG)
    volume.calls.forget(made)


def replayed(device: MemoryDevice) -> Volume:
    return mounted(device, quiet=True)


def wait_for_free(volume: Volume, wanted: int) -> None:
    """After replay the mount looks for inodes that nobody has a name of and goes on freeing them."""
    end = time.monotonic() + 20
    while free_blocks(volume) != wanted:
        assert time.monotonic() < end, f"{volume.calls.statfs()[2]} blocks are free, not {wanted}"
        time.sleep(0.01)


def test_what_is_there_after_a_cut_is_a_prefix_of_the_inserts(rng: random.Random) -> None:
    """Every insert is one step of the log: splits, doublings and chains are never half there."""
    names = list(itertools.islice(colliding_names(), 25))
    names += [b"name%d" % i for i in range(600)]
    rng.shuffle(names)
    device = RecordingDevice(fresh(512, 64))
    with Volume(device, background=False) as volume:
        node, _ = volume.calls.mkdir(ROOT, b"dir")
        volume.sync()
        device.mark(0)
        for number, name in enumerate(names, 1):
            add(volume, node, name)
            if rng.random() < 0.05:
                volume.sync()
                device.mark(number)
    seen_parts = 0
    for seed in range(CUTS):
        cut = device.cut_random(seed)
        durable = max((n for n in device.acknowledged(cut.epoch) if isinstance(n, int)), default=None)
        with replayed(cut.device) as volume:
            if durable is None:
                continue
            found = volume.listdir("dir")
            assert set(found) == set(names[:len(found)])
            assert len(found) >= durable
            seen_parts += 0 < len(found) < len(names)
            add(volume, volume.node("dir"), b"after the cut")
        assert_clean(cut.device)
    assert seen_parts


def test_freeing_a_directory_and_attributes_can_be_cut_anywhere(rng: random.Random) -> None:
    base = fresh(512, 64)
    with mounted(base) as volume:
        empty = free_blocks(volume)
        node, _ = volume.calls.mkdir(ROOT, b"dir")
        names = [b"some name %d" % i for i in range(5000)] + list(itertools.islice(colliding_names(), 60))
        for name in names:
            add(volume, node, name)
        for name in names:
            volume.calls.unlink(node, name)
        for i in range(60):
            volume.calls.setxattr(node, b"user.%d" % i, rng.randbytes(rng.choice([5, 200, 900, 4000])))
    device = RecordingDevice(base)
    with Volume(device, background=False) as volume:
        volume.rmdir("dir")
        for i in range(5):
            volume.mkdir(f"other{i}")
            volume.sync()
    for seed in range(CUTS):
        cut = device.cut_random(seed)
        with Volume(cut.device, background=True, quiet=True) as volume:
            if not volume.exists("dir"):
                # The root may have got a leaf; blocks are as large as sectors here.
                wait_for_free(volume, empty - len(volume.listdir()) - volume.stat("/").blocks + 1)
        assert_clean(cut.device)


def test_an_attribute_is_old_or_new_after_a_cut(rng: random.Random) -> None:
    """Replaced by values of any size, in records and in blocks of their own."""
    device = RecordingDevice(fresh(1024, 64))
    values = [b"%d:" % i + rng.randbytes(rng.choice([3, 300, 900, 3000, 20000])) for i in range(150)]
    with Volume(device, background=False) as volume:
        volume.create("f")
        volume.setxattr("f", b"user.other", b"o" * 800)
        for number, value in enumerate(values):
            volume.setxattr("f", b"user.a", value)
            if rng.random() < 0.2:
                volume.sync()
                device.mark(number)
    judged = 0
    for seed in range(CUTS):
        cut = device.cut_random(seed)
        durable = max((n for n in device.acknowledged(cut.epoch) if isinstance(n, int)), default=None)
        with replayed(cut.device) as volume:
            if durable is not None:
                assert volume.getxattr("f", b"user.a") in values[durable:]
                assert volume.getxattr("f", b"user.other") == b"o" * 800
                judged += 1
        assert_clean(cut.device)
    assert judged
