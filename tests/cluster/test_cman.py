"""The cluster manager with real daemons, one per network namespace: what an administrator sees and types."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cluster.netns import LIMIT_S, Rig, socket_pid, wait_for
from cman import protocol, server
from cman.ask import Asker
from cman.ccs import store
from cman.client import Cman, Configuration, Delivered, Group, Member, Reason, open_cman
from cman.protocol import CmanError, Unreachable

pytestmark = pytest.mark.slow

# Registers at the socket given and stays, even when its cman has gone.
HOLDER = """import sys, time
from cman.ask import Asker
from pathlib import Path
cman = Asker(Path(sys.argv[1]))
cman.ask("register", subsystem="gfs2:my-gfs2")
print("registered", flush=True)
time.sleep(1000)"""

STATUS_FIELDS = ["Version", "Config Version", "Cluster Name", "Cluster Id", "Cluster Member", "Cluster Generation",
                 "Membership state", "Nodes", "Expected votes", "Total votes", "Quorum",
                 "Active subsystems", "Flags", "Ports Bound", "Node name", "Node ID", "Multicast addresses",
                 "Node addresses"]


def fields(text: str) -> dict[str, str]:
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def test_status_and_nodes_have_the_forms_of_the_guide(ring: Rig) -> None:
    for node in ring.nodes:
        found = fields(node.run("cman_tool", "status").stdout)
        assert list(found) == STATUS_FIELDS
        wanted = {"Cluster Name": "mycluster", "Cluster Id": "56756", "Cluster Member": "Yes", "Nodes": "3",
                  "Membership state": "Cluster-Member", "Expected votes": "3", "Total votes": "3", "Quorum": "2",
                  "Node name": node.name, "Node ID": str(node.nodeid), "Ports Bound": "0", "Config Version": "1",
                  "Multicast addresses": "239.192.221.146", "Node addresses": node.address}
        assert {k: found[k] for k in wanted} == wanted
    lines = ring.nodes[1].run("cman_tool", "nodes", "-a").stdout.splitlines()
    assert lines[0].split() == ["Node", "Sts", "Inc", "Joined", "Name"]
    for i, node in enumerate(ring.nodes):
        assert re.fullmatch(rf" +{i + 1}   M  +\d+   \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {node.name}", lines[1 + 2 * i])
        assert lines[2 + 2 * i].strip() == f"Addresses: {node.address}"
    assert json.loads(ring.nodes[0].run("cman_tool", "status", "--json").stdout)["members"] == [1, 2, 3]
    assert ring.nodes[0].run("cman_tool", "nodes", "-F", "id,name,type").stdout.splitlines()[0] == "1 web1 M"


def test_an_update_reaches_every_member(ring: Rig) -> None:
    one, two, three = ring.nodes
    same = one.run("ccs_tool", "update", one.config, check=False)
    assert same.returncode == 1
    assert [x.strip() for x in same.stderr.splitlines()] == [
        "Proposed updated config file does not have greater version number.", "Current config_version :: 1",
        "Proposed config_version:: 1", "Failed to update config file."]
    text = ring.config_text(2, '  <fence_daemon post_join_delay="7"/>\n')
    proposed = ring.folder / "proposed.conf"
    proposed.write_text(text)
    done = two.run("ccs_tool", "update", proposed)
    assert [x for x in done.stdout.splitlines() if x] == ["Config file updated from version 1 to 2", "Update complete."]
    for node in ring.nodes:
        assert node.config.read_text() == text
        assert stat.S_IMODE(node.config.stat().st_mode) == store.MODE
        assert fields(node.run("cman_tool", "status").stdout)["Config Version"] == "2"
        query = node.run("ccs_tool", "query", "/cluster/fence_daemon/@post_join_delay")
        assert query.stdout.strip() == "7"
    proposed.write_text(ring.config_text(3).replace('nodeid="2"', 'nodeid="1"'))
    wrong = three.run("ccs_tool", "update", proposed, check=False)
    assert wrong.returncode == 1
    assert f"{proposed}:5: " in wrong.stderr
    assert "Failed to update config file." in wrong.stderr
    # A member cannot be taken out while it is one.
    proposed.write_text(re.sub(r".*web3.*\n", "", ring.config_text(3)))
    assert "web3 is a member" in one.run("ccs_tool", "update", proposed, check=False).stderr
    three.run("cman_tool", "leave", "-w")
    one.run("ccs_tool", "update", proposed)
    assert [x.split()[-1] for x in one.run("cman_tool", "nodes").stdout.splitlines()[1:]] == ["web1", "web2"]


def test_ten_updates_in_a_row_and_from_all_nodes(ring: Rig) -> None:
    for version in range(2, 8):
        node = ring.nodes[version % 3]
        node.config.write_text(ring.config_text(version))
        assert node.run("cman_tool", "version", "-r").returncode == 0
    for node in ring.nodes:
        assert node.run("cman_tool", "version").stdout == "7.0.0 config 7\n"
        assert node.config.read_text() == ring.config_text(7)


def test_nodes_that_come_with_another_configuration(rig: Rig) -> None:
    one, two, three = rig.nodes
    for node in (one, two):
        node.config.write_text(rig.config_text(5))
    three.config.write_text(rig.config_text(4))
    for node in rig.nodes:
        node.start()
    rig.wait_members(rig.nodes)
    wait_for("the newer file", lambda: three.config.read_text() == rig.config_text(5))
    assert "configuration version 4 replaced by version 5" in three.log()
    # A newer one is run only after an update; it stays on disk for that.
    three.run("cman_tool", "leave", "-w")
    three.config.write_text(rig.config_text(9))
    three.start()
    rig.wait_members(rig.nodes)
    assert fields(three.run("cman_tool", "status").stdout)["Config Version"] == "5"
    assert "cluster.conf here is version 9, the cluster runs 5" in three.log()
    three.run("ccs_tool", "update", three.config)
    assert {n.cluster().config_version for n in rig.nodes} == {9}
    # The same version with other contents is nobody's to choose.
    two.run("cman_tool", "leave", "-w")
    two.config.write_text(rig.config_text(9, '  <fence_daemon post_join_delay="9"/>\n'))
    two.start()
    assert two.daemon is not None
    assert two.daemon.wait(LIMIT_S) == 1
    assert "cluster.conf here is version 9 and differs from that of" in two.log()
    rig.wait_members([one, three])


def test_a_killed_node_is_noticed_and_comes_back(ring: Rig) -> None:
    one, two, three = ring.nodes
    three.kill()
    took = ring.wait_members([one, two])
    print(f"kill -9 to new membership: {took:.2f} s")
    rows = {n["name"]: n for n in json.loads(one.run("cman_tool", "nodes", "--json").stdout)}
    assert (rows["web3"]["state"], rows["web3"]["left_reason"]) == ("X", "lost")
    assert one.cluster().quorate
    assert one.cluster().quorum == 2
    assert "       Node has not been fenced" in one.run("cman_tool", "nodes", "-f").stdout
    three.start()
    ring.wait_members(ring.nodes)


def test_a_node_that_was_frozen_does_not_go_on_with_its_state(ring: Rig) -> None:
    one, two, three = ring.nodes
    three.kill(signal.SIGSTOP)
    ring.wait_members([one, two])
    three.kill(signal.SIGCONT)
    ring.wait_members(ring.nodes)       # nothing was in use there
    # A process of its own: it is killed in the end.
    with subprocess.Popen([sys.executable, "-c", HOLDER, three.socket], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "registered\n"
            three.kill(signal.SIGSTOP)
            ring.wait_members([one, two])
            three.kill(signal.SIGCONT)
            assert three.daemon is not None
            assert three.daemon.wait(LIMIT_S) == 1
            assert "has state of before" in three.log()
            ring.wait_members([one, two])
            assert holder.poll() is None
            three.start()                   # no member as long as something is left of its old life
            assert holder.wait(30) == -signal.SIGKILL
            ring.wait_members(ring.nodes)
        finally:
            holder.kill()
    assert f"pid {holder.pid} (gfs2:my-gfs2) is left from before: killed" in three.log()


def test_leave_and_rejoin(ring: Rig) -> None:
    one, two, three = ring.nodes
    done = two.run("cman_tool", "leave", "-w")
    assert done.stdout + done.stderr == ""
    ring.wait_members([one, three])
    assert two.daemon is not None
    assert two.daemon.wait(LIMIT_S) == 0
    assert "Member 2 shutting down" in one.log()
    assert not two.socket.exists()
    assert two.run("cman_tool", "status", check=False).returncode == 1
    two.run("cman_tool", "join", "-w")
    ring.wait_members(ring.nodes)
    assert two.run("cman_tool", "join", check=False).stderr == "cman_tool: Node is already active\n"
    # SIGTERM is a leave, too.
    one.kill(signal.SIGTERM)
    ring.wait_members([two, three])
    assert "node web1 left" in two.log()


def test_partition_and_quorum(ring: Rig) -> None:
    one, two, three = ring.nodes
    one.cut(True)
    ring.wait_members([two, three])
    ring.wait_members([one])
    assert (two.cluster().quorate, one.cluster().quorate) == (True, False)
    assert fields(one.run("cman_tool", "status").stdout)["Quorum"] == "2 Activity blocked"
    assert one.run("cman_tool", "wait", "-q", "-t", "1", check=False).returncode == 2
    refused = one.run("ccs_tool", "update", one.config, check=False)
    assert refused.returncode == 1
    one.cut(False)
    ring.wait_members(ring.nodes)
    one.run("cman_tool", "wait", "-q", "-t", "20")
    assert len({(n.cluster().quorum, n.cluster().total_votes) for n in ring.nodes}) == 1


def test_votes_expected_and_kill(ring: Rig) -> None:
    one, two, three = ring.nodes
    one.run("cman_tool", "votes", "-v", "3", "-n", "web2")
    wait_for("new votes", lambda: {n.cluster().total_votes for n in ring.nodes} == {5})
    one.run("cman_tool", "votes", "-v", "1", "-n", "web2")
    wait_for("old votes", lambda: {n.cluster().total_votes for n in ring.nodes} == {3})
    assert one.run("cman_tool", "expected", "-e", "99", check=False).returncode == 1
    one.run("cman_tool", "kill", "-n", "web3")
    ring.wait_members([one, two])
    assert three.daemon is not None
    assert three.daemon.wait(LIMIT_S) == 1
    assert "killed on request of web1" in three.log()
    two.run("cman_tool", "leave", "remove", "-w")
    ring.wait_members([one])
    assert not one.cluster().quorate
    one.run("cman_tool", "expected", "-e", "1")
    wait_for("quorum", lambda: one.cluster().quorate)
    assert one.run("cman_tool", "kill", "-n", "nobody", check=False).returncode == 1


def test_quorum_falls_when_fencing_is_confirmed(ring: Rig) -> None:
    """The guide's last chapter in small: one node after another dies, and the last one goes on."""
    one, two, three = ring.nodes
    three.kill()
    ring.wait_members([one, two])
    assert (one.cluster().quorum, one.cluster().unconfirmed) == (2, [3])
    two.kill()
    ring.wait_members([one])
    assert not one.cluster().quorate
    with Asker(one.socket) as cman:
        with pytest.raises(CmanError, match="is a member"):
            cman.ask("fenced", node="web1", by="fence_wti")
        cman.ask("fenced", node="web3", by="fence_wti")
        wait_for("half of it", lambda: cman.cluster().unconfirmed == [2])
        assert not cman.cluster().quorate, "two nodes, one of them perhaps at work: one of two is no majority"
        cman.ask("fenced", node="web2", by="fence_wti")
        wait_for("quorum", lambda: cman.cluster().quorate)
        assert (cman.cluster().quorum, cman.cluster().expected_votes) == (1, 3)
    assert re.search(r"Last fenced: +\d{4}-.* by fence_wti", one.run("cman_tool", "nodes", "-f").stdout)
    assert 'fence "web2" success' in one.log()
    two.start()
    ring.wait_members([one, two])
    assert {(n.cluster().quorum, n.cluster().quorate) for n in (one, two)} == {(2, True)}


