# `helm test`: is the service ready, does it answer a question, and can the session be deleted again?
import json
import os
import sys
import urllib.error
import urllib.request
import uuid

HEADERS = {"Content-Type": "application/json", "Chat-Session-Id": uuid.uuid4().hex}
if token := os.environ.get("TOKEN"):
    HEADERS["Authorization"] = f"Bearer {token}"
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["URL"] + path, data, HEADERS, method=method)
    try:
        with OPEN(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        sys.exit(f"{method} {path}: no answer: {error}")


def expect(status, method, path, body=None):
    got, text = call(method, path, body)
    if got != status:
        sys.exit(f"{method} {path}: expected {status}, got {got}: {text}")
    return text


expect(200, "GET", "/readyz")
if call("GET", "/v1/models")[0] == 404:
    print("ready; not a chat flow, so nothing is asked")
    sys.exit()
question = {"model": "default", "messages": [{"role": "user", "content": os.environ["QUESTION"]}]}
answer = json.loads(expect(200, "POST", "/v1/chat/completions", question))["choices"][0]["message"]["content"]
print(f"answered: {answer}")
if os.environ.get("HISTORY") != "off":
    session = f"/chat/sessions/{HEADERS['Chat-Session-Id']}"
    expect(200, "GET", session)
    status, text = call("DELETE", session)
    if status not in (200, 204):
        sys.exit(f"DELETE {session}: got {status}: {text}")
    expect(404, "GET", session)
    print("its session is deleted")
