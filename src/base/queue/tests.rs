//! The rules of the queue, with one worker at a time and with workers on their own threads.

use crossbeam_channel::{Receiver, Sender, unbounded};

use std::thread;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: Limits =
    Limits { max_length: 2, target: Duration::from_millis(50), interval: Duration::from_millis(100) };

fn shared(priority: Priority) -> LaneSpec {
    LaneSpec { name: None, priority, max_concurrency: None }
}

fn bounded(name: &str, max: usize) -> LaneSpec {
    LaneSpec { name: Some(name.to_owned()), priority: Priority::Normal, max_concurrency: Some(max) }
}

/// A queue whose one worker is this thread.
fn queue(specs: &[LaneSpec]) -> Queue<u32> {
    let queue = Queue::new(LIMITS, 1);
    queue.add_worker();
    assert_eq!(queue.lanes(specs), (0..specs.len()).collect::<Vec<_>>());
    queue
}

#[test]
fn a_full_queue_hands_the_job_back() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.push(0, 1).expect("a free worker");
    let (_, done) = queue.next(None).expect("a job");
    let key = queue.push(0, 2).expect("room");
    queue.push(0, 3).expect("room");
    let refused = queue.push(0, 4).expect_err("full");
    assert_eq!((refused.job, refused.refusal), (4, Refusal::Full));
    assert_eq!(queue.withdraw(key), Some(2));
    assert_eq!(queue.withdraw(key), None);
    queue.push(0, 5).expect("its place is free");
    let (job, done) = queue.next(Some(done)).expect("a job");
    assert_eq!(job, 3);
    assert_eq!(queue.next(Some(done)).map(|(job, _)| job), Some(5));
}

#[test]
fn the_first_burst_is_bounded_until_a_job_ends() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.reconfigure(Limits { max_length: 999, target: PATIENCE, interval: PATIENCE });
    queue.push(0, 0).expect("a free worker");
    let (_, done) = queue.next(None).expect("a job");
    for job in 1..=32 {
        queue.push(0, job).expect("room");
    }
    assert_eq!(queue.push(0, 33).expect_err("enough of what is not known").refusal, Refusal::Shed);
    queue.next(Some(done)).expect("a job");
    for job in 33..99 {
        queue.push(0, job).expect("it took no time");
    }
}

#[test]
fn admitted_jobs_are_still_handed_out_after_the_close() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.push(0, 1).expect("room");
    queue.close();
    assert_eq!(queue.push(0, 2).expect_err("closed").refusal, Refusal::Full);
    let (job, done) = queue.next(None).expect("a job");
    assert_eq!(job, 1);
    assert!(queue.next(Some(done)).is_none());
}

#[test]
fn the_highest_priority_goes_first_and_within_it_the_oldest_job() {
    let queue =
        queue(&[shared(Priority::Low), shared(Priority::Normal), shared(Priority::High), bounded("b", 9)]);
    queue.reconfigure(Limits { max_length: 9, ..LIMITS });
    for (lane, job) in [(0, 1), (3, 2), (1, 3), (2, 4), (1, 5), (2, 6)] {
        queue.push(lane, job).expect("room");
    }
    let mut done = None;
    let mut order = Vec::new();
    while !queue.is_empty() {
        let (job, next) = queue.next(done).expect("a job");
        order.push(job);
        done = Some(next);
    }
    assert_eq!(order, [4, 6, 2, 3, 5, 1]);
}

#[test]
fn a_bounded_lane_leaves_the_other_workers_to_other_lanes() {
    let queue = queue(&[bounded("slow", 1), shared(Priority::Normal)]);
    queue.set_workers(2);
    queue.reconfigure(Limits { max_length: 9, ..LIMITS });
    for (lane, job) in [(0, 1), (0, 2), (1, 3)] {
        queue.push(lane, job).expect("room");
    }
    let (job, slow) = queue.next(None).expect("a job");
    assert_eq!(job, 1);
    let (job, _fast) = queue.next(None).expect("a job");
    assert_eq!(job, 3, "the second slow one waits");
    let (job, _) = queue.next(Some(slow)).expect("a job");
    assert_eq!(job, 2);
}

