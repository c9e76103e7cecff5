"""What <quorumd> says, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cman.ccs.load import Config
from cman.ccs.settings import default
from cman.qdisk.heuristics import Heuristic
from cman.qdisk.machine import QdiskConfig


@dataclass(frozen=True, slots=True)
class QdiskSettings:
    """Of one node's part in the quorum disk. An empty label: by the device's name."""

    label: str
    device: str
    machine: QdiskConfig
    heuristics: tuple[Heuristic, ...] = ()
    status_file: str = ""
    paranoid: bool = False
    stop_cman: bool = False
    io_timeout: bool = False

    @property
    def interval_s(self) -> float:
        return self.machine.interval_ms / 1000

    @property
    def limit_s(self) -> float:
        """interval * tko."""
        return self.interval_s * self.machine.tko


def settings_of(config: Config) -> QdiskSettings | None:
    """None without a quorum disk."""
    disk = config.root.first("quorumd")
    if disk is None:
        return None

    def number(attribute: str) -> int:
        return config.number("quorumd", attribute) or 0

    def flag(attribute: str) -> bool:
        return config.flag("quorumd", attribute)

    def of(attributes: Mapping[str, str]) -> Heuristic:
        def whole(name: str) -> int:
            return int(attributes.get(name) or default("cluster/quorumd/heuristic", name) or 1)

        return Heuristic(attributes["program"], whole("score"), whole("interval"), whole("tko"))

    machine = QdiskConfig(config.milliseconds("quorumd", "interval"), number("tko"), number("tko_up"),
                          number("upgrade_wait"), number("master_wait"), number("min_score"), flag("allow_kill"),
                          flag("reboot"), number("max_error_cycles"), config.number("cman", "quorum_dev_poll") or 1)
    return QdiskSettings(config.text("quorumd", "label") or "", config.text("quorumd", "device") or "", machine,
                         tuple(of(h.attributes) for h in disk.all("heuristic")),
                         config.text("quorumd", "status_file") or "", flag("paranoid"), flag("stop_cman"),
                         flag("io_timeout"))
