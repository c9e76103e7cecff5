"""gfs2d and its commands with the null file system: mounting, ending, dying, hanging."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.conftest import NullMount, wait_until
from gfs2py.daemon import launch, make_request
from gfs2py.daemon_watch import Watchdog
from gfs2py.fuse import _mount, control, loop
from gfs2py.options import parse_options
from interop.commands import Commands, daemons, wait_until_gone

pytestmark = pytest.mark.mount


class Machine:
    """Images, mount points and commands of one test; nothing of it stays behind."""

    def __init__(self, commands: Commands, top: Path) -> None:
        self.commands = commands
        self.image = top / "the image"              # a blank: mountinfo writes it as octal
        self.image.touch()
        self.path = top / "mnt"
        self.path.mkdir()
        self.log = top / "log"

    def mount(self, options: str = "", *more: str) -> subprocess.CompletedProcess[str]:
        text = f"type=null,logfile={self.log}" + (f",{options}" if options else "")
        return self.commands.ours("mount.gfs2", self.image, self.path, "-o", text, *more)

    def daemon(self) -> int:
        (pid,) = daemons(self.path)
        return pid

    def entry(self) -> control.MountEntry | None:
        return control.find_mount(os.fspath(self.path))


@pytest.fixture
def machine(commands: Commands, tmp_path: Path) -> Iterator[Machine]:
    m = Machine(commands, tmp_path)
    yield m
    entry = m.entry()
    pids = daemons(m.path)
    if entry is not None:
        control.abort_connection(control.connection_number(entry.device))
        _mount.umount(os.fsencode(m.path), control.MNT_DETACH)
    for pid in pids:
        wait_until_gone(pid)
    assert m.entry() is None


def loops() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def test_mount_use_umount(machine: Machine) -> None:
    done = machine.mount()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    entry = machine.entry()
    assert entry is not None, "live when mount.gfs2 returns"
    assert (entry.fs_type, entry.source) == ("fuseblk.gfs2", os.fspath(machine.image))
    pid = machine.daemon()
    assert Path(f"/proc/{pid}/comm").read_text() == "gfs2d\n"
    assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3] == [
        b"gfs2d", os.fsencode(machine.image), os.fsencode(machine.path)]
    (machine.path / "f").write_text("x")
    machine.commands.check("umount", machine.path)
    assert machine.entry() is None
    wait_until_gone(pid)
    assert "the image" not in loops(), "the dummy loop device went with the mount"
    log = machine.log.read_text()
    assert "mounted source=" in log
    assert "ended source=" in log


def test_verbose_narrates(machine: Machine) -> None:
    lines = machine.mount("noatime", "-v").stdout.splitlines()
    assert any("options type=null" in line for line in lines)
    assert any("/dev/fuse" in line for line in lines)
    assert lines[-1] == f"mount.gfs2: mounted {machine.image} on {machine.path}"
    mount_options = next(line.split()[5] for line in Path("/proc/self/mountinfo").read_text().splitlines()
                         if line.split()[4] == os.fspath(machine.path))
    assert "noatime" in mount_options.split(",")
    assert machine.commands.ours("umount.gfs2", "-v", machine.path).returncode == 0


def test_umount_helper_waits_for_the_daemon(machine: Machine) -> None:
    machine.mount()
    pid = machine.daemon()
    assert machine.commands.ours("umount.gfs2", machine.image).returncode == 0
    assert pid not in daemons(machine.path)
    done = machine.commands.ours("umount.gfs2", machine.path)
    assert done.returncode == 32
    assert done.stderr == f"umount.gfs2: {machine.path} is not a mounted GFS2\n"


def test_mount_again_at_once(machine: Machine) -> None:
    """When umount has returned the device is free."""
    for _ in range(5):
        assert machine.mount().returncode == 0
        machine.commands.check("umount", machine.path)


def test_second_mount_of_an_image_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine.mount()
    other = tmp_path / "other"
    other.mkdir()
    done = machine.commands.ours("mount.gfs2", machine.image, other, "-o", "type=null")
    assert done.returncode == 32
    assert done.stderr == f"mount.gfs2: {machine.image} is already mounted by another gfs2d\n"
    assert (machine.path.stat().st_mode & 0o777) == 0o755, "the first one lives"


def test_block_device_is_its_own_source(machine: Machine, tmp_path: Path) -> None:
    """And the kernel keeps others from it while it is mounted."""
    backing = tmp_path / "backing"
    with backing.open("wb") as f:
        f.truncate(1 << 20)
    loop = machine.commands.check("losetup", "--show", "-f", backing).strip()
    try:
        machine.image = Path(loop)
        assert machine.mount().returncode == 0
        entry = machine.entry()
        assert entry is not None
        assert (entry.fs_type, entry.source) == ("fuseblk.gfs2", loop)
        with pytest.raises(OSError, match="busy"):
            os.open(loop, os.O_RDWR | os.O_EXCL)
        done = machine.commands.ours("mount.gfs2", loop, machine.path, "-o", "type=null")
        assert (done.returncode, done.stderr) == (32, f"mount.gfs2: {loop} is already mounted or in use\n")
        machine.commands.check("umount", machine.path)
        os.close(os.open(loop, os.O_RDWR | os.O_EXCL))
    finally:
        machine.commands.run("umount", machine.path)
        machine.commands.check("losetup", "-d", loop)


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["{image}", "{path}", "-o", "type=null,data=maybe"], 1,
     "option data=maybe must be one of ordered, writeback"),
    (["{image}", "{path}", "-o", "type=null,wrong"], 1, "unknown option wrong"),
    (["{image}", "{path}", "-o", "type=xfs"], 1, "unknown file system type xfs"),
    (["{image}/none", "{path}"], 32, "{image}/none: no such device or image"),
    (["{path}", "{path}"], 32, "{path} is neither a block device nor an image file"),
    (["{image}", "{path}/none"], 32, "mount point {path}/none: No such file or directory"),
    (["{image}", "{image}"], 32, "mount point {image} is not a directory"),
    (["/dev/null", "{path}"], 32, "/dev/null is neither a block device nor an image file"),
])
def test_what_cannot_be_mounted(machine: Machine, arguments: list[str], status: int, message: str) -> None:
    names = {"image": machine.image, "path": machine.path}
    done = machine.commands.ours("mount.gfs2", *(a.format(**names) for a in arguments))
    assert (done.returncode, done.stdout, done.stderr) == (
        status, "", f"mount.gfs2: {message.format(**names)}\n")
    assert machine.entry() is None
    assert daemons(machine.path) == []


def test_sloppy_and_fake(machine: Machine) -> None:
    assert machine.mount("nonsense,x-systemd.automount", "-s").returncode == 0
    machine.commands.check("umount", machine.path)
    assert machine.mount("", "-f").returncode == 0
    assert machine.entry() is None


def test_read_only_and_remount(machine: Machine) -> None:
    machine.mount("ro")
    with pytest.raises(OSError, match="Read-only"):
        (machine.path / "f").touch()
    done = machine.commands.ours("mount.gfs2", machine.image, machine.path, "-o", "remount,rw")
    assert done.returncode == 0
    (machine.path / "f").touch()


def test_killed_daemon_leaves_nobody_hanging(machine: Machine) -> None:
    """kill -9 in the middle of work: its users get errors, the dead mount point goes."""
    machine.mount()
    pid = machine.daemon()
    workers = []
    for n in range(4):
        child = os.fork()
        if child == 0:
            try:
                # From within: a path from outside leads to the directory below once the dead mount is gone.
                os.chdir(machine.path)
                for i in range(10**9):
                    Path(f"{n}-{i}").write_text("x")
            except OSError:
                os._exit(5)
            finally:
                os._exit(6)
        workers.append(child)
    wait_until(lambda: len(os.listdir(machine.path)) > 40, "some work to be done")
    os.kill(pid, signal.SIGKILL)
    for child in workers:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    wait_until(lambda: machine.entry() is None, "the dead mount point to go")
    assert os.listdir(machine.path) == []
    assert machine.mount().returncode == 0, "and it can be mounted again"


def test_stopped_daemon_is_left_alone(machine: Machine) -> None:
    """By a debugger, by a frozen machine: its requests wait and go on with it."""
    machine.mount("watchdog=1")
    pid = machine.daemon()
    os.kill(pid, signal.SIGSTOP)
    child = os.fork()
    if child == 0:
        try:
            os.stat(machine.path)
            os._exit(0)
        except OSError:
            os._exit(5)
        finally:
            os._exit(6)
    entry = machine.entry()
    assert entry is not None
    number = control.connection_number(entry.device)
    wait_until(lambda: control.requests_waiting(number) > 0, "a request that waits")
    began = time.monotonic()
    while time.monotonic() - began < 4:
        assert machine.entry() is not None
        time.sleep(0.1)
    os.kill(pid, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_sigterm_unmounts(machine: Machine) -> None:
    machine.mount()
    (machine.path / "f").touch()
    pid = machine.daemon()
    os.kill(pid, signal.SIGTERM)
    wait_until_gone(pid)
    assert machine.entry() is None


def test_sigterm_on_a_busy_mount_serves_its_users_to_the_end(machine: Machine) -> None:
    machine.mount()
    pid = machine.daemon()
    with (machine.path / "f").open("w+") as f:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: machine.entry() is None, "the mount to leave the tree")
        f.write("still served")
        f.flush()
        f.seek(0)
        assert f.read() == "still served"
        assert daemons(machine.path) == [pid]
    wait_until_gone(pid)


def test_second_sigterm_ends_it_at_once(machine: Machine) -> None:
    machine.mount()
    pid = machine.daemon()
    fd = os.open(machine.path / "f", os.O_CREAT | os.O_RDWR)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: machine.entry() is None, "the mount to leave the tree")
    os.kill(pid, signal.SIGTERM)
    wait_until_gone(pid)
    with pytest.raises(OSError, match=r"abort|not connected|Input/output"):
        os.fstat(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


def test_watchdog_ends_a_mount_whose_daemon_is_silent(tmp_path: Path) -> None:
    """Alive, not stopped, and without a sign of life while a request waits: aborted, killed, unmounted."""
    path, image = tmp_path / "mnt", tmp_path / "image"
    path.mkdir()
    image.touch()
    ready, told = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        try:
            watchdog = Watchdog(1)
            m = NullMount(path, image)
            m.handle.hold(True)
            watchdog.mounted(m.connection.device, os.fspath(path))
            os.write(told, b"r")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"r"
    os.close(ready)
    asker = os.fork()
    if asker == 0:
        try:
            os.stat(path / ".hold")
        except OSError:
            os._exit(5)
        finally:
            os._exit(6)
    try:
        wait_until(lambda: control.find_mount(os.fspath(path)) is None, "the mount point to go")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(asker, 0)[1]) == 5
    assert os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1]) == -signal.SIGKILL


def test_foreground(machine: Machine) -> None:
    process = subprocess.Popen(
        [machine.commands.bin_dir / "gfs2d", "-f", "-v", "-o", "type=null", machine.image, machine.path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: machine.entry() is not None, "the mount")
    (machine.path / "f").touch()
    machine.commands.check("umount", machine.path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "attaching it to" in out
    assert "INFO ended" in err


def test_without_loop_devices_the_mount_is_plain(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the unmount helper waits for the daemon where umount(2) does not."""
    def none_to_have(label: str) -> tuple[str, int]:
        raise OSError(errno.ENOENT, f"no /dev/loop-control for {label}")

    monkeypatch.setattr(loop, "dummy_loop", none_to_have)
    options = parse_options(f"type=null,logfile={machine.log}")
    said: list[str] = []
    launch(make_request(os.fspath(machine.image), os.fspath(machine.path), options), True, said.append)
    assert any("plain fuse mount" in line for line in said)
    entry = machine.entry()
    assert entry is not None
    assert (entry.fs_type, entry.source) == ("fuse.gfs2", os.fspath(machine.image))
    assert machine.commands.ours("umount.gfs2", machine.path).returncode == 0
    assert "ended source=" in machine.log.read_text()


