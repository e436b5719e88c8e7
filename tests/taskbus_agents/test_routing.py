"""Decisions: who gets a piece of work, and why each rung above was passed over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskbus.errors import ConfigurationError
from taskbus_agents.definition import Definition
from taskbus_agents.routing import Facts, Need, RoutingPolicy, Spent, Standing, decide
from taskbus_agents.routing.facts import Begun

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
IDLE = Facts(NOW)
WHY = "kilo and opencode were tried, and failed"

LADDER = """
[prices."paid/*"]
input = 10
output = 10
[prices."free/*"]
input = 0
output = 0
[caps]
paid = 20

[[ladder]]
rung = "one"
agent = "@one"
model = "free/m"
for = ["docs", "re*"]
context = 1000

[[ladder]]
rung = "two"
agent = "@two"
model = "free/n"

[[ladder]]
rung = "three"
agent = "@three"
model = "paid/m"
"""


@pytest.fixture
def policy(tmp_path):
    """Makes a routing policy of a text."""

    def made(text=LADDER):
        path = tmp_path / "policy.toml"
        path.write_text(text, encoding="utf-8")
        return RoutingPolicy.load(path)

    return made


def told(policy, need=None, facts=IDLE, registry=None):
    """The rung that was chosen, and each that was passed with its reason."""
    found = decide(policy, registry or {}, need or Need(), facts)
    chosen = [choice.rung for choice in found.chosen]
    return chosen, [(each.rung, each.reason) for each in found.passed]


def test_the_first_that_can_do_the_work_gets_it(policy):
    """The ladder is tried from its first rung on; nobody below is looked at."""
    assert told(policy(), Need(task_type="docs")) == (["one"], [])
    assert told(policy(), Need(task_type="review")) == (["one"], [])


def test_each_reason_for_which_a_rung_is_passed(policy):
    """Not able, failed before, busy, out of its quota: told by rung, with the next one chosen."""
    ladder = policy(LADDER + '[limits."@one"]\nconcurrency = 2\nrate = "3/hour"\ntokens = "100/day"\n')
    docs = Need(task_type="docs")
    two = lambda reason: (["two"], [("one", reason)])  # noqa: E731 - one expectation, said five times
    assert told(ladder, Need(task_type="code")) == two("not-able")
    assert told(ladder, replace(docs, context_tokens=1001)) == two("not-able")
    assert told(ladder, replace(docs, failed=frozenset({"one"}))) == two("failed-before")
    assert told(ladder, docs, Facts(NOW, {"@one": Standing(open=2)})) == two("busy")
    assert told(ladder, docs, Facts(NOW, {"@one": Standing(open=1)})) == (["one"], [])
    until = NOW + timedelta(minutes=5)
    assert told(ladder, docs, Facts(NOW, {"@one": Standing(1, until)})) == two("out-of-quota")
    assert told(ladder, docs, Facts(NOW, {"@one": Standing(1, NOW)})) == (["one"], [])
    ms = int(NOW.timestamp() * 1000)
    lately = tuple(Begun(ms - minutes * 60_000, "@one", is_delegation=True) for minutes in (5, 30, 59))
    assert told(ladder, docs, Facts(NOW, lately=lately)) == two("busy")
    assert told(ladder, docs, Facts(NOW, lately=(Begun(ms - 3_700_000, "@one", is_delegation=True), *lately[:2]))) == (
        ["one"],
        [],
    )
    assert told(ladder, docs, Facts(NOW, lately=(Begun(ms - 80_000_000, "@one", "free", 100),))) == two("out-of-quota")
    assert told(policy(LADDER.replace("context = 1000", 'disabled = "on holiday"')), docs) == two("disabled")


def test_a_limit_of_a_provider_counts_all_who_run_on_it(policy):
    """Open work of every agent of a provider counts against the provider's limit."""
    ladder = policy(LADDER + "[limits.free]\nconcurrency = 3\n")
    facts = Facts(NOW, {"@one": Standing(1), "@two": Standing(2)}, {"free": frozenset({"@one", "@two"})})
    assert told(ladder, Need(task_type="docs", justification=WHY), facts) == (
        ["three"],
        [("one", "busy"), ("two", "busy")],
    )


