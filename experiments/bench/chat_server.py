"""A loopback server of chat completions that costs next to nothing: `python -m experiments.bench.chat_server --help`.

It speaks as much HTTP/1.1 as a client that keeps its connections alive needs, and answers every request alike after a
fixed time. The tests build their faults on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True)
class Reply:
    """What the server sends back, and how."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before it is sent."""
    cut: int | None = None
    """Bytes of the whole reply after which the connection is dropped; None sends all."""


Answerer = Callable[[str, dict[str, str], bytes], Reply]
"""(path, headers with lower-case names, body) -> the reply."""


def completion(text: str, *, finish_reason: str = "stop", refusal: str | None = None) -> bytes:
    """A chat completion as servers write it, in bytes."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    whole = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "loopback-1", "choices": [choice]}
    return json.dumps({**whole, "usage": usage}).encode()


class Connection(asyncio.Protocol):
    """One connection of a client: requests come one after the other, each is answered in time."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers every request that is complete."""
        self.buffer += data
        # a client may send several requests at once, or one in pieces
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            size = end + 4 + int(headers.get("content-length", 0))
            if len(self.buffer) < size:
                return
            body, self.buffer = self.buffer[end + 4 : size], self.buffer[size:]
            reply = self.answer(first.split(" ")[1], headers, body)
            # not sleep: other connections are answered meanwhile
            asyncio.get_running_loop().call_later(reply.delay, self._send, reply)

    def _send(self, reply: Reply) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Other')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        whole = "\r\n".join([*lines, "", ""]).encode("latin-1") + reply.body
        # the client may have given up during the delay
        if self.transport.is_closing():
            return
        self.transport.write(whole[: reply.cut])
        if reply.cut is not None:
            self.transport.close()


async def serve(answer: Answerer, port: int = 0) -> asyncio.Server:
    """Starts a server on 127.0.0.1; port 0 takes a free one (`server.sockets[0].getsockname()[1]`)."""
    # backlog: all of a client's connections may come in one moment
    return await asyncio.get_running_loop().create_server(lambda: Connection(answer), "127.0.0.1", port, backlog=1024)


async def serve_forever(answer: Answerer, port: int = 0) -> None:
    """Serves until the process is stopped; prints the port as its first line."""
    server = await serve(answer, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server_process(*arguments: str, module: str = "experiments.bench.chat_server") -> Iterator[str]:
    """Runs `python -m <module> <arguments>`, which prints its port first; yields its base URL, then stops it."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    made = argparse.ArgumentParser("python -m experiments.bench.chat_server", description=__doc__, allow_abbrev=False)
    made.add_argument("--latency", type=float, default=0.05, help="seconds before each answer (default: 0.05)")
    made.add_argument("--text", default='{"replace_obj": ["a cat on a mat"]}', help="what every answer says")
    arguments = made.parse_args(argv)
    reply = Reply(completion(arguments.text), delay=arguments.latency)
    asyncio.run(serve_forever(lambda path, headers, body: reply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
