//! Past states: inodes of the past, and what decides whether an inode is one.
//!
//! A live object's node id (the kernel's name for an inode) is its object id. An object of the past has a node id of the mount's own, with the top
//! bit set, given when a look-up first brings it and never used twice. It stands for an object *and the entrance* through which it was reached: the name with
//! `@@`, in its live directory, and the state that this named. Two entrances to one state lead to different nodes, because a directory has one place in the
//! kernel's tree of names: brought in a second place, it would be moved there, or refused. Below one entrance an object is one node, however many names it has.
//!
//! What programs see as the inode number is another thing ([`PastNode::ino`]): the same on every mount, whatever the entrance.
//!
//! ```text
//!   nothing ──look-up, listing with attributes──> a node ──as many FORGETs──> nothing
//! ```
//!
//! Invariants:
//! 1. A node is here as long as the kernel has it, or is about to take it from a reply that is written; and no longer.
//! 2. One entrance and one object: one node, and the other way round.
//!
//! - `naming`: which names lead to the past
//! - `looking`: looking them up

mod looking;
mod naming;

pub(super) use naming::{Ages, PastName};

use crate::attr::{inode, object};
use fuser::INodeNo;
use gavel_client::tree::TreeRequest;
use gavel_types::{ObjectId, Tid};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Set in node ids and inode numbers of the past, and in no object id: those are counted up from 1.
const PAST_BIT: u64 = 1 << 63;

/// What an inode is.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// An object as it is.
    Live(ObjectId),
    /// An object as it was.
    Past(PastNode),
}

/// An object of a past state, reached through an entrance.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PastNode {
    // First, for it tells most of them apart.
    object: ObjectId,
    entrance: Arc<Entrance>,
}

/// A name that leads to a past state.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Entrance {
    /// The live directory that it is in.
    directory: ObjectId,
    name: Box<[u8]>,
    /// The state that it leads to. One name may lead to one state now, and to another later.
    at: Tid,
}

/// The inodes of the past that the kernel has.
#[derive(Debug, Default)]
pub(crate) struct PastNodes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// How many node ids were given.
    given: u64,
    nodes: BTreeMap<u64, Known>,
    ids: BTreeMap<PastNode, u64>,
}

#[derive(Debug)]
struct Known {
    node: PastNode,
    /// Replies that brought it, less those that the kernel has given back.
    lookups: u64,
}

impl Node {
    /// The object, whenever.
    pub(super) fn object(&self) -> ObjectId {
        match self {
            Node::Live(object) => *object,
            Node::Past(node) => node.object,
        }
    }

    /// The inode number that programs see of an object that is or was in the same state.
    pub(super) fn ino_of(&self, object: ObjectId) -> INodeNo {
        match self {
            Node::Live(_) => inode(object),
            Node::Past(node) => node.with(object).ino(),
        }
    }

    /// The inode number that programs see.
    pub(super) fn ino(&self) -> INodeNo {
        self.ino_of(self.object())
    }

    /// A request that reads, as of the node's state.
    pub(super) fn request(&self, request: TreeRequest) -> TreeRequest {
        match self {
            Node::Live(_) => request,
            Node::Past(node) => TreeRequest::Past { at: node.entrance.at, request: Box::new(request) },
        }
    }
}

impl PastNode {
    fn new(directory: ObjectId, name: &[u8], at: Tid, object: ObjectId) -> PastNode {
        PastNode { object, entrance: Arc::new(Entrance { directory, name: name.into(), at }) }
    }

    /// Another object, reached through the same entrance.
    pub(super) fn with(&self, object: ObjectId) -> PastNode {
        PastNode { object, entrance: self.entrance.clone() }
    }

