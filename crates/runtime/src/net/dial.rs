//! Getting a connection to a peer and keeping it: dial, run, pause, again.

use super::error::LinkError;
use super::frame::Frame;
use super::hello::Purpose;
use super::limits::Limits;
use super::link::Link;
use super::queue::SendQueue;
use super::socket;
use super::state::LaneStatus;
use super::transport::Shared;
use gavel_types::NodeId;
use std::time::Duration;
use tokio::sync::watch;

/// One connection that this node keeps to a peer.
pub(super) struct Lane {
    pub(super) peer: NodeId,
    pub(super) address: String,
    pub(super) purpose: Purpose,
    pub(super) queue: SendQueue,
    pub(super) status: LaneStatus,
}

/// What the owner of a lane does with it.
pub(super) trait LaneUser: Send + Sync {
    /// The connection is open.
    fn on_up(&self, incarnation: u64);
    /// A frame other than pings and greetings came.
    fn on_frame(&self, frame: Frame) -> Result<(), LinkError>;
    /// The connection ended.
    fn on_down(&self);
}

impl Lane {
    pub(super) fn new(peer: NodeId, address: &str, purpose: Purpose, queue_bytes: usize) -> Lane {
        Lane {
            peer,
            address: address.to_owned(),
            purpose,
            queue: SendQueue::new(queue_bytes),
            status: LaneStatus::new(),
        }
    }

    /// Keeps the connection until the transport shuts down.
    pub(super) async fn keep(&self, shared: &Shared, user: &impl LaneUser) {
        let mut stop = shared.stop.subscribe();
        let mut failures = 0;
        while !*stop.borrow_and_update() {
            let error = self.connect_and_run(shared, user, &mut failures).await;
            if matches!(error, LinkError::Stopped) {
                self.status.down(error.to_string());
                break;
            }
            failures += 1;
            let pause = pause_after(&error, failures, &shared.limits);
            self.note(&error);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut stop) => {}
            }
        }
    }

    async fn connect_and_run(&self, shared: &Shared, user: &impl LaneUser, failures: &mut u32) -> LinkError {
        let mut stop = shared.stop.subscribe();
        // A shutdown does not wait for an attempt; an open connection ends by itself, in order.
        let connected = tokio::select! {
            connected = socket::connect(&shared.local, &shared.limits, self.peer, &self.address, self.purpose) => connected,
            () = stopped(&mut stop) => Err(LinkError::Stopped),
        };
        let (connection, incarnation) = match connected {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        *failures = 0;
        self.status.up(incarnation);
        tracing::info!(peer = %self.peer, address = self.address, purpose = %self.purpose, incarnation, "connected");
        user.on_up(incarnation);
        let _down = DownAtEnd(user);
        let link =
            Link { queue: &self.queue, counters: &self.status.counters, limits: &shared.limits, pings: true, stop };
        link.run(connection, |frame| user.on_frame(frame)).await
    }

    /// Logs what is news: the same failure again and again is one line.
    fn note(&self, error: &LinkError) {
        if self.status.down(error.to_string()) {
            tracing::warn!(peer = %self.peer, address = self.address, purpose = %self.purpose, %error, "not connected");
        }
    }
}

/// Tells the user also if the task is aborted: nobody must wait for answers on a connection that is gone.
struct DownAtEnd<'a, U: LaneUser>(&'a U);

impl<U: LaneUser> Drop for DownAtEnd<'_, U> {
    fn drop(&mut self) {
        self.0.on_down();
    }
}

/// Returns when the transport shuts down, or is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Doubling with jitter, so that nodes that lost each other at the same time do not meet again and again.
fn pause_after(error: &LinkError, failures: u32, limits: &Limits) -> Duration {
    if error.is_refusal() {
        return limits.refused_pause;
    }
    let full = limits.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(limits.backoff_max);
    let mut random = [0];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = getrandom::fill(&mut random);
    full.mul_f64(0.5 + f64::from(random[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_are_long_after_a_refusal() {
        let limits = Limits::default();
        for failures in 1..100 {
            let pause = pause_after(&LinkError::Closed, failures, &limits);
            assert!(pause <= limits.backoff_max && pause >= limits.backoff_min / 2, "{failures}: {pause:?}");
        }
        assert!(pause_after(&LinkError::Closed, 9, &limits) >= limits.backoff_max / 2);
        let refused = LinkError::Certificate(String::new());
        assert_eq!(pause_after(&refused, 1, &limits), limits.refused_pause);
    }
}
