"""A stand-in for an OpenAI-compatible server with known delays, in a thread of the test."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Standin:
    """What the server does, and what it saw.

    refuses : keys of a body that it answers with 400      tokenizer : whether it counts tokens, a character each
    fails   : prompts beginning with one of these get this: "status" 500, "cut" a stream that breaks off
    """

    first_s: float = 0.05
    gap_s: float = 0.01
    refuses: tuple[str, ...] = ()
    tokenizer: bool = True
    usage: bool = True
    overhead_tokens: int = 1
    fails: dict[int, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    url: str = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "standin"}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.tokenizer or "prompt" not in body:
            return web.json_response({}, status=404)
        return web.json_response({"count": len(body["prompt"]) + self.overhead_tokens})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body, began_s = await request.json(), time.perf_counter()
        if found := [key for key in self.refuses if key in body]:
            return web.json_response({"error": {"message": f"unknown {found[0]}"}}, status=400)
        number = len(self.bodies)
        self.bodies.append(body)
        if self.fails.get(number) == "status":
            return web.json_response({"error": "overloaded"}, status=500)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        due_s = began_s
        for token in range(body["max_tokens"]):
            due_s += self.gap_s if token else self.first_s
            await asyncio.sleep(due_s - time.perf_counter())
            await self._write(response, {"choices": [{"text": "x", "finish_reason": None}]})
            if self.fails.get(number) == "cut" and token == 1:
                request.transport.close()
                return response
        self.times.append((began_s, time.perf_counter()))
        last: dict[str, Any] = {"choices": [{"text": "", "finish_reason": "length"}]}
        if self.usage and body.get("stream_options"):
            last["usage"] = {"prompt_tokens": len(body["prompt"]) + self.overhead_tokens,
                             "completion_tokens": body["max_tokens"]}
        await self._write(response, last)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _write(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())


@contextlib.contextmanager
def serving(standin: Standin) -> Iterator[Standin]:
    """Serve until the block ends; the address stands in `url`."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    app = web.Application()
    app.router.add_get("/v1/models", standin.models)
    app.router.add_post("/v1/completions", standin.complete)
    app.router.add_post("/tokenize", standin.tokenize)
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "localhost", 0)
        await site.start()
        standin.url = f"http://localhost:{runner.addresses[0][1]}/v1"
        ready.set()

    def work() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield standin
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
