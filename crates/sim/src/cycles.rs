//! Who must come before whom, and whether that goes round in a circle.
//!
//! The graph is Adya's ("Weak Consistency: A Generalized Theory and Optimistic Implementations for Distributed Transactions", 1999, chapter 3) with an edge
//! from what was over to what began later: a history is strictly serializable if and only if its graph has no cycle. To find the edges in recorded
//! values is the approach of Elle (Kingsbury and Alvaro, VLDB 2020). Cycles lie within strongly connected components (Tarjan, 1972).

use crate::shared::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Why one comes before the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// It wrote what the other read.
    Read(Cell, u64),
    /// It wrote what the other overwrote.
    Overwrote(Cell, u64),
    /// It read what was there before the other wrote this.
    ReadBefore(Cell, u64),
    /// It was over when the other began.
    Later,
}

impl Why {
    fn cell(self) -> Option<Cell> {
        match self {
            Why::Read(cell, _) | Why::Overwrote(cell, _) | Why::ReadBefore(cell, _) => Some(cell),
            Why::Later => None,
        }
    }

    fn in_words(self) -> String {
        match self {
            Why::Read(cell, 0) => format!("made it so that {cell:?} is not there, which was read by"),
            Why::Read(cell, value) => format!("wrote {value} to {cell:?}, which was read by"),
            Why::Overwrote(cell, value) => format!("wrote to {cell:?} before {value} was written by"),
            Why::ReadBefore(cell, value) => format!("read {cell:?} as it was before it became {value} by"),
            Why::Later => "was over before the beginning of".into(),
        }
    }
}

/// What is ordered: a transaction, a plain operation, or a commit of which nobody knows more.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) what: String,
    /// When it was called, and when it returned, if that is known.
    pub(crate) called: Option<u64>,
    pub(crate) returned: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    /// From each node, to which. Behind the nodes come moments, each of which comes before the next.
    edges: Vec<Vec<(usize, Why)>>,
}

impl Graph {
    pub(crate) fn new(nodes: Vec<Node>) -> Graph {
        let edges = vec![Vec::new(); nodes.len()];
        let mut graph = Graph { nodes, edges };
        graph.add_time();
        graph
    }

    /// `from` comes before `to`.
    pub(crate) fn add(&mut self, from: usize, to: usize, why: Why) {
        if from != to {
            self.edges[from].push((to, why));
        }
    }

    /// What had returned when something was called came before it. There would be an edge for nearly each pair: instead, whatever returns leads to the
    /// moment of that, each moment to the next one, and the last moment before a call to what was called.
    fn add_time(&mut self) {
        let mut ends: Vec<(u64, usize)> = Vec::new();
        for (node, Node { returned, .. }) in self.nodes.iter().enumerate() {
            ends.extend(returned.map(|returned| (returned, node)));
        }
        ends.sort_unstable();
        let first = self.nodes.len();
        self.edges.resize(first + ends.len(), Vec::new());
        for (place, (_, node)) in ends.iter().enumerate() {
            self.edges[*node].push((first + place, Why::Later));
            if place > 0 {
                self.edges[first + place - 1].push((first + place, Why::Later));
            }
        }
        for node in 0..first {
            let Some(called) = self.nodes[node].called else { continue };
            let over = ends.partition_point(|(returned, _)| *returned < called);
            if over > 0 {
                self.edges[first + over - 1].push((node, Why::Later));
            }
        }
    }

    /// A cycle, in words, one line for each that is in it, and the cells that it is about; none if there is none.
    pub(crate) fn cycle(&self) -> Option<(Vec<String>, BTreeSet<Cell>)> {
        let component = self.components().into_iter().find(|component| component.len() > 1)?;
        let within: BTreeSet<usize> = component.iter().copied().collect();
        let starts = component.iter().filter(|node| **node < self.nodes.len());
        let shortest = starts.filter_map(|start| self.shortest(*start, &within)).min_by_key(Vec::len)?;
        let cells = shortest.iter().filter_map(|(_, why)| why.cell()).collect();
        Some((self.in_words(&shortest), cells))
    }