async def _joined(cman: Cman, name: str, members: int) -> Group:
    group = await cman.join(name)
    while not (isinstance(event := await group.next(), Configuration) and len(event.members) == members):
        pass
    return group


def test_messages_come_in_one_order(ring: Rig) -> None:
    each = 200

    async def collect(group: Group, count: int) -> list[tuple[Member, bytes]]:
        out: list[tuple[Member, bytes]] = []
        while len(out) < count:
            if isinstance(event := await group.next(), Delivered):
                out.append((event.sender, event.data))
        return out

    async def run() -> None:
        seen: list[list[tuple[Member, bytes]]] = []
        ready = 0

        async def client(path: object, number: int) -> None:
            nonlocal ready
            async with open_cman(path) as cman:  # type: ignore[arg-type]
                group = await cman.join("order")
                while not (isinstance(event := await group.next(), Configuration) and len(event.members) == 6):
                    pass
                ready += 1
                async with trio.open_nursery() as nursery:
                    async def send() -> None:
                        for i in range(each):
                            await group.mcast(f"{number}:{i}".encode() + b"." * (i * 37 % 3000))

                    nursery.start_soon(send)
                    seen.append(await collect(group, 6 * each))

        async with trio.open_nursery() as nursery:
            for number, node in enumerate([*ring.nodes, *ring.nodes]):
                nursery.start_soon(client, node.socket, number)
        assert all(s == seen[0] for s in seen)
        for sender in {m for m, _ in seen[0]}:
            own = [int(d.split(b":")[1].split(b".")[0]) for m, d in seen[0] if m == sender]
            assert own == list(range(each)), "a sender's own order"

    trio.run(run)


