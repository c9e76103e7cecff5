"""cluster.conf on disk: read with a limit, replaced in one step."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cman.ccs.element import FILE_BYTES_MAX
from cman.ccs.load import Config, load
from cman.ccs.problems import ConfigError, Problem

PATH_VARIABLE = "CLUSTER_CONF"          # environment: another path, for tests and containers
PATH = Path(os.environ.get(PATH_VARIABLE) or "/etc/cluster/cluster.conf")
MODE = 0o640                    # it may hold passwords of fence devices


def read(path: Path) -> bytes:
    """The bytes of a configuration. Raises ConfigError when it is not there or too long."""
    try:
        with path.open("rb") as f:
            data = f.read(FILE_BYTES_MAX + 1)
    except OSError as e:
        raise ConfigError(os.fspath(path), [Problem(0, e.strerror or str(e))]) from e
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(os.fspath(path), [Problem(0, f"more than {FILE_BYTES_MAX} bytes")])
    return data


def load_file(path: Path) -> Config:
    """Raises ConfigError."""
    return load(read(path), os.fspath(path))


def replace(path: Path, data: bytes, mode: int = MODE) -> None:
    """Put `data` at `path`: after a crash there is the old file or the new one, whole. Raises OSError."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(fd, "wb") as f:
            f.write(data)
            os.fchmod(f.fileno(), mode)
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
