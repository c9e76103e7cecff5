"""lab: a whole cluster on this machine: the guide's nodes, their network, the shared disk, the power switch.

    lab up [--nodes N] [--disk loop|iscsi] [--size SIZE] [--file ROOM.toml] [--start]
    lab status | exec NODE -- COMMAND | shell NODE | logs [NODE] | power on|off|cycle|crash|status NODE...
    lab partition GROUP [GROUP...] | heal | loss PERCENT | delay MS | freeze NODE | thaw NODE
    lab disk cut|hang|restore NODE
    lab demo [--nodes N] [--disk loop|iscsi] [--keep]
    lab down

A group is a list of machines: web1,web2. Exit status: 0, 1 when something failed, 2 for a wrong command line; `exec`
ends as its command does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.client import Lab
from lab.errors import LabError
from lab.etc import FENCE_DEVICE
from lab.place import DEFAULT_NAME, Place, rooms
from lab.topology import SWITCH_ADDRESS, Topology, from_toml, guide_topology

EX_FAILED, EX_USAGE = 1, 2


def say(text: str) -> None:
    print(text, flush=True)


def _group(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description=(__doc__ or "").splitlines()[0],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=os.environ.get("LAB_NAME", DEFAULT_NAME),
                        help="which room, where there are several (default: LAB_NAME or %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_text, description=help_text)

    up = add("up", "build the room and boot its machines")
    up.add_argument("--nodes", type=int, default=4, help="cluster nodes (default 4)")
    up.add_argument("--disk", choices=("loop", "iscsi"), default="loop", help="how the shared disk gets to the nodes")
    up.add_argument("--size", default="2G", help="size of /dev/sdb5 (default 2G)")
    up.add_argument("--cluster", default="mycluster", help="name of the cluster")
    up.add_argument("--qdisk-votes", type=int, default=0, metavar="N", help="put a quorum disk into cluster.conf")
    up.add_argument("--file", metavar="TOML", help="the whole room from a file instead")
    up.add_argument("--start", action="store_true", help="start the cluster on all nodes as well")
    demo = add("demo", "build a room, start the cluster, mount on every node, write from all, check the disk, tidy up")
    demo.add_argument("--nodes", type=int, default=4, help="cluster nodes (default 4)")
    demo.add_argument("--disk", choices=("loop", "iscsi"), default="loop", help="how the shared disk gets to the nodes")
    demo.add_argument("--size", default="2G", help="size of /dev/sdb5 (default 2G)")
    demo.add_argument("--seconds", type=float, default=1.5, help="for each figure of the table (default %(default)s)")
    demo.add_argument("--keep", action="store_true", help="leave the cluster running afterwards, for `lab shell`")
    down = add("down", "take the room away, whatever state it is in")
    down.add_argument("--all", action="store_true", help="every room of this machine")
    down.add_argument("--keep-disks", action="store_true", help="leave the images for the next `lab up`")
    status = add("status", "machines, their power, and what is wrong with the network")
    status.add_argument("--json", action="store_true", help="for programs")
    add("start", "service cman start on all nodes")
    execute = add("exec", "run a command on a node")
    execute.add_argument("node")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    shell = add("shell", "a shell on a node")
    shell.add_argument("node")
    logs = add("logs", "the room's log, or a node's")
    logs.add_argument("node", nargs="?")
    logs.add_argument("-f", dest="follow", action="store_true", help="go on")
    power = add("power", "the power of machines; off and crash kill everything at once")
    power.add_argument("action", choices=("on", "off", "cycle", "crash", "status"))
    power.add_argument("nodes", nargs="*", metavar="NODE")
    partition = add("partition", "cut the network between groups; one group alone: from the other nodes")
    partition.add_argument("groups", nargs="+", type=_group, metavar="GROUP")
    partition.add_argument("--one-way", action="store_true", help="only from earlier groups to later ones")
    partition.add_argument("--everything", action="store_true", help="one group: from storage and power switch too")
    heal = add("heal", "mend the network, between groups or all of it")
    heal.add_argument("groups", nargs="*", type=_group, metavar="GROUP")
    for name, what in (("loss", "PERCENT"), ("delay", "MILLISECONDS")):
        fault = add(name, f"{name} of packets between groups, or everywhere; 0 ends it")
        fault.add_argument("value", type=float, metavar=what)
        fault.add_argument("groups", nargs="*", type=_group, metavar="GROUP")
        fault.add_argument("--one-way", action="store_true")
    for name, help_text in (("freeze", "stop every process of a node where it stands"), ("thaw", "let it go on")):
        add(name, help_text).add_argument("nodes", nargs="+", metavar="NODE")
    disk = add("disk", "pull a node's cable to the shared disk, or let its disk hang, or mend both")
    disk.add_argument("action", choices=("cut", "hang", "restore"))
    disk.add_argument("nodes", nargs="+", metavar="NODE")
    return parser


def _topology(args: argparse.Namespace) -> Topology:
    if args.file:
        try:
            text = Path(args.file).read_text()
        except OSError as e:
            raise LabError(f"{args.file}: {e.strerror}") from None
        return from_toml(text, args.file)
    return guide_topology(args.nodes, disk=args.disk, size=args.size, cluster=args.cluster,
                          qdisk_votes=args.qdisk_votes)


def do_up(args: argparse.Namespace) -> int:
    start = time.monotonic()
    room = Lab(_topology(args), name=args.name, progress=lambda text: say(f"lab: {text}"))
    room.up(attached=False)
    topology = room.topology
    say(f"\nCluster {topology.cluster} is ready to be started, {time.monotonic() - start:.1f} s:")
    for node in topology.machines:
        role = f"node {node.nodeid}, plug {node.plug}" if node.nodeid else "storage host"
        say(f"  {node.name:<16} {node.address:<16} {role}")
    say(f"  {'power switch':<16} {SWITCH_ADDRESS:<16} telnet, password {topology.switch_password}: {FENCE_DEVICE}")
    disks = ", ".join(f"/dev/{d.name} {d.size_bytes >> 20} MiB" for d in topology.disks)
    say(f"  shared disk      {disks} ({topology.disk_kind})")
    _go_on(args.name, topology)
    return do_start(args) if args.start else 0


def _go_on(name: str, topology: Topology) -> None:
    prefix = "lab" if name == DEFAULT_NAME else f"lab --name {name}"
    first = topology.nodes[0].name
    say(f"\nGo on with:\n  {prefix} shell {first}\n  {prefix} exec {first} -- COMMAND\n  {prefix} status\n"
        f"  {prefix} power off {topology.nodes[-1].name}\n  {prefix} down")


def do_down(args: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise LabError("only root can take a machine room away")
    places = rooms() if args.all else [Place(args.name)]
    found = [p for p in places if args.all or p.exists()]
    if not found:
        say(f"lab: there is no room {args.name}")
    for place in found:
        Lab(name=place.name).down(keep_disks=args.keep_disks)
        say(f"lab: room {place.name} is gone" + (f"; its disks are in {place.disks}" if args.keep_disks else ""))
    return 0


def do_demo(args: argparse.Namespace) -> int:
    from lab import demo

    demo.run(guide_topology(args.nodes, disk=args.disk, size=args.size), name=args.name, keep=args.keep,
             seconds=args.seconds, say=say)
    if args.keep:
        _go_on(args.name, Lab.existing(args.name).topology)
    return 0


def do_status(args: argparse.Namespace) -> int:
    status = Lab.existing(args.name).status()
    if args.json:
        say(json.dumps(status, indent=2))
        return 0
    say(f"room {status['name']}, cluster {status['cluster']}, disk {status['disk']}")
    for machine in status["machines"]:
        cut = "  disk cut" if machine["name"] in status["disk_cut"] else ""
        say(f"  {machine['name']:<16} {machine['address']:<16} power {machine['power']:<4} {machine['state']}{cut}")
    faults = status["faults"]
    for source, target in faults["cut"]:
        say(f"  no packets from {source} to {target}")
    for what, unit in (("loss", "percent"), ("delay", "ms")):
        for source, target, value in faults[f"{what}_{unit}"]:
            say(f"  {what} {value:g} {unit} from {source} to {target}")
    return 0


def do_start(args: argparse.Namespace) -> int:
    for name, result in Lab.existing(args.name).start_cluster().items():
        for line in result.stdout.splitlines():
            say(f"{name}: {line}")
    return 0


def _replace(command: list[str]) -> int:
    """Become that command."""
    sys.stdout.flush()
    os.execv(command[0], command)


def do_exec(args: argparse.Namespace) -> int:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise LabError("which command? lab exec NODE -- COMMAND")
    return _replace(Lab.existing(args.name).command(args.node, argv))


def do_shell(args: argparse.Namespace) -> int:
    return _replace(Lab.existing(args.name).command(args.node, ["bash", "-l"], tty=True))


def do_logs(args: argparse.Namespace) -> int:
    place = Place(args.name)
    if args.node:
        home = place.node(args.node)
        files = [home / "console.log", *sorted((home / "var/log").glob("*.log")), home / "var/log/messages"]
    else:
        files = [place.path / "room.log"]
    there = [str(f) for f in files if f.exists()]
    if not there:
        raise LabError(f"room {args.name} has no log" + (f" of {args.node}" if args.node else ""))
    return _replace(["/usr/bin/tail", "-q" if len(there) == 1 else "-v", "-n", "+1", *(["-F"] if args.follow else []),
                     *there])


def do_power(args: argparse.Namespace) -> int:
    room = Lab.existing(args.name)
    if args.action == "status":
        for machine in room.status()["machines"]:
            if not args.nodes or machine["name"] in args.nodes:
                say(f"{machine['name']}: power {machine['power']}, {machine['state']}")
        return 0
    if not args.nodes:
        raise LabError(f"power {args.action} of which node?")
    for node in args.nodes:
        room.power(args.action, node)
        say(f"{node}: power {args.action}")
    return 0


def do_network(args: argparse.Namespace) -> int:
    room = Lab.existing(args.name)
    if args.command == "partition":
        room.partition(*args.groups, one_way=args.one_way, everything=args.everything)
    elif args.command == "heal":
        room.heal(*args.groups)
    elif args.command == "loss":
        room.loss(args.value, *args.groups, one_way=args.one_way)
    else:
        room.delay(args.value, *args.groups, one_way=args.one_way)
    return 0


def do_node(args: argparse.Namespace) -> int:
    room = Lab.existing(args.name)
    for node in args.nodes:
        if args.command == "freeze":
            room.freeze(node)
        elif args.command == "thaw":
            room.thaw(node)
        elif args.action == "hang":
            room.hang_disk(node)
        else:
            room.disk(node, cut=args.action == "cut")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "up": do_up, "demo": do_demo, "down": do_down, "status": do_status, "start": do_start, "exec": do_exec,
    "shell": do_shell, "logs": do_logs, "power": do_power, "partition": do_network, "heal": do_network,
    "loss": do_network, "delay": do_network, "freeze": do_node, "thaw": do_node, "disk": do_node}


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except LabError as e:
        print(f"lab: {e}", file=sys.stderr)
        return EX_FAILED
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return EX_FAILED


if __name__ == "__main__":
    sys.exit(main())
