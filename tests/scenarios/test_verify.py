"""Verifying as a user does it: what is tampered with is named, nothing else is, and kept heads tell of all."""

from __future__ import annotations

import json
import shutil
import sqlite3

import zstandard


def fill(bus, *tasks):
    """Tasks that were given and called off, with nothing left to do about them."""
    for task in tasks:
        bus.ok("delegate", "@kilo", f"The goal of {task}.", "--task", task)
        bus.ok("cancel", task, "Not needed.")
    for agent in ("@human", "@kilo"):
        bus.ok("inbox", agent, "--settle")


def folder(bus):
    """The home of the bus."""
    return bus.command.folder / ".bus"


def database(bus):
    """Its database."""
    return next((folder(bus) / "projections").glob("*.db"))


def wrong(bus, *arguments):
    """What `bus verify` finds that is wrong, which there must be."""
    done = bus("verify", "--json", *arguments)
    assert done.code == 1, done
    found = done.json()
    assert found["ok"] is False
    return found["discrepancies"]


def test_a_whole_life_of_a_log(bus):
    """New, folded, archived, trimmed and gone on: always sound, and what no witness has seen yet is said."""
    done = bus("verify")
    assert (done.code, "there is nothing yet" in done.stdout, "the audit table" in done.stderr) == (0, True, True)
    fill(bus, "a", "b")
    done = bus("verify")
    assert (done.code, "newest 4 stand in the log alone" in done.stderr) == (0, True)
    bus.ok("project")
    found = json.loads(bus.ok("verify", "--json"))
    assert set(found) == {"ok", "verified", "unwitnessed", "unchecked", "head", "discrepancies"}
    assert (found["ok"], found["unwitnessed"], found["unchecked"], found["discrepancies"]) == (True, 0, [], [])
    assert found["verified"] == {"archive": 0, "audit table": 4, "log": 4}
    bus.ok("archive", "--all", "--size", "3")
    fill(bus, "c")
    found = json.loads(bus.ok("verify", "--json"))
    assert found["verified"] == {"archive": 4, "audit table": 4, "log": 3}
    assert (found["unwitnessed"], found["head"]["n"]) == (2, 6)
    bus.ok("rebuild")
    assert "every link agrees up to #6" in bus.ok("verify")


def test_what_is_tampered_with_is_named_in_each_copy(bus):
    """A body in the archive, in the log, in the audit table: copy, kind and number on the first line, exit code 1."""
    fill(bus, "a", "b", "c")
    bus.ok("project")
    bus.ok("archive", "--all", "--no-trim")
    sound = shutil.copytree(folder(bus) / "archive", bus.command.folder / "sound")

    (segment,) = (folder(bus) / "archive").rglob("*.zst")
    lines = zstandard.ZstdDecompressor().decompress(segment.read_bytes()).replace(b"goal of b", b"g0al of b")
    segment.write_bytes(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(lines))
    done = bus("verify")
    assert (done.code, done.stdout.startswith("archive: changed #3 ")) == (1, True), done
    assert [(each["copy"], each["n"]) for each in wrong(bus)] == [("archive", 3)]
    assert bus("verify", "--archive", sound).code == 0

    shutil.rmtree(folder(bus) / "archive")
    shutil.copytree(sound, folder(bus) / "archive")
    copy = shutil.copyfile(database(bus), bus.command.folder / "copy.db")
    with sqlite3.connect(copy) as table:
        table.execute("UPDATE events SET sender = '@mallory', id = char(27) || '[31mred' WHERE n = 2")
    table.close()
    assert [(each["copy"], each["kind"], each["n"]) for each in wrong(bus, "--database", copy)] == [
        ("audit table", "changed", 2)
    ]
    done = bus("verify", "--database", copy)
    assert ("\\x1b[31mred" in done.stdout, "\x1b" in done.stdout, "bus rebuild" in done.stderr) == (True, False, True)
    assert bus("verify").code == 0

    entry = bus.log()[4]
    bus.on_bus(lambda bus: bus.connection.execute("XDEL", bus.keys.log, entry.position.entry))
    (found,) = wrong(bus)
    assert (found["copy"], found["kind"], found["n"], found["id"]) == ("log", "removed", 5, entry.id)


def test_an_archive_that_is_gone_is_named(bus):
    """After a trim it is all that there is of that part, and the audit table does not make up for it."""
    fill(bus, "a", "b")
    bus.ok("project")
    bus.ok("archive", "--all")
    away = shutil.move(folder(bus) / "archive", bus.command.folder / "away")
    (found,) = wrong(bus)
    assert (found["copy"], found["kind"], found["n"], found["last"]) == ("archive", "removed", 1, 3)
    assert bus("verify", "--archive", away).code == 0


def test_a_database_that_cannot_be_read_is_named(bus):
    """It is no database any more, or not there: the one is wrong, the other is said."""
    fill(bus, "a")
    bus.ok("project")
    path = database(bus)
    path.write_bytes(b"garbage" * 1000)
    (found,) = wrong(bus)
    assert found["copy"] == "audit table"
    path.unlink()
    done = bus("verify", "--json")
    assert (done.code, len(done.json()["unchecked"])) == (0, 1)


