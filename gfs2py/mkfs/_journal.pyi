def fill_journal(
    buf: bytearray | memoryview,
    bsize: int,
    first: int,
    count: int,
    jblocks: int,
    jext0: int,
    jinode: int,
    seq: int,
) -> None: ...
