//! The line of a leader: items that wait for a place in an entry, and how many bytes they are.

use gavel_types::limits::{ENTRY_BYTES_MAX, ENTRY_ITEMS_MAX, REQUEST_BYTES_MAX};
use gavel_wire::Item;
use std::collections::VecDeque;

/// Most bytes that wait before requests are turned away.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most items that wait before requests are turned away.
const ITEMS_MAX: usize = 4 * ENTRY_ITEMS_MAX;
/// An entry is not filled beyond this, so that it travels and is written quickly.
const ENTRY_BYTES_TARGET: usize = 1024 * 1024;
/// A request, and the byte that says that it is one.
const ITEM_BYTES_MAX: usize = REQUEST_BYTES_MAX + 1;

const _: () = assert!(ITEM_BYTES_MAX + ENTRY_BYTES_TARGET < ENTRY_BYTES_MAX);

/// Items in the order in which they will be proposed, each with its encoded size.
#[derive(Debug, Default)]
pub(crate) struct Line {
    items: VecDeque<(Item, usize)>,
    bytes: usize,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Is there no room for another request? The leader's own items are few and always find room.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes > BYTES_MAX || self.items.len() > ITEMS_MAX
    }

    /// Puts an item at the end of the line. An item that no entry could hold is dropped: no honest node builds one.
    pub(crate) fn push(&mut self, item: Item) {
        let size = encoded_size(&item);
        if size <= ITEM_BYTES_MAX {
            self.bytes += size;
            self.items.push_back((item, size));
        }
    }

    /// Takes what fits in one entry: at least one item, if there is any.
    pub(crate) fn take(&mut self) -> Vec<Item> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((item, size)) = self.items.pop_front() {
            if !taken.is_empty() && (bytes + size > ENTRY_BYTES_TARGET || taken.len() == ENTRY_ITEMS_MAX) {
                self.items.push_front((item, size));
                break;
            }
            bytes += size;
            taken.push(item);
        }
        self.bytes -= bytes;
        taken
    }

    /// Puts back what was taken, in front: it could not be proposed now.
    pub(crate) fn put_back(&mut self, items: Vec<Item>) {
        for item in items.into_iter().rev() {
            let size = encoded_size(&item);
            self.bytes += size;
            self.items.push_front((item, size));
        }
    }
}

fn encoded_size(item: &Item) -> usize {
    postcard::experimental::serialized_size(item).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::{Seq, SessionId};
    use gavel_wire::{Request, RequestBody};

    fn request(seq: u64) -> Item {
        Item::Request(Request {
            session: SessionId(7),
            seq: Seq(seq),
            seen: Seq(1),
            body: RequestBody::AllocateObjects,
        })
    }

    #[test]
    fn what_is_put_back_keeps_its_place_and_its_bytes() {
        let mut line = Line::default();
        for seq in 1..=ENTRY_ITEMS_MAX as u64 + 2 {
            line.push(request(seq));
        }
        let bytes = line.bytes;
        let taken = line.take();
        assert_eq!(taken.len(), ENTRY_ITEMS_MAX);
        line.put_back(taken.clone());
        assert_eq!(line.bytes, bytes);
        assert_eq!(line.take(), taken);
        assert_eq!(line.take(), [request(ENTRY_ITEMS_MAX as u64 + 1), request(ENTRY_ITEMS_MAX as u64 + 2)]);
        assert!(line.is_empty() && line.bytes == 0 && line.take().is_empty());
    }
}
