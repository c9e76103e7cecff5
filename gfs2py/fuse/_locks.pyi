class LockTable:
    WAIT: int
    def set(
        self,
        nodeid: int,
        owner: int,
        type: int,
        start: int = 0,
        end: int = 0xFFFFFFFFFFFFFFFF,
        *,
        fh: int = 0,
        pid: int = 0,
        flock: bool = False,
        sleep: bool = False,
        unique: int = 0,
    ) -> int: ...
    def get(
        self, nodeid: int, owner: int, type: int, start: int = 0, end: int = 0xFFFFFFFFFFFFFFFF
    ) -> tuple[int, int, int, int] | None: ...
    def cancel(self, unique: int) -> None: ...
    def drop_owner(self, nodeid: int, owner: int) -> None: ...
    def drop_fh(self, nodeid: int, fh: int) -> None: ...
    def woken(self) -> list[int]: ...
    def counts(self) -> tuple[int, int, int]: ...
