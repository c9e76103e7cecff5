"""What the configuration says about fencing a node."""

from __future__ import annotations

import pytest
from guide_conf import changed

from cman.ccs.load import load
from cman.fence.plan import Step, methods, unfencing

TWO_METHODS = """<fence>
  <method name="power"><device name="WTI-Fence" port="1"/><device name="UPS" port="7"/></method>
  <method name="storage"><device name="scsi" action="off"/></method>
</fence><unfence><device name="scsi"/></unfence>"""
DEVICES = """<fencedevice agent="fence_apc" ipaddr="192.168.12.252" login="a" passwd="b" name="UPS"/>
<fencedevice agent="fence_scsi" name="scsi" key="1"/></fencedevices>"""


def test_the_guides_node() -> None:
    config = load(changed())
    (method,) = methods(config, 4)
    assert method.name == "1"
    assert method.steps == (Step("WTI-Fence", "fence_wti", (
        ("ipaddr", "192.168.12.251"), ("passwd", "password"), ("port", "1"), ("nodename", "web1"))),)
    assert method.steps[0].stdin() == b"ipaddr=192.168.12.251\npasswd=password\nport=1\nnodename=web1\n"
    assert methods(config, 99) == () == unfencing(config, 99) == unfencing(config, 4)


def test_methods_in_order_and_two_power_supplies() -> None:
    config = load(changed(
        ('<fence><method name="1"><device name="WTI-Fence" port="1"/></method></fence>', TWO_METHODS),
        ("</fencedevices>", DEVICES)))
    power, storage = methods(config, 4)
    assert [(s.agent, s.action) for s in power.steps] == [
        ("fence_wti", "off"), ("fence_apc", "off"), ("fence_wti", "on"), ("fence_apc", "on")]
    assert [(s.agent, s.action) for s in storage.steps] == [("fence_scsi", "off")]
    assert [(s.agent, s.action) for s in unfencing(config, 4)] == [("fence_scsi", "on")]


def test_actions_in_the_file_are_left_as_they_are() -> None:
    both = '<device name="WTI-Fence" port="1" option="off"/><device name="WTI-Fence" port="5"/>'
    (method,) = methods(load(changed(('<device name="WTI-Fence" port="1"/>', both))), 4)
    assert [s.action for s in method.steps] == ["off", ""]


def test_a_line_break_does_not_make_two_arguments() -> None:
    config = load(changed(('passwd="password"', 'passwd="pass&#10;action=status"')))
    with pytest.raises(ValueError, match="fence device WTI-Fence: passwd has a line break"):
        methods(config, 4)[0].steps[0].stdin()
