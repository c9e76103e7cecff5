"""The initiator against a target that forgets, refuses, lies and hangs up."""

from __future__ import annotations

import errno
import random
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from gfs2py.block import scsi
from gfs2py.block.iscsi import IscsiDevice, IscsiOptions
from iscsi.fake_target import ANSWER, READ16, READY, SYNC10, WRITE16, Command, Disk, Do, FakeTarget

BLOCK = 512
BLOCKS = 1 << 14
PATIENT = IscsiOptions(timeout_s=120, ping_s=60)    # what ends a session here is the target, never a clock


@pytest.fixture(params=[512, 4096])
def disk(request: pytest.FixtureRequest) -> Disk:
    return Disk(BLOCKS // (request.param // BLOCK), request.param)


@pytest.fixture
def target() -> Iterator[FakeTarget]:
    with FakeTarget(Disk(BLOCKS)) as made:
        yield made


def once(opcode: int, do: Do, times: int = 1) -> Callable[[Command], Do]:
    """The first commands with this opcode meet `do`."""
    left = [times]

    def plan(command: Command) -> Do:
        if command.opcode == opcode and left[0] > 0:
            left[0] -= 1
            return do
        return ANSWER
    return plan


# -- plain work -------------------------------------------------------------------------------------------------------

def test_reads_and_writes_against_a_model(disk: Disk, rng: random.Random) -> None:
    with FakeTarget(disk) as target, IscsiDevice(target.url) as device:
        block, size = disk.block_bytes, device.size_bytes
        assert (device.align, size) == (block, BLOCKS * BLOCK)
        model = bytearray(size)
        for _ in range(60):
            kind = rng.choice(("write", "writev", "read", "readv", "flush", "fua"))
            pieces = sorted(rng.sample(range(size // (8 * block)), rng.randint(1, 40)))
            if kind in ("write", "fua"):
                off, n = rng.randrange(size - 700_000), rng.randint(1, 700_000)
                data = rng.randbytes(n)
                device.write(off, data, fua=kind == "fua")
                model[off:off + n] = data
            elif kind == "writev":
                batch = [(8 * block * at, rng.randbytes(block * rng.randint(1, 8))) for at in pieces]
                rng.shuffle(batch)
                device.writev(batch)
                for off, data in batch:
                    model[off:off + len(data)] = data
            elif kind == "read":
                off, n = rng.randrange(size - 900_000), rng.randint(1, 900_000)
                assert device.read(off, n) == model[off:off + n]
            elif kind == "readv":
                wanted = [(8 * block * at, block * rng.randint(1, 8)) for at in pieces]
                rng.shuffle(wanted)
                assert device.readv(wanted) == [bytes(model[o:o + n]) for o, n in wanted]
            else:
                device.flush()
                assert disk.durable == model
        assert device.read(0, size) == model
        device.flush()
        assert disk.durable == model


def test_adjacent_pieces_go_together(target: FakeTarget) -> None:
    with IscsiDevice(target.url) as device:
        before = target.commands
        device.writev([(k * 4096, bytes([k]) * 4096) for k in range(64)])
        assert target.commands - before == 1
        device.readv([(k * 4096, 4096) for k in range(0, 64, 2)])
        assert target.commands - before == 1 + 32


def test_many_threads(target: FakeTarget, seed: int) -> None:
    failures: list[BaseException] = []

    def work(number: int, device: IscsiDevice) -> None:
        rng = random.Random(f"{seed}/{number}")
        low, size = number << 20, 1 << 20
        model = bytearray(size)
        try:
            for _ in range(40):
                off, n = rng.randrange(size // BLOCK) * BLOCK, rng.randint(1, 40) * BLOCK
                n = min(n, size - off)
                data = rng.randbytes(n)
                device.write(low + off, data)
                model[off:off + n] = data
                if rng.random() < 0.2:
                    device.flush()
                off = rng.randrange(size // 2)
                assert device.read(low + off, size // 4) == model[off:off + size // 4]
        except BaseException as e:
            failures.append(e)
            raise

    with IscsiDevice(target.url) as device:
        threads = [threading.Thread(target=work, args=(k, device)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not failures


def test_a_flush_with_nothing_to_flush_asks_nobody(target: FakeTarget) -> None:
    with IscsiDevice(target.url) as device:
        before = target.commands
        device.flush()
        assert target.commands == before
        device.write(0, b"x" * BLOCK)
        device.flush()
        device.flush()
        assert target.commands == before + 2


def test_without_a_write_cache_nothing_is_kept() -> None:
    with FakeTarget(Disk(BLOCKS, write_cache=False)) as target, IscsiDevice(target.url) as device:
        assert not device.volatile_cache
        device.write(0, b"x" * 65536)
        assert device.status().unflushed_writes == 0


def test_read_only(target: FakeTarget) -> None:
    with IscsiDevice(target.url, readonly=True) as device, pytest.raises(OSError, match="Read-only") as e:
        device.write(0, b"x" * BLOCK)
    assert e.value.errno == errno.EROFS


# -- a target that comes back -----------------------------------------------------------------------------------------

def test_a_power_cut_of_the_target_loses_nothing(target: FakeTarget, rng: random.Random) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        model = bytearray(1 << 20)
        for _ in range(4):
            for _ in range(30):
                off = rng.randrange(2000) * BLOCK
                data = rng.randbytes(BLOCK * rng.randint(1, 40))
                device.write(off, data, fua=rng.random() < 0.3)
                model[off:off + len(data)] = data
            target.restart()
            assert device.read(0, len(model)) == model
        device.flush()
        target.disk.power_cut()
        assert target.disk.durable[:len(model)] == model
        status = device.status()
    assert status.sessions == 5
    assert status.replayed > 0
    assert len(set(target.logins)) == 1, "every login has to end the session before it: one ISID"


def test_what_the_replay_is_for(target: FakeTarget) -> None:
    """Without it (the mode that fails instead) the write is gone: the fake does forget."""
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="fail")) as device:
        device.write(0, b"x" * BLOCK)
        target.restart()
        assert device.read(0, BLOCK) == bytes(BLOCK)
        for _ in range(2):
            with pytest.raises(OSError) as e:
                device.flush()
            assert e.value.errno == errno.EIO


def test_an_outage_after_the_flush_is_no_loss_for_the_mode_that_fails(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="fail")) as device:
        device.write(0, b"x" * BLOCK)
        device.flush()
        target.restart()
        assert device.read(0, BLOCK) == b"x" * BLOCK
        device.write(0, b"y" * BLOCK)
        device.flush()


@pytest.mark.parametrize("fua", [True, False])
def test_through_the_cache_there_is_nothing_to_replay(fua: bool) -> None:
    """For shared disks: another node may have written the block since."""
    with FakeTarget(Disk(BLOCKS, fua=fua)) as target, \
            IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="through")) as device:
        device.writev([(k * 8192, bytes([k + 1]) * 4096) for k in range(20)])
        assert target.disk.durable[8192 * 3] == 4
        assert device.status().unflushed_writes == 0
        target.disk.write(0, b"o" * BLOCK, fua=True)        # the other node
        target.restart()
        assert device.read(0, BLOCK) == b"o" * BLOCK
        assert device.status().replayed == 0


def test_many_writes_through_the_cache_share_a_flush(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="through")) as device:
        target.disk.log.clear()
        device.writev([(k * 8192, b"x" * 4096) for k in range(200)])
        assert [what for what, _, _ in target.disk.log] == ["write"] * 200 + ["flush"]
        target.disk.log.clear()
        device.write(0, b"y" * 4096)
        assert target.disk.log == [("fua", 0, 8)]
        assert device.status().unflushed_bytes == 0


def test_a_batch_that_was_cut_off_before_its_flush_is_whole(target: FakeTarget) -> None:
    """Its caller still waits, and holds its locks: here repeating is right on a shared disk, too."""
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="through")) as device:
        cut = [True]

        def plan(command: Command) -> Do:
            if command.opcode == SYNC10 and cut:
                cut.clear()
                target.disk.power_cut()
                return Do("drop")
            return ANSWER
        target.plan = plan
        device.writev([(k * 8192, b"x" * 4096) for k in range(200)])
        target.disk.power_cut()
        assert not cut
        assert all(target.disk.durable[k * 8192:k * 8192 + 4096] == b"x" * 4096 for k in range(200))


def test_what_failed_on_a_shared_disk_does_not_come_back(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, cache="through")) as device:
        target.plan = lambda c: Do("sense", key=4, ascq=0x4400) if c.opcode == SYNC10 else ANSWER
        with pytest.raises(OSError, match="Input/output"):
            device.writev([(k * 8192, b"x" * 4096) for k in range(200)])
        assert device.status().unflushed_bytes == 0
        target.plan = lambda _: ANSWER
        target.restart()
        assert device.readv([(0, 4096), (8192, 4096)]) == [bytes(4096)] * 2
        assert device.status().replayed == 0


