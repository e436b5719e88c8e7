"""What adapters make of the recorded runs of real agents' programs, and of what is left of such runs in worse cases."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

import pytest

from taskbus_agents.adapters import ADAPTERS, adapter
from tests.agents.recording import Recording, load
from tests.agents.scrubbing import Scrubber

PROGRAMS = sorted(set(ADAPTERS) - {"acp"})
RECORDINGS = load()
SUCCESSES = [each for each in RECORDINGS if each.case == "success"]
TOOLS = [each for each in RECORDINGS if each.case == "tool"]


def named(recordings):
    """Parametrise a test over recordings."""
    return pytest.mark.parametrize("recording", recordings, ids=lambda recording: recording.name)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a case comes to: its trouble, and where they are not what the server says, its tokens.

    `made` says whether the file was written in the end, None that it may have been.
    """

    trouble: str | None = None
    tokens: tuple[int, int] | None = None
    made: bool | None = False
    refused: tuple[str, ...] = ()
    is_silent: bool = False
    """Whether it tells of no tokens though there were some."""
    tells_cache: bool = True


EXPECTED = {
    "success": Expected(),
    "cached": Expected(),
    "reasoning": Expected(),
    "unknown-model": Expected(),
    "tool": Expected(made=True),
    "bypass": Expected(made=True),
    "refused": Expected(),
    "unauthorized": Expected(trouble="authentication"),
    "quota": Expected(trouble="quota"),
    "quota-until": Expected(trouble="quota"),
    "usage-limit": Expected(trouble="quota"),
    "subscription-limit": Expected(trouble="quota"),
    "failing": Expected(trouble="model-error"),
    "rejected": Expected(trouble="model-error"),
    "late-failure": Expected(trouble="model-error", made=True),
    "dropped": Expected(trouble="model-error"),
    "killed": Expected(trouble="killed"),
    "deadline": Expected(trouble="timeout"),
    "late-deadline": Expected(trouble="timeout", made=True),
    "turn-limit": Expected(trouble="turn-limit", made=True),
    "money-limit": Expected(trouble="money-limit", made=None),
}
"""What a case comes to with every program."""

APART = {
    # It tries a stream again that broke off, and then takes what it has; its input was told as each stream began.
    ("claude", "dropped"): Expected(tokens=(3 * 1234, 58)),
    # A call's output tokens are told after the call, in a record that was never written.
    ("claude", "late-deadline"): Expected(trouble="timeout", made=True, tokens=(1234, 1)),
    # It offers the tool, and asks for leave to use it.
    ("copilot", "refused"): Expected(refused=("create",)),
    # It heeds no TERM, and was ended by the recorder's own limit.
    ("cline", "killed"): Expected(trouble="timeout"),
    # It asks again without end when a reply breaks off.
    ("opencode", "dropped"): Expected(trouble="timeout"),
    # One reply is all that it asks for: what comes after the first does not concern it.
    ("aider", "late-failure"): Expected(made=True),
    ("aider", "late-deadline"): Expected(made=True),
    ("aider", "cached"): Expected(tells_cache=False),
    # It asks for whole replies, no streams: nothing is cut off.
    ("aider", "dropped"): Expected(),
    # It waits for as long as the server said, longer than the run may take, and tells nothing of that.
    ("qwen", "quota-until"): Expected(trouble="timeout"),
}
"""Where one program is apart from the others, and why."""


def report(recording: Recording, read=None, **changed):
    """Have a recording read by its adapter, with another end than it had."""
    files = recording.files() if read is None else read
    return adapter(recording.cli).report(recording.ended(**changed), recording.job(), files)


