"""The manual of `bus agent run`: what its help says of the contract between a worker and its command."""

from __future__ import annotations

from typing import Final

RUN: Final = """Work for one agent: run its program, or COMMAND, as a subprocess for each delivery.

Without COMMAND the agent is one that bus.toml or a folder of agents defines (`bus agents list`): its program is run
headless in a workspace, on the definition's terms; an option here goes before them. What counts as success then,
docs/agents.md says. All of the following is about COMMAND.

The subprocess reads from stdin, one JSON envelope per line: the delegation, and what was said since. It leaves
a completion, a question or an escalation in completion.json in its folder, or on stdout: the handoff shorthand,
or an envelope in JSON or XML, also with other text around it; the last one counts. Without one, and with any
exit code but 0 and 75, the task has failed.

In short, a completion is {"status": "success"}, with description, outputs and more (`bus template completion`);
success, partial and failure are the words. A question is {"question": "…", "blocks": ["…"]}. One that asks has
ended, and is run again with the answer:

\b
  talk=$(cat)
  case $talk in
    *'"type":"answer"'*) echo '{"status": "success", "description": "As you said."}' ;;
    *) echo '{"question": "Blue or green?", "blocks": ["the logo"]}' ;;
  esac

One that cannot go on says {"escalation": "what happened"}, or `bus escalate "$BUS_TASK" "what happened"`. It is run
on what is escalated to it as well, and says how that goes on: {"target_agent": "@name"}, {"answer": "…"} where the
task is its own, or {"escalation": "…"}; docs/agents.md tells of coordinators. Quality gates stand only in an envelope.

Exit code 75 asks to be tried again: after a pause, --attempts times in all; then the delivery is parked and
escalated (`bus parked ls`). One whose quota is used up says until when, in completion.json or as the last line on
stdout: {"retry_after": 3600} in seconds, or {"retry_at": "2026-11-20T18:00:00Z"}. Then the delivery waits until
that time, and this counts as no attempt, however often it happens: a deadline escalates it.

A sign of life, for --silence, is output, CPU time of any process that the subprocess started, or a change of one
of the 10,000 files nearest to its folder. Whatever a subprocess leaves running is ended with it: TERM, after 5
seconds KILL; so too when it is no longer wanted, and when the worker is killed.

Each run has a folder of its own, runs/TASK/ATTEMPT in the home, from the second run on ATTEMPT.2 and so on, unless
--cwd names one for all. So COMMAND may be a program here, but another relative path in it that exists here is
refused: write the full path. Outputs that the shorthand names and that are there are published with size and
SHA-256: under their full path, with --cwd under the path as it was written; one that is not there makes the success a
failure. Criteria of the delegation that can be run are run (`$ COMMAND`, `file: PATH`, `changed: PATH`, `schema: PATH
SCHEMA`, `says: WORDS`), and must be met. What the subprocess printed, but for an
outcome, stays in stdout.log and stderr.log (its last 16 KiB) in the folder; with --cwd in runs/TASK/ATTEMPT all the
same.

It finds BUS_TASK, BUS_TOKEN, BUS_ATTEMPT, BUS_TRY, BUS_AGENT, BUS_URL, BUS_NAMESPACE and BUS_HOME in its
environment, so that it can call `bus` itself; where its definition says so BUS_PROVIDER, BUS_MODEL, BUS_COORDINATOR,
and BUS_TEAM, the names of those whose coordinator it is; and BUS_PREVIOUS, the folder of the task's run before this
one, where it has one that is still there. BUS_ATTEMPT counts how often the task was handed out, BUS_TRY how often
this delivery was tried.

The first signal (TERM, INT, HUP) ends it with 0, once what is under way is done; what is not done within --grace
is ended and handed back, so that another worker takes it at once. A second signal does that without grace, and
ends with 128 and its number. Else it ends with 0, also when deliveries failed, unless it is --strict; and with 5
when the server cannot be used at the start.

\b
Examples:
  bus agent run @kilo -- python /path/to/agent.py
  bus agent run @kilo --timeout 10m --silence 5m --cwd . -- ./agent.sh --fast
  bus agent run @kilo --until-idle --strict --verbose -- ./agent.sh
  bus agent run @reviewer
"""
