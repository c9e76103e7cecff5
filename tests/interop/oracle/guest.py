"""One QEMU with one image: its disks and ports, and the verdict on what the kernel did."""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .errors import EX_GUEST, EX_MOUNT, EX_TIMEOUT, EX_UMOUNT, EX_WITHDRAW, OracleError
from .prepare import guest_file, is_prepared, kernel_dir, qemu

# For a short boot under TCG: no console output, no calibration, none of the protections that cost
# time and change nothing for a file system.
CMDLINE = ("quiet panic=-1 oops=panic mitigations=off selinux=0 apparmor=0 audit=0 "
           "init_on_alloc=0 tsc=reliable no_timer_check nowatchdog nokaslr "
           "cryptomgr.notests random.trust_cpu=on rcupdate.rcu_expedited=1 "
           "kfence.sample_interval=0 raid=noautodetect ipv6.disable=1 net.ifnames=0 ")

# Kernel lines that mean that the file system, or the kernel, is no longer well.
TROUBLE = re.compile(r"withdraw|GFS2:.*fatal|GFS2:.*(inconsisten|corrupt)|kernel BUG|"
                     r"Oops|Kernel panic|Unable to handle|general protection|"
                     r"WARNING: CPU.*gfs2|blocked for more than", re.IGNORECASE)
INTERESTING = re.compile(r"gfs2|dlm|WARNING: CPU", re.IGNORECASE)

Sink = Callable[[bytes], None]


@dataclass
class Machine:
    """The virtual machine and how long it may take."""

    mem_mib: int = 768
    smp: int = 1
    cpu: str = "max"
    # microvm is hardly faster, and its guest has no timer to calibrate by when the host is busy.
    machine: str = "q35"
    # QEMU's cache mode: what the guest's disk acknowledged is in the image, even if QEMU is killed.
    cache: str = "writeback"
    append: str = ""
    out_mib: int = 4096
    timeout_s: float = 300
    verbose: bool = False


@dataclass
class Job:
    """What one guest is to do with its image."""

    image: str
    script: bytes = b""
    mounts: bool = True
    mount_opts: str = ""
    proto: str = "lock_nolock"
    crash: bool = False
    readonly: bool = False          # the mount
    readonly_device: bool = False
    snapshot: bool = False          # all writes are thrown away
    in_dir: str | None = None
    out_dir: str | None = None
    interactive: bool = False
    cluster: bool = False
    config: str = ""                # more lines for /ctl/config
    files: dict[str, bytes] = field(default_factory=dict)
    netdev: list[str] = field(default_factory=list)
    prefix: str = ""
    sink: Sink | None = None

    def mount_options(self) -> str:
        options = [f"lockproto={self.proto}", *(["ro"] if self.readonly else []), self.mount_opts]
        return "-o " + ",".join(o for o in options if o)

    def all_config(self) -> str:
        return (f"MOUNT={'1' if self.mounts else ''}\nMOUNT_OPTS={quote(self.mount_options())}\n"
                f"CRASH={'1' if self.crash else ''}\nSHELL_PORT={'1' if self.interactive else ''}\n"
                + self.config)


def quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def write_ctl(path: Path, job: Job) -> None:
    """The disk by which the guest gets its orders: a tar archive."""
    files: Mapping[str, bytes] = {"config": job.all_config().encode(), "script": job.script,
                                  "walk.py": guest_file("walk.py"), **job.files}
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("in")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
        if job.in_dir:
            tar.add(job.in_dir, "in")


class Drives:
    """QEMU's options for the disks, each known in the guest by its serial number."""

    def __init__(self, machine: Machine) -> None:
        self.bus = "pci" if machine.machine != "microvm" else "device"
        self.options: list[str] = []
        self.count = 0

    def add(self, path: str, serial: str, *options: str, device: str = "") -> None:
        name = path.replace(",", ",,")
        self.options += [
            "-drive", ",".join([f"if=none,id=d{self.count},format=raw,file={name}", *options]),
            "-device", f"virtio-blk-{self.bus},drive=d{self.count},serial={serial}{device}"]
        self.count += 1


