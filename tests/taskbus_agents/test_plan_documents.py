"""The documents of plans: both forms, and each mistake with its line."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskbus.cli.rendering import cells
from taskbus.errors import ConfigurationError
from taskbus_agents.plans import answers, document, drawing, graph
from taskbus_agents.plans.run import Run

STEP = '[steps.{0}]\ngoal = "g"\nagent = "@kilo"\n'


def toml(text: str):
    """A plan from its TOML form."""
    return document.parse(text.encode(), form="toml", stem="p", place="p.toml")


def text(written: str):
    """A plan from its text form."""
    return document.parse(written.encode(), form="text", stem="p", place="p.txt")


@pytest.mark.parametrize(
    ("written", "line", "said"),
    [
        ("", 1, "has no step"),
        ('goal = "x"\n', 1, "has no step"),
        ('[steps.a]\nagent = "@kilo"\n', 1, "has no goal"),
        (STEP.format("a") + STEP.format("a"), 4, "twice"),
        (STEP.format("a") + '[gates.a]\nafter = ["a"]\n', 4, "a step and of a gate"),
        (STEP.format("a") + 'after = ["b"]\n', 1, "no step and no gate"),
        (STEP.format("build") + STEP.format("b") + 'after = ["buidl"]\n', 4, "Did you mean 'build'"),
        (STEP.format("a") + 'after = ["a"]\n', 1, "stands after itself"),
        (STEP.format("a") + 'after = ["b"]\n' + STEP.format("b") + 'after = ["a"]\n', 1, "a → b → a"),
        (STEP.format("a") + 'gaol = "x"\n', 4, "Did you mean `goal`"),
        (STEP.format("a") + "retries = -1\n", 4, "whole number from 0 to 100"),
        (STEP.format("a") + "retries = true\n", 4, "whole number"),
        (STEP.format("a") + 'timeout = "soon"\n', 4, "a time"),
        (STEP.format("a") + 'on_failure = "hope"\n', 4, '"stop" or "skip" or "escalate"'),
        (STEP.format("a") + 'after = "b"\n', 4, "a list of texts"),
        (STEP.format("a") + 'after = ["b", "b"]\n', 4, "each text once"),
        (STEP.format("a") + 'review = "yes"\n', 4, "true or false"),
        (STEP.format("a") + 'priority = "now"\n', 4, '"critical" or "high"'),
        ('[steps.a]\ngoal = "x"\nagent = "two words"\n', 3, "an agent's name"),
        ('[steps.a]\ngoal = "x"\nagent = "@bus"\n', 3, "an agent's name"),
        ('[steps.a]\ngoal = ""\n', 2, "found '', expected a text"),
        ('[steps."a.b"]\ngoal = "x"\n', 1, "letters, digits"),
        ('[steps."../../etc"]\ngoal = "x"\n', 1, "letters, digits"),
        ('[steps."\\u202egnp"]\ngoal = "x"\n', 1, "letters, digits"),
        ('[steps.a]\ngoal = "\\u0000"\n', 2, "expected a text"),
        (f'[steps.{"a" * 61}]\ngoal = "x"\n', 1, "at most 60"),
        ("steps = 3\n", 1, "expected a table"),
        ("[steps]\na = 3\n", 2, "expected a table"),
        ('name = "a b"\n' + STEP.format("a"), 1, "at most 40"),
        ("parallel = 61\n" + STEP.format("a"), 1, "from 1 to 60"),
        (STEP.format("a") + "[gates.g]\n", 4, "stands after nothing and asks nothing"),
        (STEP.format("a") + '[gates.g]\ncheck = "true"\n', 4, "after nothing and before nothing"),
        (STEP.format("a") + '[gates.g]\nafter = ["a"]\ncheck = "x"\napproval = "y"\n', 4, "make two gates"),
        (STEP.format("a") + "[gates.g\n", 4, ""),
        (STEP.format("a") + '[check]\nfoo = "x"\n', 5, "unknown key `check.foo`"),
        ("x = " + "[" * 100_000, 1, ""),
        ("\n".join(STEP.format(f"s{n}") for n in range(10_000)), 8001, "2000 are the most"),
    ],
)
def test_each_mistake_in_toml_has_its_line(written, line, said):
    """Whatever is wrong is told with file and line."""
    with pytest.raises(ConfigurationError) as error:
        toml(written)
    assert f"p.toml, line {line}: " in error.value.message
    assert said in error.value.message


@pytest.mark.parametrize(
    ("written", "line", "said"),
    [
        ("SPLIT:\n", 1, "has no step"),
        ("hello\nSPLIT:\n a\n", 1, "Nothing may stand before"),
        ("SPLIT:\n a + a\n", 2, "two steps 'a'"),
        ("SPLIT:\n write it\n [GATE] → write-it!\n", 3, "stands in line 2"),
        ("SPLIT:\n [GATE] → a\n", 2, "after nothing"),
        ("SPLIT:\n [GATE: human] → +\n", 2, "names no step"),
        ("SPLIT:\n [MAYBE] a\n", 2, "[MAYBE] is not known"),
        ("SPLIT:\n a\n [GATE: whenever]\n", 3, "not known: use human"),
        ("SPLIT:\n [PARALLEL]\n", 2, "No step"),
        ("SPLIT:\n a + +\n", 2, "names no step"),
        ("SPLIT:\n \u202e\u202e\n", 2, "names no step"),
        ("SPLITT:\n a\n", 1, "Did you mean SPLIT"),
        ("SPLIT:\n a\nASSIGN:\n nobody\n", 4, "looks like this"),
        ("SPLIT:\n a\nASSIGN:\n a: @x\n a: @y\n", 5, "assigned twice"),
        ("SPLIT:\n a\nVALIDATE:\n please\n", 4, "VALIDATE takes"),
        ("SPLIT:\n" + "\n".join(f" s{n}" for n in range(10_000)), 2002, "2000 are the most"),
    ],
)
def test_each_mistake_in_text_has_its_line(written, line, said):
    """The text form is as strict, and as clear."""
    with pytest.raises(ConfigurationError) as error:
        text(written)
    assert f"p.txt, line {line}: " in error.value.message
    assert said in error.value.message


def test_all_mistakes_are_told_at_once():
    """A document is mended in one go."""
    with pytest.raises(ConfigurationError) as error:
        toml('[steps.a]\nretries = -1\nfoo = 1\n[steps.b]\ngoal = 3\nafter = ["c"]\n')
    assert [line.split(":")[0] for line in error.value.message.splitlines()] == [
        f"p.toml, line {line}" for line in (1, 2, 3, 5, 4)
    ] or len(error.value.message.splitlines()) >= 4


def test_bytes_that_are_no_text_have_their_line():
    """A file in another encoding is refused where it begins to be one."""
    with pytest.raises(ConfigurationError, match=r"line 2: this is no text in UTF-8"):
        document.parse(b'goal = "x"\n\xff\xfe', form="toml", stem="p", place="p.toml")


def test_the_largest_plan_is_read_and_drawn_quickly():
    """2,000 steps in a row and across are a plan like any other; a circle through all of them is found."""
    names = [f"s{n}" for n in range(2000)]
    lines = [STEP.format(name) + f"after = {names[max(0, at - 3) : at]}\n" for at, name in enumerate(names)]
    began = time.process_time()
    plan = toml("".join(lines))
    run = Run(plan, "p.1")
    assert len(drawing.lines(run, 100)) == 2001
    assert max(graph.levels(plan.nodes).values()) == 1999
    lines[0] = STEP.format("s0") + 'after = ["s1999"]\n'
    with pytest.raises(ConfigurationError, match="none can begin"):
        toml("".join(lines))
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("assigned", "agents"),
    [
        ("write tests: @a\ntests: @b", {"write-tests": "@a", "review-tests": "@b", "lint": None}),
        ("tests: @b\nreview: @c", {"write-tests": "@b", "review-tests": "@c", "lint": "@c"}),
        ("Review: Kilo mode (m, free)", {"write-tests": None, "review-tests": "@kilo", "lint": "@kilo"}),
    ],
)
def test_an_assignment_means_a_name_a_word_or_a_kind(assigned, agents):
    """The nearest meaning counts: a step's whole name, then its first word that is named, then its kind of work."""
    lines = "\n ".join(assigned.splitlines())
    plan = text(f"SPLIT:\n write tests + review tests + lint\nASSIGN:\n {lines}\n")
    assert {name: node.agent for name, node in plan.nodes.items()} == agents


