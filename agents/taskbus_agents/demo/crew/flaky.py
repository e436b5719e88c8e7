"""@flaky: wants to sign the archive with a key that is not there; it crashes first, and asks for help the next time."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path


def main() -> None:
    """Fail like a program that nobody prepared for this; on a later attempt, escalate instead."""
    delegation = json.loads(sys.stdin.readline())
    project = Path(delegation["payload"]["artifacts"][0]["path"])
    key = project / "signing.key"
    if os.environ["BUS_ATTEMPT"] == "1" and not key.exists():
        sys.exit(f"cannot open {key.name}")
    trouble = {
        "level": 2,
        "category": "integration",
        "message": f"There is no {key.name}, and I pack nothing unsigned",
        "attempted_recovery": f"Looked through {len(list(project.rglob('*')))} files for another key",
    }
    print(  # noqa: T201 - stdout is where an agent answers
        json.dumps(
            {
                "sender": os.environ["BUS_AGENT"],
                "recipient": delegation["sender"],
                "type": "escalation",
                "context": {
                    "task_id": os.environ["BUS_TASK"],
                    "timestamp": datetime.now(UTC).isoformat(),
                },
                "payload": {"error_details": trouble},
            }
        )
    )


if __name__ == "__main__":
    main()
