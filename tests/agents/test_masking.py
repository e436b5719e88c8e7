"""What is a secret and what is an ordinary word, and that no secret gets into the log or the logs, by any way."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import anyio
import pytest

from taskbus import codec
from taskbus.envelope import Artifact, Completion, Gate, QualityGates, Question, Result, compose
from taskbus.settings import Settings
from taskbus_agents import handlers
from taskbus_agents.adapter import Report
from taskbus_agents.definition import Definition
from taskbus_agents.masking import Mask
from taskbus_agents.runner import Runner
from tests.agents.scene import AGENT, done

pytestmark = pytest.mark.anyio

SECRETS = [
    ("DB_PASSWORD", "hunter2secret"),
    ("SHORT_TOKEN", "tok-12345678"),
    ("PGPASSWORD", "swordfish"),
    ("SMTP_PASS", "a1b2c3"),
    ("MYSQL_PWD", "correct-horse"),
    ("KEY_PASSPHRASE", "correct horse battery staple"),
    ("INLINE_API_KEY", "inline-key-1234567890"),
    ("CREDENTIALS", "user9:pw9"),
    ("SECRET_KEY_BASE", "0123456789"),
    ("API_KEY_PROD", "/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("db_password", "qwertyuiop"),
    ("GITHUB_PAT", "pat-99x-77y"),
    ("API_TOKEN", "my-secret-token"),
    ("HOUSE_API_KEY", "my-house-key"),
    ("QUOTED_TOKEN", 'a"b\\c<d&e'),
]
ORDINARY = [
    ("TOKEN_HOST", "localhost"),
    ("SOME_TOKEN", "localhost"),
    ("TOKEN_ENDPOINT", "https://login.example.com/v2/token"),
    ("DB_PASSWORD_FILE", "/run/secrets/db-password-17"),
    ("SSH_KEY", "/var/keys/somebody/id_ed25519"),
    ("SORT_KEY", "created_at"),
    ("CACHE_KEY", "eu-central-1"),
    ("MODEL_KEY", "gpt-4o-mini"),
    ("USE_TOKEN", "true"),
    ("NO_PASSWORD", "none"),
    ("DB_PASSWORD", "postgres"),
    ("PORT_KEY", "5432"),
    ("FEATURE_SECRET", "disabled"),
    ("TOKEN_BUDGET_KEY", "120000"),
    ("MAX_OUTPUT_TOKENS", "32000000"),
    ("PRIMARY_KEY", "success"),
    ("MONKEY", "banana"),
    ("PWD", "/Gone/Away"),
    ("HOME", "/srv/somebody"),
    ("GREETING", "hunter2secret"),
]


@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_a_secret_is_known_by_its_name_and_its_form(name, value):
    """Also where it is short, and where it was written as JSON or XML."""
    mask = Mask.of({name: value})
    assert mask.text(f"it is {value}, is it?") == "it is ***, is it?"
    assert mask.data(f"{json.dumps({'a': value})}\n".encode()) == b'{"a": "***"}\n'


@pytest.mark.parametrize(("name", "value"), ORDINARY)
def test_what_stands_in_any_text_is_no_secret(name, value):
    """Whatever its variable is called: a text of which half is masked is of no use to anybody."""
    text = f"The run on {value} ended with success."
    assert Mask.of({name: value}).text(text) == text


def test_a_file_that_is_there_is_no_secret(tmp_path):
    """Also where its path looks like a key."""
    file = tmp_path / "K7MDENGbPxRfiCYEXAMPLEKEY"
    file.touch()
    assert Mask.of({"SIGNING_KEY": str(file)}).secrets == ()
    assert Mask.of({"SIGNING_KEY": f"{file}2"}).secrets == (f"{file}2",)


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("postgres://u:pw-in-url-99@h/db", "postgres://u:***@h/db"),
        ("redis://:s3cr@h:6379/0", "redis://:***@h:6379/0"),
        ("amqp://guest:guest@localhost", "amqp://guest:***@localhost"),
        ("https://h:8443/@scope/name@1.0", "https://h:8443/@scope/name@1.0"),
        ("git+ssh://git@h:22/a@v1", "git+ssh://git@h:22/a@v1"),
    ],
)
def test_a_password_in_an_address_is_masked_and_the_rest_is_not(address, masked):
    """Whoever printed it, and whether or not it is one of the environment's."""
    assert Mask().text(f"connecting to {address} now") == f"connecting to {masked} now"
    assert Mask().data(address.encode()) == masked.encode()


def test_a_password_of_an_address_is_masked_by_itself():
    """As a program prints it that has taken the address apart; an ordinary word is not."""
    environment = {
        "DSN": "postgres://u:pw%40in-url-99@h/db",
        "OTHER": "host=h user=u password=pq-77-pq dbname=d",
        "DEV": "postgres://postgres:postgres@h/db",
    }
    text = "pw%40in-url-99 pw@in-url-99 pq-77-pq postgres"
    assert Mask.of(environment).text(text) == "*** *** *** postgres"


def test_each_line_of_a_long_key_is_masked():
    """What comes line by line has never all of it."""
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----\n"
    assert Mask.of({"DEPLOY_KEY": key}).text("> MIIEvQIBADANBgkqhkiG9w0") == "> ***"


