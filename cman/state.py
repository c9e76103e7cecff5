"""What a node must not forget over a restart: the number of its last ring, so that no ring's name is used twice."""

from __future__ import annotations

import os
from pathlib import Path

_NUMBER_MAX = 1 << 62


class StateError(Exception):
    """The directory or what is in it cannot be used."""


class StateDirectory:
    """One small file per cluster and node."""

    def __init__(self, directory: Path, cluster: str, nodeid: int) -> None:
        self._path = directory / f"ring-{cluster}-{nodeid}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise StateError(f"{directory}: {e.strerror}") from e

    def ring_seq(self) -> int:
        """0 on the first day. Raises StateError for a file that is damaged."""
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return 0
        except (OSError, UnicodeDecodeError) as e:
            raise StateError(f"{self._path}: {e}") from e
        if not text.strip().isdigit() or int(text) > _NUMBER_MAX:
            raise StateError(f"{self._path} does not hold a number: {text[:40]!r}")
        return int(text)

    def store_ring_seq(self, seq: int) -> None:
        """Durable when it returns. Raises StateError: a ring must not be used that might be forgotten."""
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("w") as f:
                f.write(f"{seq}\n")
                f.flush()
                os.fsync(f.fileno())
            temporary.rename(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as e:
            raise StateError(f"{self._path}: {e.strerror}") from e
