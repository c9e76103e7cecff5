"""What a live mount tells of itself: counters that move with what is done, requests under way, and gfs2_tool."""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuse.conftest import NullMount, wait_until
from gfs2py.control import protocol
from gfs2py.control.client import Control, NobodyThere, Unreachable, connect, device_of
from gfs2py.control.paths import DIRECTORY, socket_path
from interop.commands import Commands, Mounted, Mounts, wait_until_gone

pytestmark = pytest.mark.mount

TABLE = "mycluster:my-gfs2"
FILES = 20
BLOCK = b"x" * 4096
READER = """
import mmap, os, random, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
room = mmap.mmap(-1, 4096)
while True:
    os.preadv(fd, [room], random.randrange(2048) * 4096)
"""


@pytest.fixture(scope="module")
def image(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("observe") / "image"
    with path.open("wb") as f:
        f.truncate(256 << 20)
    commands.mkfs(path, "-j", "2", "-J", "32", "-t", TABLE)
    return path


@pytest.fixture
def gfs2(mounts: Mounts, image: Path) -> Mounted:
    return mounts.mount(image)


@pytest.fixture
def control(gfs2: Mounted) -> Iterator[Control]:
    with connect(os.fspath(gfs2.path), timeout_s=30) as made:
        yield made


def tool(gfs2: Mounted, *words: str) -> str:
    return gfs2.commands.check(gfs2.commands.bin_dir / "gfs2_tool", *words)


def counts(told: dict[str, Any]) -> dict[str, int]:
    return {name: one["count"] for name, one in told["requests"].items()}


def test_counters_are_those_of_what_was_done(gfs2: Mounted, control: Control) -> None:
    before = control.statistics()
    for i in range(FILES):
        fd = os.open(gfs2.path / f"f{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(fd, BLOCK)
        os.fsync(fd)
        os.close(fd)
    for i in range(FILES):
        (gfs2.path / f"f{i}").unlink()
    with pytest.raises(FileNotFoundError):
        (gfs2.path / "nothing").stat()
    wait_until(lambda: counts(control.statistics()).get("RELEASE", 0) >= FILES, "the last RELEASE")
    now = control.statistics()
    done, earlier = counts(now), counts(before)
    assert {name: done[name] - earlier.get(name, 0) for name in ("CREATE", "WRITE", "FSYNC", "UNLINK", "RELEASE")} == {
        "CREATE": FILES, "WRITE": FILES, "FSYNC": FILES, "UNLINK": FILES, "RELEASE": FILES}
    write = now["requests"]["WRITE"]
    assert write["bytes"] - before["requests"].get("WRITE", {"bytes": 0})["bytes"] == FILES * len(BLOCK)
    for one in now["requests"].values():
        assert sum(count for _, count in one["buckets"]) == one["count"]
        assert 0 < one["max_ns"] <= one["ns"]
    engine, old = now["engine"], before["engine"]
    # A file's fsync commits its creation and its data: one commit and one flush each, at least.
    assert engine["log_commits"] - old["log_commits"] >= FILES
    assert now["latencies"]["commit"]["count"] - before["latencies"]["commit"]["count"] >= FILES
    assert now["latencies"]["device_flush"]["count"] - before["latencies"]["device_flush"]["count"] >= FILES
    assert engine["transactions"] - old["transactions"] >= 2 * FILES
    assert engine["log_blocks_written"] - old["log_blocks_written"] >= 2 * FILES
    assert engine["device_written_bytes"] - old["device_written_bytes"] >= FILES * len(BLOCK)
    assert engine["rgrp_scans"] > old["rgrp_scans"]
    assert engine["cache_hits"] > old["cache_hits"]
    assert now["process"]["rss_bytes"] > 1 << 20


@pytest.mark.parametrize(("options", "asked"), [("localflocks", False), ("", False), ("nolocalflocks", True)])
def test_who_keeps_file_locks(mounts: Mounts, image: Path, options: str, asked: bool) -> None:
    """Another process is kept out either way; by gfs2d only where that was asked for."""
    gfs2 = mounts.mount(image, options)
    path = gfs2.path / "locked"
    other = [sys.executable, "-c", "import fcntl, sys\n"
             "with open(sys.argv[1], 'r+') as f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)", path]
    with path.open("w") as f, connect(os.fspath(gfs2.path), timeout_s=30) as control:
        fcntl.lockf(f, fcntl.LOCK_EX, 10)
        assert b"BlockingIOError" in subprocess.run(other, capture_output=True, check=False).stderr
        fcntl.lockf(f, fcntl.LOCK_UN)
        assert subprocess.run(other, capture_output=True, check=False).returncode == 0
        assert (counts(control.statistics()).get("SETLK", 0) > 0) == asked
    path.unlink()


def test_asking_costs_the_mount_nothing(control: Control) -> None:
    """The statistics themselves make no request and no transaction."""
    first = control.statistics()
    for _ in range(20):
        control.describe()
        control.in_flight()
    second = control.statistics()
    assert counts(first) == counts(second)
    assert first["engine"]["device_reads"] == second["engine"]["device_reads"]
    assert first["engine"]["transactions"] == second["engine"]["transactions"]


def test_a_parked_request_is_seen_in_flight(null_mount: NullMount) -> None:
    """A waiting flock, which holds no worker: who asks, for which file, and for how long."""
    path = null_mount.path / "locked"
    with path.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiter = subprocess.Popen([sys.executable, "-c", "import fcntl, sys\n"
                                   "fcntl.flock(open(sys.argv[1], 'w'), fcntl.LOCK_EX)", path])
        try:
            wait_until(lambda: null_mount.session.in_flight() != [], "the waiting lock")
            (one,) = null_mount.session.in_flight()
            assert (one["opcode"], one["state"], one["pid"]) == ("SETLKW", "parked", waiter.pid)
            assert one["node"] == path.stat().st_ino
            assert one["age_ns"] > 0
            assert null_mount.session.in_flight(min_age_ns=10**15) == []
            fcntl.flock(holder, fcntl.LOCK_UN)
            assert waiter.wait(60) == 0
        finally:
            waiter.kill()
            waiter.wait()
    wait_until(lambda: null_mount.session.in_flight() == [], "the request to be answered")


def test_df_as_the_guide_prints_it(gfs2: Mounted) -> None:
    lines = tool(gfs2, "df", os.fspath(gfs2.path)).splitlines()
    assert lines[:15] == [
        f"{gfs2.path}:", '  SB lock proto = "lock_nolock"', f'  SB lock table = "{TABLE}"', "  SB ondisk format = 1802",
        "  SB multihost format = 1900", "  Block size = 4096", "  Journals = 2", lines[7],
        '  Mounted lock proto = "lock_nolock"', f'  Mounted lock table = "{TABLE}"',
        '  Mounted host data = "jid=0:id=0:first=1"', "  Journal number = 0", "  Lock module flags = 0",
        "  Local flocks = TRUE", "  Local caching = TRUE"]
    assert re.fullmatch(r"  Resource Groups = [1-9]\d*", lines[7])
    assert lines[16].split() == "Type Total Blocks Used Blocks Free Blocks use%".split()
    st = os.statvfs(gfs2.path)
    total, used, free = (int(word) for word in lines[18].split()[1:4])
    assert (lines[18].split()[0], total, free, total - used) == ("data", st.f_blocks, st.f_bfree, free)
    inodes = lines[19].split()
    assert (inodes[0], int(inodes[1]), int(inodes[3])) == ("inodes", st.f_files, st.f_ffree)
    assert inodes[4] == f"{100 * int(inodes[2]) // int(inodes[1])}%"


def test_the_other_commands(gfs2: Mounted, control: Control) -> None:
    point = os.fspath(gfs2.path)
    assert tool(gfs2, "journals", point) == "journal0 - 32MB\njournal1 - 32MB\n2 journal(s) found.\n"
    device = device_of(point)
    name = f"{os.major(device)}:{os.minor(device)}"
    assert f"{name} {TABLE} {point}\n" in tool(gfs2, "list")
    (listed,) = [one for one in json.loads(tool(gfs2, "list", "--json")) if one["mount_point"] == point]
    assert listed == {"device": name, "table": TABLE, "mount_point": point, "source": os.fspath(gfs2.image),
                      "pid": gfs2.daemon()}
    assert json.loads(tool(gfs2, "df", point, "--json"))[0]["resource_groups"] > 0
    assert json.loads(tool(gfs2, "journals", point, "--json"))[1] == {"name": "journal1", "size_bytes": 32 << 20}
    os.listdir(point)
    told = json.loads(tool(gfs2, "counters", "--json", os.fspath(gfs2.image)))
    assert told["requests"]["OPENDIR"]["p99_ns"] > 0
    assert control.identity().mount_point == point


def test_counters_for_people_go_on(gfs2: Mounted) -> None:
    """With -c: the first interval's changes after one interval, and so on until it is told to stop."""
    shown = subprocess.Popen([gfs2.commands.bin_dir / "gfs2_tool", "counters", gfs2.path, "-c", "0.05"],
                             stdout=subprocess.PIPE, text=True)
    assert shown.stdout is not None
    try:
        heads = 0
        while heads < 3:
            line = shown.stdout.readline()
            assert line, "it ended by itself"
            heads += line.startswith(f"{gfs2.path}:")
    finally:
        shown.send_signal(signal.SIGINT)
        shown.communicate(timeout=60)
    assert shown.returncode == 130


def test_superblock(gfs2: Mounted) -> None:
    """On the device or image, and by the mount point; what is asked for, or all."""
    assert tool(gfs2, "sb", os.fspath(gfs2.image), "proto") == 'current lock protocol name = "lock_nolock"\n'
    assert tool(gfs2, "sb", os.fspath(gfs2.path), "table") == f'current lock table name = "{TABLE}"\n'
    everything = tool(gfs2, "sb", os.fspath(gfs2.image))
    assert "  sb_bsize = 4096\n" in everything
    values = json.loads(tool(gfs2, "sb", os.fspath(gfs2.image), "all", "--json"))
    assert values["sb_fs_format"] == 1802
    assert f"current uuid = {values['sb_uuid']}\n" == tool(gfs2, "sb", os.fspath(gfs2.image), "uuid")


@pytest.mark.parametrize(("words", "message"), [
    (["counters", "/"], "/: not a mounted GFS2"), (["counters"], "counters wants 1 argument, not 0"),
    (["nonsense"], "unknown command 'nonsense'"), ([], "no command was given"), (["df", "-x"], "unknown option -x"),
    (["inflight", "/", "-a", "soon"], "-a wants a number, not 'soon'"), (["sb", "/nonexistent"], "No such file"),
    (["sb", "/dev/null"], "/dev/null"), (["list", "x"], "list wants 0 arguments, not 1"),
    (["sb", "/dev/null", "everything"], "not 'everything'"),
])
def test_one_line_errors(commands: Commands, words: list[str], message: str) -> None:
    done = commands.ours("gfs2_tool", *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("gfs2_tool: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_version_and_help(commands: Commands) -> None:
    assert re.fullmatch(r"gfs2_tool \S+ \(built \w{3} \d\d \d{4} [\d:]{8}\)\n.+\n",
                        commands.ours("gfs2_tool", "version").stdout)
    assert "counters MOUNTPOINT" in commands.ours("gfs2_tool", "-h").stdout


def test_a_stopped_daemon_is_told_within_the_limit(gfs2: Mounted, control: Control) -> None:
    pid = gfs2.daemon()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = gfs2.commands.ours("gfs2_tool", "counters", gfs2.path, "-t", "0.2")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1
    assert done.stderr == f"gfs2_tool: {gfs2.path}: gfs2d does not answer within 0.2 s: it hangs or is stopped\n"
    assert control.identity().pid == pid


def test_a_killed_daemon_leaves_no_socket(gfs2: Mounted, control: Control) -> None:
    path = socket_path(device_of(os.fspath(gfs2.path)))
    assert path.is_socket()
    gfs2.kill()
    with pytest.raises(Unreachable, match="has ended"):
        control.identity()
    wait_until(lambda: not path.exists(), "the watchdog to take the socket away")
    assert gfs2.commands.ours("gfs2_tool", "counters", gfs2.path).returncode == 1


def test_unmounting_takes_the_socket_with_it(gfs2: Mounted, control: Control) -> None:
    """Before umount(2) returns: the next mount may have the same device number."""
    device = device_of(os.fspath(gfs2.path))
    pid = gfs2.daemon()
    subprocess.run(["umount", gfs2.path], check=True)
    with pytest.raises(NobodyThere):
        Control(socket_path(device))
    wait_until_gone(pid)


def test_mount_after_mount_has_its_socket(mounts: Mounts, image: Path) -> None:
    for _ in range(3):
        gfs2 = mounts.mount(image)
        with connect(os.fspath(gfs2.path)) as control:
            assert control.identity().pid == gfs2.daemon()
        subprocess.run(["umount", gfs2.path], check=True)


def test_a_request_in_the_device_says_so(gfs2: Mounted, control: Control) -> None:
    """Readers of scattered blocks are caught in the act: the request, and that it waits for the device."""
    path = gfs2.path / "scattered"
    path.write_bytes(bytes(8 << 20))
    os.sync()
    reader = subprocess.Popen([sys.executable, "-c", READER, path])
    try:
        node = path.stat().st_ino
        seen: dict[str, Any] = {}
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            seen = next((one for one in control.in_flight() if one["waits_for"] is not None), {})
        assert (seen["opcode"], seen["node"], seen["waits_for"]["kind"]) == ("READ", node, "device read")
        assert seen["state"] == "running"
        wanted = re.compile(rf"^READ +{node} +{reader.pid} +running +\S+ +device read \d+ for [\d.]+ s$", re.MULTILINE)
        wait_until(lambda: wanted.search(tool(gfs2, "inflight", os.fspath(gfs2.path))) is not None, "its line")
    finally:
        reader.kill()
        reader.wait()


def test_the_directory_is_closed_to_others(control: Control) -> None:
    assert DIRECTORY.stat().st_mode & 0o777 == 0o700
    assert control.path.parent == DIRECTORY


def test_contended_locks_are_counted(gfs2: Mounted, control: Control) -> None:
    """The kernel writes back by several requests at once; all want the file's lock."""
    path = gfs2.path / "contended"
    deadline = time.monotonic() + 60
    waits: dict[str, Any] = {"count": 0}
    while not waits["count"] and time.monotonic() < deadline:
        path.write_bytes(bytes(16 << 20))
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        waits = control.statistics()["latencies"]["inode_lock_wait"]
    assert waits["count"] > 0
    assert 0 < waits["max_ns"] <= waits["ns"]


def test_hostile_clients_do_not_reach_the_mount(gfs2: Mounted, control: Control, rng: random.Random) -> None:
    """Garbage and cut requests by hundreds of connections, while files are made: the mount does not notice."""
    good = protocol.request("statistics", {})
    for i in range(200):
        changed = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        data = rng.choice([bytes(changed), rng.randbytes(100), good[:rng.randrange(1, len(good))], good * 5])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(control.path))
            client.sendall(data)
        (gfs2.path / f"h{i % 10}").write_bytes(data)
    assert control.statistics()["requests"]["CREATE"]["count"] >= 10
    assert control.identity().pid == gfs2.daemon()
