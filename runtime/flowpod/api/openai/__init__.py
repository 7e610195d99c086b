"""OpenAI's wire protocols: chat completions, the model list and Responses, with the message format they share.

DashScope's protocols reuse the message format; anything else that is not OpenAI's belongs in another folder.
"""
