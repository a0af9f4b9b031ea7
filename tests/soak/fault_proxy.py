"""A proxy that fails on purpose: `python fault_proxy.py UPSTREAM_URL PORT SEED`.

Of the requests, it refuses a tenth with 429 and a tenth with 500, cuts a tenth's connection, and leaves a twentieth
without an answer for minutes; the others pass.
"""

import asyncio
import random
import sys

import aiohttp
from aiohttp import web

STALL_S = 300


def main(upstream: str, port: int, seed: int) -> None:
    rng = random.Random(seed)

    async def handle(request: web.Request) -> web.StreamResponse:
        body, luck = await request.read(), rng.random()
        if luck < 0.1:
            return web.Response(status=429, headers={"Retry-After": "0.5"})
        if luck < 0.2:
            return web.Response(status=500, text="failed on purpose")
        if luck < 0.35:
            if luck > 0.3:
                await asyncio.sleep(STALL_S)
            request.transport.abort()
            return web.Response()
        headers = {"Content-Type": request.content_type}
        async with (
            aiohttp.ClientSession() as http,
            http.post(upstream + request.path, data=body, headers=headers) as up,
        ):
            return web.Response(status=up.status, body=await up.read(), content_type=up.content_type)

    application = web.Application(client_max_size=2**26)
    application.router.add_post("/{path:.*}", handle)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
