"""The checker: `check(device)` reads a whole file system and says what is wrong with it."""

from gfs2py.fsck.check import check, check_quick
from gfs2py.fsck.kinds import CODES, KINDS, KindInfo
from gfs2py.fsck.report import Finding, Report

__all__ = ["CODES", "KINDS", "Finding", "KindInfo", "Report", "check", "check_quick"]
