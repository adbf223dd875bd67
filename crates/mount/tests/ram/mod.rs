//! A tree in memory: real operations and the real commit rule behind a real mount, without a cluster.

pub mod kept;
pub mod locks;
mod world;

use gavel_client::tree::{Answer, Answered, Forget, Space, Tree, TreeError, TreeRequest};
use gavel_fs::operation::Caller;
use gavel_fs::{FsError, Operation, Reply, Stop};
use gavel_types::{ObjectId, VolumeId};
use kept::Keeping;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use world::World;

/// What the tree says that it could hold.
const BYTES_TOTAL: u64 = 1 << 40;

/// One volume, in memory.
pub struct RamTree {
    world: Mutex<World>,
    keeping: Keeping,
    pub locks: locks::Locks,
    /// To the thread that answers; none if requests are answered where they come in.
    jobs: Option<Sender<Job>>,
}

struct Job {
    caller: Caller,
    request: TreeRequest,
    answered: Answered,
}

impl RamTree {
    /// Answers on the threads that ask.
    #[allow(dead_code)] // each user of this module uses one of the two
    pub fn new() -> Arc<RamTree> {
        let (world, keeping) = (Mutex::new(World::new()), Keeping::default());
        Arc::new(RamTree { world, keeping, locks: locks::Locks::default(), jobs: None })
    }

    /// Answers on a thread of its own, as a node does.
    #[allow(dead_code)]
    pub fn with_thread() -> Arc<RamTree> {
        let (jobs, receiver) = channel();
        let world = Mutex::new(World::new());
        let (keeping, locks) = (Keeping::default(), locks::Locks::default());
        let tree = Arc::new(RamTree { world, keeping, locks, jobs: Some(jobs) });
        let weak = Arc::downgrade(&tree);
        std::thread::spawn(move || serve(&receiver, &weak));
        tree
    }

    /// How many objects are open.
    #[allow(dead_code)]
    pub fn open_objects(&self) -> usize {
        self.world().open_objects()
    }

    /// How many objects there are.
    #[allow(dead_code)]
    pub fn objects(&self) -> u64 {
        self.world().counts().0
    }

    /// The last transaction, which names the state of now for ever.
    #[allow(dead_code)]
    pub fn tid(&self) -> gavel_types::Tid {
        self.world().tid()
    }

    /// Gives a state the name of a snapshot, or takes that away.
    #[allow(dead_code)]
    pub fn name_state(&self, name: &str, state: Option<gavel_types::Tid>) {
        self.world().name_state(name, state);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no operation panics")
    }

    fn answer(&self, caller: Caller, request: TreeRequest) -> Result<Answer, TreeError> {
        if matches!(request, TreeRequest::Write { .. }) {
            self.keeping.wait_to_write();
        }
        // With the world locked: what is changed behind the mount's back is changed before or after, and the answer
        // says so.
        let mut world = self.world();
        let keep = self.keeping.count(&request);
        if let TreeRequest::Past { at, request } = request {
            // Kept as a node says it.
            return world.past(caller, at, *request);
        }
        let answer = Self::answer_from(&mut world, caller, request)?;
        Ok(Answer { keep, ..answer })
    }

    fn answer_from(world: &mut World, caller: Caller, request: TreeRequest) -> Result<Answer, TreeError> {
        match request {
            TreeRequest::Operation(operation) => operate(world, caller, operation),
            TreeRequest::Lookup { parent, name } => match operate(world, caller, Operation::Lookup { parent, name }) {
                Err(TreeError::Fs(FsError::NotFound)) => Ok(Answer::of(Reply::Empty)),
                answered => answered,
            },
            TreeRequest::Read { object, offset, len } => {
                let reply = run(world, caller, &Operation::Read { object, offset, len })?;
                let Reply::Data(pieces) = reply else { panic!("{reply:?} is no answer to a read") };
                Ok(Answer { data: world.bytes(&pieces).into(), ..Answer::of(Reply::Empty) })
            }
            TreeRequest::Write { object, offset, append, data, kill_suidgid } => {
                let len = data.len() as u32;
                let content = world.store(data);
                let operation = Operation::Write { object, offset, append, len, content, kill_suidgid };
                operate(world, caller, operation)
            }
            TreeRequest::ReaddirPlus { object, after, limit } => {
                let reply = run(world, caller, &Operation::Readdir { object, after, limit })?;
                let Reply::Listing { names, .. } = &reply else { panic!("{reply:?} is no answer to a readdir") };
                let listed = names.iter().map(|name| world.attr(name.object)).collect();
                Ok(Answer { listed, ..Answer::of(reply) })
            }
            TreeRequest::Sync { .. } => Ok(Answer::of(Reply::Empty)),
            TreeRequest::Statfs => {
                let (objects, bytes) = world.counts();
                let space = Space { bytes_total: BYTES_TOTAL, bytes_free: BYTES_TOTAL.saturating_sub(bytes), objects };
                Ok(Answer { space: Some(space), ..Answer::of(Reply::Empty) })
            }
            TreeRequest::Resolve { at } => Ok(Answer { at: Some(world.resolve(&at)?), ..Answer::of(Reply::Empty) }),
            other => panic!("{other:?} is answered elsewhere"),
        }
    }
}

impl Tree for RamTree {
    fn attach(&self, front: Weak<dyn Forget>) {
        self.keeping.attach(front);
    }

    fn volume(&self) -> VolumeId {
        world::VOLUME
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        if locks::is_about_locks(&request) {
            return self.locks.submit(request, answered);
        }
        match &self.jobs {
            Some(jobs) => jobs.send(Job { caller, request, answered }).expect("the thread lives as long as the tree"),
            None => answered(self.answer(caller, request)),
        }
    }

    fn opened(&self, object: ObjectId) {
        self.world().opened(object);
    }

    fn vouches(&self) -> bool {
        true
    }

    fn keep_bytes(&self, object: ObjectId, kept: &mut dyn FnMut()) {
        // As an operation: what is changed behind the mount's back is changed before or after.
        let _world = self.world();
        if self.keeping.vouches(object) {
            kept();
        }
    }

    fn closed(&self, object: ObjectId) {
        self.world().closed(object);
    }
}

fn serve(jobs: &Receiver<Job>, tree: &Weak<RamTree>) {
    while let Ok(Job { caller, request, answered }) = jobs.recv() {
        answered(match tree.upgrade() {
            Some(tree) => tree.answer(caller, request),
            None => Err(TreeError::Closed),
        });
    }
}

fn operate(world: &mut World, caller: Caller, operation: Operation) -> Result<Answer, TreeError> {
    let reply = run(world, caller, &operation)?;
    let object = match (&reply, &operation) {
        (Reply::Object(object) | Reply::Created { object, .. } | Reply::Attr(object, _), _) => Some(*object),
        (_, Operation::Setattr { object, .. } | Operation::Write { object, .. }) => Some(*object),
        _ => None,
    };
    let attr = object.and_then(|object| world.attr(object));
    Ok(Answer { attr, ..Answer::of(reply) })
}

fn run(world: &mut World, caller: Caller, operation: &Operation) -> Result<Reply, TreeError> {
    world.operate(caller, operation).map_err(|stop| match stop {
        Stop::Error(error) => TreeError::Fs(error),
        other => panic!("{operation:?} in memory: {other}"),
    })
}
