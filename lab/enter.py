"""Runs a command inside a node: goes there by the pidfd that the room hands out, and ends as the command ends.

    python3 -IS start.py enter SOCKET NODE [--tty] [--cwd DIRECTORY] [--env NAME=VALUE]... -- COMMAND [ARGUMENT...]

With --tty the command gets a terminal of the node's own, so that shells have job control there. When this process is
killed, so is the command; what the command left in the background stays, as after a logout.
Exit status: the command's (a signal is passed on); 126, 127 as a shell's; 125 when the node cannot be entered.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import termios
import tty

from lab import syscalls
from lab.init import ENVIRONMENT

EX_LAB, EX_CANNOT, EX_NOT_FOUND = 125, 126, 127
PACKET_BYTES_MAX = 64 << 10
NAMESPACES = (syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS
              | syscalls.CLONE_NEWIPC)
# Of <asm-generic/ioctls.h>: the module termios of Python 3.11 has no names for them.
TIOCSPTLCK, TIOCGPTN = 0x40045431, 0x80045430
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Arguments:
    """The command line. Raises ValueError."""

    def __init__(self, argv: list[str]) -> None:
        options, self.command = argv[2:], []
        if "--" in options:
            at = options.index("--")
            options, self.command = options[:at], options[at + 1:]
        if not self.command:
            raise ValueError("no command")
        self.socket, self.node = argv[:2]
        self.tty = False
        self.cwd = "/root"
        self.env = dict(ENVIRONMENT)
        if "TERM" in os.environ:
            self.env["TERM"] = os.environ["TERM"]
        while options:
            option = options.pop(0)
            if option == "--tty":
                self.tty = True
            elif option == "--cwd" and options:
                self.cwd = options.pop(0)
            elif option == "--env" and options and "=" in options[0]:
                name, _, value = options.pop(0).partition("=")
                self.env[name] = value
            else:
                raise ValueError(f"unknown option {option}")


def ask(path: str, node: str) -> tuple[int, str]:
    """A pidfd of the node's pid 1, and its cgroup. Raises OSError; ValueError with the room's refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(path)
        s.send(json.dumps({"op": "enter", "node": node}).encode())
        data, fds, _, _ = socket.recv_fds(s, PACKET_BYTES_MAX, 1)
    answer = json.loads(data or b'{"error": "the room closed its socket"}')
    if "error" in answer:
        raise ValueError(answer["error"])
    return fds[0], str(answer["cgroup"])


def _become(args: Arguments, group: int, terminal: int) -> None:
    """In the child: the last steps before the command. Does not return."""
    syscalls.die_with_parent(signal.SIGKILL)
    if group >= 0:
        os.write(group, b"0")
    if terminal >= 0:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(terminal, fd)
    for number in (*FORWARDED, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.chdir(args.cwd)
        os.execvpe(args.command[0], args.command, args.env)
    except OSError as e:
        print(f"{args.node}: {args.command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(EX_NOT_FOUND if e.errno == errno.ENOENT else EX_CANNOT)


def _fork(args: Arguments, group: int, terminal: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            _become(args, group, terminal)
        finally:
            os._exit(EX_CANNOT)
    return child


def _copy_size(source: int, target: int) -> None:
    try:
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return                      # the user's side is no terminal


def _relay(master: int) -> None:
    """Between the user and the node's terminal until the latter has no user any more."""
    raw = None
    if os.isatty(0):
        raw = termios.tcgetattr(0)
        tty.setraw(0)
        _copy_size(0, master)
        signal.signal(signal.SIGWINCH, lambda *_: _copy_size(0, master))
    try:
        sources = [0, master]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if master in ready:
                try:
                    data = os.read(master, 64 << 10)
                except OSError as e:
                    if e.errno != errno.EIO:
                        raise
                    return          # the last user of the terminal is gone
                while data:
                    data = data[os.write(1, data):]
            if 0 in ready:
                typed = os.read(0, 4096)
                if typed:
                    os.write(master, typed)
                else:
                    sources.remove(0)
                    os.write(master, b"\x04")
    finally:
        if raw is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, raw)


def _run(args: Arguments, group: int) -> int:
    """The wait status of the command."""
    if not args.tty:
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)       # the terminal sends them to the command as well
        child = _fork(args, group, -1)
        for number in FORWARDED:
            signal.signal(number, lambda n, _: os.kill(child, n))
        return os.waitpid(child, 0)[1]
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, bytes(4))
    index = int.from_bytes(fcntl.ioctl(master, TIOCGPTN, bytes(4)), sys.byteorder)
    terminal = os.open(f"/dev/pts/{index}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    child = _fork(args, group, terminal)
    os.close(terminal)
    _relay(master)
    return os.waitpid(child, 0)[1]


def _end_like(status: int) -> int:
    """Exit as the command did: a signal that ended it ends this process too."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    sys.stdout.flush()
    os.kill(os.getpid(), -code)
    return 128 - code


def main(argv: list[str]) -> int:
    try:
        args = Arguments(argv)
        pidfd, group_path = ask(args.socket, args.node)
        group = os.open(f"{group_path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) if group_path else -1
        syscalls.setns(pidfd, NAMESPACES)
        os.close(pidfd)
    except FileNotFoundError as e:
        print(f"lab: there is no room here: {e.filename or argv[0]}: {e.strerror}", file=sys.stderr)
        return EX_LAB
    except (OSError, ValueError) as e:
        print(f"lab: {e}", file=sys.stderr)
        return EX_LAB
    return _end_like(_run(args, group))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
