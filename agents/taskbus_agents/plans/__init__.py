"""Plans: many steps as one task, with gates between them, carried out over the bus.

Read in this order: model → document (table, text) → graph → run (the state, folded from envelopes) → moves (what is
due) → messages → runner and gatekeeper (the two handlers) → session, which `bus plan` calls.
"""
