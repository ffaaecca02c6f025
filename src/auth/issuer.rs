//! The local issuer: makes bearer tokens and checks its own. Tokens of others are not read here.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::principal::{Principal, Subject};
use crate::domain::access::{Right, Rights};
use crate::domain::queue::Tenant;
use crate::domain::{Error, Result, limits};

/// Life of a token that does not ask for another one.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clocks of two nodes may be apart.
const LEEWAY_SECONDS: i64 = 30;

/// The `iss` and the `aud` of every token: the issuer and the service are the same.
const TOWPATH: &str = "towpath";

/// The key that signs tokens: made once per cluster, kept in the database.
#[derive(Clone)]
pub struct SigningKey([u8; Self::BYTES]);

impl SigningKey {
    /// Bytes of a key: as many as the hash of HS256 has (RFC 7518, 3.2).
    pub const BYTES: usize = 32;

    /// A key from its bytes.
    pub fn new(key: [u8; Self::BYTES]) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// A new token.
pub struct MintedToken {
    /// The token: whoever has it may do what it says.
    pub token: String,
    /// Its `jti`: names it, and opens nothing.
    pub id: Uuid,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// What the issuer writes.
#[derive(Serialize)]
struct NewClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    scope: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: Uuid,
}

/// What it reads back. Every claim is required and has one JSON type, so that a time given as text
/// is refused instead of being taken for absent. `iss` and `aud` are left to the library.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    scope: String,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// Makes and checks HS256 tokens with one key.
pub struct Issuer {
    header: Header,
    validation: Validation,
    signing: EncodingKey,
    verifying: DecodingKey,
    max_lifetime: Duration,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({:?}, ..)", self.header.kid)
    }
}

impl Issuer {
    /// An issuer with a key and the key's id.
    pub fn new(key_id: &str, key: &SigningKey) -> Self {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(key_id.to_owned());
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[TOWPATH]);
        validation.set_audience(&[TOWPATH]);
        validation.set_required_spec_claims(&["iss", "aud"]);
        // The library asks the system for the time; `verify` is told.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            header,
            validation,
            signing: EncodingKey::from_secret(&key.0),
            verifying: DecodingKey::from_secret(&key.0),
            max_lifetime: limits::MAX_TOKEN_LIFETIME,
        }
    }

    /// The same issuer, whose new tokens live no longer than this.
    #[must_use]
    pub fn with_max_lifetime(self, max_lifetime: Duration) -> Self {
        Self {
            max_lifetime: max_lifetime.min(limits::MAX_TOKEN_LIFETIME),
            ..self
        }
    }

    /// How long a token lives when nobody says: a day, or as long as one may.
    pub fn default_lifetime(&self) -> Duration {
        DEFAULT_TOKEN_LIFETIME.min(self.max_lifetime)
    }

    /// Makes a token that begins now and lives 1 s to the longest life of this issuer's tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another lifetime.
    pub fn mint(
        &self,
        subject: &Subject,
        rights: Rights,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<MintedToken> {
        if lifetime < Duration::from_secs(1) || lifetime > self.max_lifetime {
            return Err(Error::invalid(
                "/lifetime_seconds",
                lifetime.as_secs().to_string(),
                format!("whole seconds from 1 to {}", self.max_lifetime.as_secs()),
            ));
        }
        let issued_at = now.replace_nanosecond(0).map_err(Error::internal)?;
        let expires_at = issued_at + lifetime;
        let id = Uuid::new_v4();
        let claims = NewClaims {
            iss: TOWPATH,
            aud: TOWPATH,
            sub: subject.as_str(),
            scope: &rights.scope(),
            iat: issued_at.unix_timestamp(),
            nbf: issued_at.unix_timestamp(),
            exp: expires_at.unix_timestamp(),
            jti: id,
        };
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.signing).map_err(Error::internal)?;
        Ok(MintedToken {
            token,
            id,
            expires_at,
        })
    }

    /// Whose token this is, and when it ends.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when it is not one of ours, or not now.
    pub fn verify(&self, token: &str, now: OffsetDateTime) -> Result<(Principal, OffsetDateTime)> {
        if token.len() > limits::MAX_TOKEN_BYTES {
            return Err(refused("the bearer token is longer than 8192 bytes"));
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation)
            .map_err(|error| refused(explain(error.kind())))?;
        // Our headers are always the same, so whatever else one may hold (`crit`, `jwk`, `jku`,
        // `x5u`, `b64`, another `kid`) is refused by comparing.
        if data.header != self.header {
            return Err(refused("the bearer token was not issued here"));
        }
        let claims = data.claims;
        let (now, leeway) = (now.unix_timestamp(), LEEWAY_SECONDS);
        if now >= claims.exp.saturating_add(leeway) {
            return Err(refused("the bearer token has expired; ask for a new one"));
        }
        if claims.nbf.max(claims.iat) > now + leeway {
            return Err(refused("the bearer token is not valid yet"));
        }
        if claims.exp.abs_diff(claims.iat) > limits::MAX_TOKEN_LIFETIME.as_secs() {
            return Err(refused("the bearer token lives longer than a token may"));
        }
        let ends = OffsetDateTime::from_unix_timestamp(claims.exp)
            .map_err(|_out_of_range| refused("the bearer token ends at no time"))?;
        let principal = Principal {
            subject: Subject::parse("sub", &claims.sub)
                .map_err(|_invalid| refused("the bearer token has no good subject"))?,
            tenant: Tenant::default(),
            // A word that a newer node knows gives no right here.
            rights: claims
                .scope
                .split_ascii_whitespace()
                .filter_map(Right::from_name)
                .collect(),
        };
        Ok((principal, ends))
    }
}

