"""Open what a command was given: a path or the URL of a LUN. The one place that knows the kinds of sources."""

from __future__ import annotations

import os

from gfs2py.block._file import FileDevice
from gfs2py.sources import followed, is_url

TYPE_CHECKING = False       # the initiator is loaded by those who name a target
if TYPE_CHECKING:
    from gfs2py.block._device import BlockDevice
    from gfs2py.block.iscsi import IscsiOptions


def open_device(source: str | os.PathLike[str], *, readonly: bool = False, direct: bool = True,
                exclusive: bool = False, iscsi: IscsiOptions | None = None) -> BlockDevice:
    """A device for a path or an iscsi:// URL; `direct` and `exclusive` are for paths. Raises OSError with a reason."""
    name = followed(os.fspath(source))
    if not is_url(name):
        return FileDevice(name, readonly=readonly, direct=direct, exclusive=exclusive)
    from gfs2py.block.iscsi import DEFAULTS, IscsiDevice

    return IscsiDevice(name, readonly=readonly, options=iscsi or DEFAULTS)
