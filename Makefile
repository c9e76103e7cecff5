# gfs2py: build, try, test and measure. Every goal works from a bare Debian 12 (as root it installs
# the Debian packages that it needs). `make help` lists the goals.

SHELL := /bin/bash
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
JOBS ?= $(shell nproc)
# One seed drives everything random in a test run; `make test SEED=n` repeats a run.
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')

DEBS_BUILD := gcc libc6-dev linux-libc-dev zlib1g-dev libiscsi-dev libfuse3-dev pkg-config python3-dev python3-venv \
	util-linux mount
DEBS_DEMO := gfs2-utils iproute2 nftables fence-agents telnet
DEBS_LAB := iproute2 nftables iputils-ping tgt fence-agents telnet
DEBS_TEST := gfs2-utils qemu-system-x86 attr acl e2fsprogs fio xz-utils zstd procps hostname ctdb $(DEBS_LAB)
DEBS_BENCH := gfs2-utils e2fsprogs fuse2fs fio bindfs ntfs-3g fuse3
DEBS_BENCH_CLUSTER := $(DEBS_LAB) e2fsprogs glusterfs-server glusterfs-client

# Where `make install` puts the helpers that mount(8) and umount(8) look for.
DESTDIR ?=
SBINDIR ?= /sbin
MOUNT_HELPERS := mount.gfs2 mount.fuse.gfs2 umount.gfs2 umount.fuse.gfs2
CLUSTER_COMMANDS := cman cman_tool ccs_tool clustat fence_tool fence_node fence_ack_manual mkqdisk cluster_exporter
UNITDIR ?= /lib/systemd/system
UNITS := cman.service dlm_controld.service cluster-exporter.service

.PHONY: build
build: ## build the extensions and put every command into .venv/bin
	@ci/bootstrap.sh debs $(DEBS_BUILD)
	@ci/bootstrap.sh venv
	@$(MAKE) --no-print-directory -s extensions $(VENV)/.installed

.PHONY: extensions
extensions:
	@GFS2PY_JOBS=$(JOBS) $(PY) -W ignore setup.py -q build_ext --inplace -j $(JOBS)

# Editable: the commands run the checkout. The extensions were built in place just before, hence
# the glob that matches none of them. Two plain paths instead of the import hook that setuptools puts there: the hook
# costs every command 20 ms and 2 MiB.
$(VENV)/.installed: pyproject.toml setup.py requirements.txt README.md Makefile tools/scripts/gfs2d
	@GFS2PY_EXT=none $(PY) -m pip install -q --disable-pip-version-check --no-input \
	    --no-build-isolation --no-deps --editable .
	@for pth in $(VENV)/lib/python3*/site-packages/__editable__.gfs2py-*.pth; do \
	    test ! -e "$$pth" || printf '%s\n' "$(CURDIR)" "$(CURDIR)/tools" > "$$pth"; done
	@touch $@

.PHONY: dev
dev: build
	@ci/bootstrap.sh dev

# DISK=iscsi: the shared disk comes from Debian's tgt; NODES=n; DEMO_ARGS="--keep" leaves the cluster running.
.PHONY: demo
demo: build ## the guide's cluster on this machine: start, mount everywhere, write from all, check
	@ci/bootstrap.sh debs $(DEBS_DEMO) $(if $(filter iscsi,$(DISK)),tgt)
	@$(VENV)/bin/lab demo $(if $(DISK),--disk $(DISK)) $(if $(NODES),--nodes $(NODES)) $(DEMO_ARGS)

.PHONY: demo-one
demo-one: build ## one node, an image: format, mount, fill, read back, unmount and check it
	@ci/bootstrap.sh debs $(DEBS_DEMO)
	@$(PY) -m rhcs_tools.demo $(DEMO_ARGS)

.PHONY: lint
lint: dev ## ruff, mypy --strict, import rules and the tidy test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q -p no:cacheprovider tests/unit/test_tidy.py tests/unit/test_imports.py

.PHONY: test
test: lint ## everything that CI runs
	@ci/bootstrap.sh debs $(DEBS_TEST)
	@echo "seed: $(SEED) (repeat with: make test SEED=$(SEED))"
	GFS2PY_SEED=$(SEED) $(VENV)/bin/pytest -q -n 2 --dist loadscope --benchmark-disable --tb=short \
	    -p no:cacheprovider --hypothesis-seed=$(SEED) --durations=15 $(PYTEST_ARGS)
	$(PY) -m bench --smoke
	$(PY) -m bench.tools --smoke
	$(PY) -m bench.locks --smoke
	$(PY) -m bench.messages --smoke
	$(PY) -m bench.cluster --smoke

.PHONY: quick
quick: dev ## the tests that need neither a mount nor a kernel nor half a minute
	GFS2PY_SEED=$(SEED) $(VENV)/bin/pytest -q --hypothesis-seed=$(SEED) \
	    -m "not mount and not interop and not kernel and not slow" $(PYTEST_ARGS)

.PHONY: asan
asan: dev ## the tests on a build with AddressSanitizer, UBSan and Cython's run-time checks
	@ci/asan.sh $(JOBS) $(SEED) $(PYTEST_ARGS)

# Of the compiled code only what meets the disk.
.PHONY: asan-hostile
asan-hostile: dev ## damaged images on the sanitised build alone
	@GFS2PY_HOSTILE_CASES=$(or $(CASES),1000) GFS2PY_ASAN_EXT="gfs2py/[!f]* gfs2py/fsck/* gfs2py/fuse/_ops gfs2py/fuse/_stat" \
	    ci/asan.sh $(JOBS) $(SEED) tests/hostile/test_hostile.py

.PHONY: bench
bench: dev ## measure against other file systems: JSON lines and a markdown table
	@ci/bootstrap.sh debs $(DEBS_BENCH)
	$(VENV)/bin/pytest -q -p no:cacheprovider bench/bench_kernels.py
	$(PY) -m bench $(BENCH_ARGS)
	$(PY) -m bench.locks

.PHONY: bench-cluster
bench-cluster: dev ## the same for one to four nodes, beside GlusterFS; BENCH_ARGS as above
	@ci/bootstrap.sh debs $(DEBS_BENCH_CLUSTER)
	$(PY) -m bench.cluster $(BENCH_ARGS)

# MINUTES=60 SEED=n; TORTURE_ARGS="--faults 'partition,pause'".
.PHONY: torture
torture: dev ## four nodes work while networks, disks, daemons and machines fail; one order must explain what all of them saw
	@ci/bootstrap.sh debs $(DEBS_TEST)
	$(PY) -m tests.histories --seed $(SEED) --minutes $(or $(MINUTES),10) $(TORTURE_ARGS)

.PHONY: install
install: build ## put mount helpers and cluster commands into /sbin, and the systemd units in their place
	@ci/install.sh "$(DESTDIR)$(SBINDIR)" $(MOUNT_HELPERS) $(CLUSTER_COMMANDS)
	@ci/install_units.sh "$(DESTDIR)$(UNITDIR)" $(UNITS)

.PHONY: clean
clean: ## remove what was built (not .venv: `make distclean` does)
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find gfs2py cman dlm lab tools bench tests ext -name __pycache__ -prune -exec rm -rf {} +
	find gfs2py dlm bench -name '*.so' -delete
	rm -f $(VENV)/.installed

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)

.PHONY: help
help:
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 10
