"""A file system on a LUN: mounted, tortured while its target dies, fenced, given up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs2py.block import scsi
from gfs2py.block.iscsi import IscsiDevice
from interop.commands import CommandFailed, Commands, Mounts, wait_until_gone
from iscsi.tgt import Tgt

pytestmark = [pytest.mark.mount, pytest.mark.interop]

TOP = Path(__file__).resolve().parents[2]
SIZE = 128 << 20
TORTURE_LIMIT_S = 200.0


@pytest.fixture
def tgt(tmp_path: Path, commands: Commands) -> Iterator[Tgt]:
    image = tmp_path / "lun1"
    with image.open("wb") as f:
        f.truncate(SIZE)
    commands.mkfs(image, "-J", "8")
    with Tgt(tmp_path, image) as made:
        yield made


def test_a_mount_by_url(tgt: Tgt, mounts: Mounts, commands: Commands) -> None:
    mounted = mounts.mount(tgt.url())
    data = os.urandom(3 << 20)
    (mounted.path / "file").write_bytes(data)
    sources = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()
               if line.split()[1] == str(mounted.path)]
    assert sources == [tgt.url()]
    told = commands.check(commands.bin_dir / "gfs2_tool", "df", tgt.url())
    assert "lock_nolock" in told
    assert f"iSCSI session = up, portal {tgt.portal}, logins 1," in told
    with pytest.raises(CommandFailed, match="already mounted"):
        mounts.mount(tgt.url(), name="again")
    mounted.umount()
    commands.assert_clean(tgt.image)
    commands.assert_silent(commands.bin_dir / "fsck.gfs2", Path(tgt.image))
    mounted = mounts.mount(tgt.url(), "ro")
    assert (mounted.path / "file").read_bytes() == data


def test_what_fsync_promised_is_there(tgt: Tgt, mounts: Mounts, commands: Commands) -> None:
    """Writers count what they fsynced; the target dies again and again, at last with the daemon."""
    mounted = mounts.mount(tgt.url(), f"iscsi_timeout=60,logfile={tgt.directory / 'log'}")
    done = [0] * 3
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            fd = os.open(mounted.path / f"log{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            while not stop.is_set():
                os.write(fd, b"%07d\n" % done[number])
                os.fsync(fd)
                done[number] += 1
            os.close(fd)
        except OSError as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(done))]
    for t in threads:
        t.start()
    for _ in range(4):
        before = list(done)
        while not failures and any(a < b + 5 for a, b in zip(done, before, strict=True)):
            stop.wait(0.01)
        tgt.kill()
        tgt.start()
    stop.set()
    for t in threads:
        t.join()
    assert not failures
    (mounted.path / "not flushed").write_bytes(b"x" * 100_000)
    mounted.kill()
    tgt.kill()
    tgt.start()
    again = mounts.mount(tgt.url(), name="again")
    told = commands.check(commands.bin_dir / "gfs2_tool", "df", again.path)
    assert "iSCSI session = up" in told
    for number, count in enumerate(done):
        assert (again.path / f"log{number}").read_bytes() == b"".join(b"%07d\n" % k for k in range(count))
    again.umount()
    commands.assert_clean(tgt.image)
    told = (tgt.directory / "log").read_text()
    assert "connection lost" in told
    assert "back after" in told


@pytest.mark.parametrize("words", [
    "stress --ops 3000 --options writeback_cache,acl,iscsi_timeout=60",
    "stress --ops 1500 --options nowriteback_cache,iscsi_cache=through",
    "fsx --ops 1500 --options nowriteback_cache,iscsi_timeout=60",
])
def test_torture_with_a_target_that_dies(words: str, seed: int) -> None:
    name, *more = words.split()
    argv = [sys.executable, "-m", f"tests.torture.{name}", "--seed", str(seed), *more]
    done = subprocess.run(argv, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", timeout=TORTURE_LIMIT_S, check=False)
    assert done.returncode == 0, f"{' '.join(argv[1:])}:\n{done.stdout[-8000:]}"


def test_a_fenced_node_withdraws(tgt: Tgt, mounts: Mounts) -> None:
    log = tgt.directory / "log"
    mounted = mounts.mount(tgt.url(), f"logfile={log}")
    fd = os.open(mounted.path / "file", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"before")
    os.fsync(fd)
    with IscsiDevice(tgt.url()) as other:
        other.register(1)
        other.reserve(1, scsi.Reservation.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        os.write(fd, b"after")
        with pytest.raises(OSError) as e:
            os.fsync(fd)
        assert e.value.errno == errno.EIO
        with pytest.raises(OSError):
            (mounted.path / "more").write_bytes(b"x")
        other.clear(1)
    os.close(fd)
    daemon = mounted.daemon()
    mounted.commands.run("umount", mounted.path)
    wait_until_gone(daemon)
    told = log.read_text()
    assert "fenced" in told
    assert "withdrawing" in told


def test_a_target_that_stays_away(tgt: Tgt, mounts: Mounts) -> None:
    log = tgt.directory / "log"
    mounted = mounts.mount(tgt.url(), f"iscsi_timeout=1,logfile={log}")
    fd = os.open(mounted.path / "file", os.O_WRONLY | os.O_CREAT)
    tgt.kill()
    os.write(fd, b"x" * 10000)
    with pytest.raises(OSError) as e:
        os.fsync(fd)
    assert e.value.errno == errno.EIO
    os.close(fd)
    daemon = mounted.daemon()
    mounted.commands.run("umount", mounted.path)
    wait_until_gone(daemon)
    told = log.read_text()
    assert "given up (nothing since 1 s" in told
    assert "withdrawing" in told


@pytest.mark.parametrize(("options", "why"), [
    ("iscsi_timeout=x", "must be a number"), ("iscsi_cache=none", "must be one of replay, through, fail"),
    ("iscsi_credentials=relative", "absolute path"), ("iscsi_credentials=/nowhere/at/all", "No such file"),
    ("iscsi_digest=data", "must be one of none, header")])
def test_options_that_cannot_be(tgt: Tgt, mounts: Mounts, options: str, why: str) -> None:
    with pytest.raises(CommandFailed, match=why):
        mounts.mount(tgt.url(), options)


def test_nothing_to_mount(tgt: Tgt, mounts: Mounts) -> None:
    for url, why in ((tgt.url(9), "LUN"), ("iscsi://127.0.0.1:1/iqn.2011-07.com.example:x/1", "cannot connect"),
                     ("iscsi://127.0.0.1/x/1", "no target name")):
        with pytest.raises(CommandFailed, match=why):
            mounts.mount(url)