def test_how_clients_go(ring: Rig) -> None:
    one, two, three = ring.nodes

    async def run() -> None:
        async with open_cman(one.socket) as watcher:
            stay = await _joined(watcher, "g", 1)
            async with open_cman(two.socket) as dying:
                lost = await _joined(dying, "g", 2)
                async with open_cman(three.socket) as other:
                    leaver = await _joined(other, "g", 3)
                    await leaver.leave()
                    async for event in leaver:
                        last = event
                    assert isinstance(last, Configuration)
                    assert last.left == ((leaver.me, Reason.LEAVE),)
                    third = await _joined(other, "g", 3)
                    three.kill()

                    async def until_cut_off() -> None:
                        async for _ in third:
                            pass

                    with pytest.raises(Unreachable):
                        await until_cut_off()
            changes = []
            while len(changes) < 6:
                if isinstance(event := await stay.next(), Configuration):
                    changes.append(event)
        told = [(c.joined, c.left) for c in changes]
        assert len({c.view for c in changes}) == len(changes), "each view has a name of its own"
        assert told[0] == (((lost.me, Reason.JOIN),), ())
        assert told[2] == ((), ((leaver.me, Reason.LEAVE),))
        assert sorted([told[4][1][0], told[5][1][0]]) == sorted(
            [(lost.me, Reason.PROCDOWN), (third.me, Reason.NODEDOWN)])

    trio.run(run)


