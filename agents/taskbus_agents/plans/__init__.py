"""Plans: many steps as one task, carried out by a runner that keeps nothing of its own.

    a document     model, document (which form it has), table and lines (TOML), text and kinds (text), graph
    a run          run (what the log says of it), moves (what is due), messages (the moves as envelopes), answers
    carrying out   starting, following, session (one process), runner, choosing (who gets a step), gatekeeper
    showing        report, drawing

The state of a run is its envelopes, and nothing else. docs/plans.md says what a plan may say.
"""
