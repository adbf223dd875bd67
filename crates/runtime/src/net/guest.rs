//! Connections of mirrors in other clusters: who is let in, the owner decides by what the guest's greeting says.
//!
//! A guest has no certificate of this cluster. Until its greeting has come, it is one of the half-open connections, which are few and short
//! ([`super::accept`]); what it says behind that, this room does not know.

use super::error::LinkError;
use super::frame::FrameKind;
use super::hello::{Reason, Refusal};
use super::limits::Limits;
use super::socket::{self, Connection};
use crate::trust::{GuestTrust, identity};
use bytes::Bytes;
use gavel_types::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::{client, server};

/// A guest that has greeted, and waits for an answer. Dropped, it is turned away without a word.
pub struct Guest {
    connection: Connection<server::TlsStream<TcpStream>>,
    greeting: Bytes,
}

impl Guest {
    pub(super) async fn greet(mut connection: Connection<server::TlsStream<TcpStream>>) -> Result<Guest, LinkError> {
        let greeting = connection.read_frame().await?;
        match greeting.kind {
            FrameKind::Hello => Ok(Guest { connection, greeting: greeting.payload }),
            other => Err(LinkError::Unexpected(other)),
        }
    }

    /// What it has said.
    pub fn greeting(&self) -> &[u8] {
        &self.greeting
    }

    /// Lets it in.
    ///
    /// # Errors
    /// [`LinkError`]: it has gone, or did not wait for the answer.
    pub async fn welcome(mut self) -> Result<server::TlsStream<TcpStream>, LinkError> {
        self.connection.write_frame(FrameKind::Welcome, &[]).await?;
        match self.connection.unread.is_empty() {
            true => Ok(self.connection.stream),
            false => Err(LinkError::Unexpected(FrameKind::Message)),
        }
    }

    /// Says why it is not let in.
    pub async fn refuse(mut self, why: &str) {
        self.connection.refuse(Refusal::new(Reason::Other, why)).await;
    }
}

/// Connects to a node of another cluster as a guest, and greets it.
///
/// # Errors
/// [`LinkError`]; [`LinkError::Refused`] says why the node will not talk.
pub async fn visit(
    trust: &GuestTrust,
    limits: &Limits,
    node: NodeId,
    address: &str,
    greeting: &[u8],
) -> Result<client::TlsStream<TcpStream>, LinkError> {
    let dialled = async { TcpStream::connect(address).await.map_err(LinkError::Dial) };
    let stream = socket::within(limits.dial_timeout, "connecting", dialled).await?;
    socket::set_options(&stream, limits).map_err(LinkError::Io)?;
    socket::within(limits.handshake_timeout, "the handshake", async {
        let name = identity::server_name(trust.cluster(), node);
        let connector = TlsConnector::from(trust.client_config());
        let stream = connector.connect(name, stream).await.map_err(|source| LinkError::Tls { source })?;
        let mut connection = Connection::new(stream);
        connection.write_frame(FrameKind::Hello, greeting).await.map_err(socket::in_handshake)?;
        let answer = connection.read_frame().await.map_err(socket::in_handshake)?;
        match answer.kind {
            // What the node said behind it, it said too early: it would be lost here.
            FrameKind::Welcome if connection.unread.is_empty() => Ok(connection.stream),
            FrameKind::Refused => Err(LinkError::Refused(Refusal::decode(&answer.payload))),
            other => Err(LinkError::Unexpected(other)),
        }
    })
    .await
}
