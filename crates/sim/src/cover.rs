//! Coverage marks: rare situations that a run has been through. A mark that no seed hits is reported: what it stands
//! for was not tested.

use std::collections::BTreeMap;

/// Every mark, and what it stands for.
pub const MARKS: &[(&str, &str)] = &[
    ("leader_changed", "a second leader was elected"),
    ("not_leader", "a question was asked of a node that does not lead"),
    ("submit_gap", "a leader could not take a session's requests in their order"),
    ("request_repeated", "a request is in the log twice; it was applied once"),
    ("request_of_ended_session", "a request is in the log behind the end of its session"),
    ("session_expired", "the quorum ended a session that it had not heard of"),
    ("session_replaced", "a new life of a node ended the session of the one before"),
    ("lost_with_session", "a session ended with requests in flight; they were run again"),
    ("outcome_unknown", "a session ended while its replica was catching up; the outcome was reported unknown"),
    ("no_quorum", "an operation was refused because no quorum was heard of"),
    ("conflict", "a guard did not hold; the operation was run again"),
    ("leased_read", "a read was answered under leases, with no message"),
    ("answered_behind", "a change was answered before it was committed"),
    ("landed_together", "several changes became one commit"),
    ("pending_lost", "a session ended, or a node died, with accepted changes that were not committed"),
    ("offered_again", "plans that a session had lost were offered again by the next one"),
    ("offer_committed", "a plan that was offered again was committed"),
    ("offer_conflict", "a plan that was offered again could not be committed: it is kept as a conflict"),
    ("downgraded", "an exclusive lease became a shared one"),
    ("kept_answer", "a kernel gave an answer that it had kept"),
    ("kept_name", "a kernel kept a name, and nothing of what it leads to"),
    ("recalled", "a lease was recalled, and the kernel told to forget"),
    ("forgot_for_own_write", "a kernel was told to forget what its own node was about to write"),
    ("refused_for_a_lease", "a lease was granted while a commit was on its way; the operation was run again"),
    ("catch_up_began", "a replica was too far behind for the log"),
    ("catch_up_ended", "a replica has caught up by a change scan"),
    ("catch_up_in_parts", "a change scan took several messages"),
    ("catch_up_sealed", "a cut was sealed in the middle of a catch-up"),
    ("catch_up_crashed", "a node crashed while it was catching up"),
    ("catch_up_resumed", "a node started with records that were between two states"),
    ("records_wiped", "a node had to make its records anew"),
    ("source_lost", "a node was gone for good while another copied from it"),
    ("scan_refused", "a peer could not answer a change scan"),
    ("waited_for_catch_up", "an operation had to wait until its replica had caught up"),
    ("clock_far", "a leader's clock was far from the others'"),
    ("leadership_bounced", "leadership changed ten times and more in one world"),
    ("clock_unknown", "a leader had not heard enough clocks"),
    ("log_torn", "a crash tore the end of the log"),
    ("log_refused", "a damaged log was refused at start"),
    ("log_failed", "a write to the log failed"),
    ("log_trimmed", "a part of the log was let go of"),
    ("crashed_while_writing", "a node crashed between a write and its completion"),
    ("crashed_while_flushing", "a node crashed while its records were being flushed"),
    ("records_behind", "a restart found records older than what was applied before the crash"),
    ("flush_failed", "a flush failed"),
    ("disk_full", "a write found no room"),
    ("paused", "a node stood still"),
    ("partitioned", "links were cut"),
    ("orphan_used", "a file without a name was used by who has it open"),
    ("orphan_reaped", "records of an orphan ended"),
    ("reaped_in_steps", "an orphan had too many records for one transaction"),
    ("checkpoint", "replicas compared their digests with the leader's"),
    ("blob_stored", "bytes were placed on a majority before the commit that names them"),
    ("blob_fetched", "a blob was fetched from another node"),
    ("condemned", "a blob that nothing names was marked"),
    ("rescued", "a commit named a blob that was marked"),
    ("collected", "a blob was collected"),
    ("collected_unnamed", "a node found blobs in its store that nothing names"),
    ("collection_passed", "a replica skipped a part of the log"),
    ("refused_as_collected", "a commit named a blob that was collected since it was stored"),
    ("stored_for_an_offer", "the bytes of a lost plan were stored once more"),
    ("blobs_compacted", "a segment of blobs was rewritten"),
    ("worked_aside", "a program worked in another volume than the first"),
    ("cloned_a_clone", "a clone had a clone"),
    ("origin_ended", "a volume was destroyed for good while a clone needed it"),
    ("volume_gone", "everything of a volume was removed"),
    ("lock_handed_over", "a lock that stood in line was granted"),
    ("lock_lost", "a program was told that its locks were lost with a session"),
    ("lock_deadlock", "a lock was refused because its owner would have waited for itself"),
    ("lock_cancelled", "a program did not want to wait for its lock any more"),
    ("lock_abandoned", "a lock came, or did not, when nobody wanted to know any more"),
    ("snapshot_made", "a state got a name"),
    ("snapshot_renamed", "a snapshot got another name"),
    ("snapshot_deleted", "a snapshot's name was taken away"),
    ("snapshot_scheduled", "a state got a name by itself"),
    ("schedule_dropped", "a name that a schedule had given went for a newer one"),
    ("schedule_late", "nobody led at the beginning of a period; its state got its name later"),
    ("pruned", "past states went, as a policy said"),
    ("swept", "rows were looked at that perhaps no state shows"),
    ("copied_anew", "a replica copied all records, for sweeps have gone over them"),
    ("pruned_all_gone", "at the end, a sweep had come to its end"),
    ("kept_less", "an object was to keep less than the volume"),
    ("pruned_less", "at the end, a state that could be read lacked an object that kept less"),
    ("pruned_kept", "at the end, states were kept before a horizon"),
    ("pinned", "a session needed a past state"),
    ("txn_committed", "a transaction was committed"),
    ("txn_only_read", "a transaction that had changed nothing ended"),
    ("txn_collided", "others had changed what a transaction depended on"),
    ("txn_given_up", "a transaction was given up"),
    ("txn_rebased", "a transaction was moved to the present"),
    ("txn_rebase_collided", "a transaction could not be moved to the present"),
    ("txn_crashed", "a node died with an open transaction"),
    ("txn_crashed_committing", "a node died with a transaction whose commit was shipped"),
    ("txn_lost_with_session", "a session ended with a transaction's commit in flight; it was shipped again"),
    ("txn_looked_for", "a session ended while its replica was catching up; a transaction's commit was looked for"),
    ("txn_found", "a transaction's commit was found by its note"),
    ("txn_not_found", "a transaction's commit was not found, and shipped again"),
    ("txn_unknown", "the history in which a transaction's commit would be found was gone"),
    ("txn_no_quorum", "a transaction could not begin, move or commit, for no quorum was heard of"),
    ("landed_for_another", "a node was told that what another had answered has landed"),
    ("txn_start_pruned", "the state that a transaction began at was pruned"),
    ("txn_stored_anew", "bytes of a transaction were collected before its commit; they were stored anew"),
    ("txn_staged", "all parts of a transaction were staged, and its commit was shipped"),
    ("txn_adopted", "a transaction that had been staged was committed"),
    ("stage_met_what_is_reaped", "a part was refused because its objects were being reaped from an earlier try"),
    ("stage_waited", "a transaction waited until what was staged of it before was reaped"),
    ("stage_collected", "bytes that a part named were collected before it was applied"),
    ("stage_lost_with_session", "a session ended while a part of a transaction was in flight"),
    ("stage_failed", "a transaction could not be staged"),
    ("unstaged", "a group that was staged was not needed any more"),
    ("staged_shown", "a replica was looked at while something was staged"),
    ("staged_reaped", "what was staged and came to nothing was reaped"),
    ("staged_cloned", "a volume was cloned as of a state in the midst of a group"),
    ("removed_directory", "a directory was removed under a program that used it"),
];

/// How often each mark was hit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cover(BTreeMap<&'static str, u64>);

impl Cover {
    /// The situation that `mark` names has come up.
    pub fn hit(&mut self, mark: &'static str) {
        debug_assert!(MARKS.iter().any(|(name, _)| *name == mark), "{mark} is not listed");
        *self.0.entry(mark).or_default() += 1;
    }

    /// How often.
    pub fn count(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or(0)
    }

    /// Adds what another run has been through.
    pub fn add(&mut self, other: &Cover) {
        for (mark, count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    /// The marks that were never hit.
    pub fn missed(&self) -> Vec<&'static str> {
        MARKS.iter().map(|(name, _)| *name).filter(|name| self.count(name) == 0).collect()
    }
}
