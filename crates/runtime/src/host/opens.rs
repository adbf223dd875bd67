//! Which files fronts have open: told on any thread, and taken by the one that has the session.

use gavel_client::Session;
use gavel_types::ObjectId;
use parking_lot::Mutex;
use std::sync::Arc;

/// How often an object is open changes by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opening {
    /// Once more.
    More,
    /// Once less.
    Less,
}

/// What has been opened and closed since the session was told.
#[derive(Clone, Default)]
pub struct Opens(Arc<Mutex<Vec<(ObjectId, Opening)>>>);

impl Opens {
    /// An object is open once more.
    pub fn opened(&self, object: ObjectId) {
        self.0.lock().push((object, Opening::More));
    }

    /// An object is open once less.
    pub fn closed(&self, object: ObjectId) {
        self.0.lock().push((object, Opening::Less));
    }

    /// Tells the session.
    pub fn tell(&self, session: &mut Session) {
        for (object, opening) in std::mem::take(&mut *self.0.lock()) {
            match opening {
                Opening::More => session.opened(object),
                Opening::Less => session.closed(object),
            }
        }
    }
}

/// Keeps a file that is being created open until the mount has counted it as open itself: otherwise an
/// unlink elsewhere, applied between the creation and its answer, would find nobody holding it.
pub(super) struct Pin {
    opens: Opens,
    object: Option<ObjectId>,
}

impl Pin {
    pub(super) fn new(opens: &Opens) -> Pin {
        Pin { opens: opens.clone(), object: None }
    }

    pub(super) fn hold(&mut self, object: ObjectId) {
        self.release();
        self.opens.opened(object);
        self.object = Some(object);
    }

    pub(super) fn release(&mut self) {
        if let Some(object) = self.object.take() {
            self.opens.closed(object);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.release();
    }
}
