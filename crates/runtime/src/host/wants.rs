//! Leases that would be useful, and which of them the session has heard of lately: the node's thread is not woken to be told again.

use gavel_lease::range::whole_objects;
use gavel_types::{KeyRange, Moment, ObjectId, VolumeId};
use gavel_wire::Mode;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What the session was told within this time it is not told again. It would pass it over for longer
/// ([`Session::want`](gavel_client::Session::want)), unless it had a reason to pass it over at first.
const LATELY_NS: u64 = 100_000_000;
/// Most objects that are remembered as told; of more, the session is told each time.
const LATELY_MAX: usize = 4096;

/// Objects from the first to the last, and how they are wanted.
type Wanted = (VolumeId, ObjectId, ObjectId, Mode);

/// What the session was told, and when.
#[derive(Default)]
pub struct Wants(Mutex<BTreeMap<Wanted, Moment>>);

impl Wants {
    /// Operations had to go through the quorum because these ranges are not held in this mode: those of which the session is to be told.
    pub fn news(&self, now: Moment, ranges: Vec<KeyRange>, mode: Mode) -> Vec<KeyRange> {
        let mut lately = self.0.lock();
        if lately.len() >= LATELY_MAX {
            lately.retain(|_, at| now.since_ns(*at) < LATELY_NS);
        }
        let mut is_news = |range: &KeyRange| {
            let Some((volume, first, last)) = whole_objects(range) else { return false };
            let wanted = (volume, first, last, mode);
            let is_told = lately.get(&wanted).is_some_and(|at| now.since_ns(*at) < LATELY_NS);
            if !is_told && lately.len() < LATELY_MAX {
                lately.insert(wanted, now);
            }
            !is_told
        };
        ranges.into_iter().filter(|range| is_news(range)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Key;

    #[test]
    fn the_session_is_told_once_in_a_while() {
        let (wants, volume) = (Wants::default(), VolumeId(1));
        let attr = |object| KeyRange::one(&Key::attr(volume, ObjectId(object)));
        let name = KeyRange::one(&Key::dirent(volume, ObjectId(7), b"name"));
        let now = Moment(5_000_000_000);
        assert_eq!(
            wants.news(now, vec![attr(7), name.clone()], Mode::Shared),
            [attr(7)],
            "leases are of whole objects"
        );
        assert_eq!(wants.news(now, vec![name.clone(), attr(8)], Mode::Shared), [attr(8)]);
        assert_eq!(wants.news(now, vec![attr(7)], Mode::Exclusive), [attr(7)]);
        let later = Moment(now.0 + LATELY_NS);
        assert_eq!(wants.news(later, vec![name.clone()], Mode::Shared), [name]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (wants, now) = (Wants::default(), Moment(5_000_000_000));
        let attr = |object| KeyRange::one(&Key::attr(VolumeId(1), ObjectId(object)));
        for object in 0..2 * LATELY_MAX as u64 {
            assert_eq!(wants.news(now, vec![attr(object)], Mode::Shared).len(), 1);
        }
        assert_eq!(wants.0.lock().len(), LATELY_MAX);
    }
}