def test_what_an_agent_wrote_is_masked_in_every_form():
    """In the envelope, in its bytes, in what it was made of; one without a secret stays as it was written."""
    key = "sk-key-12345678"
    mask = Mask.of({"A_KEY": key})
    result = Result(status="success", description=f"it is {key}", artifacts=(Artifact(path="a", summary=key),))
    envelope = compose(Completion(result=result), sender=AGENT, recipient="@lead", task="t")
    envelope = replace_gates(envelope, QualityGates(output=Gate(outcome="passed", note=key)))
    made = mask.document(codec.document(envelope))
    assert key.encode() not in made.body + (made.source or b"")
    assert made.envelope.payload.result.description == "it is ***"
    assert codec.read(made.body).envelope == made.envelope
    plain = codec.document(compose(Question(question="Which?"), sender=AGENT, recipient="@lead", task="t"))
    assert mask.document(plain) is plain


def replace_gates(envelope, gates):
    """The envelope with these gates."""
    from msgspec import structs

    return structs.replace(envelope, quality_gates=gates)


def test_a_report_is_understood_before_it_is_masked():
    """A word of the format may be a secret by chance: the last message is read first, and masked as an envelope."""
    report = Report(said='{"status": "k3y-k3y-k3y"}', message="bad k3y-k3y-k3y", notes=("k3y-k3y-k3y",))
    found = Mask.of({"A_KEY": "k3y-k3y-k3y"}).report(report)
    assert (found.said, found.message, found.notes) == (report.said, "bad ***", ("***",))


SAYS = "$ echo $OTHER_SECRET $MYCRED; env; cat out.txt; exit 1"
VALUES = ("my-cred-1234", "other-5ecret", "inline-key-1234567890", "pw-in-url-99", "hunter2secret")
PRINTS = f"echo {' '.join(VALUES)}; echo {' '.join(VALUES)} >&2"


@pytest.mark.parametrize("how", ["not-met", "exit-code", "garbage", "no-json", "retry", "question", "envelope"])
async def test_a_program_of_the_users_shows_nobody_a_secret(scene, monkeypatch, tmp_path, how):
    """Neither what it says and prints, however it ends, nor what a check of it prints."""
    monkeypatch.setenv("MYCRED", VALUES[0])
    monkeypatch.setenv("OTHER_SECRET", VALUES[1])
    monkeypatch.setenv("DB_PASSWORD", VALUES[4])
    told = " ".join(VALUES)
    short = {"status": "success", "description": told, "verification_result": told, "next_steps": told}
    ends = {
        "not-met": f"echo {shlex.quote(json.dumps(short))}",
        "exit-code": f"echo {shlex.quote(json.dumps(short))}; exit 3",
        "garbage": f'echo \'{{"status": "{VALUES[0]}", "description": 3}}\'',
        "no-json": "true",
        "retry": "exit 75",
        "question": f"echo {shlex.quote(json.dumps({'question': told}))}",
        "envelope": f"echo 'Well.'; echo {shlex.quote(json.dumps(short))} > completion.json",
    }
    prints = PRINTS if how not in ("not-met", "exit-code", "question") else PRINTS.partition("; ")[2]
    script = f"{prints}; echo {told} > out.txt; {ends[how]}"
    lines = []
    await scene.delegate(SAYS)
    definition = Definition(
        name=AGENT,
        adapter="command",
        command=("sh", "-c", script),
        key="MYCRED",
        environment={"INLINE_API_KEY": VALUES[2], "DSN": f"postgres://u:{VALUES[3]}@h/db"},
    )
    settings = Settings.load(home=scene.home, environ={}, cwd=tmp_path)
    with anyio.fail_after(60):
        async with Runner(grace=0.5) as runner:
            agent = handlers.handler(definition, bus=scene.bus, runner=runner, settings=settings)
            agent = replace(agent, on_stderr=lambda _task, line: lines.append(line))
            await scene.bus.worker(AGENT, agent, attempts=1, backoff=0.01, supervision=None).run(until_idle=True)
    entries = [each async for each in scene.bus.log.read()]
    assert entries[-1].type in ("completion", "question", "escalation", "parking", "budget")
    written = b"".join(each.body + (each.source or b"") for each in entries)
    written += b"".join(each.read_bytes() for each in (scene.home / "runs").rglob("std*.log"))
    written += "".join(lines).encode()
    assert b"***" in written
    assert [value for value in VALUES if value.encode() in written] == []


async def test_a_real_agent_shows_nobody_a_short_secret(scene, monkeypatch):
    """Neither by a check nor by its last message, also of the variables that its definition sets."""
    monkeypatch.setenv("DB_PASSWORD", VALUES[4])
    monkeypatch.setenv("SHORT_TOKEN", "tok-12345678")
    await scene.delegate('$ env | grep -E "PASS|TOKEN"; exit 1')
    told = f"{VALUES[4]} tok-12345678"
    await scene.run(["stderr", told], ["write", "a", "x"], ["result", done(description=told)])
    written = b"".join([each.body + (each.source or b"") async for each in scene.bus.log.read()])
    assert b"DB_PASSWORD=***" in written
    assert [value for value in told.split() if value.encode() in written] == []
