"""A recording: how one run of a real agent's program ended, as it is kept beside the tests.

Made by `record`, read by the tests, which need neither the program nor a network.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskbus_agents.adapter import Job
from taskbus_agents.definition import Definition
from taskbus_agents.runner import Ended

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent / "recordings"
WORKPLACE = Path("/folder")
"""What stands in recordings for the folder that the program worked in, and HOME for its home."""
HOME = Path("/home-of-the-run")
MADE = "made.txt"
"""The file that a program is made to write, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One run: what it was, how it ended, what it left, and what the models' server saw of it.

    `replies` are those in which the server told what they used: `told` tokens in each, of which `cached` ones were
    read from a cache and `reasoning` ones spent on that. `made` says whether the file that the program was to write
    was there in the end.
    """

    cli: str
    version: str
    case: str
    model: str
    permission: str
    limit: int | None = None
    argv: list[str]
    code: int
    cut: str | None = None
    replies: int
    told: tuple[int, int] = (1234, 56)
    cached: int = 0
    reasoning: int = 0
    made: bool = False
    stdout: str
    stderr: str
    read: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a test calls it."""
        return f"{self.cli}-{self.version}-{self.case}"

    def job(self) -> Job:
        """Make the job that the program had."""
        return Job(
            prompt="",
            folder=WORKPLACE,
            home=HOME,
            limit=self.limit,
            key="made-up",
            definition=Definition(
                name="@recorded",
                adapter=self.cli,
                provider="stub",
                model=self.model,
                base_url="http://127.0.0.1:1",
                key="STUB_KEY",
                home="private",
                permission=self.permission,  # type: ignore[arg-type]
            ),
        )

    def ended(self, **changed: Any) -> Ended:
        """Make the end that the runner saw; `changed` are fields that a test has otherwise."""
        ended = Ended(self.code, self.stdout.encode(), self.stderr.encode(), 1.0, self.cut)  # type: ignore[arg-type]
        return dataclasses.replace(ended, **changed)

    def files(self) -> dict[str, bytes]:
        """Make the files that the adapter asked to read."""
        return {name: text.encode() for name, text in self.read.items()}

    def write(self) -> Path:
        """Keep it, in the folder of its program's version."""
        path = FOLDER / f"{self.cli}-{self.version}" / f"{self.case}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def load() -> list[Recording]:
    """Read all recordings, in the order of their names."""
    found = sorted(FOLDER.glob("*/*.json"))
    plain = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    return [Recording(**{**each, "told": tuple(each["told"])}) for each in plain]
