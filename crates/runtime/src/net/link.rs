//! One open connection: writing what is queued, reading what comes, and noticing when nothing does.
//!
//! One task runs all three, so that a connection ends as a whole. A link that was cut without a word ends in
//! one of two ways: pings left unacknowledged by the other machine's kernel end it after
//! `unacknowledged_max` (this does not depend on how much is queued before them), and a process that is
//! stopped while its kernel still acknowledges ends it after `silence_max`.

use super::error::LinkError;
use super::frame::{self, Frame, FrameKind, Taken};
use super::hello::Refusal;
use super::limits::{COPY_BYTES_MAX, Limits, WRITE_BATCH_BYTES, WRITE_PIECE_BYTES};
use super::queue::{Outgoing, SendQueue};
use super::socket::{self, Connection};
use super::state::Counters;
use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// What a link needs to know besides its stream.
pub(super) struct Link<'a> {
    pub(super) queue: &'a SendQueue,
    pub(super) counters: &'a Counters,
    pub(super) limits: &'a Limits,
    /// Whether this side asks for signs of life; the other one answers.
    pub(super) pings: bool,
    /// Turns true when the transport shuts down.
    pub(super) stop: watch::Receiver<bool>,
}

/// When something was last heard, or a piece of a large frame last left.
struct Activity {
    start: Instant,
    micros: AtomicU64,
}

impl Activity {
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn touch(&self) {
        self.micros.store(self.now(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_micros(self.now().saturating_sub(self.micros.load(Ordering::Relaxed)))
    }
}

impl Link<'_> {
    /// Runs until the connection ends; gives the reason. Other than pings and pongs, every frame goes to `on_frame`.
    pub(super) async fn run<S, F>(self, connection: Connection<S>, on_frame: F) -> LinkError
    where
        S: AsyncRead + AsyncWrite + Unpin,
        F: FnMut(Frame) -> Result<(), LinkError>,
    {
        let activity = Activity { start: Instant::now(), micros: AtomicU64::new(0) };
        let (reader, writer) = tokio::io::split(connection.stream);
        let ended = tokio::select! {
            ended = self.read(reader, connection.unread, &activity, on_frame) => ended,
            ended = self.write(writer, &activity) => ended,
            ended = self.watch(&activity) => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn read<R, F>(
        &self,
        mut reader: ReadHalf<R>,
        mut buffer: BytesMut,
        activity: &Activity,
        mut on_frame: F,
    ) -> Result<std::convert::Infallible, LinkError>
    where
        R: AsyncRead,
        F: FnMut(Frame) -> Result<(), LinkError>,
        ReadHalf<R>: Unpin,
    {
        loop {
            match frame::take(&mut buffer)? {
                Taken::Missing(bytes) => {
                    socket::fill(&mut reader, &mut buffer, bytes).await?;
                    activity.touch();
                }
                Taken::Frame(frame) => {
                    self.counters.received(frame::HEADER_BYTES + frame.payload.len());
                    match frame.kind {
                        FrameKind::Ping if !self.pings => {
                            self.queue.push(Outgoing::plain(FrameKind::Pong, Bytes::copy_from_slice(&frame.payload)));
                        }
                        FrameKind::Pong if self.pings => self.on_pong(&frame.payload, activity),
                        FrameKind::Refused => return Err(LinkError::Refused(Refusal::decode(&frame.payload))),
                        _ => on_frame(frame)?,
                    }
                }
            }
        }
    }

    fn on_pong(&self, payload: &[u8], activity: &Activity) {
        // A pong that is none of ours tells nothing, and harms nothing.
        if let Ok(sent) = payload.try_into().map(u64::from_le_bytes)
            && let Some(micros) = activity.now().checked_sub(sent)
        {
            self.counters.round_trip(micros);
        }
    }

    async fn write<W>(
        &self,
        mut writer: WriteHalf<W>,
        activity: &Activity,
    ) -> Result<std::convert::Infallible, LinkError>
    where
        W: AsyncWrite,
        WriteHalf<W>: Unpin,
    {
        let mut stop = self.stop.clone();
        let mut batch = Vec::new();
        let mut out = BytesMut::with_capacity(WRITE_PIECE_BYTES);
        // The first ping goes out at once: it is the first measure of the round trip.
        let mut next_ping = Instant::now();
        loop {
            if self.pings && Instant::now() >= next_ping {
                batch.push(Outgoing::plain(FrameKind::Ping, socket::stamp(activity.now())));
                next_ping = Instant::now() + self.limits.ping_interval;
            }
            self.queue.take(WRITE_BATCH_BYTES, &mut batch);
            if !batch.is_empty() {
                self.write_batch(&mut writer, &mut batch, &mut out, activity).await.map_err(LinkError::Io)?;
                continue;
            }
            if *stop.borrow_and_update() {
                let _ = timeout(self.limits.drain, writer.shutdown()).await;
                return Err(LinkError::Stopped);
            }
            tokio::select! {
                () = self.queue.ready() => {}
                () = sleep_until(next_ping), if self.pings => {}
                // A transport that was dropped without a shutdown aborts its tasks.
                _ = stop.changed() => {}
            }
        }
    }

    async fn write_batch<W>(
        &self,
        writer: &mut WriteHalf<W>,
        batch: &mut Vec<Outgoing>,
        out: &mut BytesMut,
        activity: &Activity,
    ) -> std::io::Result<()>
    where
        W: AsyncWrite,
        WriteHalf<W>: Unpin,
    {
        for frame in batch.drain(..) {
            frame.put_head(out);
            if frame.payload().len() <= COPY_BYTES_MAX {
                out.extend_from_slice(frame.payload());
            } else {
                writer.write_all(out).await?;
                out.clear();
                for piece in frame.payload().chunks(WRITE_PIECE_BYTES) {
                    writer.write_all(piece).await?;
                    activity.touch();
                }
            }
            if out.len() >= WRITE_PIECE_BYTES {
                writer.write_all(out).await?;
                out.clear();
            }
            self.counters.sent(frame.bytes());
        }
        writer.write_all(out).await?;
        out.clear();
        writer.flush().await
    }

    async fn watch(&self, activity: &Activity) -> Result<std::convert::Infallible, LinkError> {
        loop {
            let idle = activity.idle();
            if idle >= self.limits.silence_max {
                return Err(LinkError::Silent(idle));
            }
            sleep_until(Instant::now() + (self.limits.silence_max - idle)).await;
        }
    }
}
