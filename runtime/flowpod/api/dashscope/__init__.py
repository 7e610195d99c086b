"""DashScope's wire protocols: application calls, text generation and multimodal generation.

Only code that its clients can observe lives here: their request bodies, frames, node messages and error shape.
"""
