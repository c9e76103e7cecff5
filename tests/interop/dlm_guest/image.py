"""The guest's initramfs: of the oracle's cluster image what the agent needs, so that it unpacks in a second."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path

from interop.oracle.errors import OracleError
from interop.oracle.prepare import Cpio, kernel_dir

HERE = Path(__file__).parent
LIBS = re.compile(r"/(ld-linux|libc\.so|libm\.so|libz\.so|libexpat|libffi|libdl|libpthread|libutil)")
HEADER_LEN, FIELDS = 110, 13


def entries(archive: bytes) -> Iterator[tuple[str, int, bytes]]:
    """(name, mode, data) of a newc cpio archive."""
    at = 0
    while True:
        if archive[at:at + 6] != b"070701":
            raise OracleError(f"the oracle's image is no cpio archive at byte {at}")
        field = [int(archive[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(FIELDS)]
        mode, size, name_len = field[1], field[6], field[11]
        name = archive[at + HEADER_LEN:at + HEADER_LEN + name_len - 1].decode()
        start = (at + HEADER_LEN + name_len + 3) & ~3
        if name == "TRAILER!!!":
            return
        yield name, mode, archive[start:start + size]
        at = (start + size + 3) & ~3


def wanted(name: str, mode: int) -> bool:
    """Directories and links, Python with its libraries, busybox, the modules."""
    if name == "init":
        return False
    if not stat.S_ISREG(mode):
        return True
    if name.startswith("usr/lib/x86_64-linux-gnu/"):
        return bool(LIBS.search(name))
    if name.startswith("usr/bin/"):
        return "python3" in name or "busybox" in name
    return not name.startswith(("usr/sbin/", "usr/lib/python3.11/test", "usr/lib/python3.11/ensurepip"))


def build(path: Path) -> None:
    """Write the initramfs. Raises OracleError when the oracle is not prepared."""
    try:
        source = (kernel_dir() / "cluster.cpio").read_bytes()
    except FileNotFoundError:
        raise OracleError("the oracle is not prepared") from None
    with path.open("wb") as out:
        cpio = Cpio(out)
        for name, mode, data in entries(source):
            if wanted(name, mode):
                cpio.add(name, mode, data)
        cpio.add("init", stat.S_IFREG | 0o755, (HERE / "init.sh").read_bytes())
        cpio.add("agent.py", stat.S_IFREG | 0o644, (HERE / "agent.py").read_bytes())
        cpio.end()
