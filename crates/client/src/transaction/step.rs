//! One operation of a transaction.

use super::{Transaction, TransactionError};
use crate::run::{Run, Step};
use crate::tree::{Answer, Keep, TreeError};
use bytes::Bytes;
use gavel_fs::{FsError, Operation, Reply, Stop};
use gavel_txn::Layered;
use gavel_txn::expand::ExpandError;
use gavel_types::{BlobId, Key, ObjectId};
use gavel_wire::{Guard, Kind, Record, View};

/// Nobody else changes what a transaction shows, so a front may keep it as long as it likes.
const KEPT_NS: u64 = 24 * 3_600 * 1_000_000_000;
/// What an operation comes to that is too large for one plan.
const PARTS_MAX: u32 = 1_000_000;

/// What became of an operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Stepped {
    /// [`Step::NeedObjectId`], [`Step::Fetch`] or [`Step::Done`].
    pub step: Step,
    /// Bytes that must be on a majority before the transaction can be committed.
    pub store: Option<(BlobId, Bytes)>,
}

impl Run {
    /// What is asked for, and in which volume.
    pub fn what(&self) -> (gavel_types::VolumeId, &Operation) {
        (self.cx.volume, &self.operation)
    }

    /// The object that the operation takes a name from in this view, if it does.
    pub fn loses_name(&self, view: &dyn View) -> Option<ObjectId> {
        let (parent, name) = match &self.operation {
            Operation::Unlink { parent, name } | Operation::Rmdir { parent, name } => (*parent, name),
            Operation::Rename { new_parent, new_name, .. } => (*new_parent, new_name),
            _ => return None,
        };
        match view.get(&Key::dirent(self.cx.volume, parent, name)).ok()??.record {
            Record::Dirent(dirent) => Some(dirent.object),
            _ => None,
        }
    }

    /// Runs the operation as a part of `transaction`. `base` is the view at its start, `now_ns` what the cluster's clock shows.
    pub fn step_transaction(&mut self, transaction: &mut Transaction, base: &dyn View, now_ns: u64) -> Stepped {
        for _ in 0..PARTS_MAX {
            let view = Layered::new(base, transaction.layer.clone());
            let (attempted, guards) = gavel_fs::attempt(&view, &self.cx, &self.operation);
            let (plan, reply) = match attempted {
                Ok((plan, reply)) => (plan, Ok(reply)),
                Err(Stop::Error(error)) => (None, Err(error)),
                Err(Stop::NeedObjectId) => return Stepped { step: Step::NeedObjectId, store: None },
                Err(Stop::View(error)) => return failed(ExpandError::View(error).into()),
            };
            let guards = self.depends_on(&view, guards);
            if let Err(error) = transaction.depend(base, &guards) {
                return failed(error);
            }
            let changes = plan.is_some();
            if let Some(plan) = plan
                && let Err(error) = transaction.accept(base, plan, now_ns)
            {
                return failed(error);
            }
            match reply {
                Ok(Reply::Partly) => {}
                Ok(reply) => return self.answered(transaction, base, reply, changes),
                Err(FsError::NotFound) if self.absence_is_an_answer => return done(Ok(Answer::of(Reply::Empty))),
                Err(error) => return done(Err(error.into())),
            }
        }
        let cause = format!("{:?} does not come to an end; please report this", self.operation);
        done(Err(TreeError::Storage { cause, full: false }))
    }

    fn answered(&mut self, transaction: &mut Transaction, base: &dyn View, reply: Reply, changes: bool) -> Stepped {
        let view = Layered::new(base, transaction.layer.clone());
        let at = base.tid();
        // What the answer tells beside what was asked is depended on like anything else.
        let told = self.described(&reply).into_iter().map(|object| {
            let key = Key::attr(self.cx.volume, object);
            if is_directory(&view, self.cx.volume, object) {
                Guard::Firm { key, at }
            } else {
                Guard::Unchanged { key, at }
            }
        });
        let told: Vec<Guard> = told.collect();
        if let Err(error) = transaction.depend(base, &told) {
            return failed(error);
        }
        let store = self.blob_to_store().filter(|_| changes).map(|blob| (blob.id(), blob.bytes().clone()));
        let step = self.finish(&view, reply).keeping(KEEP);
        Stepped { step, store }
    }

    /// What the operation read, but that counters and times of a directory may be looked at without depending on its names.
    fn depends_on(&self, view: &dyn View, mut guards: Vec<Guard>) -> Vec<Guard> {
        if let Operation::Getattr { object } = &self.operation
            && is_directory(view, self.cx.volume, *object)
        {
            for guard in &mut guards {
                if let Guard::Unchanged { key, at } = guard {
                    *guard = Guard::Firm { key: key.clone(), at: *at };
                }
            }
        }
        guards
    }
}

const KEEP: Keep = Keep { names_ns: KEPT_NS, attrs_ns: KEPT_NS, bytes: true };

fn is_directory(view: &dyn View, volume: gavel_types::VolumeId, object: ObjectId) -> bool {
    match view.get(&Key::attr(volume, object)) {
        Ok(Some(version)) => matches!(version.record, Record::Attr(attr) if attr.firm.kind == Kind::Directory),
        _ => false,
    }
}

fn done(result: Result<Answer, TreeError>) -> Stepped {
    Stepped { step: Step::Done(result).keeping(KEEP), store: None }
}

fn failed(error: TransactionError) -> Stepped {
    let full = matches!(error, TransactionError::Full(_));
    done(Err(TreeError::Storage { cause: error.to_string(), full }))
}
