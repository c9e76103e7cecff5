"""A room leaves nothing behind, whoever is killed when: the builder, the keeper, the room, in up and in down."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.rooms import POLL_S, assert_gone, left_behind, pids_of, wait_until
from lab import Lab, LabError, build, guide_topology, loops, remains
from lab.place import Place, rooms

pytestmark = pytest.mark.mount

KILLS = 6
# What one `lab up` takes here is measured first; kills are drawn over a little more than that.
BEYOND = 1.1


def lab(bin_dir: Path, name: str, *arguments: str) -> list[str | Path]:
    return [bin_dir / "lab", "--name", name, *arguments]


def run_and_kill(command: list[str | Path], place: Place, after_s: float) -> set[int]:
    """Start it, kill it after so long; every process of the room that was seen meanwhile."""
    seen: set[int] = set()
    end = time.monotonic() + after_s
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while time.monotonic() < end and process.poll() is None:
            seen |= pids_of(place)
            time.sleep(POLL_S)
        process.kill()
        seen |= pids_of(place)
    return seen


def test_the_builder_is_killed_at_any_point(bin_dir: Path, rng: random.Random, tmp_path: Path) -> None:
    place = Place(f"kill-{os.getpid()}")
    up = lab(bin_dir, place.name, "up", "--nodes", "1", "--size", "16M")
    down = lab(bin_dir, place.name, "down")
    start = time.monotonic()
    subprocess.run(up, check=True, stdout=subprocess.DEVNULL)
    took_s = time.monotonic() - start
    seen = pids_of(place)
    assert len(seen) >= 4
    subprocess.run(down, check=True, stdout=subprocess.DEVNULL)
    assert_gone(place, seen)
    for turn in range(KILLS):
        after_s = rng.uniform(0, took_s * BEYOND)
        seen = run_and_kill(up, place, after_s)
        done = subprocess.run(down, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"turn {turn}, killed after {after_s:.3f} s: {done.stderr}"
        assert_gone(place, seen, f"turn {turn}, killed after {after_s:.3f} s")


def test_down_is_killed_at_any_point(bin_dir: Path, rng: random.Random) -> None:
    place = Place(f"down-{os.getpid()}")
    down = lab(bin_dir, place.name, "down")
    seen: set[int] = set()
    for _ in range(3):
        room = Lab(guide_topology(1, size="16M"), name=place.name).up(attached=False)
        seen |= pids_of(place)
        seen |= run_and_kill(down, place, rng.uniform(0.05, 0.6))
        # Whatever it left is no obstacle for a new room, which here is told to go at once.
        subprocess.run(down, check=True, stdout=subprocess.DEVNULL)
        room._reap_keeper()
        assert_gone(place, seen)


@pytest.mark.parametrize("victim", [0, 1], ids=["keeper", "room"])
def test_one_of_the_rooms_own_processes_is_killed(victim: int) -> None:
    room = Lab(guide_topology(1, size="16M")).up(attached=False)
    room.exec("web1", ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"], check=True)
    pids = pids_of(room.place)
    os.kill(room.place.processes()[victim].pid, signal.SIGKILL)
    wait_until(lambda: not [p for p in pids if remains.alive(p)], "the room to go with it")
    assert not room.is_up()
    with pytest.raises(LabError, match="is not up: it has crashed"):
        Lab.existing(room.place.name)
    if victim == 1:
        wait_until(lambda: not loops.below(str(room.place.path)), "the keeper to detach the disks")
        assert (room.place.path / "room.log").exists()
    room.down()
    assert_gone(room.place, pids)


def test_a_crashed_room_is_no_obstacle() -> None:
    name = f"again-{os.getpid()}"
    first = Lab(guide_topology(1, size="16M"), name=name).up(attached=False)
    pids = pids_of(first.place)
    os.kill(first.place.processes()[0].pid, signal.SIGKILL)
    wait_until(lambda: not [p for p in pids if remains.alive(p)], "the room to go")
    with Lab(guide_topology(1, size="16M"), name=name) as second:
        pids |= pids_of(second.place)
        assert second.exec("web1", ["true"]).returncode == 0
    assert_gone(first.place, pids)
    first._reap_keeper()


def test_a_room_goes_with_the_process_that_made_it() -> None:
    script = ("import lab, sys; r = lab.Lab(lab.guide_topology(1, size='16M')).up(); "
              "print(r.place.name, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as owner:
        assert owner.stdout is not None
        place = Place(owner.stdout.readline().strip())
        pids = pids_of(place)
        assert len(pids) >= 4
        owner.kill()
    wait_until(lambda: not left_behind(place, pids), "the room to go by itself")


@pytest.mark.parametrize("end", ["power", "down"])
def test_a_mount_that_waits_for_itself(end: str) -> None:
    with Lab(guide_topology(1, size="16M")) as room:
        script = Path(__file__).with_name("hung_mount.py").read_text()
        with room.popen("web1", ["python3", "-c", script, "/mnt"], stdout=subprocess.PIPE, text=True) as hung:
            assert hung.stdout is not None
            assert hung.stdout.readline() == "hung\n"
            pids = pids_of(room.place)
            if end == "power":
                room.power("cycle", "web1")
                assert room.exec("web1", ["true"]).returncode == 0
                pids |= pids_of(room.place)
            else:
                room.down()
            hung.wait(60)
    assert_gone(room.place, pids)


def test_two_rooms_do_not_meet() -> None:
    with Lab(guide_topology(1, size="16M")) as one, Lab(guide_topology(1, size="16M")) as two:
        assert {one.place.name, two.place.name} <= {p.name for p in rooms()}
        one.exec("web1", ["sh", "-c", "echo 1 > /etc/mine"], check=True)
        assert two.exec("web1", ["test", "-e", "/etc/mine"]).returncode == 1
        one.power("off", "web1")
        assert two.exec("web1", ["ping", "-c", "1", "-W", "1", "storgae-server"]).returncode == 0
        pids = pids_of(one.place)
        one.down()
        assert_gone(one.place, pids)
        assert two.exec("web1", ["true"]).returncode == 0


def test_disks_can_be_kept() -> None:
    name = f"keep-{os.getpid()}"
    room = Lab(guide_topology(1, size="16M"), name=name)
    room.up()
    room.exec("web1", ["sh", "-c", "echo kept | dd of=/dev/sdb6 conv=fsync"], check=True)
    room.down(keep_disks=True)
    assert sorted(p.name for p in room.place.path.iterdir()) == ["disks"]
    assert not loops.below(str(room.place.path))
    with Lab(guide_topology(1, size="16M"), name=name) as again:
        assert again.exec("web1", ["head", "-c", "5", "/dev/sdb6"]).stdout == "kept\n"
    assert_gone(room.place, set())


def test_a_room_that_cannot_be_built_leaves_nothing(tmp_path: Path) -> None:
    room = Lab(guide_topology(1, size="16M", binds=("/no/such/directory",)))
    with pytest.raises(LabError, match="no/such/directory"):
        room.up()
    assert_gone(room.place, set())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Lab(guide_topology(1, size="16M"))
    monkeypatch.setattr(build, "TOOLS", {"nftables": ("no-such-nft",)})
    with pytest.raises(LabError, match="no-such-nft is not installed: apt-get install nftables"):
        room.up()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="only root"):
        room.up()
    assert_gone(room.place, set())


def test_a_chroot_is_refused(tmp_path: Path) -> None:
    """pivot_root(2) does not change the root of a mount namespace there: nodes' commands would run on the host."""
    build_there = "from lab import Lab, guide_topology; Lab(guide_topology(1, size='16M')).up()"
    script = """
        set -e
        mount --make-rprivate /
        mount -t tmpfs root "$1"
        for path in /*; do
            if [ -h "$path" ]; then cp -P "$path" "$1/"
            elif [ -d "$path" ]; then mkdir "$1$path"; mount --rbind "$path" "$1$path"; fi
        done
        exec chroot "$1" "$2" -c "$3"
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable, build_there],
                          capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("lab.errors.LabError: this is a chroot"), done.stderr
