"""What may stand where a block device is named: a path, or the URL of a LUN."""

from __future__ import annotations

import os

ISCSI_PREFIX = "iscsi://"


def is_url(source: str) -> bool:
    """Whether the text names a LUN of an iSCSI target rather than a path."""
    return source.startswith(ISCSI_PREFIX)


def canonical(source: str) -> str:
    """The name a mount of this source has in the mount table: the resolved path; a URL is one already."""
    return source if is_url(source) else os.path.realpath(source)
