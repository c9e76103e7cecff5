"""Which operations a workload draws, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mix:
    """How often which kind of operation is drawn, and how large files get."""

    weights: dict[str, int]
    file_max: int = 60_000
    sync_share: float = 0.06


GENERAL = Mix({"create": 14, "mkdir": 3, "symlink": 2, "mknod": 1, "write": 16, "append": 8, "overwrite": 8,
               "truncate": 6, "punch": 4, "zero_range": 2, "fallocate": 2, "prealloc": 2, "unlink": 9, "rmdir": 2,
               "rename": 7, "replace": 4, "exchange": 2, "link": 3, "xattr": 6, "unxattr": 2, "chmod": 2, "chown": 1,
               "chgrp": 1, "chattr": 2, "frozen": 1, "hold_unlink": 2, "use_held": 3, "drop_held": 1, "jdata": 3,
               "rejournal": 1, "copy": 2, "default_acl": 1, "acl": 2, "tmpfile": 1, "tmplink": 1, "bigwrite": 1,
               "trim": 1})
DIRECTORIES = Mix({"fill_dir": 10, "empty_dir": 4, "create": 20, "unlink": 10, "rename": 10, "replace": 4,
                   "exchange": 3, "mkdir": 6, "rmdir": 4, "link": 6, "symlink": 2, "tmplink": 1}, file_max=2000,
                  sync_share=0.1)
DATA = Mix({"create": 6, "write": 20, "append": 20, "overwrite": 25, "truncate": 14, "punch": 10, "zero_range": 4,
            "fallocate": 4, "prealloc": 3, "unlink": 5, "bigwrite": 4, "copy": 3, "jdata": 4, "rejournal": 3,
            "replace": 2, "hold_unlink": 2, "use_held": 4, "drop_held": 1}, file_max=250_000, sync_share=0.08)
ATTRS = Mix({"create": 8, "mkdir": 3, "xattr": 30, "bigxattr": 8, "unxattr": 12, "default_acl": 5, "acl": 8,
             "unlink": 6, "chmod": 3, "chown": 3, "chgrp": 2, "chattr": 6, "frozen": 2, "symlink": 2, "rename": 3},
            file_max=4000, sync_share=0.1)
OWNERS = Mix({"create": 14, "write": 14, "append": 8, "truncate": 8, "unlink": 10, "chown": 14, "chgrp": 10,
              "mkdir": 3, "rmdir": 2, "bigxattr": 4, "unxattr": 3, "hold_unlink": 3, "drop_held": 2, "tmpfile": 2,
              "replace": 3, "punch": 4}, file_max=30_000, sync_share=0.12)
JDATA = Mix({"jdata": 12, "write": 14, "append": 12, "overwrite": 24, "truncate": 10, "punch": 6, "zero_range": 4,
             "unlink": 9, "create": 8, "rejournal": 5, "copy": 3, "replace": 3, "link": 2, "hold_unlink": 2,
             "use_held": 3, "drop_held": 1}, file_max=20_000, sync_share=0.1)
CHURN = Mix({"create": 20, "unlink": 16, "mkdir": 4, "rmdir": 3, "write": 10, "overwrite": 10, "rename": 10,
             "xattr": 10, "bigxattr": 4, "truncate": 6, "fill_dir": 5, "empty_dir": 3}, file_max=30_000,
            sync_share=0.01)
COMBS = Mix({"comb": 4, "truncate": 4, "punch": 2, "unlink": 2, "zero_range": 1, "hold_unlink": 1, "drop_held": 1,
             "create": 3, "write": 2, "replace": 1}, file_max=20_000, sync_share=0.1)
MIXES = {"general": GENERAL, "directories": DIRECTORIES, "data": DATA, "attrs": ATTRS, "owners": OWNERS,
         "jdata": JDATA, "churn": CHURN, "combs": COMBS}
