"""ccs_tool: edit cluster.conf, and give an edited one to the whole cluster.

Usage: ccs_tool <command> [options]
  update FILE      every member gets FILE; its config_version must be greater than the cluster's
  query XPATH      ask the running configuration: ccs_tool query /cluster/clusternodes/clusternode/@name
  create [-2] [-n N] [-f FENCE] NAME  a new configuration
  addnode -n ID [-v VOTES] [-f FENCE] NODE [FENCEARG=VALUE ...]
  delnode NODE
  addfence NAME AGENT [ARG=VALUE ...]
  delfence NAME
  lsnode [-v]   lsfence [-v]
  addnodeids [-n FIRST] [-m MULTICAST] [-v]
  help          -V
Of all that read or write a file: -c FILE (default /etc/cluster/cluster.conf), -o FILE (default the same; - prints it).
An edit raises config_version by one; members get it with `ccs_tool update`.
"""

from __future__ import annotations

import getopt
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from pathlib import Path

from lxml import etree

from cman.ask import Asker
from cman.ccs import store
from cman.ccs.edit import Document, EditError, skeleton
from cman.ccs.element import document
from cman.ccs.load import load
from cman.ccs.problems import ConfigError
from cman.protocol import NOT_NEWER, CmanError

UPDATE_LIMIT_S = 60.0


class UsageError(Exception):
    """The command line cannot be understood."""


class Failed(Exception):
    """What was asked cannot be done; printed as it is."""


@dataclass(slots=True)
class Words:
    """A command line taken apart."""

    options: dict[str, str]
    operands: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return Path(self.options.get("-c", os.fspath(store.PATH)))

    @property
    def output(self) -> str:
        return self.options.get("-o", os.fspath(self.file))

    def number(self, option: str, default: int | None) -> int | None:
        text = self.options.get(option)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f"argument to {option.lstrip('-')} ({text}) is not a number")
        return int(text)

    def take(self, least: int, most: int | None, names: str) -> list[str]:
        if len(self.operands) < least or (most is not None and len(self.operands) > most):
            raise UsageError(f"wanted: {names}")
        return self.operands


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{word}: wanted NAME=VALUE")
        pairs.append((key, value))
    return pairs


def _open(words: Words) -> Document:
    return Document(store.read(words.file), os.fspath(words.file))


def _save(words: Words, edited: Document) -> None:
    edited.raise_version()
    _write(words, edited.text())


def _write(words: Words, data: bytes) -> None:
    if words.output == "-":
        sys.stdout.write(data.decode())
    else:
        store.replace(Path(words.output), data)


def update(words: Words) -> None:
    path, = words.take(1, 1, "update FILE")
    try:
        proposed = load(store.read(Path(path)), path)
        with Asker() as cman:
            current, _ = cman.configuration()
            if proposed.version <= current:
                _not_newer(current, proposed.version)
            told = cman.ask("config-update", limit_s=UPDATE_LIMIT_S, data=proposed.source)
    except ConfigError as e:
        raise Failed(f"{e}\nFailed to update config file.") from None
    except CmanError as e:
        if e.code == NOT_NEWER:
            _not_newer(int(str(e).rpartition(" ")[2]), proposed.version)
        raise Failed(f"{e}\nFailed to update config file.") from None
    print(f"Config file updated from version {told['old']} to {told['new']}\n")
    if told["failed"]:
        raise Failed("\n".join([*(f"{name}: runs it but cannot store it: {why}" for name, why in told["failed"]),
                                "Failed to update config file."]))
    print("Update complete.")


def _not_newer(current: int, proposed: int) -> None:
    raise Failed("Proposed updated config file does not have greater version number.\n"
                 f"  Current config_version :: {current}\n  Proposed config_version:: {proposed}\n"
                 "Failed to update config file.")


def query(words: Words) -> None:
    path, = words.take(1, 1, "query XPATH")
    with Asker() as cman:
        _, text = cman.configuration()
    try:
        found = document(text, "the running configuration").xpath(path)
    except etree.XPathError as e:
        raise Failed(f"{path}: {e}") from None
    results = found if isinstance(found, list) else [found]
    if not results:
        raise Failed(f"{path}: nothing found")
    for one in results:
        if isinstance(one, etree._Element):
            print(etree.tostring(one, encoding="unicode", with_tail=False))
        else:
            print(one if not isinstance(one, float) else f"{one:g}")


def create(words: Words) -> None:
    name, = words.take(1, 1, "create [-2] [-n N] [-f FENCE] NAME")
    count, two = words.number("-n", 2 if "-2" in words.options else 0), "-2" in words.options
    assert count is not None
    if two and count != 2:
        raise UsageError("a 2-node cluster has 2 nodes")
    if Path(words.output).exists() and words.output != "-":
        raise Failed(f"{words.output} exists already")
    _write(words, skeleton(name, two, [f"node{i}" for i in range(1, count + 1)], words.options.get("-f")))


def addnode(words: Words) -> None:
    name, *rest = words.take(1, None, "addnode -n ID [-v VOTES] [-f FENCE] NODE [FENCEARG=VALUE ...]")
    nodeid, votes = words.number("-n", None), words.number("-v", 1)
    if nodeid is None:
        raise UsageError("addnode needs -n ID")
    assert votes is not None
    edited = _open(words)
    edited.add_node(name, nodeid, votes, words.options.get("-f"), _pairs(rest))
    _save(words, edited)


