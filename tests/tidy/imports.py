"""Who may import whom: layers of the code, judged for Python's `import` and Cython's `cimport` alike."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

# layer -> what it may import of the project, beside itself. A name with a dot inside a layer is one
# module of it, its subpackages included.
ALLOWED: dict[str, tuple[str, ...]] = {
    "gfs2py.ondisk": (),
    "gfs2py.block": ("gfs2py.ondisk",),
    "gfs2py.fuse": (),
    "gfs2py.engine": ("gfs2py.ondisk", "gfs2py.block", "gfs2py.fuse._ops", "gfs2py.fuse._stat",
                      "gfs2py.fuse._locks"),
    "gfs2py.mkfs": ("gfs2py.ondisk", "gfs2py.block", "gfs2py.engine._recovery"),
    "gfs2py.fsck": ("gfs2py.ondisk", "gfs2py.block", "gfs2py.engine._recovery"),
    "gfs2py.edit": ("gfs2py.ondisk", "gfs2py.block", "gfs2py.engine._recovery"),
    "gfs2py.daemon_watch": ("gfs2py.fuse", "gfs2py.control", "gfs2py.controlfs.place"),
    "gfs2py.control": ("gfs2py.fuse",),
    "gfs2py.stats": (),
    # The control files know of a mount what controlfs.view says.
    "gfs2py.controlfs": ("gfs2py.fuse", "gfs2py.control"),
    "gfs2py.daemon_files": ("gfs2py.fuse", "gfs2py.engine", "gfs2py.controlfs", "gfs2py.daemon_log"),
    # Between the glocks and the lock manager; the daemon loads it for shared mounts only.
    "gfs2py.lock_dlm": ("gfs2py.engine", "dlm", "cman.client", "cman.ask", "cman.explain"),
    # The composition root of a mount.
    "gfs2py.daemon": ("gfs2py.ondisk", "gfs2py.block", "gfs2py.engine", "gfs2py.fuse", "gfs2py.daemon_watch",
                      "gfs2py.daemon_observe", "gfs2py.daemon_files", "gfs2py.control", "gfs2py.controlfs.waits",
                      "gfs2py.stats",
                      "gfs2py.daemon_log", "gfs2py.daemon_streams", "gfs2py.lock_dlm", "gfs2py.words"),
    "gfs2py.daemon_streams": ("gfs2py.daemon_log",),
    "gfs2py.daemon_observe": ("gfs2py.fuse", "gfs2py.control", "gfs2py.stats", "gfs2py.daemon_log"),
    "gfs2py": (),
    "dlm.core": (),
    "dlm": ("dlm.core", "cman.client", "cman.views", "cman.protocol"),
    "cman": (),
    "rhcs_tools": ("gfs2py", "dlm", "cman"),
    "lab": ("gfs2py", "dlm", "cman", "rhcs_tools"),
    "rgmanager": ("dlm", "cman"),
    "lvs": ("cman",),
    "luci": ("cman", "rgmanager"),
}
# What stands below all layers of gfs2py: the version, names, and the words of the command line.
BASE = ("gfs2py", "gfs2py.errors", "gfs2py.units", "gfs2py.options", "gfs2py.sources")
# The one package that knows the lock manager.
DLM_USER = "gfs2py.lock_dlm"
PROJECT = ("gfs2py", "dlm", "cman", "rhcs_tools", "lab", "rgmanager", "lvs", "luci")
# Machines decide and never do: no clock, socket, disk or generator of their own.
PURE = ("dlm.core", "cman.cpg", "cman.members", "cman.quorum", "cman.node", "cman.roster", "cman.ccs.spread",
        "cman.qdisk.machine", "cman.qdisk.ondisk", "cman.qdisk.votes",
        "cman.recovery", "cman.facts", "cman.explain",
        *(f"cman.totem.{name}" for name in ("circulation", "config", "core", "effects", "flow", "gather", "machine",
                                            "membership", "pack", "recovery", "ring", "wire")))
IMPURE = ("trio", "socket", "time", "random", "os", "logging", "threading")


@dataclass(frozen=True)
class Import:
    """One imported name: `from a.b import c` gives a.b.c, which may be a module or not."""

    importer: str
    line: int
    name: str


def module_name(path: str) -> str:
    """The dotted name of a source file; ext/ and tools/ are source roots."""
    name = re.sub(r"^(ext|tools)/", "", path)
    name = re.sub(r"\.(py|pyi|pyx|pxd)$", "", name)
    return name.removesuffix("/__init__").replace("/", ".")


def resolve(importer: str, is_package: bool, level: int, name: str) -> str:
    """A relative import as an absolute name."""
    if not level:
        return name
    parts = importer.split(".")
    base = parts[:len(parts) - level + (1 if is_package else 0)]
    return ".".join([*base, name] if name else base)


def python_imports(path: str, text: str) -> Iterator[Import]:
    """Of Python: those under TYPE_CHECKING count too."""
    importer, is_package = module_name(path), path.endswith("__init__.py")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(importer, is_package, node.level, node.module or "")
            for alias in node.names:
                yield Import(importer, node.lineno, f"{base}.{alias.name}")


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, joined where a bracket is open or a backslash ends them."""
    start, joined = 0, ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.split("#", 1)[0].rstrip()
        start = start or number
        joined += line.removesuffix("\\") + " "
        if line.endswith("\\") or (re.match(r"\s*(from|c?import)\b", joined)
                                   and joined.count("(") > joined.count(")")):
            continue
        yield start, joined.strip()
        start, joined = 0, ""


def cython_imports(path: str, text: str) -> Iterator[Import]:
    """Of Cython: import and cimport, relative ones and those in brackets."""
    importer, is_package = module_name(path), "/__init__." in path
    for number, line in logical_lines(text):
        if found := re.match(r"from\s+(\.*)([\w.]*)\s+c?import\s+(.*)", line):
            base = resolve(importer, is_package, len(found[1]), found[2])
            for item in found[3].strip("() ").split(","):
                if item.strip():
                    yield Import(importer, number, f"{base}.{item.split()[0]}")
        elif found := re.match(r"c?import\s+(.*)", line):
            for item in found[1].split(","):
                yield Import(importer, number, item.split()[0])


def imports(path: str, text: str) -> Iterator[Import]:
    find = cython_imports if path.endswith((".pyx", ".pxd")) else python_imports
    return find(path, text)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer(name: str) -> str:
    """The layer with the longest matching name; an empty string outside the project."""
    return max((entry for entry in ALLOWED if within(name, entry)), key=len, default="")


def allowed(found: Import) -> bool:
    """Whether the layers permit this import."""
    if any(within(found.importer, entry) for entry in PURE) and found.name.split(".")[0] in IMPURE:
        return False
    if found.name.split(".")[0] not in PROJECT:
        return True
    if within(found.name, "dlm") and found.importer.startswith("gfs2py"):
        return within(found.importer, DLM_USER)
    # `from gfs2py import __version__` names no module below gfs2py.
    if found.name in BASE or found.name.rpartition(".")[0] in BASE[1:] or found.name == "gfs2py.__version__":
        return True
    own = layer(found.importer)
    if layer(found.name) == own and own != "gfs2py":
        return True
    return any(within(found.name, entry) for entry in ALLOWED.get(own, ()))


def forbidden(path: str, text: str) -> Iterator[str]:
    for found in imports(path, text):
        if not allowed(found):
            yield f"{path}:{found.line}: {found.importer} must not import {found.name}"
