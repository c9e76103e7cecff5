"""THE table of cluster.conf: every element and attribute with its type, default, limits and meaning.

Reading, checking, defaults and docs/cluster.conf.md are all made from it. Names and meanings are those of RHEL 5 and
6 (source: the suite's cluster.rng and its manual pages, as behaviour); what is marked `idle` is accepted so that such
files load, and does nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How an attribute's text is read."""

    TEXT = "text"
    NAME = "name"               # letters, digits, - _ . :
    NUMBER = "number"
    SECONDS = "seconds"         # a number that may have up to three decimals
    FLAG = "flag"               # 1 0 yes no on off true false
    CHOICE = "choice"
    ADDRESS = "address"         # IPv4 or IPv6
    ANY = "any"                 # of a setting that does nothing here


@dataclass(frozen=True, slots=True)
class Setting:
    """One attribute. `default` None: none, the program decides; low and high bound a number or a text's length."""

    name: str
    kind: Kind
    default: str | None
    meaning: str
    low: int = 0
    high: int = 255
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One element, by the path of tags from the root. `open`: further attributes belong to an agent; `free`: what
    is below it is checked by whom it belongs to (resource agents)."""

    path: str
    meaning: str
    settings: tuple[Setting, ...] = ()
    many: bool = False
    open: bool = False
    free: bool = False
    idle: bool = False

    @property
    def tag(self) -> str:
        return self.path.rpartition("/")[2]


NODES_MAX = 64
NODE_ID_MAX = 4096
VOTES_MAX = 255
VERSION_MAX = 2**31 - 1
CLUSTER_NAME_MAX = 32           # what a GFS2 lock table has room for
ATTRIBUTE_MAX = 4096
SECONDS_MIN = 0.05


def _number(name: str, default: int | None, low: int, high: int, meaning: str, required: bool = False) -> Setting:
    return Setting(name, Kind.NUMBER, None if default is None else str(default), meaning, low, high, required=required)


def _flag(name: str, default: bool, meaning: str) -> Setting:
    return Setting(name, Kind.FLAG, "1" if default else "0", meaning)


def _text(name: str, meaning: str, required: bool = False, high: int = 255, default: str | None = None) -> Setting:
    return Setting(name, Kind.TEXT, default, meaning, 1, high, required=required)


def _name(name: str, meaning: str, required: bool = True, high: int = 255) -> Setting:
    return Setting(name, Kind.NAME, None, meaning, 1, high, required=required)


def _address(name: str, meaning: str) -> Setting:
    return Setting(name, Kind.ADDRESS, None, meaning)


def _choice(name: str, default: str | None, choices: str, meaning: str) -> Setting:
    return Setting(name, Kind.CHOICE, default, meaning, choices=tuple(choices.split()))


def _idle(names: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, Kind.ANY, None, "accepted, does nothing here", 0, ATTRIBUTE_MAX)
                 for name in names.split())


_MULTICAST = (
    _address("addr", "Address that the members send to; default 239.192.x.y from the cluster's id."),
    _number("ttl", 1, 1, 255, "How many routers a packet may cross."),
    _number("port", None, 1, 65535, "UDP port; default that of `cman`."))

_LOGGING = (
    _flag("debug", False, "Log what is only of use to developers."),
    *_idle("to_syslog to_logfile syslog_facility syslog_priority logfile_priority logfile"))

_DEVICE = (_name("name", "A fence device of `fencedevices`."),)

_PLOCKS = "plock_debug plock_rate_limit plock_ownership drop_resources_time drop_resources_count drop_resources_age"

SECTIONS: tuple[Section, ...] = (
    Section("cluster", "The cluster.", (
        _name("name", "Its name; the lock tables of its file systems begin with it.", high=CLUSTER_NAME_MAX),
        _number("config_version", None, 1, VERSION_MAX,
                "Version of this file. An update must have a greater one.", required=True),
        *_idle("alias"))),
    Section("cluster/cman", "Membership and quorum.", (
        _flag("two_node", False, "Two nodes with one vote each: either is quorate alone, fencing decides."),
        _number("expected_votes", None, 1, NODES_MAX * VOTES_MAX,
                "Votes when all are there; default the sum over nodes and quorum disk."),
        _number("cluster_id", None, 1, 65535, "Default: computed from the cluster's name."),
        _number("port", 5405, 1024, 65535, "UDP port of the membership protocol."),
        _choice("transport", "udp", "udp udpu", "udp: multicast; udpu: a copy to each member, for networks without."),
        _text("keyfile", "File with the cluster's key.", high=1024, default="/etc/cluster/cluster.key"),
        _number("quorum_dev_poll", 10000, 100, 3_600_000,
                "Milliseconds that a word of the quorum disk's master holds, at most interval*tko of `quorumd`: after "
                "them its votes are gone, and another node may become master."),
        _number("shutdown_timeout", 5000, 100, 600_000, "Milliseconds that subsystems have to agree to a leave."),
        *_idle("upgrading disallowed ccsd_poll debug_mask hash_cluster_id nodename broadcast disable_openais"))),
    Section("cluster/cman/multicast", "Where members meet.", _MULTICAST),
    Section("cluster/cman/altmulticast", "A second ring, which this version does not form.", _MULTICAST, idle=True),
    Section("cluster/uidgid", "Access of users to a corosync.", _idle("uid gid"), many=True, idle=True),
    Section("cluster/totem", "The membership protocol.", (
        _number("token", 550, 100, 300_000, "Milliseconds without the token until it counts as lost."),
        _number("consensus", 500, 30, 300_000, "Milliseconds that a node has to agree to a new ring before it is out."),
        _number("join", None, 5, 60_000, "Milliseconds between join messages; default 60, or a fifth of consensus."),
        _number("token_retransmits_before_loss_const", 6, 1, 100, "How often a token is sent again before it is lost."),
        _number("merge", 400, 10, 60_000, "Milliseconds between two calls of a ring to nodes outside it."),
        _number("hold", None, 1, 60_000, "Milliseconds that an idle token rests; default 150, or a third of token."),
        _number("pause", 120, 10, 60_000, "Milliseconds late at which a timer shows that this machine was held up."),
        _number("fail_recv_const", 2000, 10, 1_000_000, "Rotations without progress until a node takes itself out."),
        _number("netmtu", 1500, 576, 9000, "Largest packet of the network, all headers included."),
        _number("window_size", 64, 1, 512, "Packets that may be under way in one rotation."),
        _number("max_messages", 20, 1, 512, "Packets that one node may send in one rotation."),
        _choice("secauth", "on", "on off yes no 1 0",
                "Authenticate and encrypt every packet with the cluster's key."),
        _text("keyfile", "The same as `keyfile` of `cman`.", high=1024),
        *_idle("rrp_mode rrp_problem_count_threshold seqno_unchanged_const miss_count_const"))),
    Section("cluster/totem/interface", "The network of a ring.", (
        _address("bindnetaddr", "Network or own address; default: the address of this node's name."),
        *_idle("ringnumber mcastaddr mcastport broadcast")), many=True),
    Section("cluster/quorumd", "The quorum disk.", (
        Setting("interval", Kind.SECONDS, "1", "Seconds between two cycles of reading and writing, such as 1 or 0.2.",
                0, 3600),
        _number("tko", 10, 2, 1000, "Cycles that a node may miss before it is declared dead."),
        _number("tko_up", None, 1, 1000, "Cycles until a node counts as back; default tko/3, at least 2."),
        _number("upgrade_wait", 2, 1, 1000, "Cycles before a bid to be master."),
        _number("master_wait", None, 1, 1000,
                "Cycles to wait for votes for a bid; default tko/2, always more than tko_up."),
        _number("votes", None, 0, VOTES_MAX, "Votes of the disk; default one less than there are nodes."),
        _number("min_score", None, 0, 10_000, "Least score to stay; default (sum of scores + 1)/2."),
        _text("label", "Label that mkqdisk gave; wins over `device`."),
        _text("device", "The device.", high=1024),
        _text("cman_label", "The disk's name in lists of nodes.", high=64),
        _text("status_file", "File for a human-readable state, written anew in each cycle.", high=1024),
        _flag("allow_kill", True, "Let the cluster evict nodes that do not write."),
        _flag("reboot", True, "Reboot when the score falls too low; otherwise only the disk's votes are given up."),
        _flag("paranoid", False, "Reboot when a cycle takes longer than interval*tko."),
        _flag("master_wins", False,
              "With two nodes: the master survives. Always so here: only the master's side has the votes."),
        _flag("stop_cman", False, "Leave the cluster when the disk is not found at start."),
        _number("max_error_cycles", 0, 0, 100_000, "End cman after this many cycles with errors; 0: never."),
        _flag("io_timeout", False, "End cman when a read or write takes longer than interval*tko."),
        *_idle("scheduler priority use_uptime log_level log_facility"))),
    Section("cluster/quorumd/heuristic", "A program whose success is worth points.", (
        _text("program", "Run by `sh -c`; exit status 0 is success.", required=True, high=ATTRIBUTE_MAX),
        _number("score", 1, 1, 1000, "Points."),
        _number("interval", 2, 1, 3600, "Seconds between two runs."),
        _number("tko", 1, 1, 1000, "Failures in a row that count.")), many=True),
    Section("cluster/fence_daemon", "Fencing.", (
        _number("post_join_delay", 6, 0, 3600, "Seconds that nodes have to appear before they are fenced at start."),
        _number("post_fail_delay", 0, 0, 3600, "Seconds between a failure and fencing."),
        _text("override_path", "FIFO for a human's word that a node is down.", high=1024,
              default="/var/run/cluster/fenced_override"),
        _number("override_time", 3, 0, 3600, "Seconds to wait for that word after an agent has failed."),
        _flag("clean_start", False, "Do not fence nodes that were never seen. Unsafe."),
        _flag("skip_undefined", False, "Do not fence nodes without a fence method at start. Unsafe."))),
    Section("cluster/fence_xvmd", "Fencing of virtual machines.", open=True, idle=True),
    Section("cluster/dlm", "The lock manager.", (
        _flag("log_debug", False, "Log every message."),
        _choice("protocol", "tcp", "tcp", "Transport between lock managers."),
        _flag("enable_quorum", False, "Lockspaces wait for quorum."),
        _flag("enable_plock", True, "Carry fcntl locks."),
        _number("plock_rate_limit", 0, 0, 1_000_000, "fcntl locks per second; 0: no limit."),
        *_idle("enable_deadlk enable_fencing timewarn plock_debug plock_ownership"),
        *_idle("drop_resources_time drop_resources_count drop_resources_age"))),
    Section("cluster/dlm/lockspace", "One lockspace.", (
        _name("name", "Its name."), _flag("nodir", False, "No directory: masters by weight.")), many=True),
    Section("cluster/dlm/lockspace/master", "A node that masters locks.", (
        _name("name", "A node."), _number("weight", 1, 0, 1000, "Its share.")), many=True),
    Section("cluster/gfs_controld", "The file system's daemon of RHEL.",
            _idle(f"enable_withdraw enable_plock {_PLOCKS}"), idle=True),
    Section("cluster/group", "The group daemon of RHEL.", _idle("groupd_compat"), idle=True),
    Section("cluster/logging", "Logs go to the journal, or where `service` sends them.", _LOGGING),
    Section("cluster/logging/logging_daemon", "Of one daemon.", (
        _name("name", "The daemon."), *_idle("subsys"), *_LOGGING), many=True),
    Section("cluster/clusternodes", "The nodes."),
    Section("cluster/clusternodes/clusternode", "One node.", (
        _name("name", "Host name or address; it must resolve to an address of the cluster's network."),
        _number("nodeid", None, 1, NODE_ID_MAX, "Its number, unique.", required=True),
        _number("votes", 1, 0, VOTES_MAX, "Its votes."),
        _number("weight", 1, 0, 1000, "Its share of lock masters."),
        *_idle("ccs_version")), many=True),
    Section("cluster/clusternodes/clusternode/multicast", "RHEL 5's place for the address.",
            (*_idle("interface"), _address("addr", "Ignored: see `cman`.")), idle=True),
    Section("cluster/clusternodes/clusternode/altname", "A second address, which this version does not use.", (
        _name("name", "Its name."), *_idle("port mcast ttl")), idle=True),
    Section("cluster/clusternodes/clusternode/fence", "How the node is fenced: methods in order until one succeeds."),
    Section("cluster/clusternodes/clusternode/fence/method", "Devices that must all succeed.",
            (_name("name", "Its name."),), many=True),
    Section("cluster/clusternodes/clusternode/fence/method/device", "A fence device and this node's place on it.",
            _DEVICE, many=True, open=True),
    Section("cluster/clusternodes/clusternode/unfence", "What is done before the node joins."),
    Section("cluster/clusternodes/clusternode/unfence/device", "A fence device and this node's place on it.",
            _DEVICE, many=True, open=True),
    Section("cluster/fencedevices", "The fence devices."),
    Section("cluster/fencedevices/fencedevice", "One device; further attributes are its agent's.", (
        _name("name", "Its name, unique."), _name("agent", "Program: fence_wti, fence_scsi, ...")),
        many=True, open=True),
    Section("cluster/rm", "Services.", (
        _number("log_level", 6, 0, 7, "Least urgent messages to log."),
        _number("status_child_max", 5, 1, 1000, "Checks at a time."),
        _number("status_poll_interval", 10, 1, 3600, "Seconds between looks for checks that are due."),
        _number("transition_throttling", 5, 0, 3600, "Seconds that transitions are collected."),
        _flag("central_processing", False, "One node decides."),
        _flag("disabled", False, "No services at all."),
        *_idle("log_facility"))),
    Section("cluster/rm/failoverdomains", "Where services may run."),
    Section("cluster/rm/failoverdomains/failoverdomain", "One domain.", (
        _name("name", "Its name."), _flag("ordered", False, "Priorities count."),
        _flag("restricted", False, "Only on these nodes."),
        _flag("nofailback", False, "A service stays when a better node appears.")), many=True),
    Section("cluster/rm/failoverdomains/failoverdomain/failoverdomainnode", "A node of it.", (
        _name("name", "A node."), _number("priority", 1, 0, 1000, "1 is the best.")), many=True),
    Section("cluster/rm/events", "Scripts for events.", idle=True, open=True, free=True),
    Section("cluster/rm/resources", "Resources that services refer to.", free=True),
    Section("cluster/rm/resource-defaults", "Defaults of resource agents.", free=True),
    Section("cluster/rm/service", "A service and its tree of resources.", (_name("name", "Its name."),),
            many=True, open=True, free=True),
    Section("cluster/rm/vm", "A virtual machine as a service.", (_name("name", "Its name."),),
            many=True, open=True, free=True),
    Section("cluster/clvmd", "Cluster LVM.", _idle("interface"), idle=True),
)


def default(path: str, name: str) -> str | None:
    """What the table says when the file says nothing. Raises KeyError for what is not in the table."""
    for section in SECTIONS:
        if section.path == path:
            for setting in section.settings:
                if setting.name == name:
                    return setting.default
    raise KeyError(f"{path}: {name}")


def markdown() -> str:
    """The table for people: docs/cluster.conf.md."""
    lines = ["# cluster.conf", "",
             "Made from `cman/ccs/settings.py` by `python -m cman.ccs.settings`; do not edit. The file is",
             "`/etc/cluster/cluster.conf`, XML as in RHEL 5 and 6. Unknown elements and attributes are errors.", ""]
    for section in SECTIONS:
        notes = [word for word, on in (("any number of them", section.many),
                                       ("further attributes allowed", section.open),
                                       ("contents checked by their owner", section.free),
                                       ("does nothing here", section.idle)) if on]
        lines += [f"## {section.path.replace('/', ' / ')}", "",
                  section.meaning + (f" ({', '.join(notes)})" if notes else ""), ""]
        rows = [s for s in section.settings if s.kind is not Kind.ANY]
        if rows:
            lines += ["| attribute | type | default | meaning |", "| --- | --- | --- | --- |"]
            lines += [f"| {s.name}{' (required)' if s.required else ''} | {_kind(s)} | {s.default or ''} | "
                      f"{s.meaning} |" for s in rows]
            lines.append("")
        if idle := [s.name for s in section.settings if s.kind is Kind.ANY]:
            lines += [f"Accepted without effect: {', '.join(idle)}.", ""]
    return "\n".join(lines)


def _kind(setting: Setting) -> str:
    if setting.kind is Kind.NUMBER:
        return f"{setting.low} to {setting.high}"
    if setting.kind is Kind.SECONDS:
        return f"{SECONDS_MIN} to {setting.high}"
    return " or ".join(setting.choices) if setting.kind is Kind.CHOICE else setting.kind.value


if __name__ == "__main__":
    print(markdown(), end="")
