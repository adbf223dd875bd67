//! Answers about the past, against the simplest thing that could give them.
#![allow(clippy::unwrap_used)]

mod paths;
mod properties;
mod world;
