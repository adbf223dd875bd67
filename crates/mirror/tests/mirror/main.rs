//! Streams between two replicas in memory: what arrives is what was sent, whatever happens to the bytes on their way.
#![allow(clippy::unwrap_used)]

mod compare;
mod copies;
mod damage;
mod demote;
mod follow;
mod golden;
mod part;
mod partial;
mod world;