def test_a_newer_durable_write_is_not_undone(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"old!" * 1024)
        device.write(512, b"new!" * 128, fua=True)
        target.restart()
        assert device.read(0, 4096) == b"old!" * 128 + b"new!" * 128 + b"old!" * 768


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("opcode", [WRITE16, READ16, SYNC10])
def test_a_command_not_answered_is_sent_again(target: FakeTarget, opcode: int, done: bool) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"a" * BLOCK)
        target.plan = once(opcode, Do("drop", before=done))
        device.write(0, b"b" * 65536)
        assert device.read(0, 65536) == b"b" * 65536
        device.flush()
        target.disk.power_cut()
        assert target.disk.durable[:65536] == b"b" * 65536
        assert device.status().sessions == 2


def test_a_flush_that_was_lost_is_repeated_after_the_replay(target: FakeTarget) -> None:
    """The target forgets and hangs up when the flush comes: what the flush was for has to be there again first."""
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.writev([(k * 8192, b"k" * 4096) for k in range(10)])
        cut = [True]

        def plan(command: Command) -> Do:
            if command.opcode == SYNC10 and cut.pop() if cut else False:
                target.disk.power_cut()
                return Do("drop")
            return ANSWER
        target.plan = plan
        device.flush()
        target.disk.power_cut()
        assert all(target.disk.durable[k * 8192:k * 8192 + 4096] == b"k" * 4096 for k in range(10))


