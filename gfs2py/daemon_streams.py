"""A daemon's standard error, brought into its log.

The engine writes a line to standard error, `<3>gfs2py: ...` with the level of syslog in front, from any thread and
without Python. In the foreground that is the log. A daemon in the background reads its own standard error through a
pipe and logs each line; the pipe never makes a writer wait: what does not fit into it is lost.
"""

from __future__ import annotations

import os

from gfs2py.daemon_log import DEBUG, ERROR, INFO, WARNING, log

LEVELS = {b"<%d>" % n: level for n, level in enumerate((ERROR, ERROR, ERROR, ERROR, WARNING, INFO, INFO, DEBUG))}
LINE_MAX_BYTES = 4096


class StandardStreams:
    """Standard input and output of a daemon in the background: nothing to read, and what is written is logged."""

    def __init__(self) -> None:
        self.fd, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(write, 1)
        os.dup2(write, 2)
        for fd in (null, write):
            if fd > 2:
                os.close(fd)
        self._rest = b""

    def drain(self) -> None:
        """Log the lines that have come."""
        while data := self._read():
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._log(line)
            if len(self._rest) > LINE_MAX_BYTES:
                self._log(self._rest)
                self._rest = b""

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return b""

    def _log(self, line: bytes) -> None:
        level = LEVELS.get(line[:3], WARNING)
        text = line[3:] if line[:3] in LEVELS else line
        if text:
            log.write(level, text.decode(errors="backslashreplace"))
