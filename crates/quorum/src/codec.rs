//! The bytes of messages between replicas (layout: docs/protocols/quorum.md).
//!
//! Hand-written, so that nothing from the network reaches a general decoder: every field has a fixed place,
//! every length is checked against what is there before anything is allocated, and what decodes is already
//! free of contradictions that need no knowledge of this replica to see. What needs that knowledge is
//! checked in `admission`.

use crate::config::NODES_MAX;
use crate::entry::{EntryKind, LogEntry, our_bytes, raft_bytes};
use crate::error::Refused;
use bytes::Bytes;
use gavel_types::limits::ENTRY_BYTES_MAX;
use gavel_types::{LogIndex, NodeId, Term};
use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot};

/// Version of the layout, the first byte of every message.
pub(crate) const VERSION: u8 = 1;
/// Largest opaque text that travels with a snapshot, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = SNAPSHOT_BYTES_MAX + 64 * 1024;
/// Most entries of one append: bounds what a small message can make its receiver allocate.
const APPEND_ENTRIES_MAX: usize = 16 * 1024;
/// Longest context that a heartbeat carries, in bytes.
pub const CONTEXT_BYTES_MAX: usize = 16;
/// Terms and indexes above this are refused, so that no sum with them overflows. Reached by counting up at
/// one a nanosecond after 146 years.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Data of an entry shares the buffer of the message that brought it, if it is as long as this, and half of the message or more; otherwise it is copied.
/// So what is kept in memory keeps twice its length there, or a buffer of 64 KiB that several messages were read into.
const SHARED_BYTES_MIN: usize = 32 * 1024;

const HEADER_BYTES: usize = 4 + 9 * 8;
const ENTRY_HEADER_BYTES: usize = 1 + 8 + 4;
const FLAG_REJECT: u8 = 1;
const FLAG_TRANSFER: u8 = 2;
/// raft-rs marks a vote request that belongs to a transfer of leadership by this context.
const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

const _: () = assert!(ENTRY_BYTES_MAX + HEADER_BYTES + 4 + ENTRY_HEADER_BYTES <= MESSAGE_BYTES_MAX);
const _: () = assert!(HEADER_BYTES + 16 + 2 + NODES_MAX * 8 + 4 <= MESSAGE_BYTES_MAX - SNAPSHOT_BYTES_MAX);

/// The message types that travel, and their bytes. All others are local to raft-rs, or ways to forward to
/// the leader that this room does not use.
const TYPES: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgRequestPreVote),
    (10, MessageType::MsgRequestPreVoteResponse),
];

/// Encodes what raft-rs wants sent; an append larger than `append_bytes_max` becomes several (raft-rs'
/// batching joins appends without regard to its own bound). Empty for types that do not travel.
pub(crate) fn encode(mut message: Message, append_bytes_max: u64) -> Vec<Vec<u8>> {
    let Some(&(code, kind)) = TYPES.iter().find(|(_, kind)| *kind == message.get_msg_type()) else {
        return Vec::new();
    };
    if kind != MessageType::MsgAppend {
        return vec![encode_one(code, &message, &[])];
    }
    let entries: Vec<Entry> = message.take_entries().into_iter().collect();
    let mut packets = Vec::new();
    let mut rest = entries.as_slice();
    loop {
        let (now, later) = rest.split_at(prefix_within(rest, append_bytes_max));
        packets.push(encode_one(code, &message, now));
        let Some(last) = now.last() else { break };
        message.index = last.index;
        message.log_term = last.term;
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    packets
}

/// How many entries fit into `bytes_max`; at least one, if there are any.
fn prefix_within(entries: &[Entry], bytes_max: u64) -> usize {
    let mut bytes = (HEADER_BYTES + 4) as u64;
    let fitting = entries.iter().take(APPEND_ENTRIES_MAX).take_while(|entry| {
        bytes += (ENTRY_HEADER_BYTES + entry.get_data().len()) as u64;
        bytes <= bytes_max
    });
    fitting.count().max(1).min(entries.len())
}

fn encode_one(code: u8, message: &Message, entries: &[Entry]) -> Vec<u8> {
    let payload: usize = entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.get_data().len()).sum();
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 + payload);
    let mut flags = if message.reject { FLAG_REJECT } else { 0 };
    if message.get_context() == TRANSFER_CONTEXT {
        flags |= FLAG_TRANSFER;
    }
    out.extend([VERSION, code, flags, 0]);
    for number in [
        message.to,
        message.from,
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ] {
        out.extend(number.to_le_bytes());
    }
    match message.get_msg_type() {
        MessageType::MsgAppend => encode_entries(entries, &mut out),
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            let context = message.get_context();
            assert!(context.len() <= CONTEXT_BYTES_MAX, "contexts are read rounds, 8 bytes");
            out.push(context.len() as u8);
            out.extend(context);
        }
        MessageType::MsgSnapshot => encode_snapshot(message.get_snapshot(), &mut out),
        _ => {}
    }
    out
}

