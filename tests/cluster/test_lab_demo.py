"""lab demo as a person runs it: it checks its own cluster, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.rooms import assert_gone, pids_of, wait_until
from lab import demo_work
from lab.demo import ROWS, Row, table
from lab.place import rooms

SHORT = ["--size", "512M", "--seconds", "0.2"]
END = "Nothing is left: no process, mount, loop device, network or file."


def demo(bin_dir: Path, base: Path, *arguments: str) -> subprocess.Popen[str]:
    """Its rooms lie below `base`: they are found there, and no others."""
    return subprocess.Popen([bin_dir / "lab", "demo", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, env={**os.environ, "GFS2PY_LAB_DIR": str(base)})


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("d") / "lab"


@pytest.mark.mount
@pytest.mark.slow
def test_over_iscsi_through_a_restart_of_the_target_and_a_crash(bin_dir: Path, base: Path) -> None:
    """All content is compared by the demo itself: what was acknowledged is there. See the tests of its judge below."""
    with demo(bin_dir, base, "--disk", "iscsi", "--nodes", "3", *SHORT) as running:
        out = running.communicate()[0]
    assert running.returncode == 0, out
    assert out.endswith(f"{END}\n")
    assert "[root@web1 ~]# cat /gfs2/hello\nwritten on web2\n" in out
    kept = re.findall(r"Of [1-9][\d,]* records made durable and [1-9][\d,]* appended to one file none is lost", out)
    assert len(kept) == 2
    pause = re.search(r"All went on, after a pause of at most ([\d.]+) s", out)
    assert pause is not None
    assert float(pause[1]) >= 1.0, "the target was away for a second"
    assert re.search(r"Of the [1-9][\d,]* records that web2 had made durable none is lost", out)
    # After the crash the node is back, and the table of mounts knows the disk by the name that was typed.
    assert out.count("[root@web2 ~]# cat /gfs2/hello\nwritten on web2\n") == 1
    assert re.search(r"^/dev/sdb5 +fuseblk.gfs2", out, re.MULTILINE)
    assert "[root@web1 ~]# umount /dev/sdb5    (and on web2, Mysql1)\n" in out
    assert out.count("fsck.gfs2 complete\n") == 2
    assert not base.exists()


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_is_ended_while_all_nodes_write(number: signal.Signals, bin_dir: Path, base: Path) -> None:
    with demo(bin_dir, base, "--nodes", "2", "--size", "256M", "--seconds", "100") as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("-- All nodes write"):
                break
        place, = rooms(str(base))
        worker = b"demo_work.py\0create\0"
        wait_until(lambda: any(worker in Path(f"/proc/{p}/cmdline").read_bytes() for p in pids_of(place)
                               if os.path.exists(f"/proc/{p}")), "a worker")
        pids = pids_of(place)
        running.send_signal(number)
        out = running.stdout.read()
    assert running.returncode == (-9 if number == signal.SIGKILL else 1)
    if number != signal.SIGKILL:        # else the keeper does it, a little later
        assert out.endswith("lab: interrupted\n")
        assert not base.exists()
    assert_gone(place, pids)


@pytest.mark.mount
@pytest.mark.slow
def test_it_can_be_kept(bin_dir: Path, base: Path) -> None:
    """Up, with the file system mounted, for whoever wants to go on by hand."""
    lab = [bin_dir / "lab", "--name", "kept"]
    env = {**os.environ, "GFS2PY_LAB_DIR": str(base)}
    with subprocess.Popen([*lab, "demo", "--nodes", "1", "--keep", *SHORT], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as running:
        out = running.communicate()[0]
    assert running.returncode == 0, out
    assert "lab --name kept shell web1\n" in out
    place, = rooms(str(base))
    pids = pids_of(place)
    shown = subprocess.check_output([*lab, "exec", "web1", "--", "ls", "/gfs2"], text=True, env=env)
    assert "records" in shown.split()
    subprocess.run([*lab, "down"], check=True, stdout=subprocess.DEVNULL, env=env)
    assert_gone(place, pids)


def test_table() -> None:
    rows = [(ROWS[0], 1234.4, [100.0, 2000.5]), (Row("short", "MiB/s", "stream", "own"), 2.0, [0.4, 1.0])]
    assert table(["web1", "Mysql1"], rows).splitlines() == [
        f"{'':<30}  web1 alone     web1   Mysql1      sum",
        f"{'own directories: new files':<30}       1,234      100    2,000    2,100  files/s",
        f"{'short':<30}           2        0        1        1  MiB/s"]


def records(path: Path, *parts: bytes) -> dict[str, int]:
    path.write_bytes(b"".join(parts))
    return demo_work.records(str(path))


def test_the_judge_of_records(tmp_path: Path) -> None:
    """None may be missing, torn, twice, or in another place than its writer put it."""
    path = tmp_path / "records"
    a, b = ([demo_work.record(node, n) for n in range(3)] for node in ("web1", "web2"))
    assert records(path, a[0], b[0], b[1], a[1], a[2]) == {"web1": 3, "web2": 2}
    assert records(path) == {}
    assert demo_work.records(str(tmp_path / "none")) == {}
    for wrong in ([a[0], a[2]], [a[0], a[0]], [a[1], a[0]], [a[0][:30] + b[0][30:]], [a[0], a[1][:40]],
                  [a[0], bytes(64), a[1]], [a[0][:-12] + a[1][-12:]]):
        with pytest.raises(demo_work.Wrong, match="where record"):
            records(path, *wrong)


def test_the_judge_of_files(tmp_path: Path) -> None:
    work = demo_work.create(str(tmp_path), "web1")
    for _ in range(1 + 3):          # the first time it is ready
        next(work)
    assert demo_work.files(str(tmp_path)) == {"web1": 3}
    (tmp_path / "web1-0000001").rename(tmp_path / "web1-0000003")
    with pytest.raises(demo_work.Wrong, match="not the content"):
        demo_work.files(str(tmp_path))
    (tmp_path / "web1-0000003").unlink()
    with pytest.raises(demo_work.Wrong, match="is missing"):
        demo_work.files(str(tmp_path))
    (tmp_path / "somebody").touch()
    with pytest.raises(demo_work.Wrong, match="nobody made"):
        demo_work.files(str(tmp_path))
