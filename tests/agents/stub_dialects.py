"""The four dialects in which hosted models are spoken to: what a request asks for, and what a reply looks like.

Pure: bodies in, bodies out. Spoken by `stub_model_server`; it knows no real model, and says the same to everybody.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Dialect: TypeAlias = Literal["chat", "responses", "anthropic", "gemini"]
Frame: TypeAlias = tuple[str | None, Any]
"""One event of a stream: its name, where the dialect gives it one, and what it carries."""
Call: TypeAlias = tuple[str, dict[str, Any]]

DIRECTIVE = re.compile(r"\[\[stub:(write|loop|status|delay)\s+([^\]\s]+)\]\]")
WRITTEN = "written by the stub\n"
WRITE_TOOLS = ("write", "write_file", "write_to_file", "create_file", "editor", "create")
SHELL_TOOLS = (
    "bash",
    "shell",
    "run_shell_command",
    "exec_command",
    "run_commands",
    "execute_command",
    "shell_command",
    "local_shell",
    "container.exec",
)
PATH_KEYS = ("file_path", "filePath", "absolute_path", "filepath", "path")
BODY_KEYS = ("content", "contents", "file_text", "text", "new_str", "new_text")

_serial = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What one call is said to have used; `input` includes what is `cached`, `output` what is `reasoning`."""

    input: int = 1234
    output: int = 56
    cached: int = 0
    reasoning: int = 0


def classify(path: str) -> tuple[Dialect, str, str | None] | None:
    """Tell the dialect, the operation and the model that a path names; None for a path of no dialect."""
    if match := re.search(r"/models/([^/:]+):(\w+)$", path):
        return "gemini", {"countTokens": "count"}.get(match[2], match[2]), match[1]
    if path.endswith("/chat/completions"):
        return "chat", "generate", None
    if path.endswith("/responses"):
        return "responses", "generate", None
    if path.endswith("/messages/count_tokens"):
        return "anthropic", "count", None
    if path.endswith("/messages"):
        return "anthropic", "generate", None
    return None


def turns(dialect: Dialect, body: dict[str, Any]) -> list[dict[str, Any]]:
    """List what was said so far."""
    if dialect == "gemini":
        return body.get("contents") or []
    if dialect == "responses":
        given = body.get("input") or []
        return [{"role": "user", "content": given}] if isinstance(given, str) else given
    return body.get("messages") or []


def directive(dialect: Dialect, body: dict[str, Any]) -> tuple[str, str] | None:
    """Find the last directive in the newest plain text of the user that has one."""
    for turn in reversed(turns(dialect, body)):
        if turn.get("role") not in {None, "user"}:
            continue
        if found := DIRECTIVE.findall(_text(turn.get("parts") or turn.get("content"))):
            return found[-1]
    return None


def has_tool_result(dialect: Dialect, body: dict[str, Any]) -> bool:
    """Whether a tool that was called has answered."""
    said = turns(dialect, body)
    if dialect == "chat":
        return any(turn.get("role") == "tool" for turn in said)
    if dialect == "responses":
        return any(str(turn.get("type", "")).endswith("_output") for turn in said)
    key = "parts" if dialect == "gemini" else "content"
    parts = [part for turn in said if isinstance(turn.get(key), list) for part in turn[key] if isinstance(part, dict)]
    if dialect == "gemini":
        return any("functionResponse" in part for part in parts)
    return any(part.get("type") == "tool_result" for part in parts)