#[test]
fn a_lane_keeps_its_jobs_after_a_reload() {
    let queue = queue(&[bounded("slow", 1)]);
    queue.push(0, 1).expect("room");
    let (_, done) = queue.next(None).expect("a job");
    queue.push(0, 2).expect("room");
    assert_eq!(queue.lanes(&[shared(Priority::Normal), bounded("slow", 2)]), [1, 0]);
    assert_eq!(queue.next(Some(done)).map(|(job, _)| job), Some(2));
}

#[test]
fn a_batch_takes_the_next_compatible_jobs_in_order_up_to_its_limit() {
    let queue = queue(&[shared(Priority::Normal), shared(Priority::High), bounded("few", 1)]);
    queue.reconfigure(Limits { max_length: 99, ..LIMITS });
    for (lane, job) in [(0, 2), (2, 4), (2, 6), (1, 8), (0, 10), (0, 11), (0, 12)] {
        queue.push(lane, job).expect("room");
    }
    let is_even = |job: &u32, _: Load| job.is_multiple_of(2);
    let mut others = Batch { max: 2, jobs: Vec::new() };
    let mut take = |done| {
        others.jobs.clear();
        let (first, done) = queue.next_batch(done, &mut others, is_even).expect("a job");
        let jobs: Vec<u32> = std::iter::once(first).chain(others.jobs.iter().map(|(job, _)| *job)).collect();
        (jobs, done)
    };
    let (jobs, done) = take(None);
    assert_eq!(jobs, [8, 2, 4], "no more than it may");
    let (jobs, done) = take(Some(done));
    assert_eq!(jobs, [6, 10], "its lane has a place again, and 11 is done by itself");
    let look = queue.usage();
    assert_eq!((look.taken, look.batched), (5, 3));
    let (jobs, done) = take(Some(done));
    assert_eq!(jobs, [11]);
    let (jobs, _) = take(Some(done));
    assert_eq!(jobs, [12]);
}

#[test]
fn a_batch_leaves_free_workers_their_share() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.reconfigure(Limits { max_length: 99, ..LIMITS });
    queue.set_workers(3);
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    for job in 0..7 {
        team.queue.push(0, job).expect("room");
    }
    let mut others = Batch { max: 99, jobs: Vec::new() };
    let unless_free = |_: &u32, load| load == Load::AllBusy;
    let (job, _) = team.queue.next_batch(None, &mut others, unless_free).expect("a job");
    assert_eq!((job, &others.jobs[..]), (0, &[(1, false), (2, false)][..]), "a third of the seven");
    // Both workers are awake already, so either of them may be the first to report its job.
    let taken = team.take();
    assert!([(1, 3), (0, 4)].contains(&taken), "{taken:?}");
    (0..4).for_each(|_| team.go_on());
    team.end();
}

#[test]
fn a_returned_job_goes_before_all_others_of_its_priority() {
    let queue = queue(&[shared(Priority::Normal), bounded("other", 1)]);
    queue.reconfigure(Limits { max_length: 9, ..LIMITS });
    let key = queue.push(0, 1).expect("room");
    let mut others = Batch { max: 9, jobs: Vec::new() };
    queue.push(1, 2).expect("room");
    let (job, mut done) = queue.next_batch(None, &mut others, |_, _| true).expect("a job");
    assert_eq!((job, &others.jobs[..]), (1, &[(2, false)][..]));
    queue.push(0, 3).expect("room");
    queue.return_job(&mut done, 1, 2, false);
    queue.return_job(&mut done, 0, 1, false);
    assert_eq!(queue.withdraw(key), None, "it is another's now");
    // Another worker cannot take it either before this one is done: the second lane may run only one job at a time.
    let mut next = None;
    for expected in [1, 2, 3] {
        let (job, done) = queue.next(next).expect("a job");
        assert_eq!(job, expected);
        next = Some(done);
    }
    queue.lock().finish(&done, Instant::now());
    queue.lock().finish(&next.expect("three"), Instant::now());
    assert!(queue.lock().running == 0 && queue.lock().lanes.iter().all(|lane| lane.running == 0));
}

