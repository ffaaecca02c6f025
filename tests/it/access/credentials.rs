//! Credentials that do not hold, on every route.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};
use towpath::clock::Clock;

use super::{ask, bearer, head, operations};
use crate::support::socket::Server;
use crate::support::{SIGNING_KEY, all_rights, http};

fn good_header() -> Value {
    json!({"typ": "JWT", "alg": "HS256", "kid": "1"})
}

fn good_claims() -> Value {
    let now = Clock::default().utc().unix_timestamp();
    json!({
        "iss": "towpath", "aud": "towpath", "sub": "worker", "scope": all_rights().scope(),
        "iat": now, "nbf": now, "exp": now + 600, "jti": "x",
    })
}

fn message(header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// A token that says anything, sealed by the hash that its header names, or by the right one.
fn signed(header: &Value, claims: &Value, key: &[u8]) -> String {
    macro_rules! tag {
        ($hash:ty, $message:expr) => {{
            let mac = Hmac::<$hash>::new_from_slice(key).unwrap();
            URL_SAFE_NO_PAD.encode(mac.chain_update($message).finalize().into_bytes())
        }};
    }
    let message = message(header, claims);
    let tag = match header["alg"].as_str() {
        Some("HS384") => tag!(Sha384, &message),
        Some("HS512") => tag!(Sha512, &message),
        _ => tag!(Sha256, &message),
    };
    format!("{message}.{tag}")
}

/// Sealed by the server's own key, with one member of the header or the claims replaced, or
/// removed where the value is null.
fn with(part: &str, name: &str, value: Value) -> String {
    let (mut header, mut claims) = (good_header(), good_claims());
    let object = if part == "header" {
        &mut header
    } else {
        &mut claims
    };
    match value {
        Value::Null => {
            object.as_object_mut().unwrap().remove(name);
        }
        value => object[name] = value,
    }
    signed(&header, &claims, &SIGNING_KEY)
}

/// Why it does not hold, and the token or the header lines.
type Bad = (String, String);

fn labelled<const N: usize>(list: [(&str, String); N]) -> Vec<Bad> {
    let owned = |(label, text): (&str, String)| (label.to_owned(), text);
    list.into_iter().map(owned).collect()
}

fn bad_forms() -> Vec<Bad> {
    let good = signed(&good_header(), &good_claims(), &SIGNING_KEY);
    let unsigned = |alg: &str, tag: &str| {
        let header = json!({"typ": "JWT", "alg": alg});
        format!("{}.{tag}", message(&header, &good_claims()))
    };
    labelled([
        ("garbage", "garbage".to_owned()),
        ("three letters", "a.b.c".to_owned()),
        ("8 KiB", "x".repeat(8193)),
        (
            "another key",
            signed(&good_header(), &good_claims(), &[8; 32]),
        ),
        ("no key", signed(&good_header(), &good_claims(), &[])),
        ("alg none", unsigned("none", "")),
        ("alg NONE", unsigned("NONE", "")),
        ("alg none, sealed", unsigned("none", "c2VhbA")),
        ("no seal", message(&good_header(), &good_claims())),
        ("padding", format!("{good}=")),
        ("another part", format!("{good}.x")),
    ])
}

fn bad_headers() -> Vec<Bad> {
    [
        ("alg", json!("HS384")),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("alg", json!("hs256")),
        ("alg", Value::Null),
        ("kid", Value::Null),
        ("kid", json!("2")),
        ("kid", json!("../../admin.token")),
        ("kid", json!("1' or '1'='1")),
        ("kid", json!("https://example.com/key")),
        ("kid", json!("1".repeat(4096))),
        ("typ", json!("at+jwt")),
        ("crit", json!(["exp"])),
        ("jku", json!("http://127.0.0.1:9/keys")),
        ("x5u", json!("http://127.0.0.1:9/certificate")),
        ("jwk", json!({"kty": "oct", "k": "AAAA"})),
        ("b64", json!(false)),
    ]
    .map(|(name, value)| (format!("{name} {value}"), with("header", name, value)))
    .into()
}

fn bad_claims() -> Vec<Bad> {
    let now = Clock::default().utc().unix_timestamp();
    let wrong = [
        ("exp", json!(now - 31)),
        ("exp", json!((now + 60).to_string())),
        ("exp", json!(now as f64 + 60.5)),
        ("exp", json!(-1)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(1e300)),
        ("exp", json!([now + 60])),
        ("exp", json!(now + 10 * 365 * 86400)),
        ("nbf", json!(now + 60)),
        ("nbf", json!(now.to_string())),
        ("iat", json!(now + 60)),
        ("iat", json!(i64::MIN)),
        ("iss", json!("towpath/")),
        ("iss", json!(["another"])),
        ("aud", json!("another")),
        ("aud", json!(["another"])),
        ("aud", json!([])),
        ("sub", json!("")),
        ("sub", json!(5)),
        ("scope", json!(["send"])),
    ];
    let missing = ["iss", "aud", "sub", "scope", "iat", "nbf", "exp"];
    let missing = missing.map(|name| (name, Value::Null));
    let all = wrong.into_iter().chain(missing);
    all.map(|(name, value)| (format!("{name} {value}"), with("claims", name, value)))
        .collect()
}

/// A good token in the wrong place.
fn bad_places() -> Vec<Bad> {
    let good = signed(&good_header(), &good_claims(), &SIGNING_KEY);
    labelled([
        ("nothing", String::new()),
        ("an empty header", "authorization:\r\n".to_owned()),
        ("no token", "authorization: Bearer\r\n".to_owned()),
        ("an empty token", bearer("")),
        ("no scheme", format!("authorization: {good}\r\n")),
        ("Basic", "authorization: Basic YTpi\r\n".to_owned()),
        ("another scheme", format!("authorization: Token {good}\r\n")),
        ("twice", bearer(&good).repeat(2)),
        (
            "another header",
            format!("proxy-authorization: Bearer {good}\r\n"),
        ),
        ("a cookie", format!("cookie: token={good}\r\n")),
    ])
}

fn bad_credentials() -> Vec<Bad> {
    let tokens = [bad_forms(), bad_headers(), bad_claims()].concat();
    let mut all = bad_places();
    all.extend(
        tokens
            .into_iter()
            .map(|(label, token)| (label, bearer(&token))),
    );
    all
}

#[tokio::test]
async fn no_route_opens_without_good_credentials_or_reads_a_body_before() {
    let server = Server::start(http().await).await;
    let (public, closed) = operations();
    assert_eq!(
        (public.len(), closed.len()),
        (3, 23),
        "look at the table below"
    );
    let good = bearer(&signed(&good_header(), &good_claims(), &SIGNING_KEY));
    ask(server.address, "PUT", "/v1/queues/orders", &good, "")
        .await
        .expect(201);
    let others = [
        ("GET", "/v1/nothing"),
        ("PATCH", "/v1/queues"),
        ("POST", "/healthz/x"),
        ("OPTIONS", "/v1/queues"),
    ];
    let others = others.map(|(method, path)| (method.to_owned(), path.to_owned()));
    for (method, path) in closed.iter().chain(&others) {
        for (label, credentials) in bad_credentials() {
            let request = head(method, path, &credentials);
            let answer = server.ask(request.as_bytes()).await;
            assert_eq!(answer.status, 401, "{method} {path}, {label}: {answer:?}");
            answer.expect_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{label}");
            let secret = credentials.trim_end().rsplit([' ', '=']).next().unwrap();
            let said = answer.body.to_string();
            assert!(
                secret.len() < 20 || !said.contains(secret),
                "{label}: {said}"
            );
        }
    }
    ask(server.address, "GET", "/v1/queues/orders", &good, "")
        .await
        .expect(200);
    for (method, path) in public {
        ask(server.address, &method, &path, "", "")
            .await
            .expect(200);
    }
}
