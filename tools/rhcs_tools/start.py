"""Starts a mount command in an interpreter that knows no installed packages yet: see tools/scripts/gfs2d.

    python3 -IS start.py COMMAND [ARGUMENT...]
"""

import os
import sys

COMMANDS = {"mount.gfs2": "rhcs_tools.mount_gfs2", "mount.fuse.gfs2": "rhcs_tools.mount_gfs2",
            "umount.gfs2": "rhcs_tools.umount_gfs2", "umount.fuse.gfs2": "rhcs_tools.umount_gfs2",
            "gfs2d": "gfs2py.daemon"}


def run(name: str, arguments: list[str]) -> int:
    """The command's exit status."""
    module = __import__(COMMANDS[name], fromlist=["main"])
    status: int = module.main(arguments)
    return status


def find_packages() -> None:
    """Both packages lie side by side once installed; in a checkout this one is below `tools`."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.insert(0, here)
    if not os.path.isdir(f"{here}/gfs2py"):
        sys.path.insert(0, os.path.dirname(here))
    # What they need of others, later: nothing on the way of a mount.
    top = os.path.dirname(os.path.dirname(sys.executable))
    sys.path.append(f"{top}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")


if __name__ == "__main__":
    find_packages()
    status = run(sys.argv[1], sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)        # nothing to tidy up that the kernel would not, and sooner
