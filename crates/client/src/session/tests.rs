use super::*;
use crate::run::{Run, Step};
use crate::transaction::tests::{Base, V};
use crate::tree::TreeRequest;
use gavel_fs::{Caller, Operation};

const LIFE: u64 = 7;
const CONFIG: SessionConfig = SessionConfig { term_ns: 5_000_000_000, patience_ns: 20_000_000_000 };

fn at(ms: u64) -> Moment {
    Moment(1_000_000_000 + ms * 1_000_000)
}

fn news(change: impl FnOnce(&mut News)) -> News {
    let mut news = News {
        tid: Tid(1_000),
        index: LogIndex(10),
        outcomes: Vec::new(),
        opened: Vec::new(),
        ended: Vec::new(),
        orphaned: Vec::new(),
        leases: false,
        granted: Vec::new(),
        blobs: Default::default(),
    };
    change(&mut news);
    news
}

/// A session that holds a whole volume, and has shipped something that it answered.
fn shipped() -> Session {
    let mut session = Session::new(NodeId(1), LIFE, CONFIG, at(0));
    session.on_news(at(0), &news(|news| news.opened.push((SessionId(100), LIFE))));
    let held: RangeSet = [KeyRange::volume(VolumeId(1))].into_iter().collect();
    session.on_leases(at(0), held.clone(), held);
    let plan = Plan { mutations: Vec::new() };
    session.commit_behind(at(1), Batch { last: 3, plan, author: Author::user(0), stored_as_of: Tid(1) });
    assert!(
        session
            .take_effects(at(1))
            .iter()
            .any(|effect| matches!(effect, SessionEffect::Usable(usable) if !usable.reads.is_empty()))
    );
    session
}

fn opens(effects: &[SessionEffect]) -> Vec<Option<SessionId>> {
    let open = |effect: &SessionEffect| match effect {
        SessionEffect::Ship(Message::OpenSession { instead_of, .. }) => Some(*instead_of),
        _ => None,
    };
    effects.iter().filter_map(open).collect()
}

#[test]
fn a_session_that_its_own_commit_breaks_answers_nothing_more_and_is_followed_by_another() {
    let mut session = shipped();
    let seq =
        session.in_flight.iter().find(|wait| wait.owner == Owner::Behind(3)).map(|wait| wait.request.seq).unwrap();
    let before = session.in_flight.front().unwrap().request.seq.0;
    let mut outcomes: Vec<_> =
        (before..seq.0).map(|seq| (SessionId(100), Seq(seq), Outcome::Committed { tid: Tid(900) })).collect();
    outcomes.push((SessionId(100), seq, Outcome::Refused { refusal: Refusal::Collected }));
    session.on_news(at(2), &news(|news| news.outcomes = outcomes));
    let effects = session.take_effects(at(2));
    let usable = effects.iter().position(|effect| *effect == SessionEffect::Usable(Usable::default()));
    let lost = effects.iter().position(|effect| *effect == SessionEffect::Lost { cause: LostBecause::SessionEnded });
    assert!(usable.is_some() && usable < lost, "{effects:?}");
    session.on_tick(at(3));
    assert_eq!(
        opens(&session.take_effects(at(3))),
        [Some(SessionId(100))],
        "its leases go only when the quorum hears this"
    );
    // A question of before has found the broken one again.
    session.on_news(at(4), &news(|news| news.opened.push((SessionId(100), LIFE))));
    assert_eq!(session.id(), None);
    let next = |news: &mut News| (news.ended, news.opened) = (vec![SessionId(100)], vec![(SessionId(200), LIFE)]);
    session.on_news(at(5), &news(next));
    assert_eq!(session.id(), Some(SessionId(200)));
    session.check_invariants();
}

#[test]
fn an_operation_whose_bytes_were_collected_leaves_its_session_whole() {
    let mut session = shipped();
    let guard = Guard::Stable { range: KeyRange::volume(VolumeId(1)), at: Tid(1) };
    session.commit(at(2), 9, vec![guard], Plan { mutations: Vec::new() }, Author::user(0), Tid(1));
    session.take_effects(at(2));
    let outcomes = session.in_flight.iter().map(|wait| match wait.owner {
        Owner::Operation(_) => (SessionId(100), wait.request.seq, Outcome::Refused { refusal: Refusal::Collected }),
        _ => (SessionId(100), wait.request.seq, Outcome::Committed { tid: Tid(900) }),
    });
    let outcomes = outcomes.collect();
    session.on_news(at(3), &news(|news| news.outcomes = outcomes));
    let refused = SessionEffect::Outcome { token: 9, outcome: Some(Outcome::Refused { refusal: Refusal::Collected }) };
    assert!(session.take_effects(at(3)).contains(&refused));
    assert_eq!(session.id(), Some(SessionId(100)));
}

