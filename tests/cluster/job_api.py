"""The part of Ray's job API that a submission meets, as a server that notes what it is sent."""

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

LOG = "one\ntwo\nthree\n"


@dataclass(slots=True)
class JobApi:
    """What was asked, and what is answered.

    Attributes:
        token: asked for; "" for none.
        breaks_at: characters of the log after which the connection is cut, one for each time.
        exit_code: of every job.
        status: of every job, once its log has been read to the end; until then they run.
        port: where it listens, on all of this machine's addresses.
        asked: method and path of every request that was let in.
        sent: bodies of submissions.
        packages: uploaded folders.
    """

    token: str = ""
    breaks_at: list[int] = field(default_factory=list)
    exit_code: int | None = 0
    status: str = "SUCCEEDED"
    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: list[dict[str, object]] = field(default_factory=list)
    packages: list[bytes] = field(default_factory=list)
    is_reading: bool = False

    @property
    def at_loopback(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def elsewhere(self) -> str:
        """An address that is not known to be this machine's, and yet reaches it."""
        return f"http://0.0.0.0:{self.port}"


@contextmanager
def serve(api: JobApi) -> Generator[JobApi]:
    """Serve until the context ends."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(_application(api))
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "0.0.0.0", 0)
    loop.run_until_complete(site.start())
    api.port = runner.addresses[0][1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield api
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def _application(api: JobApi) -> web.Application:  # noqa: C901  (one closure an address)
    @web.middleware
    async def let_in(request: web.Request, handler):
        if api.token and request.headers.get("Authorization") != f"Bearer {api.token}":
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        api.asked.append((request.method, request.path))
        return await handler(request)

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": ""})

    async def jobs(request: web.Request) -> web.Response:
        return web.json_response([])

    async def submit(request: web.Request) -> web.Response:
        body = json.loads(await request.text())
        api.sent.append(body)
        return web.json_response(
            {"job_id": body["submission_id"], "submission_id": body["submission_id"]}
        )

    async def has_package(request: web.Request) -> web.Response:
        return web.Response(status=404)

    async def take_package(request: web.Request) -> web.Response:
        api.packages.append(await request.read())
        return web.Response()

    async def info(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "type": "SUBMISSION",
                "submission_id": request.match_info["job"],
                "status": "RUNNING" if api.breaks_at or api.is_reading else api.status,
                "entrypoint": "",
                "message": "what became of it",
                "driver_exit_code": api.exit_code,
            }
        )

    async def tail(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        api.is_reading = bool(api.breaks_at)
        if api.breaks_at:
            await socket.send_str(LOG[: api.breaks_at.pop(0)])
            await asyncio.sleep(0.1)
            assert request.transport is not None
            request.transport.abort()
        else:
            await socket.send_str(LOG)
            await socket.close()
        return socket

    application = web.Application(middlewares=[let_in], client_max_size=10**9)
    application.add_routes(
        [
            web.get("/api/version", version),
            web.get("/api/jobs/", jobs),
            web.post("/api/jobs/", submit),
            web.get("/api/packages/{protocol}/{name}", has_package),
            web.put("/api/packages/{protocol}/{name}", take_package),
            web.get("/api/jobs/{job}", info),
            web.get("/api/jobs/{job}/logs/tail", tail),
        ]
    )
    return application
