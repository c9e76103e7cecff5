"""The oracle: the Linux kernel's own gfs2 driver as the judge of our images.

Boots a stock Debian kernel (which has gfs2.ko and dlm.ko) in QEMU, mounts GFS2 images with it,
runs scripts on the mount and reports what the kernel says. It needs no privileges, no KVM and no
gfs2 in the running kernel: only qemu-system-x86_64, and apt-get and dpkg-deb for `prepare`.

  prepare.py   fetches packages, builds kernel and initramfs into a cache
  guest.py     one QEMU with one image: its disks, ports, timeouts and verdict
  cluster.py   two guests with corosync and dlm that share an image
  walk.py      the manifest of a tree; runs here and, as a single file, in the guest
  kernel.py    what tests use: Kernel.run, .crash, .manifest, one guest at a time
  cli.py       the same from a shell: tests/interop/kernel-gfs2

Environment:
  KERNEL_GFS2_DIR     cache (default: ${XDG_CACHE_HOME:-~/.cache}/gfs2py-oracle)
  KERNEL_GFS2_KERNEL  6.1 (default), 6.12, or the name of a linux-image package
  KERNEL_GFS2_QEMU    the QEMU program (default: qemu-system-x86_64)
  KERNEL_GFS2_ACCEL   QEMU's accelerator (default: tcg)
"""