def truncated(text: bytes) -> list[bytes]:
    """Cut a text off: after every byte of its last ones, where what ends it stands, and after many before."""
    lengths = {*range(0, len(text), max(1, len(text) // 60)), *range(max(0, len(text) - 120), len(text))}
    return [text[:length] for length in sorted(lengths)]


@named(RECORDINGS)
def test_recording_comes_to(recording):
    """Each recorded run is read as what it was."""
    expected = APART.get((recording.cli, recording.case)) or EXPECTED[recording.case]
    told = report(recording)
    assert told.trouble == expected.trouble
    assert bool(told.message) == (told.trouble is not None)
    assert expected.made in {None, recording.made}
    assert told.refused == expected.refused
    if recording.case in {"success", "tool"}:
        assert told.said.endswith("STUB-OK: task complete.")


@named(RECORDINGS)
def test_tokens_are_those_that_the_server_told(recording):
    """What a run used is what the models' server said in its replies, cached and reasoning tokens within the sums."""
    expected = APART.get((recording.cli, recording.case)) or EXPECTED[recording.case]
    told = report(recording)
    if expected.is_silent:
        assert told.usage == ()
        assert told.notes
        return
    given, put = recording.told
    tokens = expected.tokens or (recording.replies * given, recording.replies * put)
    assert sum(call.input_tokens or 0 for call in told.usage) == tokens[0]
    assert sum(call.output_tokens or 0 for call in told.usage) == tokens[1]
    cached = recording.replies * recording.cached if expected.tells_cache else 0
    assert sum(call.cache_read_tokens or 0 for call in told.usage) == cached
    assert all(call.model == recording.model and call.provider == "stub" for call in told.usage)


@named(RECORDINGS)
def test_launch_is_the_recorded_one(recording):
    """A recording speaks for the command line that its adapter has today, which shows neither the task nor the key."""
    known = adapter(recording.cli)
    scrub = Scrubber({})
    command = [scrub(word) for word in known.launch(recording.job()).command]
    assert command == recording.argv[: len(command)]
    assert "made-up" not in " ".join(command)
    assert known.tried[-1] == recording.version


@named([each for each in RECORDINGS if each.case in {"success", "tool"}])
def test_truncated_output_is_no_success(recording):
    """Output that breaks off says success only as long as nothing is missing of what is made of it."""
    whole = report(recording)
    for printed in truncated(recording.ended().stdout.rstrip()):
        told = report(recording, stdout=printed)
        assert told.trouble is not None or told == whole
    for name, content in recording.files().items():
        for kept in truncated(content.rstrip()):
            told = report(recording, {**recording.files(), name: kept})
            assert told.trouble is None or told.message


@named(SUCCESSES)
def test_nothing_is_no_success(recording):
    """A program that ends well and prints nothing, or only for people, has not said that it succeeded."""
    nothing = dict.fromkeys(recording.files(), b"")
    for printed in (
        b"",
        b"\n\n",
        b"Done. All tests pass.\n",
        b"null",
        b"[]",
        b"{}",
        b"0",
        b'"success"',
        b"\xff\xfe\x00",
    ):
        for read in (nothing, {}):
            told = report(recording, read, stdout=printed, stderr=b"")
            assert told.trouble is not None
            assert told.usage == ()


@named(SUCCESSES)
def test_noise_is_no_success(recording):
    """Bytes without a meaning are no success, on stdout or in files that the program leaves."""
    noise = random.Random(1)
    for size in (1, 10, 1000, 100_000):
        bytes_ = noise.randbytes(size)
        told = report(recording, dict.fromkeys(recording.files(), bytes_), stdout=bytes_, stderr=bytes_)
        assert told.trouble is not None


@named(SUCCESSES)
def test_other_json_is_no_success(recording):
    """Lines of JSON that are none of the program's own are no success, however deep or odd they are."""
    lines = [
        b'{"status": "success"}',
        b'{"result": "success", "is_error": false}',
        b'{"type": null}\n{"type": ["result"]}\n{"type": {"type": "result"}}',
        b'[{"type": 1}, 2, null, [[]]]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"type": "result", "subtype": 7, "is_error": "no", "usage": [1], "status": [], "exitCode": "0"}',
        b"9" * 10_000,
        b'{"type": "result"}',
    ]
    for printed in lines:
        told = report(recording, dict.fromkeys(recording.files(), printed), stdout=printed)
        assert told.trouble is not None


FAMILIES = [{"claude", "qwen"}, {"opencode", "kilo"}]
"""Programs whose records are alike."""


def strangers():
    """Pair each program's success with the adapters of all programs whose records are not like its own."""
    for recording in SUCCESSES:
        alike = next((family for family in FAMILIES if recording.cli in family), {recording.cli})
        for name in sorted(set(PROGRAMS) - alike):
            yield pytest.param(name, recording, id=f"{name}-{recording.name}")


@pytest.mark.parametrize(("name", "recording"), list(strangers()))
def test_success_of_another_program_is_none_of_ours(name, recording):
    """An adapter takes nothing for success that another program has printed."""
    told = adapter(name).report(recording.ended(), recording.job(), recording.files())
    assert told.trouble is not None


@named(TOOLS)
def test_values_of_any_kind_are_read_without_raising(recording):
    """Whatever stands in the place of a value, an adapter reads on; and a count that is none is not counted."""
    odd = (None, [], {}, "", "x", -1, 1.5, 1e308, 10**400, True, ["x"], {"x": {}})
    texts = {"stdout": recording.stdout, **recording.read}
    for name, text in texts.items():
        for changed in mutated(text, odd):
            files = recording.files()
            if name == "stdout":
                told = report(recording, files, stdout=changed.encode())
            else:
                told = report(recording, {**files, name: changed.encode()})
            assert all(isinstance(call.model, str) and call.model for call in told.usage)
            counts = [(call.input_tokens, call.output_tokens, call.cost) for call in told.usage]
            assert all(given is None or given >= 0 for given, _, _ in counts)


def mutated(text: str, values) -> list[str]:
    """Put each of these values, in turn, in the place of every value of every JSON document."""
    lines = text.split("\n")
    found = []
    for at, line in enumerate(lines):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        for path in places(document):
            for value in values:
                changed = json.dumps(replaced(document, path, value))
                found.append("\n".join([*lines[:at], changed, *lines[at + 1 :]]))
    return found


def places(document, path=()):
    """List the paths to all values of a document that are not far down."""
    if len(path) > 4:
        return
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


def replaced(document, path, value):
    """Copy a document with another value at the end of a path."""
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value) if len(path) > 1 else value
    return copy


@named(SUCCESSES)
def test_end_from_outside_is_no_success(recording):
    """A run that was cut, killed or ended with an error is no success, whatever it has printed before."""
    assert report(recording, cut="timeout", code=-15).trouble == "timeout"
    assert report(recording, cut="output", code=-9).trouble is not None


@named([each for each in RECORDINGS if each.case == "failing"])
def test_success_does_not_hide_a_failure_after_it(recording):
    """Where a program prints a success and then a failure, it has failed."""
    (success,) = [each for each in SUCCESSES if each.cli == recording.cli]
    told = report(recording, stdout=success.ended().stdout + b"\n" + recording.ended().stdout)
    assert told.trouble is not None


@named([each for each in SUCCESSES if each.cli in {"codex", "copilot", "gemini", "qwen"}])
def test_two_results_are_no_success(recording):
    """Of a program that ends with one result, two are no success, not even where both say so."""
    printed = recording.ended().stdout
    (failure,) = [each for each in RECORDINGS if each.cli == recording.cli and each.case == "failing"]
    assert report(recording, stdout=printed + b"\n" + printed).trouble is not None
    assert report(recording, stdout=failure.ended().stdout + b"\n" + printed).trouble is not None


def test_recordings_say_nothing_of_where_they_were_made():
    """A recording holds no path, port, host or user of the machine that it was made on."""
    texts = {each.name: json.dumps([each.argv, each.stdout, each.stderr, *each.read.values()]) for each in RECORDINGS}
    place = re.compile(r"(?<![\w.$}>-])/(?:work|root|home|Users)/\w|recording-\w{8}")
    assert {name: found[0] for name, text in texts.items() if (found := place.search(text))} == {}
    assert {name: len(text) for name, text in texts.items() if len(text) > 60_000} == {}


def test_every_adapter_is_recorded():
    """Whoever adds an adapter, or says that it was tried with a newer version, makes its recordings."""
    recorded = {(each.cli, each.version) for each in RECORDINGS}
    assert recorded == {(name, adapter(name).tried[-1]) for name in PROGRAMS}
    cases = {name: {each.case for each in RECORDINGS if each.cli == name} for name in PROGRAMS}
    needed = {"success", "tool", "refused", "unauthorized", "quota", "failing", "killed", "deadline"}
    assert {name: needed - found for name, found in cases.items() if needed - found} == {}
