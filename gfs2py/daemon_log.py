"""The daemon's log: lines to standard error, a file or syslog. Python's logging takes longer to load than a mount.

One thread writes at a time only because a line is one write(2) to a descriptor opened with O_APPEND.
"""

from __future__ import annotations

import os
import syslog
import time

DEBUG, INFO, WARNING, ERROR = "DEBUG", "INFO", "WARNING", "ERROR"
_PRIORITIES = {DEBUG: syslog.LOG_DEBUG, INFO: syslog.LOG_INFO, WARNING: syslog.LOG_WARNING, ERROR: syslog.LOG_ERR}


class Log:
    """Where a daemon's lines go; `name` says which mount."""

    def __init__(self) -> None:
        self._fd = 2            # -1: syslog
        self._name = ""

    def to_stderr(self, name: str) -> None:
        self._fd, self._name = 2, name

    def to_file(self, path: str, name: str) -> None:
        """Append to a file. Raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._name = name

    def to_syslog(self, name: str) -> None:
        syslog.openlog("gfs2d", syslog.LOG_PID, syslog.LOG_DAEMON)
        self._fd, self._name = -1, name

    def write(self, level: str, text: str) -> None:
        """One line; what a file cannot take is lost, and the daemon goes on."""
        if self._fd < 0:
            syslog.syslog(_PRIORITIES[level], f"{self._name}: {level} {text}")
            return
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now % 1 * 1000):03d}"
        line = f"{stamp} gfs2d[{os.getpid()}] {self._name}: {level} {text}\n"
        try:
            os.write(self._fd, line.encode(errors="surrogateescape"))
        except OSError:
            return

    def debug(self, text: str) -> None:
        self.write(DEBUG, text)

    def info(self, text: str) -> None:
        self.write(INFO, text)

    def warning(self, text: str) -> None:
        self.write(WARNING, text)

    def error(self, text: str) -> None:
        self.write(ERROR, text)

    def exception(self, text: str, error: BaseException) -> None:
        """What went wrong, with where."""
        import traceback

        self.write(ERROR, f"{text}\n{''.join(traceback.format_exception(error)).rstrip()}")


log = Log()
