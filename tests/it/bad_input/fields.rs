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
a parameter without a value | GET Q/orders?force |  | force |  | no query parameters
a parameter of a message | POST Q/orders/messages?delay=1 | {"messages":[{"body":"a"}]} | delay | 1 | the query parameters delay_seconds, time_to_live_seconds
a parameter for one message | POST Q/orders/messages?delay_seconds=1 | {"messages":[{"body":"a"}]} | delay_seconds | 1 | a parameter of application/octet-stream
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
no messages | POST Q/orders/messages | {"messages":[]} | /messages | 0 messages | a request has 1 to 1000 messages
no list of messages | POST Q/orders/messages | {} |  | {} | missing field `messages`
null for messages | POST Q/orders/messages | {"messages":null} | /messages | null | expected a sequence
object for messages | POST Q/orders/messages | {"messages":{"0":{"body":"a"}}} | /messages | {"0":{"body":"a"}} | expected a sequence
a message alone | POST Q/orders/messages | {"body":"a"} | /body | "a" | unknown field `body`, expected `messages`
null for a message | POST Q/orders/messages | {"messages":[null]} | /messages/0 | null | expected a JSON object
text for a message | POST Q/orders/messages | {"messages":["a"]} | /messages/0 | "a" | expected a JSON object
array for a message | POST Q/orders/messages | {"messages":[["a"]]} | /messages/0 | ["a"] | expected a JSON object
a message without a body | POST Q/orders/messages | {"messages":[{"body":"a"},{}]} | /messages/1 |  | exactly one of body, body_json and body_base64
null for a body | POST Q/orders/messages | {"messages":[{"body":null}]} | /messages/0/body | null | expected a string
number for a body | POST Q/orders/messages | {"messages":[{"body":5}]} | /messages/0/body | 5 | expected a string
object for a body | POST Q/orders/messages | {"messages":[{"body":{"a":{"b":[1]}}}]} | /messages/0/body | {"a":{"b":[1]}} | expected a string
array for a body | POST Q/orders/messages | {"messages":[{"body":["a"]}]} | /messages/0/body | ["a"] | expected a string
an empty body | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":""}]} | /messages/1/body |  | at least one character
a body with NUL | POST Q/orders/messages | {"messages":[{"body":"a\u0000b"}]} | /messages/0/body | a^b | a text body has no U+0000
a body twice | POST Q/orders/messages | {"messages":[{"body":"a","body":"b"}]} | /messages/0 | {"body":"b"} | duplicate field `body`
two bodies | POST Q/orders/messages | {"messages":[{"body":"a","body_json":1}]} | /messages/0 |  | exactly one of body, body_json and body_base64
a JSON body twice | POST Q/orders/messages | {"messages":[{"body_json":1,"body_json":2}]} | /messages/0 | {"body_json":2} | duplicate field `body_json`
a JSON body with 1e400 | POST Q/orders/messages | {"messages":[{"body_json":[1e400]}]} | /messages/0/body_json | [1e400] | number out of range
a JSON body with half a surrogate pair | POST Q/orders/messages | {"messages":[{"body_json":"\ud800"}]} | /messages/0/body_json | "\ud800" | common parsers read
a JSON body nested too deep | POST Q/orders/messages | {"messages":[{"body_json":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}]} | /messages/0/body_json | [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[… | nested up to 100 deep
null for base64 | POST Q/orders/messages | {"messages":[{"body_base64":null}]} | /messages/0/body_base64 | null | expected a string
no base64 at all | POST Q/orders/messages | {"messages":[{"body_base64":""}]} | /messages/0/body_base64 |  | at least one byte
no base64 | POST Q/orders/messages | {"messages":[{"body_base64":"a*b="}]} | /messages/0/body_base64 | a*b= | base64 with its padding
base64 without padding | POST Q/orders/messages | {"messages":[{"body_base64":"YQ"}]} | /messages/0/body_base64 | YQ | base64 with its padding
base64 for URLs | POST Q/orders/messages | {"messages":[{"body_base64":"_w=="}]} | /messages/0/body_base64 | _w== | base64 with its padding
null for attributes | POST Q/orders/messages | {"messages":[{"body":"a","attributes":null}]} | /messages/0/attributes | null | expected a JSON object
array for attributes | POST Q/orders/messages | {"messages":[{"body":"a","attributes":[]}]} | /messages/0/attributes | [] | expected a JSON object
null for an attribute | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":null}}]} | /messages/0/attributes/a | null | expected a JSON object
text for an attribute | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":"x"}}]} | /messages/0/attributes/a | "x" | expected a JSON object
an attribute without a value | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{}}}]} | /messages/0/attributes/a | {} | missing field `value`
number for the value of an attribute | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Number","value":5}}}]} | /messages/0/attributes/a/value | 5 | expected a string
a field of an attribute that SQS has | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"value":"x","DataType":"String"}}}]} | /messages/0/attributes/a/DataType | "String" | unknown field `DataType`
null for the type of an attribute | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":null,"value":"x"}}}]} | /messages/0/attributes/a/type | null | expected a string
an unknown type | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Text","value":"x"}}}]} | /messages/0/attributes/a/type | Text | String, Number or Binary
a type in another case | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"string","value":"x"}}}]} | /messages/0/attributes/a/type | string | String, Number or Binary
a type with an empty label | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"String.","value":"x"}}}]} | /messages/0/attributes/a/type | String. | a label behind it
an empty value | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"value":""}}}]} | /messages/0/attributes/a/value |  | is not empty
a value with NUL | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"value":"a\u0000"}}}]} | /messages/0/attributes/a/value | a^ | no U+0000
a number in words | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Number","value":"one"}}}]} | /messages/0/attributes/a/value | one | a decimal number
a number of 39 digits | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Number.int","value":"111111111111111111111111111111111111111"}}}]} | /messages/0/attributes/a/value | 111111111111111111111111111111111111111 | up to 38 digits
a number of great magnitude | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Number","value":"1e127"}}}]} | /messages/0/attributes/a/value | 1e127 | from -128 to 126
bytes that are no base64 | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Binary","value":"x"}}}]} | /messages/0/attributes/a/value | x | base64 with its padding
no bytes | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a":{"type":"Binary","value":""}}}]} | /messages/0/attributes/a/value |  | is not empty
an attribute without a name | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"":{"value":"x"}}}]} | /messages/0/attributes/ |  | 1 to 256 letters
an attribute with a space | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a b":{"value":"x"}}}]} | /messages/0/attributes/a b | a b | 1 to 256 letters
an attribute with a slash | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a/b":{"value":"x"}}}]} | /messages/0/attributes/a~1b | a/b | 1 to 256 letters
an attribute of AWS | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"aWS.x":{"value":"x"}}}]} | /messages/0/attributes/aWS.x | aWS.x | does not begin with AWS.
an attribute of Amazon | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"Amazon.x":{"value":"x"}}}]} | /messages/0/attributes/Amazon.x | Amazon.x | does not begin with AWS. or Amazon.
an attribute that ends in a dot | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a.":{"value":"x"}}}]} | /messages/0/attributes/a. | a. | no dot at its ends
an attribute with two dots | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"a..b":{"value":"x"}}}]} | /messages/0/attributes/a..b | a..b | no two dots in a row
an attribute twice | POST Q/orders/messages | {"messages":[{"body":"a","attributes":{"b":{"value":"x"},"a":{"value":"x"},"b":{"value":"y"}}}]} | /messages/0/attributes | b | one attribute of a name
null for a trace | POST Q/orders/messages | {"messages":[{"body":"a","traceparent":null}]} | /messages/0/traceparent | null | expected a string
no trace | POST Q/orders/messages | {"messages":[{"body":"a","traceparent":"00-1-2-3"}]} | /messages/0/traceparent | 00-1-2-3 | a traceparent of W3C Trace Context
a trace in upper case | POST Q/orders/messages | {"messages":[{"body":"a","traceparent":"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"}]} | /messages/0/traceparent | 00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01 | lower-case hexadecimal
a trace's state without the trace | POST Q/orders/messages | {"messages":[{"body":"a","tracestate":"a=1"}]} | /messages/0/tracestate | a=1 | goes with a traceparent
no state of a trace | POST Q/orders/messages | {"messages":[{"body":"a","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","tracestate":"a"}]} | /messages/0/tracestate | a | key=value
a field that SQS has | POST Q/orders/messages | {"messages":[{"body":"a","MessageBody":"b"}]} | /messages/0/MessageBody | "b" | unknown field `MessageBody`, expected one of `body`
a field beside the messages | POST Q/orders/messages | {"messages":[{"body":"a"}],"atomic":true} | /atomic | true | unknown field `atomic`
receive none | POST Q/orders/messages/receive | {"max_messages":0} | /max_messages | 0 | a whole number from 1 to 1000
receive 1001 | POST Q/orders/messages/receive | {"max_messages":1001} | /max_messages | 1001 | a whole number from 1 to 1000
receive -1 | POST Q/orders/messages/receive | {"max_messages":-1} | /max_messages | -1 | a whole number from 1 to 1000
receive 2^63 - 1 | POST Q/orders/messages/receive | {"max_messages":9223372036854775807} | /max_messages | 9223372036854775807 | a whole number from 1 to 1000
receive "1" | POST Q/orders/messages/receive | {"max_messages":"1"} | /max_messages | "1" | expected a whole number
wait for 21 s | POST Q/orders/messages/receive | {"wait_seconds":21} | /wait_seconds | 21 | whole seconds from 0 to 20
hide for -1 s | POST Q/orders/messages/receive | {"visibility_timeout_seconds":-1} | /visibility_timeout_seconds | -1 | whole seconds from 0 to 43200
hide for 12 h and 1 s | POST Q/orders/messages/receive | {"visibility_timeout_seconds":43201} | /visibility_timeout_seconds | 43201 | whole seconds from 0 to 43200
receive with a list | POST Q/orders/messages/receive | [1,20,30] |  | [1,20,30] | expected a JSON object
delete nothing | POST Q/orders/messages/delete | {"messages":[]} | /messages | 0 messages | a request has 1 to 1000 messages
delete by a message's id | POST Q/orders/messages/delete | {"messages":[{"message_id":"a"}]} | /messages/0/message_id | "a" | unknown field `message_id`, expected `receipt_handle`
delete by null | POST Q/orders/messages/delete | {"messages":[{"receipt_handle":null}]} | /messages/0/receipt_handle | null | expected a string
null for the delay | PUT Q/orders | {"delay_seconds":null} | /delay_seconds | null | expected a whole number
text for the delay | PUT Q/orders | {"delay_seconds":"60"} | /delay_seconds | "60" | expected a whole number
a fraction for the delay | PUT Q/orders | {"delay_seconds":60.5} | /delay_seconds | 60.5 | expected a whole number
a delay of -1 s | PUT Q/orders | {"delay_seconds":-1} | /delay_seconds | -1 | whole seconds from 0 to 315360000
a delay of 315360001 s | PUT Q/orders | {"delay_seconds":315360001} | /delay_seconds | 315360001 | whole seconds from 0 to 315360000
a delay of -9223372036854775808 s | PUT Q/orders | {"delay_seconds":-9223372036854775808} | /delay_seconds | -9223372036854775808 | whole seconds from 0 to 315360000
null for the retention | PUT Q/orders | {"retention_seconds":null} | /retention_seconds | null | expected a whole number
text for the retention | PUT Q/orders | {"retention_seconds":"60"} | /retention_seconds | "60" | expected a whole number
a fraction for the retention | PUT Q/orders | {"retention_seconds":60.5} | /retention_seconds | 60.5 | expected a whole number
a retention of 59 s | PUT Q/orders | {"retention_seconds":59} | /retention_seconds | 59 | whole seconds from 60 to 315360000
a retention of 315360001 s | PUT Q/orders | {"retention_seconds":315360001} | /retention_seconds | 315360001 | whole seconds from 60 to 315360000
a retention of -9223372036854775808 s | PUT Q/orders | {"retention_seconds":-9223372036854775808} | /retention_seconds | -9223372036854775808 | whole seconds from 60 to 315360000
null for the deduplication window | PUT Q/orders | {"deduplication_window_seconds":null} | /deduplication_window_seconds | null | expected a whole number
text for the deduplication window | PUT Q/orders | {"deduplication_window_seconds":"60"} | /deduplication_window_seconds | "60" | expected a whole number
a fraction for the deduplication window | PUT Q/orders | {"deduplication_window_seconds":60.5} | /deduplication_window_seconds | 60.5 | expected a whole number
a deduplication window of 0 s | PUT Q/orders | {"deduplication_window_seconds":0} | /deduplication_window_seconds | 0 | whole seconds from 1 to 2592000
a deduplication window of 2592001 s | PUT Q/orders | {"deduplication_window_seconds":2592001} | /deduplication_window_seconds | 2592001 | whole seconds from 1 to 2592000
a deduplication window of -9223372036854775808 s | PUT Q/orders | {"deduplication_window_seconds":-9223372036854775808} | /deduplication_window_seconds | -9223372036854775808 | whole seconds from 1 to 2592000
a delay as long as messages live | PUT Q/orders | {"delay_seconds":60,"retention_seconds":60} | /delay_seconds | 60 | less than retention_seconds
a delay as long as messages live by default | PUT Q/orders | {"delay_seconds":345600} | /delay_seconds | 345600 | less than retention_seconds
null for the dead-letter queue | PUT Q/orders | {"dead_letter_queue":null,"max_receive_count":3} | /dead_letter_queue | null | expected a string
number for the dead-letter queue | PUT Q/orders | {"dead_letter_queue":1,"max_receive_count":3} | /dead_letter_queue | 1 | expected a string
a dead-letter queue without a name | PUT Q/orders | {"dead_letter_queue":"","max_receive_count":3} | /dead_letter_queue |  | 1 to 80 letters
a dead-letter queue of another tenant's syntax | PUT Q/orders | {"dead_letter_queue":"a/b","max_receive_count":3} | /dead_letter_queue | a/b | 1 to 80 letters
a dead-letter queue of itself | PUT Q/orders | {"dead_letter_queue":"orders","max_receive_count":3} | /dead_letter_queue | orders | the name of another queue
a dead-letter queue that is not there | PUT Q/orders | {"dead_letter_queue":"nothing","max_receive_count":3} | /dead_letter_queue | nothing | a queue that exists; create it first
a dead-letter queue without a count | PUT Q/orders | {"dead_letter_queue":"others"} | /max_receive_count |  | together with dead_letter_queue
a count without a dead-letter queue | PUT Q/orders | {"max_receive_count":3} | /dead_letter_queue |  | together with max_receive_count
null for the count | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":null} | /max_receive_count | null | expected a whole number
text for the count | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":"3"} | /max_receive_count | "3" | expected a whole number
a fraction for the count | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":1.5} | /max_receive_count | 1.5 | expected a whole number
a count of 0 | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":0} | /max_receive_count | 0 | a whole number from 1 to 1000
a count of 1001 | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":1001} | /max_receive_count | 1001 | a whole number from 1 to 1000
a count of -1 | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":-1} | /max_receive_count | -1 | a whole number from 1 to 1000
a count of 9223372036854775807 | PUT Q/orders | {"dead_letter_queue":"others","max_receive_count":9223372036854775807} | /max_receive_count | 9223372036854775807 | a whole number from 1 to 1000
durability unknown | PUT Q/orders | {"durability":"sync"} | /durability | sync | one of strict, relaxed and async
durability in another case | PUT Q/orders | {"durability":"Strict"} | /durability | Strict | one of strict, relaxed and async
durability empty | PUT Q/orders | {"durability":""} | /durability |  | one of strict, relaxed and async
durability null | PUT Q/orders | {"durability":null} | /durability | null | expected a string
durability true | PUT Q/orders | {"durability":true} | /durability | true | expected a string
a patch of what is unknown | PATCH Q/orders | {"color":null} | /color | null | unknown field `color`, expected
a patch with text for a number | PATCH Q/orders | {"delay_seconds":"5"} | /delay_seconds | "5" | expected a whole number
a patch that is no object | PATCH Q/orders | [] |  | [] | expected a JSON object
a patch that says a field twice | PATCH Q/orders | {"delay_seconds":1,"delay_seconds":null} |  | {"delay_seconds":null} | duplicate field `delay_seconds`
a patch out of range | PATCH Q/orders | {"visibility_timeout_seconds":43201} | /visibility_timeout_seconds | 43201 | whole seconds from 0 to 43200
a patch of half of two | PATCH Q/orders | {"max_receive_count":3} | /dead_letter_queue |  | together with max_receive_count
a patch with a parameter | PATCH Q/orders?force=true | {} | force | true | no query parameters
a patch of a queue without a name | PATCH Q/a.b | {} | queue | a.b | 1 to 80 letters
a patch of tags with a number | PATCH Q/orders | {"tags":{"a":1}} | /tags/a | 1 | expected a string
a patch of a policy without a type | PATCH Q/orders | {"retry_policy":{"delay_seconds":1}} | /retry_policy/type |  | one of fixed, ladder and exponential
a patch of a policy to no type | PATCH Q/orders | {"retry_policy":{"type":null,"delay_seconds":1}} | /retry_policy/type |  | one of fixed, ladder and exponential
null for the tags | PUT Q/orders | {"tags":null} | /tags | null | expected a JSON object
a list for the tags | PUT Q/orders | {"tags":["a"]} | /tags | ["a"] | expected a JSON object
a tag of null | PUT Q/orders | {"tags":{"a":null}} | /tags/a | null | expected a string
a tag of a number | PUT Q/orders | {"tags":{"a":1}} | /tags/a | 1 | expected a string
a tag twice | PUT Q/orders | {"tags":{"a":"1","a":"2"}} | /tags | {"a":"2"} | duplicate field `a`
a tag without a key | PUT Q/orders | {"tags":{"":"a"}} | /tags/ |  | a tag's key is 1 to 128 characters
a tag with NUL in its value | PUT Q/orders | {"tags":{"a/b":"a\u0000"}} | /tags/a~1b | a^ | a tag's value is at most 256 characters
text for a pause | PUT Q/orders | {"sending_paused":"true"} | /sending_paused | "true" | expected a boolean
null for a pause | PUT Q/orders | {"receiving_paused":null} | /receiving_paused | null | expected a boolean
a number for a pause | PUT Q/orders | {"receiving_paused":1} | /receiving_paused | 1 | expected a boolean
null for the retry policy | PUT Q/orders | {"retry_policy":null} | /retry_policy | null | expected a JSON object
text for the retry policy | PUT Q/orders | {"retry_policy":"fixed"} | /retry_policy | "fixed" | expected a JSON object
a list for the retry policy | PUT Q/orders | {"retry_policy":["fixed",1]} | /retry_policy | ["fixed",1] | expected a JSON object
a retry policy without a type | PUT Q/orders | {"retry_policy":{"delay_seconds":1}} | /retry_policy | {"delay_seconds":1} | missing field `type`
a retry policy of another type | PUT Q/orders | {"retry_policy":{"type":"linear","delay_seconds":1}} | /retry_policy/type | linear | one of fixed, ladder and exponential
a retry policy with what is unknown | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1,"delay":1}} | /retry_policy/delay | 1 | unknown field `delay`
a fixed delay that is not there | PUT Q/orders | {"retry_policy":{"type":"fixed"}} | /retry_policy/delay_seconds |  | needed with a policy of type fixed
a fixed delay with a factor | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1,"factor":2}} | /retry_policy/factor |  | not with a policy of type fixed
a fixed delay of -1 s | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":-1}} | /retry_policy/delay_seconds | -1 | whole seconds from 0 to 43200
a fixed delay of 43201 s | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":43201}} | /retry_policy/delay_seconds | 43201 | whole seconds from 0 to 43200
a fixed delay with a fraction | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1.5}} | /retry_policy/delay_seconds | 1.5 | expected a whole number
a ladder without delays | PUT Q/orders | {"retry_policy":{"type":"ladder","delays_seconds":[]}} | /retry_policy/delays_seconds | 0 delays | 1 to 32 delays
a ladder of 33 delays | PUT Q/orders | {"retry_policy":{"type":"ladder","delays_seconds":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}} | /retry_policy/delays_seconds | 33 delays | 1 to 32 delays
a ladder with a bad step | PUT Q/orders | {"retry_policy":{"type":"ladder","delays_seconds":[1,43201]}} | /retry_policy/delays_seconds/1 | 43201 | whole seconds from 0 to 43200
a ladder with a step of text | PUT Q/orders | {"retry_policy":{"type":"ladder","delays_seconds":[1,"2"]}} | /retry_policy/delays_seconds/1 | "2" | expected a whole number
a ladder of one delay | PUT Q/orders | {"retry_policy":{"type":"ladder","delay_seconds":1}} | /retry_policy/delay_seconds |  | not with a policy of type ladder
an exponential delay without a factor | PUT Q/orders | {"retry_policy":{"type":"exponential","delay_seconds":1,"max_delay_seconds":9}} | /retry_policy/factor |  | needed with a policy of type exponential
an exponential delay without an end | PUT Q/orders | {"retry_policy":{"type":"exponential","delay_seconds":1,"factor":2}} | /retry_policy/max_delay_seconds |  | needed with a policy of type exponential
an exponential delay that shrinks | PUT Q/orders | {"retry_policy":{"type":"exponential","delay_seconds":1,"factor":0.5,"max_delay_seconds":9}} | /retry_policy/factor | 0.5 | a number from 1 to 10
an exponential delay that explodes | PUT Q/orders | {"retry_policy":{"type":"exponential","delay_seconds":1,"factor":10.5,"max_delay_seconds":9}} | /retry_policy/factor | 10.5 | a number from 1 to 10
an exponential delay that begins above its end | PUT Q/orders | {"retry_policy":{"type":"exponential","delay_seconds":10,"factor":2,"max_delay_seconds":9}} | /retry_policy/max_delay_seconds | 9 | not less than delay_seconds
a jitter above 1 | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1,"jitter":1.01}} | /retry_policy/jitter | 1.01 | a number from 0 to 1
a jitter below 0 | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1,"jitter":-0.5}} | /retry_policy/jitter | -0.5 | a number from 0 to 1
a jitter of text | PUT Q/orders | {"retry_policy":{"type":"fixed","delay_seconds":1,"jitter":"1"}} | /retry_policy/jitter | "1" | expected a number
a tag to look for that is empty | GET Q?tag= |  | tag |  | a tag's key, or its key, a colon and its value
a tag to look for with NUL | GET Q?tag=a%00 |  | tag | a^ | a tag's key, or its key, a colon and its value
two tags to look for | GET Q?tag=a&tag=b |  | tag | b | a parameter is given once
null for a message's delay | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":null}]} | /messages/1/delay_seconds | null | expected a whole number
text for a message's delay | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":"5"}]} | /messages/1/delay_seconds | "5" | expected a whole number
a fraction for a message's delay | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":1.5}]} | /messages/1/delay_seconds | 1.5 | expected a whole number
2^63 for a message's delay | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":9223372036854775808}]} | /messages/1/delay_seconds | 9223372036854775808 | expected a whole number
a message's delay of -1 s | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":-1}]} | /messages/1/delay_seconds | -1 | whole seconds from 0 to 315360000
a message's delay of 315360001 s | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":315360001}]} | /messages/1/delay_seconds | 315360001 | whole seconds from 0 to 315360000
null for a message's time to live | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":null}]} | /messages/1/time_to_live_seconds | null | expected a whole number
text for a message's time to live | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":"5"}]} | /messages/1/time_to_live_seconds | "5" | expected a whole number
a fraction for a message's time to live | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":1.5}]} | /messages/1/time_to_live_seconds | 1.5 | expected a whole number
2^63 for a message's time to live | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":9223372036854775808}]} | /messages/1/time_to_live_seconds | 9223372036854775808 | expected a whole number
a message's time to live of 0 s | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":0}]} | /messages/1/time_to_live_seconds | 0 | whole seconds from 1 to 315360000
a message's time to live of 315360001 s | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","time_to_live_seconds":315360001}]} | /messages/1/time_to_live_seconds | 315360001 | whole seconds from 1 to 315360000
a message that lives as long as its delay | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":10,"time_to_live_seconds":10}]} | /messages/1/time_to_live_seconds | 10 | more than the 10 s of its delay
a message's delay as long as its queue keeps it | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","delay_seconds":345600}]} | /messages/1/delay_seconds | 345600 | less than the 345600 s
a delay as SQS has it | POST Q/orders/messages | {"messages":[{"body":"a"},{"body":"a","DelaySeconds":1}]} | /messages/1/DelaySeconds | 1 | unknown field `DelaySeconds`
extend nothing | POST Q/orders/messages/extend | {"messages":[]} | /messages | 0 messages | a request has 1 to 1000 messages
extend no list | POST Q/orders/messages/extend | {} |  | {} | missing field `messages`
extend null | POST Q/orders/messages/extend | {"messages":[null]} | /messages/0 | null | expected a JSON object
extend no receipt | POST Q/orders/messages/extend | {"messages":[{"visibility_timeout_seconds":1}]} | /messages/0 | {"visibility_timeout_seconds":1} | missing field `receipt_handle`
extend by null | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":null,"visibility_timeout_seconds":1}]} | /messages/0/receipt_handle | null | expected a string
extend by a forged receipt | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"forged","visibility_timeout_seconds":1}]} | /messages/0/receipt_handle | forged | a receipt handle as a receive on this queue gave it out
extend with what is unknown | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":1,"extra":1}]} | /messages/0/extra | 1 | unknown field `extra`
nack nothing | POST Q/orders/messages/nack | {"messages":[]} | /messages | 0 messages | a request has 1 to 1000 messages
nack no list | POST Q/orders/messages/nack | {} |  | {} | missing field `messages`
nack null | POST Q/orders/messages/nack | {"messages":[null]} | /messages/0 | null | expected a JSON object
nack no receipt | POST Q/orders/messages/nack | {"messages":[{"delay_seconds":1}]} | /messages/0 | {"delay_seconds":1} | missing field `receipt_handle`
nack by null | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":null,"delay_seconds":1}]} | /messages/0/receipt_handle | null | expected a string
nack by a forged receipt | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"forged","delay_seconds":1}]} | /messages/0/receipt_handle | forged | a receipt handle as a receive on this queue gave it out
nack with what is unknown | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":1,"extra":1}]} | /messages/0/extra | 1 | unknown field `extra`
extend without a time | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a"}]} | /messages/0 | {"receipt_handle":"a"} | missing field `visibility_timeout_seconds`
extend by null | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":null}]} | /messages/0/visibility_timeout_seconds | null | expected a whole number
extend by "30" | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":"30"}]} | /messages/0/visibility_timeout_seconds | "30" | expected a whole number
extend by 1.5 | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":1.5}]} | /messages/0/visibility_timeout_seconds | 1.5 | expected a whole number
extend by -1 s | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":-1}]} | /messages/0/visibility_timeout_seconds | -1 | whole seconds from 0 to 43200
extend by 43201 s | POST Q/orders/messages/extend | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":43201}]} | /messages/0/visibility_timeout_seconds | 43201 | whole seconds from 0 to 43200
nack for null | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":null}]} | /messages/0/delay_seconds | null | expected a whole number
nack for "30" | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":"30"}]} | /messages/0/delay_seconds | "30" | expected a whole number
nack for 1.5 | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":1.5}]} | /messages/0/delay_seconds | 1.5 | expected a whole number
nack for -1 s | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":-1}]} | /messages/0/delay_seconds | -1 | whole seconds from 0 to 315360000
nack for 315360001 s | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","delay_seconds":315360001}]} | /messages/0/delay_seconds | 315360001 | whole seconds from 0 to 315360000
nack because of null | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","reason":null}]} | /messages/0/reason | null | expected a string
nack because of 5 | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","reason":5}]} | /messages/0/reason | 5 | expected a string
nack because of ["why"] | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","reason":["why"]}]} | /messages/0/reason | ["why"] | expected a string
nack because of NUL | POST Q/orders/messages/nack | {"messages":[{"receipt_handle":"a","reason":"a\u0000b"}]} | /messages/0/reason | a^b | a reason has no U+0000
peek at 0 messages | GET Q/orders/messages?limit=0 |  | limit | 0 | a whole number from 1 to 100
peek at 101 messages | GET Q/orders/messages?limit=101 |  | limit | 101 | a whole number from 1 to 100
peek at -1 messages | GET Q/orders/messages?limit=-1 |  | limit | -1 | a whole number from 1 to 100
peek at 1.5 messages | GET Q/orders/messages?limit=1.5 |  | limit | 1.5 | a whole number from 1 to 100
peek at no number of messages | GET Q/orders/messages?limit= |  | limit |  | a whole number from 1 to 100
peek twice limited | GET Q/orders/messages?limit=1&limit=2 |  | limit | 2 | a parameter is given once
peek at a state that is none | GET Q/orders/messages?state=dead |  | state | dead | one of visible, in_flight and delayed
peek at a state in another case | GET Q/orders/messages?state=Visible |  | state | Visible | one of visible, in_flight and delayed
peek at no state | GET Q/orders/messages?state= |  | state |  | one of visible, in_flight and delayed
peek by a cursor that is no base64 | GET Q/orders/messages?cursor=%21 |  | cursor | ! | the `next_cursor` of the page before
peek by a cursor of a listing | GET Q/orders/messages?cursor=b3JkZXJz |  | cursor | b3JkZXJz | the `next_cursor` of the page before
peek by an empty cursor | GET Q/orders/messages?cursor= |  | cursor |  | the `next_cursor` of the page before
peek by a cursor of no lane | GET Q/orders/messages?cursor=_____________________w |  | cursor | _____________________w | the `next_cursor` of the page before
peek by a cursor of zeros | GET Q/orders/messages?cursor=AAAAAAAAAAAAAAAAAAAAAA |  | cursor | AAAAAAAAAAAAAAAAAAAAAA | the `next_cursor` of the page before
peek for no text | GET Q/orders/messages?text= |  | text |  | a text of 1 to 1024 characters
peek for a value of no attribute | GET Q/orders/messages?attribute_value=a |  | attribute_value | a | given together with attribute
peek for an attribute without a name | GET Q/orders/messages?attribute= |  | attribute |  | 1 to 256 letters
peek for an attribute with a space | GET Q/orders/messages?attribute=a%20b |  | attribute | a b | 1 to 256 letters
peek for an attribute of AWS | GET Q/orders/messages?attribute=AWS.a |  | attribute | AWS.a | does not begin with AWS.
peek with what is unknown | GET Q/orders/messages?offset=5 |  | offset | 5 | the query parameters state, limit, cursor, attribute, attribute_value, text
a message by no id | GET Q/orders/messages/x |  | message_id | x | a UUID with hyphens
a message by an id without hyphens | GET Q/orders/messages/5d3c9a401b7e8f219c550a4f6e2b7d18 |  | message_id | 5d3c9a401b7e8f219c550a4f6e2b7d18 | a UUID with hyphens
a message by an id in braces | GET Q/orders/messages/%7B5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18%7D |  | message_id | {5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18} | a UUID with hyphens
a message by an id that is SQL | GET Q/orders/messages/x'%20or%20'1'='1 |  | message_id | x' or '1'='1 | a UUID with hyphens
a message by its id and more | GET Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18?state=visible |  | state | visible | no query parameters
cancel by no id | DELETE Q/orders/messages/all |  | message_id | all | a UUID with hyphens
reschedule by no id | PATCH Q/orders/messages/all | {"delay_seconds":1} | message_id | all | a UUID with hyphens
reschedule in a queue that is none | PATCH Q/a.b/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":1} | queue | a.b | 1 to 80 letters
reschedule to no time | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {} |  | {} | missing field `delay_seconds`
reschedule to null | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":null} | /delay_seconds | null | expected a whole number
reschedule to "30" | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":"30"} | /delay_seconds | "30" | expected a whole number
reschedule to 1.5 | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":1.5} | /delay_seconds | 1.5 | expected a whole number
reschedule to -1 s | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":-1} | /delay_seconds | -1 | whole seconds from 0 to 315360000
reschedule to 315360001 s | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":315360001} | /delay_seconds | 315360001 | whole seconds from 0 to 315360000
reschedule with what is unknown | PATCH Q/orders/messages/5d3c9a40-1b7e-8f21-9c55-0a4f6e2b7d18 | {"delay_seconds":1,"extra":1} | /extra | 1 | unknown field `extra`
force maybe | DELETE Q/orders?force=maybe |  | force | maybe | true or false
force nothing | DELETE Q/orders?force= |  | force |  | true or false
force 1 | DELETE Q/orders?force=1 |  | force | 1 | true or false
force True | DELETE Q/orders?force=True |  | force | True | true or false
force TRUE | DELETE Q/orders?force=TRUE |  | force | TRUE | true or false
force yes | DELETE Q/orders?force=yes |  | force | yes | true or false
force twice | DELETE Q/orders?force=true&force=true |  | force | true | a parameter is given once
force in another case | DELETE Q/orders?Force=true |  | Force | true | the query parameters force
force what cannot be forced | POST Q/orders/purge?force=true |  | force | true | no query parameters
counts of something | GET Q/orders/counts?state=visible |  | state | visible | no query parameters
a parameter of an extend | POST Q/orders/messages/extend?a=b | {"messages":[{"receipt_handle":"a","visibility_timeout_seconds":1}]} | a | b | no query parameters
a parameter of a nack | POST Q/orders/messages/nack?a=b | {"messages":[{"receipt_handle":"a"}]} | a | b | no query parameters
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
async fn a_batch_has_at_most_1000_messages() {
    let target = Target::new().await;
    let before = target.state().await;
    for (operation, entry) in [
        ("", r#"{"body":"a"}"#),
        ("/delete", r#"{"receipt_handle":"a"}"#),
        (
            "/extend",
            r#"{"receipt_handle":"a","visibility_timeout_seconds":1}"#,
        ),
        ("/nack", r#"{"receipt_handle":"a"}"#),
    ] {
        let path = format!("/v1/queues/orders/messages{operation}");
        let body = format!(r#"{{"messages":[{}]}}"#, [entry; 1001].join(","));
        let answer = target.ask("POST", &path, &body).await;
        let rule = "a request has 1 to 1000 messages";
        expect_violation(&path, &answer, "/messages", "1001 messages", rule);
    }
    assert_eq!(target.state().await, before);
}

#[tokio::test]
async fn a_bad_idempotency_key_is_named_with_its_value() {
    let target = Target::new().await;
    let before = target.state().await;
    let long = "k".repeat(256);
    let shown = format!("{}…", "k".repeat(64));
    let rule = "1 to 255 visible ASCII characters";
    for (label, headers, value, rule) in [
        ("empty", "idempotency-key:\r\n", "", rule),
        ("blank", "idempotency-key:   \r\n", "", rule),
        (
            "of 256 characters",
            &format!("idempotency-key: {long}\r\n"),
            &shown,
            rule,
        ),
        ("with a space", "idempotency-key: a b\r\n", "a b", rule),
        ("with a tab", "idempotency-key: a\tb\r\n", "a\tb", rule),
        ("with an umlaut", "idempotency-key: ä\r\n", "ä", rule),
        (
            "twice",
            "idempotency-key: a\r\nIdempotency-Key: a\r\n",
            "a",
            "given once",
        ),
    ] {
        let headers = format!("content-type: application/json\r\n{headers}");
        let body = br#"{"messages":[{"body":"a"}]}"#;
        let path = "/v1/queues/orders/messages";
        let answer = target.send("POST", path, &headers, body).await;
        expect_violation(label, &answer, "Idempotency-Key", value, rule);
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