def test_lines_and_gates_of_the_text_are_order():
    """Stages wait for each other; gates with a question and with a command are what they say."""
    plan = text("SPLIT:\n [SEQUENCE] a -> b + c\n [GATE: human Ship it?] → d\n [GATE: $ make x]\n e\nASSIGN:\n x: @y\n")
    assert {name: node.after for name, node in plan.nodes.items()} == {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "gate-1": ("b", "c"),
        "d": ("gate-1",),
        "gate-2": ("d",),
        "e": ("gate-2",),
    }
    assert (plan.nodes["gate-1"].question, plan.nodes["gate-2"].command) == ("Ship it?", "make x")
    assert plan.notes == ("line 7: 'x' names no step",)


def test_a_gate_at_the_beginning_holds_back_what_comes_after_it():
    """In a table that has no `after` it is noted, as somebody may have forgotten that; in text its line says it."""
    plan = toml('[gates.go]\napproval = "Begin?"\n' + STEP.format("a") + 'after = ["go"]\n')
    assert plan.notes == ("line 1: the gate go has no `after`, so that it is asked at the beginning",)
    assert toml('[gates.go]\nafter = []\ncheck = "true"\n' + STEP.format("a") + 'after = ["go"]\n').notes == ()
    plan = text("SPLIT:\n [GATE: human] → a + b\n c\nASSIGN:\n a: @x\n b: @x\n c: @x\n")
    assert {name: node.after for name, node in plan.nodes.items()} == {
        "gate-1": (),
        "a": ("gate-1",),
        "b": ("gate-1",),
        "c": ("a", "b"),
    }
    assert plan.nodes["gate-1"].question == "Shall it begin?"


