"""What a node sees as its root: built from nothing in a mount namespace of its own.

A tmpfs holds the skeleton. /usr and the project come read-only from the host; /etc, /var, /root and /srv are
directories of the node that outlive its power; /dev, /run, /tmp are new at every boot. /sbin is a directory of
links: the host's commands, and the project's where both have one, so that mount(8) finds our mount.gfs2.
The host's files are never written: what a node may not see is simply not there.
"""

from __future__ import annotations

import os
import stat

from lab import syscalls
from lab.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Spec(TypedDict):
        """What pid 1 of a node is told; all paths are the host's, `binds` are (source, place, read-only)."""

        node: str
        hostname: str
        root: str
        home: str
        binds: list[tuple[str, str, bool]]
        links: dict[str, str]
        scripts: dict[str, str]
        devices: dict[str, tuple[int, int]]
        device_links: dict[str, str]
        network: str

PATH = "/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/bin"
KEPT = ("etc", "var", "root", "srv")
EMPTY = ("dev", "proc", "sys", "run", "tmp", "gfs2", "mnt", "media", "opt", "home", "sbin", "lab")
LOOPS = 256
_CHARACTER = {"null": (1, 3, 0o666), "zero": (1, 5, 0o666), "full": (1, 7, 0o666), "random": (1, 8, 0o666),
              "urandom": (1, 9, 0o666), "tty": (5, 0, 0o666), "fuse": (10, 229, 0o600),
              "loop-control": (10, 237, 0o600)}
# Numbers that differ from kernel to kernel are taken from the host's /dev.
_FROM_HOST = ("cpu_dma_latency",)
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
              "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}
SYSRQ, CONTROL_FIFO = "run/.sysrq", "run/initctl"
FUSECTL = "sys/fs/fuse/connections"


def private_mounts() -> None:
    """Nothing that is mounted from here on shows anywhere else."""
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)


def _devices(root: str, spec: Spec) -> None:
    syscalls.mount("dev", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=1m,nr_inodes=4k")
    old_mask = os.umask(0)
    for name, (major, minor, mode) in _CHARACTER.items():
        os.mknod(f"{root}/dev/{name}", stat.S_IFCHR | mode, os.makedev(major, minor))
    for name in _FROM_HOST:
        if os.path.exists(f"/dev/{name}"):
            os.mknod(f"{root}/dev/{name}", stat.S_IFCHR | 0o600, os.stat(f"/dev/{name}").st_rdev)
    for number in range(LOOPS):
        os.mknod(f"{root}/dev/loop{number}", stat.S_IFBLK | 0o600, os.makedev(7, number))
    for name, (major, minor) in spec["devices"].items():
        os.mknod(f"{root}/dev/{name}", stat.S_IFBLK | 0o600, os.makedev(major, minor))
    os.umask(old_mask)
    for name, target in (_DEV_LINKS | spec["device_links"]).items():
        os.symlink(target, f"{root}/dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{root}/dev/{name}")
    syscalls.mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                   "newinstance,ptmxmode=0666,mode=0620,gid=5")
    syscalls.mount("shm", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def _kernel_views(root: str) -> None:
    """/proc of this pid namespace and /sys of this network namespace, without the switches of the whole machine."""
    syscalls.mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    syscalls.mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if os.path.isdir(f"{root}/{FUSECTL}"):
        syscalls.mount("fusectl", f"{root}/{FUSECTL}", "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in ("kernel", "vm"):
        path = f"{root}/proc/sys/{name}"
        syscalls.bind(path, path, read_only=True)
    # `echo c > /proc/sysrq-trigger` is how the guide crashes a node: it must crash this node, and no more.
    os.mkfifo(f"{root}/{SYSRQ}", 0o200)
    if os.path.exists(f"{root}/proc/sysrq-trigger"):
        syscalls.bind(f"{root}/{SYSRQ}", f"{root}/proc/sysrq-trigger")


def _skeleton(root: str, spec: Spec) -> None:
    syscalls.mount(spec["node"], root, "tmpfs", MS_NOSUID, "mode=755,size=64m")
    for name in EMPTY:
        os.mkdir(f"{root}/{name}")
    for name in KEPT:
        os.mkdir(f"{root}/{name}")
        syscalls.bind(f"{spec['home']}/{name}", f"{root}/{name}")
    for name in ("run", "tmp"):
        syscalls.mount(name, f"{root}/{name}", "tmpfs", MS_NOSUID | MS_NODEV,
                       "mode=1777" if name == "tmp" else "mode=755")
    os.mkdir(f"{root}/run/lock")
    os.mkfifo(f"{root}/{CONTROL_FIFO}", 0o600)


def _shown(root: str, spec: Spec) -> None:
    """What comes from the host, and the links."""
    for source, place, read_only in spec["binds"]:
        target = root + place
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "a"):
                pass
        syscalls.bind(source, target, read_only=read_only)
    for path, goal in spec["links"].items():
        os.symlink(goal, root + path)
    for name, text in spec["scripts"].items():
        path = f"{root}/sbin/{name}"
        if os.path.lexists(path):
            os.unlink(path)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, 0o755)


def build(spec: Spec) -> None:
    """Make the tree and enter it. In a fresh mount namespace; raises OSError naming the mount that failed."""
    private_mounts()
    root = spec["root"]
    _skeleton(root, spec)
    _shown(root, spec)
    _devices(root, spec)
    _kernel_views(root)
    # The skeleton itself stays writable: people make directories to mount things on.
    syscalls.pivot_root(root)


def sbin_links(host_sbin: str, bin_dir: str, ours: list[str]) -> dict[str, str]:
    """Links of a node's /sbin: the host's commands by their place in /usr, the project's own instead where named."""
    links = {f"/sbin/{name}": f"{host_sbin}/{name}" for name in sorted(os.listdir(host_sbin))}
    links.update({f"/sbin/{name}": f"{bin_dir}/{name}" for name in ours})
    return links


def root_links() -> dict[str, str]:
    """/bin -> usr/bin and its like, as the host has them; /sbin is a directory of ours."""
    found = {}
    for name in sorted(os.listdir("/")):
        if os.path.islink(f"/{name}") and name != "sbin":
            goal = os.readlink(f"/{name}")
            if goal.startswith(("usr/", "/usr/")):
                found[f"/{name}"] = goal
    return found


