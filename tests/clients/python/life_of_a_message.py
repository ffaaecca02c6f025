"""The life of a message, by the client that openapi-python-client generated."""

import os

from towpath_client import AuthenticatedClient
from towpath_client.api.messages import (
    delete_messages,
    extend_messages,
    nack_messages,
    receive_messages,
    send_messages,
)
from towpath_client.api.queues import count_messages, delete_queue, get_queue, put_queue
from towpath_client.models import (
    DeleteMessages,
    ExtendMessages,
    MessageToDelete,
    MessageToExtend,
    MessageToNack,
    MessageToSend,
    NackMessages,
    Problem,
    PutQueue,
    Queue,
    ReceiveMessages,
    SendMessages,
)

QUEUE = "clients-python"

client = AuthenticatedClient(
    base_url=os.environ["TOWPATH_URL"],
    token=os.environ["TOWPATH_TOKEN"],
    raise_on_unexpected_status=True,
)


def receive():
    """The one message that is there."""
    wish = ReceiveMessages(max_messages=10, wait_seconds=5)
    received = receive_messages.sync(QUEUE, client=client, body=wish)
    assert len(received.messages) == 1, received
    return received.messages[0]


made = put_queue.sync_detailed(
    QUEUE, client=client, body=PutQueue(visibility_timeout_seconds=60)
)
assert made.status_code == 201, made
assert isinstance(made.parsed, Queue) and made.parsed.visibility_timeout_seconds == 60

message = SendMessages(messages=[MessageToSend(body="hello")])
for again in range(2):
    answer = send_messages.sync(
        QUEUE, client=client, body=message, idempotency_key="once"
    )
    if not again:
        sent = answer
assert answer.messages[0].message_id == sent.messages[0].message_id, (sent, answer)

first = receive()
assert (first.body, first.receive_count) == ("hello", 1), first
assert first.message_id == sent.messages[0].message_id, (first, sent)

extended = extend_messages.sync(
    QUEUE,
    client=client,
    body=ExtendMessages(messages=[MessageToExtend(first.receipt_handle, 600)]),
)
assert extended.messages[0].visible_at > first.visible_at, extended

nacked = nack_messages.sync(
    QUEUE,
    client=client,
    body=NackMessages(messages=[MessageToNack(first.receipt_handle, reason="again")]),
)
assert nacked.messages[0].visible_at < first.visible_at, nacked

second = receive()
assert (second.message_id, second.receive_count) == (first.message_id, 2), second

# What is wrong comes as a problem with all its fields.
stale = extend_messages.sync_detailed(
    QUEUE,
    client=client,
    body=ExtendMessages(messages=[MessageToExtend(first.receipt_handle, 600)]),
)
assert stale.status_code == 409 and isinstance(stale.parsed, Problem), stale
assert stale.parsed.code == "receipt_stale", stale
assert stale.parsed.errors[0].pointer == "/messages/0/receipt_handle", stale
assert stale.parsed.request_id == stale.headers["x-request-id"], stale

deleted = delete_messages.sync(
    QUEUE,
    client=client,
    body=DeleteMessages(messages=[MessageToDelete(second.receipt_handle)]),
)
assert deleted.messages[0].deleted, deleted
counts = count_messages.sync(QUEUE, client=client)
assert not isinstance(counts, Problem), counts

assert delete_queue.sync_detailed(QUEUE, client=client).status_code == 204
gone = get_queue.sync(QUEUE, client=client)
assert isinstance(gone, Problem) and (gone.status, gone.code) == (404, "queue_not_found")

stranger = AuthenticatedClient(base_url=os.environ["TOWPATH_URL"], token="nonsense")
refused = get_queue.sync(QUEUE, client=stranger)
assert isinstance(refused, Problem) and refused.code == "unauthenticated", refused

print("the generated Python client works")
