"""The layers hold, for Python and for Cython; and the test sees what it is meant to forbid."""

from __future__ import annotations

import pytest

from tidy.files import files, text
from tidy.imports import ALLOWED, forbidden, imports, layer, module_name

SOURCES = [n for n in files(".py", ".pyi", ".pyx", ".pxd")
           if not n.startswith(("tests/", "bench/", "ext/bench/", "docs/", "ext/cffi/")) and n != "setup.py"]


def test_layers_hold() -> None:
    problems = [p for name in SOURCES for p in forbidden(name, text(name))]
    assert not problems, "\n".join(["", *problems])


def test_every_module_has_a_layer() -> None:
    assert [n for n in SOURCES if not layer(module_name(n))] == []


def test_cimports_are_seen() -> None:
    """On the real tree: the engine does build on the format and on devices."""
    seen = {layer(i.name) for n in files(".pyx", ".pxd", under=("ext/gfs2py/engine",))
            for i in imports(n, text(n))}
    assert {"gfs2py.ondisk", "gfs2py.block"} <= seen


def test_names() -> None:
    assert module_name("ext/gfs2py/block/_device.pyx") == "gfs2py.block._device"
    assert module_name("gfs2py/block/__init__.py") == "gfs2py.block"
    assert module_name("tools/rhcs_tools/mkfs_gfs2.py") == "rhcs_tools.mkfs_gfs2"
    assert layer("gfs2py.engine._log") == "gfs2py.engine"
    assert set(ALLOWED) >= {"gfs2py.ondisk", "gfs2py.fuse"}


@pytest.mark.parametrize(("path", "line"), [
    ("ext/gfs2py/ondisk/_a.pyx", "from gfs2py.block._device cimport Device"),
    ("ext/gfs2py/ondisk/_a.pxd", "cimport gfs2py.engine._cache as cache"),
    ("ext/gfs2py/block/_a.pyx", "from gfs2py.engine cimport _cache, _log"),
    ("ext/gfs2py/block/_a.pyx", "from ..engine._cache cimport (\n    a,\n    b)"),
    ("ext/gfs2py/fuse/_a.pyx", "from gfs2py.ondisk._ondisk cimport be64toh"),
    ("ext/gfs2py/engine/_a.pyx", "from gfs2py.fuse._session cimport x"),
    ("ext/gfs2py/engine/_a.pyx", "from gfs2py.fuse \\\n    cimport _session"),
    ("gfs2py/mkfs/a.py", "from gfs2py.engine import _cache"),
    ("gfs2py/fsck/a.py", "from ..mkfs import plan"),
    ("gfs2py/edit/a.py", "def f():\n    import gfs2py.fuse._session"),
    ("gfs2py/engine/a.py", "import dlm"),
    ("gfs2py/daemon.py", "from dlm.api import Lock"),
    ("gfs2py/daemon.py", "from gfs2py import mkfs"),
    ("dlm/core/a.py", "import time"),
    ("cman/a.py", "import dlm.core"),
    ("gfs2py/block/a.py", "import rhcs_tools"),
    ("gfs2py/__init__.py", "from gfs2py.engine import x"),
])
def test_upward_import_is_caught(path: str, line: str) -> None:
    assert list(forbidden(path, line))


@pytest.mark.parametrize(("path", "line"), [
    ("ext/gfs2py/block/_a.pyx", "from gfs2py.ondisk._ondisk cimport be64toh, htobe64  # why"),
    ("ext/gfs2py/block/_a.pyx", "from ._device cimport Device"),
    ("ext/gfs2py/block/_a.pyx", "cimport cython\nfrom libc.stdint cimport uint64_t\nimport os"),
    ("ext/gfs2py/engine/_a.pyx", "from gfs2py.fuse._ops cimport fs_ops"),
    ("gfs2py/fsck/a.py", "from gfs2py.engine._recovery import replay"),
    ("gfs2py/mkfs/a.py", "from gfs2py import __version__"),
    ("gfs2py/lock_dlm.py", "from dlm.api import Lock"),
    ("tools/rhcs_tools/a.py", "from gfs2py.mkfs import plan"),
    ("gfs2py/daemon.py", "from gfs2py.engine import mount\nfrom gfs2py.fuse import session"),
])
def test_downward_import_is_fine(path: str, line: str) -> None:
    assert not list(forbidden(path, line))
