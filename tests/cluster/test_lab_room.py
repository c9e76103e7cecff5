"""The machine room in use: nodes, network, power, disk, the switch. Real namespaces, a real fence agent."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import select
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.rooms import POLL_S, assert_gone, pids_of, wait_until
from lab import Lab, LabError, cgroups, guide_topology, remains
from lab.network import SWITCH_MAC
from lab.topology import IQN, SWITCH, SWITCH_ADDRESS

pytestmark = pytest.mark.mount

RECEIVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7777))
print("bound", flush=True)
print(s.recv(100).decode(), flush=True)
"""
SENDER = "import socket,sys; s=socket.socket(2,2); [s.sendto(b'packet', (sys.argv[1], 7777)) for _ in range(3)]"

STREAM_IN = """
import hashlib, socket
s = socket.create_server(("", 7778))
print("up", flush=True)
c, _ = s.accept()
h = hashlib.md5()
while data := c.recv(1 << 16):
    h.update(data)
print(h.hexdigest())
"""
STREAM_OUT = """
import random, socket, sys
s = socket.create_connection((sys.argv[1], 7778))
s.sendall(random.Random(1).randbytes(1 << 20))
"""


def reaches(room: Lab, source: str, target: str) -> bool:
    """Whether an echo comes back, tried for a while: a loaded machine may lose time, not packets."""
    return room.exec(source, ["ping", "-q", "-n", "-i", "0.2", "-c", "1", "-w", "5", target]).returncode == 0


def echoes(room: Lab, source: str, target: str, count: int) -> int:
    """How many of `count` come back; the last is given 0.3 s."""
    out = room.exec(source, ["ping", "-q", "-n", "-i", "0.002", "-c", str(count), "-W", "0.3", target]).stdout
    return int(out.split(" received")[0].rsplit(" ", 1)[1])


def silent(room: Lab, source: str, target: str) -> bool:
    return echoes(room, source, target, 2) == 0


def test_nodes_are_machines_of_their_own(room: Lab) -> None:
    for node in room.topology.machines:
        script = "hostname; cat /etc/hostname; ip -4 -br addr show eth0; ls /proc | grep -c '^[0-9]'"
        out = room.exec(node.name, ["sh", "-c", script], check=True).stdout.split()
        assert out[:2] == [node.name, node.name]
        assert f"{node.address}/24" in out
        assert int(out[-1]) < 10, "a node sees processes that are not its own"


def test_nothing_of_it_is_in_the_hosts_network(room: Lab) -> None:
    assert "lab0" not in os.listdir("/sys/class/net")
    assert f"{room.place.path}" not in Path("/proc/self/mountinfo").read_text()


def test_files_of_a_node(room: Lab) -> None:
    script = "cat /etc/hosts; touch /usr/x /etc/x /gfs2 /tmp/x; test ! -e /usr/x && test -e /etc/x"
    done = room.exec("web1", ["sh", "-c", script])
    assert done.returncode == 0
    assert "192.168.12.246\tstorgae-server" in done.stdout
    assert "Read-only" in done.stderr
    assert not Path("/etc/x").exists()
    assert room.path("web1", "/etc/x").exists()
    assert room.exec("web2", ["test", "-e", "/etc/x"]).returncode == 1
    assert 'name="web2"' in room.exec("web1", ["cat", "/etc/cluster/cluster.conf"]).stdout
    with pytest.raises(LabError, match="of a node lie on the host"):
        room.path("web1", "/usr/bin")


def test_exit_status_and_signals(room: Lab) -> None:
    assert room.exec("web1", ["sh", "-c", "exit 3"]).returncode == 3
    assert room.exec("web1", ["sh", "-c", "kill -TERM $$"]).returncode == -15
    assert room.exec("web1", ["no-such-command"]).returncode == 127
    assert room.exec("web1", ["cat"], input="text").stdout == "text"
    assert room.exec("web1", ["sh", "-c", "echo $A; pwd"], env={"A": "1 2"}, cwd="/tmp").stdout == "1 2\n/tmp\n"
    with pytest.raises(LabError, match="there is no machine web9"):
        room.exec("web9", ["true"])


