"""The daemon's lines: to the standard error, and to syslog when asked, in the form of the guide.

    Aug 24 03:00:17 web2 cman[2689]: [TOTEM] entering OPERATIONAL state ring=1.3
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import sys
import threading

SYSLOG = "/dev/log"
LINES_MAX = 2000                # that wait for the log daemon
CLOSE_LIMIT_S = 1.0
_DAEMON = 3 << 3                # the facility
_NOTICE, _WARNING, _ERROR = 5, 4, 3


class Formatter(logging.Formatter):
    """With `stamped`: time, node and process, which the journal has by itself."""

    def __init__(self, node: str, stamped: bool) -> None:
        super().__init__(datefmt="%b %d %H:%M:%S")
        self._head = f" {node} cman[{os.getpid()}]: "
        self._stamped = stamped

    def format(self, record: logging.LogRecord) -> str:
        part = record.name.rpartition(".")[2].upper()
        level = "" if record.levelno < logging.WARNING else f"<{record.levelname.lower()}> "
        head = self.formatTime(record, self.datefmt) + self._head if self._stamped else ""
        text = f"{head}[{part}] {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Syslog(logging.Handler):
    """Never waits. What the log daemon does not take at once a thread sends, in order: neither does one that hangs stop
    membership, nor does one that takes ten lines at a time lose those of a membership change. What is more than
    LINES_MAX behind is not told there."""

    def __init__(self, path: str = SYSLOG) -> None:
        """Raises OSError when nobody listens."""
        super().__init__()
        self._path = path
        self._closing = False
        self._lines: queue.Queue[bytes | None] = queue.Queue(LINES_MAX)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self.setFormatter(Formatter("", False))
        self._thread = threading.Thread(target=self._run, name="cman-syslog", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        level = _NOTICE if record.levelno < logging.WARNING else \
            _WARNING if record.levelno < logging.ERROR else _ERROR
        data = f"<{_DAEMON | level}>cman[{os.getpid()}]: {self.format(record)}".encode(errors="replace")
        if self._lines.unfinished_tasks == 0:           # nothing is before it: in the order of other processes' lines
            try:
                self._socket.send(data, socket.MSG_DONTWAIT)
                return
            except OSError:
                pass                # full, or started anew: the thread sees to it
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(data)

    def _run(self) -> None:
        while (data := self._lines.get()) is not None:
            try:
                self._socket.send(data)
            except OSError:
                with contextlib.suppress(OSError):      # it was started anew
                    self._socket.connect(self._path)
                    self._socket.send(data)
            self._lines.task_done()
            if self._closing and self._lines.empty():
                return

    def close(self) -> None:
        """What waits is sent, if that is soon done."""
        self._closing = True
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(CLOSE_LIMIT_S)
        if not self._thread.is_alive():
            self._socket.close()
        super().close()


def start_log(node: str, debug: bool, syslog: bool) -> None:
    """To be called again when the node's name is known."""
    logger = logging.getLogger("cman")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(node, "JOURNAL_STREAM" not in os.environ))
    logger.addHandler(handler)
    if syslog:
        with contextlib.suppress(OSError):
            logger.addHandler(Syslog())
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
