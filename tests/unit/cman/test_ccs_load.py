"""Reading cluster.conf: the guide's file, every kind of mistake with its line, and what hostile files must not do."""

from __future__ import annotations

import subprocess
import sys

import pytest
from guide_conf import GUIDE, changed

from cman.ccs.element import DEPTH_MAX, ELEMENTS_MAX, FILE_BYTES_MAX
from cman.ccs.load import cluster_id, load, multicast_address
from cman.ccs.problems import PROBLEMS_MAX, ConfigError
from cman.ccs.settings import SECTIONS, Kind, markdown
from cman.totem.config import TotemConfig
from tidy.files import text as project_text


def test_the_guides_configuration() -> None:
    config = load(GUIDE.encode())
    assert (config.name, config.version) == ("mycluster", 35)
    assert [(n.name, n.nodeid, n.votes, n.fence_names) for n in config.nodes] == [
        ("web2", 1, 1, ("WTI-Fence",)), ("Mysql1", 2, 1, ("WTI-Fence",)),
        ("Mysql2", 3, 1, ("WTI-Fence",)), ("web1", 4, 1, ("WTI-Fence",))]
    assert config.expected_votes == 6
    assert config.disk_votes == 2
    assert config.number("totem", "token") == 1000
    assert config.number("fence_daemon", "post_join_delay") == 3
    assert not config.flag("cman", "two_node")


def test_id_and_address_are_those_of_the_guide() -> None:
    assert cluster_id("mycluster") == 56756
    assert multicast_address(56756) == "239.192.221.146"
    assert load(GUIDE.encode()).multicast_address == "239.192.221.146"


def test_expected_votes_are_summed_when_not_written() -> None:
    assert load(changed(('expected_votes="6"', ""))).expected_votes == 4 + 2
    assert load(changed(('expected_votes="6"', ""), ('tko="10" votes="2"', 'tko="10"'))).disk_votes == 3


MISTAKES = [
    (('nodeid="2"', 'nodeid="1"'), 8, "nodeid='1' is already that of line 5"),
    (('nodeid="2"', 'nodeid="01"'), 8, "nodeid='1' is already that of line 5"),
    (('name="Mysql2"', 'name="Mysql1"'), 11, "name='Mysql1' is already that of line 8"),
    ((' nodeid="3"', ""), 11, "<clusternode> needs the attribute nodeid"),
    (('nodeid="3"', 'nodeid="4097"'), 11, "wanted a number from 1 to 4096"),
    (('nodeid="3"', 'nodeid="three"'), 11, "nodeid='three': wanted a number"),
    (('nodeid="3"', 'nodeid="٣"'), 11, "wanted a number"),
    (('name="WTI-Fence" port="3"', 'name="WTI-Fense" port="3"'), 9, "no such <fencedevice> (did you mean WTI-Fence?)"),
    (('expected_votes="6"', 'expcted_votes="6"'), 18, "no attribute expcted_votes (did you mean expected_votes?)"),
    (('expected_votes="6"', 'two_node="1"'), 18, 'two_node needs expected_votes="1"'),
    (("<cman ", "<cmann "), 18, "<cluster> has no element <cmann> (did you mean cman?)"),
    (('<totem token="1000"/>', '<totem/><totem/>'), 40, "a second <totem> in <cluster>"),
    (('<totem token="1000"/>', '<totem token="100" hold="80"/>'), 40, "hold_ms"),
    (('config_version="35"', 'config_version="0"'), 2, "wanted a number from 1"),
    (('name="mycluster">', 'name="my cluster">'), 2, "wanted a name of letters"),
    (('nodeid="3"', 'nodeid="17"'), 11, 'nodeid="17": a quorum disk has places for the ids 1 to 16'),
    (('quorumd interval="1"', 'quorumd interval="0.01"'), 37, "wanted seconds from 0.05 to 3600"),
    (('quorumd interval="1"', 'quorumd interval="fast"'), 37, "interval='fast': wanted seconds"),
    (('min_score="1"', 'min_score="2"'), 37, 'min_score="2": the scores of all heuristics make 1'),
    (('  </quorumd>', '<heuristic program="true"/>' * 10 + '</quorumd>'), 39, "11 <heuristic>, at most 10"),
    (('program="ping', 'programm="ping'), 38, "has no attribute programm (did you mean program?)"),
    (('tko="10" votes="2"', 'tko="1" votes="2"'), 37, "tko='1': wanted a number from 2"),
    (('label="myqdisk" ', ""), 37, "<quorumd> needs a label or a device"),
    (('<failoverdomainnode name="web1"', '<failoverdomainnode name="web3"'), 25, "no such <clusternode>"),
    (('clean_start="0"', 'clean_start="maybe"'), 3, "clean_start='maybe': wanted one of"),
    (('<cman expected_votes="6"/>', '<cman><multicast addr="here"/></cman>'), 18, "wanted an IP address"),
    (("</rm>", "</mr>"), 36, "mismatch"),
]


