"""The texts of a node's /etc and home that differ from the host's: names, cluster.conf, shell. Pure."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from lab.rootfs import PATH
from lab.topology import IQN, SWITCH, SWITCH_ADDRESS, Node, Topology

FENCE_DEVICE = "WTI-Fence"

PROFILE = f"""# Written by the lab.
export PATH={PATH}
[ "${{BASH-}}" = "" ] || [ ! -r ~/.bashrc ] || . ~/.bashrc
"""
BASHRC = r"""# Written by the lab.
PS1='[\u@\h \W]# '
alias ll='ls -l'
"""
FSTAB = """# device        mount point     type    options         dump pass
/dev/sdb5       /gfs2           gfs2    noauto,defaults 0 0
"""
MOTD = """Welcome to {name} of cluster {cluster}. The shared disk is {disks}.
"""

# RHEL's way to speak to a service: what stands in /etc/init.d. For as long as the project has none of its own.
SERVICE = """#!/bin/sh
# service NAME ACTION: runs /etc/init.d/NAME ACTION. Written by the lab.
if [ $# -lt 2 ]; then
    echo "Usage: service NAME start|stop|status|restart" >&2
    exit 2
fi
if [ ! -x "/etc/init.d/$1" ]; then
    echo "$1: unrecognized service" >&2
    exit 1
fi
name=$1
shift
cd /
exec "/etc/init.d/$name" "$@"
"""

# Leaves in the order of the guide, then asks pid 1.
POWEROFF = """#!/bin/sh
# Stops what runs on this node, then asks its pid 1 for {verb}. -f: at once. Written by the lab.
if [ "${{1-}}" != -f ]; then
    service rgmanager status >/dev/null 2>&1 && service rgmanager stop
    umount -a -t gfs2,fuse.gfs2,fuseblk.gfs2
    service cman status >/dev/null 2>&1 && service cman stop
fi
echo {verb} > /run/initctl
sleep 10
"""

# RHEL 5's word for it, as the guide types it.
INIT = """#!/bin/sh
# init 0: off; init 6: again. Written by the lab.
case "${1-}" in
0) exec /sbin/poweroff ;;
6) exec /sbin/reboot ;;
*) echo "init: a node of the lab knows init 0 and init 6" >&2; exit 1 ;;
esac
"""

TGTD = """#!/bin/sh
# The iSCSI target of the room: one LUN for each part of the shared disk. Written by the lab.
IQN={iqn}
TGT_IPC_SOCKET=/run/tgtd.ipc
export TGT_IPC_SOCKET

adm() {{ tgtadm -C 7 --lld iscsi "$@"; }}

running() {{ [ -s /run/tgtd.pid ] && kill -0 "$(cat /run/tgtd.pid)" 2>/dev/null; }}

case "${{1-}}" in
start)
    running && {{ echo "tgtd is already running"; exit 0; }}
    rm -f /run/tgtd.ipc*
    tgtd -f -C 7 -t 4 --iscsi portal={address}:3260 </dev/null >>/var/log/tgtd.log 2>&1 &
    echo $! > /run/tgtd.pid
    tries=0
    until adm --mode system --op show >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] && running || {{ echo "tgtd does not start: see /var/log/tgtd.log" >&2; exit 1; }}
        sleep 0.02
    done
    adm --mode target --op new --tid 1 -T "$IQN" || exit 1
    # Its own defaults are PDUs of 8 KiB and data only on request: half as fast (docs/design/iscsi.md).
    for pair in MaxRecvDataSegmentLength=262144 MaxXmitDataSegmentLength=262144 FirstBurstLength=262144 \\
            MaxBurstLength=262144 InitialR2T=No; do
        adm --mode target --op update --tid 1 --name "${{pair%%=*}}" --value "${{pair#*=}}" || exit 1
    done
{luns}    adm --mode target --op bind --tid 1 -I ALL || exit 1
    echo "Starting tgtd: [  OK  ]"
    ;;
stop)
    running || {{ echo "tgtd is not running"; exit 0; }}
    kill -9 "$(cat /run/tgtd.pid)"
    while running; do sleep 0.02; done
    rm -f /run/tgtd.pid
    echo "Stopping tgtd: [  OK  ]"
    ;;
restart)
    "$0" stop && exec "$0" start
    ;;
status)
    if running; then echo "tgtd (pid $(cat /run/tgtd.pid)) is running..."; else echo "tgtd is stopped"; exit 3; fi
    ;;
