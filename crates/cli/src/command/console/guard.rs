//! Who may ask: whoever has the key, from a page of this server.
//!
//! Each check is against somebody else:
//!
//! - The socket is on loopback: other machines.
//! - The key, which all questions carry in a header: other users of this machine, and pages of others in the same browser. It is no cookie, since browsers send
//!   cookies to all ports of a host, so that the server of another user on this machine would get it.
//! - The name in `Host` is a loopback one: a page of a name that its owner lets point to this machine (DNS rebinding).
//! - `Origin`, if there is one, is this server's; whatever changes something or carries the key in a form must have one: pages of others.

use axum::http::{HeaderMap, Method, header};
use std::fmt::Write;
use std::net::SocketAddr;

/// The header that carries the key.
pub const KEY_HEADER: &str = "x-gavel-key";
/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The key, and what the server is called.
pub struct Guard {
    key: String,
    hosts: [String; 3],
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The key is not there or is not ours.
    Key,
    /// It was meant for another server.
    Host,
    /// It comes from the page of another server.
    Origin,
}

impl Refused {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Refused::Key => "this page has no key, or an old one: open the address that gavel console has printed",
            Refused::Host => "this server answers to 127.0.0.1, [::1] and localhost alone",
            Refused::Origin => "the request comes from a page of another server",
        }
    }
}

impl Guard {
    /// Of a server at `address`, with a new key.
    ///
    /// # Errors
    /// If the machine has no randomness.
    pub fn new(address: SocketAddr) -> anyhow::Result<Guard> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let key = bytes.iter().fold(String::new(), |mut key, byte| {
            let _ = write!(key, "{byte:02x}");
            key
        });
        let port = address.port();
        Ok(Guard { key, hosts: [address.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}")] })
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Was the request meant for this server?
    ///
    /// # Errors
    /// [`Refused::Host`].
    pub fn host(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let mut hosts = headers.get_all(header::HOST).iter();
        match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
            (Some(host), None) if self.is_ours(host) => Ok(()),
            _ => Err(Refused::Host),
        }
    }

    /// Does it come from a page of this server?
    ///
    /// # Errors
    /// [`Refused::Origin`].
    pub fn origin(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return if matches!(*method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Refused::Origin) };
        };
        let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        host.filter(|host| self.is_ours(host)).map(drop).ok_or(Refused::Origin)
    }

    /// Is this the key? Takes as long for any that is not.
    ///
    /// # Errors
    /// [`Refused::Key`].
    pub fn is_key(&self, given: &str) -> Result<(), Refused> {
        let differs = given.bytes().zip(self.key.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
        if given.len() == self.key.len() && differs == 0 { Ok(()) } else { Err(Refused::Key) }
    }

    /// Does the header carry the key?
    ///
    /// # Errors
    /// [`Refused::Key`].
    pub fn key_in(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let given = headers.get(KEY_HEADER).and_then(|key| key.to_str().ok());
        self.is_key(given.unwrap_or_default())
    }

    fn is_ours(&self, host: &str) -> bool {
        self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new("127.0.0.1:8600".parse().expect("an address")).expect("randomness")
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn only_loopback_names_with_the_port_are_ours() {
        for host in ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600"] {
            assert_eq!(guard().host(&headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in ["evil.example:8600", "127.0.0.1", "127.0.0.1:8601", "localhost.evil.example:8600", ""] {
            assert_eq!(guard().host(&headers(&[("host", host)])), Err(Refused::Host), "{host}");
        }
        assert_eq!(guard().host(&headers(&[])), Err(Refused::Host));
        let two = headers(&[("host", "127.0.0.1:8600"), ("host", "evil.example")]);
        assert_eq!(guard().host(&two), Err(Refused::Host));
    }

    #[test]
    fn only_our_pages_may_post_and_no_other_page_may_ask() {
        let from = |origin: &str| headers(&[("origin", origin)]);
        assert_eq!(guard().origin(&Method::POST, &from("http://127.0.0.1:8600")), Ok(()));
        assert_eq!(guard().origin(&Method::GET, &headers(&[])), Ok(()));
        assert_eq!(guard().origin(&Method::POST, &headers(&[])), Err(Refused::Origin));
        for origin in ["http://evil.example", "https://127.0.0.1:8600", "http://127.0.0.1:8601", "null"] {
            for method in [Method::GET, Method::POST] {
                assert_eq!(guard().origin(&method, &from(origin)), Err(Refused::Origin), "{origin}");
            }
        }
    }

    #[test]
    fn only_the_whole_key_is_the_key() {
        let (guard, other) = (guard(), guard());
        assert_eq!(guard.key().len(), 2 * KEY_BYTES);
        assert_eq!(guard.is_key(guard.key()), Ok(()));
        assert_eq!(guard.key_in(&headers(&[(KEY_HEADER, guard.key())])), Ok(()));
        for wrong in ["", &guard.key()[1..], &format!("{}0", guard.key()), other.key()] {
            assert_eq!(guard.is_key(wrong), Err(Refused::Key), "{wrong}");
        }
        assert_eq!(guard.key_in(&headers(&[])), Err(Refused::Key));
    }
}
