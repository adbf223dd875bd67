//! Every bound and time of the transport, in one place.

use super::frame::{BULK_BYTES_MAX, MESSAGE_BYTES_MAX};
use std::time::Duration;

/// What waits in memory for one connection costs this much more than its bytes.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 128;
/// Frames are gathered up to this size before they are written: one system call, few TLS records.
pub(super) const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Payloads above this size are written from where they are instead of being copied.
pub(super) const COPY_BYTES_MAX: usize = 16 * 1024;
/// A large payload is written in pieces of this size; each piece that leaves counts as a sign of life.
pub(super) const WRITE_PIECE_BYTES: usize = 64 * 1024;
/// How much a read buffer grows at a time: what a header announces is not believed until it arrives.
pub(super) const READ_STEP_BYTES: usize = 64 * 1024;
/// But when one part in so many has arrived: then there is room for all of it at once, and no byte is moved again to make room.
pub(super) const READ_BELIEVED_PART: usize = 16;
/// Room in a new read buffer.
pub(super) const READ_START_BYTES: usize = 32 * 1024;
/// Most bulk connections that one peer may have open to this node; a further one ends the oldest.
pub(super) const BULK_INBOUND_MAX: usize = 8;

/// The bounds that an owner may choose. The defaults suit a cluster in one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a TCP connection may take to be made. With [`Limits::backoff_max`] this bounds how soon after
    /// a cut link is whole again it is in use. Must exceed the round trip time of the slowest link.
    pub dial_timeout: Duration,
    /// How long TLS and greeting may take, on either side.
    pub handshake_timeout: Duration,
    /// Pause after the first failed attempt to connect; doubles up to [`Limits::backoff_max`], with jitter.
    pub backoff_min: Duration,
    /// Longest pause between attempts.
    pub backoff_max: Duration,
    /// Pause after a refusal: it takes a person to change that.
    pub refused_pause: Duration,
    /// How often the dialling side asks whether the other one is there.
    pub ping_interval: Duration,
    /// How long the other machine may leave bytes unacknowledged (TCP_USER_TIMEOUT): a cut link ends after this.
    pub unacknowledged_max: Duration,
    /// How long the other process may be silent: a stopped process ends its links after this.
    pub silence_max: Duration,
    /// Most connections that have not completed their handshake; a further one ends the oldest.
    pub half_open_max: usize,
    /// Most bytes of messages that wait for one peer; further ones displace the oldest.
    pub send_queue_bytes: usize,
    /// Bulk connections to each peer.
    pub bulk_connections: usize,
    /// Most requests under way to each peer, and most that are accepted on one connection.
    pub bulk_in_flight_max: usize,
    /// Most bytes of requests waiting to be written to each peer.
    pub bulk_in_flight_bytes: usize,
    /// Most requests of one peer that are executed at a time; the others wait for their turn.
    pub bulk_serving_max: usize,
    /// Deadline of a request whose caller names none.
    pub bulk_deadline: Duration,
    /// How long a request waits for a connection before it fails as not connected.
    pub bulk_link_wait: Duration,
    /// How long a shutdown waits for what is queued to be written.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            dial_timeout: Duration::from_millis(300),
            handshake_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(150),
            refused_pause: Duration::from_secs(2),
            ping_interval: Duration::from_millis(200),
            unacknowledged_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(5),
            half_open_max: 64,
            send_queue_bytes: 32 * 1024 * 1024,
            bulk_connections: 2,
            bulk_in_flight_max: 64,
            bulk_in_flight_bytes: 64 * 1024 * 1024,
            bulk_serving_max: 16,
            bulk_deadline: Duration::from_secs(10),
            bulk_link_wait: Duration::from_millis(500),
            drain: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// Checks that the limits make sense together. Errors: a sentence naming the limit and its range.
    pub fn check(&self) -> Result<(), String> {
        let zero = Duration::ZERO;
        let rules = [
            (self.dial_timeout > zero, "dial_timeout must be more than zero"),
            (self.handshake_timeout > zero, "handshake_timeout must be more than zero"),
            (
                zero < self.backoff_min && self.backoff_min <= self.backoff_max,
                "backoff_min must be more than zero and at most backoff_max",
            ),
            (
                zero < self.ping_interval && self.ping_interval * 2 <= self.unacknowledged_max,
                "ping_interval must be at most half of unacknowledged_max",
            ),
            (self.unacknowledged_max <= self.silence_max, "unacknowledged_max must be at most silence_max"),
            (self.half_open_max > 0, "half_open_max must be at least 1"),
            (
                self.send_queue_bytes >= MESSAGE_BYTES_MAX + FRAME_OVERHEAD_BYTES,
                "send_queue_bytes must hold the largest message",
            ),
            ((1..=BULK_INBOUND_MAX).contains(&self.bulk_connections), "bulk_connections must be 1 to 8"),
            (
                self.bulk_in_flight_max > 0 && self.bulk_serving_max > 0,
                "bulk_in_flight_max and bulk_serving_max must be at least 1",
            ),
            (
                (2 * BULK_BYTES_MAX..1 << 31).contains(&self.bulk_in_flight_bytes),
                "bulk_in_flight_bytes must be 16 MiB to 2 GiB",
            ),
            (self.bulk_deadline > zero, "bulk_deadline must be more than zero"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule.to_owned()))
    }
}
