"""What schemathesis needs to know of Towpath to get beyond 404, and to end within its time."""

import json
import os
import re
from urllib.request import Request, urlopen

import schemathesis

# One that stays, and one that comes and goes.
QUEUE, OTHER = "schemathesis", "schemathesis-other"
WAITS = ("wait_seconds", "receive_wait_seconds")


def ask(method, path, body):
    request = Request(
        os.environ["TOWPATH_URL"] + path,
        method=method,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['TOWPATH_TOKEN']}",
            "Content-Type": "application/json",
        },
    )
    with urlopen(request) as answer:
        return json.load(answer)


def fresh_handles():
    """Handles of messages that are in flight, for what needs one."""
    messages = f"/v1/queues/{QUEUE}/messages"
    ask("PUT", f"/v1/queues/{QUEUE}", {})
    ask("POST", messages, {"messages": [{"body": "hello"}] * 100})
    wish = {"max_messages": 100, "visibility_timeout_seconds": 3600}
    received = ask("POST", f"{messages}/receive", wish)["messages"]
    return [message["receipt_handle"] for message in received]


handles = []


def aim(case):
    """A valid name becomes that of a queue that exists; the others are meant to be refused."""
    parameters = case.path_parameters or {}
    queue = parameters.get("queue")
    if not isinstance(queue, str) or not re.fullmatch("[A-Za-z0-9_-]{1,80}", queue):
        return
    of_queue = case.path.endswith("{queue}")
    is_other = of_queue and (case.method.upper() == "DELETE" or len(queue) % 3 == 0)
    parameters["queue"] = OTHER if is_other else QUEUE


def hurry(body):
    """Nobody waits."""
    for wait in WAITS:
        seconds = body.get(wait)
        if isinstance(seconds, (int, float)) and 0 < seconds <= 20:
            body[wait] = 0


def hold(body):
    """In every other request, good handles stand where handles stand."""
    messages = body.get("messages")
    messages = messages if isinstance(messages, list) else []
    messages = [each for each in messages if isinstance(each, dict)]
    given = [each["receipt_handle"] for each in messages if "receipt_handle" in each]
    if not all(isinstance(handle, str) and handle for handle in given):
        return
    if sum(map(len, given)) % 2:
        for message in messages:
            if "receipt_handle" in message:
                if not handles:
                    handles.extend(fresh_handles())
                message["receipt_handle"] = handles.pop()


@schemathesis.hook
def before_call(context, case, kwargs):
    if not handles:
        handles.extend(fresh_handles())
    aim(case)
    if isinstance(case.body, dict):
        hurry(case.body)
        hold(case.body)
