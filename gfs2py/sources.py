"""What may stand where a block device is named: a path, or the URL of a LUN."""

from __future__ import annotations

import os

ISCSI_PREFIX = "iscsi://"


def is_url(source: str) -> bool:
    """Whether the text names a LUN of an iSCSI target rather than a path."""
    return source.startswith(ISCSI_PREFIX)


def followed(source: str) -> str:
    """What was meant: a link whose text is a URL stands for that LUN, as /dev/sdb5 where no kernel makes a device."""
    try:
        text = os.readlink(source)
    except OSError:
        return source
    return text if is_url(text) else source


def canonical(source: str) -> str:
    """One name for each source, however it was called: the resolved path; a URL is one already."""
    source = followed(source)
    return source if is_url(source) else os.path.realpath(source)


def same(shown: str, source: str) -> bool:
    """Whether the mount table's `shown` is the source of this canonical name: a LUN is shown as it was called."""
    return shown == source or (is_url(source) and followed(shown) == source)
