//! Requests that can be read and break a rule.

use super::{Target, expect_violation};

/// Why it is bad, the request, its body, and the field, value and rule that are named. `Q` stands
/// for `/v1/queues`; a few signs stand for characters that cannot be seen.
const ROWS: &str = r#"
unknown field | PUT Q/orders | {"color":"red"} | /color | "red" | unknown field `color`, expected
field in another case | PUT Q/orders | {"Receive_Wait_Seconds":1} | /Receive_Wait_Seconds | 1 | unknown field
field with an empty name | PUT Q/orders | {"":1} | / | 1 | unknown field
null | PUT Q/orders | {"receive_wait_seconds":null} | /receive_wait_seconds | null | expected a whole number
text for a number | PUT Q/orders | {"receive_wait_seconds":"5"} | /receive_wait_seconds | "5" | expected a whole number
true for a number | PUT Q/orders | {"receive_wait_seconds":true} | /receive_wait_seconds | true | expected a whole number
array for a number | PUT Q/orders | {"receive_wait_seconds":[5]} | /receive_wait_seconds | [5] | expected a whole number
object for a number | PUT Q/orders | {"receive_wait_seconds":{"s":5}} | /receive_wait_seconds | {"s":5} | expected a whole number
a fraction | PUT Q/orders | {"receive_wait_seconds":1.5} | /receive_wait_seconds | 1.5 | expected a whole number
a whole fraction | PUT Q/orders | {"receive_wait_seconds":1.0} | /receive_wait_seconds | 1.0 | expected a whole number
with an exponent | PUT Q/orders | {"receive_wait_seconds":1e1} | /receive_wait_seconds | 10.0 | expected a whole number
below the range | PUT Q/orders | {"receive_wait_seconds":-1} | /receive_wait_seconds | -1 | whole seconds from 0 to 20
above the range | PUT Q/orders | {"receive_wait_seconds":21} | /receive_wait_seconds | 21 | whole seconds from 0 to 20
above 12 hours | PUT Q/orders | {"visibility_timeout_seconds":43201} | /visibility_timeout_seconds | 43201 | whole seconds from 0 to 43200
2^63 - 1 | PUT Q/orders | {"receive_wait_seconds":9223372036854775807} | /receive_wait_seconds | 9223372036854775807 | whole seconds from 0 to 20
-2^63 | PUT Q/orders | {"receive_wait_seconds":-9223372036854775808} | /receive_wait_seconds | -9223372036854775808 | whole seconds from 0 to 20
2^63 | PUT Q/orders | {"receive_wait_seconds":9223372036854775808} | /receive_wait_seconds | 9223372036854775808 | expected a whole number
2^64 | PUT Q/orders | {"receive_wait_seconds":18446744073709551616} | /receive_wait_seconds | 1.8446744073709552e+19 | expected a whole number
a key twice | PUT Q/orders | {"receive_wait_seconds":1,"receive_wait_seconds":2} |  | {"receive_wait_seconds":2} | duplicate field `receive_wait_seconds`
array for the body | PUT Q/orders | [] |  | [] | expected a JSON object
null for the body | PUT Q/orders | null |  | null | expected a JSON object
text for the body | PUT Q/orders | "{}" |  | "{}" | expected a JSON object
name of 81 characters | PUT Q/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx |  | queue | xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… | 1 to 80 letters
name with a dot | PUT Q/a.b |  | queue | a.b | letters, digits, hyphens and underscores
name of dots | PUT Q/.. |  | queue | .. | 1 to 80 letters
name of encoded dots | PUT Q/%2e%2e |  | queue | .. | 1 to 80 letters
name with an encoded slash | PUT Q/a%2Fb |  | queue | a/b | 1 to 80 letters
name with an encoded backslash | PUT Q/a%5Cb |  | queue | a\b | 1 to 80 letters
name with NUL | PUT Q/a%00 |  | queue | a^ | 1 to 80 letters
name with a line break | PUT Q/a%0d%0ab |  | queue | a␍b | 1 to 80 letters
name with a space | PUT Q/a%20b |  | queue | a b | 1 to 80 letters
name with a plus | PUT Q/a+b |  | queue | a+b | 1 to 80 letters
name with a colon | PUT Q/orders:purge |  | queue | orders:purge | 1 to 80 letters
name with a semicolon | PUT Q/a;b=c |  | queue | a;b=c | 1 to 80 letters
name that is SQL | DELETE Q/x'%20or%20'1'='1 |  | queue | x' or '1'='1 | 1 to 80 letters
name that ends SQL | DELETE Q/x';%20drop%20table%20towpath.queue;%20-- |  | queue | x'; drop table towpath.queue; -- | 1 to 80 letters
name with a percent sign | GET Q/%25 |  | queue | % | 1 to 80 letters
name with a broken escape | GET Q/a%zz |  | queue | a%zz | 1 to 80 letters
name with half an escape | GET Q/a%4 |  | queue | a%4 | 1 to 80 letters
name escaped twice | GET Q/orders%2532 |  | queue | orders%32 | 1 to 80 letters
name with an umlaut | PUT Q/%C3%B6rders |  | queue | örders | 1 to 80 letters
name with an umlaut as it is | PUT Q/örders |  | queue | örders | 1 to 80 letters
name with a Cyrillic o | PUT Q/%D0%BErders |  | queue | оrders | 1 to 80 letters
name in full width | PUT Q/%EF%BC%AFrders |  | queue | Ｏrders | 1 to 80 letters
name with a zero-width space | PUT Q/or%E2%80%8Bders |  | queue | or¦ders | 1 to 80 letters
name written backwards | PUT Q/%E2%80%AEsredro |  | queue | ←sredro | 1 to 80 letters
name with an emoji | PUT Q/%F0%9F%9A%82 |  | queue | 🚂 | 1 to 80 letters
name with a digit of another script | PUT Q/a%D9%A1 |  | queue | a١ | 1 to 80 letters
a parameter where there is none | PUT Q/orders?force=1 |  | force | 1 | no query parameters
a parameter without a name | GET Q/orders?=1 |  |  | 1 | no query parameters
a parameter without a value | DELETE Q/orders?force |  | force |  | no query parameters
a parameter of a message | POST Q/orders/messages?delay=1 | {"messages":[{"body":"a"}]} | delay | 1 | no query parameters
a limit of 0 | GET Q?limit=0 |  | limit | 0 | a whole number from 1 to 1000
a limit of 1001 | GET Q?limit=1001 |  | limit | 1001 | a whole number from 1 to 1000
a limit of -1 | GET Q?limit=-1 |  | limit | -1 | a whole number from 1 to 1000
a limit of 2^64 | GET Q?limit=18446744073709551616 |  | limit | 18446744073709551616 | a whole number from 1 to 1000
a limit with a fraction | GET Q?limit=1.5 |  | limit | 1.5 | a whole number from 1 to 1000
a limit in words | GET Q?limit=ten |  | limit | ten | a whole number from 1 to 1000
no limit | GET Q?limit= |  | limit |  | a whole number from 1 to 1000
two limits | GET Q?limit=1&limit=2 |  | limit | 2 | a parameter is given once
a cursor that is no base64 | GET Q?cursor=%21 |  | cursor | ! | the `next_cursor` of the page before
a cursor with padding | GET Q?cursor=YQ== |  | cursor | YQ== | the `next_cursor` of the page before
a cursor of another make | GET Q?cursor=YS5i |  | cursor | YS5i | the `next_cursor` of the page before
a cursor that is SQL | GET Q?cursor=JyBvciAxPTE |  | cursor | JyBvciAxPTE | the `next_cursor` of the page before
a cursor of bytes | GET Q?cursor=_w |  | cursor | _w | the `next_cursor` of the page before
an empty cursor | GET Q?cursor= |  | cursor |  | the `next_cursor` of the page before
a prefix with a wildcard | GET Q?prefix=%25 |  | prefix | % | 1 to 80 letters
a prefix with NUL | GET Q?prefix=a%00 |  | prefix | a^ | 1 to 80 letters
a parameter in another case | GET Q?Limit=5 |  | Limit | 5 | the query parameters limit, cursor, prefix
an unknown parameter | GET Q?offset=5 |  | offset | 5 | the query parameters limit, cursor, prefix
no messages | POST Q/orders/messages | {"messages":[]} | /messages | 0 messages | a request has 1 to 10 messages
11 messages | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"},{"body":"a"}]} | /messages | 11 messages | a request has 1 to 10 messages
no list of messages | POST Q/orders/messages | {} |  | {} | missing field `messages`
null for messages | POST Q/orders/messages | {"messages":null} | /messages | null | expected a sequence
object for messages | POST Q/orders/messages | {"messages":{"0":{"body":"a"}}} | /messages | {"0":{"body":"a"}} | expected a sequence
a message alone | POST Q/orders/messages | {"body":"a"} | /body | "a" | unknown field `body`, expected `messages`
null for a message | POST Q/orders/messages | {"messages":[null]} | /messages/0 | null | expected a JSON object
text for a message | POST Q/orders/messages | {"messages":["a"]} | /messages/0 | "a" | expected a JSON object
array for a message | POST Q/orders/messages | {"messages":[["a"]]} | /messages/0 | ["a"] | expected a JSON object
a message without a body | POST Q/orders/messages | {"messages":[{"body":"a"},{}]} | /messages/1 | {} | missing field `body`
null for a body | POST Q/orders/messages | {"messages":[{"body":null}]} | /messages/0/body | null | expected a string
number for a body | POST Q/orders/messages | {"messages":[{"body":5}]} | /messages/0/body | 5 | expected a string
object for a body | POST Q/orders/messages | {"messages":[{"body":{"a":{"b":[1]}}}]} | /messages/0/body | {"a":{"b":[1]}} | expected a string
array for a body | POST Q/orders/messages | {"messages":[{"body":["a"]}]} | /messages/0/body | ["a"] | expected a string
an empty body | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":""}]} | /messages/1/body |  | at least one character
a body with NUL | POST Q/orders/messages | {"messages":[{"body":"a\u0000b"}]} | /messages/0/body | a^b | a text body has no U+0000
a body twice | POST Q/orders/messages | {"messages":[{"body":"a","body":"b"}]} | /messages/0 | {"body":"b"} | duplicate field `body`
a field that SQS has | POST Q/orders/messages | {"messages":[{"body":"a","MessageBody":"b"}]} | /messages/0/MessageBody | "b" | unknown field `MessageBody`, expected `body`
a field beside the messages | POST Q/orders/messages | {"messages":[{"body":"a"}],"atomic":true} | /atomic | true | unknown field `atomic`
receive none | POST Q/orders/messages/receive | {"max_messages":0} | /max_messages | 0 | a whole number from 1 to 10
receive 11 | POST Q/orders/messages/receive | {"max_messages":11} | /max_messages | 11 | a whole number from 1 to 10
receive -1 | POST Q/orders/messages/receive | {"max_messages":-1} | /max_messages | -1 | a whole number from 1 to 10
receive 2^63 - 1 | POST Q/orders/messages/receive | {"max_messages":9223372036854775807} | /max_messages | 9223372036854775807 | a whole number from 1 to 10
receive "1" | POST Q/orders/messages/receive | {"max_messages":"1"} | /max_messages | "1" | expected a whole number
wait for 21 s | POST Q/orders/messages/receive | {"wait_seconds":21} | /wait_seconds | 21 | whole seconds from 0 to 20
hide for -1 s | POST Q/orders/messages/receive | {"visibility_timeout_seconds":-1} | /visibility_timeout_seconds | -1 | whole seconds from 0 to 43200
hide for 12 h and 1 s | POST Q/orders/messages/receive | {"visibility_timeout_seconds":43201} | /visibility_timeout_seconds | 43201 | whole seconds from 0 to 43200
receive with a list | POST Q/orders/messages/receive | [1,20,30] |  | [1,20,30] | expected a JSON object
delete nothing | POST Q/orders/messages/delete | {"messages":[]} | /messages | 0 messages | a request has 1 to 10 messages
delete 11 | POST Q/orders/messages/delete | {"messages":[{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"},{"receipt_handle":"a"}]} | /messages | 11 messages | a request has 1 to 10 messages
delete by a message's id | POST Q/orders/messages/delete | {"messages":[{"message_id":"a"}]} | /messages/0/message_id | "a" | unknown field `message_id`, expected `receipt_handle`
delete by null | POST Q/orders/messages/delete | {"messages":[{"receipt_handle":null}]} | /messages/0/receipt_handle | null | expected a string
a token for nobody | POST /v1/tokens | {"subject":""} | /subject |  | 1 to 128 characters
a token for NUL | POST /v1/tokens | {"subject":"a\u0000"} | /subject | a^ | without control characters
a token for a number | POST /v1/tokens | {"subject":5} | /subject | 5 | expected a string
a token without a subject | POST /v1/tokens | {} |  | {} | missing field `subject`
a token for nothing | POST /v1/tokens | {"subject":"a","scope":" "} | /scope |   | one or more of read_metadata
a token for what is unknown | POST /v1/tokens | {"subject":"a","scope":"send fly"} | /scope | fly | one or more of read_metadata
a token for a list | POST /v1/tokens | {"subject":"a","scope":["send"]} | /scope | ["send"] | expected a string
a token of 0 s | POST /v1/tokens | {"subject":"a","lifetime_seconds":0} | /lifetime_seconds | 0 | whole seconds from 1 to 2592000
a token of -1 s | POST /v1/tokens | {"subject":"a","lifetime_seconds":-1} | /lifetime_seconds | -1 | whole seconds from 1 to 2592000
a token of 30 days and 1 s | POST /v1/tokens | {"subject":"a","lifetime_seconds":2592001} | /lifetime_seconds | 2592001 | whole seconds from 1 to 2592000
a token with a parameter | POST /v1/tokens?scope=send | {"subject":"a"} | scope | send | no query parameters
"#;

#[tokio::test]
async fn a_field_that_breaks_a_rule_is_named_with_its_value() {
    let target = Target::new().await;
    let before = target.state().await;
    let visible_signs = [
        ("^", "\0"),
        ("␍", "\r\n"),
        ("¦", "\u{200b}"),
        ("←", "\u{202e}"),
    ];
    for row in ROWS.lines().skip(1) {
        let columns: Vec<_> = row.split(" | ").collect();
        let [label, request, body, field, value, rule] = columns[..] else {
            panic!("{row}");
        };
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.replacen('Q', "/v1/queues", 1);
        let answer = target.ask(method, &path, body).await;
        let value = visible_signs
            .iter()
            .fold(value.to_owned(), |value, (sign, meant)| {
                value.replace(sign, meant)
            });
        expect_violation(label, &answer, field, &value, rule);
        assert_eq!(target.state().await, before, "{label}");
    }
}

#[tokio::test]
async fn an_answer_does_not_grow_with_what_is_wrong() {
    const MOST: usize = 4096;
    let target = Target::new().await;
    let long = "x".repeat(1024 * 1024);
    let path = "/v1/queues/orders/messages";
    for (label, body) in [
        ("an unknown field", format!(r#"{{"{long}":1}}"#)),
        ("text for a list", format!(r#"{{"messages":"{long}"}}"#)),
        (
            "an unknown field of a message",
            format!(r#"{{"messages":[{{"body":"a","{long}":1}}]}}"#),
        ),
        (
            "a body with NUL",
            format!(
                r#"{{"messages":[{{"body":"{}\u0000"}}]}}"#,
                "x".repeat(1_000_000)
            ),
        ),
        ("a list that is too long", {
            let entry = r#"{"body":"a"},"#.repeat(100_000);
            format!(r#"{{"messages":[{entry}{{"body":"a"}}]}}"#)
        }),
    ] {
        let answer = target.ask("POST", path, &body).await;
        answer.expect_problem(422, "invalid");
        let length = answer.body.to_string().len();
        assert!(length < MOST, "{label}: an answer of {length} bytes");
    }
}
