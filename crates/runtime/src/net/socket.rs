//! Sockets and greetings: from a TCP stream to an open connection whose other end is known.

use super::error::LinkError;
use super::frame::{self, Frame, FrameKind, Taken};
use super::guest::Guest;
use super::hello::{Hello, Purpose, Reason, Refusal};
use super::limits::{Limits, READ_BELIEVED_PART, READ_START_BYTES, READ_STEP_BYTES};
use super::transport::Local;
use crate::trust::guest::GUEST_ALPN;
use crate::trust::{Identity, identity};
use bytes::{Bytes, BytesMut};
use gavel_types::NodeId;
use rustls::server::Acceptor;
use rustls_pki_types::CertificateDer;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

/// A connection after TLS, with what was read beyond the last frame.
pub(super) struct Connection<S> {
    pub(super) stream: S,
    pub(super) unread: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S) -> Connection<S> {
        Connection { stream, unread: BytesMut::with_capacity(READ_START_BYTES) }
    }

    pub(super) async fn read_frame(&mut self) -> Result<Frame, LinkError> {
        loop {
            match frame::take(&mut self.unread)? {
                Taken::Frame(frame) => return Ok(frame),
                Taken::Missing(bytes) => fill(&mut self.stream, &mut self.unread, bytes).await?,
            };
        }
    }

    pub(super) async fn write_frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), LinkError> {
        let mut bytes = BytesMut::from(&frame::header(kind, payload.len())[..]);
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).await.map_err(LinkError::Io)?;
        self.stream.flush().await.map_err(LinkError::Io)
    }

    /// Says why we will not talk. Best effort: whoever is refused may have left.
    pub(super) async fn refuse(&mut self, refusal: Refusal) -> LinkError {
        if self.write_frame(FrameKind::Refused, &refusal.encode()).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
        LinkError::Refusing(refusal)
    }
}

/// Reads once, with room for at least `missing` bytes as far as one step goes. Gives the number of bytes.
pub(super) async fn fill<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    missing: usize,
) -> Result<usize, LinkError> {
    let step = READ_STEP_BYTES.max(READ_BELIEVED_PART * buffer.len());
    buffer.reserve(missing.clamp(READ_START_BYTES / 2, step));
    match reader.read_buf(buffer).await.map_err(LinkError::Io)? {
        0 if buffer.is_empty() => Err(LinkError::Closed),
        0 => Err(LinkError::Truncated),
        bytes => Ok(bytes),
    }
}

pub(super) async fn within<T>(
    limit: Duration,
    what: &'static str,
    step: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(limit, step).await.unwrap_or(Err(LinkError::Timeout { what, limit }))
}

/// Connects to `peer` and greets it. Gives the connection and the peer's incarnation.
pub(super) async fn connect(
    local: &Local,
    limits: &Limits,
    peer: NodeId,
    address: &str,
    purpose: Purpose,
) -> Result<(Connection<tokio_rustls::client::TlsStream<TcpStream>>, u64), LinkError> {
    let stream =
        within(limits.dial_timeout, "connecting", async { TcpStream::connect(address).await.map_err(LinkError::Dial) })
            .await?;
    set_options(&stream, limits).map_err(LinkError::Io)?;
    within(limits.handshake_timeout, "the handshake", async {
        let name = identity::server_name(local.trust.cluster(), peer);
        let connector = TlsConnector::from(local.trust.client_config());
        let stream = connector.connect(name, stream).await.map_err(|source| LinkError::Tls { source })?;
        let mut connection = Connection::new(stream);
        certified_node(local, connection.stream.get_ref().1.peer_certificates())
            .and_then(|certified| expect_node(certified, peer))?;
        let hello = local.hello(purpose);
        connection.write_frame(FrameKind::Hello, &hello.encode()).await.map_err(in_handshake)?;
        // With TLS 1.3 a refusal of our certificate arrives only now.
        let answer = connection.read_frame().await.map_err(in_handshake)?;
        let welcome = match answer.kind {
            FrameKind::Welcome => Hello::decode(&answer.payload),
            FrameKind::Refused => return Err(LinkError::Refused(Refusal::decode(&answer.payload))),
            other => return Err(LinkError::Unexpected(other)),
        };
        match welcome.and_then(|welcome| welcome.check(local.trust.cluster(), peer).map(|()| welcome)) {
            Ok(welcome) => Ok((connection, welcome.incarnation)),
            Err(refusal) => Err(connection.refuse(refusal).await),
        }
    })
    .await
}