    /// The inode number that programs see: the top bit, and the object id mixed with a hash of the Tid. Within a state they differ as the object ids do; an object
    /// has the same one in two states once in 2^63 pairs of states, and never that of a live one. (Programs take what has one number for one file.)
    pub(super) fn ino(&self) -> INodeNo {
        INodeNo(PAST_BIT | (self.object.0 ^ mixed(self.entrance.at.0)))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): each bit of the result depends on all of `word`.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl PastNodes {
    /// What the kernel speaks of. Here it is decided what is live and what is past.
    pub(super) fn node(&self, ino: INodeNo) -> Node {
        if ino.0 & PAST_BIT == 0 {
            return Node::Live(object(ino));
        }
        match self.0.lock().nodes.get(&ino.0) {
            Some(known) => Node::Past(known.node.clone()),
            // Not one that the kernel has: a state before any volume, which answers ESTALE.
            None => Node::Past(PastNode::new(ObjectId(0), b"", Tid(0), ObjectId(0))),
        }
    }

    /// A reply that brings it is about to be written. Gives the node id.
    pub(super) fn looked_up(&self, node: &PastNode) -> INodeNo {
        let mut table = self.0.lock();
        if let Some(id) = table.ids.get(node).copied() {
            table.nodes.get_mut(&id).expect("who has an id is a node").lookups += 1;
            return INodeNo(id);
        }
        table.given += 1;
        let id = PAST_BIT | table.given;
        table.ids.insert(node.clone(), id);
        table.nodes.insert(id, Known { node: node.clone(), lookups: 1 });
        INodeNo(id)
    }

    /// If it is a node of the past: the kernel gives `lookups` of it back. False if it is not.
    pub(super) fn dropped(&self, ino: INodeNo, lookups: u64) -> bool {
        if ino.0 & PAST_BIT == 0 {
            return false;
        }
        let mut table = self.0.lock();
        if let Some(known) = table.nodes.get_mut(&ino.0) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0
                && let Some(known) = table.nodes.remove(&ino.0)
            {
                table.ids.remove(&known.node);
            }
        }
        true
    }

    /// The connection to the kernel has ended: it has nothing any more.
    pub(super) fn end(&self) {
        let mut table = self.0.lock();
        table.nodes.clear();
        table.ids.clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, at: u64, object: u64) -> PastNode {
        PastNode::new(ObjectId::ROOT, name.as_bytes(), Tid(at), ObjectId(object))
    }

    #[test]
    fn an_object_is_one_node_for_each_entrance() {
        let nodes = PastNodes::default();
        let first = nodes.looked_up(&node("d@@0x5", 5, 20));
        assert_eq!(nodes.looked_up(&node("d@@0x5", 5, 20)), first, "looked up again");
        assert_eq!(nodes.looked_up(&node("d@@0x5", 5, 99).with(ObjectId(20))), first, "by another name");
        let others = [node("d@@0x5", 5, 21), node("d@@snap", 5, 20), node("d@@0x5", 6, 20)];
        let others = others.map(|other| nodes.looked_up(&other));
        let all: std::collections::BTreeSet<_> = others.iter().chain([&first]).map(|ino| ino.0).collect();
        assert_eq!((all.len(), nodes.len()), (4, 4));
        match nodes.node(first) {
            Node::Past(found) => assert_eq!(found, node("d@@0x5", 5, 20)),
            Node::Live(object) => panic!("{object} is live"),
        }
    }

    #[test]
    fn a_node_is_there_until_the_kernel_has_given_every_look_up_back() {
        let nodes = PastNodes::default();
        let [id, ..] = [(); 3].map(|()| nodes.looked_up(&node("f@@0x5", 5, 20)));
        assert!(nodes.dropped(id, 2) && nodes.len() == 1);
        assert!(nodes.dropped(id, 1) && nodes.len() == 0);
        assert!(nodes.0.lock().ids.is_empty());
        assert!(nodes.dropped(id, 1), "nothing is left to give back");
        assert_ne!(nodes.looked_up(&node("f@@0x5", 5, 20)), id, "never used twice");
        assert!(!nodes.dropped(INodeNo(20), 1), "that is a live one");
        nodes.end();
        assert_eq!(nodes.len(), 0);
    }

    #[test]
    fn an_id_that_nobody_was_given_is_no_live_object() {
        let nodes = PastNodes::default();
        let id = INodeNo(PAST_BIT | 7);
        let request = TreeRequest::Statfs;
        let asked = TreeRequest::Past { at: Tid(0), request: Box::new(request.clone()) };
        assert_eq!(nodes.node(id).request(request), asked);
    }

    #[test]
    fn inode_numbers_differ_within_a_state_and_between_states() {
        let mut seen = std::collections::BTreeSet::new();
        // Commits of neighbouring nanoseconds, and objects of neighbouring numbers.
        for at in 0..300 {
            for object in 1..300 {
                let ino = node("f", 1_795_000_000_000_000_000 + at, object).ino();
                assert!(ino.0 & PAST_BIT != 0 && seen.insert(ino.0), "{at} {object}");
            }
        }
        assert_eq!(node("a@@0x5", 5, 20).ino(), node("b@@snap", 5, 20).ino(), "whatever the entrance");
    }
}
