"""The HTTP application: routes, middlewares, and what happens at its end.

It renders and decodes; every rule is in the use cases. A new route goes here, into the OpenAPI
document (`contree.http.openapi`) and into docs/api.md.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from contree.app.services import Services
from contree.http import health, whoami
from contree.http.access_log import log_access, mark_start
from contree.http.audit import history
from contree.http.authentication import authenticate
from contree.http.connection import answer_expect, name_server
from contree.http.errors import answer_errors
from contree.http.execution import events, instances, operations, replay, subprocesses
from contree.http.execution.feed import Feeds
from contree.http.execution.run_value import OutputReader
from contree.http.images import blame, collection, diff, files, grep, inspect, log
from contree.http.metrics import METER, RequestMeter
from contree.http.token_watch import TOKENS, TokenWatch
from contree.http.wiring import CLOSING, SERVICES

IMAGE = "/v1/inspect/{image_uuid}"
OPERATION = "/v1/operations/{operation_uuid}"
SUBPROCESS = f"{OPERATION}/subprocesses/{{spid}}"
TAG = "/v1/images/{image_uuid:.+}/tag"


def create_app(services: Services, meter: RequestMeter | None = None) -> web.Application:
    """Return the application over `services`; whoever runs it also stops it."""
    app = web.Application(middlewares=[log_access, answer_errors, authenticate])
    app[SERVICES] = services
    if meter is not None:
        app[METER] = meter
    app[CLOSING] = asyncio.Event()
    app[TOKENS] = TokenWatch(services.access)
    app[operations.OUTPUTS] = OutputReader(services.content)
    app[events.FEEDS] = Feeds(
        journal=services.journal,
        operations=services.operations,
        news=services.news,
        clock=services.clock,
    )
    app.on_response_prepare.extend([mark_start, name_server])
    app.on_shutdown.append(_end_streams)
    app.router.add_routes(
        web.RouteDef(r.method, r.path, r.handler, r.kwargs | {"expect_handler": answer_expect})
        for r in _routes()
    )
    return app


async def _end_streams(app: web.Application) -> None:
    """Followers end now; their clients reconnect with the id that they saw last."""
    app[CLOSING].set()
    app[events.FEEDS].close()


def _routes() -> list[web.RouteDef]:
    """A GET answers HEAD too only where clients use it: elsewhere HEAD is a 405."""
    get = web.get
    return [
        get("/", health.root, allow_head=False),
        get("/healthz", health.alive),
        get("/readyz", health.ready),
        get("/openapi.json", health.openapi, allow_head=False),
        get("/v1/whoami", whoami.whoami, allow_head=False),
        get("/v1/images", collection.list_images, allow_head=False),
        get("/v1/images/{image_uuid}/lineage", history.show_lineage, allow_head=False),
        get("/v1/images/{image:.+}/diff/{other_image:.+}", diff.show_diff, allow_head=False),
        get("/v1/images/{image:.+}/log", log.show_log, allow_head=False),
        get("/v1/images/{image:.+}/blame", blame.show_blame, allow_head=False),
        web.post("/v1/images/import", collection.import_image),
        web.patch(TAG, collection.assign_tag),
        web.post(TAG, collection.assign_tag),  # the older form of PATCH
        web.delete(TAG, collection.remove_tag),
        web.post("/v1/files", files.upload_file),
        get("/v1/files", files.list_files, allow_head=False),
        get("/v1/files/{sha256}", files.get_file),
        web.post("/v1/instances", instances.create_instance),
        get("/v1/operations", operations.list_operations, allow_head=False),
        get(OPERATION, operations.get_operation, allow_head=False),
        web.delete(OPERATION, operations.cancel_operation),
        web.post(f"{OPERATION}/replay", replay.request_replay),
        get(f"{OPERATION}/replay", replay.get_comparison, allow_head=False),
        get(f"{OPERATION}/events", events.stream_events, allow_head=False),
        web.post(f"{OPERATION}/subprocesses", subprocesses.spawn),
        get(SUBPROCESS, subprocesses.get_result, allow_head=False),
        web.delete(SUBPROCESS, subprocesses.send_signal),
        web.post(f"{SUBPROCESS}/stdin", subprocesses.write_stdin),
        get("/v1/audit/events", history.list_events, allow_head=False),
        get("/v1/inspect", inspect.redirect_to_slash, allow_head=False),
        get("/v1/inspect/", inspect.find_by_tag, allow_head=False),
        get(IMAGE, inspect.redirect_to_slash, allow_head=False),
        get(f"{IMAGE}/", inspect.get_image, allow_head=False),
        get(f"{IMAGE}/list", inspect.list_directory, allow_head=False),
        get(f"{IMAGE}/download", inspect.download),
        get(f"{IMAGE}/archive", inspect.archive),
        get(f"{IMAGE}/grep", grep.grep, allow_head=False),
    ]
