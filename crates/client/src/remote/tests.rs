use super::*;
use crate::leases::Usable;
use crate::{Answer, Leased, Step, TreeRequest};
use gavel_fs::operation::SetAttr;
use gavel_lease::RangeSet;
use gavel_types::{Moment, Timestamp};
use gavel_wire::{Attr, Dirent, Firm, Kind, Outcome, Record};

const V: VolumeId = VolumeId(1);
const FILE: ObjectId = ObjectId(20);
const NOW: Moment = Moment(1_000_000_000);

/// A tree with one file, as a replica would show it.
struct Small(BTreeMap<Key, Version>);

impl View for Small {
    fn tid(&self) -> Tid {
        Tid(9)
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let within = |key: &Key| range.start.as_ref() <= key.as_bytes() && key.as_bytes() < range.end.as_ref();
        let rows = self.0.iter().filter(|(key, _)| within(key)).take(limit);
        Ok(rows.map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

fn attr(kind: Kind, mode: u16, nlink: u32, parent: ObjectId) -> Version {
    let time = Timestamp { secs: 1, nanos: 0 };
    let firm = Firm { kind, mode, uid: 0, gid: 0, rdev: 0, parent, birth: time, class: Default::default() };
    let attr = Attr { firm, nlink, size: 0, allocated: 0, atime: time, mtime: time, ctime: time };
    version(Record::Attr(attr))
}

fn version(record: Record) -> Version {
    Version { create: Tid(5), firm: Tid(5), record }
}

fn small() -> Small {
    let dirent = Record::Dirent(Dirent { object: FILE, kind: Kind::File });
    Small(BTreeMap::from([
        (Key::attr(V, ObjectId::ROOT), attr(Kind::Directory, 0o755, 2, ObjectId::ROOT)),
        (Key::dirent(V, ObjectId::ROOT, b"file"), version(dirent)),
        (Key::attr(V, FILE), attr(Kind::File, 0o644, 1, ObjectId::VOLUME)),
    ]))
}

fn run(request: TreeRequest) -> Run {
    Run::new(V, Caller::default(), request).unwrap()
}

fn lookup(name: &[u8]) -> TreeRequest {
    TreeRequest::Lookup { parent: ObjectId::ROOT, name: name.into() }
}

fn everything() -> Usable {
    let all: RangeSet = [KeyRange::volume(V)].into_iter().collect();
    Usable { reads: all.clone(), keeps: all, until: Moment(NOW.0 + 4_000_000_000), ..Usable::default() }
}

/// A question as a peer gets it, and its answer as the client does.
fn asked(question: &Question) -> Transcript {
    let question: Question = codec::decode("question", 1, 1 << 20, &codec::encode(1, question)).unwrap();
    let transcript = question.observe(&small()).unwrap();
    codec::decode("transcript", 1, 1 << 20, &codec::encode(1, &transcript)).unwrap()
}

#[test]
fn what_a_peer_has_looked_at_is_all_that_a_read_needs() {
    let requests = [
        lookup(b"file"),
        lookup(b"nothing"),
        TreeRequest::ReaddirPlus { object: ObjectId::ROOT, after: gavel_types::Cookie(0), limit: 100 },
        TreeRequest::Read { object: FILE, offset: 0, len: 100 },
        TreeRequest::Operation(Operation::Getattr { object: ObjectId(99) }),
    ];
    for request in requests {
        let transcript = asked(&run(request.clone()).question(Vec::new()));
        let over = run(request.clone()).step_leased(&transcript, &everything(), NOW);
        assert_eq!(over, run(request.clone()).step_leased(&small(), &everything(), NOW), "{request:?}");
        assert!(matches!(over, Leased::Step(_)), "{request:?}: {over:?}");
        assert_eq!(transcript.take_missed(), [], "{request:?}");
        let (mut one, mut other) = (run(request.clone()), run(request));
        assert_eq!(one.step_over(&transcript), Ok(other.step(&small())));
    }
}

#[test]
fn what_was_not_asked_for_is_named_and_the_run_is_as_it_was() {
    let mut run = run(lookup(b"file"));
    let missed = run.step_over(&Transcript::default()).unwrap_err();
    assert_eq!(missed, [Look::Get(Key::dirent(V, ObjectId::ROOT, b"file"))]);
    let only_that = asked(&Question { operation: None, ..run.question(missed) });
    assert!(matches!(run.step_over(&only_that), Ok(Step::Confirm(_))));
    run.confirmed();
    let before = format!("{run:?}");
    let missed = run.step_over(&only_that).unwrap_err();
    assert_eq!(missed, [Look::Get(Key::attr(V, FILE))]);
    assert_eq!(format!("{run:?}"), before);
    assert!(matches!(run.step_over(&asked(&run.question(missed))), Ok(Step::Done(Ok(_)))));
}

#[test]
fn the_answer_of_a_change_is_filled_in_from_a_state_that_has_it() {
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let mut run = run(TreeRequest::Operation(Operation::Setattr { object: FILE, set }));
    let step = run.step_over(&asked(&run.question(Vec::new()))).unwrap();
    assert!(matches!(step, Step::Commit { .. }), "{step:?}");
    run.outcome(Some(Outcome::Committed { tid: Tid(10) })).unwrap();
    // What it read before may be older than the commit.
    let missed = run.step_over(&Transcript::default()).unwrap_err();
    assert_eq!(missed, [Look::Get(Key::attr(V, FILE))]);
    let done = run.step_over(&asked(&run.question(missed))).unwrap();
    assert!(matches!(done, Step::Done(Ok(Answer { attr: Some(_), .. }))), "{done:?}");
}

#[test]
fn more_than_an_answer_can_hold_is_refused_in_words() {
    let mut tree = small();
    for at in 0..600u64 {
        let name = format!("user.{at:05}");
        let value = Record::Xattr(vec![7; 16 << 10].into());
        tree.0.insert(Key::xattr(V, FILE, name.as_bytes()), version(value));
    }
    let whole = Look::Scan(KeyRange::object(V, FILE), 1000);
    let question = Question { operation: None, ..run(lookup(b"file")).question(vec![whole]) };
    let error = question.observe(&tree).unwrap_err();
    assert!(error.to_string().contains("through a node"), "{error}");
}