def test_a_flush_covers_what_was_acknowledged_before_it_began(target: FakeTarget) -> None:
    """A write acknowledged while the flush is under way may have come too late for it."""
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"a" * BLOCK)
        target.disk.log.clear()
        target.plan = once(SYNC10, Do("later"))
        flusher = threading.Thread(target=device.flush)
        flusher.start()
        while ("flush", 0, 0) not in target.disk.log:
            flusher.join(0.01)
        device.write(BLOCK, b"b" * BLOCK)
        flusher.join()
        assert device.status().unflushed_writes == 1
        target.restart()
        assert device.read(0, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK


def test_a_replay_keeps_the_order_of_overlapping_writes(target: FakeTarget) -> None:
    """The target carries the first of them out last, if it has others to carry out."""
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"1" * BLOCK * 4)
        device.write(BLOCK, b"2" * BLOCK)
        target.plan = once(WRITE16, Do("hold"))
        target.restart()
        assert device.read(0, BLOCK * 3) == b"1" * BLOCK + b"2" * BLOCK + b"1" * BLOCK


def test_death_during_the_replay(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        for k in range(20):
            device.write(k * 8192, bytes([k + 1]) * 4096)
        left = [3]

        def plan(command: Command) -> Do:
            if command.opcode == WRITE16 and command.cdb[9] == 160 and left[0]:     # the eleventh of them
                left[0] -= 1
                target.disk.power_cut()
                return Do("drop")
            return ANSWER
        target.plan = plan
        target.restart()
        device.flush()
        target.disk.power_cut()
        assert all(target.disk.durable[k * 8192:k * 8192 + 4096] == bytes([k + 1]) * 4096 for k in range(20))
        assert left == [0]


def test_too_much_to_keep_is_flushed(target: FakeTarget, rng: random.Random) -> None:
    options = IscsiOptions(timeout_s=120, keep_bytes=1 << 20)
    with IscsiDevice(target.url, options=options) as device:
        data = rng.randbytes(6 << 20)
        target.disk.log.clear()
        device.write(0, data)
        assert device.status().unflushed_bytes <= 1 << 20
        assert ("flush", 0, 0) in target.disk.log
        target.restart()
        assert device.read(0, len(data)) == data


def test_a_reset_seen_in_a_running_session(target: FakeTarget) -> None:
    """Unit attention 29/00: the cache may be gone, though the connection is not."""
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"x" * BLOCK)
        target.disk.power_cut()
        target.plan = once(READ16, Do("sense", key=6, ascq=0x2900))
        assert device.read(0, BLOCK) == b"x" * BLOCK
        assert device.status().replayed == 1


def test_other_attentions_change_nothing(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"x" * BLOCK)
        target.plan = once(READ16, Do("sense", key=6, ascq=0x3F0E), times=3)
        assert device.read(0, BLOCK) == b"x" * BLOCK
        assert device.status().sessions == 1


