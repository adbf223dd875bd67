//! Streams between two replicas in memory: what arrives is what was sent, whatever happens to the bytes on their way.
#![allow(clippy::unwrap_used)]

mod copies;
mod damage;
mod golden;
mod world;
