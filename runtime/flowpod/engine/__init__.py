"""One execution of a flow: its events, its tasks, and the service that starts it."""
