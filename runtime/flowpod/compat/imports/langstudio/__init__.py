"""Stand-in for LangStudio's package."""
