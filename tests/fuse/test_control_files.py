"""The control files of a live mount: who may read them, huge tables, writes; they come and go with the mount."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.conftest import wait_until
from gfs2py.control.client import Unreachable, connect
from gfs2py.control.paths import DIRECTORY
from gfs2py.fuse import control
from interop.commands import CommandFailed, Commands, Mounted, Mounts, wait_until_gone

pytestmark = pytest.mark.mount

FILES = 1500
FILES_LIMIT_S = 60.0
NOBODY = 65534
LINE = re.compile(r"G:  s:(UN|SH|DF|EX) n:\d+/[0-9a-f]+ f:\w* t:(UN|SH|DF|EX) d:(UN|SH|DF|EX)/\d+ a:\d+ v:\d+ r:\d+ "
                  r"m:\d+ p:\d+"
                  r"| H: s:(UN|SH|DF|EX) f:\w* e:0 p:\d+ \[.*\] \w+"
                  r"| I: n:\d+/\d+ t:\d+ f:0x[0-9a-f]{2} d:0x[0-9a-f]{8} s:\d+ p:\d+"
                  r"| R: n:\d+ f:[0-9a-f]{2} b:\d+/\d+ i:\d+ q:\d+ r:\d+ e:\d+")


@pytest.fixture(scope="module")
def image(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "image"
    with path.open("wb") as f:
        f.truncate(256 << 20)
    commands.mkfs(path, "-J", "8", "-t", f"test:{os.getpid()}")
    return path


@pytest.fixture
def gfs2(mounts: Mounts, image: Path) -> Mounted:
    return mounts.mount(image)


def files_of(gfs2: Mounted) -> Path:
    """The directory of a mount's control files, once they are there."""
    def look() -> str:
        try:
            with connect(os.fspath(gfs2.path), timeout_s=FILES_LIMIT_S) as asked:
                return asked.identity().files
        except Unreachable:         # not even its socket yet
            return ""

    wait_until(lambda: look() != "", "the control files", FILES_LIMIT_S)
    return Path(look())


def tool(gfs2: Mounted, *words: str) -> str:
    return gfs2.commands.check(gfs2.commands.bin_dir / "gfs2_tool", *words)


def control_mounts() -> list[str]:
    return [m.mount_point for m in control.mounts() if m.fs_type == "fuse.gfs2control"]


def test_every_line_of_a_large_table(gfs2: Mounted) -> None:
    """However small the pieces in which it is read; and every inode is in it."""
    numbers = set()
    for i in range(FILES):
        (gfs2.path / f"f{i}").touch()
        numbers.add((gfs2.path / f"f{i}").stat().st_ino)
    files = files_of(gfs2)
    with (files / "glocks").open("rb", buffering=0) as f:
        whole = b""
        while piece := os.pread(f.fileno(), 4093, len(whole)):
            whole += piece
        assert os.pread(f.fileno(), 100, 5000) == whole[5000:5100]
    lines = whole.decode().splitlines()
    for line in lines:
        assert LINE.fullmatch(line), line
    seen = [int(m[1], 16) for m in re.finditer(r"^G:  s:EX n:2/([0-9a-f]+) ", whole.decode(), re.M)]
    assert numbers <= set(seen)
    assert len(seen) == len(set(seen))
    assert len((files / "rgrps").read_text().splitlines()) == int(
        re.findall(r"Resource Groups = (\d+)", tool(gfs2, "df", os.fspath(gfs2.path)))[0])
    assert tool(gfs2, "lockdump", os.fspath(gfs2.path)).count("G:  s:EX n:2/") == len(seen)


def test_values_and_commands(gfs2: Mounted) -> None:
    files, point = files_of(gfs2), os.fspath(gfs2.path)
    device = os.stat(gfs2.path).st_dev
    assert (files / "id").read_text() == f"{os.major(device)}:{os.minor(device)}\n"
    assert (files / "lock_module/proto_name").read_text() == "lock_nolock\n"
    assert (files / "mount_point").read_text() == f"{point}\n"
    for path, value in (("tune/statfs_quantum", "0"), ("tune/statfs_quantum", "9x"), ("withdraw", "0"),
                        ("statfs_sync", "2")):
        with pytest.raises(OSError) as caught:
            (files / path).write_text(value)
        assert caught.value.errno == errno.EINVAL
    for path, mode in (("id", "w"), ("quota_sync", "r")):
        assert subprocess.run([sys.executable, "-c", f"open({os.fspath(files / path)!r}, {mode!r})"],
                              capture_output=True, check=False).returncode == 1
    before = tool(gfs2, "gettune", point)
    tool(gfs2, "settune", point, "statfs_quantum", "77")
    assert tool(gfs2, "gettune", point) == before.replace("statfs_quantum = 30", "statfs_quantum = 77") != before
    (gfs2.path / "more").write_bytes(b"x" * 100000)
    (files / "statfs_sync").write_text("1")
    (files / "quota_sync").write_text("1\n")
    tool(gfs2, "withdraw", point)
    assert (files / "withdraw").read_text() == "1\n"
    with pytest.raises(OSError) as caught:
        (gfs2.path / "more").read_bytes()
    assert caught.value.errno == errno.EIO