*)
    echo "Usage: tgtd start|stop|restart|status" >&2
    exit 2
    ;;
esac
"""


def hosts(room: Topology) -> str:
    lines = ["127.0.0.1\tlocalhost", *(f"{n.address}\t{n.name}" for n in room.machines), f"{SWITCH_ADDRESS}\t{SWITCH}"]
    return "\n".join(lines) + "\n"


def cluster_conf(room: Topology) -> str:
    """The guide's cluster.conf: votes, fencing through the power switch, the quorum disk if there is one."""
    if room.cluster_conf:
        return room.cluster_conf
    votes = sum(n.votes for n in room.nodes) + room.qdisk_votes
    two = len(room.nodes) == 2 and not room.qdisk_votes
    lines = ['<?xml version="1.0"?>',
             f'<cluster name={quoteattr(room.cluster)} config_version="{room.config_version}">',
             '  <cman two_node="1" expected_votes="1"/>' if two else f'  <cman expected_votes="{votes}"/>',
             f'  <fence_daemon post_fail_delay="0" post_join_delay="{room.post_join_delay}"/>', "  <clusternodes>"]
    for node in sorted(room.nodes, key=lambda n: n.nodeid):
        lines += [f'    <clusternode name={quoteattr(node.name)} nodeid="{node.nodeid}" votes="{node.votes}">',
                  '      <fence>', '        <method name="1">',
                  f'          <device name="{FENCE_DEVICE}" port="{node.plug}"/>',
                  '        </method>', '      </fence>', '    </clusternode>']
    lines += ["  </clusternodes>", "  <fencedevices>",
              f'    <fencedevice agent="fence_wti" ipaddr="{SWITCH_ADDRESS}" name="{FENCE_DEVICE}" '
              f'passwd={quoteattr(room.switch_password)}/>', "  </fencedevices>"]
    if room.qdisk_votes:
        lines.append(f'  <quorumd device="/dev/sdb7" interval="1" tko="10" votes="{room.qdisk_votes}" '
                     'label="myqdisk"/>')
    return "\n".join([*lines, "  <rm/>", "</cluster>", ""])


def tgtd_script(room: Topology) -> str:
    luns = "".join(
        f"    adm --mode logicalunit --op new --tid 1 --lun {lun} -b /srv/iscsi/{disk.name}.img || exit 1\n"
        for lun, disk in enumerate(room.disks, 1))
    return TGTD.format(iqn=IQN, address=room.storage.address, luns=luns)


def iscsi_url(room: Topology, disk: str) -> str:
    """How the engine's initiator names a part of the shared disk."""
    lun = [d.name for d in room.disks].index(disk) + 1
    return f"iscsi://{room.storage.address}:3260/{IQN}/{lun}"


def files(room: Topology, node: Node) -> dict[str, tuple[int, str]]:
    """Path below the node's root -> mode and text, written when the room is built and kept afterwards."""
    disks = " ".join(f"/dev/{d.name}" for d in room.disks)
    out = {
        "etc/hostname": (0o644, node.name + "\n"),
        "etc/hosts": (0o644, hosts(room)),
        "etc/resolv.conf": (0o644, "# There is no name server in this room.\n"),
        "etc/fstab": (0o644, FSTAB),
        "etc/profile": (0o644, PROFILE),
        "etc/bash.bashrc": (0o644, "# Written by the lab.\n"),
        "etc/motd": (0o644, MOTD.format(name=node.name, cluster=room.cluster, disks=disks)),
        "root/.bashrc": (0o644, BASHRC),
        "root/.profile": (0o644, "# Written by the lab.\n"),
    }
    if node.nodeid:
        out["etc/cluster/cluster.conf"] = (0o640, cluster_conf(room))
    elif room.disk_kind == "iscsi":
        out["etc/init.d/tgtd"] = (0o755, tgtd_script(room))
        out["etc/rc.local"] = (0o755, "#!/bin/sh\n# Written by the lab.\nexec /etc/init.d/tgtd start\n")
    return out


def commands() -> dict[str, str]:
    """Scripts of the lab's own in a node's /sbin."""
    return {"service": SERVICE, "poweroff": POWEROFF.format(verb="poweroff"), "halt": POWEROFF.format(verb="poweroff"),
            "shutdown": POWEROFF.format(verb="poweroff"), "reboot": POWEROFF.format(verb="reboot"), "init": INIT,
            "telinit": INIT}
