#!/bin/busybox sh
# The guest's first process: sets the machine up, mounts the image, runs the
# script and tells the host how each step went, in lines on the port "control".
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYTHONPLATLIBDIR=lib
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
for dir in /dev/shm /dev/pts /run /tmp; do $bb mkdir -p $dir; done
$bb mount -t devpts devpts /dev/pts
for dir in /dev/shm /run /tmp; do $bb mount -t tmpfs tmpfs $dir; done
for mod in $($bb cat /modules/order); do $bb insmod /modules/$mod; done

port() {  # the device of the virtio port of that name
    for p in /sys/class/virtio-ports/*; do
        [ "$($bb cat $p/name)" = "$1" ] && echo /dev/${p##*/}
    done
}
disk() {  # the device of the virtio disk of that serial number
    for d in /sys/block/vd*; do
        [ "$($bb cat $d/serial)" = "$1" ] && echo /dev/${d##*/}
    done
}
exec 3>$(port control)
say() { echo "$*" >&3; }
finish() { say done; $bb poweroff -f; }
say boot

export MNT=/mnt/gfs2 IN=/ctl/in OUT=/out DEV=$(disk gfs2)
mkdir -p $MNT /ctl $OUT /root
[ -z "$(disk ctl)" ] || $bb tar -xf $(disk ctl) -C /ctl
. /ctl/config
exec >$(port output) 2>&1 </dev/null
echo 7 >/proc/sys/kernel/printk     # from here on all kernel messages
ulimit -c 0; umask 022

if [ -n "$NODE" ]; then
    . /ctl/cluster || { say cluster failed; finish; }
    say cluster ready
fi

cd $IN
if [ -n "$MOUNT" ]; then
    start=$(cut -d' ' -f1 /proc/uptime)
    $bb mount -t gfs2 $MOUNT_OPTS $DEV $MNT
    rc=$?
    say mount $rc $start $(cut -d' ' -f1 /proc/uptime)
    [ $rc = 0 ] || finish
    cd $MNT
fi

if [ -n "$SHELL_PORT" ]; then
    setsid -c $bb sh -i </dev/hvc0 >/dev/hvc0 2>&1
elif head -c 2 /ctl/script | grep -q '#!'; then
    /ctl/script
else
    /bin/dash /ctl/script
fi
say script $?
cd /

[ -z "$(disk out)" ] || { $bb tar -cf $(disk out) -C $OUT . && say out $?; }

if [ -n "$CRASH" ]; then
    say crash
    # Reset without a sync: with -no-reboot it ends QEMU. What the guest's
    # disk had acknowledged is in the image, everything else is lost.
    echo b >/proc/sysrq-trigger
    sleep 60
fi
if [ -n "$MOUNT" ] && grep -q " $MNT gfs2 " /proc/mounts; then
    umount $MNT
    say umount $?
fi
[ -z "$NODE" ] || cluster_leave
finish
