"""Pid 1 of a node: builds its root, reaps, keeps its log, and is what dies when the power goes.

Started by the room in a pid namespace that holds nothing yet. On descriptor 0 it has a socket to the room:

    room -> init   the Spec, one JSON line
    init -> room   "unshared": give me a network;  room -> init  "network"
    init -> room   "ready", or "failed WHY"
    init -> room   "sysrq c", "crash", "poweroff", "reboot": pid 1 ends right after

Everything of the node is in its pid namespace, so the end of pid 1, for whatever reason, is the end of it all.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

from lab import rootfs, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lab.rootfs import Spec

ENVIRONMENT = {"PATH": rootfs.PATH, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash",
               "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
RC_LOCAL = "/etc/rc.local"
RC_LOCAL_TIMEOUT_S = 30.0
SPEC_BYTES_MAX = 1 << 20
LOG_MESSAGE_BYTES_MAX = 64 << 10
LOG_BYTES_MAX = 16 << 20
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class Room:
    """The socket to the room, line by line."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._buffer = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def line(self) -> str:
        """Raises EOFError when the room is gone."""
        while b"\n" not in self._buffer:
            piece = self._socket.recv(64 << 10)
            if not piece or len(self._buffer) > SPEC_BYTES_MAX:
                raise EOFError("the room closed its socket")
            self._buffer += piece
        found, _, self._buffer = self._buffer.partition(b"\n")
        return found.decode()

    def say(self, text: str) -> None:
        self._socket.sendall(text.encode() + b"\n")


# Of the node's network namespace. The last is what systemd sets: how many lines /dev/log holds that are not read yet.
NETWORK_SETTINGS = (("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1"),
                    ("unix/max_dgram_qlen", "512"))


class SystemLog:
    """/dev/log: what programs of the node tell syslog goes to /var/log/messages, in its usual form."""

    PATH = "/var/log/messages"

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("/dev/log")
        os.chmod("/dev/log", 0o666)
        self._file = os.open(self.PATH, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def receive(self) -> None:
        self.write(log_text(self.socket.recv(LOG_MESSAGE_BYTES_MAX)))

    def write(self, text: str) -> None:
        """One line; a log that has grown too long is begun anew, the old one kept as messages.1."""
        if os.fstat(self._file).st_size > LOG_BYTES_MAX:
            os.rename(self.PATH, self.PATH + ".1")
            os.close(self._file)
            self._file = os.open(self.PATH, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        now = time.localtime()
        stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        os.write(self._file, f"{stamp} {self._hostname} {text}\n".encode(errors="replace"))


def log_text(datagram: bytes) -> str:
    """A syslog datagram without its priority and time stamp, on one line. Source: RFC 3164, section 4.1."""
    text = datagram.decode(errors="replace").rstrip("\0\n").replace("\n", " ")
    if text.startswith("<") and ">" in text[:5]:
        text = text[text.index(">") + 1:]
    if text[:3] in _MONTHS and text[15:16] == " ":
        text = text[16:]
    return text


def reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def set_up(room: Room, spec: Spec) -> SystemLog:
    """From a bare process to a node. Raises OSError, CalledProcessError."""
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    room.say("unshared")
    socket.sethostname(spec["hostname"])
    rootfs.build(spec)
    for name, value in NETWORK_SETTINGS:
        path = f"/proc/sys/net/{name}"
        if os.path.exists(path):
            with open(path, "w") as f:
                f.write(value)
    if room.line() != "network":
        raise OSError(5, "the room gave no network")
    subprocess.run(["ip", "-batch", "-"], input=spec["network"], text=True, check=True, capture_output=True)
    return SystemLog(spec["hostname"])


def start_local(log: SystemLog) -> None:
    """/etc/rc.local, if it may be executed: a node that fails at it is up all the same, as everywhere."""
    if os.access(RC_LOCAL, os.X_OK):
        try:
            status = subprocess.run([RC_LOCAL], check=False, timeout=RC_LOCAL_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            status = -1
        if status:
            log.write(f"init: {RC_LOCAL} failed: see console.log of this node in the lab")


class Supervisor:
    """The loop of pid 1."""

    def __init__(self, room: Room, log: SystemLog) -> None:
        self._room = room
        self._log = log
        # Read and write, so that a writer that closes does not make an end of file.
        self._sysrq = os.open("/" + rootfs.SYSRQ, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._control = os.open("/" + rootfs.CONTROL_FIFO, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> str:
        """Until the node goes down; says why."""
        poll = select.poll()
        for fd in (self._room.fileno(), self._sysrq, self._control, self._wake, self._log.socket.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            reap()
            for fd, _ in poll.poll():
                if fd == self._room.fileno():
                    raise EOFError("the room is gone")
                if fd == self._log.socket.fileno():
                    self._log.receive()
                    continue
                text = os.read(fd, 4096).decode(errors="replace").strip()
                if fd == self._sysrq and (why := self._sysrq_key(text)):
                    return why
                if fd == self._control and text in ("poweroff", "reboot", "crash"):
                    self._log.write(f"init: {text}")
                    return text

    def _sysrq_key(self, text: str) -> str:
        """What the key does to this node; empty for keys that do nothing here."""
        self._log.write(f"kernel: sysrq: {text[:1]}")
        return {"c": "sysrq c", "b": "reboot", "o": "poweroff"}.get(text[:1], "")


def failed(room: Room, why: str) -> int:
    """Tell it and stay until the room has heard: it may be at work on this process's network."""
    room.say("failed " + why.replace("\n", " "))
    try:
        while True:
            room.line()
    except EOFError:
        return 1


def main(arguments: list[str]) -> int:
    """Never returns while the node is up. `arguments`: the node's name, for ps to show."""
    syscalls.die_with_parent(signal.SIGKILL)
    syscalls.set_name("init")
    room = Room(os.dup(0))
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    spec: Spec = json.loads(room.line())
    try:
        log = set_up(room, spec)
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        supervisor = Supervisor(room, log)
        start_local(log)
        log.write(f"init: {spec['hostname']} is up")
    except subprocess.CalledProcessError as e:
        return failed(room, f"{' '.join(e.cmd)}: {e.stderr.strip()}")
    except OSError as e:
        return failed(room, f"{e.filename or ''} {e.strerror or e}".strip())
    room.say("ready")
    try:
        room.say(supervisor.run())
    except EOFError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
