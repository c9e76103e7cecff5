"""What a source's name stands for."""

from __future__ import annotations

from pathlib import Path

from gfs2py.sources import canonical, followed, is_url

URL = "iscsi://192.168.12.246:3260/iqn.2010-08.com.example:storage.sdb/1"


def test_a_link_may_stand_for_a_lun(tmp_path: Path) -> None:
    link, other, plain = tmp_path / "sdb5", tmp_path / "other", tmp_path / "image"
    link.symlink_to(URL)
    plain.touch()
    other.symlink_to(plain)
    assert followed(str(link)) == canonical(str(link)) == URL
    assert followed(str(other)) == str(other)
    assert canonical(str(other)) == str(plain)
    assert followed(str(plain)) == str(plain)
    assert followed(URL) == URL
    assert is_url(URL)
    assert not is_url(str(link))
