"""Errors that reach a caller or a user; each carries an errno."""


class Gfs2Error(OSError):
    """An operation on a file system failed; errno says how, the text says where."""


class MountError(Gfs2Error):
    """A file system cannot be mounted: not GFS2, damaged, in use, or not as the options want it."""


class CorruptionError(Gfs2Error):
    """The disk is damaged: block, structure, field, wanted and found stand in the text."""


class ignored:
    """What contextlib.suppress does, for those who cannot wait for contextlib to load."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)
