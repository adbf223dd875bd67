//! A model that keeps every past state, beside real mounts.
//!
//! Random operations are done through mounts and in [`model::Model`] ([`player`]). Now and then the state gets a name, and a
//! copy of the model is put aside ([`keeper`]). What the mounts show of the past is compared with these copies ([`look`]).

pub mod keeper;
pub mod look;
pub mod model;
pub mod player;
