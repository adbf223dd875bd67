//! What history is read from: every state there was, all versions of a key, what each transaction changed.

use crate::message::ChangeRow;
use crate::record::Version;
use crate::view::{View, ViewError};
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};

/// A version, and when it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lived {
    /// The record.
    pub key: Key,
    /// The version.
    pub version: Version,
    /// The transaction that replaced or deleted it; none if it lives.
    pub delete: Option<Tid>,
}

/// One row of the change index: that a transaction changed a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touched {
    /// The transaction.
    pub tid: Tid,
    /// The record.
    pub key: Key,
    /// It made a version of it. If not, it only ended one.
    pub made: bool,
}

/// Rows that are read as they are asked for.
pub type Rows<'a, T> = Box<dyn Iterator<Item = Result<T, ViewError>> + 'a>;

/// A replica's whole past, as it was when this was taken. It does not change while it is read.
pub trait Past {
    /// The last transaction that it holds.
    fn tid(&self) -> Tid;

    /// Does the state as of `tid` have all objects of the volume, if it can be read? If not, a name may lead to an object of which no attributes are
    /// there: then nothing of it is kept.
    fn has_all(&self, volume: VolumeId, tid: Tid) -> bool;

    /// The state as of `tid`.
    fn at(&self, tid: Tid) -> Box<dyn View + '_>;

    /// All versions of the keys in `range`, in the order of keys, the versions of a key from the first to the last.
    fn versions(&self, range: &KeyRange) -> Rows<'_, Lived>;

    /// What the transactions after `after`, up to and with `upto`, changed, in their order, then in that of keys.
    fn changes(&self, after: Tid, upto: Tid) -> Rows<'_, ChangeRow>;

    /// Which records the transactions after `after`, up to and with `upto`, changed, in their order, then in that of keys. As `changes`, without
    /// reading the versions.
    fn touched(&self, after: Tid, upto: Tid) -> Rows<'_, Touched>;

    /// Which of the records in `range` transaction `tid` changed, in the order of keys. The cost follows their number, not what else it changed.
    fn touched_at(&self, tid: Tid, range: &KeyRange) -> Rows<'_, Touched>;

    /// The keys of the names that some version gives an object, each once, in the order of keys: all that it has in any state, and perhaps more. What it has as
    /// of a state, that state says.
    fn names_of(&self, volume: VolumeId, object: ObjectId) -> Rows<'_, Key>;

    /// The live versions of the keys in `range`, from the last key to the first.
    fn live_back(&self, range: &KeyRange) -> Rows<'_, (Key, Version)>;
}
