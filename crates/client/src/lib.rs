//! A mount's side of the cluster: the door that a mount knocks at, and the session behind it.
//!
//! - [`tree`]: the trait between a mount and a node: operations in, answers out

pub mod tree;
