from typing import NamedTuple

from gfs2py.engine._lockmanager import LockManager

class LockRequest(NamedTuple):
    id: int
    unlock: bool
    type: int
    number: int
    have: int
    want: int
    flags: int
    lvb: bytes | None

class LockQueue(LockManager):
    def fileno(self) -> int: ...
    def take(self) -> list[LockRequest]: ...
    def granted(self, id: int, lvb: bytes | None = None) -> None: ...
    def refused(self, id: int, err: int = 11) -> None: ...
    def wanted(self, id: int, leave: int) -> None: ...
