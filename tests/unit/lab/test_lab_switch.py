"""The power switch's menu, without a socket; and the log line of a node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.init import log_text
from lab.wti import LINE_BYTES_MAX, PROMPT, Plug, Session, Switch, Telnet

PLUGS = [Plug(1, "web1", True), Plug(2, "web2", False)]


def session(password: str = "") -> Session:
    return Session(lambda: PLUGS, password)


def said(s: Session) -> str:
    text = s.out.decode()
    s.out.clear()
    return text


def test_login() -> None:
    s = session("wti")
    assert said(s).endswith("Password: ")
    s.feed(b"no\r\n")
    assert "Invalid password" in said(s)
    s.feed(b"wti\r\n")
    assert said(s).endswith(PROMPT)


def test_three_wrong_passwords_end_it() -> None:
    s = session("wti")
    s.feed(b"a\r\nb\r\nc\r\n/off 1,y\r\n")
    assert s.closed
    assert not s.effects


def test_listing_as_the_fence_agent_reads_it() -> None:
    s = session()
    s.feed(b"/S\r\n")
    lines = said(s).splitlines()
    at = next(i for i, line in enumerate(lines) if line.upper().startswith("PLUG"))
    header = [x.strip().lower() for x in lines[at].split("|")]
    rows = [[x.strip().lower() for x in line.split("|")] for line in lines[at + 2:] if "|" in line]
    assert [(r[header.index("plug")], r[header.index("name")], r[header.index("status")]) for r in rows] == [
        ("1", "web1", "on"), ("2", "web2", "off")]
    assert all(len(r) >= len(header) for r in rows)


def test_switching_answers_only_when_it_is_done() -> None:
    s = session()
    said(s)
    s.feed(b"/off 1,y\r\n/S\r\n")
    assert s.effects == [Switch("web1", "off")]
    assert not said(s)
    s.done()
    assert said(s).count(PROMPT) == 2


def test_a_failure_is_told() -> None:
    s = session()
    s.feed(b"/on WEB2\r\n")
    assert s.effects == [Switch("web2", "on")]
    s.done("it burns")
    assert "*** it burns" in said(s)


def test_all_plugs_and_wrong_ones() -> None:
    s = session()
    s.feed(b"/boot *,y\r\n")
    assert [e.name for e in s.effects] == ["web1", "web2"]
    s.done()
    said(s)
    s.done()
    assert said(s) == PROMPT
    s.feed(b"/off 9\r\nreboot\r\n/h\r\n/sg\r\n/x\r\n")
    text = said(s)
    assert "Invalid plug" in text
    assert "Invalid command" in text
    assert "GROUP NAME" in text
    assert s.closed


def test_telnet_options_are_refused_and_taken_out() -> None:
    t = Telnet()
    assert t.feed(bytes([255, 253, 0]) + b"ab" + bytes([255, 251, 3, 255, 255, 255, 241])) == b"ab\xff"
    assert bytes(t.answer) == bytes([255, 252, 0, 255, 254, 3])
    assert t.feed(bytes([255, 250, 24, 1, 255, 240]) + b"c") == b"c"


@given(st.lists(st.binary(max_size=600), max_size=8))
def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    s = session("wti")
    for piece in pieces:
        s.feed(piece)
    assert len(s._line) <= LINE_BYTES_MAX


def test_log_lines() -> None:
    assert log_text(b"<30>Nov 22 20:01:02 fenced[7]: fencing node \"web2\"\n\0") == 'fenced[7]: fencing node "web2"'
    assert log_text(b"<13>a\nb") == "a b"
    assert log_text(b"plain") == "plain"
    assert log_text(b"\xff") == "�"