def delnode(words: Words) -> None:
    name, = words.take(1, 1, "delnode NODE")
    edited = _open(words)
    edited.delete_node(name)
    _save(words, edited)


def addfence(words: Words) -> None:
    name, agent, *rest = words.take(2, None, "addfence NAME AGENT [ARG=VALUE ...]")
    edited = _open(words)
    edited.add_fence(name, agent, _pairs(rest))
    _save(words, edited)


def delfence(words: Words) -> None:
    name, = words.take(1, 1, "delfence NAME")
    edited = _open(words)
    users = edited.delete_fence(name)
    _save(words, edited)
    if users:
        print(f"ccs_tool: {name} is still used by {', '.join(users)}: this file cannot be used until that is changed",
              file=sys.stderr)


def addnodeids(words: Words) -> None:
    words.take(0, 0, "addnodeids [-n FIRST] [-m MULTICAST] [-v]")
    first = words.number("-n", 1)
    assert first is not None
    edited = _open(words)
    given = edited.add_node_ids(first)
    if (address := words.options.get("-m")) is not None:
        try:
            if not ipaddress.ip_address(address).is_multicast:
                raise ValueError
        except ValueError:
            raise UsageError(f"{address} is no multicast address") from None
        edited.set_multicast(address)
    if "-v" in words.options:
        for name, nodeid in given:
            print(f"Node {name} now has nodeid {nodeid}")
    _save(words, edited)


def lsnode(words: Words) -> None:
    words.take(0, 0, "lsnode [-v]")
    config = store.load_file(words.file)
    if "--json" in words.options:
        print(json.dumps([{"name": n.name, "votes": n.votes, "nodeid": n.nodeid, "fence": list(n.fence_names)}
                          for n in config.nodes]))
        return
    print(f"\nCluster name: {config.name}, config_version: {config.version}\n")
    print(f"{'Nodename':<32}Votes Nodeid Fencetype")
    for node in config.nodes:
        print(f"{node.name:<32} {node.votes:3}  {node.nodeid:3}    {' '.join(node.fence_names)}".rstrip())
        if "-v" in words.options:
            rest = [f"{k}={v}" for k, v in node.element.attributes.items() if k not in ("name", "votes", "nodeid")]
            for device in node.element.all("fence/method/device"):
                rest += [f"{k}={v}" for k, v in device.attributes.items() if k != "name"]
            if rest:
                print(f"  Properties: {' '.join(rest)}")


def lsfence(words: Words) -> None:
    words.take(0, 0, "lsfence [-v]")
    config = store.load_file(words.file)
    devices = list(config.root.all("fencedevices/fencedevice"))
    if "--json" in words.options:
        print(json.dumps([dict(d.attributes) for d in devices]))
        return
    print(f"{'Name':<17}Agent")
    for device in devices:
        print(f"{device.attributes['name']:<16} {device.attributes['agent']}")
        rest = [f"{k}={v}" for k, v in device.attributes.items() if k not in ("name", "agent")]
        if "-v" in words.options and rest:
            print(f"  Properties: {' '.join(rest)}")


def show_help(_: Words) -> None:
    print(__doc__.partition("\n\n")[2], end="")


# command -> what does it, and its options beside -c and -o
COMMANDS: dict[str, tuple[Callable[[Words], None], str, list[str]]] = {
    "update": (update, "", []), "query": (query, "", []), "create": (create, "2n:f:", []),
    "addnode": (addnode, "n:v:f:", []), "delnode": (delnode, "", []), "addfence": (addfence, "", []),
    "delfence": (delfence, "", []), "addnodeids": (addnodeids, "n:m:v", []),
    "lsnode": (lsnode, "v", ["json"]), "lsfence": (lsfence, "v", ["json"]), "help": (show_help, "", [])}
_LONG = {"--configfile": "-c", "--outputfile": "-o", "--verbose": "-v", "--nodeid": "-n", "--votes": "-v",
         "--fence_type": "-f", "--multicast": "-m", "--help": "-h"}


def parse(argv: Sequence[str]) -> tuple[Callable[[Words], None], Words]:
    """Raises UsageError."""
    if not argv or argv[0] in ("-h", "--help"):
        return show_help, Words({})
    if argv[0] == "-V":
        print(f"ccs_tool {version_of('gfs2py')}")
        return (lambda _: None), Words({})
    if argv[0] not in COMMANDS:
        raise UsageError(f"unknown command {argv[0]!r}")
    function, options, long = COMMANDS[argv[0]]
    names = [name.lstrip("-") + ("=" if f"{letter[1]}:" in options + "c:o:" else "")
             for name, letter in _LONG.items() if letter[1] in options + "coh"]
    try:
        found, operands = getopt.gnu_getopt(list(argv[1:]), options + "hc:o:", [*names, *long])
    except getopt.GetoptError as e:
        raise UsageError(str(e)) from None
    words = Words({_LONG.get(name, name): value for name, value in found}, operands)
    return (show_help if "-h" in words.options else function), words


def main(argv: Sequence[str] | None = None) -> int:
    try:
        function, words = parse(sys.argv[1:] if argv is None else argv)
        function(words)
    except UsageError as e:
        print(f"ccs_tool: {e} (ccs_tool help tells what can be asked)", file=sys.stderr)
        return 1
    except Failed as e:
        print(e, file=sys.stderr)
        return 1
    except (ConfigError, EditError, CmanError) as e:
        print(f"ccs_tool: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"ccs_tool: {e.filename or ''}{': ' if e.filename else ''}{e.strerror or e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
