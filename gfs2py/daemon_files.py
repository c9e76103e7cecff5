"""The control file system of a mount as gfs2d runs it: a thread of its own with trio, started when the mount is live.

What it asks of the session and the engine are pictures that no request waits for, so it can tell what hangs while it
hangs. On a shared mount this is another thread than the one that keeps the mount in its cluster: a reader of these
files never waits for a message of another node.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from gfs2py.daemon_log import log
from gfs2py.engine import _inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gfs2py.controlfs.place import Place
    from gfs2py.controlfs.view import Busy, Resource
    from gfs2py.engine.mount import Mounted
    from gfs2py.fuse._session import Session


class MountView:
    """One mount as the control files see it (controlfs.view.View)."""

    def __init__(self, session: Session, mounted: Mounted, device: int, mount_point: str) -> None:
        self._session, self._mounted = session, mounted
        self.device, self.mount_point = device, mount_point
        # Without a table the label is the image's name, and the journal's number behind it.
        self.table = str(mounted.describe().get("locktable") or mounted.label.rpartition(".")[0])

    def describe(self) -> Mapping[str, Any]:
        told = self._mounted.describe()
        if not told:
            raise OSError(5, "the file system is closed")
        return told

    def uuid(self) -> bytes:
        return _inspect.uuid(self._mounted)

    def in_flight(self) -> Sequence[Mapping[str, Any]]:
        return [] if self._session.ended else self._session.in_flight()

    def root_number(self) -> int:
        return _inspect.root_number(self._mounted)

    def glocks(self, waited: frozenset[tuple[int, int]], only_busy: bool) -> Sequence[bytes | Busy]:
        return _inspect.glocks(self._mounted, waited, only_busy)

    def glock_statistics(self) -> bytes:
        return _inspect.glock_statistics(self._mounted)

    def type_statistics(self) -> Sequence[Sequence[int]]:
        return _inspect.type_statistics(self._mounted)

    def resource_groups(self) -> bytes:
        return _inspect.resource_groups(self._mounted)

    def path(self, number: int) -> str | None:
        hint = _inspect.path_hint(self._mounted, number)
        return None if hint is None else os.fsdecode(hint)

    def cluster(self) -> Mapping[str, Any]:
        return self._mounted.cluster()

    def resources(self) -> Sequence[Resource]:
        return self._mounted.contended()

    def replay_percent(self) -> tuple[int, int] | None:
        return self._mounted.replay_percent

    def why(self) -> str:
        return self._mounted.why()

    def tune(self) -> Mapping[str, int]:
        return _inspect.tune(self._mounted)

    def set_tune(self, name: str, value: int) -> None:
        _inspect.set_tune(self._mounted, name, value)

    def withdraw(self) -> None:
        log.warning(f"withdrawn by request target={self.mount_point}")
        self._mounted.withdraw("withdrawn by request (control file)")

    def frozen(self) -> Mapping[str, Any] | None:
        return self._mounted.frozen()

    def freeze(self) -> None:
        log.info(f"freezing target={self.mount_point}")
        self._mounted.freeze()

    def unfreeze(self) -> None:
        self._mounted.unfreeze()

    def ask_sync(self, quota: bool) -> int:
        return _inspect.ask_sync(self._mounted, quota)

    def sync_done(self, ticket: int) -> bool:
        return _inspect.sync_done(self._mounted, ticket)


class ControlFiles:
    """The files of one mount, from start() to stop(). told: called with their directory once they are there."""

    def __init__(self, view: MountView, told: Callable[[str], object]) -> None:
        self._view, self._told = view, told
        self._place: Place | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="gfs2d-files", daemon=True)

    @property
    def path(self) -> str:
        """The directory; empty while there is none."""
        place = self._place
        return os.fspath(place.path) if place is not None else ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take the files away; idempotent, waits for nobody."""
        with self._lock:
            self._stopped = True
            if self._place is not None:
                from gfs2py.controlfs.server import end

                self._place.give_back()
                self._place = None
                end()

    def _run(self) -> None:
        from gfs2py.controlfs.files import make_tree  # here, because all this takes longer than the mount
        from gfs2py.controlfs.place import choose
        from gfs2py.controlfs.server import serve

        try:
            with self._lock:
                if self._stopped:
                    return
                self._place = choose(self._view.table, self._view.device)
                path = os.fspath(self._place.path)
            serve(make_tree(self._view), path, lambda: self._told(path), log.warning)
        except (OSError, RuntimeError) as e:
            log.warning(f"no control files: {e}")
        self.stop()
