//! The port: taken, or told by whom it is taken and what to do instead.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::anyhow;
use listeners::{Listener, Protocol, SocketState};
use tokio::net::{TcpListener, TcpSocket};

/// Ports that are tried to find one to suggest.
const NEIGHBOURS: u16 = 100;

/// Connections that the kernel keeps until they are accepted, as the standard library has it.
const BACKLOG: u32 = 1024;

/// An address that is kept for us, where nobody is let in yet: until then connections are refused,
/// and do not wait for a server that may take a minute to start.
pub(super) struct Port {
    socket: TcpSocket,
    address: SocketAddr,
}

/// Takes an address.
///
/// # Errors
/// Why that cannot be. For a taken port: who holds it, and a command line that would work.
pub(super) fn take(address: SocketAddr) -> anyhow::Result<Port> {
    let socket = bind(address).map_err(|error| explain(error, address))?;
    Ok(Port { socket, address })
}

impl Port {
    /// Lets connections in.
    ///
    /// # Errors
    /// As [`take`]: of two that took an address at once, the second to listen learns it here.
    pub(super) fn listen(self) -> anyhow::Result<TcpListener> {
        let listening = self.socket.listen(BACKLOG);
        listening.map_err(|error| explain(error, self.address))
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Connections of a server that has just ended do not keep its address taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn explain(error: io::Error, address: SocketAddr) -> anyhow::Error {
    match error.kind() {
        ErrorKind::AddrInUse => taken(address),
        ErrorKind::PermissionDenied => anyhow::Error::new(error).context(format!(
            "may not listen on {address}: ports below 1024 need a privilege; choose another with --listen"
        )),
        _ => anyhow::Error::new(error).context(format!(
            "cannot listen on {address}: --listen takes an address of this machine"
        )),
    }
}

fn taken(address: SocketAddr) -> anyhow::Error {
    let found = listeners::get_all().unwrap_or_default();
    let holder = match found.into_iter().find(|found| holds(found, address)) {
        Some(Listener { process, .. }) => format!("{} (process {})", process.name, process.pid),
        // Another user's process cannot be seen.
        None => "another process".to_owned(),
    };
    match free_neighbour(address) {
        Some(instead) => anyhow!(
            "{address} is taken by {holder}; type instead: towpath serve --listen {instead} \
             (and your other flags, if any)"
        ),
        None => anyhow!("{address} is taken by {holder}; choose another port with --listen"),
    }
}

/// Whether this is what keeps an address from being taken.
fn holds(found: &Listener, address: SocketAddr) -> bool {
    let ip = found.socket.ip().to_canonical();
    found.protocol == Protocol::TCP
        && found.state == SocketState::Listen
        && found.socket.port() == address.port()
        && (ip == address.ip().to_canonical()
            || ip.is_unspecified()
            || address.ip().is_unspecified())
}

fn free_neighbour(mut address: SocketAddr) -> Option<SocketAddr> {
    let ports = address.port().checked_add(1)?..=address.port().saturating_add(NEIGHBOURS);
    ports
        .map(|port| {
            address.set_port(port);
            address
        })
        .find(|address| bind(*address).is_ok())
}

/// The address by which a client on this machine reaches who listens on this one.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(taken: anyhow::Result<Port>) -> String {
        taken.err().expect("the port is taken").to_string()
    }

    #[tokio::test]
    async fn a_taken_port_is_reported_with_its_holder_and_a_free_one() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let refused = refusal(take(address));
        let us = format!("(process {})", std::process::id());
        assert!(refused.contains(&us), "{refused}");
        let (_, instead) = refused.split_once("--listen ").unwrap();
        let instead = instead.split(' ').next().unwrap().parse().unwrap();
        take(instead).unwrap();
    }

    #[tokio::test]
    async fn who_holds_the_same_port_of_another_address_is_not_named() {
        let ours = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let found = listeners::get_all().unwrap();
        let address = ours.local_addr().unwrap();
        let found = found.into_iter().find(|found| found.socket == address);
        let found = found.expect("we see ourselves");
        let mut other = address;
        assert!(holds(&found, other));
        other.set_ip("0.0.0.0".parse().unwrap());
        assert!(holds(&found, other));
        other.set_ip("127.0.0.2".parse().unwrap());
        assert!(!holds(&found, other));
    }

    #[tokio::test]
    async fn a_port_that_was_taken_refuses_connections_until_it_listens() {
        let port = take("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.socket.local_addr().unwrap();
        let early = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(early.kind(), ErrorKind::ConnectionRefused);
        let _listener = port.listen().unwrap();
        tokio::net::TcpStream::connect(address).await.unwrap();
    }

    #[test]
    fn nothing_is_suggested_beyond_the_last_port() {
        let last = "127.0.0.1:65535".parse().unwrap();
        assert_eq!(free_neighbour(last), None);
    }

    #[test]
    fn every_address_is_reached_by_the_loopback() {
        for (listened, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            let reached: SocketAddr = reached.parse().unwrap();
            assert_eq!(reachable(listened.parse().unwrap()), reached);
        }
    }
}
