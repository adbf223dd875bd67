//! Reads that are answered under leases: from the node's own replica, with no message.

use crate::leases::Usable;
use crate::once::Once;
use crate::run::{Run, Step};
use crate::tree::{Answer, Keep};
use gavel_fs::{FsError, Operation, Reply, Stop};
use gavel_lease::RangeSet;
use gavel_lease::range::{guarded, lease_range_of};
use gavel_types::{Key, KeyRange, Moment, ObjectId};
use gavel_wire::{Record, Version, View};

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

/// A name that is looked up. A directory may be leased where the object that the name leads to is not, because others write to it: then the answer is
/// confirmed, and the name alone may be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LookUp {
    directory: KeyRange,
    name: Key,
}

impl LookUp {
    /// What may be kept of an answer that was confirmed. The caller has looked at `usable` first, taken the view then, and keeps `usable` in force until the
    /// answer is handed over, as for [`Run::step_leased`]: what the name led to when that was confirmed it may not lead to any more.
    pub fn keep(&self, answer: &Answer, view: &dyn View, usable: &Usable, now: Moment) -> Keep {
        let leads_to = |object| match view.get(&self.name) {
            Ok(Some(Version { record: Record::Dirent(entry), .. })) => entry.object == object,
            _ => false,
        };
        if self.is_kept(usable) && answer.object().is_some_and(leads_to) {
            Keep { names_ns: usable.left_ns(now), ..Keep::default() }
        } else {
            Keep::default()
        }
    }

    /// What the name depends on.
    pub fn directory(&self) -> &KeyRange {
        &self.directory
    }

    fn is_kept(&self, usable: &Usable) -> bool {
        usable.keeps.covers(&self.directory)
    }
}

impl Run {
    /// The name that it looks up, if it does that.
    pub fn look_up(&self) -> Option<LookUp> {
        let Operation::Lookup { parent, name } = &self.operation else { return None };
        let volume = self.cx.volume;
        Some(LookUp { directory: KeyRange::object(volume, *parent), name: Key::dirent(volume, *parent, name) })
    }

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
        } else if self.look_up().is_some_and(|look_up| look_up.is_kept(usable)) {
            Keep { names_ns: left_ns, ..Keep::default() }
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
            Operation::Open { object, .. } => keeps.covers(&KeyRange::object(self.cx.volume, *object)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::{Base, SECOND, V};
    use crate::tree::TreeRequest;
    use gavel_fs::Caller;

    const NOW: Moment = Moment(SECOND);
    const FILE: ObjectId = ObjectId(100);

    fn run(request: TreeRequest) -> Run {
        Run::new(V, Caller::default(), request).unwrap()
    }

    fn look_up() -> Run {
        run(TreeRequest::Lookup { parent: ObjectId::ROOT, name: (*b"f").into() })
    }

    /// A tree with `f`, the file `object`.
    fn tree(object: ObjectId) -> Base {
        let (parent, name) = (ObjectId::ROOT, (*b"f").into());
        let create = Operation::Create { parent, name, mode: 0o600, umask: 0, exclusive: true, truncate: false };
        let mut base = Base::new();
        base.operate(&TreeRequest::Operation(create), object).unwrap();
        base
    }

    fn usable(reads: &[ObjectId], keeps: &[ObjectId]) -> Usable {
        let ranges = |objects: &[ObjectId]| objects.iter().map(|object| KeyRange::object(V, *object)).collect();
        let (until, time) = (Moment(3 * SECOND), (NOW, SECOND));
        Usable { reads: ranges(reads), keeps: ranges(keeps), writes: RangeSet::default(), until, time }
    }

    /// The answer to the look-up when it is confirmed.
    fn confirmed(base: &Base) -> Answer {
        let mut run = look_up();
        let Step::Confirm(_) = run.step(base) else { panic!("nothing is leased") };
        run.confirmed();
        let Step::Done(Ok(answer)) = run.step(base) else { panic!("there is such a name") };
        assert_eq!((answer.object(), answer.keep), (Some(FILE), Keep::default()));
        answer
    }

    #[test]
    fn of_a_file_that_others_write_to_the_name_may_be_kept() {
        let base = tree(FILE);
        let shared = usable(&[ObjectId::ROOT], &[ObjectId::ROOT]);
        assert!(matches!(look_up().step_leased(&base, &shared, NOW), Leased::Lacks(_)));
        let name = look_up().look_up().unwrap();
        let names = Keep { names_ns: 2 * SECOND, ..Keep::default() };
        assert_eq!(name.keep(&confirmed(&base), &base, &shared, NOW), names);
        assert_eq!(name.keep(&confirmed(&base), &base, &shared, Moment(3 * SECOND)), Keep::default(), "it is over");
        assert_eq!(name.keep(&confirmed(&base), &base, &usable(&[FILE], &[FILE]), NOW), Keep::default());
        // The directory was given up, and leased once more, since that was confirmed.
        assert_eq!(name.keep(&confirmed(&base), &tree(ObjectId(200)), &shared, NOW), Keep::default());
        assert_eq!(name.keep(&confirmed(&base), &Base::new(), &shared, NOW), Keep::default());
        assert_eq!(run(TreeRequest::Operation(Operation::Getattr { object: FILE })).look_up(), None);
    }

    #[test]
    fn of_a_file_that_was_just_written_here_the_name_may_be_kept() {
        let base = tree(FILE);
        let quiet = usable(&[ObjectId::ROOT, FILE], &[ObjectId::ROOT]);
        let Leased::Step(Step::Done(Ok(answer))) = look_up().step_leased(&base, &quiet, NOW) else { panic!("leased") };
        assert_eq!(answer.keep, Keep { names_ns: 2 * SECOND, ..Keep::default() });
        let quiet = usable(&[ObjectId::ROOT, FILE], &[FILE]);
        let Leased::Step(Step::Done(Ok(answer))) = look_up().step_leased(&base, &quiet, NOW) else { panic!("leased") };
        assert_eq!(answer.keep, Keep::default());
    }
}
