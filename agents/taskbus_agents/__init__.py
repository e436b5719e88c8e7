"""Adapters for agents, and the demo: everything that runs an agent on top of taskbus."""
