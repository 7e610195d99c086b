"""LangStudio's names that flows import."""
