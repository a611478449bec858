//! The line against a list of numbers in every order of calls, and the race between a hand-over and the end of a wait.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A call of the line's owner.
#[derive(Clone, Copy, Debug)]
enum Call {
    JoinFirst,
    JoinLast,
    Hand,
    Dismiss,
    /// The waiter that joined first leaves.
    OldestLeaves,
    NewestLeaves,
}

const CALLS: [Call; 6] =
    [Call::JoinFirst, Call::JoinLast, Call::Hand, Call::Dismiss, Call::OldestLeaves, Call::NewestLeaves];

/// More calls than any call needs to follow each pair of the others.
const LENGTH: u32 = 7;

/// The model of the line: the numbers of its waiters, and the thing that each waiter was handed.
#[derive(Default)]
struct Model {
    line: Vec<usize>,
    handed: Vec<Option<Handed<usize>>>,
}

/// A waiter with its number, until it leaves.
type Member = (usize, Arc<Waiter<usize>>);

fn follow(calls: &[Call]) {
    let (mut line, mut model) = (Line::<usize>::default(), Model::default());
    let mut members: Vec<Member> = Vec::new();
    let now = Instant::now();
    for (step, call) in calls.iter().enumerate() {
        match call {
            Call::JoinFirst | Call::JoinLast => {
                let number = model.handed.len();
                model.handed.push(None);
                let line_end = if matches!(call, Call::JoinFirst) { LineEnd::Front } else { LineEnd::Back };
                let place = if line_end == LineEnd::Front { 0 } else { model.line.len() };
                model.line.insert(place, number);
                // Waiters with an even number are impatient from the start.
                let patience = if number % 2 == 0 { Duration::ZERO } else { LONG };
                members.push((number, line.join(line_end, now + patience)));
            }
            Call::Hand => match line.hand(step) {
                Ok(served) => {
                    model.handed[model.line.remove(0)] = Some(Handed::Thing(step));
                    served.wake();
                }
                Err(thing) => assert!(model.line.is_empty() && thing == step, "{calls:?}"),
            },
            Call::Dismiss => {
                let dismissed = line.dismiss();
                assert_eq!(dismissed.len(), model.line.len(), "{calls:?}");
                dismissed.into_iter().for_each(Served::wake);
                for number in model.line.drain(..) {
                    model.handed[number] = Some(Handed::Nothing);
                }
            }
            Call::OldestLeaves | Call::NewestLeaves if members.is_empty() => {}
            Call::OldestLeaves | Call::NewestLeaves => {
                let place = if matches!(call, Call::OldestLeaves) { 0 } else { members.len() - 1 };
                let (number, waiter) = members.remove(place);
                model.line.retain(|other| *other != number);
                assert_eq!(line.leave(&waiter), model.handed[number].take(), "{calls:?}");
            }
        }
        assert_eq!(line.len(), model.line.len(), "{calls:?}");
        let impatient = model.line.iter().filter(|number| *number % 2 == 0).count();
        assert_eq!(line.impatient(now), impatient, "{calls:?}");
    }
    for (number, waiter) in members {
        assert_eq!(waiter.wait(now, || false), model.handed[number].take(), "{calls:?}");
    }
}

#[test]
fn every_order_of_calls_serves_the_first_in_line() {
    let count = CALLS.len();
    for code in 0..count.pow(LENGTH) {
        let call = |place: u32| CALLS[code / count.pow(place) % count];
        follow(&(0..LENGTH).map(call).collect::<Vec<_>>());
    }
}

#[test]
fn a_wait_ends_by_a_hand_over_by_its_time_or_when_it_is_over() {
    let line = Mutex::new(Line::default());
    let join = || line.lock().expect("no panic").join(LineEnd::Back, Instant::now());
    let waiter = join();
    assert_eq!(waiter.wait(Instant::now() + Duration::from_millis(1), || false), None, "its time is up");
    assert_eq!(waiter.wait(Instant::now() + LONG, || true), None, "it is over");
    thread::scope(|scope| {
        scope.spawn(|| {
            let handed = line.lock().expect("no panic").hand(7);
            handed.unwrap_or_else(|_| panic!("one waits")).wake();
        });
        assert_eq!(waiter.wait(Instant::now() + LONG, || false), Some(Handed::Thing(7)));
    });
    let (waiter, is_over) = (join(), AtomicBool::new(false));
    let waker = Waker::from(Arc::clone(&waiter));
    thread::scope(|scope| {
        scope.spawn(|| {
            is_over.store(true, Relaxed);
            waker.wake_by_ref();
        });
        assert_eq!(waiter.wait(Instant::now() + LONG, || is_over.load(Relaxed)), None);
    });
}

/// An owner's state: things without a waiter, or waiters.
#[derive(Default)]
struct Pool {
    things: Vec<usize>,
    line: Line<usize>,
}

#[test]
fn nothing_is_lost_when_a_waiter_leaves_while_it_is_served() {
    const THINGS: usize = 2_000;
    let (pool, received) = (Mutex::new(Pool::default()), Mutex::new(Vec::new()));
    let lock = || pool.lock().expect("no panic");
    let receive = || {
        let waiter = {
            let mut pool = lock();
            if let Some(thing) = pool.things.pop() {
                return Some(thing);
            }
            pool.line.join(LineEnd::Back, Instant::now())
        };
        let handed = waiter.wait(Instant::now() + Duration::from_micros(20), || false);
        match handed.or_else(|| lock().line.leave(&waiter))? {
            Handed::Thing(thing) => Some(thing),
            Handed::Nothing => panic!("nobody dismisses"),
        }
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while received.lock().expect("no panic").len() < THINGS {
                    let thing = receive();
                    received.lock().expect("no panic").extend(thing);
                }
            });
        }
        for thing in 0..THINGS {
            let mut pool = lock();
            match pool.line.hand(thing) {
                Ok(served) => {
                    drop(pool);
                    served.wake();
                }
                Err(thing) => pool.things.push(thing),
            }
        }
    });
    let mut received = received.into_inner().expect("no panic");
    received.sort_unstable();
    assert_eq!(received, (0..THINGS).collect::<Vec<_>>());
}