class Guest:
    """One QEMU. Its output port goes to the job's sink, line by line when it has a prefix."""

    def __init__(self, job: Job, machine: Machine, work: Path) -> None:
        self.job, self.work, self.sink = job, work, job.sink
        self.steps: dict[str, list[str]] = {}
        self.times: dict[str, float] = {}
        self.console = work / "console"
        self.pipes: dict[str, int] = {}
        ports: list[str] = []
        passed: list[int] = []
        for number, name in enumerate(("control", "output"), 1):
            reader, writer = os.pipe()
            self.pipes[name] = reader
            passed.append(writer)
            ports += ["-add-fd", f"fd={writer},set={number}",
                      "-chardev", f"file,id={name},path=/dev/fdset/{number},append=on",
                      "-device", f"virtserialport,chardev={name},name={name}"]
        if job.interactive:
            ports += ["-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,chardev=tty"]
        command = self.command(machine, ports)
        if machine.verbose:
            print("+ " + " ".join(command), file=sys.stderr)
        self.started = time.monotonic()
        self.stderr = (work / "qemu.stderr").open("w+b")
        self.process = subprocess.Popen(
            command, stdin=None if job.interactive else subprocess.DEVNULL, pass_fds=passed,
            start_new_session=not job.interactive, stderr=None if job.interactive else self.stderr,
            stdout=None if job.interactive else subprocess.DEVNULL)
        for fd in passed:
            os.close(fd)
        self.buffers = dict.fromkeys(self.pipes, b"")

    def command(self, machine: Machine, ports: list[str]) -> list[str]:
        job, kernel, drives = self.job, kernel_dir(), Drives(machine)
        drives.add(job.image, "gfs2", f"cache={machine.cache}", "discard=unmap",
                   *(["readonly=on"] if job.readonly_device else []),
                   *(["snapshot=on"] if job.snapshot else []),
                   *(["file.locking=off"] if job.cluster else []),
                   device=",share-rw=on" if job.cluster else "")
        write_ctl(self.work / "ctl", job)
        drives.add(str(self.work / "ctl"), "ctl", "readonly=on")
        if job.out_dir is not None:
            with (self.work / "out").open("wb") as f:
                f.truncate(machine.out_mib << 20)
            drives.add(str(self.work / "out"), "out", "cache=unsafe")
        return [
            qemu(), "-M", "microvm,rtc=on" if machine.machine == "microvm" else machine.machine,
            "-accel", os.environ.get("KERNEL_GFS2_ACCEL") or "tcg", "-cpu", machine.cpu,
            "-smp", str(machine.smp), "-m", str(machine.mem_mib), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-rtc", "base=utc", "-kernel", f"{kernel}/vmlinux",
            "-initrd", f"{kernel}/{'cluster' if job.cluster else 'base'}.cpio",
            "-append", CMDLINE + f"console=ttyS0 {machine.append}",
            "-serial", f"file:{self.console}", *drives.options,
            "-device", f"virtio-serial-{drives.bus}", *ports, *job.netdev]

    def feed(self, name: str) -> bool:
        """Take what a port has to say; False when it has been closed."""
        data = os.read(self.pipes[name], 65536)
        if name == "output" and not self.job.prefix:
            self.write(data)
            return bool(data)
        *lines, self.buffers[name] = (self.buffers[name] + data).split(b"\n")
        for line in lines:
            if name == "output":
                self.write(self.job.prefix.encode() + line + b"\n")
            else:
                word, *values = line.decode(errors="replace").split()
                self.steps[word] = values
                self.times[word] = time.monotonic() - self.started
        return bool(data)

    def write(self, data: bytes) -> None:
        try:
            if data and self.sink:
                self.sink(data)
        except BrokenPipeError:
            self.sink = None        # nobody reads any more; the guest goes on

    def stop(self) -> None:
        """End the guest at once, as a power cut would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.stderr.close()

    def close_pipe(self, name: str) -> None:
        os.close(self.pipes.pop(name))

    def log(self) -> list[str]:
        """The kernel's messages, and what QEMU itself had to say."""
        lines = []
        for path in (self.work / "qemu.stderr", self.console):
            with contextlib.suppress(OSError):
                lines += [x.strip("\r") for x in path.read_text(errors="replace").splitlines()]
        return lines

    def messages(self) -> list[str]:
        return [x for x in self.log() if INTERESTING.search(x) or TROUBLE.search(x) or "qemu" in x]

    def collect(self) -> None:
        """Unpack what the script left in $OUT."""
        if self.job.out_dir is not None and "out" in self.steps:
            os.makedirs(self.job.out_dir, exist_ok=True)
            subprocess.run(["tar", "-xf", self.work / "out", "-C", self.job.out_dir], check=True)

    def status(self, timed_out: bool) -> tuple[int, str]:
        """The exit status that stands for how it all went, and why."""
        trouble = [x for x in self.log() if TROUBLE.search(x)]
        if timed_out:
            return EX_TIMEOUT, "timed out"
        if "boot" not in self.steps:
            return EX_GUEST, "the guest did not boot"
        if self.steps.get("cluster") == ["failed"]:
            return EX_GUEST, "the cluster stack did not come up"
        if self.job.mounts and self.steps.get("mount", ["?"])[0] != "0":
            return EX_MOUNT, "the mount failed"
        if trouble:
            return EX_WITHDRAW, "the kernel complains: " + trouble[0]
        if not {"script", "crash" if self.job.crash else "done"} <= set(self.steps):
            return EX_GUEST, "the guest died"
        if not self.job.crash and self.steps.get("umount", ["0"])[0] != "0":
            return EX_UMOUNT, "the unmount failed"
        return int(self.steps["script"][0]), ""

    def seconds(self) -> str:
        steps = " ".join(f"{k}={v:.2f}" for k, v in self.times.items())
        return f"seconds: {steps} end={time.monotonic() - self.started:.2f}"


