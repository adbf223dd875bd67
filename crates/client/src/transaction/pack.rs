//! Small contents of files go to blobs together: a plan that carries the contents of thousands of files would not fit into a request.

use gavel_types::BlobId;
use gavel_types::limits::BLOB_BYTES_MAX;
use gavel_wire::{Content, Extent, Mutation, Plan, Record};

/// Contents of fewer bytes stay in the plan: their place in a blob would take as many.
pub const PACK_BYTES_MIN: usize = 64;
/// A plan with fewer bytes of contents than this keeps them: they are read without a blob then.
pub const PACKED_FROM_BYTES: usize = 256 * 1024;
/// Most bytes of such a blob: who reads one small file reads all of it.
pub const PACK_BLOB_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(PACK_BLOB_BYTES_MAX <= BLOB_BYTES_MAX);

/// Moves small contents of a plan to blobs, if they are many. Gives the blobs, which must be on a majority before the plan is committed.
pub fn pack(plan: &mut Plan) -> Vec<bytes::Bytes> {
    if plan.mutations.iter().filter_map(content).map(len).sum::<usize>() < PACKED_FROM_BYTES {
        return Vec::new();
    }
    let (mut blobs, mut from, mut bytes) = (Vec::new(), 0, Vec::new());
    for at in 0..=plan.mutations.len() {
        let next = plan.mutations.get(at).and_then(content).filter(|content| len(content) >= PACK_BYTES_MIN);
        let more = next.map_or(0, len);
        if !bytes.is_empty() && (at == plan.mutations.len() || bytes.len() + more > PACK_BLOB_BYTES_MAX) {
            let blob = bytes::Bytes::from(std::mem::take(&mut bytes));
            point_to(&mut plan.mutations[from..at], &blob);
            blobs.push(blob);
            from = at;
        }
        if let Some(Content::Inline(content)) = plan.mutations.get(at).and_then(content).filter(|_| more > 0) {
            bytes.extend_from_slice(content);
        }
    }
    blobs
}

/// The contents among these mutations are in `blob`, one behind the other.
fn point_to(mutations: &mut [Mutation], blob: &bytes::Bytes) {
    let (id, blob_len) = (BlobId::of(blob), blob.len() as u32);
    let mut offset = 0;
    for mutation in mutations {
        if let Mutation::Put { record: Record::Extent(Extent { content, .. }), .. } = mutation
            && let bytes @ PACK_BYTES_MIN.. = len(content)
        {
            *content = Content::Blob { id, blob_len, offset };
            offset += bytes as u32;
        }
    }
}

fn content(mutation: &Mutation) -> Option<&Content> {
    match mutation {
        Mutation::Put { record: Record::Extent(extent), .. } => Some(&extent.content),
        _ => None,
    }
}

fn len(content: &Content) -> usize {
    match content {
        Content::Inline(bytes) => bytes.len(),
        _ => 0,
    }
}