    /// The shortest way from a node to itself.
    fn shortest(&self, start: usize, within: &BTreeSet<usize>) -> Option<Vec<(usize, Why)>> {
        let mut came: BTreeMap<usize, (usize, Why)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for (to, why) in self.edges[node].iter().filter(|(to, _)| within.contains(to)) {
                if *to == start {
                    let mut way = vec![(node, *why)];
                    while way[0].0 != start {
                        way.insert(0, came[&way[0].0]);
                    }
                    return Some(way);
                }
                if !came.contains_key(to) {
                    came.insert(*to, (node, *why));
                    queue.push_back(*to);
                }
            }
        }
        None
    }

    fn in_words(&self, way: &[(usize, Why)]) -> Vec<String> {
        let real = way.iter().filter(|(node, _)| *node < self.nodes.len());
        let line = |(node, why): &(usize, Why)| format!("{} {}", self.nodes[*node].what, why.in_words());
        let mut lines: Vec<String> = real.map(line).collect();
        lines.push(format!("{}: a cycle", self.nodes[way[0].0].what));
        lines
    }

    /// Strongly connected components, by Tarjan's algorithm without recursion.
    fn components(&self) -> Vec<Vec<usize>> {
        const UNSEEN: usize = usize::MAX;
        let count = self.edges.len();
        let (mut index, mut low, mut on_stack) = (vec![UNSEEN; count], vec![0; count], vec![false; count]);
        let (mut stack, mut components, mut next) = (Vec::new(), Vec::new(), 0);
        for root in 0..count {
            if index[root] != UNSEEN {
                continue;
            }
            let mut way: Vec<(usize, usize)> = vec![(root, 0)];
            while let Some((node, edge)) = way.pop() {
                if edge == 0 {
                    (index[node], low[node]) = (next, next);
                    next += 1;
                    stack.push(node);
                    on_stack[node] = true;
                }
                if let Some((to, _)) = self.edges[node].get(edge) {
                    way.push((node, edge + 1));
                    if index[*to] == UNSEEN {
                        way.push((*to, 0));
                    } else if on_stack[*to] {
                        low[node] = low[node].min(index[*to]);
                    }
                    continue;
                }
                if let Some((parent, _)) = way.last() {
                    low[*parent] = low[*parent].min(low[node]);
                }
                if low[node] == index[node] {
                    let from = stack.iter().rposition(|on| *on == node).unwrap_or_default();
                    let component = stack.split_off(from);
                    component.iter().for_each(|node| on_stack[*node] = false);
                    components.push(component);
                }
            }
        }
        components
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::ObjectId;

    const CELL: Cell = Cell::Bytes(ObjectId(9));

    fn node(what: &str, called: u64, returned: Option<u64>) -> Node {
        Node { what: what.into(), called: Some(called), returned }
    }

    #[test]
    fn dependencies_that_go_round_are_a_cycle_whatever_the_time() {
        let mut graph = Graph::new(vec![node("one", 1, None), node("two", 2, None), node("three", 3, None)]);
        graph.add(0, 1, Why::Read(CELL, 5));
        graph.add(1, 2, Why::Overwrote(CELL, 6));
        assert_eq!(graph.cycle(), None);
        graph.add(2, 0, Why::ReadBefore(CELL, 7));
        let (told, cells) = graph.cycle().expect("a cycle");
        assert_eq!(cells, BTreeSet::from([CELL]));
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0].starts_with("one wrote 5") && told[3] == "one: a cycle", "{told:?}");
    }

    #[test]
    fn what_was_over_comes_first() {
        let times =
            |second: u64| vec![node("one", 1, Some(10)), node("between", 2, Some(11)), node("two", second, Some(40))];
        let mut graph = Graph::new(times(20));
        graph.add(2, 0, Why::ReadBefore(CELL, 7));
        let (told, _) = graph.cycle().expect("two read what one had overwritten before two began");
        assert!(told.iter().any(|line| line == "one was over before the beginning of"), "{told:?}");
        let mut graph = Graph::new(times(5));
        graph.add(2, 0, Why::ReadBefore(CELL, 7));
        assert_eq!(graph.cycle(), None, "they were at the same time");
    }

    #[test]
    fn many_in_a_row_are_no_cycle_and_need_no_recursion() {
        let mut graph = Graph::new((0..200_000).map(|at| node("n", 2 * at, Some(2 * at + 1))).collect());
        for at in 1..200_000 {
            graph.add(at - 1, at, Why::Read(CELL, 1));
        }
        assert_eq!(graph.cycle(), None);
        graph.add(199_999, 199_998, Why::ReadBefore(CELL, 2));
        assert!(graph.cycle().is_some());
    }
}
