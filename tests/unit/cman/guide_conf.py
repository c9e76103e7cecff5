"""The cluster of the guide as a configuration, and changes to it."""

GUIDE = """<?xml version="1.0"?>
<cluster alias="mycluster" config_version="35" name="mycluster">
  <fence_daemon clean_start="0" post_fail_delay="0" post_join_delay="3"/>
  <clusternodes>
    <clusternode name="web2" nodeid="1" votes="1">
      <fence><method name="1"><device name="WTI-Fence" port="2"/></method></fence>
    </clusternode>
    <clusternode name="Mysql1" nodeid="2" votes="1">
      <fence><method name="1"><device name="WTI-Fence" port="3"/></method></fence>
    </clusternode>
    <clusternode name="Mysql2" nodeid="3" votes="1">
      <fence><method name="1"><device name="WTI-Fence" port="4"/></method></fence>
    </clusternode>
    <clusternode name="web1" nodeid="4" votes="1">
      <fence><method name="1"><device name="WTI-Fence" port="1"/></method></fence>
    </clusternode>
  </clusternodes>
  <cman expected_votes="6"/>
  <fencedevices>
    <fencedevice agent="fence_wti" ipaddr="192.168.12.251" name="WTI-Fence" passwd="password"/>
  </fencedevices>
  <rm>
    <failoverdomains>
      <failoverdomain name="webserver-failover" nofailback="0" ordered="1" restricted="1">
        <failoverdomainnode name="web1" priority="1"/>
        <failoverdomainnode name="web2" priority="10"/>
      </failoverdomain>
    </failoverdomains>
    <resources>
      <ip address="192.168.12.233" monitor_link="1"/>
      <script file="/etc/init.d/mysqld" name="mysqlscript"/>
    </resources>
    <service autostart="1" domain="webserver-failover" name="webserver" recovery="relocate">
      <ip ref="192.168.12.233"/>
    </service>
  </rm>
  <quorumd interval="1" label="myqdisk" min_score="1" tko="10" votes="2">
    <heuristic interval="2" program="ping -c1 -t1 192.168.12.1" score="1"/>
  </quorumd>
  <totem token="1000"/>
</cluster>
"""


def changed(*replacements: tuple[str, str]) -> bytes:
    """The guide's file with texts replaced, each of which must be there."""
    text = GUIDE
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text.encode()
