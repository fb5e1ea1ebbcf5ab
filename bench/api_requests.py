"""How fast is the hottest request, GET of an operation, beside a bare aiohttp + asyncpg handler?

The operation is a real, ended run. Ours authenticates, authorises, reads the row and the command's
output, and logs the request; the bare handler selects the same row and dumps it.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from bench._bare_servers import bare_server
from bench._http_client import Connection, request_bytes, requests_per_s
from bench._measure import Report, Target, alternate
from bench._service import service

WARM_UP_REQUESTS = 200
LATENCY_REQUESTS = 300
LATENCY_ROUNDS = 5
CONNECTIONS = 16
LOAD_S = 2.0
LOAD_ROUNDS = 5
BARE = "bare aiohttp + asyncpg, one SELECT"


def main() -> None:
    report = Report("api_requests", __doc__.splitlines()[0])
    with report.running(), service() as running:
        running.checkpoint()
        run, imported = [row["uuid"] for row in running.api.get("/operations")]
        with bare_server("rows", running.server.dsn()) as bare:
            port = urlsplit(running.url).port
            assert port is not None
            ours = request_bytes(f"/v1/operations/{run}", running.authorization)
            theirs = request_bytes(f"/operations/{run}", {})
            with Connection(port) as our_end, Connection(bare.port) as bare_end:
                ends = {"ours": (our_end, ours), "bare": (bare_end, theirs)}
                latencies: dict[str, list[float]] = {"ours": [], "bare": []}
                for _ in range(LATENCY_ROUNDS):
                    for name, (end, request) in ends.items():
                        latencies[name] += _latencies_ms(end, request)
            import_ = request_bytes(f"/v1/operations/{imported}", running.authorization)
            health = request_bytes("/healthz", {})
            rates = alternate(
                LOAD_ROUNDS,
                ours=lambda: _rate(port, ours),
                bare=lambda: _rate(bare.port, theirs),
                imported=lambda: _rate(port, import_),
                health=lambda: _rate(port, health),
            )
        report.add(
            "GET operation, 1 connection",
            "ms",
            latencies["ours"],
            latencies["bare"],
            reference_name=BARE,
            targets=(Target(of="ours", at_most=2),),
        )
        report.add(
            f"GET operation, {CONNECTIONS} connections",
            "requests/s",
            rates["ours"],
            rates["bare"],
            reference_name=BARE,
            targets=(Target(of="ratio", at_least=0.6),),
        )
        report.add("- of an import, no output to read", "requests/s", rates["imported"])
        report.add("- /healthz, no token, no database", "requests/s", rates["health"])
        report.note("server, PostgreSQL and client share the cores")


def _latencies_ms(end: Connection, request: bytes) -> list[float]:
    for _ in range(WARM_UP_REQUESTS):
        end.get(request)
    samples = []
    for _ in range(LATENCY_REQUESTS):
        began = time.perf_counter()
        end.get(request)
        samples.append((time.perf_counter() - began) * 1000)
    return samples


def _rate(port: int, request: bytes) -> float:
    return asyncio.run(requests_per_s(port, request, connections=CONNECTIONS, during_s=LOAD_S))


if __name__ == "__main__":
    main()
