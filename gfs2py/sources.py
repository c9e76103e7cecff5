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
    """The name a mount of this source has in the mount table: the resolved path; a URL is one already."""
    source = followed(source)
    return source if is_url(source) else os.path.realpath(source)