def test_a_killed_command_dies_in_the_node_too(room: Lab) -> None:
    with room.popen("web1", ["sleep", "1000"], stdout=subprocess.DEVNULL) as running:
        wait_until(lambda: "sleep" in room.exec("web1", ["ps", "-e", "-o", "args"]).stdout, "sleep to run")
        running.kill()
    wait_until(lambda: "sleep" not in room.exec("web1", ["ps", "-e", "-o", "args"]).stdout, "sleep to be gone")


def test_what_daemons_log(room: Lab) -> None:
    room.exec("web1", ["logger", "-t", "fenced", 'fencing node "web2"'], check=True)
    log = room.path("web1", "/var/log/messages")
    wait_until(lambda: log.read_text().endswith(' web1 fenced: fencing node "web2"\n'), "the line in the log")


def test_orphans_are_reaped(room: Lab) -> None:
    room.exec("web1", ["sh", "-c", "(sleep 0.01 &) ; exit 0"], check=True)
    wait_until(lambda: "sleep" not in room.exec("web1", ["ps", "-e", "-o", "comm"]).stdout, "no zombie")


def test_power(whole: Lab) -> None:
    whole.exec("web2", ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & touch /run/gone /etc/kept"], check=True)
    pid = whole.pid("web2")
    pids = remains.pids_below(os.stat(f"/proc/{pid}/ns/pid").st_ino)
    assert len(pids) >= 2
    with whole.popen("web2", ["sh", "-c", "echo in; exec sleep 1000"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "in\n"
        whole.power("off", "web2")
        assert running.wait(60) == -9
    assert not [p for p in pids if remains.alive(p)]
    state = {m["name"]: m for m in whole.status()["machines"]}["web2"]
    assert (state["power"], state["state"]) == ("off", "off")
    refused = whole.exec("web2", ["true"])
    assert (refused.returncode, refused.stderr) == (125, "lab: web2 is off\n")
    assert silent(whole, "web1", "web2")
    whole.power("off", "web2")
    whole.power("on", "web2")
    assert whole.exec("web2", ["sh", "-c", "test -e /etc/kept && ! test -e /run/gone"]).returncode == 0
    assert reaches(whole, "web1", "web2")


@pytest.mark.parametrize(("word", "state"), [("crash", "crashed (crash)"), ("poweroff", "off"), ("reboot", "up")])
def test_what_a_node_does_itself(whole: Lab, word: str, state: str) -> None:
    def now() -> dict[str, object]:
        return {m["name"]: m for m in whole.status()["machines"]}["web2"]

    boots = now()["boots"]
    assert isinstance(boots, int)
    whole.exec("web2", ["sh", "-c", f"echo {word} > /run/initctl; exec sleep 1000"])
    wait_until(lambda: now()["state"] == state and (state != "up" or now()["boots"] == boots + 1), state)
    assert now()["power"] == ("off" if state == "off" else "on")


def test_a_crashed_node_stays_under_power(whole: Lab) -> None:
    boots = {m["name"]: m for m in whole.status()["machines"]}["web2"]["boots"]
    whole.power("crash", "web2")
    assert whole.exec("web2", ["true"]).stderr == "lab: web2 is crashed (by request)\n"
    assert fence(whole, "on", "2").returncode == 0
    assert whole.exec("web2", ["true"]).returncode == 125, "a machine that hangs does not boot because power stays on"
    whole.power("on", "web2")
    assert whole.exec("web2", ["true"]).returncode == 0, "a person who switches it on resets it, too"
    whole.power("on", "web2")
    assert {m["name"]: m for m in whole.status()["machines"]}["web2"]["boots"] == boots + 1, "it was up already"


def test_partition_and_heal(whole: Lab) -> None:
    whole.partition(["web1"])
    assert silent(whole, "web1", "web2")
    assert reaches(whole, "web1", "storgae-server")
    assert len(whole.status()["faults"]["cut"]) == 2
    whole.heal()
    assert reaches(whole, "web1", "web2")
    whole.partition(["web1"], everything=True)
    assert all(silent(whole, "web1", other) for other in ("web2", "storgae-server", SWITCH))
    whole.heal(["web1"], [SWITCH])
    assert silent(whole, "web1", "web2")
    assert reaches(whole, "web1", SWITCH)
    with pytest.raises(LabError, match="no web9"):
        whole.partition(["web9"])


def test_one_way_partition(whole: Lab) -> None:
    # Addresses are known before, or ARP would need both directions.
    assert reaches(whole, "web1", "web2")
    whole.partition(["web1"], ["web2"], one_way=True)
    assert silent(whole, "web1", "web2")
    for source, target, arrives in (("web2", "web1", True), ("web1", "web2", False)):
        address = whole.topology.machine(target).address
        with whole.popen(target, ["python3", "-c", RECEIVER], stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "bound\n"
            whole.exec(source, ["python3", "-c", SENDER, address], check=True)
            if arrives:
                assert receiver.stdout.readline() == "packet\n"
            else:
                assert reaches(whole, source, "storgae-server")
                assert not select.select([receiver.stdout], [], [], 0)[0]
            receiver.kill()


def test_loss(whole: Lab) -> None:
    whole.loss(100, ["web1"], ["web2"])
    assert silent(whole, "web1", "web2")
    assert reaches(whole, "web1", "storgae-server")
    # A ping needs two packets: of 200 about 98 come back, and 6 standard deviations are 43.
    whole.loss(30)
    assert 55 <= echoes(whole, "web1", "web2", 200) <= 141
    whole.loss(0)
    assert not whole.status()["faults"]["loss_percent"]
    with pytest.raises(LabError, match="from 0 to 100"):
        whole.loss(101)


def round_trip_ms(room: Lab, source: str, target: str) -> float:
    """The shortest of three."""
    out = room.exec(source, ["ping", "-q", "-n", "-i", "0.01", "-c", "3", "-w", "10", target], check=True).stdout
    return float(out.rsplit("= ", 1)[1].split("/")[0])


def test_delay(whole: Lab) -> None:
    whole.delay(30, ["web1"], ["web2"])
    assert round_trip_ms(whole, "web1", "web2") >= 60
    # Large segments pass too, and nothing is lost or out of order.
    with whole.popen("web2", ["python3", "-c", STREAM_IN], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "up\n"
        whole.exec("web1", ["python3", "-c", STREAM_OUT, "web2"], check=True)
        sent = hashlib.md5(random.Random(1).randbytes(1 << 20)).hexdigest()
        assert receiver.communicate(timeout=60)[0].strip() == sent
    # A reboot brings a new cable: it is slow as well.
    whole.power("cycle", "web2")
    assert round_trip_ms(whole, "web1", "web2") >= 60
    whole.delay(20, ["web1"], ["web2"], one_way=True)
    whole.delay(0, ["web2"], ["web1"], one_way=True)
    assert round_trip_ms(whole, "web1", "web2") >= 20
    assert whole.status()["faults"]["delay_ms"] == [["web1", "web2", 20]]
    whole.delay(0)
    wait_until(lambda: round_trip_ms(whole, "web1", "web2") < 20, "the network to be fast again")


def freezes_and_thaws(whole: Lab) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i > /var/count.new; mv /var/count.new /var/count; done"
    count = whole.path("web1", "/var/count")
    with whole.popen("web1", ["sh", "-c", script]) as running:
        wait_until(count.exists, "the counter")
        whole.freeze("web1")
        assert {m["name"]: m["state"] for m in whole.status()["machines"]}["web1"] == "frozen"
        seen = count.read_text()
        assert "web1 is frozen" in whole.exec("web1", ["true"]).stderr
        for _ in range(10):
            time.sleep(POLL_S)
            assert count.read_text() == seen
        whole.thaw("web1")
        wait_until(lambda: count.read_text() != seen, "the counter to go on")
        # A frozen node can lose its power as well.
        whole.freeze("web1")
        whole.power("cycle", "web1")
        assert running.wait(60) == -9
    assert whole.exec("web1", ["true"]).returncode == 0


def test_freeze_and_thaw(whole: Lab) -> None:
    freezes_and_thaws(whole)


def test_freeze_by_signals() -> None:
    with Lab(replace(guide_topology(1, size="16M"), cgroups=False)) as room:
        assert not os.path.exists(cgroups.path_of(room.place.name))
        freezes_and_thaws(room)


def test_shared_disk(whole: Lab) -> None:
    whole.exec("web1", ["mkfs.gfs2", "-O", "-p", "lock_nolock", "-j", "1", "/dev/sdb5"], check=True)
    said = whole.exec("web1", ["mount", "-t", "gfs2", "/dev/sdb5", "/gfs2", "-v"], check=True).stdout
    assert "mounted /dev/sdb5 on /gfs2" in said
    whole.exec("web1", ["sh", "-c", "echo synced > /gfs2/a && sync -f /gfs2"], check=True)
    # Claimed by this node, and only by this one: as on a SAN.
    assert whole.exec("web1", ["mkfs.gfs2", "-O", "/dev/sdb5"]).returncode != 0
    whole.power("off", "web1")
    whole.exec("web2", ["mount", "-t", "gfs2", "/dev/sdb5", "/gfs2"], check=True)
    assert whole.exec("web2", ["cat", "/gfs2/a"], check=True).stdout == "synced\n"
    whole.exec("web2", ["umount", "/gfs2"], check=True)
    whole.exec("web2", ["fsck.gfs2", "-n", "/dev/sdb5"], check=True)


def test_disk_cable(whole: Lab) -> None:
    read = ["dd", "if=/dev/sdb6", "of=/dev/null", "iflag=direct", "bs=4096", "skip=100", "count=1"]
    assert "1+0 records in" in whole.exec("web1", read).stderr
    whole.disk("web1", cut=True)
    assert whole.status()["disk_cut"] == ["web1"]
    assert "1+0 records in" not in whole.exec("web1", read).stderr
    assert "1+0 records in" in whole.exec("web2", read).stderr
    whole.disk("web1", cut=False)
    assert "1+0 records in" in whole.exec("web1", read).stderr


def fence(room: Lab, action: str, port: str) -> subprocess.CompletedProcess[str]:
    text = (f"action={action}\nipaddr={SWITCH_ADDRESS}\npasswd=wti\nport={port}\n"
            "login_timeout=60\nshell_timeout=60\npower_timeout=60\n")
    return room.exec("web1", ["fence_wti"], input=text)


def test_the_switch_has_one_address(room: Lab) -> None:
    """Were the bridge to answer ARP for it as well, switching a port off could move it away from its users."""
    script = "ip neigh flush all; ping -q -c 1 $0 >/dev/null; ip neigh show $0"
    shown = room.exec("web1", ["sh", "-c", script, SWITCH_ADDRESS]).stdout.split()
    assert shown[shown.index("lladdr") + 1] == SWITCH_MAC


def test_the_real_fence_agent(whole: Lab) -> None:
    assert "ON" in fence(whole, "status", "2").stdout
    assert fence(whole, "off", "2").returncode == 0
    assert {m["name"]: m["power"] for m in whole.status()["machines"]}["web2"] == "off"
    assert fence(whole, "status", "2").returncode == 2, "2 is how agents say off"
    assert fence(whole, "on", "2").returncode == 0
    assert whole.exec("web2", ["true"]).returncode == 0
    refused = whole.exec("web1", ["fence_wti"], input=f"action=status\nipaddr={SWITCH_ADDRESS}\npasswd=no\nport=2\n")
    assert refused.returncode == 1


def test_shell(room: Lab) -> None:
    master, slave = pty.openpty()
    command = room.command("web1", ["bash", "-l"], tty=True)
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as shell:
        os.close(slave)
        seen = ""

        def shows(text: str) -> bool:
            nonlocal seen
            while shell.poll() is None and select.select([master], [], [], 0)[0]:
                seen += os.read(master, 4096).decode()
            assert shell.poll() is None, seen
            return text in seen

        wait_until(lambda: shows("[root@web1 ~]# "), "the prompt")
        os.write(master, b"tty; sleep 1000 & jobs; kill %1; cd /etc\n")
        wait_until(lambda: shows("[root@web1 etc]# "), "the next prompt")
        assert "/dev/pts/0" in seen
        assert "Running" in seen
        assert "no job control" not in seen
        os.write(master, b"exit 7\n")
        assert shell.wait(10) == 7
    os.close(master)


def test_command_line(room: Lab, bin_dir: Path) -> None:
    def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([bin_dir / "lab", "--name", room.place.name, *arguments], capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL)

    assert json.loads(lab("status", "--json").stdout)["name"] == room.place.name
    assert "web1             192.168.12.230   power on   up" in lab("status").stdout
    assert lab("exec", "web1", "--", "sh", "-c", "echo out; exit 5").stdout == "out\n"
    assert lab("exec", "web1", "--", "sh", "-c", "exit 5").returncode == 5
    assert "web1 init: web1 is up" in lab("logs", "web1").stdout
    assert "web1: up in" in lab("logs").stdout
    assert lab("power", "status", "web1").stdout == "web1: power on, up\n"
    assert lab("up").stderr.startswith(f"lab: room {room.place.name} is up already")
    wrong = lab("partition", "web1", "web7")
    assert (wrong.returncode, wrong.stderr.startswith("lab: there is no web7")) == (1, True)
    assert "is not up" in subprocess.run([bin_dir / "lab", "--name", "nobody", "status"], capture_output=True,
                                         text=True, check=False).stderr


def test_iscsi_target() -> None:
    with Lab(guide_topology(2, disk="iscsi", size="64M")) as room:
        show = ["env", "TGT_IPC_SOCKET=/run/tgtd.ipc", "tgtadm", "-C", "7", "--lld", "iscsi", "--mode", "target",
                "--op", "show"]
        listing = room.exec("storgae-server", show, check=True).stdout
        assert f"Target 1: {IQN}" in listing
        assert listing.count("/srv/iscsi/sdb") == 3
        connect = ["bash", "-c", "exec 3<>/dev/tcp/192.168.12.246/3260 && echo connected"]
        assert room.exec("web1", connect).stdout == "connected\n"
        assert room.exec("web1", ["readlink", "/dev/sdb5"]).stdout == f"iscsi://192.168.12.246:3260/{IQN}/1\n"
        # As typed with any other disk.
        room.exec("web1", ["mkfs.gfs2", "-O", "-p", "lock_nolock", "-j", "1", "/dev/sdb5"], check=True)
        room.exec("web1", ["mount", "-t", "gfs2", "/dev/sdb5", "/gfs2"], check=True)
        room.exec("web1", ["sh", "-c", "echo shared > /gfs2/a && umount /dev/sdb5"], check=True)
        room.exec("web2", ["mount", "-t", "gfs2", "/dev/sdb5", "/gfs2"], check=True)
        assert room.exec("web2", ["cat", "/gfs2/a"]).stdout == "shared\n"
        room.exec("web2", ["umount", "/gfs2"], check=True)
        room.exec("web1", ["fsck.gfs2", "-n", "/dev/sdb5"], check=True)
        room.exec("storgae-server", ["service", "tgtd", "restart"], check=True)
        assert room.exec("web1", connect).stdout == "connected\n"
        room.disk("web1", cut=True)
        assert room.exec("web1", ["timeout", "0.3", *connect]).stdout == ""
        pids = pids_of(room.place)
    assert_gone(room.place, pids)


