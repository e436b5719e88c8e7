"""A deterministic stand-in for hosted models, for driving agents' command lines without a network or an account.

One port answers the four dialects of `stub_dialects`: OpenAI chat and responses, Anthropic messages, Gemini. Every
reply carries the same text and the same numbers of tokens, so that what a program tells of them can be checked.

What it does is chosen, most specific first, by a directive in the newest text of the user,

    [[stub:write FILE]]     the first reply calls a tool that writes the file, the next one is the text
                            (a program without tools gets the file in the text, as a listing behind its name)
    [[stub:loop FILE]]      every reply calls that tool
    [[stub:status 500]]     the reply is that status
    [[stub:delay 30]]       the reply comes after so many seconds

or by a prefix of the path, /stub/MODE/…, or by the server's own mode: text, status-NNN, delay-SECONDS, or cut, which
drops the connection in the middle of a stream. `after` is how many replies are given before the mode holds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from tests.agents import stub_dialects as dialects
from tests.agents.stub_dialects import Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from tests.agents.stub_dialects import Call, Dialect

SAID = "STUB-OK: task complete."
AUTH_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as it came, and what it was answered with; of headers with keys only which ones there were."""

    method: str
    path: str
    auth: tuple[str, ...] = ()
    dialect: str | None = None
    operation: str | None = None
    model: str | None = None
    tools: tuple[str, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict)
    call: str | None = None
    told: bool = False
    """Whether the reply said what the call used."""


class ModelServer:
    """The server, on a free port of loopback, in a thread of its own; a context manager.

    `url` is where it listens, without a path. `requests` are those that it had, in their order.
    """

    def __init__(
        self,
        mode: str = "text",
        *,
        after: int = 0,
        text: str = SAID,
        tokens: Tokens | None = None,
        error_body: Mapping[str, Any] | None = None,
        error_headers: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.mode = mode
        self.after = after
        self.text = text
        self.tokens = tokens or Tokens()
        self.error_body = error_body
        self.error_headers = dict(error_headers or {})
        self.requests: list[Request] = []
        self.hung = threading.Event()
        """Set as soon as a reply is delayed."""
        self._replies = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._http = _Http(self, port)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self.requests.append(request)

    def next_mode(self, path: str, directive: tuple[str, str] | None) -> str:
        """Say what the next reply is to be."""
        with self._lock:
            self._replies += 1
            is_early = self._replies <= self.after
        if directive and directive[0] in {"status", "delay"}:
            return "-".join(directive)
        prefix = re.match(r"/stub/([\w.-]+)/", path)
        return "text" if is_early else prefix[1] if prefix else self.mode


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, models: ModelServer, port: int) -> None:
        self.models = models
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stub-model-server/1"

    @property
    def models(self) -> ModelServer:
        return cast("_Http", self.server).models

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        """Let nobody out; with the server as HTTPS_PROXY the requests show which hosts were tried."""
        self._note()
        self.close_connection = True
        self._json(403, {"error": "the stub leads nowhere"})

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._note()
        if path.endswith("/v1beta/models"):
            self._json(200, {"models": [{"name": "models/stub-model"}]})
        elif path.endswith("/models"):
            model = {"id": "stub-model", "object": "model", "type": "model", "owned_by": "stub", "created": 0}
            model |= {"display_name": "Stub", "created_at": "2025-01-01T00:00:00Z"}
            self._json(200, {"object": "list", "has_more": False, "data": [model]})
        else:
            self._json(404, dialects.error("chat", 404, "stub error 404"))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self._body()
        known = dialects.classify(url.path)
        if known is None:
            self._note()
            self._json(404, dialects.error("chat", 404, "stub error 404"))
            return
        dialect, operation, named = known
        model = named or str(body.get("model") or "stub-model")
        if operation == "count":
            self._note(dialect=dialect, operation=operation, model=model)
            key = "totalTokens" if dialect == "gemini" else "input_tokens"
            self._json(200, {key: self.models.tokens.input})
            return
        directive = dialects.directive(dialect, body)
        kind, _, value = self.models.next_mode(url.path, directive).partition("-")
        text, call = self._words(dialect, body, directive)
        is_streamed = bool(body.get("stream")) or operation == "streamGenerateContent"
        self._note(
            dialect=dialect,
            operation=operation,
            model=model,
            tools=tuple(name for name, _ in dialects.offered_tools(dialect, body)),
            body=body,
            call=call[0] if call else None,
            told=kind == "text" or (kind == "cut" and not is_streamed),
        )
        if kind == "status":
            said = self.models.error_body or dialects.error(dialect, int(value), f"stub error {value}")
            self._json(int(value), said, self.models.error_headers)
            return
        if kind == "delay":
            self.models.hung.set()
            self.models.closing.wait(float(value))
        whole, frames = dialects.reply(dialect, model, text, call, self.models.tokens)
        if not is_streamed:
            self._json(200, whole)
        elif dialect == "gemini" and parse_qs(url.query).get("alt") != ["sse"]:
            self._json(200, [payload for _, payload in frames])
        else:
            self._stream(frames[: max(1, (len(frames) - 1) // 2)] if kind == "cut" else frames)

    def _words(
        self, dialect: Dialect, body: dict[str, Any], directive: tuple[str, str] | None
    ) -> tuple[str, Call | None]:
        schema = dialects.wanted_schema(dialect, body)
        if schema is not None:
            return json.dumps(dialects.fill(schema)), None
        kind, path = directive or ("", "")
        is_due = kind == "loop" or (kind == "write" and not dialects.has_tool_result(dialect, body))
        tools = dialects.offered_tools(dialect, body)
        if is_due and not tools:
            return f"{path}\n```\n{dialects.WRITTEN}```\n\n{self.models.text}", None
        return self.models.text, dialects.writing(tools, path) if is_due else None

    def _note(self, **more: Any) -> None:
        auth = tuple(name for name in AUTH_HEADERS if self.headers.get(name))
        self.models.note(Request(method=self.command, path=self.path, auth=auth, **more))

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def _stream(self, frames: list[dialects.Frame]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for event, payload in frames:
            head = f"event: {event}\n" if event else ""
            data = payload if isinstance(payload, str) else json.dumps(payload)
            self.wfile.write(f"{head}data: {data}\n\n".encode())
            self.wfile.flush()

    def _body(self) -> dict[str, Any]:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            raw = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = {}
        return body if isinstance(body, dict) else {}


def main() -> None:
    """Serve until interrupted, for trying a program by hand; prints where, and then each request."""
    parser = argparse.ArgumentParser(description="A stand-in for hosted models, on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--mode", default="text", help="text, status-NNN, delay-SECONDS or cut")
    parser.add_argument("--after", type=int, default=0, help="how many replies are given before the mode holds")
    parser.add_argument("--cached-tokens", type=int, default=0)
    parser.add_argument("--retry-after", help="send this Retry-After with errors")
    asked = parser.parse_args()
    headers = {"retry-after": asked.retry_after} if asked.retry_after else None
    tokens = Tokens(cached=asked.cached_tokens)
    server = ModelServer(asked.mode, after=asked.after, tokens=tokens, error_headers=headers, port=asked.port)
    note = server.note

    def told(request: Request) -> None:
        note(request)
        print(request.method, request.path, request.model or "", f"{len(request.tools)} tools", request.call or "")

    server.note = told
    with server:
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
