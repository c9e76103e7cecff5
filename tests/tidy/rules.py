"""The rules about single files: each takes a name and its text and yields what is wrong with it.

A problem reads "file:line: what", so that an editor can jump to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

LINE_MAX = {".py": 120, ".pyi": 120, ".pyx": 120, ".pxd": 120, ".c": 120, ".h": 120}
MODULE_LINES_MAX = 900
PY_FUNCTION_LINES_MAX = 70
PYX_FUNCTION_LINES_MAX = 120
BLOB_BYTES_MAX = 512 << 10
# A test waits for an event; where it has to look again and again, it may rest this long in between.
TEST_SLEEP_MAX_S = 0.1

# Where a process is wired together, everything that goes wrong has to end in a clean exit.
COMPOSITION_ROOTS = ("gfs2py/daemon.py", "gfs2py/lock_dlm/shared.py", "cman/daemon.py")
# Paths of one machine and hosts of registries, cut in two so that this file does not hold them.
MACHINE_BOUND = re.compile("|".join([r"/wo" r"rk/", r"/fa" r"rm/", r"\.lib" r"rary\b", r"pypi\." r"org",
                                     r"registry\." r"npmjs", r"deb\.deb" r"ian\.org",
                                     r"files\.python" r"hosted"]))

Rule = Callable[[str, str], Iterator[str]]


def suffix(name: str) -> str:
    return name[name.rfind("."):] if "." in name.rsplit("/", 1)[-1] else ""


def line_length(name: str, text: str) -> Iterator[str]:
    limit = LINE_MAX[suffix(name)]
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > limit:
            yield f"{name}:{number}: {len(line)} columns, at most {limit}"


def module_size(name: str, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{name}:1: {lines} lines, at most {MODULE_LINES_MAX}: split by subject"


def whitespace(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{name}:{number}: blanks at the end of the line"
        if "\t" in line and suffix(name) in LINE_MAX:
            yield f"{name}:{number}: a tab"
    if text and not text.endswith("\n"):
        yield f"{name}: no newline at the end"


def marks(name: str, text: str) -> Iterator[str]:
    """A note for later names an owner or an issue; nothing is left of a merge."""
    wanted = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b(?!\([\w# -]+\))")
    for number, line in enumerate(text.splitlines(), 1):
        if wanted.search(line):
            yield f"{name}:{number}: a note for later without (owner) or (#issue)"
        if re.match(r"(<{7}|>{7}|={7})( |$)", line):
            yield f"{name}:{number}: left over from a merge"


def machine_bound(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := MACHINE_BOUND.search(line):
            yield f"{name}:{number}: {found.group()} belongs to one machine or names a registry's host"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def py_function_length(name: str, text: str) -> Iterator[str]:
    for node in functions(ast.parse(text)):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > PY_FUNCTION_LINES_MAX:
            yield f"{name}:{node.lineno}: {node.name} has {lines} lines, at most {PY_FUNCTION_LINES_MAX}"


def pyx_functions(text: str) -> Iterator[tuple[int, str, str, int]]:
    """(line, name, header, lines) of each function of Cython code, told by its indentation."""
    lines = text.split("\n")
    start = re.compile(r"^(\s*)(?:cdef|cpdef|def)\b(?!\s+(?:class|struct|enum|extern|union|packed)\b)"
                       r"[^=#\"']*?(\w+)\s*\(")
    for at, line in enumerate(lines):
        found = start.match(line)
        if not found:
            continue
        end, depth = at, 0
        while end < len(lines):
            code = re.sub(r"#.*|\"[^\"]*\"|'[^']*'", "", lines[end])
            depth += code.count("(") + code.count("[") - code.count(")") - code.count("]")
            if depth <= 0:
                break
            end += 1
        header = " ".join(lines[at:end + 1])
        if not re.search(r":\s*(#.*)?$", lines[min(end, len(lines) - 1)]):
            continue                    # a declaration, or a variable that is a function pointer
        indent, last, here = len(found.group(1)), end, end + 1
        while here < len(lines):
            body = lines[here]
            if body.strip() and len(body) - len(body.lstrip()) <= indent:
                break
            if body.strip():
                last = here
            here += 1
        yield at + 1, found.group(2), header, last - at + 1


def pyx_function_length(name: str, text: str) -> Iterator[str]:
    for number, function, _, lines in pyx_functions(text):
        if lines > PYX_FUNCTION_LINES_MAX:
            yield f"{name}:{number}: {function} has {lines} lines, at most {PYX_FUNCTION_LINES_MAX}"


def nogil_noexcept(name: str, text: str) -> Iterator[str]:
    """A nogil function without noexcept takes the GIL again after each call to look for an exception."""
    for number, function, header, _ in pyx_functions(text):
        tail = header[header.rfind(")"):]
        if re.match(r"\s*cdef\b", header) and "nogil" in tail and "except" not in tail:
            yield f"{name}:{number}: {function} is nogil without noexcept"


def directives(name: str, text: str) -> Iterator[str]:
    """A directive in a file silently wins over the checked build's: they live in setup.py."""
    switch = (r"boundscheck|wraparound|cdivision|initializedcheck|overflowcheck|nonecheck|profile|"
              r"linetrace|binding|infer_types|embedsignature|legacy_implicit_noexcept")
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#\s*(cython|distutils)\s*:", line):
            yield f"{name}:{number}: a directive: it belongs into setup.py"
        if re.search(rf"cython\.({switch})\b", line):
            yield f"{name}:{number}: a directive: it belongs into setup.py"