fn encode_entries(entries: &[Entry], out: &mut Vec<u8>) {
    out.extend((entries.len() as u32).to_le_bytes());
    for entry in entries {
        let kind = match entry.get_entry_type() {
            raft::eraftpb::EntryType::EntryNormal => EntryKind::Data,
            _ => EntryKind::Membership,
        };
        out.push(kind.to_byte());
        out.extend(entry.term.to_le_bytes());
        out.extend((entry.get_data().len() as u32).to_le_bytes());
        out.extend(entry.get_data());
    }
}

fn encode_snapshot(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let metadata = snapshot.get_metadata();
    out.extend(metadata.index.to_le_bytes());
    out.extend(metadata.term.to_le_bytes());
    for members in [metadata.get_conf_state().get_voters(), metadata.get_conf_state().get_learners()] {
        out.push(members.len() as u8);
        members.iter().for_each(|member| out.extend(member.to_le_bytes()));
    }
    out.extend((snapshot.get_data().len() as u32).to_le_bytes());
    out.extend(snapshot.get_data());
}

/// Decodes a message, or says why it is none. What comes back satisfies:
/// numbers are at most 2^62, the term is at least 1, entries continue `index` with terms that do not fall
/// and do not exceed the message's, and only the parts that belong to its type are filled.
///
/// The data of entries that make up most of the message is not copied: it shares `bytes`.
pub(crate) fn decode(bytes: &Bytes) -> Result<Message, Refused> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Refused::TooLarge { bytes: bytes.len(), max: MESSAGE_BYTES_MAX });
    }
    let mut input = Input { rest: bytes, whole: bytes };
    let [version, code, flags, zero] = input.array()?;
    if version != VERSION {
        return Err(Refused::Version(version));
    }
    let Some(&(_, kind)) = TYPES.iter().find(|(known, _)| *known == code) else {
        return Err(Refused::Malformed("unknown message type"));
    };
    if flags & !(FLAG_REJECT | FLAG_TRANSFER) != 0 || zero != 0 {
        return Err(Refused::Malformed("unknown flags"));
    }
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.reject = flags & FLAG_REJECT != 0;
    decode_numbers(&mut input, &mut message)?;
    if flags & FLAG_TRANSFER != 0 {
        if kind != MessageType::MsgRequestVote {
            return Err(Refused::Malformed("only a vote request belongs to a transfer"));
        }
        message.set_context(raft_bytes(Bytes::from_static(TRANSFER_CONTEXT)));
    }
    match kind {
        MessageType::MsgAppend => decode_entries(&mut input, &mut message)?,
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            let length = usize::from(input.byte()?);
            if length > CONTEXT_BYTES_MAX {
                return Err(Refused::Malformed("context too long"));
            }
            message.set_context(raft_bytes(Bytes::copy_from_slice(input.take(length)?)));
        }
        MessageType::MsgSnapshot => decode_snapshot(&mut input, &mut message)?,
        _ => {}
    }
    if input.rest.is_empty() { Ok(message) } else { Err(Refused::Malformed("bytes after the end")) }
}

