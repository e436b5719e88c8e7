"""The stand-in for hosted models: what it says in each dialect, and how it fails when it is told to."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

import pytest

from tests.agents.stub_dialects import Tokens
from tests.agents.stub_model_server import SAID, ModelServer

TOOL = {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}}
WRITE = "[[stub:write made.txt]]"
CHAT = ("/v1/chat/completions", lambda said: {"messages": [{"role": "user", "content": said}]})
DIALECTS = {
    "chat": CHAT,
    "responses": ("/v1/responses", lambda said: {"input": said}),
    "anthropic": ("/v1/messages", lambda said: {"messages": [{"role": "user", "content": said}]}),
    "gemini": (
        "/v1beta/models/m:generateContent",
        lambda said: {"contents": [{"role": "user", "parts": [{"text": said}]}]},
    ),
}
TOOLS = {
    "chat": [{"type": "function", "function": {"name": "write", "parameters": TOOL}}],
    "responses": [{"type": "function", "name": "write", "parameters": TOOL}],
    "anthropic": [{"name": "write", "input_schema": TOOL}],
    "gemini": [{"functionDeclarations": [{"name": "write", "parameters": TOOL}]}],
}


def ask(server, path, body):
    """Send a request; returns what came back, as text."""
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read().decode()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_reply_has_the_text_and_the_tokens(dialect):
    """Every dialect carries the same text, and the numbers of tokens that were asked for."""
    path, body = DIALECTS[dialect]
    with ModelServer(tokens=Tokens(input=1000, output=30, cached=200)) as server:
        told = ask(server, path, body("Hello"))
    assert SAID in told
    assert "30" in told
    assert "200" in told
    assert ("800" if dialect == "anthropic" else "1000") in told
    (request,) = server.requests
    assert (request.dialect, request.told, request.call) == (dialect, True, None)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_directive_calls_a_tool_that_is_offered(dialect):
    """A directive makes the reply a call of a tool for files, with the path; without such a tool there is none."""
    path, body = DIALECTS[dialect]
    with ModelServer() as server:
        told = ask(server, path, {**body(WRITE), "tools": TOOLS[dialect]})
        assert SAID in ask(server, path, body(WRITE))
    assert "made.txt" in told
    assert [request.call for request in server.requests] == ["write", None]


def test_mode_holds_after_so_many_replies():
    """A server can answer first, and fail later, with the headers and the body that it is given."""
    path, body = CHAT
    error = {"error": {"type": "usage_limit_reached"}}
    with ModelServer("status-429", after=1, error_headers={"retry-after": "30"}, error_body=error) as server:
        assert SAID in ask(server, path, body("Hello"))
        with pytest.raises(urllib.error.HTTPError) as raised:
            ask(server, path, body("Hello"))
    with raised.value as refusal:
        assert (refusal.code, refusal.headers["retry-after"], json.load(refusal)) == (429, "30", error)
    assert [request.told for request in server.requests] == [True, False]


def test_stream_can_be_dropped():
    """In the mode `cut` a stream ends before its end, and tells of no tokens."""
    path, body = CHAT
    with ModelServer("cut") as server:
        told = ask(server, path, {**body("Hello"), "stream": True})
    assert SAID in told
    assert "DONE" not in told
    assert "usage" not in told


def test_server_ends_while_a_reply_is_delayed():
    """A delayed reply is waited for by whoever asked for it, and not by the server's end."""
    path, body = CHAT
    with ModelServer("delay-600") as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connection.request("POST", path, json.dumps(body("Hello")))
        assert server.hung.wait(30)
    connection.close()
