//! Second copies of volumes: the stream from a source to its mirror, what goes into it, and what is made of it.
//!
//! `docs/protocols/mirroring.md` has the whole of it, `docs/formats/mirror-stream.md` the bytes. What this room is not: it reads no
//! clock and moves no bytes; whoever hosts it does. It judges no step either: `gavel-txn` does, where the order of all commits is known.
//!
//! - [`stream`]: frames and their bytes; [`order`]: which frame may follow which
//! - [`source`]: the steps from one state of a volume to a later one, and their rows
//! - [`compare`]: a step from a state that the source has no more
//! - [`part`]: the same, of copies that have a part of their source; `changed`, `scan`, `work`: what both do alike
//! - [`receive`]: what is to be done about a frame, for a mirror that stands at a boundary
//! - [`follow`]: what is said beside the stream, where a mirror follows its source by itself
//! - [`parts`]: rows of a step, as requests to the mirror's log
//!
//! Invariants:
//! 1. A frame is given out only if it was written behind just those frames that were given out before.
//! 2. All rows of an object are side by side, behind its attributes.
//! 3. Each part of a step has the attributes of every object that it has a row of.
//! 4. Memory follows neither the size of a step nor that of a volume: frames, parts and keys that are gathered are bounded.

mod changed;
pub mod compare;
pub mod follow;
pub mod order;
pub mod part;
pub mod parts;
pub mod receive;
mod scan;
pub mod source;
pub mod stream;
mod work;

pub use compare::{Compared, Ends, Partial, Piece};
pub use follow::{Ahead, FollowError, Greeting, Hearing, Said};
pub use part::Part;
pub use part::compare::PartCompared;
pub use part::rows::PartRows;
pub use part::select::{BadPattern, Selector};
pub use parts::Parts;
pub use receive::{Act, Broken, NotTaken, Receiver, Standing};
pub use source::{Position, Read, Readable, Rows, Step};
pub use stream::{Decoder, Encoder, Frame, Header, Row, StepHead, StreamError, Totals};