def test_leave_is_refused_while_something_is_in_use(ring: Rig) -> None:
    one = ring.nodes[0]

    async def run() -> None:
        async with open_cman(one.socket) as cman, cman.register("gfs2:my-gfs2", port=177):
            def ask(*words: object) -> object:
                return one.run(*words, check=False)

            refused = await trio.to_thread.run_sync(ask, "cman_tool", "leave")
            assert refused.returncode == 1  # type: ignore[attr-defined]
            assert "subsystems are in use: gfs2:my-gfs2" in refused.stderr  # type: ignore[attr-defined]
            stopped = await trio.to_thread.run_sync(ask, "service", "cman", "stop")
            assert stopped.returncode == 1  # type: ignore[attr-defined]
            assert "[FAILED]" in stopped.stdout  # type: ignore[attr-defined]
            state = await cman.cluster()
            assert (state.subsystems, state.ports, state.flags) == (2, [0, 177], ["Dirty"])

    trio.run(run)
    wait_for("the end of the client", lambda: one.cluster().subsystems == 1)
    stopped = one.run("service", "cman", "stop")
    assert stopped.stdout.splitlines()[0] == "Stopping cluster: "
    assert stopped.stdout.count("[  OK  ]") == 2
    assert one.run("service", "cman", "status", check=False).returncode == 3
    started = one.run("service", "cman", "start")
    assert started.stdout.count("[  OK  ]") == 4
    assert one.run("service", "cman", "status").stdout == "cman is running.\n"
    ring.wait_members(ring.nodes)


