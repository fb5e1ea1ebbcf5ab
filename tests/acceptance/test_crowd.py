"""A crowd of runs of three projects on the shared server: all end well, in turn, leaving nothing.

The same with 500 and with 1,000 runs: bench/soak.py.
"""

from __future__ import annotations

from contextlib import closing

from bench._crowd import MEMORY_SHARE, Crowd, late, stock_of
from bench._service import Service
from tests.acceptance.api import Api
from tests.support.server import RunningServer

WARM_UP = {"crowd-many": 4, "crowd-some": 2, "crowd-last": 2}
SIZES = {"crowd-many": 14, "crowd-some": 5, "crowd-last": 3}


def test_a_crowd_of_runs_ends_well_and_leaves_nothing(server: RunningServer) -> None:
    with closing(Api(server.url, server.token("crowd-many"))) as api:
        service = Service(server, api)
        Crowd(service, WARM_UP).run()
        before = stock_of(service)
        ended = Crowd(service, SIZES).run()
        assert [one.failure for one in ended if one.failure] == []
        assert len({one.row.result_image_id for one in ended}) == sum(SIZES.values())
        assert late(ended, at_once=4) == []
        assert stock_of(service).leaks_over(before, memory_share=MEMORY_SHARE) == []
