"""From recorded runs of real programs to envelopes: each is printed again, through the shared run and a real bus."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from taskbus_agents.adapter import Launch
from taskbus_agents.adapters import adapter
from taskbus_agents.trouble import Conduct
from tests.agents.recording import MADE, load

if TYPE_CHECKING:
    from pathlib import Path

    from taskbus_agents.adapter import Report
    from tests.agents.recording import Recording

pytestmark = pytest.mark.anyio

# What the runs of every program come to: how the task was completed and why it ended, or why it was parked. Money is
# told in each.
COMPLETED = {
    "success": ("partial", "unproven"),
    "tool": ("success", None),
    "quota": ("failure", "quota"),
    "turn-limit": ("partial", "turn-limit"),
    "deadline": ("failure", "timeout"),
}
PARKED = {"unauthorized": "permanent", "failing": "retryable", "killed": "retryable"}
RECORDINGS = [each for each in load() if each.case in COMPLETED | PARKED]
SUCCESSES = [each for each in RECORDINGS if each.case == "success"]


@dataclass
class Replayed:
    """An adapter over a recording: its program prints what was printed, makes the file, and ends as it ended."""

    recording: Recording
    folder: Path
    stdout: bytes

    def __post_init__(self):
        """Be called as the adapter is."""
        self.real = adapter(self.recording.cli)
        self.name, self.program = self.real.name, self.real.program
        self.package, self.tried = self.real.package, self.real.tried
        self.reports: list[Report] = []

    def launch(self, _job):
        """A shell that does it."""
        (self.folder / "out").write_bytes(self.stdout)
        (self.folder / "err").write_text(self.recording.stderr)
        lines = [f"cat {shlex.quote(str(self.folder / 'out'))}", f"cat {shlex.quote(str(self.folder / 'err'))} >&2"]
        if self.recording.made:
            lines.append(f"echo made > {MADE}")
        if self.recording.cut:
            lines.append("sleep 600")
        elif self.recording.code < 0:
            lines.append(f"kill {self.recording.code} $$")
        else:
            lines.append(f"exit {self.recording.code}")
        return Launch(command=("sh", "-c", "\n".join(lines)))

    def report(self, ended, _job, _read):
        """What the real adapter says of it."""
        self.reports.append(self.real.report(ended, self.recording.job(), self.recording.files()))
        return self.reports[-1]


async def replayed(scene, recording, folder, stdout=None):
    """Have a recording printed for a delegation; the adapter that read it."""
    made = Replayed(recording, folder, recording.stdout.encode() if stdout is None else stdout)
    await scene.delegate()
    timeout = 0.5 if recording.cut else None
    await scene.run(adapter=made, conduct=Conduct(waits=False), timeout=timeout)
    return made


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
async def test_a_recorded_run_becomes_the_right_envelope(scene, tmp_path, recording):
    """Completed, with its reason and what changed, or parked for the right one; and what was used is told."""
    made = await replayed(scene, recording, tmp_path)
    reason = "timed-out" if recording.cut else None
    parked = [each.payload.reason for each in await scene.envelopes("parking")]
    completed = await scene.envelopes("completion")
    if recording.case in PARKED and reason is None:
        assert (parked, completed) == ([PARKED[recording.case]], [])
    else:
        case = "deadline" if recording.cut else recording.case
        assert parked == []
        (completion,) = [each.payload for each in completed]
        assert (completion.result.status, completion.termination_reason) == COMPLETED[case]
        changed = [each.path.rpartition("/")[2] for each in completion.result.artifacts]
        assert changed == ([MADE] if recording.made else [])
    used = sum(call.input_tokens or 0 for each in made.reports for call in each.usage)
    told = [call for each in await scene.envelopes("completion", "budget") for call in each.usage]
    assert sum(call.input_tokens or 0 for call in told) == used


@pytest.mark.parametrize("recording", SUCCESSES, ids=lambda recording: recording.name)
async def test_half_of_a_recorded_success_is_no_success(scene, tmp_path, recording):
    """Output that breaks off leaves a task that is not done: failed, parked, or told as unproven."""
    text = recording.stdout.encode()
    await replayed(scene, recording, tmp_path, text[: len(text) // 3])
    told = [each.payload for each in await scene.envelopes("completion", "parking")]
    assert len(told) == 1
    assert [each.result.status for each in told if each.TYPE == "completion"] != ["success"]
