// The life of a message, by openapi-fetch and the types that openapi-typescript generated.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Problem = components["schemas"]["Problem"];

const baseUrl = process.env.TOWPATH_URL;
assert(baseUrl, "TOWPATH_URL says where the server is");
const client = (token: string | undefined) =>
  createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
const api = client(process.env.TOWPATH_TOKEN);

const path = { queue: "clients-typescript" };

const receive = async () => {
  const { data } = await api.POST("/v1/queues/{queue}/messages/receive", {
    params: { path },
    body: { max_messages: 10, wait_seconds: 5 },
  });
  assert.equal(data?.messages.length, 1);
  return data.messages[0]!;
};

const made = await api.PUT("/v1/queues/{queue}", {
  params: { path },
  body: { visibility_timeout_seconds: 60 },
});
assert.equal(made.response.status, 201);
assert.equal(made.data?.visibility_timeout_seconds, 60);

const send = async () => {
  const { data } = await api.POST("/v1/queues/{queue}/messages", {
    params: { path, header: { "Idempotency-Key": "once" } },
    body: { messages: [{ body: "hello" }] },
  });
  return data?.messages[0]?.message_id;
};
const sent = await send();
assert(sent);
assert.equal(await send(), sent);

const first = await receive();
assert.equal(first.message_id, sent);
assert.equal(first.body, "hello");
assert.equal(first.receive_count, 1);

const extend = () =>
  api.POST("/v1/queues/{queue}/messages/extend", {
    params: { path },
    body: {
      messages: [{ receipt_handle: first.receipt_handle, visibility_timeout_seconds: 600 }],
    },
  });
const extended = await extend();
assert(extended.data?.messages[0]?.visible_at);
assert(Date.parse(extended.data.messages[0].visible_at) > Date.parse(first.visible_at));

const nacked = await api.POST("/v1/queues/{queue}/messages/nack", {
  params: { path },
  body: { messages: [{ receipt_handle: first.receipt_handle, reason: "again" }] },
});
assert.equal(nacked.data?.messages[0]?.error, undefined);

const second = await receive();
assert.equal(second.message_id, sent);
assert.equal(second.receive_count, 2);

// What is wrong comes as a problem with all its fields.
const stale = await extend();
assert.equal(stale.response.status, 409);
const problem: Problem | undefined = stale.error;
assert.equal(problem?.code, "receipt_stale");
assert.equal(problem.errors?.[0]?.pointer, "/messages/0/receipt_handle");
assert.equal(problem.request_id, stale.response.headers.get("X-Request-Id"));

const deleted = await api.POST("/v1/queues/{queue}/messages/delete", {
  params: { path },
  body: { messages: [{ receipt_handle: second.receipt_handle }] },
});
assert.equal(deleted.data?.messages[0]?.deleted, true);

const gone = await api.DELETE("/v1/queues/{queue}", { params: { path } });
assert.equal(gone.response.status, 204);
const missing = await api.GET("/v1/queues/{queue}", { params: { path } });
assert.equal(missing.error?.code, "queue_not_found");
const refused = await client("nonsense").GET("/v1/queues/{queue}", { params: { path } });
assert.equal(refused.error?.code, "unauthenticated");

console.log("the generated TypeScript client works");
