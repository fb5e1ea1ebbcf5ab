"""Built on the real libvirt and QEMU of this host, which start no guest here.

What libvirt learns of QEMU is kept between the tests, so only the first waits for it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.adapters.microvm.hypervisor.capability_filter import RECORD_NAME, usable_filter
from contree.adapters.microvm.hypervisor.embedded import CAPABILITY_FILTER


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """pytest's own directories are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="ct", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (CAPABILITY_FILTER, True),
        ('capability_filters = [ "one-that-no-libvirt-has" ]\n', False),
        ("capability_filters = 7\n", False),
    ],
)
async def test_only_what_libvirt_takes_is_used(place: Path, wanted: str, taken: bool) -> None:
    assert await usable_filter(place / "t", probe_cache=place / "c", wanted=wanted) == (
        wanted if taken else ""
    )
    assert not (place / "t").exists()
    # What a worker's start finds: the cache of QEMU's answers is warm.
    assert list((place / "c").glob("qemu/capabilities/*.xml"))


async def test_a_verdict_is_of_one_version_and_one_filter(place: Path) -> None:
    record = place / "c" / RECORD_NAME
    root, unusable = place / "t", place / "no" / ("x" * 100)
    assert await usable_filter(root, probe_cache=place / "c")
    # Nothing could be tried in a place whose sockets would not fit: the record has answered.
    assert await usable_filter(unusable, probe_cache=place / "c")
    verdict = json.loads(record.read_text())
    verdict["asked"][0] += 1
    record.write_text(json.dumps(verdict))
    assert not await usable_filter(unusable, probe_cache=place / "c")
    assert json.loads(record.read_text()) == verdict  # a failure of another kind is no verdict
