"""The cases of pjdfstest that cannot pass, each with its reason; docs/design/posix.md says more."""

from __future__ import annotations

# program -> case -> why
EXPECTED: dict[str, dict[int, str]] = {
    "symlink/03": {
        1: "a target of 4,095 bytes: GFS2 keeps the target in the dinode, which has room for block size - 232 - 1",
        2: "removes the link that case 1 could not make",
    },
}
