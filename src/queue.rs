//! The bounded queue of jobs, over crossbeam-channel.
//!
//! The poller pushes and is never blocked; workers pop and are. Knows nothing of what a job is.

use crossbeam_channel::{Receiver, Sender, TrySendError};

/// The poller's end.
#[derive(Debug)]
pub struct Producer<T>(Sender<T>);

/// A worker's end; any number of them.
#[derive(Debug)]
pub struct Consumer<T>(Receiver<T>);

/// A job that found no room, handed back.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// A queue for at most `max_length` jobs. A length of 0 hands each job to a worker that waits for one, or refuses it.
pub fn bounded<T>(max_length: usize) -> (Producer<T>, Consumer<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(max_length);
    (Producer(sender), Consumer(receiver))
}

impl<T> Producer<T> {
    /// Adds a job at the end.
    ///
    /// # Errors
    /// Hands the job back when the queue is full, or when every consumer is gone.
    pub fn try_push(&self, job: T) -> Result<(), Full<T>> {
        self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Full(job),
        })
    }

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest job, waiting for one as long as it takes. `None` once the producers are gone and every job is
    /// taken.
    pub fn pop(&self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for Consumer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_hands_the_job_back() {
        let (producer, consumer) = bounded(1);
        producer.try_push(1).expect("room");
        assert_eq!(producer.try_push(2).expect_err("full").0, 2);
        assert_eq!(consumer.pop(), Some(1));
        producer.try_push(3).expect("room again");
        assert_eq!(producer.len(), 1);
    }

    #[test]
    fn what_was_accepted_is_still_served_after_the_last_producer() {
        let (producer, consumer) = bounded(2);
        producer.try_push(1).expect("room");
        drop(producer);
        assert_eq!((consumer.pop(), consumer.pop()), (Some(1), None));
    }
}