def test_only_root_comes_in(gfs2: Mounted) -> None:
    files = files_of(gfs2)
    assert (files / "glocks").stat().st_mode & 0o777 == 0o400
    script = f"import os\nos.setgid({NOBODY}); os.setuid({NOBODY})\nos.listdir({os.fspath(files)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert "PermissionError" in done.stderr
    # Whoever gets past the directory above is stopped by the mount itself.
    script = f"import os\nos.chdir({os.fspath(files)!r})\nos.setgid({NOBODY}); os.setuid({NOBODY})\nopen('id')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert "PermissionError" in done.stderr


def test_they_go_with_the_mount(gfs2: Mounted) -> None:
    """Also when somebody has one open; what he has open fails at once."""
    files = files_of(gfs2)
    fd = os.open(files / "glocks", os.O_RDONLY)
    try:
        assert os.pread(fd, 10, 0)
        gfs2.umount()
        assert not files.exists()
        with pytest.raises(OSError) as caught:
            os.pread(fd, 10, 0)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        with contextlib.suppress(OSError):      # close(2) tells the same
            os.close(fd)
    assert os.fspath(files) not in control_mounts()
    assert not (DIRECTORY / f".{files.name}.lock").exists()


def test_a_daemon_that_is_killed(gfs2: Mounted, mounts: Mounts, image: Path) -> None:
    """Its watchdog takes the files away; the next mount has the same place."""
    files, pid = files_of(gfs2), gfs2.daemon()
    gfs2.kill()
    lock = DIRECTORY / f".{files.name}.lock"
    wait_until(lambda: os.fspath(files) not in control_mounts() and not files.exists() and not lock.exists(),
               "the files to go", 60)
    wait_until_gone(pid)
    again = mounts.mount(image, name="again")
    assert files_of(again) == files


def kill_all_of(gfs2: Mounted) -> None:
    """The daemon, and before it the watchdog that would tidy up; the dead mount itself stays."""
    pid = gfs2.daemon()
    watchdog = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()
                and _command(p) == [b"gfs2d-watchdog", str(pid).encode()]]
    assert len(watchdog) == 1
    os.kill(watchdog[0], 9)
    os.kill(pid, 9)
    wait_until_gone(pid)


def test_a_dead_daemons_files_go_with_its_mount(gfs2: Mounted, mounts: Mounts, image: Path, tmp_path: Path) -> None:
    """umount.gfs2 takes them away; those of the living stay."""
    files = files_of(gfs2)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    living = files_of(mounts.mount(copy, name="other"))
    kill_all_of(gfs2)
    assert os.fspath(files) in control_mounts()
    gfs2.commands.check(gfs2.commands.bin_dir / "umount.gfs2", gfs2.path)
    assert os.fspath(files) not in control_mounts()
    assert not files.exists()
    assert (living / "fsname").read_text().startswith("test:")


def test_a_dead_daemons_files_are_replaced(gfs2: Mounted, mounts: Mounts, image: Path) -> None:
    """Where its watchdog is dead, too, by the next mount of that table."""
    files = files_of(gfs2)
    kill_all_of(gfs2)
    gfs2.commands.check("umount", "-i", gfs2.path)
    assert os.fspath(files) in control_mounts()
    with pytest.raises(OSError) as caught:
        (files / "id").read_text()
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    again = mounts.mount(image, name="again")
    assert files_of(again) == files
    assert control_mounts().count(os.fspath(files)) == 1
    assert (files / "mount_point").read_text() == f"{again.path}\n"


def _command(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def test_two_mounts_of_one_table(gfs2: Mounted, mounts: Mounts, image: Path, tmp_path: Path) -> None:
    """A copy of an image: its files stand beside those of the first, named with its device number."""
    first = files_of(gfs2)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    other = mounts.mount(copy, name="other")
    second = files_of(other)
    device = os.stat(other.path).st_dev
    assert second.name == f"{first.name}.{os.major(device)}.{os.minor(device)}"
    assert [(p / "mount_point").read_text() for p in (first, second)] == [f"{gfs2.path}\n", f"{other.path}\n"]
    gfs2.umount()
    assert (second / "mount_point").read_text() == f"{other.path}\n"
    other.umount()
    assert not second.exists()


@pytest.mark.interop
def mounts_of_the_machine() -> list[str]:
    """Without file systems in user space, which other programs may mount meanwhile."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - fuse" not in line]


def glocktop(gfs2: Mounted, files: Path) -> str:
    """It shows all of a machine's mounts, and ends when one that it has seen goes meanwhile: that may be another's."""
    for _ in range(20):
        try:
            return tool(gfs2, "glocktop", "-n", "1", "-d", "1", "-s", "1")
        except CommandFailed as e:
            gone = re.search(r"/gfs2/([^/\n]+)/glocks: No such file or directory", str(e))
            if gone is None or gone[1] == files.name:
                raise
    raise AssertionError("other mounts come and go all the time")


def test_glocktop_reads_them(gfs2: Mounted) -> None:
    """gfs2-utils' own, on a mount of one node: it counts the glocks, and outside nothing is changed."""
    (gfs2.path / "file").touch()
    files, before = files_of(gfs2), mounts_of_the_machine()
    said = glocktop(gfs2, files)
    (title,) = [line for line in said.splitlines() if line.startswith(f"@ {files.name.partition(':')[2]} ")]
    table = said[said.index(title):]
    (total,) = re.findall(r"^S     Total: (.*)$", table, re.M)[:1]
    told = (files / "glocks").read_text()
    _, inodes, rgrps, *_ = map(int, total.split())
    assert (inodes, rgrps) == (told.count("s:EX n:2/"), told.count("s:EX n:3/"))
    assert mounts_of_the_machine() == before