#[test]
fn surplus_workers_end() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.push(0, 1).expect("room");
    queue.set_workers(0);
    assert!(queue.next(None).is_none());
    queue.add_worker();
    queue.set_workers(1);
    assert_eq!(queue.next(None).map(|(job, _)| job), Some(1));
}

/// Workers on their own threads. Each reports its name and its job, and takes the next one when the test says so.
struct Team {
    queue: Queue<u32>,
    threads: Vec<thread::JoinHandle<()>>,
    taken: Receiver<(usize, u32)>,
    says: Sender<(usize, u32)>,
    next: Receiver<()>,
    go_on: Sender<()>,
}

impl Team {
    fn new(queue: Queue<u32>) -> Self {
        let ((says, taken), (go_on, next)) = (unbounded(), unbounded());
        Self { queue, threads: Vec::new(), taken, says, next, go_on }
    }

    /// Adds a worker. When this returns, the worker waits for a job, unless it already has one.
    fn add(&mut self) {
        let (queue, says, next) = (self.queue.clone(), self.says.clone(), self.next.clone());
        let name = self.threads.len();
        queue.add_worker();
        self.threads.push(thread::spawn(move || {
            let mut done = None;
            while let Some((job, begun)) = queue.next(done) {
                says.send((name, job)).expect("the test waits");
                next.recv_timeout(PATIENCE).expect("the test goes on");
                done = Some(begun);
            }
        }));
        while self.queue.lock().parked.len() <= name && self.queue.is_empty() {
            thread::yield_now();
        }
    }

    fn take(&self) -> (usize, u32) {
        self.taken.recv_timeout(PATIENCE).expect("a worker takes a job")
    }

    fn go_on(&self) {
        self.go_on.send(()).expect("a worker waits");
    }

    fn end(self) {
        self.queue.close();
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

#[test]
fn the_worker_that_parked_last_is_woken_first() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.set_workers(3);
    queue.remove_worker();
    let mut team = Team::new(queue);
    (0..3).for_each(|_| team.add());
    for (job, name) in [(1, 2), (2, 1), (3, 0)] {
        team.queue.push(0, job).expect("a free worker");
        team.queue.wake();
        assert_eq!(team.take(), (name, job));
    }
    (0..3).for_each(|_| team.go_on());
    team.end();
}

#[test]
fn a_job_above_the_busy_limit_waits_for_a_worker_or_a_higher_limit() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.set_workers(2);
    queue.remove_worker();
    queue.set_busy_max(1);
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    for job in [1, 2, 3] {
        team.queue.push(0, job).expect("room");
    }
    team.queue.wake();
    assert_eq!(team.take(), (1, 1));
    let look = team.queue.usage();
    assert!(look.was_held_back && look.is_held_back);
    assert_eq!((look.taken, team.queue.gauges().busy_max), (1, 1));
    team.go_on();
    assert_eq!(team.take(), (1, 2), "it takes the next without a wake-up");
    team.queue.set_busy_max(2);
    assert_eq!(team.take(), (0, 3));
    let look = team.queue.usage();
    assert!(look.was_held_back && !look.is_held_back && look.busy > Duration::ZERO);
    assert!(!team.queue.usage().was_held_back);
    (0..2).for_each(|_| team.go_on());
    team.end();
}

#[test]
fn workers_above_a_lowered_busy_limit_take_no_more_jobs() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.reconfigure(Limits { max_length: 9, ..LIMITS });
    queue.set_workers(2);
    queue.remove_worker();
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    for job in [1, 2, 3, 4] {
        team.queue.push(0, job).expect("room");
    }
    team.queue.wake();
    let mut taken = [team.take().1, team.take().1];
    taken.sort_unstable();
    assert_eq!(taken, [1, 2]);
    team.queue.set_busy_max(1);
    team.go_on();
    while !team.queue.usage().is_held_back {
        thread::yield_now();
    }
    assert!(team.taken.is_empty());
    team.go_on();
    assert_eq!(team.take().1, 3);
    team.queue.set_busy_max(2);
    assert_eq!(team.take().1, 4);
    (0..2).for_each(|_| team.go_on());
    team.end();
}