pub(super) fn refused(reason: &'static str) -> Error {
    Error::Unauthenticated { reason }
}

fn explain(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => {
            "the bearer token is for another service"
        }
        ErrorKind::InvalidSignature => {
            "the bearer token was not signed with the key of this server"
        }
        _ => "the bearer token is not one that this server issued",
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-20 12:00 UTC);
    const KEY: [u8; 32] = [7; 32];

    fn issuer() -> Issuer {
        Issuer::new("1", &SigningKey::new(KEY))
    }

    fn minted(lifetime: Duration) -> String {
        let rights = Rights::from_scope("send receive").unwrap();
        let subject = Subject::parse("/subject", "worker").unwrap();
        issuer()
            .mint(&subject, rights, lifetime, NOW)
            .unwrap()
            .token
    }

    fn claims() -> Value {
        let now = NOW.unix_timestamp();
        json!({
            "iss": "towpath", "aud": "towpath", "sub": "worker", "scope": "send",
            "iat": now, "nbf": now, "exp": now + 60, "jti": "x",
        })
    }

    fn header() -> Value {
        json!({"typ": "JWT", "alg": "HS256", "kid": "1"})
    }

    /// Signs anything, as only a holder of the key could.
    fn signed(header: &Value, claims: &Value) -> String {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let mac = Hmac::<sha2::Sha256>::new_from_slice(&KEY).unwrap();
        let tag = mac.chain_update(&message).finalize().into_bytes();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn holds(token: &str) -> bool {
        issuer().verify(token, NOW).is_ok()
    }

    fn with(mut object: Value, name: &str, value: Value) -> Value {
        object[name] = value;
        object
    }

    #[test]
    fn a_minted_token_says_who_and_what() {
        let token = minted(Duration::from_secs(60));
        let (principal, ends) = issuer().verify(&token, NOW).unwrap();
        assert_eq!(principal.subject.as_str(), "worker");
        assert_eq!(principal.rights.scope(), "send receive");
        assert_eq!(ends, NOW + Duration::from_secs(60));
    }

    #[test]
    fn a_token_holds_from_its_beginning_to_its_end_within_the_leeway() {
        let token = minted(Duration::from_secs(60));
        for (seconds, good) in [
            (-31, false),
            (-30, true),
            (0, true),
            (89, true),
            (90, false),
        ] {
            let now = NOW + time::Duration::seconds(seconds);
            assert_eq!(issuer().verify(&token, now).is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn a_lifetime_has_bounds() {
        let subject = Subject::parse("sub", "a").unwrap();
        for seconds in [0, limits::MAX_TOKEN_LIFETIME.as_secs() + 1] {
            let lifetime = Duration::from_secs(seconds);
            assert!(
                issuer()
                    .mint(&subject, Rights::default(), lifetime, NOW)
                    .is_err()
            );
        }
        assert!(holds(&minted(limits::MAX_TOKEN_LIFETIME)));
        let long = with(
            claims(),
            "exp",
            json!(NOW.unix_timestamp() + 10 * 365 * 86400),
        );
        assert!(!holds(&signed(&header(), &long)));
    }

    #[test]
    fn another_key_or_key_id_is_refused() {
        let token = minted(Duration::from_secs(60));
        assert!(
            Issuer::new("1", &SigningKey::new([8; 32]))
                .verify(&token, NOW)
                .is_err()
        );
        assert!(
            Issuer::new("2", &SigningKey::new(KEY))
                .verify(&token, NOW)
                .is_err()
        );
    }

    #[test]
    fn only_our_own_header_is_read() {
        assert!(holds(&signed(&header(), &claims())));
        for (name, value) in [
            ("alg", json!("none")),
            ("alg", json!("NONE")),
            ("alg", json!("HS512")),
            ("alg", json!("RS256")),
            ("alg", Value::Null),
            ("kid", json!("../../etc/passwd")),
            ("kid", Value::Null),
            ("typ", json!("at+jwt")),
            ("crit", json!(["exp"])),
            ("jku", json!("https://example.com/keys")),
            ("x5u", json!("https://example.com/cert")),
            ("jwk", json!({"kty": "oct", "k": "AAAA"})),
            ("b64", json!(false)),
        ] {
            let token = signed(&with(header(), name, value.clone()), &claims());
            assert!(!holds(&token), "{name} = {value}");
        }
    }

    #[test]
    fn times_of_another_type_are_refused_and_not_taken_for_absent() {
        for name in ["exp", "nbf", "iat"] {
            for value in [
                json!("1"),
                json!(1.5),
                json!(-1e300),
                json!(u64::MAX),
                Value::Null,
                json!([1]),
            ] {
                let token = signed(&header(), &with(claims(), name, value.clone()));
                assert!(!holds(&token), "{name} = {value}");
            }
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            assert!(!holds(&signed(&header(), &without)), "no {name}");
        }
        for value in [i64::MIN, i64::MAX] {
            assert!(!holds(&signed(
                &header(),
                &with(claims(), "exp", json!(value))
            )));
        }
    }

    #[test]
    fn tokens_for_other_services_are_refused() {
        for (name, value, good) in [
            ("aud", json!("another"), false),
            ("aud", json!(["another"]), false),
            ("aud", json!(["another", "towpath"]), true),
            ("aud", json!(1), false),
            ("iss", json!("towpath/"), false),
            ("iss", Value::Null, false),
            ("sub", json!(""), false),
            ("scope", json!("send fly"), true),
        ] {
            let token = signed(&header(), &with(claims(), name, value.clone()));
            assert_eq!(holds(&token), good, "{name} = {value}");
        }
    }

    #[test]
    fn a_token_that_was_touched_is_refused() {
        let token = minted(Duration::from_secs(60));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert!(!holds(&String::from_utf8(bytes).unwrap()), "byte {at}");
        }
        for text in [
            "",
            ".",
            "..",
            "a.b.c",
            &"x".repeat(9000),
            &format!("{token}="),
        ] {
            assert!(!holds(text), "{text}");
        }
    }
}
