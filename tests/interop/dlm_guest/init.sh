#!/bin/busybox sh
# The guest's first process: modules, network, then the agent until the machine is taken away.
set -eu
export PATH=/usr/sbin:/usr/bin HOME=/root PYTHONPLATLIBDIR=lib PYTHONDONTWRITEBYTECODE=1
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
$bb mkdir -p /tmp /run
$bb mount -t tmpfs tmpfs /tmp
for mod in $($bb cat /modules/order); do $bb insmod "/modules/$mod"; done
$bb mount -t configfs config /sys/kernel/config
$bb mount -t debugfs debug /sys/kernel/debug
echo 8 >/proc/sys/kernel/printk
$bb ip link set lo up
$bb ip addr add "$($bb sed -n 's/.*guest_ip=\([^ ]*\).*/\1/p' /proc/cmdline)" dev eth0
$bb ip link set eth0 up
for port in /sys/class/virtio-ports/*; do
    [ "$($bb cat "$port/name")" != agent ] || /usr/bin/python3.11 -S /agent.py "/dev/${port##*/}"
done
$bb poweroff -f