type Accepted = Connection<tokio_rustls::server::TlsStream<TcpStream>>;

/// Who has come.
pub(super) enum Caller {
    /// A peer, whose greeting names the node of its certificate.
    Peer(Accepted, Hello),
    /// A mirror in another cluster.
    Guest(Guest),
}

/// The accepting side's handshake, up to but without the Welcome. A peer is a known one.
pub(super) async fn accept(
    local: &Local,
    stream: TcpStream,
    known: impl Fn(NodeId) -> bool,
) -> Result<Caller, LinkError> {
    let tls = |source| LinkError::Tls { source };
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(tls)?;
    let is_guest = begun.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == GUEST_ALPN));
    if is_guest {
        let stream = begun.into_stream(local.trust.guest_config()).await.map_err(tls)?;
        return Guest::greet(Connection::new(stream)).await.map(Caller::Guest);
    }
    let stream = begun.into_stream(local.trust.server_config()).await.map_err(tls)?;
    let mut connection = Connection::new(stream);
    let certified = certified_node(local, connection.stream.get_ref().1.peer_certificates())?;
    let greeting = connection.read_frame().await?;
    if greeting.kind != FrameKind::Hello {
        let text = format!("a connection starts with a Hello frame, not with a {:?} frame", greeting.kind);
        return Err(connection.refuse(Refusal::new(Reason::Malformed, text)).await);
    }
    let checked = Hello::decode(&greeting.payload).and_then(|hello| {
        hello.check(local.trust.cluster(), certified)?;
        if !known(certified) {
            let text = match certified.is_client() {
                true => {
                    format!("node {} takes no more clients: there are too many, or it is a client", local.trust.node())
                }
                false => format!("node {certified} is not among the peers of node {}", local.trust.node()),
            };
            return Err(Refusal::new(Reason::UnknownNode, text));
        }
        Ok(hello)
    });
    match checked {
        Ok(hello) => Ok(Caller::Peer(connection, hello)),
        Err(refusal) => Err(connection.refuse(refusal).await),
    }
}

/// Low delay for small frames; and the kernel's own timers against links that were cut without a word.
pub(super) fn set_options(stream: &TcpStream, limits: &Limits) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let milliseconds = u32::try_from(limits.unacknowledged_max.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    // For the side that sends nothing; whole seconds are the finest that the kernel takes.
    let second = Duration::from_secs(1);
    sockopt::set_tcp_keepidle(stream, limits.silence_max.max(second))?;
    sockopt::set_tcp_keepintvl(stream, second)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// The node that the other side's certificate speaks for. TLS has verified the chain already.
fn certified_node(local: &Local, chain: Option<&[CertificateDer<'_>]>) -> Result<NodeId, LinkError> {
    let own = chain.and_then(<[_]>::first).ok_or_else(|| LinkError::Certificate("there is none".to_owned()))?;
    match Identity::of_certificate(own).map_err(LinkError::Certificate)? {
        Identity::Node { cluster, node } | Identity::Client { cluster, node } if cluster == local.trust.cluster() => {
            Ok(node)
        }
        other => Err(LinkError::Certificate(format!("it is of {other}"))),
    }
}

fn expect_node(certified: NodeId, expected: NodeId) -> Result<(), LinkError> {
    if certified == expected {
        return Ok(());
    }
    Err(LinkError::Certificate(format!("it is of node {certified}, not of node {expected}")))
}

/// An alert that arrives with the first read is the other side's verdict on our certificate.
pub(super) fn in_handshake(error: LinkError) -> LinkError {
    match error {
        LinkError::Io(source) if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            LinkError::Tls { source }
        }
        other => other,
    }
}

/// A Bytes of a ping or pong.
pub(super) fn stamp(micros: u64) -> Bytes {
    Bytes::copy_from_slice(&micros.to_le_bytes())
}
