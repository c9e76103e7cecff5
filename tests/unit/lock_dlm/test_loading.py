"""What a shared mount loads before it is there: each module costs every mount, and every mount of a whole boot."""

import subprocess
import sys

# Below the cluster's client; for people who ask; after the mount.
LATER = ("cman.totem", "cman.cpg", "cman.explain", "cman.ask", "gfs2py.lock_dlm.plock_service", "gfs2py.lock_dlm.plock",
         "gfs2py.lock_dlm.facts", "gfs2py.controlfs", "gfs2py.daemon_observe", "argparse")


def test_a_shared_mount_loads_only_what_it_needs() -> None:
    code = f"import sys, gfs2py.daemon, gfs2py.lock_dlm.shared; print(sorted(sys.modules.keys() & set({LATER!r})))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "[]\n"