fn decode_numbers(input: &mut Input<'_>, message: &mut Message) -> Result<(), Refused> {
    message.to = input.u64()?;
    message.from = input.u64()?;
    message.term = input.number()?;
    message.index = input.number()?;
    message.log_term = input.number()?;
    message.commit = input.number()?;
    message.commit_term = input.number()?;
    message.reject_hint = input.number()?;
    message.request_snapshot = input.number()?;
    // raft-rs takes term 0 for the mark of a local message.
    if message.term == 0 { Err(Refused::Malformed("term 0")) } else { Ok(()) }
}

fn decode_entries(input: &mut Input<'_>, message: &mut Message) -> Result<(), Refused> {
    // raft-rs finds term 0 at every index that it does not have, so a base with term 0 would match there.
    if (message.index == 0) != (message.log_term == 0) {
        return Err(Refused::Malformed("append to a position without a term"));
    }
    let count = input.u32()? as usize;
    if count > APPEND_ENTRIES_MAX || count > input.rest.len() / ENTRY_HEADER_BYTES {
        return Err(Refused::Malformed("more entries than there can be"));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let (mut index, mut term) = (message.index, message.log_term.max(1));
    for _ in 0..count {
        let kind = EntryKind::from_byte(input.byte()?).ok_or(Refused::Malformed("unknown kind of entry"))?;
        let entry_term = input.number()?;
        if entry_term < term || entry_term > message.term {
            return Err(Refused::Malformed("terms of entries fall or exceed the leader's"));
        }
        (index, term) = (index + 1, entry_term);
        let data = input.bytes(ENTRY_BYTES_MAX)?;
        entries.push(LogEntry { index: LogIndex(index), term: Term(term), kind, data }.to_raft());
    }
    if message.log_term > message.term {
        return Err(Refused::Malformed("base of the append is newer than its leader"));
    }
    message.set_entries(entries.into());
    Ok(())
}

fn decode_snapshot(input: &mut Input<'_>, message: &mut Message) -> Result<(), Refused> {
    let (index, term) = (input.number()?, input.number()?);
    if index == 0 || term == 0 || term > message.term {
        return Err(Refused::Malformed("snapshot of no position"));
    }
    let mut conf = ConfState::default();
    conf.set_voters(input.members()?);
    conf.set_learners(input.members()?);
    let data = input.bytes(SNAPSHOT_BYTES_MAX)?;
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = index;
    metadata.term = term;
    metadata.set_conf_state(conf);
    snapshot.data = raft_bytes(data);
    message.set_snapshot(snapshot);
    Ok(())
}

/// The data of a decoded snapshot message.
pub(crate) fn snapshot_data(message: &Message) -> Bytes {
    our_bytes(message.get_snapshot().data.clone())
}

/// The sender of a decoded message.
pub(crate) fn sender(message: &Message) -> NodeId {
    NodeId(message.from)
}

/// What is left to read.
struct Input<'a> {
    rest: &'a [u8],
    whole: &'a Bytes,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Refused::Malformed("ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Refused::Malformed("ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Refused> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u64, Refused> {
        let number = self.u64()?;
        if number > NUMBER_MAX { Err(Refused::Malformed("term or index beyond 2^62")) } else { Ok(number) }
    }

    fn bytes(&mut self, max: usize) -> Result<Bytes, Refused> {
        let length = self.u32()? as usize;
        if length > max {
            return Err(Refused::TooLarge { bytes: length, max });
        }
        let taken = self.take(length)?;
        // A few bytes that are kept must not keep a large message in memory.
        let is_most = length >= self.whole.len() / 2 && length >= SHARED_BYTES_MIN;
        Ok(if is_most { self.whole.slice_ref(taken) } else { Bytes::copy_from_slice(taken) })
    }

    fn members(&mut self) -> Result<Vec<u64>, Refused> {
        let count = usize::from(self.byte()?);
        if count > NODES_MAX {
            return Err(Refused::Malformed("more members than a group has"));
        }
        (0..count).map(|_| self.u64()).collect()
    }
}

#[cfg(test)]
mod tests;
