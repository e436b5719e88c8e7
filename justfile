# Short names for what is done often. Everything works without just, too: each recipe is a line or two of sh.
# Each recipe that needs tools sets up .venv by itself, through bin/test or bin/bus.

python := ".venv/bin/python"

# One file for every platform and Python; no index and no path, so that it says nothing of where it was made
compile := "uv pip compile pyproject.toml --group build --universal --generate-hashes --no-emit-index-url \
    --custom-compile-command 'just lock' --quiet"

# The everyday check: linters, types, import rules, tests with coverage
check:
    bin/test

# Run tests: all of them, or what is named (no linters, no coverage threshold)
test *args="tests":
    bin/test {{ args }}

# Lint
lint: ready
    {{ python }} -m ruff check

# Format in place, and repair what the linter can repair
format: ready
    {{ python }} -m ruff check --fix
    {{ python }} -m ruff format

# Check the types of the packages
types: ready
    {{ python }} -m basedpyright

# Check which module may import what
imports: ready
    {{ python }} -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo

# Resolve the lock files anew; `just lock --upgrade` moves to the newest versions (needs uv and a package index)
lock *args:
    {{ compile }} {{ args }} --extra server --extra report --extra store --extra acp --output-file requirements.lock
    {{ compile }} {{ args }} --extra server --extra report --extra store --extra acp --extra test --extra dev --constraint requirements.lock \
        --output-file requirements-dev.lock
    {{ compile }} {{ args }} --extra server --extra report --extra store --extra acp --extra bench --constraint requirements-dev.lock \
        --output-file requirements-bench.lock

# Write the generated files under schemas/ anew
schemas: ready
    {{ python }} -m taskbus.schema schemas

# Measure
bench *args:
    bin/bench {{ args }}

# Kill, cut and stop servers and workers at random, and check what is left
chaos *args:
    bin/chaos {{ args }}

# Tell the whole story on an embedded server
demo *args:
    bin/bus demo {{ args }}

# Make .venv complete, with the tools for tests and checks
[private]
ready:
    bin/test --version > /dev/null
