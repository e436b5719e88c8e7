"""The registry: read models of other packages, found by their entry points."""

from __future__ import annotations

import sys

import pytest

from taskbus.envelope import MESSAGE_TYPES
from taskbus.errors import ProjectionStopped
from taskbus_projections.model import ReadModel
from taskbus_projections.registry import BUILTIN, checked, installed
from taskbus_projections.tasks import Tasks

MODULE = """
from taskbus_projections import ReadModel

class Questions(ReadModel):
    name = "questions"
    version = 3
    tables = "CREATE TABLE questions (n INTEGER PRIMARY KEY) STRICT;"

class Other(Questions):
    name = "tasks"

nothing = 7
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that installs a package with entry points of ours."""

    def install(**points):
        (tmp_path / "their_models.py").write_text(MODULE, encoding="utf-8")
        folder = tmp_path / "their_models-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-models\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{name} = their_models:{target}" for name, target in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[taskbus.projections]", *lines]), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("their_models", None)


def test_without_other_packages_there_are_ours():
    """Those that others refer to come first."""
    assert installed() == BUILTIN
    assert [model.name for model in BUILTIN][:4] == ["events", "tasks", "transitions", "usage"]


def test_a_package_adds_its_own(package):
    """By an entry point that names the class."""
    package(questions="Questions")
    *ours, theirs = installed()
    assert tuple(ours) == BUILTIN
    assert issubclass(theirs, ReadModel)
    assert (theirs.name, theirs.version) == ("questions", 3)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ({"questions": "Missing"}, r"questions of the package their-models cannot be loaded \(their_models:Missing\)"),
        ({"questions": "nothing"}, "questions of the package their-models .* is no read model"),
        ({"questions": "Other"}, r"are called tasks: taskbus_projections\.tasks\.Tasks and their_models\.Other"),
    ],
)
def test_what_cannot_be_loaded_stops_every_projection(package, points, reason):
    """Rows that silently miss are worse than none, so the package is named."""
    package(**points)
    with pytest.raises(ProjectionStopped, match=reason) as stopped:
        installed()
    assert stopped.value.advice


def test_a_read_model_has_a_method_for_each_type():
    """One that overrides nothing folds every envelope there is, and stops at none."""
    assert set(MESSAGE_TYPES) <= set(vars(ReadModel))


def test_a_read_model_that_is_given_twice_counts_once():
    """The same class under two names is one."""
    assert checked([Tasks, Tasks]) == (Tasks,)


def test_what_a_package_needs_is_in_the_face():
    """Each name of the package's face is there, and nothing else."""
    import taskbus_projections

    for name in taskbus_projections.__all__:
        assert getattr(taskbus_projections, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        _ = taskbus_projections.Missing
