"""Directories that both sides change: ours grown to chains, the kernel goes on, we go on."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from collide import colliding_names
from gfs2py.block._memory import MemoryDevice
from gfs2py.engine.volume import Volume
from interop.oracle.kernel import Kernel
from memfs import assert_clean, assert_debian_clean, fresh, mounted

pytestmark = [pytest.mark.kernel, pytest.mark.interop]

ROOT = 1
REG = 0o100644
# Lists what is there, takes away and adds; a name per line.
SCRIPT = """set -e
cd "$MNT/dir"
ls -A | LC_ALL=C sort > /tmp/listed
LC_ALL=C sort /ctl/present | cmp - /tmp/listed
while IFS= read -r name; do [ -e "$name" ]; done < /ctl/present
while IFS= read -r name; do rm -- "$name"; done < /ctl/remove
while IFS= read -r name; do : > "$name"; done < /ctl/add
mkdir sub
mv sub moved
"""


def readable(names: list[bytes]) -> list[bytes]:
    return [name for name in names if b"\n" not in name and name.decode("latin-1").isprintable()]


def lines(names: set[bytes]) -> bytes:
    return b"".join(name + b"\n" for name in sorted(names))


def fill(volume: Volume, names: set[bytes]) -> None:
    node, _ = volume.calls.mkdir(ROOT, b"dir")
    for name in sorted(names):
        made, _ = volume.calls.mknod(node, name, REG)
        volume.calls.forget(made)


@pytest.mark.parametrize("bsize", [512, 4096])
def test_the_kernel_continues_our_directories_and_we_its(bsize: int, kernel: Kernel, tmp_path: Path) -> None:
    rng = random.Random(5)
    alike = readable(list(itertools.islice(colliding_names(), 1000)))[:160]
    plain = [b"file-%d" % i * rng.randrange(1, 5) for i in range(1200)]
    present = set(alike[:100] + plain[:800])
    remove = set(rng.sample(sorted(present), 300))
    added = set(alike[100:] + plain[800:])
    device = fresh(bsize, 64)
    with mounted(device) as volume:
        fill(volume, present)
    image = tmp_path / "image"
    device.save(image)
    kernel.run(image, SCRIPT, files={"present": lines(present), "remove": lines(remove), "add": lines(added)})
    device = MemoryDevice.load(image)
    left = (present - remove) | added
    with mounted(device) as volume:
        assert set(volume.listdir("dir")) == left | {b"moved"}
        for name in left:
            volume.unlink(b"/dir/" + name)
        fill_again = [b"again%d" % i for i in range(500)] + alike[:30]
        for name in fill_again:
            volume.create(b"/dir/" + name)
        assert set(volume.listdir("dir")) == {*fill_again, b"moved"}
    assert_clean(device)
    assert_debian_clean(device, tmp_path)