def test_a_paid_rung_needs_a_reason_and_money(policy):
    """Without a justification, over its cap or without a price a paid rung is passed, as when accounts are lost."""
    text = LADDER + "[justification]\nleast = 20\n[holds]\n'paid/m' = 5\n"
    ladder, need = policy(text), Need(failed=frozenset({"one", "two"}))
    before = [("one", "failed-before"), ("two", "failed-before")]
    assert told(ladder, need) == ([], [*before, ("three", "not-justified")])
    assert told(ladder, replace(need, justification="because")) == ([], [*before, ("three", "not-justified")])
    justified = replace(need, justification=WHY)
    assert told(ladder, justified) == (["three"], before)
    full = {("provider:paid", "month"): Spent(committed=10_000_000, held=5_000_001)}
    assert told(ladder, justified, Facts(NOW, accounts=full)) == ([], [*before, ("three", "over-budget")])
    exact = {("provider:paid", "month"): Spent(committed=10_000_000, held=5_000_000)}
    assert told(ladder, justified, Facts(NOW, accounts=exact)) == (["three"], before)
    raised = {("provider:paid", "month"): Spent(15_000_001, 0, 30_000_000, is_recorded=True)}
    assert told(ladder, justified, Facts(NOW, accounts=raised)) == (["three"], before)
    lowered = {("agent:@three", "day"): Spent(0, 0, 4_999_999, is_recorded=True)}
    assert told(ladder, justified, Facts(NOW, accounts=lowered)) == ([], [*before, ("three", "over-budget")])
    assert told(ladder, justified, Facts(NOW, is_lost=True)) == ([], [*before, ("three", "over-budget")])
    unpriced = policy(text.replace('model = "paid/m"', 'model = "nobody/knows"').replace("[holds]\n'paid/m' = 5\n", ""))
    assert told(unpriced, justified) == ([], [*before, ("three", "over-budget")])
    assert told(policy(text.replace("least = 20", "by_failures = true")), need) == (["three"], before)


def test_a_decision_is_the_same_every_time(policy):
    """The same policy, need and facts give the same decision and the same record."""
    facts = Facts(NOW, {"@one": Standing(3, NOW + timedelta(1))})
    ladder, need = policy(), Need(task_type="docs", goal="g")
    made = [decide(ladder, {}, need, facts) for _ in range(3)]
    assert made[0] == made[1] == made[2]
    route = made[0].route
    assert (route.rung, route.provider, route.model, route.policy) == ("two", "free", "n", ladder.version)
    assert [(each.rung, each.agent, each.reason) for each in route.passed] == [("one", "@one", "out-of-quota")]
    assert "until 2026-11-21" in route.passed[0].note


COMPLEXITY = (
    LADDER
    + """
[complexity]
default = "simple"
[complexity.simple]
paid = false
[complexity.complex]
agents = 3
parallel = true
[complexity.critical]
paid = "only"
review = true
"""
)


def test_complexity_decides_how_many_and_which(policy):
    """Simple work gets one free agent, complex several with free ones first, critical a paid one and a review."""
    ladder = policy(COMPLEXITY)
    docs = Need(task_type="docs", justification=WHY)
    assert told(ladder, replace(docs, failed=frozenset({"one", "two"})))[1][-1] == ("three", "not-able")
    several = decide(ladder, {}, replace(docs, complexity="complex"), IDLE)
    assert [(choice.rung, choice.paid) for choice in several.chosen] == [
        ("one", False),
        ("two", False),
        ("three", True),
    ]
    assert (several.parallel, several.review) == (True, False)
    critical = decide(ladder, {}, replace(docs, complexity="critical"), IDLE)
    assert ([choice.rung for choice in critical.chosen], critical.review) == (["three"], True)
    assert [each.reason for each in critical.passed] == ["not-able", "not-able"]
    with pytest.raises(KeyError):
        decide(ladder, {}, replace(docs, complexity="odd"), IDLE)


def test_an_agent_gets_the_models_above_its_own_one_after_the_other(policy):
    """With an order of models, whoever failed with one gets the next, on the same rung."""
    order = policy(
        '[models]\nhaiku = "a/haiku"\nsonnet = "a/sonnet"\nopus = "a/opus"\n'
        '[fallback]\norder = ["haiku", "sonnet", "opus"]\n'
    )
    docs = Definition(name="@docs", adapter="command", provider="a", model="sonnet", unpriced=True)
    need = Need(agent="@docs")
    assert [choice.model for choice in decide(order, {"@docs": docs}, need, IDLE).chosen] == ["sonnet"]
    failed = decide(order, {"@docs": docs}, replace(need, failed=frozenset({"@docs"})), IDLE)
    assert [(choice.rung, choice.provider, choice.model) for choice in failed.chosen] == [("@docs opus", "a", "opus")]
    none = decide(order, {"@docs": docs}, replace(need, failed=frozenset({"@docs", "@docs opus"})), IDLE)
    assert (none.chosen, none.route) == ((), None)


