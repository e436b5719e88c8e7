"""@writer: writes the release notes; asks for what it was not told, and learns from a rejection.

It prints envelopes in JSON. Each line of its stdin is one message of the talk so far.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HEADINGS = {"added": "Added", "changed": "Changed", "fixed": "Fixed"}


def say(delegation: dict[str, Any], kind: str, payload: dict[str, object], usage: list[object]) -> None:
    """Print an envelope to whoever delegated the task."""
    context = {"task_id": os.environ["BUS_TASK"], "timestamp": datetime.now(UTC).isoformat()}
    envelope = {
        "sender": os.environ["BUS_AGENT"],
        "recipient": delegation["sender"],
        "type": kind,
        "context": context,
        "payload": payload,
        "usage": usage,
    }
    print(json.dumps(envelope))  # noqa: T201 - stdout is where an agent answers


def main() -> None:
    """Ask for the version first; leave the fixes out, unless a verdict has asked for every change."""
    delegation, *talk = [json.loads(line) for line in sys.stdin]
    answers = [message["payload"]["answer"] for message in talk if message["type"] == "answer"]
    if not answers:
        say(delegation, "question", {"question": "Which version is it?", "blocks": ["the heading"]}, [])
        return
    project = Path(delegation["payload"]["artifacts"][0]["path"])
    changes = json.loads((project / "findings.json").read_text(encoding="utf-8"))["changes"]
    # A mistake that an agent could make, and that the review finds.
    kinds = list(HEADINGS) if talk[-1]["type"] == "verdict" else ["added", "changed"]
    lines = [f"# Version {answers[-1]}"]
    for kind in kinds:
        lines += ["", f"## {HEADINGS[kind]}", ""]
        lines += [f"- {change['text']}" for change in changes if change["kind"] == kind]
    release = project / "RELEASE.md"
    release.write_text("\n".join(lines) + "\n", encoding="utf-8")
    listed = sum(line.startswith("- ") for line in lines)
    # No model runs in this demo: these figures are samples.
    cost = {"source": "priced", "table": "sample figures", "microusd": 21_750}
    tokens = {"input_tokens": 5200, "output_tokens": 410, "cache_read_tokens": 1800}
    say(
        delegation,
        "completion",
        {
            "result": {
                "status": "success",
                "description": f"RELEASE.md, {listed} changes",
                "artifacts": [{"path": str(release)}],
            }
        },
        [{"provider": "sample", "model": "sample-large", **tokens, "cost": cost}],
    )


if __name__ == "__main__":
    main()