#[test]
fn the_watcher_gets_one_message_for_a_crowd_or_a_held_back_job() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.set_workers(2);
    queue.remove_worker();
    let (tell, told) = crossbeam_channel::bounded(1);
    queue.watch(1, tell.clone());
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    let give = |team: &Team, job| {
        team.queue.push(0, job).expect("room");
        team.queue.wake();
    };
    give(&team, 1);
    team.take();
    assert!(told.is_empty(), "one is no crowd");
    give(&team, 2);
    team.take();
    told.recv_timeout(PATIENCE).expect("two are");
    (0..2).for_each(|_| team.go_on());
    while team.queue.lock().running > 0 {
        thread::yield_now();
    }
    team.queue.watch(usize::MAX, tell);
    team.queue.set_busy_max(1);
    give(&team, 3);
    team.take();
    assert!(told.is_empty(), "nobody watches for a crowd any more");
    give(&team, 4);
    told.recv_timeout(PATIENCE).expect("the fourth is held back");
    team.go_on();
    team.take();
    team.go_on();
    assert!(told.is_empty(), "it is told once");
    team.end();
}

#[test]
fn workers_behind_a_bounded_lane_end_when_the_queue_closes() {
    let queue = queue(&[bounded("slow", 1)]);
    queue.set_workers(2);
    queue.remove_worker();
    for job in [1, 2] {
        queue.push(0, job).expect("room");
    }
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    let (_, job) = team.take();
    assert_eq!(job, 1);
    team.queue.close();
    team.go_on();
    assert_eq!(team.take().1, 2);
    team.go_on();
    team.end();
}

/// A queue with one worker that has a job and waits for the database.
fn listening() -> (Queue<u32>, Ticket, Arc<Bell>) {
    let queue = queue(&[shared(Priority::Normal), bounded("few", 1)]);
    queue.reconfigure(Limits { max_length: 99, ..LIMITS });
    queue.push_since(0, 1, Instant::now(), true).expect("room");
    let (_, ticket) = queue.next_batch(None, &mut batch(9), |_, _| true).expect("a job");
    (queue, ticket, Arc::new(Bell::new().expect("a descriptor")))
}

fn batch(max: usize) -> Batch<u32> {
    Batch { max, jobs: Vec::new() }
}

#[test]
fn a_worker_that_waits_for_the_database_takes_the_jobs_that_can_join() {
    let (queue, mut ticket, bell) = listening();
    for job in 2..5 {
        queue.push_since(0, job, Instant::now(), true).expect("room");
    }
    let mut others = batch(2);
    assert!(matches!(queue.join(&mut ticket, &mut others, &bell, |_, _| true), Joined::Taken(_)));
    assert_eq!(others.jobs, [(2, false), (3, false)], "no more than it may");
    others.jobs.clear();
    assert_eq!(queue.join(&mut ticket, &mut others, &bell, |_, _| false), Joined::Refused);
    assert!(others.jobs.is_empty() && queue.lock().listening.is_empty(), "its own bell would ring for ever");
}

#[test]
fn the_bell_of_a_listening_worker_rings_for_a_job_that_can_join_and_for_no_other() {
    let (queue, mut ticket, bell) = listening();
    assert_eq!(queue.join(&mut ticket, &mut batch(9), &bell, |_, _| true), Joined::Listening);
    let other = queue.push(0, 2).expect("room");
    queue.wake();
    assert!(!queue.stop_listening(&bell), "it is no job for a batch");
    assert_eq!(queue.withdraw(other), Some(2));
    assert_eq!(queue.join(&mut ticket, &mut batch(9), &bell, |_, _| true), Joined::Listening);
    queue.push_since(0, 3, Instant::now(), true).expect("room");
    queue.wake();
    queue.wake();
    let rung = queue.lock().rung;
    assert_eq!(rung, 1, "it is woken once");
    assert!(queue.stop_listening(&bell));
    assert!(matches!(queue.join(&mut ticket, &mut batch(9), &bell, |_, _| true), Joined::Taken(_)));
    assert_eq!(queue.lock().rung, 0);
}

