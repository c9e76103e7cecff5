"""lab demo: the guide's cluster on this machine, from nothing to a checked disk, by the commands that a person types.

Each command is shown at the prompt of its node. What the nodes write at the same time is read back by another one and
compared. Whatever happens, Ctrl-C included, the room goes at the end and with it everything of it (unless it is kept).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lab import remains
from lab.client import Lab
from lab.errors import LabError
from lab.topology import Topology

Say = Callable[[str], None]

DEVICE, MOUNT_POINT = "/dev/sdb5", "/gfs2"
FILE_SYSTEM = "my-gfs2"
DEBIAN_FSCK = "/usr/sbin/fsck.gfs2"
WORKER = Path(__file__).with_name("demo_work.py")
ASKED = "[y/n] "                # after that a person types
COMMAND_LIMIT_S, POLL_S = 180.0, 0.02
NAMES_WIDTH, FIGURE_WIDTH = 30, 7
OUTAGE_S = 1.0                  # how long the iSCSI target stays away
AROUND_FAULT_S = 2.0            # writers run that long before and after something is done to them
UNTIL_TOLD = 0.0                # instead of a worker's seconds


@dataclass(frozen=True, slots=True)
class Result:
    """What one worker says of its seconds."""

    count: int
    seconds: float
    longest_s: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what is done, how it is counted, where. `{}` in the target is the node's name."""

    title: str
    unit: str
    work: str
    target: str
    look: str = ""              # how another node judges the result, if it does


ROWS = (
    Row("own directories: new files", "files/s", "create", "own/{}", "files"),
    Row("own directories: a large file", "MiB/s", "stream", "own"),
    Row("one directory: new files", "files/s", "create", "shared", "files"),
    Row("one file: append records", "records/s", "append", "records", "records"),
    Row("one file: read blocks", "blocks/s", "read", "blocks"),
)


def table(nodes: Sequence[str], rows: Sequence[tuple[Row, float, Sequence[float]]]) -> str:
    """Figures per second: for each row that of the first node alone, then each node's among all, and their sum."""
    head = [f"{nodes[0]} alone", *nodes, "sum"]
    widths = [max(len(name), FIGURE_WIDTH) + 2 for name in head]
    lines = [" " * NAMES_WIDTH + "".join(f"{name:>{width}}" for name, width in zip(head, widths, strict=True))]
    for row, alone, rates in rows:
        figures = zip((alone, *rates, sum(rates)), widths, strict=True)
        lines.append(f"{row.title:<{NAMES_WIDTH}}" + "".join(f"{figure:>{width},.0f}" for figure, width in figures)
                     + f"  {row.unit}")
    return "\n".join(lines)


