"""gfs2_edit prints what Debian's gfs2_edit prints, on a disk that the kernel has used and left dirty."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from interop.commands import DEBIAN_SBIN, Commands
from interop.oracle.kernel import Kernel

pytestmark = pytest.mark.interop

MakeImage = Callable[..., Path]
USE_IT = r"""
cd $MNT
mkdir d
for i in $(seq 400); do echo $i > d/file$i; done
ln -s /some/where/else link
python3 -S -E - <<'P'
import os
os.setxattr("d/file1", "user.small", b"value")
os.setxattr("d/file1", "user.large", b"x" * 9000)
with open("sparse", "wb") as f:
    f.write(b"a" * 10000)
    f.seek(3 << 20)
    f.write(b"b" * 70000)
P
sync
rm d/file2*
sync
"""


@pytest.fixture(scope="module")
def used(kernel: Kernel, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("edit") / "image"
    with image.open("wb") as f:
        f.truncate(300 << 20)
    commands.mkfs(image, "-J", "8", "-b", "1024", "-j", "2")
    kernel.crash(image, USE_IT)
    return image


@pytest.fixture
def fresh(commands: Commands, make_image: MakeImage) -> Path:
    image = make_image(100)
    commands.mkfs(image, "-J", "8", debian=True)
    return image


def ours(commands: Commands, image: Path, *words: str) -> str:
    return commands.check(commands.bin_dir / "gfs2_edit", "-p", *words, image)


def theirs(commands: Commands, image: Path, *words: str) -> str:
    return commands.check(DEBIAN_SBIN / "gfs2_edit", "-p", *words, image)


FIELD = re.compile(r"  ([\w.]+?)\s+(?:0x([0-9a-fA-F]+)(?:\(hex\))?|(-?\d+)(\(decimal\))?)(?:\s|$)")


def fields(text: str) -> list[tuple[str, int]]:
    """(last part of the name, number) of each line that shows a field."""
    found = []
    for line in text.splitlines():
        if m := FIELD.match(line):
            name, hexa, plain, octal = m.groups()
            number = int(hexa, 16) if hexa else int(plain, 8 if octal else 10)
            found.append((name.rsplit(".", 1)[-1], number))
    return found


def entries(text: str) -> list[tuple[str, str, str]]:
    """(hash, inode, name) of each line that shows a directory entry."""
    return re.findall(r"\[([0-9A-F]{8})\] (\d+/\d+) .* (?:Dir|File|Symlnk) +(\S+)", text)


def assert_fields_agree(commands: Commands, image: Path, *words: str) -> dict[str, int]:
    """Every field that Debian's shows, ours shows with the same number, in the same order."""
    want, have = (fields(f(commands, image, *words)) for f in (theirs, ours))
    assert want
    # Debian's goes on behind the last extended attribute of a block.
    want = list(itertools.takewhile(lambda field: field != ("ea_rec_len", 0), want))
    rest = iter(have)
    missing = [field for field in want if field not in rest]
    assert missing == [], have
    return dict(have)


@pytest.mark.parametrize("target", ["sb", "root", "master", "jindex", "per_node", "inum", "statfs", "quota",
                                    "rindex", "rg 1", "16", "0x10", "34"])
def test_names_and_numbers_of_a_fresh_disk(commands: Commands, fresh: Path, target: str) -> None:
    words = target.split()
    assert_fields_agree(commands, fresh, *words)
    if target in ("root", "master", "jindex", "per_node"):
        assert entries(ours(commands, fresh, *words)) == entries(theirs(commands, fresh, *words)) != []


@pytest.mark.kernel
def test_a_used_disk(commands: Commands, used: Path) -> None:
    def addr(path: str) -> str:
        return ours(commands, used, path, "field", "di_num.no_addr").strip()

    directory = ours(commands, used, "/d")
    names = {name for _, _, name in entries(directory)}
    assert names == {".", ".."} | {f"file{i}" for i in range(1, 401)} - {
        f"file{i}" for i in range(1, 401) if str(i).startswith("2")}
    assert entries(directory) == list(dict.fromkeys(entries(theirs(commands, used, addr("/d")))))

    for word in ("/d", "/d/file1", "/sparse", "/link"):
        assert_fields_agree(commands, used, addr(word))
    assert "Symlink to /some/where/else" in ours(commands, used, "/link")

    eattr = ours(commands, used, "/d/file1", "field", "di_eattr").strip()
    shown = ours(commands, used, eattr)
    assert "user.small" in shown
    assert "user.large" in shown
    assert "value in" in shown
    assert shown.count("ea_rec_len") >= 2

    start = ours(commands, used, "rg", "2", "blockrg").strip()
    for kind, field in (("di", "di_size"), ("lf", "lf_depth"), ("rg", "rg_free"), ("in", "mh_type"),
                        ("rb", "mh_type"), ("ea", "mh_type"), ("ed", "mh_type")):
        block = ours(commands, used, start, "find", kind).strip()
        assert field in assert_fields_agree(commands, used, block)
        assert ours(commands, used, block, "blocktype").split()[0] == theirs(
            commands, used, block, "blocktype").split()[0]
        for modifier in ("blockrg", "blockbits", "blockalloc") if kind not in ("rg", "rb") else ("blockrg",):
            mine, debians = (f(commands, used, block, modifier).split()[0] for f in (ours, theirs))
            assert int(mine) == int(debians), (kind, modifier)


