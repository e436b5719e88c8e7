"""The commands that agents bring: running them, and everything around them. Only these modules import click."""
