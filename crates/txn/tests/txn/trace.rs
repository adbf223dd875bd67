//! The lives of a request, a session and an orphan, as readable text in `golden/`.
//!
//! `GAVEL_UPDATE_SNAPSHOTS=1` writes the texts anew. Sessions are numbered in the order in which they were opened,
//! Tids count microseconds from the first one; `.1` is the second item of an entry.

use super::world::*;
use gavel_types::{Key, KeyRange, NodeId, Seq, SessionId, Tid};
use gavel_wire::{
    AttrDelta, Change, Content, Guard, Item, Mutation, Outcome, Record, Refusal, Request, RequestBody, Version,
};
use std::fmt::Write;

struct Trace {
    world: World,
    sessions: Vec<SessionId>,
    text: String,
}

impl Trace {
    fn new() -> Trace {
        let world = World::new();
        let sessions = vec![world.session];
        Trace { world, sessions, text: String::new() }
    }

    fn session(&self, id: SessionId) -> String {
        self.sessions.iter().position(|known| *known == id).map_or("S?".into(), |at| format!("S{}", at + 1))
    }

    fn tid(tid: Tid) -> String {
        let (micros, item) = ((tid.0 - DAWN.0) / 1000, (tid.0 - DAWN.0) % 1000);
        if item == 0 { format!("t{micros}") } else { format!("t{micros}.{item}") }
    }

    fn entry(&mut self, story: &str, items: Vec<Item>) {
        writeln!(self.text, "{story}").unwrap();
        items.iter().for_each(|item| writeln!(self.text, "    > {}", self.asked(item)).unwrap());
        let applied = self.world.entry(items);
        for (session, node, incarnation) in applied.opened {
            if !self.sessions.contains(&session) {
                self.sessions.push(session);
            }
            writeln!(self.text, "    {} is open for node {node}, life {incarnation}", self.session(session)).unwrap();
        }
        for (session, seq, outcome) in applied.outcomes {
            writeln!(self.text, "    {} #{seq} {}", self.session(session), Trace::outcome(&outcome)).unwrap();
        }
        for session in applied.ended {
            writeln!(self.text, "    {} has ended", self.session(session)).unwrap();
        }
        applied.changes.iter().for_each(|change| writeln!(self.text, "    {}", self.change(change)).unwrap());
        for (_, object) in applied.orphaned {
            writeln!(self.text, "    everybody is told that {object} lost its last name").unwrap();
        }
        for (_, object) in applied.to_reap {
            writeln!(self.text, "    the leader is told to go on reaping {object}").unwrap();
        }
    }

    fn asked(&self, item: &Item) -> String {
        match item {
            Item::Request(Request { session, seq, seen, body }) => {
                let body = match body {
                    RequestBody::Commit { guards, plan, .. } => {
                        format!("commit, {} guards, {} mutations", guards.len(), plan.mutations.len())
                    }
                    RequestBody::AllocateObjects => "allocate objects".into(),
                    RequestBody::Release { orphans } => {
                        format!("release {:?}", orphans.iter().map(|(_, object)| object.0).collect::<Vec<_>>())
                    }
                    RequestBody::Lease { wants } => format!("lease {wants:?}"),
                    RequestBody::Yield { ranges, .. } => format!("yield {ranges:?}"),
                    RequestBody::Downgrade { ranges, .. } => format!("downgrade {ranges:?}"),
                    locks => format!("{locks:?}"),
                };
                format!("{} #{seq} (seen below #{seen}): {body}", self.session(*session))
            }
            Item::SessionOpen { node, incarnation, .. } => {
                format!("open a session for node {node}, life {incarnation}")
            }
            Item::SessionExpire { session } => format!("expire {}", self.session(*session)),
            Item::Reap { object, .. } => format!("reap {object}"),
            other => format!("{other:?}"),
        }
    }

    fn outcome(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Committed { tid } => format!("is committed at {}", Trace::tid(*tid)),
            Outcome::Allocated { first, count } => format!("is given objects {first} and on, {count}"),
            Outcome::Waits => "waits".into(),
            Outcome::Refused { refusal: Refusal::Leased } => "is refused: leased to another".into(),
            Outcome::Refused { refusal: Refusal::BadPlan } => "is refused: bad plan".into(),
            Outcome::Refused { refusal: Refusal::Conflict { guard } } => format!("is refused: guard {guard} is broken"),
            Outcome::Refused { refusal } => format!("is refused: {refusal:?}"),
        }
    }

    fn change(&self, Change { tid, key, old, new }: &Change) -> String {
        let shown = |version: &Option<Version>| version.as_ref().map_or("nothing".into(), |v| self.version(v));
        format!("{} {key:?}: {} -> {}", Trace::tid(*tid), shown(old), shown(new))
    }

    fn version(&self, version: &Version) -> String {
        let record = match &version.record {
            Record::Attr(attr) => format!("{} links, {} of {} bytes", attr.nlink, attr.allocated, attr.size),
            Record::Dirent(dirent) => format!("names {}", dirent.object),
            Record::Extent(extent) => format!("{} bytes {}", extent.len, text(&extent.content)),
            Record::Xattr(value) | Record::Target(value) => value.escape_ascii().to_string(),
            Record::Orphan(orphan) => {
                let holders = orphan.holders.iter().map(|holder| self.session(*holder)).collect::<Vec<_>>();
                format!("held by [{}]", holders.join(" "))
            }
            Record::Gone => "nothing, though it would be inherited".into(),
            Record::Boundary(boundary) => format!("as of {} of its source", boundary.source),
            Record::Commit(committed) => format!("by user {} of node {}", committed.uid, committed.node),
        };
        let firm =
            if version.firm == version.create { String::new() } else { format!(", firm {}", Trace::tid(version.firm)) };
        format!("({record}; {}{firm})", Trace::tid(version.create))
    }

    #[track_caller]
    fn compare(&self, name: &str) {
        let path = format!("{}/tests/txn/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("GAVEL_UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &self.text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(self.text, golden, "{name} differs; GAVEL_UPDATE_SNAPSHOTS=1 writes it anew");
    }
}