def test_a_silent_target_is_asked_and_left(target: FakeTarget) -> None:
    """Pings are answered, so the command is waited for; hanging up ends that."""
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=120, ping_s=1)) as device:
        silent = threading.Event()

        def plan(command: Command) -> Do:
            if command.opcode == READ16 and not silent.is_set():
                silent.set()
                return Do("silence")
            return ANSWER
        target.plan = plan
        reader = threading.Thread(target=device.read, args=(0, BLOCK))
        reader.start()
        silent.wait()           # in flight is not enough: the target may not have got it yet
        target.pinged.clear()
        target.pinged.wait()
        target.hang_up()
        reader.join()
        assert device.status().sessions >= 2


# -- a target that stays away -----------------------------------------------------------------------------------------

def test_after_the_time_out_everything_fails(target: FakeTarget, capfd: pytest.CaptureFixture[str]) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=1)) as device:
        device.write(0, b"x" * BLOCK)
        target.stop()
        with pytest.raises(OSError) as e:
            device.read(0, BLOCK)
        assert e.value.errno == errno.EIO
        target.start()
        for act in (device.flush, lambda: device.write(0, b"y" * BLOCK), lambda: device.read(0, 1)):
            with pytest.raises(OSError):
                act()
        status = device.status()
        assert status.state == "given up"
        assert "1 s" in status.why
    told = capfd.readouterr().err
    assert "connection lost" in told
    assert "1 writes are not flushed" in told
    assert "given up" in told
    assert target.disk.durable == bytes(len(target.disk.durable)), "nothing may be repeated once others may have it"


def test_it_says_what_it_waits_for(target: FakeTarget, capfd: pytest.CaptureFixture[str]) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=60)) as device:
        target.stop()
        reader = threading.Thread(target=device.read, args=(0, BLOCK))
        reader.start()
        told = ""
        while "waiting for iscsi portal" not in told:
            told += capfd.readouterr().err
            reader.join(0.05)
        assert f"waiting for iscsi portal 127.0.0.1:{target.port} since" in told
        assert device.status().outage_s > 0
        target.start()
        reader.join()
    assert "back after" in told + capfd.readouterr().err


def test_another_lun_is_not_written(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=5)) as device:
        device.write(0, b"x" * BLOCK)
        target.stop()
        target.join()
        target.disk = Disk(BLOCKS)
        target.disk.serial = b"other!"
        target.start()
        with pytest.raises(OSError, match="is another one than before"):
            device.command("READ KEYS", scsi.reserve_in(0, 8), want=8)
        assert target.disk.log == []


def test_a_smaller_lun_is_not_used(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=IscsiOptions(timeout_s=5)) as device:
        target.stop()
        target.join()
        target.disk = Disk(BLOCKS // 2)
        target.start()
        with pytest.raises(OSError) as e:
            device.read(0, BLOCK)
        assert e.value.errno == errno.EIO
        assert "smaller" in device.status().why


def test_several_portals(target: FakeTarget) -> None:
    """The first one refuses connections."""
    with FakeTarget(Disk(1)) as other:
        closed = other.port
    url = target.url.replace("iscsi://", f"iscsi://127.0.0.1:{closed},")
    with IscsiDevice(target.url, options=PATIENT):
        pass
    with pytest.raises(OSError, match=f"127.0.0.1:{closed}|[Cc]onne"), IscsiDevice(url, options=PATIENT):
        pass


# -- refusals ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("status", [0x08, 0x28, 0x40])
def test_busy_targets_are_asked_again(target: FakeTarget, status: int) -> None:
    with IscsiDevice(target.url) as device:
        target.plan = once(WRITE16, Do("status", status=status), times=4)
        device.writev([(k * 8192, b"x" * 4096) for k in range(40)])
        assert device.read(39 * 8192, 4096) == b"x" * 4096
        assert device.status().sessions == 1
        assert device.status().resent >= 4


@pytest.mark.parametrize("opcode", [WRITE16, READ16])
def test_a_reservation_conflict_is_told_apart(target: FakeTarget, opcode: int) -> None:
    with IscsiDevice(target.url) as device:
        target.plan = lambda c: Do("status", status=0x18) if c.opcode == opcode else ANSWER
        with pytest.raises(OSError) as e:
            device.write(0, b"x" * 300_000) if opcode == WRITE16 else device.read(0, 300_000)
        assert e.value.errno == errno.EBADE


def test_a_fenced_node_repeats_nothing(target: FakeTarget) -> None:
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"x" * BLOCK)
        target.plan = lambda c: Do("status", status=0x18) if c.opcode == WRITE16 else ANSWER
        target.restart()
        with pytest.raises(OSError) as e:
            device.read(0, BLOCK)
        assert e.value.errno == errno.EBADE
        assert "reservation" in device.status().why