@pytest.mark.parametrize(("change", "line", "words"), MISTAKES, ids=[m[0][1][:40] for m in MISTAKES])
def test_a_mistake_is_told_with_its_line(change: tuple[str, str], line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed(change), "/etc/cluster/cluster.conf")
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"/etc/cluster/cluster.conf:{line}: "), first
    assert words in first


def test_all_mistakes_are_told_at_once_and_not_too_many() -> None:
    with pytest.raises(ConfigError) as caught:
        load(changed(('nodeid="2"', 'nodeid="x"'), ('nodeid="3"', 'nodeid="y"')))
    assert [p.line for p in caught.value.problems] == [8, 11]
    many = "".join(f"<wrong{i}/>" for i in range(500))
    with pytest.raises(ConfigError) as caught:
        load(changed(("<totem token=\"1000\"/>", many)))
    assert len(caught.value.problems) == PROBLEMS_MAX


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
HOSTILE = {
    "entities": (BOMB + '<cluster name="&b;" config_version="1"/>').encode(),
    "file": b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><cluster name="&f;" config_version="1"/>',
    "network": b'<!DOCTYPE cluster SYSTEM "http://127.0.0.1:9/x.dtd"><cluster name="a" config_version="1"/>',
    "utf-16": '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x []><cluster/>'.encode("utf-16"),
    "utf-7": b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE x []+AD4-<cluster/>',
    "too long": b"<cluster>" + b" " * FILE_BYTES_MAX + b"</cluster>",
    "too deep": b"<cluster>" + b"<a>" * DEPTH_MAX + b"</a>" * DEPTH_MAX + b"</cluster>",
    "far too deep": b"<cluster>" + b"<a>" * 90_000 + b"</a>" * 90_000 + b"</cluster>",
    "too many": b"<cluster>" + b"<a/>" * (ELEMENTS_MAX + 1) + b"</cluster>",
    "empty": b"",
    "no XML": b"\x00\x01\x02",
    "not UTF-8": b"<cluster>\n\xff</cluster>",
    "other root": b"<klaster/>",
    "namespace": b'<cluster xmlns="urn:x" name="a" config_version="1"/>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(HOSTILE[name], "bad.conf")
    assert str(caught.value).startswith("bad.conf")
    assert "root:" not in str(caught.value)


def test_line_of_what_is_not_utf8() -> None:
    with pytest.raises(ConfigError, match=r"bad.conf:2: not UTF-8"):
        load(HOSTILE["not UTF-8"], "bad.conf")


def test_the_table_is_sound() -> None:
    paths = [s.path for s in SECTIONS]
    assert len(paths) == len(set(paths))
    for section in SECTIONS:
        assert section.path == "cluster" or section.path.rpartition("/")[0] in paths, section.path
        names = [s.name for s in section.settings]
        assert len(names) == len(set(names)), section.path
        for setting in section.settings:
            assert setting.meaning
            if setting.kind is Kind.NUMBER and setting.default is not None:
                assert setting.low <= int(setting.default) <= setting.high, f"{section.path} {setting.name}"
            if setting.kind is Kind.CHOICE and setting.default is not None:
                assert setting.default in setting.choices


def test_totem_settings_have_the_machines_defaults() -> None:
    config = load(changed(('<totem token="1000"/>', "")))
    assert config.totem == TotemConfig()


def test_the_documentation_is_made_from_the_table() -> None:
    assert project_text("docs/cluster.conf.md") == markdown(), "run: python -m cman.ccs.settings > docs/cluster.conf.md"


def test_reading_needs_no_event_loop() -> None:
    """Tools that only read or ask start without trio."""
    code = "import sys, cman.ccs.load, cman.ask; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