#[test]
fn a_job_that_has_ended_makes_room_in_its_lane_while_the_worker_goes_on() {
    let (queue, mut ticket, bell) = listening();
    for job in 2..4 {
        queue.push_since(1, job, Instant::now(), true).expect("room");
    }
    let mut others = batch(9);
    queue.join(&mut ticket, &mut others, &bell, |_, _| true);
    assert_eq!(others.jobs, [(2, false)], "its lane runs one at a time");
    others.jobs.clear();
    ticket.end_job(1, false);
    queue.join(&mut ticket, &mut others, &bell, |_, _| true);
    assert_eq!(others.jobs, [(3, false)]);
    queue.lock().finish(&ticket, Instant::now());
    assert!(queue.lock().running == 0 && queue.lock().lanes.iter().all(|lane| lane.running == 0));
}

#[test]
fn a_returned_job_has_waited_since_it_came() {
    let queue = queue(&[shared(Priority::Normal)]);
    queue.reconfigure(Limits { max_length: 9, ..LIMITS });
    let came = Instant::now();
    let second = came + Duration::from_secs(1);
    for (job, since) in [(1, came), (2, second), (3, second)] {
        queue.push_since(0, job, since, true).expect("room");
    }
    let mut others = batch(9);
    let (first, mut ticket) = queue.next_batch(None, &mut others, |_, _| true).expect("a job");
    // The first is done. The others are returned, the last first.
    assert_eq!((first, others.jobs.len()), (1, 2));
    ticket.end_job(0, false);
    for job in [3, 2] {
        queue.return_job(&mut ticket, 0, job, false);
        let state = queue.lock();
        let head = state.lanes[0].head.expect("it is there");
        assert_eq!(state.jobs.get(head).since, second);
    }
    queue.lock().finish(&ticket, Instant::now());
    let (job, mut ticket) = queue.next(None).expect("a job");
    assert_eq!(job, 2);
    queue.return_job(&mut ticket, 0, job, false);
    assert_eq!(queue.lock().lanes[0].running, 0);
}

#[test]
fn a_raised_limit_of_a_lane_wakes_a_worker_for_a_job_that_waits() {
    let queue = queue(&[bounded("few", 1)]);
    queue.set_workers(2);
    queue.remove_worker();
    let mut team = Team::new(queue);
    (0..2).for_each(|_| team.add());
    for job in [1, 2] {
        team.queue.push(0, job).expect("room");
    }
    team.queue.wake();
    assert_eq!(team.take().1, 1);
    team.queue.lanes(&[bounded("few", 2)]);
    assert_eq!(team.take().1, 2);
    (0..2).for_each(|_| team.go_on());
    team.end();
}

#[test]
fn a_job_that_ends_in_a_batch_wakes_a_worker_for_one_of_its_lane_that_cannot_join() {
    let queue = queue(&[shared(Priority::Normal), bounded("few", 1)]);
    queue.reconfigure(Limits { max_length: 99, ..LIMITS });
    queue.set_workers(2);
    let bell = Arc::new(Bell::new().expect("a descriptor"));
    for (lane, job) in [(0, 1), (1, 2)] {
        queue.push_since(lane, job, Instant::now(), true).expect("room");
    }
    let (_, mut ticket) = queue.next_batch(None, &mut batch(9), |_, _| true).expect("a job");
    let mut team = Team::new(queue);
    team.add();
    team.queue.push(1, 3).expect("room");
    team.queue.wake();
    ticket.end_job(1, false);
    assert_eq!(team.queue.join(&mut ticket, &mut batch(9), &bell, |_, _| false), Joined::Listening);
    assert_eq!(team.take().1, 3);
    team.go_on();
    assert!(!team.queue.stop_listening(&bell));
    team.end();
}

#[test]
fn a_target_above_the_interval_is_a_wait_that_may_last() {
    const MS: Duration = Duration::from_millis(1);
    let queue = queue(&[shared(Priority::Normal)]);
    queue.reconfigure(Limits { max_length: 999, target: 300 * MS, interval: 100 * MS });
    queue.lock().lanes[0].note_service(10 * MS);
    // Each takes 10 ms, so the thirtieth waits for 300 ms.
    for job in 0..30 {
        queue.push(0, job).expect("its wait is normal");
    }
    assert_eq!(queue.push(0, 30).expect_err("it would wait longer").refusal, Refusal::Shed);
}