def test_agents_that_say_what_they_are_for_come_before_the_ladder(policy):
    """Definitions with the task type are tried from the most routine tier on, where the matrix has no row for it."""
    tiers = policy(
        LADDER + '[tiers.strategic]\nrank = 1\nagents = ["@a"]\n[tiers.routine]\nrank = 3\nagents = ["@z"]\n'
    )
    registry = {name: Definition(name=name, adapter="command", task_types=("tests",)) for name in ("@a", "@z")}
    assert told(tiers, Need(task_type="Tests"), registry=registry) == (["@z"], [])
    failed = Need(task_type="tests", failed=frozenset({"@z"}))
    assert told(tiers, failed, registry=registry) == (["@a"], [("@z", "failed-before")])
    assert told(tiers, Need(task_type="docs"), registry=registry)[0] == ["one"]


def test_a_program_with_models_of_its_own_has_their_provider(policy):
    """A rung whose agent names no provider is priced and capped by the one that its program implies."""
    priced = policy(
        '[prices."openai/*"]\ninput = 1\noutput = 1\n[caps]\nopenai = 1\n[[ladder]]\nrung = "one"\nagent = "@one"\n'
    )
    registry = {"@one": Definition(name="@one", adapter="codex", model="gpt-made-up")}
    need = Need(justification=WHY)
    chosen = decide(priced, registry, need, IDLE).chosen
    assert [(each.provider, each.model) for each in chosen] == [("openai", "gpt-made-up")]
    spent = replace(IDLE, accounts={("provider:openai", "month"): Spent(committed=1_000_000)})
    assert told(priced, need, spent, registry) == ([], [("one", "over-budget")])
    dear = {"@one": replace(registry["@one"], hold=2_000_000)}
    assert told(priced, need, IDLE, dear) == ([], [("one", "over-budget")]), "what it says itself is reserved"


def test_a_program_that_chooses_its_own_model_counts_as_paid(policy):
    """Without a model no price can be known: its worker would refuse, so that no work is routed there."""
    own = policy('[[ladder]]\nrung = "one"\nagent = "@one"\n[[ladder]]\nrung = "two"\nagent = "@two"\n')
    registry = {"@one": Definition(name="@one", adapter="claude"), "@two": Definition(name="@two", adapter="command")}
    assert told(own, registry=registry) == (["two"], [("one", "not-justified")])
    need = Need(justification=WHY)
    assert told(own, need, registry=registry) == (["two"], [("one", "over-budget")])
    for terms, said in (({"unpriced": True}, None), ({"hold": 1_000_000}, WHY), ({"hold": 0}, None)):
        allowed = registry | {"@one": replace(registry["@one"], **terms)}
        assert told(own, Need(justification=said), registry=allowed) == (["one"], [])
    assert told(own, registry=allowed | {"@one": replace(registry["@one"], hold=1)})[0] == ["two"]


@pytest.mark.parametrize(
    ("task_type", "agent", "model", "justified"),
    [
        ("bulk coding", "@kilo", "z-ai/glm4.7", False),
        ("planning", "@cline", "minimax", False),
        ("research", "@researcher", "llama-3.3-70b", False),
        ("docs", "@researcher", "llama-3.3-70b", False),
        ("code review", "@reviewer", "llama-3.1-8b", False),
        ("orchestration", "@orchestrator", "llama-3.3-70b", False),
        ("large file review", "@gemini", "gemini-2.5-flash", False),
        ("architecture", "@antigravity", "gemini-2.5-pro", True),
        ("complex coding", "@codex", "o3", True),
        ("deep audit", "@claude", "claude-sonnet-4-5", True),
    ],
)
def test_the_first_users_matrix(task_type, agent, model, justified):
    """Each row of their matrix goes to their agent; the rows that ask for a reason go elsewhere without one."""
    policy = RoutingPolicy.load(DOCS / "policy.first-users.example.toml")
    need = Need(task_type=task_type, justification=WHY if justified else None)
    (choice,) = decide(policy, {}, need, IDLE).chosen
    assert (choice.agent, choice.model) == (agent, model)
    if justified:
        without = decide(policy, {}, replace(need, justification=None), IDLE)
        assert without.passed[0].reason == "not-justified"
        assert all(not choice.paid for choice in without.chosen)


