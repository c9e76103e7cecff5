# Sourced by the guest's init: brings network, corosync and dlm_controld up.
export NODE NODES=2
hostname node$NODE
$bb ip link set lo up
$bb ip addr add 10.77.0.$NODE/24 dev eth0
$bb ip link set eth0 up
mkdir -p /etc/corosync /etc/dlm /var/log/cluster /var/lib/corosync /run/dlm_controld /dev/misc
cat >/etc/corosync/corosync.conf <<EOF
totem {
    version: 2
    cluster_name: $CLUSTER_NAME
    transport: udpu
    token: 10000
    crypto_cipher: none
    crypto_hash: none
}
nodelist {
    node {
        ring0_addr: 10.77.0.1
        nodeid: 1
        name: node1
    }
    node {
        ring0_addr: 10.77.0.2
        nodeid: 2
        name: node2
    }
}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
logging {
    to_stderr: yes
    to_syslog: no
}
EOF
# No fencing: a node that is gone is one that the host has ended.
cat >/etc/dlm/dlm.conf <<EOF
enable_fencing=0
enable_startup_fencing=0
enable_quorum_fencing=0
log_debug=1
protocol=tcp
EOF
$bb mount -t configfs configfs /sys/kernel/config
while read -r minor name; do    # what udev's rules would make
    case $name in dlm*) mknod /dev/misc/$name c 10 $minor ;; esac
done </proc/misc
wait_for() {  # wait_for SECONDS COMMAND...
    end=$(($(date +%s) + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $(date +%s) -lt $end ] || { echo "no success: $*"; return 1; }
        sleep 0.2
    done
}
both_joined() { [ "$(corosync-quorumtool -l | grep -c node)" -ge 2 ]; }
cluster_trouble() {
    tail -n 30 /var/log/corosync.log /var/log/dlm_controld.log; dmesg | tail -n 20
    return 1
}
cluster_leave() { kill $dlm_pid; sleep 1; kill $corosync_pid; }
# barrier NAME: waits until both nodes have called it with that name.
cat >/usr/bin/barrier <<EOF
#!/usr/bin/python3 -SE
import socket, sys
s = socket.create_connection(('10.77.0.1', 7000))
s.sendall(sys.argv[1].encode() + b'\\n')
sys.exit(s.recv(1) != b'.')
EOF
cat >/usr/bin/barrier-server <<EOF
#!/usr/bin/python3 -SE
import socket
server, waiting = socket.create_server(('', 7000)), {}
while True:
    peer = server.accept()[0]
    there = waiting.setdefault(peer.makefile().readline(), [])
    there.append(peer)
    if len(there) == 2:
        while there:
            there.pop().sendall(b'.')
EOF
chmod +x /usr/bin/barrier /usr/bin/barrier-server
[ $NODE = 2 ] || barrier-server &
ulimit -l unlimited
corosync -f >/var/log/corosync.log 2>&1 & corosync_pid=$!
wait_for 60 both_joined || cluster_trouble || return 1
say quorum
dlm_controld -D >/var/log/dlm_controld.log 2>&1 & dlm_pid=$!
both_known() { [ "$(dlm_tool status | grep -c '^node [12] M')" = 2 ]; }
wait_for 60 both_known || cluster_trouble || return 1
