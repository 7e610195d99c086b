"""A chat flow as the pages on DashScope's applications have them: a city, a plugin with a user's token, retrieval."""

from pathlib import Path

from tests.support.flows import write_flow

PLUGINS = ("your_plugin_code", "{your_plugin_code}")
"""The codes that stand in the pages' samples for a plugin's."""

DAG = """
inputs:
  question: {type: string, is_chat_input: true}
  chat_history: {type: list, is_chat_history: true}
  city: {type: string, default: nowhere}
  days: {type: int, default: 1}
  picture: {type: image, default: null}
  report: {type: File, default: null}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- name: lookup
  type: python
  source: {path: lookup.py}
  inputs:
    article_index: ${sys.plugin_params['your_plugin_code'].article_index}
    braces: ${sys.plugin_params['{your_plugin_code}'].article_index}
    token: ${sys.plugin_tokens.your_plugin_code.user_token}
    braces_token: ${sys.plugin_tokens['{your_plugin_code}'].user_token}
    rag: ${sys.rag_options}
    bases: ${sys.rag_options.pipeline_ids}
    city: ${inputs.city}
    days: ${inputs.days}
    picture: ${inputs.picture}
    report: ${inputs.report}
- name: reply
  type: llm
  source: {path: reply.jinja2}
  connection: model
  overrides: [temperature]
  inputs:
    model: MODEL
    question: ${inputs.question}
    chat_history: ${inputs.chat_history}
    lookup: ${lookup.output}
    instructions: ${sys.instructions}
"""
LOOKUP = """
from langstudio.types import File
from promptflow.contracts.multimedia import Image

def invoke(
    article_index, braces, token, braces_token, rag, bases, city: str, days: int,
    picture: Image = None, report: File = None,
):
    article = article_index or braces
    return " ".join([
        f"city={city} days={days!r}",
        f"article={article!r} allowed={(token or braces_token) == 'YOUR_TOKEN'}",
        f"rag={rag} bases={bases}",
        f"picture={picture is not None} report={report.source_uri if report else None}",
    ])
"""
PROMPT = """
# system:
{{ instructions }} {{ lookup }}
{% for turn in chat_history %}
# user:
{{ turn.inputs.question }}
# assistant:
{{ turn.outputs.answer }}
{% endfor %}
# user:
{{ question }}
"""


def write_dashscope_flow(folder: Path, base_url: str, model: str = "echo") -> Path:
    """Write the flow and return its folder."""
    connections = f"model: {{type: open_ai, base_url: '{base_url}', max_retries: 0}}"
    files = {"lookup.py": LOOKUP, "reply.jinja2": PROMPT, "connections.yaml": connections}
    return write_flow(folder, DAG.replace("MODEL", model), files)
