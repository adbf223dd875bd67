//! A round's verdict: which calls must have happened and which may have, what the search says of each object, what the last look
//! from all mounts says; and a file for each object that is wrong.

use super::model::{Call, Journal, Names, file};
use super::record::{Ask, BLOB_BYTES, BLOCK_BYTES, Kind, Record, Said};
use super::search::{Interval, Model, STATES_MAX, Verdict, check};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

/// An object of a round.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its path below the round's directory.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// What its block says in the beginning, if it is a file of blocks.
    pub first: u32,
}

/// A time in which a node may have lost what it had acknowledged and not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The node.
    pub node: u64,
    /// Before it began.
    pub from: u64,
    /// When the node's next session had begun for certain.
    pub till: u64,
    /// Did its daemon die? Then what is lost is a suffix. (A node that lives offers what it still has, and what collides is lost.)
    pub killed: bool,
}

/// All that is known of a round.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What it was: seed, number, fault.
    pub title: String,
    /// The objects; records name them by their place.
    pub objects: Vec<Object>,
    /// All calls, in any order.
    pub records: Vec<Record>,
    /// The faults.
    pub faults: Vec<Fault>,
    /// When the last look began: no change was under way any more.
    pub last: u64,
}

/// How a call counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// It happened between its call and its return.
    Must,
    /// It happened at some time after its call, or never.
    May,
    /// It says nothing.
    Nothing,
}

/// Something that is wrong with an object.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which object.
    pub object: usize,
    /// What is wrong.
    pub what: String,
    /// Records that show it, by their place in the recording.
    pub at: Vec<usize>,
}

/// The call of the last sync of this node that had succeeded before the fault: what had returned by then is durable. 0 if there is none.
fn cutoff(records: &[Record], fault: &Fault) -> u64 {
    let synced = |record: &&Record| {
        record.node == fault.node
            && record.ask == Ask::Sync
            && record.said == Said::Done
            && record.returned <= fault.from
    };
    records.iter().filter(synced).map(|record| record.called).max().unwrap_or(0)
}

/// Is it among what the fault may have undone? `cutoff` is the fault's.
fn is_exposed(record: &Record, fault: &Fault, cutoff: u64) -> bool {
    record.node == fault.node && record.returned > cutoff && record.called <= fault.till
}

/// May this answer of a node that lost something have come from what it lost? Not if it shows others' work: under a lease, nobody else can
/// have changed what the node knows. `own`: its changes of that object, with an answer that it may lose, called before this answer.
fn is_doubtful(record: &Record, own: &[&Record]) -> bool {
    match &record.said {
        Said::Block(number, BLOCK_BYTES | BLOB_BYTES)
            if !own.iter().any(|own| matches!(own.ask, Ask::Truncate(..BLOCK_BYTES))) =>
        {
            own.iter().any(|own| own.ask == Ask::Write(*number))
        }
        Said::Records(all) => own.iter().any(|own| matches!(own.ask, Ask::Append(number) if all.contains(&number))),
        _ => !own.is_empty(),
    }
}

/// How all calls count.
pub fn weigh(recording: &Recording) -> Vec<Weight> {
    let records = &recording.records;
    let faults: Vec<(&Fault, u64)> = recording.faults.iter().map(|fault| (fault, cutoff(records, fault))).collect();
    let exposed = |record: &Record| faults.iter().any(|(fault, cutoff)| is_exposed(record, fault, *cutoff));
    let may_be_lost = |record: &&Record| {
        record.ask.changes() && matches!(record.said, Said::Done | Said::Unknown(_)) && exposed(record)
    };
    let all_lost: Vec<&Record> = records.iter().filter(may_be_lost).collect();
    let doubtful = |record: &Record| {
        let is_own =
            |own: &&Record| own.node == record.node && own.object == record.object && own.called < record.returned;
        is_doubtful(record, &all_lost.iter().copied().filter(is_own).collect::<Vec<_>>())
    };
    let weight = |record: &Record| match &record.said {
        Said::Odd(_) => Weight::Must,
        Said::Unknown(_) if record.ask.changes() => Weight::May,
        Said::Refused(_) | Said::Unknown(_) => Weight::Nothing,
        _ if record.ask == Ask::Sync => Weight::Nothing,
        Said::Done if exposed(record) => Weight::May,
        _ if exposed(record) && doubtful(record) => Weight::Nothing,
        _ => Weight::Must,
    };
    records.iter().map(weight).collect()
}

