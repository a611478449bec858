//! The waiting jobs: one list for each lane, through one slab, so that any job can be taken out at once.

use std::time::Instant;

use slab::Slab;

use super::lane::Lane;

/// The number of the first job. Jobs that come later count up from it; returned jobs count down.
const FIRST: u64 = 1 << 63;

/// Names a waiting job, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: usize,
    number: u64,
}

/// All waiting jobs. The lanes hold the ends of their lists.
pub(super) struct Jobs<T> {
    nodes: Slab<Node<T>>,
    /// The number of jobs that most likely join a batch.
    joining: usize,
    /// The number of the next job to come. A lower number came first.
    next: u64,
    /// The number of the job that was returned last.
    returned: u64,
}

/// A waiting job and its neighbours in the list of its lane.
pub(super) struct Node<T> {
    pub(super) job: T,
    pub(super) lane: usize,
    pub(super) since: Instant,
    pub(super) joins: bool,
    number: u64,
    before: Option<usize>,
    after: Option<usize>,
}

impl<T> Jobs<T> {
    pub(super) fn new() -> Self {
        Self { nodes: Slab::new(), joining: 0, next: FIRST, returned: FIRST }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The number of workers that take all jobs, when one takes `batch_max` of those that join a batch.
    pub(super) fn batches(&self, batch_max: usize) -> usize {
        self.nodes.len() - self.joining + self.joining.div_ceil(batch_max)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn get(&self, index: usize) -> &Node<T> {
        &self.nodes[index]
    }

    /// Adds a job at the end of a lane.
    pub(super) fn append(
        &mut self,
        lanes: &mut [Lane],
        lane: usize,
        job: T,
        since: Instant,
        joins: bool,
    ) -> Key {
        let number = self.next;
        self.next += 1;
        let before = lanes[lane].tail;
        self.joining += usize::from(joins);
        let index = self.nodes.insert(Node { job, lane, since, joins, number, before, after: None });
        match before {
            Some(before) => self.nodes[before].after = Some(index),
            None => lanes[lane].head = Some(index),
        }
        lanes[lane].tail = Some(index);
        lanes[lane].len += 1;
        Key { index, number }
    }

    /// Adds a job at the front of a lane, before every other job of its priority.
    pub(super) fn prepend(&mut self, lanes: &mut [Lane], lane: usize, job: T, since: Instant, joins: bool) {
        self.returned -= 1;
        let (number, after) = (self.returned, lanes[lane].head);
        self.joining += usize::from(joins);
        let index = self.nodes.insert(Node { job, lane, since, joins, number, before: None, after });
        match after {
            Some(after) => self.nodes[after].before = Some(index),
            None => lanes[lane].tail = Some(index),
        }
        lanes[lane].head = Some(index);
        lanes[lane].len += 1;
    }

    /// The next job: of the highest priority among the lanes that may run one, the job that came first.
    pub(super) fn first(&self, lanes: &[Lane]) -> Option<usize> {
        let runnable = lanes.iter().filter(|lane| lane.may_run());
        let heads = runnable.filter_map(|lane| Some((lane.spec.priority, lane.head?)));
        let first = heads.max_by_key(|(priority, head)| (*priority, u64::MAX - self.nodes[*head].number));
        first.map(|(_, head)| head)
    }

    pub(super) fn remove(&mut self, lanes: &mut [Lane], index: usize) -> Node<T> {
        let node = self.nodes.remove(index);
        match node.before {
            Some(before) => self.nodes[before].after = node.after,
            None => lanes[node.lane].head = node.after,
        }
        match node.after {
            Some(after) => self.nodes[after].before = node.before,
            None => lanes[node.lane].tail = node.before,
        }
        lanes[node.lane].len -= 1;
        self.joining -= usize::from(node.joins);
        node
    }

    /// Takes a job back, if no worker has taken it.
    pub(super) fn withdraw(&mut self, lanes: &mut [Lane], key: Key) -> Option<T> {
        let is_there = self.nodes.get(key.index).is_some_and(|node| node.number == key.number);
        is_there.then(|| self.remove(lanes, key.index).job)
    }
}
