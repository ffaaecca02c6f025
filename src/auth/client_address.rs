//! Which client a request came from, when proxies may stand between. Whether that client may ask
//! is not decided here.

use std::net::{IpAddr, SocketAddr};

use super::networks::Networks;
use crate::domain::{Error, Result, Violation};

/// The address of the client behind a connection.
///
/// Anyone can write into X-Forwarded-For; only what a trusted proxy appended is worth anything. So
/// the header counts when `peer` is trusted, and is read from the right: the first address that is
/// no trusted proxy is the client, and what stands left of it is never looked at. `forwarded` is
/// every such header of the request, in order.
///
/// # Errors
/// [`Error::Malformed`] when an address that counts cannot be read: guessing would let a client
/// past the allowlist.
pub fn client_address<'a>(
    peer: IpAddr,
    trusted: &Networks,
    forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Result<IpAddr> {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return Ok(peer);
    }
    for header in forwarded.rev() {
        let header = std::str::from_utf8(header).map_err(|_not_text| unreadable("bytes"))?;
        for hop in header.rsplit(',') {
            let address = parse(hop.trim()).ok_or_else(|| unreadable(hop))?;
            if !trusted.contains(address) {
                return Ok(address);
            }
        }
    }
    Ok(peer)
}

/// Reads an address with or without a port (some proxies append it) or a zone.
fn parse(hop: &str) -> Option<IpAddr> {
    let address = hop.split_once('%').map_or(hop, |(address, _zone)| address);
    address
        .parse()
        .or_else(|_| hop.parse().map(|with_port: SocketAddr| with_port.ip()))
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

fn unreadable(found: &str) -> Error {
    let violation = Violation::new(
        "X-Forwarded-For",
        found.trim(),
        "each trusted proxy appends one IP address",
    );
    Error::Malformed {
        detail: violation.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(peer: &str, headers: &[&str]) -> Option<String> {
        let trusted = Networks::new(["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap()));
        let headers = headers.iter().map(|header| header.as_bytes());
        client_address(peer.parse().unwrap(), &trusted, headers)
            .ok()
            .map(|address| address.to_string())
    }

    #[test]
    fn the_header_of_an_untrusted_peer_is_ignored() {
        let found = client("203.0.113.7", &["1.1.1.1", "garbage"]);
        assert_eq!(found.as_deref(), Some("203.0.113.7"));
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        for (headers, expected) in [
            (&[][..], "10.0.0.1"),
            (&["203.0.113.7"], "203.0.113.7"),
            (&["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
            (&["garbage, 203.0.113.7,10.9.9.9"], "203.0.113.7"),
            (
                &["1.1.1.1", "203.0.113.7, 10.2.2.2", "10.3.3.3"],
                "203.0.113.7",
            ),
            (&["10.2.2.2, 10.3.3.3"], "10.0.0.1"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["[2001:db8::1]:80"], "2001:db8::1"),
            (&["fe80::1%eth0"], "fe80::1"),
        ] {
            assert_eq!(
                client("10.0.0.1", headers).as_deref(),
                Some(expected),
                "{headers:?}"
            );
        }
        assert_eq!(
            client("::ffff:10.0.0.1", &["1.1.1.1"]).as_deref(),
            Some("1.1.1.1")
        );
    }

    #[test]
    fn garbage_where_an_address_counts_is_refused() {
        for header in [
            "garbage",
            "",
            "1.1.1.1,",
            "1.1.1.1, unknown",
            "999.1.1.1",
            "1.1.1.1, x,10.1.1.1",
        ] {
            assert_eq!(client("10.0.0.1", &[header]), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn nothing_left_of_the_client_changes_the_answer(left in "[ -~]{0,60}") {
            let header = format!("{left}, 203.0.113.7, 10.1.1.1");
            prop_assert_eq!(client("10.0.0.1", &[&header]), Some("203.0.113.7".to_owned()));
        }
    }
}
