"""The quorum disk's task on a disk of the test's own, which can hang, fail and be slow; heuristics as real programs."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from guide_conf import changed

from cman.ccs.load import Config, load
from cman.qdisk.disk import Disk, Found, find
from cman.qdisk.heuristics import Heuristic, Heuristics, Standing, run_once
from cman.qdisk.ondisk import (
    SLOTS,
    Header,
    NodeState,
    QdiskError,
    Status,
    blank_disk,
    disk_bytes,
    pack_status,
    unpack_status,
)
from cman.qdisk.settings import settings_of
from cman.qdisk.shell import Owner, QuorumDisk
from cman.quorum import Standing as NodeStanding

FAST = 'interval="0.05" label="myqdisk" min_score="0" tko="4" votes="2"'
GUIDE_DISK = 'interval="1" label="myqdisk" min_score="1" tko="10" votes="2"'
HEURISTIC = '<heuristic interval="2" program="ping -c1 -t1 192.168.12.1" score="1"/>'
PATIENCE_S = 60


def config(disk: str = FAST, heuristics: str = "") -> Config:
    return load(changed((GUIDE_DISK, disk), (HEURISTIC, heuristics)))


class FakeDisk:
    """Blocks in memory. `gate` closed: calls hang in their thread."""

    path, sector_bytes = "/dev/fake", 512

    def __init__(self) -> None:
        self.blocks = {n: pack_status(Status(n)) for n in range(1, SLOTS + 1)}
        self.gate = threading.Event()
        self.gate.set()
        self.hung = threading.Event()
        self.read_error = self.write_error = 0
        self.threads: set[int] = set()
        self.writes: list[int] = []
        self.closed = 0

    def _pass(self, error: int) -> None:
        self.threads.add(threading.get_ident())
        if not self.gate.is_set():
            self.hung.set()
            self.gate.wait()
        if error:
            raise OSError(error, os.strerror(error))

    def read_all(self) -> Mapping[int, bytes]:
        self._pass(self.read_error)
        return dict(self.blocks)

    def write_block(self, nodeid: int, data: bytes) -> None:
        self._pass(self.write_error)
        self.blocks[nodeid] = data
        self.writes.append(nodeid)

    def close(self) -> None:
        self.closed += 1

    def status(self, nodeid: int) -> Status:
        return unpack_status(self.blocks[nodeid], nodeid)


class FakeDaemon:
    """What the task sees of the daemon and its machine."""

    def __init__(self, conf: Config, members: tuple[int, ...] = (1,)) -> None:
        self.words: list[int] = []
        self.controls: list[dict[str, object]] = []
        self.ends: list[str] = []
        self.reboots: list[str] = []
        self.node: Any = SimpleNamespace(
            me=1, config=conf, members=members, disk_name="", disk=SimpleNamespace(ours=False),
            roster=SimpleNamespace(said_goodbye=lambda nodeid: False),
            quorum=SimpleNamespace(standing=dict.fromkeys(range(1, 5), NodeStanding.UNKNOWN)),
            disk_word=lambda until_ns, now_ns: self.words.append(until_ns - now_ns if until_ns else 0),
            control=lambda now_ns, **message: self.controls.append(message))

    def now(self) -> int:
        return int(trio.current_time() * 1e9)

    def pump(self) -> None:
        pass

    def reboot(self, why: str) -> None:
        self.reboots.append(why)

    def end(self, why: str) -> None:
        self.ends.append(why)


async def until(condition: Callable[[], object], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)
        return
    pytest.fail(f"waited {PATIENCE_S} s for: {what}")


@asynccontextmanager
async def at_work(daemon: FakeDaemon, disk: FakeDisk) -> AsyncIterator[QuorumDisk]:
    task = QuorumDisk(cast("Owner", daemon), lambda _: disk, lambda: 77)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.run)
        task.ready()
        try:
            yield task
        finally:
            disk.gate.set()
            nursery.cancel_scope.cancel()


def run(test: Callable[[], Any]) -> None:
    trio.run(test)


def test_becomes_master_says_so_and_leaves_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        status = tmp_path / "status"
        daemon, disk = FakeDaemon(config(f'{FAST} status_file="{status}"')), FakeDisk()
        async with at_work(daemon, disk) as task:
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            assert disk.status(1).state is NodeState.MASTER
            assert all(w <= 4 * 50_000_000 for w in daemon.words), "no word longer than interval * tko"
            assert daemon.node.disk_name == "/dev/fake"
            view = task.view()
            assert (view.state, view.master, view.score, view.device) == ("master", 1, 1, "/dev/fake")
            assert threading.get_ident() not in disk.threads, "the disk has a thread of its own"
            await until(lambda: "Current state: Master" in status.read_text(), "the status file")
            assert "Score: 1/1 (Minimum required = 1)" in status.read_text()
            await task.leave()
            assert disk.status(1).state is NodeState.NONE
    run(main)


def test_a_disk_that_hangs_stalls_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config()), FakeDisk()
        async with at_work(daemon, disk) as task:
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            disk.gate.clear()
            await until(disk.hung.is_set, "a call that hangs")
            said = len(daemon.words)
            await until(lambda: "(system call) has hung for" in caplog.text, "word of it")
            assert "more seconds, we will be evicted" in caplog.text
            assert task.view().hung_s >= 0
            assert len(daemon.words) == said, "nothing is promised meanwhile"
            with trio.fail_after(PATIENCE_S):
                await task.leave()          # gives up after its time
            disk.gate.set()
        assert not daemon.ends
        assert not daemon.reboots
    run(main)


def test_held_up_as_master_it_abdicates(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config()), FakeDisk()
        async with at_work(daemon, disk):
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            disk.gate.clear()
            await until(disk.hung.is_set, "a call that hangs")
            await until(lambda: "more seconds" in caplog.text, "half of the time")
            await trio.sleep(0.1)           # the other half is as long
            disk.gate.set()
            await until(lambda: "No longer master" in caplog.text, "its abdication")
            await until(lambda: "has come back" in caplog.text, "word of the end")
    run(main)


@pytest.mark.parametrize(("attribute", "attempt"), [("io_timeout", "ends"), ("paranoid", "reboots")])
def test_what_a_hang_means(attribute: str, attempt: str) -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config(f'{FAST} {attribute}="1"')), FakeDisk()
        async with at_work(daemon, disk):
            await until(lambda: disk.writes, "a first cycle")
            disk.gate.clear()
            await until(lambda: getattr(daemon, attempt), attribute)
            assert attribute in getattr(daemon, attempt)[0]
    run(main)


def test_errors_are_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        daemon, disk = FakeDaemon(config(f'{FAST} max_error_cycles="6"')), FakeDisk()
        async with at_work(daemon, disk) as task:
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            disk.write_error = errno.EIO
            await until(lambda: task.view().trouble, "an error")
            disk.write_error = 0
            await until(lambda: not task.view().trouble, "its end")
            assert not daemon.ends
            disk.read_error = errno.EIO
            await until(lambda: daemon.ends, "the sixth cycle that cannot read")
            daemon.ends.clear()
            disk.read_error = 0
            await until(lambda: not task.view().trouble, "its end")
            disk.write_error = errno.ENOSPC
            await until(lambda: daemon.ends, "the sixth cycle that cannot write")
            assert daemon.ends[0] == "the quorum disk had errors in 6 cycles running"
            assert caplog.text.count("quorum disk /dev/fake: write: Input/output error") == 1
            assert caplog.text.count("quorum disk /dev/fake: read: Input/output error") == 1
            assert "it can be read and written again" in caplog.text
    run(main)


def test_a_block_that_is_damaged_gives_no_votes(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config()), FakeDisk()
        disk.blocks[9] = bytes(512)
        async with at_work(daemon, disk):
            await until(lambda: len(disk.writes) > 20, "some cycles")
            assert not any(daemon.words)
            assert "block of node 9: magic 0x00000000" in caplog.text
    run(main)


def test_an_eviction_reaches_the_ring_and_its_victim() -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config(), (1, 2)), FakeDisk()
        time = 100
        async with at_work(daemon, disk) as task:
            await until(lambda: task.view().state == "master", "the master")
            while task.view().visible != [2]:
                time += 1
                status = Status(2, 2, time, NodeState.RUN, 5)
                disk.blocks[2] = pack_status(status)
                await trio.sleep(0.02)
            await until(lambda: daemon.controls, "the eviction of the silent one")
            assert daemon.controls[0] == {"t": "kill", "node": 2}
            assert (disk.status(2).state, disk.status(2).written_by) == (NodeState.EVICT, 1)
            disk.blocks[1] = pack_status(Status(1, 2, 1, NodeState.EVICT, 77))
            await until(lambda: daemon.reboots, "our own")
            assert daemon.reboots[0] == "evicted by node 2 through the quorum disk"
    run(main)


def test_a_disk_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def missing(_: object) -> FakeDisk:
            raise QdiskError("no device has the label 'myqdisk'")

        daemon = FakeDaemon(config(f'{FAST} stop_cman="1"'))
        task = QuorumDisk(cast("Owner", daemon), missing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.run)
            task.ready()
            await until(lambda: daemon.ends, "the end")
            assert "stop_cman" in daemon.ends[0]
            assert task.view().trouble == "no device has the label 'myqdisk'"
            nursery.cancel_scope.cancel()
        assert "Unable to find the quorum disk myqdisk: no device has the label" in caplog.text
    run(main)


def test_a_new_configuration_begins_anew() -> None:
    async def main() -> None:
        daemon, disk = FakeDaemon(config()), FakeDisk()
        async with at_work(daemon, disk) as task:
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            task.configured(config())
            assert disk.closed == 0
            task.configured(load(changed((GUIDE_DISK, FAST))))        # a heuristic more
            await until(lambda: disk.closed, "the end of the old one")
            assert disk.status(1).state in (NodeState.NONE, NodeState.INIT)
            assert 0 in daemon.words, "the votes were given back"
            await until(lambda: len(task.view().heuristics) == 1, "the new one")
    run(main)


def test_a_real_file_as_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(disk_bytes(512)))
    with Disk(path) as disk:
        for offset, block in blank_disk("myqdisk", "web1", 1000, disk.sector_bytes):
            disk.write_at(offset, block)
        disk.write_block(16, pack_status(Status(16, 16, 7), disk.sector_bytes))
        found = disk.read_all()
        assert sorted(found) == list(range(1, SLOTS + 1))
        assert unpack_status(found[16], 16).timestamp == 7
        os.truncate(path, 4096 * 3)
        assert sorted(disk.read_all()) == [1, 2], "a device that has shrunk: what can still be read"
        os.truncate(path, 512)
        with pytest.raises(OSError, match="wanted 512"):
            disk.read_all()


def test_a_label_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Header("q", "web1", 1), Header("q", "web2", 2)
    found = [Found(("/dev/loop3",), one, 512), Found(("/dev/sdb7", "/dev/disk/q"), one, 512)]
    monkeypatch.setattr("cman.qdisk.disk.scan", lambda folder: found)
    assert find("q") == "/dev/disk/q", "two paths to one disk"
    assert find("q", "/dev/loop3") == "/dev/loop3"
    found.append(Found(("/dev/sdc1",), other, 512))
    assert find("q", "/dev/sdc1") == "/dev/sdc1"
    with pytest.raises(QdiskError, match="more than one disk has the label 'q'"):
        find("q")
    with pytest.raises(QdiskError, match="no device has the label 'r'"):
        find("r", "/dev/sdc1")


def test_programs(tmp_path: Path) -> None:
    """Exit status, signals, and one that does not end: it is killed with its children."""
    async def main() -> None:
        assert await run_once(Heuristic("true", interval_s=60)) == ""
        assert await run_once(Heuristic("exit 3", interval_s=60)) == "exit status 3"
        assert await run_once(Heuristic("kill -9 $$", interval_s=60)) == f"signal {signal.SIGKILL:d}"
        pid = tmp_path / "pid"
        assert await run_once(Heuristic(f"sleep 600 & echo $! > {pid}; wait", interval_s=1)) is None
        child = int(pid.read_text())
        await until(lambda: not Path(f"/proc/{child}").exists() or b"Z" in Path(f"/proc/{child}/stat").read_bytes(),
                    "the death of its child")
    run(main)


def test_failures_in_a_row() -> None:
    standing = Standing(Heuristic("p", score=2, tko=3))
    assert standing.failed("exit status 1") == ""
    assert standing.succeeded() == "Heuristic: 'p' UP"
    assert standing.succeeded() == ""
    assert standing.failed("exit status 1") == "Heuristic: 'p' missed (1/3): exit status 1"
    assert standing.up
    standing.succeeded()
    assert [bool(standing.failed("no")) for _ in range(4)] == [True, True, True, False]
    assert not standing.up
    both = Heuristics([Heuristic("a"), Heuristic("b", score=4)])
    both.standings[1].succeeded()
    assert both.score() == (4, 5)
    assert Heuristics([]).score() == (1, 1)


def test_a_score_that_falls(tmp_path: Path) -> None:
    """A real program in the real task: its file goes away, and the node with it."""
    async def main() -> None:
        flag = tmp_path / "flag"
        flag.touch()
        conf = config(FAST.replace('min_score="0"', 'min_score="1"'),
                      f'<heuristic program="test -e {flag}" interval="1" tko="1"/>')
        daemon, disk = FakeDaemon(conf), FakeDisk()
        async with at_work(daemon, disk):
            await until(lambda: any(w > 0 for w in daemon.words), "the votes")
            flag.unlink()
            await until(lambda: daemon.reboots, "the end of this node")
            assert daemon.reboots[0] == "score 0 of 1, 1 are required"
    run(main)


def test_settings() -> None:
    found = settings_of(load(changed()))
    assert found is not None
    assert (found.label, found.interval_s, found.limit_s, found.machine.min_score) == ("myqdisk", 1.0, 10.0, 1)
    assert found.machine.lease_ns == 10_000_000_000
    assert found.heuristics == (Heuristic("ping -c1 -t1 192.168.12.1", 1, 2, 1),)
    poll = settings_of(load(changed(('<cman ', '<cman quorum_dev_poll="2000" '))))
    assert poll is not None
    assert (poll.machine.lease_ns, poll.machine.cycles_silent) == (2_000_000_000, 4)
