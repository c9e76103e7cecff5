"""Which node this is, what it must remember, and who may use the cluster's key."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from pathlib import Path

import pytest
from guide_conf import GUIDE, changed

from cman import network
from cman.ccs.load import load
from cman.daemon import Unstartable, cluster_key, transport_settings
from cman.logs import Syslog
from cman.network import NetworkError, Place, find_me, locate
from cman.state import StateDirectory, StateError

CONFIG = load(GUIDE.encode())
ADDRESSES = {"web2": "192.168.12.240", "Mysql1": "192.168.12.231", "Mysql2": "192.168.12.232", "web1": "192.168.12.230"}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's network, seen from Mysql2."""
    monkeypatch.setattr(network, "resolve", lambda name: [ADDRESSES[name]] if name in ADDRESSES else [])
    monkeypatch.setattr(network, "is_local", lambda address: address == "192.168.12.232")


@pytest.mark.parametrize(("wanted", "host", "found"), [
    ("web1", "anything", "web1"), (None, "web2", "web2"), (None, "web2.example.com", "web2"),
    (None, "localhost", "Mysql2")])
def test_who_we_are(wanted: str | None, host: str, found: str) -> None:
    assert find_me(CONFIG, wanted, host).name == found


def test_nobody_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match=r"no clusternode 'web9' .*web2, Mysql1"):
        find_me(CONFIG, "web9", "web1")
    monkeypatch.setattr(network, "is_local", lambda address: False)
    with pytest.raises(NetworkError, match="the host name is 'other'"):
        find_me(CONFIG, None, "other")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    place = locate(CONFIG, find_me(CONFIG, "Mysql2", ""))
    assert place.addresses == {1: "192.168.12.240", 2: "192.168.12.231", 3: "192.168.12.232", 4: "192.168.12.230"}
    with pytest.raises(NetworkError, match=r"web1 is 192.168.12.230, which is no address of this machine"):
        locate(CONFIG, find_me(CONFIG, "web1", ""))
    monkeypatch.setattr(network, "resolve", lambda name: [])
    with pytest.raises(NetworkError, match=r"leads to no address: put it into /etc/hosts"):
        locate(CONFIG, find_me(CONFIG, "Mysql2", ""))


def test_loopback_is_never_our_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not network.is_local("127.0.0.1")
    assert not network.is_local("::1")
    assert not network.is_local("203.0.113.1")
    assert "127.0.0.1" in network.resolve("127.0.0.1")


def test_the_ring_is_remembered(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state", "mycluster", 3)
    assert state.ring_seq() == 0
    state.store_ring_seq(3092)
    assert StateDirectory(tmp_path / "state", "mycluster", 3).ring_seq() == 3092
    assert StateDirectory(tmp_path / "state", "mycluster", 4).ring_seq() == 0
    for damage in ("", "x", "-1", "9" * 40):
        next((tmp_path / "state").glob("ring-*-3")).write_text(damage)
        with pytest.raises(StateError, match="does not hold a number"):
            state.ring_seq()


def test_the_file_that_the_cluster_gave_is_remembered(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, "mycluster", 3)
    assert state.given() == b""
    state.store_given(CONFIG.digest)
    assert StateDirectory(tmp_path, "mycluster", 3).given() == CONFIG.digest
    (tmp_path / "given-mycluster-3").write_text("no digest\n")
    assert state.given() == b"", "what cannot be read makes the file on disk an operator's, which is never replaced"
    (tmp_path / "given-mycluster-3").unlink()
    (tmp_path / "given-mycluster-3").mkdir()
    with pytest.raises(StateError, match="given-mycluster-3"):
        state.given()


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"key": None, "port": None, "multicast": None, **given})


def test_the_key_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(Unstartable, match="cman_tool keygen"):
        cluster_key(CONFIG, options(key=path))
    path.write_bytes(os.urandom(64))
    path.chmod(0o640)
    with pytest.raises(Unstartable, match="mode 0600"):
        cluster_key(CONFIG, options(key=path))
    path.chmod(0o600)
    assert cluster_key(CONFIG, options(key=path)) == path.read_bytes()
    path.write_bytes(b"short")
    with pytest.raises(Unstartable, match="the cluster key has 5 bytes"):
        cluster_key(CONFIG, options(key=path))
    open_config = load(changed(('<totem token="1000"/>', '<totem secauth="off"/>')))
    assert cluster_key(open_config, options()) != cluster_key(
        load(open_config.source.replace(b'name="mycluster"', b'name="other"')), options())


def test_where_packets_go() -> None:
    place = Place(CONFIG.nodes[0], {i: f"192.168.12.{i}" for i in (1, 2, 3, 4)})
    made = transport_settings(CONFIG, place, options())
    assert (made.multicast, made.port, made.ttl) == ("239.192.221.146", 5405, 1)
    written = load(changed(('<cman expected_votes="6"/>', '<cman expected_votes="6" port="6000"><multicast '
                            'addr="239.1.2.3" ttl="4"/></cman>')))
    made = transport_settings(written, place, options())
    assert (made.multicast, made.port, made.ttl) == ("239.1.2.3", 6000, 4)
    assert transport_settings(written, place, options(multicast="239.9.9.9", port=7000)).port == 7000
    unicast = load(changed(('expected_votes="6"', 'expected_votes="6" transport="udpu"')))
    assert transport_settings(unicast, place, options()).multicast is None
    with pytest.raises(Unstartable, match="no multicast address"):
        transport_settings(CONFIG, place, options(multicast="10.0.0.1"))
    with pytest.raises(Unstartable, match="same address"):
        transport_settings(CONFIG, Place(CONFIG.nodes[0], dict.fromkeys((1, 2, 3, 4), "10.0.0.1")), options())


def test_syslog_that_hangs_stops_nothing(tmp_path: Path) -> None:
    path = os.fspath(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        handler = Syslog(path)
        record = logging.LogRecord("cman.TOTEM", logging.WARNING, "", 0, "token %s", ("lost",), None)
        for _ in range(5000):           # more than its socket holds
            handler.emit(record)
        assert daemon.recv(4096).decode() == f"<28>cman[{os.getpid()}]: [TOTEM] <warning> token lost"
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(path)
        handler.emit(record)            # finds that it has to connect anew
        handler.emit(record)
        assert b"token lost" in daemon.recv(4096)
    handler.close()
    with pytest.raises(OSError, match="No such file"):
        Syslog(os.fspath(tmp_path / "nothing"))