@pytest.mark.parametrize(("key", "ascq", "code"), [
    (3, 0x1100, errno.EIO), (4, 0x4400, errno.EIO), (5, 0x2100, errno.EIO), (7, 0x2700, errno.EROFS),
    (7, 0x2707, errno.ENOSPC), (11, 0x0000, errno.EIO)])
def test_sense(target: FakeTarget, key: int, ascq: int, code: int) -> None:
    with IscsiDevice(target.url) as device:
        target.plan = lambda c: Do("sense", key=key, ascq=ascq) if c.opcode == WRITE16 else ANSWER
        with pytest.raises(OSError) as e:
            device.write(0, b"x" * 1_000_000)
        assert e.value.errno == code
        target.plan = lambda _: ANSWER
        device.write(0, b"y" * BLOCK)
        assert device.read(0, BLOCK) == b"y" * BLOCK


def test_the_piece_that_failed_is_named(target: FakeTarget) -> None:
    with IscsiDevice(target.url) as device:
        target.plan = lambda c: Do("sense", key=3, ascq=0x0C00) if c.opcode == WRITE16 and c.cdb[9] == 48 else ANSWER
        with pytest.raises(OSError, match=f"at {48 * BLOCK}"):
            device.writev([(k * 16 * BLOCK, b"x" * BLOCK) for k in range(8)])


def test_short_data_is_an_error(target: FakeTarget, capfd: pytest.CaptureFixture[str]) -> None:
    with IscsiDevice(target.url) as device:
        target.plan = lambda c: Do("short") if c.opcode == READ16 else ANSWER
        for n in (BLOCK, 4096, 200_000):
            with pytest.raises(OSError) as e:
                device.read(0, n)
            assert e.value.errno == errno.EIO
        target.plan = once(READ16, Do("short"))
        assert device.read(0, 4096) == bytes(4096)
    assert "less data" in capfd.readouterr().err


def pdu(opcode: int, tag: int, **fields: int) -> bytes:
    head = bytearray(48)
    head[0], head[1] = opcode, fields.pop("flags", 0x80)
    struct.pack_into(">I", head, 16, tag)
    for name, value in fields.items():
        struct.pack_into(">I", head, int(name[1:]), value)
    return bytes(head)


@pytest.mark.parametrize("opcode", [WRITE16, READ16])
def test_nonsense_ends_the_session_and_the_work_goes_on(target: FakeTarget, opcode: int, rng: random.Random) -> None:
    """Garbage in place of an answer: PDUs of no kind, wrong tags, lengths and offsets beyond everything."""
    def plan(command: Command) -> Do:
        if command.opcode != opcode or not mean:
            return ANSWER
        tag = command.tag
        return mean.pop()(tag)

    shapes: list[Callable[[int], Do]] = [
        lambda _: Do("bytes", raw=rng.randbytes(480)),
        lambda _: Do("bytes", raw=b"\xff" * 48),
        lambda tag: Do("bytes", raw=pdu(0x25, tag, b4=0x00FFFFFF)),
        lambda tag: Do("bytes", raw=pdu(0x25, tag, b4=512, b40=0xFFFFFE00, flags=0x81) + bytes(512)),
        lambda tag: Do("bytes", raw=pdu(0x31, tag, b20=1, b40=0x7FFFFFFF, b44=4096)),
        lambda tag: Do("bytes", raw=pdu(0x21, tag, flags=0)),
        lambda tag: Do("bytes", raw=pdu(0x3F, tag)),
        lambda tag: Do("bytes", raw=pdu(0x26, tag)),
        lambda tag: Do("bytes", raw=pdu(0x21, tag)[:20]),
        lambda tag: Do("bytes", raw=pdu(0x23, tag)),
    ]
    with IscsiDevice(target.url, options=PATIENT) as device:
        device.write(0, b"x" * 65536)
        for shape in shapes:
            mean = [shape]
            target.plan = plan
            worker = threading.Thread(target=device.write if opcode == WRITE16 else device.read,
                                      args=(0, b"y" * 65536 if opcode == WRITE16 else 65536))
            met = device.status().sessions
            worker.start()
            while worker.is_alive():
                worker.join(0.2)
                # What libiscsi takes for the beginning of something is never finished. The next session is left alone.
                if not mean and (status := device.status()).state == "up" and status.sessions == met:
                    target.hang_up()
        assert device.read(0, 65536) == (b"y" if opcode == WRITE16 else b"x") * 65536