def test_a_hostile_title_steers_no_terminal_and_ends_no_label():
    """What a plan calls its steps is shown, and does nothing."""
    plan = toml(STEP.format("a") + 'title = "\\"]; click n0 \\u202e<script>"\n')
    run = Run(plan, "p.1")
    shown = [line for _, line in drawing.lines(run, 200)] + drawing.mermaid(run).splitlines()
    shown += drawing.dot(run).splitlines()
    assert all(line.isprintable() for line in shown)
    assert drawing.mermaid(run).count('"]') == 1


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        *(
            ("Yes", True),
            (" ok, go", True),
            ("no", False),
            ("Nope", False),
            ("", None),
            ("yesterday", None),
            ("我", None),
        ),
        *(("yes, but not today", None), ("ok, don\u2019t touch the database", None)),
    ],
)
def test_an_approval_needs_a_clear_word(answer, means):
    """Neither a yes nor a no is no approval."""
    assert answers.approval(answer) is means


@pytest.mark.parametrize(
    ("answer", "means"),
    [
        ("retry", ("retry", "")),
        ("Skip.", ("skip", "")),
        ("skip a; retry b", ("skip", "")),
        ("retry b", (None, "")),
        ("retry with more memory", ("retry", "with more memory")),
        ("Use version 7", ("retry", "Use version 7")),
        ("try it again, please", ("retry", "")),
        ("yes, retry", ("retry", "")),
        ("please stop", ("stop", "")),
        ("retry: do not stop at the first", ("retry", "do not stop at the first")),
        ("skip it, it is not needed", ("skip", "")),
        ("stop a", ("stop", "")),
    ],
)
def test_an_answer_decides_about_one_step_or_all(answer, means):
    """Named steps are decided about alone; what is no decision and refuses nothing is a hint for another try."""
    assert answers.about("a", answer, {"a", "b"}) == means