fn submitted(effects: &[SessionEffect]) -> Vec<Vec<u64>> {
    let submit = |effect: &SessionEffect| match effect {
        SessionEffect::Ship(message @ Message::Submit(requests)) => {
            let bytes = message.encode().len();
            assert!(bytes <= SUBMIT_BYTES_MAX + 64 || requests.len() == 1, "{bytes} bytes in one message");
            Some(requests.iter().map(|request| request.seq.0).collect())
        }
        _ => None,
    };
    effects.iter().filter_map(submit).collect()
}

/// Many large batches are pending when the leader does not answer: they fit into no message, and must not fill the link again and again.
#[test]
fn what_is_sent_and_sent_again_is_bounded_in_bytes() {
    let mut session = Session::new(NodeId(1), LIFE, CONFIG, at(0));
    session.on_news(at(0), &news(|news| news.opened.push((SessionId(100), LIFE))));
    let write = |last: u64| {
        let content = gavel_wire::Content::Inline(vec![7; 15_000].into());
        let append = gavel_wire::Mutation::Append { volume: VolumeId(1), object: ObjectId(9), len: 15_000, content };
        let plan = Plan { mutations: vec![append; 16] };
        Batch { last, plan, author: Author::user(0), stored_as_of: Tid(1) }
    };
    (1..=100).for_each(|last| session.commit_behind(at(1), write(last)));
    let first: Vec<u64> = submitted(&session.take_effects(at(1))).concat();
    assert!((10..=20).contains(&first.len()) && first.windows(2).all(|pair| pair[1] == pair[0] + 1), "{first:?}");
    assert!(submitted(&session.take_effects(at(2))).is_empty());
    // Nobody answers: the same ones, later and later.
    let mut again_at = Vec::new();
    for ms in (10..4_000).step_by(10) {
        session.on_tick(at(ms));
        let again = submitted(&session.take_effects(at(ms))).concat();
        if !again.is_empty() {
            assert_eq!(again, first);
            again_at.push(ms);
        }
    }
    assert!(again_at.len() == 3 && again_at[2] - again_at[1] >= 1_000, "{again_at:?}");
    // An outcome makes room for others.
    let outcome = |seq: u64| (SessionId(100), Seq(seq), Outcome::Committed { tid: Tid(900 + seq) });
    session.on_news(at(4_000), &news(|news| news.outcomes = first[..5].iter().map(|seq| outcome(*seq)).collect()));
    let next = submitted(&session.take_effects(at(4_000))).concat();
    assert_eq!(next.first().copied(), Some(first[first.len() - 1] + 1));
    assert!((3..=6).contains(&next.len()), "{next:?}");
    session.check_invariants();
}

#[test]
fn of_what_a_commit_makes_nothing_is_forgotten_before_it_is_shipped_for_the_first_time() {
    let parent = ObjectId::ROOT;
    let create =
        Operation::Create { parent, name: (*b"f").into(), mode: 0o600, umask: 0, exclusive: true, truncate: false };
    let base = Base::new();
    let mut run = Run::new(V, Caller::default(), TreeRequest::Operation(create)).unwrap();
    assert_eq!(run.step(&base), Step::NeedObjectId);
    run.fresh_id(ObjectId(500));
    let mut session = shipped();
    for (token, forgets) in [(1, None), (2, Some(ObjectId(500)))] {
        let Step::Commit { plan, made, .. } = run.step(&base) else { panic!("it is ready") };
        made.into_iter().for_each(|object| session.will_make(object));
        let own = |range: &KeyRange| range.overlaps(&KeyRange::object(V, ObjectId(500)));
        session.write(at(2), token, &gavel_lease::written(&plan).into_iter().filter(own).collect::<Vec<_>>());
        let forgotten = session.take_effects(at(2)).into_iter().find_map(|effect| match effect {
            SessionEffect::Forget(forget) => gavel_lease::range::whole_objects(&forget.ranges[0]),
            _ => None,
        });
        assert_eq!(forgotten.map(|(_, first, _)| first), forgets, "the second time, it may be there");
        run.outcome(None).unwrap();
    }
}