def test_headers_with_wrong_bits(rng: random.Random) -> None:
    """Whatever a header becomes, each access ends, by itself or by an error, and nothing breaks."""
    def bend(head: bytearray) -> bool:
        if head[0] == 0x23 or rng.random() > 0.04:      # logins have their own tests
            return False
        for _ in range(rng.randint(1, 3)):
            head[rng.randrange(48)] ^= 1 << rng.randrange(8)
        return True

    ended = refused_ = 0
    with FakeTarget(Disk(BLOCKS)) as target:
        while ended < 100:
            target.bend = None
            with IscsiDevice(target.url, options=IscsiOptions(timeout_s=10, ping_s=1)) as device:
                target.bend = bend
                for _ in range(30):
                    ended += 1
                    try:
                        if rng.random() < 0.5:
                            device.writev([(8192 * at, bytes(4096)) for at in range(rng.randint(1, 3))])
                            device.flush()
                        else:
                            device.readv([(rng.randrange(60) * 65536, 65536) for _ in range(3)])
                    except OSError:
                        refused_ += 1
                        if device.status().state == "given up":
                            break
    assert refused_ < ended


# -- opening ----------------------------------------------------------------------------------------------------------

def refused(target: FakeTarget, url: str | None = None) -> OSError:
    with pytest.raises(OSError) as e, IscsiDevice(url or target.url):
        pass
    assert e.value.filename == (url or target.url)
    return e.value


def test_nobody_listens(target: FakeTarget) -> None:
    target.stop()
    assert "onnect" in (refused(target).strerror or "")


@pytest.mark.parametrize(("status", "why"), [(0x0201, "uth"), (0x0203, "not found"), (0x0301, "nav")])
def test_a_login_that_is_refused(target: FakeTarget, status: int, why: str) -> None:
    target.login_status = status
    text = refused(target).strerror or ""
    assert "login refused" in text
    assert why in text


@pytest.mark.parametrize("raw", [
    b"", b"\x23", b"\xff" * 48, b"\x23\x87" + b"\xff" * 46, b"HTTP/1.1 400 Bad Request\r\n" * 4])
def test_a_login_answered_by_nonsense(target: FakeTarget, raw: bytes) -> None:
    target.login_raw = raw
    assert refused(target).strerror


@pytest.mark.parametrize("do", [
    Do("drop"), Do("bytes", raw=b"\xff" * 96), Do("sense", key=4, ascq=0x4400), Do("status", status=0x18)])
@pytest.mark.parametrize("opcode", [READY, 0x12, 0x9E, 0x1A])
def test_a_lun_that_does_not_say_what_it_is(target: FakeTarget, opcode: int, do: Do) -> None:
    target.plan = lambda c: do if c.opcode == opcode else ANSWER
    assert refused(target).strerror


def test_an_answer_that_is_cut_short(target: FakeTarget) -> None:
    target.plan = lambda c: Do("short") if c.opcode == 0x9E else ANSWER
    with IscsiDevice(target.url) as device:     # the half that matters is there
        assert device.size_bytes == BLOCKS * BLOCK
    target.plan = lambda c: Do("short") if c.opcode == 0x12 else ANSWER
    assert "36 were wanted" in (refused(target).strerror or "")


def test_no_such_lun(target: FakeTarget) -> None:
    target.plan = lambda c: Do("sense", key=5, ascq=0x2500)
    assert "no LUN 1" in (refused(target).strerror or "")


def test_a_disk_without_flush_and_without_caching_page(target: FakeTarget) -> None:
    target.plan = lambda c: Do("sense", key=5, ascq=0x2000) if c.opcode in (SYNC10, 0x1A) else ANSWER
    with IscsiDevice(target.url) as device:
        assert not device.volatile_cache
        device.write(0, b"x" * BLOCK)
        device.flush()


def test_a_disk_with_fua_and_without_flush_is_written_through(target: FakeTarget) -> None:
    target.plan = lambda c: Do("sense", key=5, ascq=0x2000) if c.opcode == SYNC10 else ANSWER
    with IscsiDevice(target.url) as device:
        device.write(0, b"x" * BLOCK)
        device.flush()
        target.disk.power_cut()
        assert target.disk.durable[:BLOCK] == b"x" * BLOCK