def as_nobody(code: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/usr/bin/python3", "-c", code, path], user=65534, capture_output=True, text=True,
                          check=False)


def test_bad_clients_harm_nobody(ring: Rig) -> None:
    one = ring.nodes[0]
    path = str(one.socket)
    assert stat.S_IMODE(one.socket.stat().st_mode) == 0o600
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    # Whoever is not root gets past neither the mode nor, were it open, the daemon itself.
    for folder in one.folder.parents:
        if folder.stat().st_mode & 0o5 != 0o5 and folder.is_relative_to(ring.folder.parents[2]):
            folder.chmod(0o755)
    nobody = as_nobody(code, path)
    assert "PermissionError" in nobody.stderr
    one.socket.chmod(0o666)
    say = code.replace("socket.socket(socket.AF_UNIX).connect(sys.argv[1])",
                       "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(4096))")
    nobody = as_nobody(say, path)
    assert "not-permitted" in nobody.stdout
    one.socket.chmod(0o600)
    for data in (b"\xff" * 100, b"\0\0\0\0", b"\0\0\0\x01\xc1", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(path)
            s.sendall(data)
            assert b"bad-message" in s.recv(4096)
            assert s.recv(4096) == b""
    with Asker(one.socket) as asker:
        for op, words in (("nothing", {}), ("join", {"group": ""}), ("mcast", {"group": "x", "data": b""}),
                          ("join", {"group": "a\0b"}), ("leave", {"group": "x"}), ("votes", {"votes": -1}),
                          ("config-update", {"data": b"<cluster/>"}), ("register", {"subsystem": 5})):
            with pytest.raises(CmanError):
                asker.ask(op, **words)  # type: ignore[arg-type]
        asker.ask("join", group="mine")
        with pytest.raises(CmanError, match="already"):
            asker.ask("join", group="mine")
    # One that asks for messages and does not read them is cut off, and others go on.
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(path)
        lazy.sendall(protocol.request(1, "join", {"group": "flood"}))

        async def flood() -> None:
            async with open_cman(one.socket) as cman:
                group = await _joined(cman, "flood", 2)
                block = bytes(protocol.MCAST_MAX_BYTES)
                for _ in range(server.OUT_BYTES_MAX // len(block) + 16):
                    await group.mcast(block)
                while not (isinstance(event := await group.next(), Configuration) and event.left):
                    pass
                assert event.left[0][1] is Reason.PROCDOWN

        trio.run(flood)
    assert "is cut off: it leaves more than" in one.log()
    pid = socket_pid(one)
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < 200_000, "kB"


def test_unicast_and_foreign_clusters(rig: Rig) -> None:
    for node in rig.nodes:
        node.config.write_text(rig.config_text(1, '  <cman transport="udpu"/>\n'))
        node.start()
    rig.wait_members(rig.nodes)
    assert fields(rig.nodes[0].run("cman_tool", "status").stdout)["Multicast addresses"] == ""
    rig.nodes[2].run("cman_tool", "leave", "-w")
    rig.nodes[2].config.write_text(rig.nodes[0].config.read_text().replace("mycluster", "other"))
    rig.nodes[2].start()
    assert rig.nodes[2].daemon is not None
    assert rig.nodes[2].daemon.wait(LIMIT_S) == 1
    assert "belong to cluster 'mycluster', this one to 'other'" in rig.nodes[2].log()
    rig.wait_members(rig.nodes[:2])
