"""The demo's agents: small programs that know nothing of taskbus but what stands on their stdin.

Each is run by `bus agent run` as a process of its own. They use the standard library only; an agent in another
language would look the same.
"""