@pytest.mark.kernel
def test_a_dirty_journal(commands: Commands, used: Path) -> None:
    def listing(text: str) -> list[tuple[str, ...]]:
        return re.findall(r"^0x(\w+) \(j\+ *(\w+)\): Log (header: Seq: 0x\w+, tail: 0x\w+, blk: 0x\w+"
                          r"|descriptor, type \d+)", text, re.MULTILINE)

    mine, debians = (f(commands, used, "journal0") for f in (ours, theirs))
    assert listing(mine) == listing(debians)
    assert "Log descriptor, type 300 (METADATA)" in mine
    assert "Log descriptor, type 301 (REVOKE)" in mine
    assert "[FLUSH_" in mine
    # Each block number that Debian's lists with a type stands in ours.
    numbers = set(re.findall(r"^   (?:revoked )?\d+ \((0x\w+)\)", mine, re.MULTILINE))
    assert set(re.findall(r"(0x\w+) (?:rg|di|lf|in|ea)\b", debians)) <= numbers
    journals = ours(commands, used, "journals").splitlines()
    assert [line.split(",")[2].strip() for line in journals] == ["dirty", "clean"]


def test_values_are_changed(commands: Commands, fresh: Path) -> None:
    assert ours(commands, fresh, "root", "field", "di_nlink") == "2\n"
    ours(commands, fresh, "root", "field", "di_nlink", "77")
    assert theirs(commands, fresh, "root", "field", "di_nlink") == "77\n"
    free = ours(commands, fresh, "rg", "1", "field", "rg_data0").strip()
    block = str(int(free) + 1000)
    assert ours(commands, fresh, block, "blockalloc") == "0 (Free)\n"
    ours(commands, fresh, block, "blockalloc", "3")
    assert theirs(commands, fresh, block, "blockalloc").startswith("3")
    commands.check(commands.bin_dir / "gfs2_edit", "rgflags", "1", "8", fresh)
    assert "rg_flags = 0x00000008" in commands.check(DEBIAN_SBIN / "gfs2_edit", "rgflags", "1", fresh)
    assert commands.check(commands.bin_dir / "gfs2_edit", "rgcount", fresh).startswith("2 RGs")
    done = commands.debian("fsck.gfs2", "-n", fresh)
    assert done.returncode != 0


def test_printing_changes_nothing(commands: Commands, fresh: Path) -> None:
    before = fresh.read_bytes()
    for words in (["sb"], ["rgs"], ["journal0"], ["journals"], ["size"], ["root", "field", "di_size"],
                  ["33", "blocktype", "blockalloc", "blockbits", "blockrg"], ["quota", "per_node", "jindex"]):
        assert ours(commands, fresh, *words)
    assert ours(commands, fresh) == ours(commands, fresh, "sb")
    dump = commands.check(commands.bin_dir / "gfs2_edit", "-x", "-p", "sb", fresh)
    assert "  00000000  01 16 19 70" in dump
    assert fresh.read_bytes() == before


@pytest.mark.parametrize(("words", "message"), [
    ("-p nonsense", "I don't know what 'nonsense' means"),
    ("-p 999999999", "behind the end of the device"),
    ("-p root field di_colour", "No field 'di_colour' in block type 'gfs2_dinode'"),
    ("-p root field", "the name of a field is missing"),
    ("-p rg 99", "there is no resource group 99; the last one is 1"),
    ("-p rg", "the number of a resource group is missing"),
    ("-p journal7", "there is no 'journal7'"),
    ("-p /a/b", "there is no 'a'"),
    ("-p /x find", "there is no 'x'"),
    ("-p 16 find zz", "I don't know what to find"),
    ("-p 3 blockrg", "lies in no resource group"),
    ("-p 24000 field di_size", "holds no metadata"),
    ("-p root field di_nlink 99999999999", "does not fit"),
    ("-p root field di_nlink many", "is a number"),
    ("-p 33 blockalloc 7", "a state from 0 to 3"),
    ("-q sb", "unknown option -q"),
])
def test_mistakes_get_one_clear_line(commands: Commands, fresh: Path, words: str, message: str) -> None:
    before = fresh.read_bytes()
    done = commands.ours("gfs2_edit", *words.split(), fresh)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert fresh.read_bytes() == before


def test_what_is_no_file_system(commands: Commands, make_image: MakeImage, tmp_path: Path) -> None:
    empty = make_image(1, "empty")
    done = commands.ours("gfs2_edit", "-p", "root", empty)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    shown = commands.ours("gfs2_edit", "-p", "sb", empty)  # a damaged superblock can be looked at
    assert shown.returncode == 0
    assert "00000000" in shown.stdout
    tiny = tmp_path / "tiny"
    tiny.write_bytes(b"x")
    for path in (tiny, tmp_path / "none"):
        done = commands.ours("gfs2_edit", "-p", "sb", path)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
