"""The lenient reader on texts that are made to hurt: refused or read, in time that grows with the length only."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from taskbus.envelope import MAX_BYTES
from taskbus.errors import InvalidEnvelope
from taskbus.lenient import MAX_TEXT, find

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = (
    "<agent-message><sender>@a</sender><recipient>@b</recipient><type>status</type><context><task-id>t</task-id>"
    "<timestamp>2026-11-20T00:00:00Z</timestamp></context><payload>"
)
TAIL = "</payload></agent-message>"
DELEGATION = HEAD.replace("status", "delegation") + "<goal>a & b</goal>"
BARE = "<progress>a & b</progress>"
SIZE = 10_000

# What each makes is about as long as the number given.
HOSTILE: dict[str, Callable[[int], str]] = {
    "less-than signs": lambda n: "<" * n,
    "roots": lambda n: "<agent-message><sender>" * (n // 23),
    "closed roots": lambda n: "<agent-message><sender></agent-message>" * (n // 40),
    "nested roots": lambda n: "<agent-message> " * (n // 33) + "</agent-message>" * (n // 33),
    "blanks behind a root": lambda n: "<agent-message>" + " " * n,
    "attributes": lambda n: "<agent-message " + "a='b' " * (n // 6) + "><sender>",
    "open attributes": lambda n: '<agent-message a="' + '<agent-message b="' * (n // 18),
    "escaped roots": lambda n: "&lt;agent-message&gt;&lt;a" * (n // 25),
    "braces": lambda n: "{" * n,
    "braces and quotes": lambda n: '{"' * (n // 2) + "payload",
    "open keys": lambda n: '{"payload":' * (n // 11),
    "open lists": lambda n: '{"payload":[' * (n // 12),
    "open quotes": lambda n: "{'" + '{"a{“' * (n // 6) + " payload",
    "open comments": lambda n: "{/*" * (n // 3) + "payload",
    "open objects": lambda n: '{"sender": "@a", "payload": {"a": ' * (n // 34),
    "quoted objects": lambda n: '> {"payload":\n' * (n // 14),
    "objects": lambda n: '{"sender": "@a", "payload": {"a": 1}}' * (n // 37),
    "trailing commas": lambda n: '{"sender":"@a","payload":[' + "[1,]," * (n // 5) + "]}",
    "repeated keys": lambda n: '{"sender":"@a","payload":{' + '"a":1,' * (n // 6) + "}}",
    "unknown keys": lambda n: '{"sender":"@a","payload":{' + ",".join(f'"k{i}":1' for i in range(n // 10)) + "}}",
    "one long line": lambda n: "a" * n + '{"payload": ' * (n // 100),
    "backticks": lambda n: "`" * n,
    "fences": lambda n: "```\n" * (n // 4),
    "reasoning": lambda n: "<think>\n" * (n // 8),
    "ends of reasoning": lambda n: "</think>\n" * (n // 9),
    "escape codes": lambda n: "\x1b[" * (n // 4) + "\x1b]" * (n // 4),
    "quotation marks": lambda n: "> " * (n // 2) + "<agent-message><sender>",
    "valid messages": lambda n: (HEAD + "<progress>x</progress>" + TAIL + "\n") * (n // 220),
    "ampersands": lambda n: HEAD + f"<progress>{'&' * n}</progress>" + TAIL,
    "references": lambda n: HEAD + f"<progress>& {'&amp;' * (n // 5)}</progress>" + TAIL,
    "tags in a text": lambda n: HEAD + f"<progress>{'<x' * (n // 2)}</progress>" + TAIL,
    "open texts": lambda n: HEAD + "<progress>" * (n // 10) + TAIL,
    "open CDATA": lambda n: HEAD + f"<progress>{'<![CDATA[' * (n // 9)}</progress>" + TAIL,
    "CDATA": lambda n: HEAD + f"<progress>& {'<![CDATA[]]>' * (n // 12)}</progress>" + TAIL,
    "comments": lambda n: HEAD + "<!---->" * (n // 7) + BARE + TAIL,
    "unknown elements": lambda n: HEAD + "".join(f"<x{i}></x{i}>" for i in range(n // 14)) + BARE + TAIL,
    "nested unknown elements": lambda n: HEAD + "<x>" * (n // 8) + "</x>" * (n // 8) + BARE + TAIL,
    "open unknown elements": lambda n: HEAD + "<x>" * (n // 3) + TAIL,
    "items": lambda n: DELEGATION + "<constraint>x</constraint>" * (n // 26) + TAIL,
    "long name": lambda n: HEAD + f"<{'a' * n}>" + TAIL,
    "long time": lambda n: HEAD.replace("00Z", " " * n) + BARE + TAIL,
    "long gate": lambda n: HEAD + BARE + f"</payload><quality-gates><layer-1-input>{'- ' * (n // 2)}</layer-1-input>",
    "entities": lambda n: "<!DOCTYPE agent-message [" + '<!ENTITY a "b">' * (n // 15) + "]>" + HEAD + BARE + TAIL,
}


def spent(text: str) -> float:
    """The processor time that a text takes, the least of three runs."""
    runs: list[float] = []
    for _ in range(3):
        start = time.process_time()
        with suppress(InvalidEnvelope):
            find(text)
        runs.append(time.process_time() - start)
    return min(runs)


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_length(name: str) -> None:
    """Eight times the text takes nowhere near the 64 times that going over it again and again would take."""
    short, long = (spent(HOSTILE[name](size)) for size in (SIZE, 8 * SIZE))
    assert long < 24 * short, f"{short:.4f} s, then {long:.4f} s"


@pytest.mark.parametrize("name", ["open quotes", "open keys", "less-than signs", "backticks", "fences"])
def test_noise_holds_no_envelope(name: str) -> None:
    """Noise is refused with an error of its own, not with a failure of the reader."""
    with pytest.raises(InvalidEnvelope):
        find(HOSTILE[name](SIZE))


@pytest.mark.parametrize("name", ["less-than signs", "backticks", "fences", "unknown keys", "escape codes"])
def test_message_behind_noise_is_found(name: str) -> None:
    """A valid message behind a lot of noise is still found."""
    noise = HOSTILE[name](SIZE)
    if name == "unknown keys":
        noise = noise.replace("sender", "who").replace("payload", "what")
    found = find(f"{noise}\n{HEAD}<progress>x</progress>{TAIL}")
    assert found.envelope.payload.progress == "x"


def test_doctype_is_refused() -> None:
    """A document type in front of the message is refused, whatever is in it; one that is talked about is not."""
    message = HEAD + "<progress>&who; & co</progress>" + TAIL
    with pytest.raises(InvalidEnvelope, match="DOCTYPE"):
        find(f'<!DOCTYPE agent-message [<!ENTITY who SYSTEM "file:///etc/passwd">]>\n{message}')
    found = find(f"I put `<!DOCTYPE html>` first.\n{message}")
    assert found.envelope.payload.progress == "&who; & co"


def test_too_long_texts_and_messages_are_refused() -> None:
    """Beyond the limits the error says so, and what the limit is."""
    with pytest.raises(InvalidEnvelope, match=f"at most {MAX_TEXT}"):
        find("x" * (MAX_TEXT + 1))
    with pytest.raises(InvalidEnvelope, match=f"at most {MAX_BYTES}"):
        find(HEAD + f"<progress>{'x' * MAX_BYTES}</progress>" + TAIL)
    with pytest.raises(InvalidEnvelope, match=f"more than {MAX_BYTES}"):
        find('{"sender": "@a", "payload": {"progress": "' + "x" * (MAX_BYTES // 2) + '", ' + '"x":1,' * MAX_BYTES)
