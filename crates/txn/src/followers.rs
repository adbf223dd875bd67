//! Mirrors in other clusters that are admitted to a volume, and the history that waits for them.
//!
//! `docs/protocols/mirroring.md` has the whole of it.
//!
//! Invariants (checked by [`VolumePast::check_followers`] and [`Past::check_invariants`]):
//! 1. There are [`FOLLOWERS_MAX`] of them at most, each with a name that a snapshot may have.
//! 2. None has come to a state that is later than the last transaction.

use crate::past::{Past, VolumePast};
use gavel_types::at::is_snapshot_name;
use gavel_types::limits::FOLLOWERS_MAX;
use gavel_types::{Selection, Tid, VolumeId};
use gavel_wire::{Refusal, RequestBody};
use serde::{Deserialize, Serialize};

/// A mirror in another cluster that may read the volume's stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Follower {
    /// The hash of its key.
    pub key: [u8; 32],
    /// Since when it is admitted.
    pub admitted: Tid,
    /// History waits for it so long, in nanoseconds; none: for ever.
    pub keep_for_ns: Option<u64>,
    /// The state that it has come to; [`Tid::ZERO`]: to none that it has told of.
    pub at: Tid,
    /// When it has told so last.
    pub seen: Tid,
    /// Which part of the volume it may read: nothing else is sent to it.
    pub selection: Selection,
}

impl Follower {
    /// The state from which on history waits for it, if it is `now`. What has no state yet begins with a whole copy, and needs none.
    pub fn holds(&self, now: Tid) -> Option<Tid> {
        let waited = now.0.saturating_sub(self.at.0);
        let is_waited_for = self.at != Tid::ZERO && self.keep_for_ns.is_none_or(|limit| waited <= limit);
        is_waited_for.then_some(self.at)
    }
}

impl Past {
    /// What a session asks about mirrors that follow.
    pub(crate) fn follow_request(&mut self, tid: Tid, body: &RequestBody) -> Result<(), Refusal> {
        match body {
            RequestBody::AdmitFollower { volume, name, key, keep_for_ns, selection } => {
                let (key, keep_for_ns, selection) = (*key, *keep_for_ns, selection.clone());
                let (at, seen) = (Tid::ZERO, Tid::ZERO);
                self.admit(*volume, name, Follower { key, admitted: tid, keep_for_ns, at, seen, selection })
            }
            RequestBody::DismissFollower { volume, name } => self.dismiss(*volume, name),
            RequestBody::FollowerReached { volume, name, admitted, at } => {
                self.reached(tid, *volume, name, *admitted, *at)
            }
            RequestBody::FollowMirror { volume, follow } => self.follow(*volume, follow.as_deref()),
            _ => unreachable!("nothing else is asked about mirrors that follow"),
        }
    }

    fn admit(&mut self, volume: VolumeId, name: &str, follower: Follower) -> Result<(), Refusal> {
        if !is_snapshot_name(name) {
            return Err(Refusal::BadName);
        }
        let full = self.followers() >= FOLLOWERS_MAX || !follower.selection.is_sound();
        let past = self.living(volume)?;
        if past.followers.contains_key(name) {
            return Err(Refusal::Exists);
        }
        if full {
            return Err(Refusal::Full);
        }
        past.followers.insert(name.into(), follower);
        self.revision += 1;
        Ok(())
    }

    fn dismiss(&mut self, volume: VolumeId, name: &str) -> Result<(), Refusal> {
        self.living(volume)?.followers.remove(name).ok_or(Refusal::Missing)?;
        self.revision += 1;
        Ok(())
    }

    /// `tid` is now. Two of the source's nodes may tell it one behind the other: the later state counts.
    fn reached(&mut self, tid: Tid, volume: VolumeId, name: &str, admitted: Tid, at: Tid) -> Result<(), Refusal> {
        let follower = self.living(volume)?.followers.get_mut(name).filter(|follower| follower.admitted == admitted);
        let follower = follower.ok_or(Refusal::Missing)?;
        if at > tid {
            return Err(Refusal::Pruned);
        }
        (follower.at, follower.seen) = (follower.at.max(at), tid);
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn followers(&self) -> usize {
        self.volumes.values().map(|past| past.followers.len()).sum()
    }
}

impl VolumePast {
    /// The earliest state that a follower is waited for at, if it is `now`: all from there on stay.
    pub fn held_from(&self, now: Tid) -> Option<Tid> {
        self.followers.values().filter_map(|follower| follower.holds(now)).min()
    }

    /// Asserts the invariants that the module's documentation numbers; `tid` is the last transaction.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub(crate) fn check_followers(&self, tid: Tid) {
        for (name, follower) in &self.followers {
            assert!(is_snapshot_name(name), "a follower is called {name:?}");
            let sound = follower.at <= tid && follower.seen <= tid && follower.admitted <= tid;
            assert!(sound, "follower {name} has come to {}, and the last transaction is {tid}", follower.at);
        }
    }
}
