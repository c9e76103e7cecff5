"""The house rules, applied to every file; and each rule on a planted offence, so that it can fail."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import tomllib
from collections import Counter
from pathlib import PurePosixPath

import pytest

from tidy import rules
from tidy.files import TOP, files, text

CODE = (".py", ".pyi", ".pyx", ".pxd", ".c", ".h")
# Modules that cffi builds from C have no .pyx: stub -> the script that declares them.
CFFI = {"gfs2py/block/_libiscsi.pyi": "ext/cffi/iscsi.py"}
PROSE = (*CODE, ".md", ".sh", ".toml", ".txt")

# rule -> the files that it judges
SCOPE: dict[rules.Rule, list[str]] = {
    rules.line_length: files(*CODE),
    rules.module_size: files(*CODE),
    rules.whitespace: [*files(*PROSE), "Makefile"],
    rules.marks: files(*PROSE),
    rules.machine_bound: files(*PROSE, "Makefile", ".ci/run"),
    rules.py_function_length: files(".py"),
    rules.pyx_function_length: files(".pyx", ".pxd"),
    rules.nogil_noexcept: files(".pyx", ".pxd"),
    rules.directives: files(".pyx", ".pxd"),
    rules.broad_except: files(".py", ".pyx"),
    rules.docstring: files(".py"),
    rules.test_sleeps: files(".py", under=("tests",)),
    rules.test_skips: files(".py", under=("tests",)),
    rules.wild_calls: files(".py", ".sh"),
    rules.shell_head: files(".sh", ".ci/run"),
}

# rule -> a file name and a text that offends
PLANTED: dict[rules.Rule, tuple[str, str]] = {
    rules.line_length: ("a.py", "x" * 121 + "\n"),
    rules.module_size: ("a.py", "x = 1\n" * 901),
    rules.whitespace: ("a.py", "x = 1 \n"),
    rules.marks: ("a.py", "# TO" + "DO: later\n"),
    rules.machine_bound: ("a.md", "see /wo" + "rk/main\n"),
    rules.py_function_length: ("a.py", "def f():\n" + "    x = 1\n" * 70),
    rules.pyx_function_length: ("a.pyx", "cdef f(int a,\n    int b):\n" + "    a = 1\n" * 119),
    rules.nogil_noexcept: ("a.pyx", "cdef int f(int a,\n           int b) nogil:\n    return 0\n"),
    rules.directives: ("a.pyx", "# cython: boundscheck=False\n"),
    rules.broad_except: ("a.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
    rules.docstring: ("a.py", "x = 1\n"),
    rules.test_sleeps: ("tests/a.py", "import time\ntime.sleep(1)\n"),
    rules.test_skips: ("tests/a.py", "pytest.sk" + "ip('no')\n"),
    rules.wild_calls: ("a.sh", "pk" + "ill gfs2d\n"),
    rules.shell_head: ("a.sh", "#!/bin/sh\necho\n"),
}


@pytest.mark.parametrize("rule", SCOPE, ids=lambda r: r.__name__)
def test_rule(rule: rules.Rule) -> None:
    assert SCOPE[rule], "the rule has no file to judge"
    problems = [p for name in SCOPE[rule] for p in rule(name, text(name))]
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("rule", SCOPE, ids=lambda r: r.__name__)
def test_rule_catches(rule: rules.Rule) -> None:
    assert list(rule(*PLANTED[rule]))


def test_rules_let_good_code_pass() -> None:
    good = ("cdef inline int f(int a) noexcept nogil:\n    return a\n\n\n"
            "cdef int (*hook)(int) noexcept nogil\ncdef int g(int a) except -1 nogil:\n    return a\n")
    for rule in (rules.nogil_noexcept, rules.directives, rules.pyx_function_length, rules.broad_except):
        assert not list(rule("a.pyx", good))
    assert [f[1] for f in rules.pyx_functions(good)] == ["f", "g"]
    assert not list(rules.test_sleeps("tests/a.py", "import time\nPOLL_S = 0.02\ntime.sleep(POLL_S)\n"))
    assert not list(rules.broad_except("a.py", "try:\n    f()\nexcept BaseException:\n    g()\n    raise\n"))
    assert not list(rules.marks("a.py", "# TO" + "DO(#7): later\n"))


def test_every_compiled_module_has_a_stub() -> None:
    pyx = {n.removeprefix("ext/").removesuffix(".pyx") for n in files(".pyx", under=("ext",))}
    stubs = {n.removesuffix(".pyi") for n in files(".pyi") if n not in CFFI}
    assert pyx - stubs == set(), "compiled modules without a .pyi"
    assert stubs - pyx == set(), "stubs without a compiled module"


@pytest.mark.parametrize("name", [n for n in files(".pyi") if n not in CFFI])
def test_stub_has_the_names_of_its_module(name: str) -> None:
    source = "ext/" + name.removesuffix("i") + "x"
    declared = rules.public_names(ast.parse(text(name)))
    contract = source.removesuffix("yx") + "xd"
    defined = rules.pyx_public_names(text(source))
    # What a .pxd shows to Python are its enums; its functions are those of the .pyx.
    defined |= {n for n in rules.pyx_public_names(text(contract)) if n in declared} \
        if contract in files(".pxd") else set()
    assert declared - defined == set(), f"{name} declares what {source} does not define"
    assert defined - declared == set(), f"{source} defines what {name} does not declare"


@pytest.mark.parametrize(("stub", "script"), CFFI.items())
def test_stub_has_the_functions_that_cffi_was_told(stub: str, script: str) -> None:
    told = set(re.findall(r"\b(\w+)\([^()]*\);", runpy.run_path(str(TOP / script))["declarations"]()))
    declared = {n.removeprefix("_Lib.") for n in re.findall(r"def (\w+)\(", text(stub))}
    assert declared - {"new", "cast", "string", "buffer", "from_buffer"} == told


def test_stub_names_are_found() -> None:
    text_pyx = "cdef class A:\n    cdef int x\n    def f(self): pass\n    cdef int g(self): pass\n" \
               "cpdef int h(int a):\n    return a\ndef i(): pass\ncdef void j(): pass\n"
    assert rules.pyx_public_names(text_pyx) == {"A", "A.f", "h", "i"}
    assert rules.public_names(ast.parse("class A:\n def f(self): ...\n def _g(self): ...\ndef h(): ...\n")) \
        == {"A", "A.f", "h"}


def test_no_large_blobs() -> None:
    sizes = {n: (TOP / n).stat().st_size for n in files()}
    assert {n: s for n, s in sizes.items() if s > rules.BLOB_BYTES_MAX} == {}


def test_scripts_are_executable_and_only_scripts() -> None:
    wrong = []
    for name in files():
        with (TOP / name).open("rb") as f:
            shebang = f.read(2) == b"#!"
        if shebang != os.access(TOP / name, os.X_OK):
            wrong.append(f"{name}: {'not ' if shebang else ''}executable")
    assert not wrong, "\n".join(wrong)


def test_shell_scripts_parse() -> None:
    for name in [*files(".sh"), ".ci/run"]:
        subprocess.run(["bash", "-n", name], cwd=TOP, check=True)


def test_names_of_test_modules_are_unique() -> None:
    """pytest imports them by their last name alone."""
    names = Counter(PurePosixPath(n).name for n in files(".py", under=("tests",)) if "/test_" in n)
    assert {n for n, count in names.items() if count > 1} == set()


def test_commands_have_a_main() -> None:
    scripts = tomllib.loads(text("pyproject.toml"))["project"]["scripts"]
    wrong = []
    for command, target in scripts.items():
        module, function = target.split(":")
        path = module.replace(".", "/") + ".py"
        name = "tools/" + path if module.startswith("rhcs_tools") else path
        if name not in files() or not re.search(rf"^def {function}\(", text(name), re.MULTILINE):
            wrong.append(f"{command}: {name} has no {function}()")
    assert not wrong, "\n".join(wrong)


def test_links_in_prose_lead_somewhere() -> None:
    wrong = []
    for name in files(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(name)):
            if "://" not in target and not (TOP / name).parent.joinpath(target).exists():
                wrong.append(f"{name}: {target}")
    assert not wrong, "\n".join(wrong)


def test_ci_runs_the_tests_of_the_readme() -> None:
    assert "make test" in text(".ci/run")
    assert "make test" in text("README.md")