/// One object's history, and where its calls are in the recording.
fn history(recording: &Recording, weights: &[Weight], object: usize) -> (Vec<Interval<Call>>, Vec<usize>) {
    let counts = |at: &usize| recording.records[*at].object == object && weights[*at] != Weight::Nothing;
    let places: Vec<usize> = (0..recording.records.len()).filter(counts).collect();
    let interval = |at: &usize| {
        let record = &recording.records[*at];
        let must = weights[*at] == Weight::Must;
        let said = if must { record.said.clone() } else { Said::Done };
        Interval { called: record.called, returned: must.then_some(record.returned), call: (record.ask, said) }
    };
    (places.iter().map(interval).collect(), places)
}

/// A write whose number nobody has read need not be looked at if it may just as well not have happened: whatever order there is with it, there
/// is one without it.
fn without_unseen(history: (Vec<Interval<Call>>, Vec<usize>)) -> (Vec<Interval<Call>>, Vec<usize>) {
    let read =
        |interval: &Interval<Call>| if let (_, Said::Block(number, _)) = interval.call { Some(number) } else { None };
    let seen: HashSet<u32> = history.0.iter().filter_map(read).collect();
    let needed = |interval: &Interval<Call>| !matches!(interval.call.0, Ask::Write(number) if interval.returned.is_none() && !seen.contains(&number));
    history.0.into_iter().zip(history.1).filter(|(interval, _)| needed(interval)).unzip()
}

fn searched<M: Model<Call = Call>>(
    model: &M,
    object: usize,
    history: &[Interval<Call>],
    places: &[usize],
) -> Option<Finding> {
    match check(model, history, STATES_MAX) {
        Verdict::Linearizable => None,
        Verdict::Undecided => {
            let what =
                format!("undecided after {STATES_MAX} states: the test's own set-up makes too much happen at once");
            Some(Finding { object, what, at: Vec::new() })
        }
        Verdict::Impossible { placed, state, stuck } => {
            let what = format!(
                "no order explains it: after {placed} calls at most and in state {state}, none of the marked ones fits"
            );
            Some(Finding { object, what, at: stuck.into_iter().map(|number| places[number]).collect() })
        }
    }
}

fn explained(recording: &Recording, weights: &[Weight], number: usize) -> Option<Finding> {
    let object = &recording.objects[number];
    let (history, places) = history(recording, weights, number);
    match object.kind {
        Kind::Journal => {
            searched(&Journal::of(history.iter().map(|interval| &interval.call)), number, &history, &places)
        }
        Kind::Names => searched(&Names, number, &history, &places),
        // A cut has no number of its own, so there it matters whether a write behind it happened.
        Kind::Whole => searched(&file(object.kind, object.first), number, &history, &places),
        Kind::Register | Kind::Blob => {
            let (history, places) = without_unseen((history, places));
            searched(&file(object.kind, object.first), number, &history, &places)
        }
    }
}

/// The last looks at an object, from all mounts, must say the same.
fn disagreement(recording: &Recording, object: usize) -> Option<Finding> {
    let is_last = |record: &Record| {
        record.object == object
            && record.called >= recording.last
            && !matches!(record.said, Said::Refused(_) | Said::Unknown(_))
    };
    let all: Vec<usize> = (0..recording.records.len()).filter(|at| is_last(&recording.records[*at])).collect();
    let (records, what) = (&recording.records, "the last looks do not agree".to_owned());
    let differs =
        |one: &usize, two: &usize| records[*one].ask == records[*two].ask && records[*one].said != records[*two].said;
    let other = |one: &usize| all.iter().find(|two| differs(one, two)).copied();
    all.iter().find_map(|one| Some(Finding { object, what: what.clone(), at: vec![*one, other(one)?] }))
}

