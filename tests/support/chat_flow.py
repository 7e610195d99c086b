"""A chat flow that takes all that an OpenAI client can send: images, a further input, parameters of its model."""

from pathlib import Path

from tests.support.flows import write_flow

FLOW = """
inputs:
  question: {type: string, is_chat_input: true}
  chat_history: {type: list, default: [], is_chat_history: true}
  picture: {type: image, default: null}
  city: {type: string, default: nowhere}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- name: reply
  type: llm
  source: {path: reply.jinja2}
  connection: model
  overrides: [temperature, max_tokens]
  inputs:
    model: MODEL
    question: ${inputs.question}
    chat_history: ${inputs.chat_history}
    picture: ${inputs.picture}
    city: ${inputs.city}
"""
PROMPT = """
# system:
They live in {{ city }}.
{% for turn in chat_history %}
# user:
{{ turn.inputs.question }}
# assistant:
{{ turn.outputs.answer }}
{% endfor %}
# user:
{{ question }}
{% if picture %}
{{ picture }}
{% endif %}
"""


def write_full_chat_flow(folder: Path, base_url: str, model: str = "first-word") -> Path:
    """Write the flow and return its folder."""
    connections = f"model: {{type: open_ai, base_url: '{base_url}', max_retries: 0}}"
    files = {"reply.jinja2": PROMPT, "connections.yaml": connections}
    return write_flow(folder, FLOW.replace("MODEL", model), files)