def test_heads_that_are_kept_elsewhere_tell_of_a_chain_that_was_made_anew(bus, tmp_path):
    """Exported, then everything made anew by somebody who can change all copies: only the heads know."""
    fill(bus, "a", "b")
    bus.ok("project")
    heads = tmp_path / "heads.json"
    bus.ok("verify", "--export", heads)
    fill(bus, "c")
    assert bus("verify", "--against", heads).code == 0
    assert bus("verify", "--against", "-", input=heads.read_bytes()).code == 0

    async def forge(bus):
        entries = await bus.connection.range(bus.keys.log)
        await bus.connection.execute("DEL", bus.keys.log)
        for position, fields in entries:
            fields[b"body"] = fields[b"body"].replace(b"goal of b", b"gaol of b")
            await bus.connection.execute(
                "XADD", bus.keys.log, position, *[w for field in fields.items() for w in field]
            )

    bus.on_bus(forge)
    bus.ok("rebuild")
    assert bus("verify").code == 0
    (found,) = wrong(bus, "--against", heads)
    assert (found["copy"], found["kind"], found["n"], found["last"]) == ("exported heads", "changed", 1, 4)
    done = bus("verify", "--against", heads, "--export", tmp_path / "later.json")
    assert (done.code, (tmp_path / "later.json").exists(), "No heads were exported" in done.stderr) == (1, False, True)


def test_mistakes_with_files_of_heads(bus, tmp_path):
    """A place that cannot be written to, and files that are no heads, or another log's: said, with their own codes."""
    fill(bus, "a")
    done = bus("verify", "--export", tmp_path / "nowhere" / "heads.json")
    assert (done.code, done.stdout) == (2, "")  # said before everything is read, not behind
    assert bus("verify", "--export", "-", "--json").code == 2
    exported = json.loads(bus("verify", "--export", "-").stdout)
    assert exported["heads"][-1]["n"] == 2
    file = tmp_path / "heads.json"
    for content, code in (("garbage", 8), ("{}", 8), (json.dumps(exported | {"prefix": "\x1b[31mother:{0}:"}), 1)):
        file.write_text(content)
        done = bus("verify", "--against", file)
        assert (done.code, "\x1b" in done.stderr) == (code, False), done
    assert bus("verify", "--against", tmp_path / "none.json").code == 2
    assert bus("verify", "--export", "/dev/full").code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_server_that_is_away_is_told(bus):
    """Nothing is said to be right then."""
    done = bus("verify", "--json", "--url", "unix:///nowhere/s.sock")
    assert (done.code, done.json()["error"]) == (5, "NoServer")


def test_looking_back(bus):
    """Each query answers as of a moment, also of a part that was trimmed, and `bus diff` tells what came since."""
    fill(bus, "a")
    bus.ok("delegate", "@kilo", "Later.", "--task", "b")
    before = bus.last().position
    asked = [json.loads(bus.ok(*words, "--json")) for words in (("tasks",), ("task", "a"), ("audit",))]
    bus.ok("ack", "b")
    bus.ok("complete", "b", "--status", "success")
    bus.ok("accept", "b")
    fill(bus, "c")
    bus.ok("project")
    bus.ok("archive", "--all")

    for words, then in zip((("tasks",), ("task", "a"), ("audit",)), asked, strict=True):
        now = json.loads(bus.ok(*words, "--json", "--at", str(before), "--no-sync"))
        assert {**now, "at": None} | {"states": None} == {**then, "at": None} | {"states": None}
    number = f"#{asked[2]['envelopes'][-1]['n']}"
    assert json.loads(bus.ok("tasks", "--json", "--at", number))["position"] == str(before)
    found = json.loads(bus.ok("diff", "--from", number, "--json"))
    assert [(task["id"], task["state"], (task["before"] or {}).get("state")) for task in found["tasks"]] == [
        ("b", "accepted", "submitted"),
        ("c", "canceled", None),
    ]
    assert (found["from"], found["total"]) == (str(before), 2)
    assert [task["id"] for task in json.loads(bus.ok("diff", "--from", "0", "-n", "1", "--json"))["tasks"]] == ["c"]
    assert "submitted" in bus.ok("diff", "--from", str(before), "--to", "now")
    assert bus.ok("diff", "--from", str(before), "--csv").splitlines()[1].startswith("b,b,submitted,accepted")
    # What one moment was folded into serves the other: no folder within a folder.
    assert [path for path in (folder(bus) / "projections" / "past").glob("*/*") if path.is_dir()] == []


def test_mistakes_in_moments(bus):
    """What is to come, what is no moment, and what is before the first envelope."""
    fill(bus, "a")
    assert bus("tasks", "--at", "2999-01-01T00:00:00Z").code == 2
    assert bus("tasks", "--at", "once").code == 2
    assert bus("audit", "--since", "#99").code == 3
    done = bus("tasks", "--at", "2020-01-01T00:00:00Z")
    assert (done.code, "Nothing stood in the log" in done.stderr) == (0, True)
    assert bus("diff", "--from", "1h", "--to", "2h").code == 2
    assert bus("diff", "--from", "1h", "--at", "2h").code == 2
    assert bus("diff").code == 2
    assert "Nothing has changed" in bus("diff", "--from", "now").stderr
