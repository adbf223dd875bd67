//! What was gone and comes back in several plans: built up under a hidden name, with many of its commits on their way at once.
//!
//! Plans are made ahead ([`Revert::ahead`]): the next one while those before it are being committed. The first one alone touches what others know, the directory
//! in which the hidden name is made, so it may have to wait for others' leases; what is behind it is shipped when it is committed, or would get ahead of it.
//! From then on the session's numbers keep the order. Each plan has guards that what it needs of those before it is there, so one that collides takes along those that
//! need it, and may leave others: then what was built is removed, and all is built anew, step by step.

use super::{Going, Made};
use crate::host::asked::{self, Coming};
use gavel_fs::{Revert, Reverted};
use gavel_types::{ObjectId, VolumeId};
use gavel_wire::Dirent;
use std::collections::VecDeque;

/// Commits of one undo that are on their way at once, each of 256 KiB and a little: what it takes to keep replicas busy while the next plan is made. They are
/// in the session's line with those of everybody on this node, who should not have to wait for many.
const COMMITS_IN_FLIGHT_MAX: usize = 8;

/// Where it is built.
pub(super) struct Site<'a> {
    pub(super) volume: VolumeId,
    pub(super) parent: ObjectId,
    /// The hidden name.
    pub(super) name: &'a [u8],
    pub(super) was: Option<Dirent>,
}

impl Site<'_> {
    /// Makes the hidden name what `then` was.
    fn revert(&self, then: Option<Dirent>) -> Revert {
        Revert::new(self.volume, self.parent, self.name, then)
    }
}

/// Commits on their way, the oldest first.
#[derive(Default)]
struct UnderWay {
    commits: VecDeque<Coming>,
    committed: u64,
    /// One has collided.
    collided: bool,
}

impl UnderWay {
    /// Waits until no more than so many are on their way.
    ///
    /// # Errors
    /// What became of one, in words, if that is neither a commit nor a collision.
    async fn wait_until(&mut self, left: usize) -> Result<(), String> {
        while self.commits.len() > left {
            let Some(commit) = self.commits.pop_front() else { break };
            match commit.outcome(super::PATIENCE).await? {
                true => self.committed += 1,
                false => self.collided = true,
            }
        }
        Ok(())
    }
}

impl Going<'_> {
    /// Builds what was there. `first` is the first plan, made ahead.
    ///
    /// # Errors
    /// What went wrong, in words. What was built by then stays under the hidden name.
    pub(super) async fn build(&mut self, site: &Site<'_>, first: Made) -> Result<Reverted, String> {
        if let Some(reverted) = self.build_ahead(first).await? {
            return Ok(reverted);
        }
        self.run(site.revert(None), None).await?;
        self.run(site.revert(site.was), None).await
    }

    /// None if a plan has collided: what was built is not whole.
    async fn build_ahead(&mut self, first: Made) -> Result<Option<Reverted>, String> {
        let mut under_way = UnderWay::default();
        let built = self.ship_all(first, &mut under_way).await;
        // Whatever came: what is still on its way must have landed before it can be removed.
        let landed = under_way.wait_until(0).await;
        self.commits += under_way.committed;
        let (reverted, ()) = (built?, landed?);
        Ok(reverted.filter(|_| !under_way.collided))
    }

    /// Makes and ships plan after plan. None if one has collided.
    async fn ship_all(&mut self, first: Made, under_way: &mut UnderWay) -> Result<Option<Reverted>, String> {
        let mut room = 0;
        let mut next = Some(first);
        loop {
            let Some(Made { rest: mut revert, guards, plan, taken, read_at }) = next else { return Ok(None) };
            self.ids.take(taken);
            self.ids.ask_ahead(&self.daemon.node);
            under_way.commits.push_back(asked::ship(&self.daemon.node, guards, plan, self.author.clone(), read_at));
            next = self.plan(&mut revert).await?;
            if next.is_none() {
                return Ok(Some(revert.reverted()));
            }
            under_way.wait_until(room).await?;
            if under_way.collided {
                return Ok(None);
            }
            room = COMMITS_IN_FLIGHT_MAX - 1;
        }
    }
}