fn request(session: SessionId, seq: u64, seen: u64, body: RequestBody) -> Item {
    Item::Request(Request { session, seq: Seq(seq), seen: Seq(seen), body })
}

#[test]
fn the_life_of_a_request() {
    let mut trace = Trace::new();
    trace.entry(
        "another node comes",
        vec![Item::SessionOpen { node: NodeId(2), incarnation: 1, term_ms: 5_000, instead_of: None }],
    );
    let (one, two) = (trace.sessions[0], trace.sessions[1]);
    let read = trace.world.state.tid;
    let free = || Guard::Empty { range: KeyRange::one(&Key::dirent(V, ROOT, b"name")) };
    let directory = || Guard::Firm { key: Key::attr(V, ROOT), at: read };
    let one_more = AttrDelta { size: 1, ..Default::default() };
    let create = |name: &str, object| {
        commit(vec![free(), directory()], vec![put_name(ROOT, name, object), adjust(ROOT, one_more)])
    };
    let first = request(one, 2, 2, create("name", FILE));
    trace.entry(
        "both make a name, of the same view; the first in the log wins",
        vec![first.clone(), request(two, 1, 1, create("name", OTHER))],
    );
    trace.entry("the first is sent again: nothing happens", vec![first]);
    let other = commit(vec![directory()], vec![put_name(ROOT, "other", OTHER), adjust(ROOT, one_more)]);
    trace.entry("a number is missing: not taken", vec![request(two, 3, 2, other.clone())]);
    trace.entry(
        "another name of the same view, the directory's counters having changed",
        vec![request(two, 2, 2, other)],
    );
    let overlap = commit(vec![], vec![put_text(FILE, 0, "abc"), put_text(FILE, 1, "d")]);
    trace.entry("a plan that breaks a rule has its outcome, too", vec![request(two, 3, 3, overlap)]);
    trace.entry("a block of object ids", vec![request(two, 4, 4, RequestBody::AllocateObjects)]);
    trace.compare("request.txt");
}

#[test]
fn the_life_of_a_session() {
    let mut trace = Trace::new();
    let open = |incarnation| Item::SessionOpen { node: NodeId(2), incarnation, term_ms: 5_000, instead_of: None };
    let write = |value: &[u8]| commit(vec![], vec![put_xattr(FILE, "user.a", value)]);
    trace.entry("a node comes", vec![open(7)]);
    trace.entry("its question was sent twice", vec![open(7)]);
    let two = trace.sessions[1];
    trace.entry("it writes", vec![request(two, 1, 1, write(b"1"))]);
    let expire = Item::SessionExpire { session: two };
    trace.entry(
        "it is not heard of; what is behind its end in the log is too late",
        vec![request(two, 2, 2, write(b"2")), expire.clone(), request(two, 3, 3, write(b"3"))],
    );
    trace.entry("it ends once", vec![expire]);
    trace.entry("it comes back", vec![open(7)]);
    trace.entry("it is restarted", vec![open(8)]);
    trace.compare("session.txt");
}

#[test]
fn the_life_of_an_orphan() {
    let mut trace = Trace::new();
    trace.entry(
        "two more nodes come",
        [2, 3]
            .map(|node| Item::SessionOpen { node: NodeId(node), incarnation: 1, term_ms: 5_000, instead_of: None })
            .into(),
    );
    let (one, two, three) = (trace.sessions[0], trace.sessions[1], trace.sessions[2]);
    let extents = (0..2).map(|i| put_extent(FILE, i * 10, 5, Content::Zeros));
    trace.entry("a file has bytes", vec![request(one, 2, 2, commit(vec![], extents.collect()))]);
    trace.entry("it loses its last name", vec![request(one, 3, 3, commit(vec![], unlink(FILE)))]);
    let release = |orphans: &[gavel_types::ObjectId]| RequestBody::Release {
        orphans: orphans.iter().map(|object| (V, *object)).collect(),
    };
    trace.entry("one holder closes it, and names it twice", vec![request(one, 4, 4, release(&[FILE, OTHER, FILE]))]);
    trace.entry("reaping has to wait", vec![Item::Reap { volume: V, object: FILE }]);
    let append = commit(vec![], vec![put_text(FILE, 20, "abc")]);
    trace.entry("who holds it writes on", vec![request(two, 1, 1, append)]);
    trace.entry("one holder dies", vec![Item::SessionExpire { session: three }]);
    trace.entry("the last one closes it", vec![request(two, 2, 2, release(&[FILE]))]);
    trace.entry("nothing is left to reap", vec![Item::Reap { volume: V, object: FILE }]);
    let delete = vec![Mutation::Delete { key: Key::target(V, FILE) }, carve(FILE, 0, 100)];
    trace.entry("a late plan finds nothing", vec![request(two, 3, 3, commit(vec![], delete))]);
    trace.compare("orphan.txt");
}
