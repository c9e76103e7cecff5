"""The table of structures against the C header, and against itself."""

import pytest

from gfs2py.ondisk import _layout, constants
from gfs2py.ondisk.spec import STRUCTURES, Structure, structure

C_LAYOUT = _layout.c_layout()
ALL = sorted(STRUCTURES.values(), key=lambda s: s.name)


def c_names(st: Structure) -> dict[str, str]:
    """C's name of each field of the table."""
    header = {"mh_magic", "mh_type", "mh_format", "mh_jid"}
    return {f"{st.header}.{f.name}" if st.header and f.name in header else f.name: f.name for f in st.fields}


@pytest.mark.parametrize("name", sorted(C_LAYOUT))
def test_offsets_and_sizes_are_the_compilers(name: str) -> None:
    st = structure(name)
    size, fields = C_LAYOUT[name]
    assert st.size == size
    ours = c_names(st)
    for c_name, (offset, width) in fields.items():
        field = st.field(ours[c_name])
        assert (field.offset, field.width) == (offset, width), c_name


@pytest.mark.parametrize("st", ALL, ids=lambda s: s.name)
def test_fields_fill_the_structure_without_gap_or_overlap(st: Structure) -> None:
    end = 0
    for field in st.fields:
        assert field.offset == end, field.name
        end = field.end
    assert end == st.size
    assert len({f.name for f in st.fields}) == len(st.fields)


@pytest.mark.parametrize("st", ALL, ids=lambda s: s.name)
def test_no_meaningful_field_is_missing_from_the_c_side(st: Structure) -> None:
    if st.name not in C_LAYOUT:  # those that are a header only
        assert st.size == 24
        assert st.mh_type is not None
        return
    fields = C_LAYOUT[st.name][1]
    for c_name, name in c_names(st).items():
        field = st.field(name)
        assert c_name in fields or field.kind.value == "reserved", name


def test_every_structure_that_points_names_known_structures() -> None:
    for st in ALL:
        for field in st.fields:
            for target in field.points_to:
                assert target == "any" or target in STRUCTURES


def test_constants_are_the_headers() -> None:
    wrong = {
        name: (value, getattr(constants, name))
        for name, value in _layout.c_constants().items()
        if hasattr(constants, name) and getattr(constants, name) != value
    }
    assert not wrong
    compared = [n for n in _layout.c_constants() if hasattr(constants, n)]
    assert len(compared) > 80


def test_unknown_names_say_so() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        structure("nonsense")
    with pytest.raises(KeyError, match="di_colour"):
        structure("dinode").field("di_colour")
    assert structure("gfs2_dinode").field("di_header.mh_type").offset == 4
