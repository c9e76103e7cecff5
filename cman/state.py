"""What a node must not forget over a restart.

The number of its last ring, so that no ring's name is used twice; and the digest of the last cluster.conf that the
cluster gave it, which tells a file that an operator edited since from one that came from the cluster.
"""

from __future__ import annotations

from pathlib import Path

from cman.ccs.store import replace

_NUMBER_MAX = 1 << 62


class StateError(Exception):
    """The directory or what is in it cannot be used."""


class StateDirectory:
    """Small files, for each cluster and node."""

    def __init__(self, directory: Path, cluster: str, nodeid: int) -> None:
        self._ring = directory / f"ring-{cluster}-{nodeid}"
        self._given = directory / f"given-{cluster}-{nodeid}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise StateError(f"{directory}: {e.strerror}") from e

    def ring_seq(self) -> int:
        """0 on the first day. Raises StateError for a file that is damaged."""
        text = _read(self._ring)
        if text is None:
            return 0
        if not text.strip().isdigit() or int(text) > _NUMBER_MAX:
            raise StateError(f"{self._ring} does not hold a number: {text[:40]!r}")
        return int(text)

    def store_ring_seq(self, seq: int) -> None:
        """Durable when it returns. Raises StateError: a ring must not be used that might be forgotten."""
        _write(self._ring, f"{seq}\n")

    def given(self) -> bytes:
        """The digest of the configuration that the cluster gave this node last; empty when it never did, or when that
        cannot be read any more: then what is on disk counts as an operator's. Raises StateError."""
        try:
            return bytes.fromhex(_read(self._given) or "")
        except ValueError:
            return b""

    def store_given(self, digest: bytes) -> None:
        """Raises StateError."""
        _write(self._given, f"{digest.hex()}\n")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise StateError(f"{path}: {e}") from e


def _write(path: Path, text: str) -> None:
    try:
        replace(path, text.encode(), 0o600)
    except OSError as e:
        raise StateError(f"{path}: {e.strerror}") from e