/// Of what a dead node had acknowledged, an append is there and an earlier one is not, to whatever object.
pub fn lost_in_the_middle(recording: &Recording) -> Vec<Finding> {
    let records = &recording.records;
    let shown = |record: &Record| match &record.said {
        Said::Records(all) if record.called >= recording.last => {
            all.iter().map(|number| (record.object, *number)).collect()
        }
        _ => Vec::new(),
    };
    let there: HashSet<(usize, u32)> = records.iter().flat_map(shown).collect();
    let mut findings = Vec::new();
    for fault in recording.faults.iter().filter(|fault| fault.killed) {
        let cutoff = cutoff(records, fault);
        // Of one life: another one's last moments have nothing to do with it.
        let earlier = recording.faults.iter().filter(|other| other.node == fault.node && other.from < fault.from);
        let born = earlier.map(|other| other.till).max().unwrap_or(0);
        let appended = |at: &usize| {
            let record = &records[*at];
            let exposed = is_exposed(record, fault, cutoff) && record.called >= born && record.said == Said::Done;
            match record.ask {
                Ask::Append(number) if exposed => Some((*at, there.contains(&(record.object, number)))),
                _ => None,
            }
        };
        let appends: Vec<(usize, bool)> = (0..records.len()).filter_map(|at| appended(&at)).collect();
        let lost: Vec<usize> = appends.iter().filter(|(_, there)| !there).map(|(at, _)| *at).collect();
        for (kept, _) in appends.iter().filter(|(_, there)| *there) {
            if let Some(lost) = lost.iter().find(|lost| records[**lost].returned < records[*kept].called) {
                let what =
                    format!("node {} died and lost the first of the marked appends, but not the second", fault.node);
                findings.push(Finding { object: records[*lost].object, what, at: vec![*lost, *kept] });
                break;
            }
        }
    }
    findings
}

/// What is wrong with a round.
pub fn judge(recording: &Recording) -> Vec<Finding> {
    let weights = weigh(recording);
    let objects = 0..recording.objects.len();
    let mut findings: Vec<Finding> =
        objects.clone().filter_map(|number| explained(recording, &weights, number)).collect();
    findings.extend(objects.filter_map(|number| disagreement(recording, number)));
    findings.extend(lost_in_the_middle(recording));
    findings
}

/// What there is to know of an object: what is wrong, and all calls in the order of time.
pub fn told(recording: &Recording, finding: &Finding) -> String {
    let object = &recording.objects[finding.object];
    let weights = weigh(recording);
    let mut text =
        format!("{}\n{} ({:?}, in the beginning {})\n", recording.title, object.path, object.kind, object.first);
    let _ = writeln!(text, "{}\n", finding.what);
    for fault in &recording.faults {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (from, till, cutoff) = (ms(fault.from), ms(fault.till), ms(cutoff(&recording.records, fault)));
        let what = if fault.killed { "died" } else { "lost its session" };
        let _ = writeln!(
            text,
            "node {} {what} between {from:.4} and {till:.4}; durable: what had returned by {cutoff:.4}",
            fault.node
        );
    }
    let _ = writeln!(
        text,
        "\nLines: called and returned in ms, who, what. >> marks what shows it, 'may' what may have happened or not, '-' what says nothing.\n"
    );
    let mut all: Vec<usize> = (0..weights.len()).collect();
    all.retain(|at| recording.records[*at].object == finding.object || finding.at.contains(at));
    all.sort_by_key(|at| recording.records[*at].called);
    for at in all {
        let mark = if finding.at.contains(&at) { ">>" } else { "" };
        let weight = match weights[at] {
            Weight::Must => "",
            Weight::May => "may",
            Weight::Nothing => "-",
        };
        let elsewhere = recording.records[at].object != finding.object;
        let path = if elsewhere { &recording.objects[recording.records[at].object].path } else { "" };
        let _ = writeln!(text, "{mark:2} {weight:3} {} {path}", recording.records[at]);
    }
    text
}

