//! The nouns that rooms exchange: records, plans, guards, log entries, messages, views; and their codecs.
//!
//! Nothing here decides anything. Types that reach a disk or a network carry a format version and have
//! golden-bytes tests; bytes that come back are checked, never trusted.
//!
//! - [`record`]: what a key's value can be, and a version of it
//! - [`plan`]: mutations and guards: what an operation wants to write and what it read
//! - [`lease`]: leases as they are asked for
//! - [`lock`]: locks of files as they are asked for
//! - [`entry`]: what the replicated log carries
//! - [`follow`]: what a mirror follows, and with what right
//! - [`message`]: what nodes say to each other
//! - [`client`]: what a peer tells a client without a replica about its session
//! - [`past`]: what history is read from
//! - [`inherit`]: what a clone shows
//! - [`view`]: the one way to read records, and the recorder that turns reads into guards
//! - [`codec`]: bytes of all these

pub mod client;
pub mod codec;
pub mod entry;
pub mod follow;
pub mod inherit;
pub mod lease;
pub mod lock;
pub mod message;
pub mod past;
pub mod plan;
pub mod record;
pub mod view;

pub use codec::DecodeError;
pub use entry::{BlobNews, Demotion, Entry, Item, MirrorStep, News, Outcome, Refusal, Request, RequestBody, UnderWay};
pub use follow::{Follow, FollowKey};
pub use lease::{Mode, Want};
pub use message::{ChangeRow, Message};
pub use past::{Lived, Past};
pub use plan::{AttrDelta, Author, Guard, Mutation, Plan};
pub use record::{
    Attr, Boundary, Change, Committed, Content, Dirent, Extent, Firm, Kind, Orphan, Record, Removal, Version,
};
pub use view::{Ended, Live, Recorder, View, ViewError};
