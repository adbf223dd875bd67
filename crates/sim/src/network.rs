//! The network: messages that are lost, doubled, late and out of order; links that are cut in one direction.

use crate::clock::MS;
use crate::dice::Dice;
use gavel_types::{BlobId, Tid};
use gavel_wire::Message;

/// What travels. `wait` names the job at the asker that waits.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the fields of packets about blobs say it
pub enum Packet {
    /// A message of the protocol.
    Node(Message),
    /// Store this blob, durably.
    BlobPut { wait: u64, id: BlobId, bytes: bytes::Bytes },
    /// It is stored, as of a transaction.
    BlobStored { wait: u64, id: BlobId, as_of: Tid },
    /// Give me this blob.
    BlobGet { wait: u64, id: BlobId },
    /// Here it is, if it is here.
    BlobData { wait: u64, id: BlobId, bytes: Option<bytes::Bytes> },
}

/// The weather between all nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of a thousand messages, so many are lost.
    pub lost: u32,
    /// So many arrive twice.
    pub doubled: u32,
    /// So many are late.
    pub late: u32,
    /// By so long at most.
    pub late_ns: u64,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    nodes: usize,
    /// How many faults cut the link from one node to another, by `from * nodes + to`.
    cuts: Vec<u32>,
    slow_ns: Vec<u64>,
    weather: Weather,
}

impl Network {
    /// Good links between all nodes.
    pub fn new(seed: u64, nodes: usize) -> Network {
        let links = nodes * nodes;
        let dice = Dice::new(seed, "network", 0);
        Network { dice, nodes, cuts: vec![0; links], slow_ns: vec![0; links], weather: Weather::default() }
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    /// Cuts a link, or mends one of its cuts.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        let link = self.link(from, to);
        self.cuts[link] = if cut { self.cuts[link] + 1 } else { self.cuts[link].saturating_sub(1) };
    }

    /// What is sent on this link takes so much longer.
    pub fn slow(&mut self, from: usize, to: usize, delay_ns: u64) {
        let link = self.link(from, to);
        self.slow_ns[link] = delay_ns;
    }

    /// The weather changes.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.cuts.fill(0);
        self.slow_ns.fill(0);
        self.weather = Weather::default();
    }

    /// After how long each copy of a message arrives; none if it is lost.
    pub fn send(&mut self, from: usize, to: usize) -> Vec<u64> {
        let link = self.link(from, to);
        if self.cuts[link] > 0 || self.dice.permille(self.weather.lost) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.dice.permille(self.weather.doubled));
        (0..copies).map(|_| self.delay(link)).collect()
    }

    fn delay(&mut self, link: usize) -> u64 {
        let usual = self.dice.between(MS / 10, MS);
        let late = if self.dice.permille(self.weather.late) { self.dice.below(self.weather.late_ns + 1) } else { 0 };
        usual + self.slow_ns[link] + late
    }
}
