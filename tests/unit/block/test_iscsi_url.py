"""Names of LUNs, of this node and its secrets."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfs2py.block.iscsi_config import ConfigError, credentials, initiator_name, read_credentials
from gfs2py.block.iscsi_url import IscsiUrl, Portal, UrlError, is_name, parse_portal, parse_url

IQN = "iqn.2011-07.com.example:server.target1"


@pytest.mark.parametrize(("url", "wanted"), [
    (f"iscsi://192.168.12.246/{IQN}/1", IscsiUrl((Portal("192.168.12.246"),), IQN, 1)),
    (f"iscsi://storage:860/{IQN}/0", IscsiUrl((Portal("storage", 860),), IQN, 0)),
    (f"iscsi://[fe80::1]:3261/{IQN}/16383", IscsiUrl((Portal("[fe80::1]", 3261),), IQN, 16383)),
    (f"iscsi://a,b:1,[::1]/{IQN}/2", IscsiUrl((Portal("a"), Portal("b", 1), Portal("[::1]")), IQN, 2)),
    (f"iscsi://web1@a/{IQN.replace(':', '%3A')}/1", IscsiUrl((Portal("a"),), IQN, 1, "web1")),
    ("iscsi://a/eui.0123456789abcdef/1", IscsiUrl((Portal("a"),), "eui.0123456789abcdef", 1)),
])
def test_urls(url: str, wanted: IscsiUrl) -> None:
    assert parse_url(url) == wanted
    assert parse_url(str(wanted)) == wanted


@pytest.mark.parametrize(("url", "why"), [
    ("/dev/sdb5", "does not begin"), ("iscsi://a", "is not iscsi://"), (f"iscsi://a/{IQN}", "is not iscsi://"),
    (f"iscsi://a/{IQN}/1/2", "is not iscsi://"), (f"iscsi:///{IQN}/1", "is no portal"),
    (f"iscsi://a:0/{IQN}/1", "is no portal"), (f"iscsi://a:99999/{IQN}/1", "is no portal"),
    (f"iscsi://a b/{IQN}/1", "is no portal"), (f"iscsi://@a/{IQN}/1", "without a user"),
    (f"iscsi://a,b,c,d,e/{IQN}/1", "5 portals"), ("iscsi://a/target/1", "no target name"),
    ("iscsi://a/iqn.11-07.x:y/1", "no target name"), (f"iscsi://a/{IQN}/x", "no LUN"),
    (f"iscsi://a/{IQN}/16384", "no LUN"), (f"iscsi://a/{IQN}/-1", "no LUN"), (f"iscsi://a/{IQN}/", "no LUN"),
    (f"iscsi://a/{IQN}/\u0661", "no LUN"),
])
def test_what_is_no_url(url: str, why: str) -> None:
    with pytest.raises(UrlError, match=why):
        parse_url(url)


@pytest.mark.parametrize("user", ["web1%secret", "web1:secret"])
def test_a_password_is_refused_and_not_repeated(user: str) -> None:
    with pytest.raises(UrlError, match="password") as e:
        parse_url(f"iscsi://{user}@a/{IQN}/1")
    assert "secret" not in str(e.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    for candidate in (text, f"iscsi://{text}", f"iscsi://a/{text}", f"iscsi://{text}/{IQN}/1"):
        with contextlib.suppress(UrlError):
            assert parse_url(str(parse_url(candidate))) == parse_url(candidate)


def test_names_and_portals() -> None:
    assert is_name(IQN)
    assert not is_name("iqn.2011-07.com.example:" + "x" * 220)
    assert str(parse_portal("h")) == "h:3260"


def test_the_node_has_one_name(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    first = initiator_name({}, file=absent, directory=tmp_path / "state")
    assert is_name(first)
    assert initiator_name({}, file=absent, directory=tmp_path / "state") == first
    assert initiator_name({}, file=absent, directory=tmp_path / "other") != first
    given_file = tmp_path / "initiatorname.iscsi"
    given_file.write_text(f"# by hand\nInitiatorName={IQN}\n")
    assert initiator_name({}, file=given_file, directory=tmp_path) == IQN
    assert initiator_name({"GFS2PY_INITIATOR_NAME": IQN + "2"}, file=given_file) == IQN + "2"
    given_file.write_text("InitiatorName=nonsense\n")
    with pytest.raises(ConfigError, match="line 1"):
        initiator_name({}, file=given_file)
    with pytest.raises(ConfigError, match="no initiator name"):
        initiator_name({"GFS2PY_INITIATOR_NAME": "x"})


def test_a_name_that_cannot_be_kept(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert is_name(initiator_name({}, file=tmp_path / "absent", directory=blocked / "below"))


def test_secrets(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text(f"# secrets\n\n* any anypassword\n{IQN} web1 onepassword there theirpassword\n")
    path.chmod(0o600)
    found = read_credentials(path, IQN)
    assert found is not None
    assert (found.user, found.password, found.target_user, found.target_password) == (
        "web1", "onepassword", "there", "theirpassword")
    assert "password" not in repr(found).replace("target_password", "").replace(" password", "")
    other = read_credentials(path, IQN + "x")
    assert other is not None
    assert other.user == "any"
    assert credentials(IQN, "any", file=str(path), environment={}) == read_credentials(path, "else")
    with pytest.raises(ConfigError, match="no line for"):
        credentials(IQN, "nobody", file=str(path), environment={})
    path.write_text("one two\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_credentials(path, IQN)
    os.chmod(path, 0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_credentials(path, IQN)


def test_secrets_of_the_environment() -> None:
    assert credentials(IQN, environment={}) is None
    found = credentials(IQN, environment={"LIBISCSI_CHAP_USERNAME": "u", "LIBISCSI_CHAP_PASSWORD": "p"})
    assert found is not None
    assert (found.user, found.password, found.target_user) == ("u", "p", None)