def test_mount_below_a_chroot(machine: Machine, tmp_path: Path) -> None:
    """The root of a chroot is no mount point, so nothing can be done to its mount; an installer works in one."""
    root = tmp_path / "root"
    root.mkdir()
    script = """
        set -e
        mount --make-rprivate /
        for d in /*; do
            [ -d "$d" ] && [ ! -L "$d" ] || { [ -L "$d" ] && cp -a "$d" "$ROOT"; continue; }
            mkdir -p "$ROOT$d"; mount --rbind "$d" "$ROOT$d"
        done
        chroot "$ROOT" "$BIN/mount.gfs2" "$IMAGE" "$DIR" -o "type=null,logfile=$LOG"
        chroot "$ROOT" sh -c 'grep " $DIR " /proc/mounts && touch "$DIR/made" && ls "$DIR" && umount "$DIR"'
    """
    image = tmp_path / "image"
    image.touch()
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, check=False, env={
        **os.environ, "ROOT": os.fspath(root), "BIN": os.fspath(machine.commands.bin_dir), "IMAGE": os.fspath(image),
        "DIR": os.fspath(machine.path), "LOG": os.fspath(machine.log)})
    assert done.returncode == 0, done.stderr
    assert f"{image} {machine.path} fuseblk" in done.stdout
    assert done.stdout.rstrip().endswith("made")


@pytest.mark.parametrize(("option", "wanted"), [("idle_poll", True), ("noidle_poll", False)])
def test_idle_poll_is_an_option(machine: Machine, option: str, wanted: bool) -> None:
    """2000 requests back to back: the daemon has the device open among them, unless told not to."""
    assert machine.mount(f"{option},nowriteback_cache").returncode == 0
    fds = f"/proc/{machine.daemon()}/fd"
    seen = 0
    for _ in range(40):
        for _ in range(50):
            os.statvfs(machine.path)
        for fd in os.listdir(fds):
            with contextlib.suppress(FileNotFoundError):
                seen += os.readlink(f"{fds}/{fd}") == "/dev/cpu_dma_latency"
    assert (seen > 0) == (wanted and os.access("/dev/cpu_dma_latency", os.W_OK))
    assert machine.commands.ours("umount.gfs2", machine.path).returncode == 0
