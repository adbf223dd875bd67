//! Reads that are answered under leases: from the node's own replica, with no message.

use crate::leases::Usable;
use crate::once::Once;
use crate::run::{Run, Step};
use crate::tree::{Answer, Keep};
use gavel_fs::{FsError, Reply, Stop};
use gavel_lease::RangeSet;
use gavel_lease::range::{guarded, lease_range_of};
use gavel_types::{Key, KeyRange, Moment, ObjectId};
use gavel_wire::View;

/// What comes of trying to answer under leases.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once; a box would be an allocation for each read")]
pub enum Leased {
    /// The read goes on like this, with no need to be confirmed.
    Step(Step),
    /// Leases over these ranges are lacking: [`Run::ask`].
    Lacks(Vec<KeyRange>),
    /// It is no read, or has begun otherwise.
    No,
}

impl Run {
    /// Tries to answer a read from `view` under what the node may answer for at `now`. The caller has looked at `usable` first, taken the view
    /// then, and keeps `usable` in force until the answer is handed over.
    pub fn step_leased(&mut self, view: &dyn View, usable: &Usable, now: Moment) -> Leased {
        if !self.is_fresh_read() {
            return Leased::No;
        }
        let left_ns = usable.left_ns(now);
        if left_ns == 0 {
            return Leased::No;
        }
        let view = &Once::new(view);
        let (attempted, guards) = gavel_fs::attempt(view, &self.cx, &self.operation);
        let mut read: Vec<KeyRange> = guards.iter().map(guarded).collect();
        let orphan = self.orphan_to_avoid();
        if let Some(key) = &orphan {
            read.push(lease_range_of(key));
            match view.get(key) {
                Ok(None) => {}
                // Whether it may be opened is decided where that is known.
                Ok(Some(_)) | Err(_) => return Leased::No,
            }
        }
        let reply = match attempted {
            Ok((None, reply)) => Ok(reply),
            Err(Stop::Error(error)) => Err(error),
            Ok((Some(_), _)) | Err(_) => return Leased::No,
        };
        // What becomes of an object without a name, the quorum decides without asking those who hold leases.
        if let Ok(reply) = &reply
            && self.described(reply).into_iter().any(|object| self.is_without_name(view, object))
        {
            return Leased::No;
        }
        if let Ok(reply) = &reply {
            read.extend(
                self.described(reply).into_iter().map(|object| KeyRange::one(&Key::attr(self.cx.volume, object))),
            );
        }
        let lacking: Vec<KeyRange> = read.iter().filter(|range| !usable.reads.covers(range)).cloned().collect();
        if !lacking.is_empty() {
            self.will_ask(read);
            return Leased::Lacks(lacking);
        }
        let keep = if read.iter().all(|range| usable.keeps.covers(range)) {
            Keep { names_ns: left_ns, attrs_ns: left_ns, bytes: self.may_keep_bytes(&usable.keeps) }
        } else {
            Keep::default()
        };
        Leased::Step(match reply {
            Ok(reply) => self.finish(view, reply).keeping(keep),
            Err(FsError::NotFound) if self.absence_is_an_answer => {
                Step::Done(Ok(Answer::of(Reply::Empty))).keeping(keep)
            }
            Err(error) => Step::Done(Err(error.into())),
        })
    }

    /// The objects whose attributes the answer holds.
    pub(crate) fn described(&self, reply: &Reply) -> Vec<ObjectId> {
        match reply {
            Reply::Object(object) | Reply::Created { object, .. } | Reply::Attr(object, _) => vec![*object],
            Reply::Listing { names, .. } if self.plus => names.iter().map(|name| name.object).collect(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn is_without_name(&self, view: &dyn View, object: ObjectId) -> bool {
        !matches!(self.attr(view, object), Ok(Some(attr)) if attr.nlink > 0)
    }

    fn may_keep_bytes(&self, keeps: &RangeSet) -> bool {
        match &self.operation {
            gavel_fs::Operation::Open { object, .. } => keeps.covers(&KeyRange::object(self.cx.volume, *object)),
            _ => false,
        }
    }
}

impl Step {
    pub(crate) fn keeping(mut self, keep: Keep) -> Step {
        if let Step::Done(Ok(answer)) = &mut self {
            answer.keep = keep;
        }
        self
    }
}
