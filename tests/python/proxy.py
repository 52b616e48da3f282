"""A proxy in front of an object store: it counts requests, delays them and breaks them.

What it does to a request is told by a rule: a function of the request that gives an `Action`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
import time
from typing import Callable, Optional
from urllib.parse import unquote

PIECE = 1 << 16


@dataclasses.dataclass
class Request:
    """What the proxy sees of a request."""

    number: int
    method: str
    target: str
    headers: dict
    #: What the store answered: set when it has.
    status: int = 0
    sent: int = 0
    received: int = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def path(self) -> str:
        return unquote(self.target.split("?")[0])

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def kind(self) -> str:
        """What is asked for, as stores count it."""
        if self.method == "GET" and re.search(r"(^|&)(list-type|prefix|comp=list|restype=container)", self.query):
            return "LIST"
        return self.method

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


@dataclasses.dataclass
class Action:
    """What becomes of a request. Nothing else is done to one that was answered or reset."""

    #: Seconds before it is passed on.
    delay: float = 0.0
    #: An answer of the proxy's own: status and body. The store sees nothing.
    answer: Optional[tuple] = None
    #: The connection is cut before the store sees it.
    reset: bool = False
    #: The store does it, and its answer is lost.
    lose_reply: bool = False
    #: The store does it twice, and the second answer is passed on.
    twice: bool = False
    #: Only so many bytes of the answer's body arrive.
    cut_after: Optional[int] = None
    #: Nothing happens, and the connection stays open.
    hang: bool = False
    #: A bit of its body is turned over before the store sees it.
    damage: bool = False
    #: What matches the first of these in its head is the second when the store sees it.
    instead: Optional[tuple] = None


THROTTLED = (503, b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>')
TOO_MANY = (429, b"")
PASS = Action()


class Proxy:
    """Runs in a thread of its own. Use it as a context manager."""

    def __init__(self, port: int, rule: Callable[[Request], Action] = lambda _: PASS, rate: Optional[int] = None):
        self.upstream = port
        self.rule = rule
        #: Bytes a second, all connections together.
        self.rate = rate
        self.requests: list = []
        self.port = 0
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict:
        """Requests by kind."""
        counted: dict = {}
        for request in list(self.requests):
            counted[request.kind] = counted.get(request.kind, 0) + 1
        return counted

    def forget(self) -> None:
        self.requests = []

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _serve(self, reader, writer) -> None:
        store = None
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    return
                request = self._request(head)
                action = self.rule(request)
                if action.delay:
                    await asyncio.sleep(action.delay)
                if action.hang:
                    await asyncio.sleep(3600)
                if action.reset:
                    writer.transport.abort()
                    return
                if action.answer is not None:
                    # Whoever is still sending would not read the answer.
                    await self._body(reader, request.headers, None)
                    status, body = action.answer
                    request.status = status
                    writer.write(f"HTTP/1.1 {status} Broken\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
                    await writer.drain()
                    return
                if store is None:
                    store = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 20)
                if request.headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    head = re.sub(rb"(?i)expect: 100-continue\r\n", b"", head)
                if action.instead is not None:
                    head = re.sub(*action.instead, head)
                kept = [] if action.twice else None
                await self._send(head, reader, store[1], request, kept, action.damage)
                if action.twice:
                    await self._answer(store[0], None, request, None)
                    store[1].write(b"".join([head, *kept]))
                cut = action.cut_after
                closes = await self._answer(store[0], None if action.lose_reply else writer, request, cut)
                request.ended = time.monotonic()
                if action.lose_reply or cut is not None:
                    writer.transport.abort()
                    return
                if closes:
                    return
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            writer.transport.abort()
        finally:
            if store is not None:
                store[1].close()
            writer.close()

    def _request(self, head: bytes) -> Request:
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        request = Request(len(self.requests), method, target, _headers(lines[1:]), began=time.monotonic())
        self.requests.append(request)
        return request

    async def _send(self, head: bytes, reader, writer, request: Request, kept, damage: bool) -> None:
        writer.write(head)

        async def one(piece: bytes) -> None:
            if damage and request.sent == 0:
                piece = piece[:99] + bytes([piece[99] ^ 1]) + piece[100:]
            request.sent += len(piece)
            if kept is not None:
                kept.append(piece)
            await self._pace(len(piece))
            writer.write(piece)
            await writer.drain()

        await self._body(reader, request.headers, one)
        await writer.drain()

    async def _answer(self, reader, writer, request: Request, cut) -> bool:
        """Passes an answer on to `writer`, if there is one. Gives whether the connection ends with it."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        request.status = int(lines[0].split(" ")[1])
        headers = _headers(lines[1:])
        if writer is not None:
            writer.write(head)
        left = cut

        async def one(piece: bytes) -> None:
            nonlocal left
            request.received += len(piece)
            await self._pace(len(piece))
            if writer is None:
                return
            if left is not None:
                piece = piece[: max(left, 0)]
                left -= len(piece)
            writer.write(piece)
            await writer.drain()

        if request.method != "HEAD" and request.status not in (204, 304):
            await self._body(reader, headers, one, ends=True)
        if writer is not None:
            await writer.drain()
        return headers.get("connection", "").lower() == "close"

    async def _body(self, reader, headers: dict, one, ends: bool = False) -> None:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                piece = line + await reader.readexactly(size + 2)
                if one is not None:
                    await one(piece)
                if size == 0:
                    return
        if "content-length" not in headers:
            if ends:
                raise ConnectionError("an answer of unknown length")
            return
        left = int(headers["content-length"])
        while left > 0:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise ConnectionError("cut short")
            left -= len(piece)
            if one is not None:
                await one(piece)

    async def _pace(self, size: int) -> None:
        if self.rate is not None:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.rate
            await asyncio.sleep(self._free_at - now)


def _headers(lines: list) -> dict:
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}