def drive_guests(guests: Iterable[Guest], timeout_s: float) -> bool:
    """Serve the guests' ports until all have ended; True when time ran out (0: it never does)."""
    deadline = time.monotonic() + timeout_s if timeout_s else None
    with selectors.DefaultSelector() as chooser:
        for guest in guests:
            for name, fd in guest.pipes.items():
                chooser.register(fd, selectors.EVENT_READ, (guest, name))
        while chooser.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return True
            for key, _ in chooser.select(left):
                guest, name = key.data
                if not guest.feed(name):
                    chooser.unregister(key.fd)
                    guest.close_pipe(name)
    for guest in guests:
        guest.process.wait()
    return False


@dataclass
class Outcome:
    """How a guest ended: the exit status, the oracle's reason if it has one, the kernel's lines."""

    status: int
    reason: str
    messages: list[str]
    seconds: str


def require_ready(image: str) -> None:
    if not is_prepared():
        raise OracleError("not prepared for this kernel: run `kernel-gfs2 prepare` first")
    if not os.path.exists(image):
        raise OracleError(f"no such image: {image}")


def run_guests(jobs: list[Job], machine: Machine, console: str | None = None) -> list[Outcome]:
    """Boot a guest per job at the same time, wait for all of them, judge each."""
    guests: list[Guest] = []
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="kernel-gfs2-") as top:
        try:
            for number, job in enumerate(jobs, 1):
                require_ready(job.image)
                work = Path(top, f"guest{number}")
                work.mkdir()
                guests.append(Guest(job, machine, work))
            timed_out = drive_guests(guests, machine.timeout_s)
        finally:
            for guest in guests:
                guest.stop()
                for name in list(guest.pipes):
                    guest.close_pipe(name)
        for guest in guests:
            guest.collect()
            outcomes.append(Outcome(*guest.status(timed_out), guest.messages(), guest.seconds()))
            if console and guest.console.exists():
                shutil.copyfile(guest.console, console)
    return outcomes