def tell(process: subprocess.Popen[str]) -> None:
    """A line for a worker, which may have failed meanwhile: its result says so."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("\n")
        process.stdin.flush()


class Running:
    """Workers on some nodes at once."""

    def __init__(self, demo: Demo, work: str, targets: dict[str, str], seconds: float) -> None:
        self._work = work
        self._processes = {node: demo.popen(node, [work, target, node, str(seconds)])
                           for node, target in targets.items()}

    def ready(self) -> None:
        """Waits until all have their files open. Raises LabError."""
        for node, process in self._processes.items():
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise LabError(f"{node}: {self._work}: {process.communicate()[1].strip()}")

    def tell(self) -> None:
        """To begin; a second time: to end."""
        for process in self._processes.values():
            tell(process)

    def results(self) -> dict[str, Result]:
        """Waits for all. Raises LabError with what the first that failed has said."""
        found = {}
        for node, process in self._processes.items():
            try:
                out, error = process.communicate(timeout=COMMAND_LIMIT_S)
            except subprocess.TimeoutExpired:
                raise LabError(f"{node}: {self._work} did not end within {COMMAND_LIMIT_S:.0f} s") from None
            if process.returncode:
                raise LabError(f"{node}: {self._work}: {error.strip() or process.returncode}")
            found[node] = Result(**json.loads(out))
        return found


class Demo:
    """One run, on a room that is up."""

    def __init__(self, room: Lab, seconds: float, say: Say) -> None:
        self.room = room
        self.seconds = seconds
        self.say = say
        self.nodes = [n.name for n in room.topology.nodes]
        self.running: list[subprocess.Popen[str]] = []

    # -- running things

    def popen(self, node: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
        """A worker."""
        argv = [sys.executable, "-IS", str(WORKER), arguments[0], f"{MOUNT_POINT}/{arguments[1]}", *arguments[2:]]
        process: subprocess.Popen[str] = self.room.popen(
            node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def doomed(self, node: str, work: str, target: str) -> Path:
        """A worker that nobody waits for; how far it came stands in the file returned, whatever becomes of it."""
        progress = self.room.place.shared / f"{target}-{work}"
        tell(self.popen(node, [work, target, node, str(UNTIL_TOLD), f"/lab/{progress.name}"]))
        return progress

    def look(self, node: str, kind: str, target: str) -> dict[str, int]:
        """What a node finds. Raises LabError when something is not as it was written."""
        out = self.quiet(node, [sys.executable, "-IS", str(WORKER), kind, f"{MOUNT_POINT}/{target}"])
        found: dict[str, int] = json.loads(out)
        return found

    def quiet(self, node: str, argv: Sequence[str], typed: str = "") -> str:
        """A command that is not shown, and what is typed into it. Raises LabError."""
        try:
            return self.room.exec(node, argv, check=True, timeout=COMMAND_LIMIT_S, input=typed).stdout
        except subprocess.TimeoutExpired:
            raise LabError(f"{node}: {' '.join(argv)}: did not end within {COMMAND_LIMIT_S:.0f} s") from None

    def run(self, node: str, command: str, *, lines: int = 0, typed: str = "") -> str:
        """A command as typed on a node, and what it prints: `lines` of the end only, if given. Raises LabError."""
        self.say(f"[root@{node} ~]# {command}")
        out = self.quiet(node, ["sh", "-c", f"{command} 2>&1"], typed)
        shown = (out.replace(ASKED, f"{ASKED}{typed}") if typed else out).splitlines()
        if lines and len(shown) > lines:
            shown = ["...", *shown[-lines:]]
        for line in shown:
            self.say(line)
        return out

    def everywhere(self, command: str, nodes: Sequence[str]) -> None:
        """The same command on several nodes at once; only the first one's prompt is shown."""
        self.say(f"[root@{nodes[0]} ~]# {command}" + (f"    (and on {', '.join(nodes[1:])})" if nodes[1:] else ""))
        started = {node: self.room.popen(node, ["sh", "-c", f"{command} 2>&1"], stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, text=True) for node in nodes}
        self.running.extend(started.values())
        for node, process in started.items():
            try:
                out = process.communicate(timeout=COMMAND_LIMIT_S)[0]
            except subprocess.TimeoutExpired:
                raise LabError(f"{node}: {command}: did not end within {COMMAND_LIMIT_S:.0f} s") from None
            if process.returncode:
                raise LabError(f"{node}: {command}: {out.strip()}")

    def kill_running(self) -> None:
        """Of an interrupted demo: nobody waits for them any more."""
        for process in self.running:
            process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            process.wait()

    # -- the steps

    def steps(self) -> None:
        """From the start of the cluster to what the checkers say. Raises LabError at the first thing that is wrong."""
        self.start()
        self.format_and_mount()
        if len(self.nodes) > 1:
            self.seen_at_once()
        self.throughput()
        if self.room.topology.disk_kind == "iscsi":
            self.target_restarts()
        if len(self.nodes) > 2:
            self.crash()
        self.check()

    def start(self) -> None:
        self.say("\n-- The cluster starts")
        first = self.nodes[0]
        self.everywhere("service cman start", self.nodes)
        self.run(first, "cman_tool nodes -a")
        self.run(first, "clustat")

    def format_and_mount(self) -> None:
        self.say("\n-- One file system for all nodes")
        first, *others = self.nodes
        table_name = f"{self.room.topology.cluster}:{FILE_SYSTEM}"
        self.run(first, f"mkfs.gfs2 -p lock_dlm -t {table_name} -j {len(self.nodes)} {DEVICE}", typed="y\n")
        mount = f"mount -t gfs2 {DEVICE} {MOUNT_POINT}"
        self.run(first, f"{mount} -v")
        if others:
            self.everywhere(mount, others)
        self.run(self.nodes[-1], f"df -hT {MOUNT_POINT}")

    def seen_at_once(self) -> None:
        """Written on the second node (the guide's web2), read on the first."""
        self.say("\n-- What one node writes, the others read at once")
        reader, writer = self.nodes[:2]
        self.run(writer, f"echo 'written on {writer}' > {MOUNT_POINT}/hello")
        if self.run(reader, f"cat {MOUNT_POINT}/hello") != f"written on {writer}\n":
            raise LabError(f"{reader} did not read what {writer} had written")

    def throughput(self) -> None:
        self.say(f"\n-- All nodes write and read at the same time, {self.seconds:g} s for each figure")
        first = self.nodes[0]
        self.quiet(first, ["mkdir", "-p", f"{MOUNT_POINT}/own", *(f"{MOUNT_POINT}/own/{n}" for n in self.nodes)])
        rows = []
        for row in ROWS:
            alone = self.at_work(row, "alone-", self.nodes[:1])[first].rate
            results = self.at_work(row, "", self.nodes)
            rows.append((row, alone, [results[node].rate for node in self.nodes]))
        self.say(table(self.nodes, rows))
        self.say("New files have 4 KiB, records 64 bytes, blocks 4 KiB; the large file is on disk when the time ends.")
        self.say("Another node has read every file and every record, and found them all, whole and once each.")

    def at_work(self, row: Row, prefix: str, nodes: Sequence[str]) -> dict[str, Result]:
        """One row on some nodes, and what another of them finds afterwards. Raises LabError when that is wrong."""
        judge = self.nodes[-1]
        targets = {node: f"{prefix}{row.target.format(node)}" for node in nodes}
        if row.work == "read":
            targets = dict.fromkeys(nodes, row.target)
            self.look(judge, "fill", row.target)
        else:
            for target in sorted({t if row.work != "append" else "." for t in targets.values()}):
                self.quiet(nodes[0], ["mkdir", "-p", f"{MOUNT_POINT}/{target}"])
        running = Running(self, row.work, targets, self.seconds)
        running.ready()
        running.tell()
        results = running.results()
        if row.look:
            self.judged(judge, row.look, targets, results)
        return results

    def judged(self, judge: str, kind: str, targets: dict[str, str], results: dict[str, Result]) -> None:
        """Compares what workers say they did with what a node finds; others may have died. Raises LabError."""
        found: dict[str, int] = {}
        for target in dict.fromkeys(targets.values()):
            for node, count in self.look(judge, kind, target).items():
                if node in results:
                    found[node] = found.get(node, 0) + count
        wanted = {node: result.count for node, result in results.items()}
        if found != wanted:
            raise LabError(f"{judge} finds {found} {kind}, written were {wanted}")

    def under_fault(self, name: str, nodes: Sequence[str], fault: Callable[[], None]) -> str:
        """Durable records into a log of each node's own, others into one file of all, while something happens.

        Returns what there is to say of it. Raises LabError when anything that was acknowledged is not there.
        """
        targets = {node: f"{name}-{node}" for node in nodes}, dict.fromkeys(nodes, f"{name}-all")
        logs, shared = Running(self, "log", targets[0], UNTIL_TOLD), Running(self, "append", targets[1], UNTIL_TOLD)
        for say in (Running.ready, Running.tell):
            say(logs)
            say(shared)
        time.sleep(AROUND_FAULT_S)
        fault()
        time.sleep(AROUND_FAULT_S)
        logs.tell()
        shared.tell()
        durable, appended = logs.results(), shared.results()
        self.judged(nodes[-1], "records", targets[0], durable)
        self.judged(nodes[-1], "records", targets[1], appended)
        longest = max(r.longest_s for results in (durable, appended) for r in results.values())
        return (f"went on, after a pause of at most {longest:.1f} s. Of {sum(r.count for r in durable.values()):,} "
                f"records made durable and {sum(r.count for r in appended.values()):,} appended to one file none is "
                "lost.")

    def target_restarts(self) -> None:
        """The iSCSI target dies under writers on all nodes and comes back. Raises LabError when anything is lost."""
        storage = self.room.topology.storage.name
        self.say(f"\n-- The iSCSI target is killed for {OUTAGE_S:g} s while all nodes write")

        def fault() -> None:
            self.run(storage, "service tgtd stop")
            time.sleep(OUTAGE_S)
            self.run(storage, "service tgtd start")

        self.say(f"All {self.under_fault('outage', self.nodes, fault)}")

    def crash(self) -> None:
        """The second node dies under load, comes back, and has everything that was acknowledged."""
        victim = self.nodes[1]
        others = [node for node in self.nodes if node != victim]
        self.say(f"\n-- {victim} crashes while all nodes write: it is fenced, and only then its journal replayed")
        durable = self.doomed(victim, "log", f"crash-{victim}")
        self.doomed(victim, "append", "crash-all")

        def fault() -> None:
            deadline = time.monotonic() + COMMAND_LIMIT_S
            while not durable.exists() or not durable.read_text():
                if time.monotonic() > deadline:
                    raise LabError(f"{victim} made no record durable within {COMMAND_LIMIT_S:.0f} s")
                time.sleep(POLL_S)
            self.say(f"# lab power crash {victim}")
            self.room.power("crash", victim)

        self.say(f"The others replayed its journal and {self.under_fault('crash', others, fault)}")
        wanted = int(durable.read_text())
        found = self.look(others[0], "records", f"crash-{victim}").get(victim, 0)
        if not wanted <= found <= wanted + 1:       # the last one may have been on its way
            raise LabError(f"{victim} had made {wanted} records durable when it crashed, {others[0]} finds {found}")
        self.say(f"Of the {wanted:,} records that {victim} had made durable none is lost.")
        self.run(others[0], f"""grep 'fence "{victim}" success' /var/log/messages""")
        self.run(others[0], f"clustat -m {victim}")
        self.say(f"# lab power on {victim}    (the power switch has booted it already)")
        self.room.power("on", victim)
        self.run(victim, "service cman start")
        self.run(victim, f"mount -t gfs2 {DEVICE} {MOUNT_POINT} -v", lines=2)
        self.run(victim, f"cat {MOUNT_POINT}/hello")

    def check(self) -> None:
        """Unmounted everywhere; both checkers. Raises LabError when one of them finds anything."""
        self.say("\n-- Unmounted everywhere; what the two checkers say: ours, and Debian's")
        self.everywhere(f"umount {DEVICE}", self.nodes)
        node = self.nodes[-1]
        self.run(node, f"fsck.gfs2 -n {DEVICE}", lines=3)
        if self.room.topology.disk_kind == "iscsi":      # that one knows no LUNs: it looks at the target's own file
            self.run(self.room.topology.storage.name, f"{DEBIAN_FSCK} -n /srv/iscsi/{Path(DEVICE).name}.img", lines=3)
        else:
            self.run(node, f"{DEBIAN_FSCK} -n {DEVICE}", lines=3)

    def mounted_again(self) -> None:
        self.everywhere(f"mount -t gfs2 {DEVICE} {MOUNT_POINT}", self.nodes)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does; a second one cannot break off the cleaning up.

    Hands over what makes all of them ignored.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore()
        raise KeyboardInterrupt

    before: list[Any] = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield ignore
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run(topology: Topology, *, name: str, keep: bool, seconds: float, say: Say) -> None:
    """All of it. `name`: of a room that is to be kept; another gets its own. Raises LabError, KeyboardInterrupt."""
    if not os.path.exists(DEBIAN_FSCK):
        raise LabError(f"{DEBIAN_FSCK} is not there to judge the disk: apt-get install gfs2-utils")
    if not shutil.which("fence_wti", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        raise LabError("fence_wti is not there to fence the node that crashes: apt-get install fence-agents telnet")
    start = time.monotonic()
    with _interruptible() as ignore:
        room = Lab(topology, name=name if keep else "", progress=lambda text: say(f"lab: {text}"))
        say(f"-- A machine room: {', '.join(n.name for n in topology.machines)}")
        room.up()
        demo = Demo(room, seconds, say)
        try:
            demo.steps()
            if keep:
                demo.mounted_again()
                room.let_go()
                say(f"\nAll of it in {time.monotonic() - start:.0f} s. The room stays, with the file system mounted on "
                    f"every node.")
                return
        except BaseException:
            ignore()
            demo.kill_running()
            room.down()
            raise
        ignore()
        took_s = time.monotonic() - start
        pids = remains.room_pids(room.place)
        room.down()
        if left := remains.left_behind(room.place, pids):
            raise LabError(f"left behind: {', '.join(left)}")
        say(f"\nAll of it in {took_s:.0f} s. Nothing is left: no process, mount, loop device, network or file.")
