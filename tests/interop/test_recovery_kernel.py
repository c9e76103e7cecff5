"""Journals that the kernel left behind when its machine was reset: we replay them as the kernel does."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gfs2py.block import FileDevice, MemoryDevice, RecordingDevice
from gfs2py.engine._recovery import Journal
from gfs2py.ondisk import structs
from gfs2py.ondisk.structs import DamageError
from interop.commands import DEBIAN_SBIN, Commands
from interop.oracle.kernel import Kernel

MakeImage = Callable[..., Path]
UNMOUNT, RECOVERY = 1, 0x20

# fsync'd one by one, so that the log is long and little of it is in place; then some that nobody promised. However slow
# the guest is: its flusher does not run, which would put blocks in place and move the log's tail.
WORK = """
echo 0 > /proc/sys/vm/dirty_writeback_centisecs
mkdir d e
touch jd; chattr +j jd
i=0; while [ $i -lt 300 ]; do echo "file $i" > d/f$i; i=$((i+1)); done
dd if=/dev/urandom of=big bs=64k count=20 conv=fsync 2>/dev/null
rm d/f1?
dd if=/dev/zero bs=4k count=8 of=jd conv=fsync 2>/dev/null
printf '\\001\\026\\031\\160 begins as metadata does' | dd of=jd conv=notrunc,fsync 2>/dev/null
rm -r d/f2?; mv d/f3 e/
ln -s /nowhere e/link
echo kept > e/last
dd if=/dev/zero of=e/synced bs=4k count=1 conv=fsync 2>/dev/null
echo lost > e/lost
"""


def entries(dev: FileDevice | MemoryDevice, bsize: int, addr: int) -> dict[str, int]:
    """The entries of a directory that fits into its dinode: name -> address."""
    block = dev.read(addr * bsize, bsize)
    out, at = {}, 232
    while at < bsize:
        _formal, no_addr, _hash, rec_len, name_len = struct.unpack_from(">QQIHH", block, at)
        if no_addr:
            out[block[at + 40 : at + 40 + name_len].decode()] = no_addr
        at += rec_len
    return out


class System:
    """Addresses of the system files of an image."""

    def __init__(self, dev: FileDevice | MemoryDevice) -> None:
        sb = dev.read(65536, 128)
        (self.bsize,) = struct.unpack_from(">I", sb, 36)
        self.dev = dev
        master = entries(dev, self.bsize, struct.unpack_from(">Q", sb, 56)[0])
        self.statfs = master["statfs"]
        self.journals = entries(dev, self.bsize, master["jindex"])
        self.per_node = entries(dev, self.bsize, master["per_node"])

    def journal(self, jid: int) -> Journal:
        return Journal(self.dev, self.bsize, self.journals[f"journal{jid}"])

    def newest_header(self, jid: int) -> tuple[int, int, int]:
        """Sequence, position and tail, by reading every block of the journal."""
        found = []
        for lblk, dblk, length in self.journal(jid).extents:
            blocks = self.dev.read(dblk * self.bsize, length * self.bsize)
            for n in range(length):
                with contextlib.suppress(DamageError):
                    lh = structs.checked("log_header", blocks[n * self.bsize:(n + 1) * self.bsize], block=dblk + n)
                    if structs.num(lh, "lh_blkno") == lblk + n:
                        found.append((structs.num(lh, "lh_sequence"), lblk + n, structs.num(lh, "lh_tail")))
        return max(found)

    def values(self, addr: int) -> tuple[int, ...]:
        return struct.unpack(">qqq", self.dev.read(addr * self.bsize + 232, 24))


@pytest.mark.kernel
@pytest.mark.interop
@pytest.mark.parametrize(("bsize", "jid"), [(4096, 0), (1024, 1)])
def test_the_kernels_journal_replays_to_what_the_kernel_makes_of_it(
    kernel: Kernel, commands: Commands, make_image: MakeImage, bsize: int, jid: int
) -> None:
    image = make_image(256)
    commands.mkfs(image, "-J", "8", "-j", "2", "-b", str(bsize), debian=True)
    kernel.crash(image, WORK, mount_opts=f"hostdata=jid={jid}")
    theirs = kernel.manifest(image)  # on an overlay: the kernel replays, the image stays as it is
    with FileDevice(image) as dev:
        system = System(dev)
        journal = system.journal(jid)
        dirty = journal.head()
        assert not dirty.clean
        assert (dirty.sequence, dirty.blkno, dirty.tail) == system.newest_header(jid)
        assert dirty.statfs_addr == system.per_node[f"statfs_change{jid}"]
        before = MemoryDevice.load(image)
        dry = journal.replay(dry_run=True)
        assert dry.replayed > 100
        assert dry.found_data > 0
        was = system.values(system.statfs)
        head, stats = journal.recover(master_statfs=system.statfs, jid=0, sec=1_700_000_000, nsec=5)
        assert head == dirty
        assert stats[:6] == dry[:6]
        clean = journal.head()
        # One header for the statfs files, which go through the journal, and one that declares it clean.
        assert (clean.sequence, clean.flags) == (dirty.sequence + 2, UNMOUNT | RECOVERY)
        local = (dirty.local_total, dirty.local_free, dirty.local_dinodes)
        # The replay may itself restore a newer master file; here nothing wrote it since mkfs.
        assert system.values(system.statfs) == tuple(a + b for a, b in zip(was, local, strict=True))
        assert system.values(dirty.statfs_addr) == (0, 0, 0)
        assert system.journal(1 - jid).head().clean
    commands.assert_silent(DEBIAN_SBIN / "fsck.gfs2", image)
    ours = kernel.manifest(image)
    assert ours == theirs
    assert any(line.startswith("/e/synced ") for line in ours)
    assert any(line.startswith("/e/last ") for line in ours)
    crash_during_recovery(before, jid)


def crash_during_recovery(disk: MemoryDevice, jid: int) -> None:
    """Wherever the power fails during the replay, the next one ends with the same file system."""
    system = System(disk)
    dev = RecordingDevice(disk)
    Journal(dev, system.bsize, system.journals[f"journal{jid}"]).recover()
    want = dev.cut(dev.epochs)
    for seed in range(10):
        cut = dev.cut_random(seed)
        Journal(cut.device, system.bsize, system.journals[f"journal{jid}"]).recover()
        for at in range(0, disk.size_bytes, 1 << 20):
            assert cut.device.read(at, 1 << 20) == want.read(at, 1 << 20), f"seed {seed}, at {at}"