@pytest.mark.parametrize(
    "answer",
    [
        *("no", "No.", "nope, thanks", "cancel", "CANCEL!", "abort!", "stop: it costs too much", "cancel everything"),
        *("do not try it again", "don't", "Don\u2019t retry it", "dont do this again", "no retry please", "never"),
        "not again",
    ],
)
def test_a_refusal_stops_and_begins_nothing_again(answer):
    """Whatever its punctuation and its capitals."""
    assert answers.about("a", answer, {"a", "b"}) == ("stop", "")


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "",
            "?",
            "hm",
            "yes",
            "go on",
            "ok then",
            "what happened here?",
            "No, use version 7",
            "Use version 7, not 6",
            "don't stop",
        ),
        *("do not skip", "skip c", "retry buidl", "skip a; use version 7", "retry? no", "retry or stop?"),
        *("retry, but don't use version 6", "leave it as it is", "give up on this", "go on without it"),
        *("it can\u2019t work like this", "skip or stop?", "please wait for me", "stop using version 6"),
        *("skip the cache and retry", "7"),
    ],
)
def test_an_answer_that_may_be_a_refusal_is_none_of_the_decisions(answer):
    """Where it is not sure that somebody wants it tried again, it is not: it costs money each time."""
    assert answers.about("a", answer, {"a", "b"}) == ("unclear", "")


@pytest.mark.parametrize(
    ("answer", "goes"),
    [
        ("go on", True),
        ("yes, please", True),
        ("continue", True),
        ("two more hours", True),
        ("stop", False),
        ("cancel.", False),
        ("no", False),
        ("not yet", None),
        ("skip", None),
        ("hm", None),
    ],
)
def test_a_run_over_its_deadline_goes_on_where_somebody_says_so(answer, goes):
    """A refusal ends it, and what is not clear is asked back."""
    assert answers.goes_on(answer, {"a", "b"}) is goes


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_breaks_the_readers(written):
    """Whatever a file holds, it is a plan or a ConfigurationError with a line."""
    places: list[str] = []
    for form in ("toml", "text"):
        body = f"SPLIT:\n{written}" if form == "text" else f"[steps.a]\ngoal = {json.dumps(written)}\n{written}"
        try:
            document.parse(body.encode(errors="replace"), form=form, stem="p", place="p")
        except ConfigurationError as error:
            places.append(error.message)
    assert all(place.startswith("p, line ") for place in places)


def test_the_text_form_takes_what_people_write():
    """Tabs, line ends of Windows, headings in small letters, and titles in any script and with accents."""
    plan = text(
        "Assess:\tthing\r\nSplit:\r\n\t[PARALLEL]\t研究\t+\télan vital\r\n\t[GATE]\t→\tship\r\n"
        "Assign:\r\n\t研究:\t@r\r\n ship : @k\r\n élan vital: @e\r\n"
    )
    assert {name: node.agent for name, node in plan.nodes.items() if node.kind == "step"} == {
        "step-3-1": "@r",
        "elan-vital": "@e",
        "ship": "@k",
    }
    assert plan.goal == "thing"


@pytest.mark.parametrize(("title", "count"), [("a+b", 1), ("c +d", 1), ("C++ code", 0), ("a + b", 0)])
def test_a_plus_that_separates_nothing_is_noted(title, count):
    """Somebody who forgot a space is told that one step stands there."""
    plan = text(f"SPLIT:\n  {title}\n")
    assert len([note for note in plan.notes if "is one step" in note]) == count


def test_the_drawing_stands_in_columns_whatever_the_titles_are():
    """Titles whose letters are two columns wide move nothing to the right of them."""
    plan = text("SPLIT:\n  研究 + ship + research the 設計\nASSIGN:\n  研究: @k\n  ship: @k\n  research: @k\n")
    lines = [line for _, line in drawing.lines(Run(plan, "p.1"), 100)][1:]
    assert len({cells(line.partition("@k")[0]) for line in lines}) == 1