/// Judges a round, and writes what is wrong into the system's temporary directory.
///
/// # Errors
/// If something is wrong: what, and in which files it is told.
pub fn pass(recording: &Recording, name: &str) -> Result<()> {
    let findings = judge(recording);
    if findings.is_empty() {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for (number, finding) in findings.iter().enumerate() {
        let path: PathBuf = std::env::temp_dir().join(format!("gavel-history-{name}-{number}.txt"));
        std::fs::write(&path, told(recording, finding)).with_context(|| path.display().to_string())?;
        let object = &recording.objects[finding.object];
        wrong.push(format!("{} ({:?}): {}; see {}", object.path, object.kind, finding.what, path.display()));
    }
    bail!("{}: {} findings\n{}", recording.title, wrong.len(), wrong.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    const REGISTER: usize = 0;
    const JOURNAL: usize = 1;
    const OTHER: usize = 2;
    const LAST: u64 = 100;

    fn recording(records: Vec<Record>, faults: Vec<Fault>) -> Recording {
        let object = |(path, kind): (&str, Kind)| Object { path: path.into(), kind, first: 1 };
        let objects = [("register", Kind::Register), ("journal", Kind::Journal), ("other", Kind::Journal)];
        Recording { title: "test".into(), objects: objects.map(object).into(), records, faults, last: LAST }
    }

    fn call(node: u64, called: u64, object: usize, ask: Ask, said: Said) -> Record {
        Record { object, worker: node as usize, node, called, returned: called + 1, ask, said }
    }

    fn write(node: u64, called: u64, number: u32) -> Record {
        call(node, called, REGISTER, Ask::Write(number), Said::Done)
    }

    fn read(node: u64, called: u64, number: u32) -> Record {
        call(node, called, REGISTER, Ask::Read, Said::Block(number, 4_096))
    }

    fn sync(node: u64, called: u64) -> Record {
        call(node, called, OTHER, Ask::Sync, Said::Done)
    }

    fn append(called: u64, object: usize, number: u32) -> Record {
        call(1, called, object, Ask::Append(number), Said::Done)
    }

    fn records(called: u64, object: usize, all: &[u32]) -> Record {
        call(2, called, object, Ask::ReadAll, Said::Records(all.to_vec()))
    }

    fn death(from: u64) -> Fault {
        Fault { node: 1, from, till: from + 10, killed: true }
    }

    fn is_fine(records: Vec<Record>, faults: Vec<Fault>) -> bool {
        judge(&recording(records, faults)).is_empty()
    }

    #[test]
    fn without_a_fault_everything_counts() {
        assert!(is_fine(vec![write(1, 0, 2), read(2, 2, 2)], vec![]));
        assert!(!is_fine(vec![write(1, 0, 2), read(2, 2, 1)], vec![]));
        assert!(!is_fine(vec![write(1, 0, 2), read(2, 50, 1)], vec![Fault { node: 2, ..death(20) }]));
    }

    #[test]
    fn what_was_not_synced_may_be_lost() {
        assert!(is_fine(vec![write(1, 0, 2), read(1, 2, 2), read(2, 50, 1), read(1, 60, 1)], vec![death(20)]));
        assert!(is_fine(vec![write(1, 0, 2), read(1, 2, 2), read(2, 50, 2), read(1, 60, 2)], vec![death(20)]));
        // A sync that had been called before it returned says nothing of it, nor does one that failed.
        assert!(is_fine(
            vec![write(1, 5, 2), Record { called: 4, returned: 9, ..sync(1, 4) }, read(2, 50, 1)],
            vec![death(20)]
        ));
        let failed = Record { said: Said::Unknown(Errno::IO), ..sync(1, 7) };
        assert!(is_fine(vec![write(1, 5, 2), failed, read(2, 50, 1)], vec![death(20)]));
    }

    #[test]
    fn what_was_synced_or_seen_is_there() {
        assert!(!is_fine(vec![write(1, 0, 2), sync(1, 7), read(2, 50, 1)], vec![death(20)]));
        // Another node's sync is no help.
        assert!(is_fine(vec![write(1, 0, 2), sync(2, 7), read(2, 50, 1)], vec![death(20)]));
        assert!(!is_fine(vec![write(1, 0, 2), read(3, 10, 2), read(2, 50, 1)], vec![death(20)]));
        // Lost for good is lost for good.
        assert!(!is_fine(vec![write(1, 0, 2), read(2, 50, 2), read(2, 60, 1)], vec![death(20)]));
        assert!(!is_fine(vec![write(1, 40, 2), read(2, 50, 1)], vec![death(20)]));
    }

    #[test]
    fn what_a_node_read_before_it_lost_something() {
        let stopped = Fault { killed: false, ..death(20) };
        // Others' work, while it was stopped: it is stale.
        assert!(!is_fine(vec![write(2, 21, 2), read(1, 25, 1)], vec![stopped]));
        assert!(!is_fine(vec![read(1, 0, 7)], vec![stopped]));
        assert!(!is_fine(vec![append(0, OTHER, 9), write(2, 21, 2), read(1, 25, 1)], vec![stopped]));
        // Its own work, which was lost, and what came of it.
        let own = |said| call(1, 7, JOURNAL, Ask::Length, said);
        assert!(is_fine(vec![append(5, JOURNAL, 9), own(Said::Bytes(16)), records(LAST, JOURNAL, &[])], vec![stopped]));
        assert!(is_fine(vec![append(5, JOURNAL, 9), own(Said::Bytes(48)), records(LAST, JOURNAL, &[])], vec![stopped]));
        assert!(!is_fine(vec![own(Said::Bytes(16)), records(LAST, JOURNAL, &[])], vec![stopped]));
        let seen = Record { node: 1, ..records(7, JOURNAL, &[9]) };
        assert!(is_fine(vec![append(5, JOURNAL, 9), seen.clone(), records(LAST, JOURNAL, &[])], vec![stopped]));
        assert!(!is_fine(vec![append(5, JOURNAL, 8), seen, records(LAST, JOURNAL, &[])], vec![stopped]));
    }

    #[test]
    fn refused_never_happens_and_unknown_may() {
        let failed = |errno, said: fn(Errno) -> Said| Record { said: said(errno), ..write(1, 0, 2) };
        assert!(is_fine(vec![failed(Errno::TIMEDOUT, Said::Refused), read(2, 2, 1)], vec![]));
        assert!(!is_fine(vec![failed(Errno::TIMEDOUT, Said::Refused), read(2, 2, 2)], vec![]));
        assert!(is_fine(vec![failed(Errno::IO, Said::Unknown), read(2, 2, 1), read(2, 4, 2)], vec![]));
        assert!(!is_fine(vec![failed(Errno::IO, Said::Unknown), read(2, 2, 2), read(2, 4, 1)], vec![]));
    }

    #[test]
    fn a_death_loses_a_suffix() {
        let looks = |one: &[u32], other: &[u32]| vec![records(LAST, JOURNAL, one), records(LAST, OTHER, other)];
        let appends = vec![append(0, JOURNAL, 5), append(2, OTHER, 6), append(4, JOURNAL, 7)];
        let with = |looks: Vec<Record>| [appends.clone(), looks].concat();
        for (one, other) in [(&[5, 7][..], &[6][..]), (&[5], &[6]), (&[5], &[]), (&[], &[])] {
            assert!(is_fine(with(looks(one, other)), vec![death(20)]), "{one:?} {other:?}");
        }
        for (one, other) in [(&[5, 7][..], &[][..]), (&[], &[6]), (&[7], &[6])] {
            assert!(!is_fine(with(looks(one, other)), vec![death(20)]), "{one:?} {other:?}");
        }
        // A node that lives may lose single ones by collisions.
        assert!(is_fine(with(looks(&[7], &[6])), vec![Fault { killed: false, ..death(20) }]));
    }

    #[test]
    fn the_last_looks_agree() {
        let maybe = Record { said: Said::Unknown(Errno::IO), ..write(1, 0, 2) };
        assert!(is_fine(vec![maybe.clone(), read(2, LAST, 1), read(3, LAST + 2, 1)], vec![]));
        assert!(!is_fine(vec![maybe, read(2, LAST, 1), read(3, LAST + 2, 2)], vec![]));
    }

    #[test]
    fn a_finding_is_told() {
        let recording = recording(vec![write(1, 0, 2), read(2, 2, 1)], vec![death(20)]);
        let recording = Recording { faults: vec![Fault { node: 3, ..recording.faults[0] }], ..recording };
        let findings = judge(&recording);
        assert_eq!((findings.len(), findings[0].at.clone()), (1, vec![1]), "{findings:?}");
        let text = told(&recording, &findings[0]);
        assert!(text.contains("register") && text.contains("node 3 died") && text.contains(">>"), "{text}");
        let error = pass(&recording, "unit-test").expect_err("it is wrong").to_string();
        let path = std::env::temp_dir().join("gavel-history-unit-test-0.txt");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), text);
        std::fs::remove_file(path).expect("it was there");
    }
}
