"""The demo: a small release, made by a crew of real processes over a real server.

    documents       what is delegated: the handoff shorthand, and XML
    project         the files that the crew works on
    crew            the agents that are processes
    orchestrator    the agent that is a coroutine
    stage, play     what it runs on; what happens, and what it must come to
    narration       how it looks on a terminal
    boards          the tables at its end

`bus demo` plays it.
"""
