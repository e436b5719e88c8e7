"""@scout: reads the project's notes, says how far it is while it works, and lists every change that it found.

It leaves its result in completion.json, in the handoff shorthand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

CHANGE = re.compile(r"- (added|changed|fixed): (.+)")


def main() -> None:
    """Read the delegation, do the work, leave the completion."""
    delegation = json.loads(sys.stdin.readline())
    project = Path(delegation["payload"]["artifacts"][0]["path"])
    changes: list[dict[str, object]] = []
    words = 0
    files = sorted(project.glob("notes/*.md"))
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            words += len(line.split())
            if found := CHANGE.fullmatch(line):
                changes.append({"file": f"notes/{file.name}", "line": number, "kind": found[1], "text": found[2]})
    said = f"read {len(files)} files, {words} words"
    # Any agent may call `bus` while it works: what it needs stands in its environment.
    subprocess.run(
        ["bus", "progress", os.environ["BUS_TASK"], said, "--fraction", "0.5"],  # noqa: S607 - from the PATH it was given
        check=True,
        stdout=subprocess.DEVNULL,
    )
    findings = project / "findings.json"
    findings.write_text(json.dumps({"words": words, "changes": changes}, indent=2), encoding="utf-8")
    completion = {
        "status": "success",
        "description": f"{len(changes)} changes in {len(files)} files",
        "outputs": [str(findings)],
        "verification_result": "Each change has its file and line",
        # No model runs in this demo: these figures are samples.
        "usage": [
            {
                "provider": "sample",
                "model": "sample-small",
                "input_tokens": 2400,
                "output_tokens": 310,
                "cost": {"source": "priced", "table": "sample figures", "microusd": 1875},
            }
        ],
    }
    Path("completion.json").write_text(json.dumps(completion), encoding="utf-8")


if __name__ == "__main__":
    main()
