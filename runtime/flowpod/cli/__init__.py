"""The `flowpod` command: a module for each subcommand, and `main`, which parses the arguments and runs it.

Subcommands print results to stdout and errors to stderr; they exit with 0, or with 1 if something is wrong.
"""
