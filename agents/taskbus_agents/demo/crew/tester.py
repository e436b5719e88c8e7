"""@tester: checks the release notes against each acceptance criterion, and says what it saw.

It answers as a language model would: an XML envelope with talk around it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape


def check(project: Path) -> dict[str, tuple[bool, str]]:
    """Each criterion: whether it is met, and what shows it."""
    lines = (project / "RELEASE.md").read_text(encoding="utf-8").splitlines()
    changes = json.loads((project / "findings.json").read_text(encoding="utf-8"))["changes"]
    missing = [change for change in changes if f"- {change['text']}" not in lines]
    seen = f"{len(changes) - len(missing)} of {len(changes)} changes are listed"
    if missing:
        seen += f"; the first missing one is {missing[0]['file']} line {missing[0]['line']}"
    return {
        "RELEASE.md begins with the version": (lines[0].startswith("# Version "), f"line 1: {lines[0]}"),
        "RELEASE.md lists every change": (not missing, seen),
    }


def main() -> None:
    """Check, keep the evidence in a file, and tell how many criteria are met."""
    delegation = json.loads(sys.stdin.readline())
    project = Path(delegation["payload"]["artifacts"][0]["path"])
    results = check(project)
    evidence = project / "evidence.json"
    evidence.write_text(json.dumps(results, indent=2), encoding="utf-8")
    met = sum(result for result, _ in results.values())
    seen = "; ".join(text for _, text in results.values())
    report = f"""I have read RELEASE.md. {met} of {len(results)} criteria are met; here is my report:

<agent-message>
  <sender>{os.environ["BUS_AGENT"]}</sender>
  <recipient>{delegation["sender"]}</recipient>
  <type>task-completion</type>
  <context>
    <task-id>{os.environ["BUS_TASK"]}</task-id>
    <timestamp>{datetime.now(UTC).isoformat()}</timestamp>
  </context>
  <payload>
    <result>
      <success>true</success>
      <description>{met} of {len(results)} criteria met</description>
      <artifacts><file path="{escape(str(evidence))}">What was seen</file></artifacts>
    </result>
    <verification-result>{escape(seen)}</verification-result>
  </payload>
  <usage>
    <call>
      <provider>sample</provider>
      <model>sample-unknown</model>
      <input-tokens>900</input-tokens>
      <output-tokens>120</output-tokens>
    </call>
  </usage>
</agent-message>

Tell me if I should look at anything else."""
    print(report)  # noqa: T201 - stdout is where an agent answers


if __name__ == "__main__":
    main()