def broad_except(name: str, text: str) -> Iterator[str]:
    """`except Exception` hides what nobody thought of; cleaning up and raising again is fine."""
    if name in COMPOSITION_ROOTS:
        return
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not re.match(r"\s*except\s*(:|\(?\s*(Base)?Exception\b)", line):
            continue
        indent, last = len(line) - len(line.lstrip()), ""
        for body in lines[at + 1:]:
            if body.strip() and len(body) - len(body.lstrip()) <= indent:
                break
            last = body.strip() or last
        if last != "raise":
            yield f"{name}:{at + 1}: catches everything outside a composition root"


def docstring(name: str, text: str) -> Iterator[str]:
    tree = ast.parse(text)
    if tree.body and not ast.get_docstring(tree):
        yield f"{name}:1: the module has no docstring"


def constant(tree: ast.Module, name: str) -> object:
    """The value of a module's constant, when it is written down plainly."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and name in (getattr(t, "id", None) for t in node.targets):
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None


def test_sleeps(name: str, text: str) -> Iterator[str]:
    """Tests wait for something to happen, not for time to pass."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if called != "sleep" or not node.args:
            continue
        argument, value = node.args[0], None
        if isinstance(argument, ast.Constant):
            value = argument.value
        elif isinstance(argument, ast.Name):
            value = constant(tree, argument.id)
            value = TEST_SLEEP_MAX_S if value is None and argument.id.startswith("POLL") else value
        if not isinstance(value, int | float) or value > TEST_SLEEP_MAX_S:
            yield f"{name}:{node.lineno}: sleeps more than {TEST_SLEEP_MAX_S} s, or for an unknown time"


def test_skips(name: str, text: str) -> Iterator[str]:
    """A test that cannot run fails: one that is skipped looks like one that passed."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\bpytest\.(skip|importorskip|mark\.skip|mark\.skipif)\b", line):
            yield f"{name}:{number}: skips a test"


def wild_calls(name: str, text: str) -> Iterator[str]:
    """Killing by name hits strangers; a shell between us and a command adds quoting mistakes."""
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("#", 1)[0]
        if re.search(r"\b(pk" r"ill|kill" r"all)\b", code):
            yield f"{name}:{number}: kills by name"
        if re.search(r"\bshell\s*=\s*True\b|\bos\.system\(", code):
            yield f"{name}:{number}: runs a command through a shell"


def shell_head(name: str, text: str) -> Iterator[str]:
    if re.match(r"#!(/usr/bin/env bash|/bin/(ba)?sh)\b", text) and "set -eu" not in text:
        yield f"{name}:1: a shell script without set -euo pipefail"


def public_names(tree: ast.Module | ast.ClassDef) -> set[str]:
    """Names of functions, classes and methods that a stub declares."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{n}" for n in public_names(node)}
    return {n for n in names if not n.rsplit(".", 1)[-1].startswith("_")}


def pyx_public_names(text: str) -> set[str]:
    """Names of functions, classes and methods that Python sees of a compiled module."""
    names, owner, visible = set(), "", False
    function = r"(?:async\s+)?(?:def|cpdef\b[^=(]*?)\s+(?=\w+\s*\()"
    for line in text.splitlines():
        if found := re.match(r"(cdef\s+)?class\s+(\w+)", line):
            owner, visible = found.group(2), not found.group(2).startswith("_")
            names.add(owner)
        elif found := re.match(rf"(?:cpdef\s+enum\s+(?=\w+:)|{function})(\w+)", line):
            owner = ""
            names.add(found.group(1))
        elif found := re.match(rf"    {function}(\w+)", line):
            if owner and visible:
                names.add(f"{owner}.{found.group(1)}")
        elif line and not line[0].isspace() and not line.startswith(("#", ")", "@")):
            owner = ""
    return {n for n in names if not n.rsplit(".", 1)[-1].startswith("_")}
