"""The initiator, the tools and discovery with Debian's tgtd as the target."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfs2py.block import scsi
from gfs2py.block.iscsi import IscsiDevice, IscsiOptions, discover
from gfs2py.block.iscsi_url import parse_portal
from interop.commands import Commands
from iscsi.tgt import IQN, Tgt

# Under sanitisers it is left out: tgtd would inherit what is preloaded.
pytestmark = pytest.mark.interop

SIZE = 64 << 20
KEY_A, KEY_B = 0xA1, 0xB2
ONLY_REGISTERED = scsi.Reservation.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "lun1"
    with path.open("wb") as f:
        f.truncate(SIZE)
    return path


@pytest.fixture
def tgt(tmp_path: Path, image: Path) -> Iterator[Tgt]:
    with Tgt(tmp_path, image) as made:
        yield made


@pytest.mark.parametrize("large", [False, True])
def test_the_backing_file_is_what_was_written(tmp_path: Path, image: Path, rng: random.Random, large: bool) -> None:
    model = bytearray(SIZE)
    with Tgt(tmp_path, image, large=large) as tgt, IscsiDevice(tgt.url()) as device:
        assert (device.size_bytes, device.align) == (SIZE, 512)
        for _ in range(60):
            off = rng.randrange(SIZE - (2 << 20)) & ~511
            if rng.random() < 0.6:
                batch = [(off + k * 16384, rng.randbytes(512 * rng.randint(1, 32))) for k in range(rng.randint(1, 60))]
                device.writev(batch)
                for at, data in batch:
                    model[at:at + len(data)] = data
            else:
                n = rng.randint(1, 2 << 20)
                assert device.read(off, n) == model[off:off + n]
        device.flush()
        assert tgt.image.read_bytes() == model
        assert device.read(0, SIZE) == model


def test_discard_gives_blocks_back(tgt: Tgt) -> None:
    with IscsiDevice(tgt.url()) as device:
        device.write(0, b"x" * (8 << 20))
        device.flush()
        used = os.stat(tgt.image).st_blocks
        device.discard(0, 8 << 20)
        assert os.stat(tgt.image).st_blocks < used
        assert device.read(0, 1 << 20) == bytes(1 << 20)


def test_sectors_of_4096_bytes(tmp_path: Path, image: Path, rng: random.Random) -> None:
    with Tgt(tmp_path, image, block_bytes=4096) as tgt, IscsiDevice(tgt.url()) as device:
        assert (device.size_bytes, device.align) == (SIZE, 4096)
        data = rng.randbytes(1 << 20)
        device.write(1000, data)        # not aligned: bounced
        assert device.read(1000, 1 << 20) == data


def test_a_lun_that_is_not_there(tgt: Tgt) -> None:
    with pytest.raises(OSError, match=r"no such LUN|no LUN|no disk"), IscsiDevice(tgt.url(7)):
        pass


def test_a_target_that_is_not_there(tgt: Tgt) -> None:
    with pytest.raises(OSError, match="not found"), IscsiDevice(tgt.url().replace("target1", "target2")):
        pass


def test_the_controller_is_no_disk(tgt: Tgt) -> None:
    with pytest.raises(OSError, match="no disk"), IscsiDevice(tgt.url(0)):
        pass


def test_chap(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text(f"{IQN} web1 secretsecret12\n")
    secrets.chmod(0o600)
    with Tgt(tmp_path, image, user="web1", password="secretsecret12") as tgt:
        for user, password in ((None, ""), ("web1", "wrongwrongwrong"), ("web2", "secretsecret12")):
            if user is not None:
                monkeypatch.setenv("LIBISCSI_CHAP_USERNAME", user)
                monkeypatch.setenv("LIBISCSI_CHAP_PASSWORD", password)
            with pytest.raises(OSError, match="login refused") as e, IscsiDevice(tgt.url()):
                pass
            assert "secret" not in str(e.value)
        monkeypatch.setenv("LIBISCSI_CHAP_USERNAME", "web1")
        with IscsiDevice(tgt.url()) as device:
            assert device.size_bytes == SIZE
        monkeypatch.delenv("LIBISCSI_CHAP_USERNAME")
        with IscsiDevice(tgt.url(), options=IscsiOptions(credentials=str(secrets))) as device:
            device.write(0, b"x" * 512)


def test_header_digests(tgt: Tgt, rng: random.Random) -> None:
    data = rng.randbytes(1 << 20)
    with IscsiDevice(tgt.url(), options=IscsiOptions(header_digest=True)) as device:
        device.write(0, data)
        assert device.read(0, len(data)) == data


def test_discovery(tgt: Tgt, commands: Commands) -> None:
    found = discover(parse_portal(tgt.portal))
    assert [(one.portal, one.tag, one.target) for one in found] == [(tgt.portal, 1, IQN)]
    done = commands.ours("iscsiadm", "-m", "discovery", "-t", "sendtargets", "-p", tgt.portal)
    assert done.stdout == f"{tgt.portal},1 {IQN}\n"
    tgt.kill()
    done = commands.ours("iscsiadm", "-m", "discovery", "-t", "st", "-p", tgt.portal)
    assert done.returncode == 4
    assert "cannot connect" in done.stderr
    assert commands.ours("iscsiadm", "-m", "node").returncode == 7


def test_kill_9_during_writes(tgt: Tgt, rng: random.Random) -> None:
    """Four writers, each checking what it reads; the target dies and comes back three times meanwhile."""
    region, rounds = 4 << 20, 3
    failures: list[BaseException] = []
    stop = threading.Event()
    seeds = [rng.random() for _ in range(4)]
    models = [bytearray(region) for _ in range(4)]

    def work(number: int, device: IscsiDevice) -> None:
        mine = random.Random(seeds[number])
        base, model = number * region, models[number]
        try:
            while not stop.is_set():
                at = mine.randrange(region // 4096 - 64) * 4096
                batch = [(base + at + k * 8192, mine.randbytes(4096)) for k in range(mine.randint(1, 32))]
                device.writev(batch)
                for off, data in batch:
                    model[off - base:off - base + 4096] = data
                if mine.random() < 0.2:
                    device.flush()
                assert device.read(base + at, 65536) == model[at:at + 65536]
        except BaseException as e:
            failures.append(e)
            raise

    with IscsiDevice(tgt.url(), options=IscsiOptions(timeout_s=120, ping_s=1)) as device:
        threads = [threading.Thread(target=work, args=(k, device)) for k in range(4)]
        for t in threads:
            t.start()
        for done in range(rounds):
            before = device.stats()["writes"]
            while device.stats()["writes"] < before + 40 and not failures:
                stop.wait(0.01)
            tgt.kill()
            tgt.start()
            while device.status().sessions < done + 2 and not failures:
                stop.wait(0.01)
        stop.set()
        for t in threads:
            t.join()
        assert not failures
        device.flush()
        assert device.status().sessions == rounds + 1
        assert tgt.image.read_bytes()[:4 * region] == b"".join(models)


def test_a_target_that_hangs(tgt: Tgt) -> None:
    """Stopped, it keeps its connections and answers nothing, not even pings."""
    with IscsiDevice(tgt.url(), options=IscsiOptions(timeout_s=120, ping_s=1)) as device:
        device.write(0, b"x" * 512)
        tgt.signal(signal.SIGSTOP)
        try:
            writer = threading.Thread(target=device.write, args=(512, b"y" * 512))
            writer.start()
            while "no answer" not in device.status().why:
                writer.join(0.05)
        finally:
            tgt.signal(signal.SIGCONT)
        writer.join()
        assert device.read(0, 1024) == b"x" * 512 + b"y" * 512


def test_persistent_reservations(tgt: Tgt) -> None:
    with IscsiDevice(tgt.url()) as a, IscsiDevice(tgt.url()) as b:
        assert a.read_keys().keys == ()
        assert a.read_reservation() is None
        a.register(KEY_A)
        b.register(KEY_B)
        assert sorted(a.read_keys().keys) == [KEY_A, KEY_B]
        a.reserve(KEY_A, ONLY_REGISTERED)
        assert a.read_reservation() == scsi.Holder(KEY_A, ONLY_REGISTERED)
        b.write(0, b"b" * 512)
        a.preempt(KEY_A, KEY_B, ONLY_REGISTERED)
        assert a.read_keys().keys == (KEY_A,)
        with pytest.raises(OSError) as e:
            b.write(0, b"!" * 512)
        assert e.value.errno == errno.EBADE
        assert b.read(0, 512) == b"b" * 512
        with pytest.raises(scsi.ScsiError, match="fenced"):
            b.preempt(KEY_B, KEY_A, ONLY_REGISTERED)
        a.write(512, b"a" * 512)
        b.register(KEY_B)               # unfenced
        b.write(0, b"c" * 512)
        a.clear(KEY_A)
        assert a.read_keys().keys == ()
        b.write(0, b"d" * 512)


def test_mkfs_and_the_checkers(tgt: Tgt, commands: Commands) -> None:
    done = commands.ours("mkfs.gfs2", "-O", "-p", "lock_nolock", "-j", "2", "-J", "8", tgt.url())
    assert f"Device:                    {tgt.url()}" in done.stdout
    assert commands.ours("fsck.gfs2", "-n", tgt.url()).returncode == 0
    judged = subprocess.run(["/usr/sbin/fsck.gfs2", "-n", str(tgt.image)], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout
    assert "lock_nolock" in commands.ours("gfs2_tool", "sb", tgt.url(), "proto").stdout
    assert "mh_magic" in commands.ours("gfs2_edit", "-p", "sb", tgt.url()).stdout
    commands.ours("gfs2_edit", "-p", "sb", "field", "sb_locktable", "alpha:beta", tgt.url())
    assert "alpha:beta" in commands.ours("gfs2_tool", "sb", tgt.url(), "table").stdout
    # What is there is noticed, as on a disk of this machine.
    again = commands.ours("mkfs.gfs2", "-p", "lock_nolock", tgt.url())
    assert "gfs2" in again.stdout


@pytest.mark.parametrize(("tool", "words"), [
    ("mkfs.gfs2", ("-O", "-p", "lock_nolock")), ("fsck.gfs2", ("-n",)), ("gfs2_edit", ("-p", "sb")),
    ("gfs2_tool", ("sb",))])
def test_tools_say_why_they_cannot_open(tgt: Tgt, commands: Commands, tool: str, words: tuple[str, ...]) -> None:
    for url, why in ((tgt.url(9), "LUN"), (f"iscsi://127.0.0.1:1/{IQN}/1", "onnect"), ("iscsi://x/y/z", "target name")):
        done = commands.ours(tool, *words, url)
        assert done.returncode != 0
        assert why in done.stderr
        assert "Traceback" not in done.stderr