def offered_tools(dialect: Dialect, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """List the tools that are offered, each with the JSON schema of its arguments."""
    tools: list[tuple[str | None, dict[str, Any]]] = []
    for tool in body.get("tools") or []:
        if dialect == "gemini":
            for function in tool.get("functionDeclarations") or []:
                schema = function.get("parametersJsonSchema") or function.get("parameters") or {}
                tools.append((function.get("name"), schema))
        elif dialect == "chat":
            function = tool.get("function") or {}
            tools.append((function.get("name"), function.get("parameters") or {}))
        else:
            tools.append((tool.get("name"), tool.get("input_schema") or tool.get("parameters") or {}))
    return [(name, schema) for name, schema in tools if name]


def wanted_schema(dialect: Dialect, body: dict[str, Any]) -> dict[str, Any] | None:
    """Read the schema that the reply is to follow, where one is asked for."""
    if dialect == "gemini":
        wanted = body.get("generationConfig") or {}
        if wanted.get("responseMimeType") == "application/json":
            return wanted.get("responseJsonSchema") or wanted.get("responseSchema") or {}
        return None
    if dialect == "chat":
        wanted = body.get("response_format") or {}
        schema = (wanted.get("json_schema") or {}).get("schema")
    elif dialect == "responses":
        wanted = (body.get("text") or {}).get("format") or {}
        schema = wanted.get("schema")
    else:
        wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
        schema = wanted.get("schema")
    return (schema or {}) if wanted.get("type") == "json_schema" else None


def fill(schema: dict[str, Any]) -> Any:
    """Make the smallest value that satisfies the common parts of a JSON schema."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return fill(schema[key][0])
    kind = schema.get("type", "object")
    kind = str(kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: fill(properties.get(name, {"type": "string"})) for name in schema.get("required") or []}
    return {"array": [], "string": "stub", "boolean": False, "number": 0, "integer": 0}.get(kind)


def writing(tools: list[tuple[str, dict[str, Any]]], path: str) -> Call | None:
    """Choose an offered tool with which to write a file, rather one for files than a shell."""
    named = {name.lower(): (name, schema) for name, schema in tools}
    for name, schema in (named[each] for each in WRITE_TOOLS if each in named):
        properties = schema.get("properties") or {}
        place = next((key for key in PATH_KEYS if key in properties), None)
        content = next((key for key in BODY_KEYS if key in properties), None)
        if place and content:
            arguments = {**fill(schema), place: path, content: WRITTEN}
            return name, {**arguments, "command": "create"} if "command" in properties else arguments
    for name, schema in (named[each] for each in SHELL_TOOLS if each in named):
        properties = schema.get("properties") or {}
        line = f"printf '{WRITTEN.strip()}\\n' > '{path}'"
        key = next((key for key in ("command", "cmd", "commands") if key in properties), "command")
        listed = [line] if key == "commands" else ["bash", "-lc", line]
        is_list = (properties.get(key) or {}).get("type") == "array"
        return name, {**fill(schema), key: listed if is_list else line}
    return None


def reply(dialect: Dialect, model: str, text: str, call: Call | None, tokens: Tokens) -> tuple[Any, list[Frame]]:
    """Make a reply: a text, or a call of a tool; as one body, and as the frames of a stream."""
    return {"chat": _chat, "responses": _responses, "anthropic": _anthropic, "gemini": _gemini}[dialect](
        model, text, call, tokens
    )


def error(dialect: Dialect, status: int, text: str) -> dict[str, Any]:
    """Make the body of an error."""
    words = {
        400: ("invalid_request_error", "INVALID_ARGUMENT"),
        401: ("authentication_error", "UNAUTHENTICATED"),
        403: ("permission_error", "PERMISSION_DENIED"),
        429: ("rate_limit_error", "RESOURCE_EXHAUSTED"),
        529: ("overloaded_error", "UNAVAILABLE"),
    }
    word, state = words.get(status, ("api_error", "INTERNAL"))
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": word, "message": text}}
    if dialect == "gemini":
        return {"error": {"code": status, "message": text, "status": state}}
    return {"error": {"message": text, "type": word, "code": None, "param": None}}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [content] if isinstance(content, dict) else content or []
    found = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | dict)]
    return "\n".join(text for text in found if isinstance(text, str))


def _chat(model: str, text: str, call: Call | None, tokens: Tokens) -> tuple[Any, list[Frame]]:
    name, now = f"chatcmpl-stub{next(_serial)}", int(time.time())
    usage = {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }
    message: dict[str, Any] = {"role": "assistant", "content": text}
    delta = message
    finish = "stop"
    if call:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        item = {"id": f"call_stub{next(_serial)}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [item]}
        delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **item}]}
        finish = "tool_calls"
    head = {"id": name, "created": now, "model": model}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    chunk = {**head, "object": "chat.completion.chunk"}
    frames: list[Frame] = [
        (None, {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}),
        (None, {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}),
        (None, {**chunk, "choices": [], "usage": usage}),
        (None, "[DONE]"),
    ]
    return whole, frames


def _responses(model: str, text: str, call: Call | None, tokens: Tokens) -> tuple[Any, list[Frame]]:
    name, item_name = f"resp_stub{next(_serial)}", f"item_stub{next(_serial)}"
    usage = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "input_tokens_details": {"cached_tokens": tokens.cached},
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }
    base = {
        "id": name,
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }
    at = {"output_index": 0, "item_id": item_name}
    if call:
        arguments = json.dumps(call[1])
        item = {"id": item_name, "type": "function_call", "status": "completed", "name": call[0]}
        item |= {"call_id": f"call_stub{next(_serial)}", "arguments": arguments}
        opened = {**item, "status": "in_progress", "arguments": ""}
        middle = [
            ("response.function_call_arguments.delta", {**at, "delta": arguments}),
            ("response.function_call_arguments.done", {**at, "arguments": arguments}),
        ]
    else:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": item_name, "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        opened = {**item, "status": "in_progress", "content": []}
        at |= {"content_index": 0}
        middle = [
            ("response.content_part.added", {**at, "part": {**part, "text": ""}}),
            ("response.output_text.delta", {**at, "delta": text}),
            ("response.output_text.done", {**at, "text": text}),
            ("response.content_part.done", {**at, "part": part}),
        ]
    whole = {**base, "status": "completed", "output": [item], "usage": usage}
    begun = {**base, "status": "in_progress", "output": [], "usage": None}
    steps = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": opened}),
        *middle,
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": whole}),
    ]
    return whole, [(kind, {"type": kind, "sequence_number": n, **more}) for n, (kind, more) in enumerate(steps)]


def _anthropic(model: str, text: str, call: Call | None, tokens: Tokens) -> tuple[Any, list[Frame]]:
    usage = {
        "input_tokens": tokens.input - tokens.cached,
        "output_tokens": tokens.output,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": tokens.cached,
    }
    if call:
        block: dict[str, Any] = {"type": "tool_use", "id": f"toolu_stub{next(_serial)}", "name": call[0]}
        block |= {"input": call[1]}
        opened = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(call[1])}
    else:
        block = {"type": "text", "text": text}
        opened, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
    stop = {"stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}
    head = {"id": f"msg_stub{next(_serial)}", "type": "message", "role": "assistant", "model": model}
    whole = {**head, "content": [block], **stop, "usage": usage}
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("message_start", {"message": begun}),
        ("content_block_start", {"index": 0, "content_block": opened}),
        ("content_block_delta", {"index": 0, "delta": delta}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": stop, "usage": usage}),
        ("message_stop", {}),
    ]
    return whole, [(kind, {"type": kind, **more}) for kind, more in steps]


def _gemini(model: str, text: str, call: Call | None, tokens: Tokens) -> tuple[Any, list[Frame]]:
    part: dict[str, Any] = {"text": text}
    if call:
        part = {"functionCall": {"id": f"fc_stub{next(_serial)}", "name": call[0], "args": call[1]}}
    head = {"modelVersion": model, "responseId": f"stub{next(_serial)}"}
    usage = {
        "promptTokenCount": tokens.input,
        "candidatesTokenCount": tokens.output - tokens.reasoning,
        "thoughtsTokenCount": tokens.reasoning,
        "totalTokenCount": tokens.input + tokens.output,
        "cachedContentTokenCount": tokens.cached,
    }
    said = {"index": 0, "content": {"role": "model", "parts": [part]}}
    done = {"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}
    whole = {**head, "candidates": [{**said, "finishReason": "STOP"}], "usageMetadata": usage}
    frames: list[Frame] = [
        (None, {**head, "candidates": [said]}),
        (None, {**head, "candidates": [done], "usageMetadata": usage}),
    ]
    return whole, frames