def test_the_first_users_ladder_in_their_order():
    """Work for which nothing is said climbs their ladder from the free rungs to the paid ones."""
    policy = RoutingPolicy.load(DOCS / "policy.first-users.example.toml")
    need, order = Need(justification=WHY), []
    while (chosen := decide(policy, {}, need, IDLE).chosen) and len(order) < 20:
        order.append(chosen[0].rung)
        need = replace(need, failed=need.failed | {chosen[0].rung})
    names = [rung.partition(" ")[0] for rung in order]
    assert sorted(set(names), key=int) == list(dict.fromkeys(names)) == [str(number) for number in range(1, 10)]


def test_the_example_policy_is_read():
    """The documented example is a policy of routing as it stands."""
    policy = RoutingPolicy.load(DOCS / "policy.example.toml")
    assert [rung.agent for rung in policy.ladder] == ["@gemini", "@kilo", "@claude"]
    assert policy.terms.fallback.on == {"quota": "wait", "refusal": "climb", "failure": "climb", "budget": "stop"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[ladder]]\nagnt = "@a"\n', r"line 2: unknown key `ladder\[1\].agnt`"),
        ('[[ladder]]\nagent = "@a"\n\n[[ladder]]\nagent = "@b c"\n', r"line 5, key `ladder\[2\].agent`"),
        ("[[ladder]]\n", r"line 1, key `ladder\[1\].agent`: found None"),
        ('[[ladder]]\nagent = "@a*"\n', "one agent, no pattern"),
        ('[[ladder]]\nagent = "@a"\nrung = 1\n[[ladder]]\nagent = "@b"\nrung = "1"\n', "each name of a rung once"),
        ('[[ladder]]\nagent = "@a"\nmodel = "o3"\n', "provider and model"),
        ('[[ladder]]\nagent = "@a"\npaid = "no"\n', "true or false"),
        ('[[ladder]]\nagent = "@a"\ncontext = 0\n', "a whole number"),
        ("ladder = 3\n", "a list of tables"),
        ('[ladder]\nagent = "@a"\n', "a list of tables"),
        ('[[routes]]\nagent = "@a"\n', "a task type"),
        ('[complexity.x]\npaid = "sometimes"\n', 'true, false or "only"'),
        ('[complexity]\ndefault = "x"\n', "one of those"),
        ("[complexity]\ndefault = []\n", "found a list, expected one of those"),
        ('[fallback.on]\nquotas = "wait"\n', "Did you mean|unknown key"),
        ('[fallback.on]\nfailure = "wait"\n', "one of climb, stop"),
        ('[limits."@a"]\nrate = "often"\n', "how many in which time"),
        ('[limits."@a"]\nrate = "0/day"\n', "how many in which time"),
        ('[models]\nopus = "opus"\n', "provider and model"),
        ('[permissions]\nbypass = "all"\n', "a list of texts"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_with_its_place(policy, text, said):
    """Every mistake in the tables of routing names file, line and key."""
    with pytest.raises(ConfigurationError, match=said) as error:
        policy(text)
    assert "policy.toml, line" in error.value.message


WRONG = """[prices."a/m"]
input = -1
output = 2
inptu = 3
[models]
sonnet = "bad"
[[ladder]]
agnt = "@a"
[[ladder]]
agent = "@b c"
context = 0
model = "sonnet"
[baseline]
model = "a/m"
[fallback.on]
failure = "wait"
[[ladder]]
agent = "@x"
rung = "7"
[[ladder]]
agent = "@y"
rung = "7"
[complexity]
default = "x"
[complexity.x]
agents = 0
review = 1
"""


def test_every_mistake_of_a_policy_is_told_at_once(policy):
    """Each with its line and in their order, across all tables; what is wrong only for another mistake is left out."""
    with pytest.raises(ConfigurationError) as error:
        policy(WRONG)
    first, *lines = error.value.message.splitlines()
    assert first.startswith("10 things are wrong in ")
    places = [int(line.partition(", line ")[2].partition(":")[0].partition(",")[0]) for line in lines]
    assert places == [2, 4, 6, 8, 10, 11, 16, 22, 26, 27]
    assert "Did you mean `ladder[1].agent`?" in lines[3]
    assert "policy.example.toml" in error.value.advice
    with pytest.raises(ConfigurationError) as one:
        policy('[[ladder]]\nagent = "@a"\npaid = 1\n')
    assert "things are wrong" not in one.value.message


def test_of_very_many_mistakes_twenty_are_told(policy):
    """A file of another kind fills no screen, and takes no time."""
    with pytest.raises(ConfigurationError) as error:
        policy("".join(f"word{number} = 1\n" for number in range(500)))
    assert error.value.message.count("unknown key") == 20
    assert error.value.message.endswith("… and perhaps more.")
