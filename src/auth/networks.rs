//! Lists of networks, and the allowlist that is one. How a client's address is found is not here.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Networks that an address may be in. IPv4 written as IPv6 counts as IPv4 on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// A list, with IPv4-mapped networks turned into the IPv4 networks they mean.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().map(unmapped).collect())
    }

    /// Whether an address is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(six) = network else {
        return network;
    };
    six.addr()
        .to_ipv4_mapped()
        .zip(six.prefix_len().checked_sub(MAPPED_BITS))
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

/// Which clients may ask at all. An empty list lets everyone in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist(Networks);

impl Allowlist {
    /// Lets these networks in, or everyone when there are none.
    pub fn new(networks: Networks) -> Self {
        Self(networks)
    }

    /// Whether a client may ask.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.0.0.is_empty() || self.0.contains(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        Networks::new(list.iter().map(|network| network.parse().unwrap()))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_empty_allowlist_lets_everyone_in() {
        assert!(Allowlist::default().allows(address("203.0.113.9")));
    }

    #[test]
    fn an_allowlist_keeps_others_out() {
        let list = Allowlist::new(networks(&["10.1.0.0/16", "2001:db8::/32"]));
        for (text, allowed) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(list.allows(address(text)), allowed, "{text}");
        }
    }

    #[test]
    fn ipv4_written_as_ipv6_is_ipv4() {
        assert!(networks(&["10.0.0.0/8"]).contains(address("::ffff:10.9.9.9")));
        assert!(networks(&["::ffff:10.0.0.0/104"]).contains(address("10.9.9.9")));
        assert!(!networks(&["::ffff:10.0.0.0/104"]).contains(address("11.0.0.1")));
    }
}
