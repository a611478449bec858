//! Handlers that are one statement, with a function for its parameters and one for its rows. Their requests can share a
//! round trip to the database.
//!
//! Worker thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Context, Error, Handler};
use crate::database::postgres::{Parameter, Row, ToSql};
use crate::database::{Answer, Question};
use crate::http::{Request, Response};

/// The weight of a new duration in a statement's mean is 1 over this. The mean then forgets slowly: a statement of
/// which one run in fifty is slow never has the mean of a quick one.
const WEIGHT: u64 = 64;

/// In its first runs a statement's mean forgets sooner: each session reads the catalog when it first runs the statement, which may
/// take longer than the statement itself.
const FIRST_RUNS: u64 = 256;
const FIRST_WEIGHT: u64 = 8;

/// So many answers in a row, none of them right behind another, show that the statement is not sent with others.
const APART_MAX: u64 = 64;

/// A duration moves the median by 1 over this of it.
const MEDIAN_STEP: u64 = 16;

/// A handler of one reading statement, on PostgreSQL: `bind` makes the statement's parameters, and `answer` makes the
/// response from its rows. The database refuses to write.
///
/// Requests of such handlers share round trips: a worker sends the statements of several of them together, up to
/// `database.max_pipelined_requests`. Short ones may be one transaction, in which `now()` is the same for all. The same
/// applies to the configuration's endpoints that are one `sql`.
///
/// ```no_run
/// # use wharf::{handler, http::{Method, Request, Response}, server::Server};
/// # fn main() -> anyhow::Result<()> {
/// # let config = wharf::config::Config::default();
/// let flights = handler::query(
///     "select flight from flights where carrier = $1",
///     |request: &Request| Ok((request.query_value("carrier").unwrap_or_default(),)),
///     |_, rows| Ok(Response::text(rows.iter().map(|row| row.get::<_, String>(0)).collect::<String>())),
/// );
/// Server::new(config)?.route(Method::GET, "/flights", flights).run()?;
/// # Ok(())
/// # }
/// ```
pub fn query<P, B, A>(sql: impl Into<Arc<str>>, bind: B, answer: A) -> Query<B, A>
where
    P: Parameters,
    B: Fn(&Request) -> Result<P, Error> + Send + Sync + 'static,
    A: Fn(&Request, &[Row]) -> Result<Response, Error> + Send + Sync + 'static,
{
    Query(Arc::new(Parts { sql: sql.into(), bind, answer, takes: Work::default() }))
}

/// See [`query`].
#[derive(Debug)]
pub struct Query<B, A>(Arc<Parts<B, A>>);

#[derive(Debug)]
struct Parts<B, A> {
    sql: Arc<str>,
    bind: B,
    answer: A,
    takes: Work,
}

impl<P, B, A> Handler for Query<B, A>
where
    P: Parameters,
    B: Fn(&Request) -> Result<P, Error> + Send + Sync + 'static,
    A: Fn(&Request, &[Row]) -> Result<Response, Error> + Send + Sync + 'static,
{
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        let Parts { sql, bind, answer, takes } = &*self.0;
        let parameters = bind(request)?.into_parameters();
        let parameters: Vec<_> = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync)).collect();
        let mut connection = context.database()?;
        // The first run on a session prepares the statement, and so says nothing of the runs to come.
        let is_prepared = connection.can_share(sql);
        let began = Instant::now();
        let rows = connection.postgres()?.read(sql, &parameters);
        takes.note_run(is_prepared, connection.can_share(sql), || connection.work_in(began.elapsed()));
        drop(connection);
        answer(request, &rows?)
    }

    fn batched(&self) -> Option<Batched> {
        Some(Batched(Arc::clone(&self.0) as _))
    }
}

impl<P, B, A> BatchedStatement for Parts<B, A>
where
    P: Parameters,
    B: Fn(&Request) -> Result<P, Error> + Send + Sync + 'static,
    A: Fn(&Request, &[Row]) -> Result<Response, Error> + Send + Sync + 'static,
{
    fn takes(&self) -> Option<Duration> {
        self.takes.mean()
    }

    fn usually_takes(&self) -> Duration {
        self.takes.median()
    }

    fn question(&self, request: &Request) -> Result<Question, Error> {
        let parameters = (self.bind)(request)?.into_parameters();
        Ok(Question::Handler { sql: Arc::clone(&self.sql), parameters })
    }

    fn note(&self, _: &Question, _: Duration, work: Worked, _: &Context<'_>) {
        self.takes.note(work.time, work.is_behind);
    }

    fn answer(&self, request: &Request, answer: Answer) -> Result<Response, Error> {
        (self.answer)(request, &answer.into_rows())
    }
}

/// Answers requests that are one statement each and can be sent together with others. Only [`query`] and the
/// configuration's endpoints make one. A handler that wraps another one may pass it on, if it does nothing else.
#[derive(Clone)]
pub struct Batched(pub(crate) Arc<dyn BatchedStatement>);

impl std::fmt::Debug for Batched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batched").field("takes", &self.0.takes()).finish_non_exhaustive()
    }
}

/// See [`Batched`].
pub(crate) trait BatchedStatement: Send + Sync {
    /// The mean of the time that the database works on the statement. `None`: the statement cannot share a round trip, or that is not
    /// known yet.
    fn takes(&self) -> Option<Duration>;

    /// The median of that time, which waits for a busy machine and a busy network do not change; zero if it is not known yet.
    fn usually_takes(&self) -> Duration;

    /// The request's statement with its parameters.
    fn question(&self, request: &Request) -> Result<Question, Error>;

    /// Notes that the statement has ended after `took`.
    fn note(&self, question: &Question, took: Duration, work: Worked, context: &Context<'_>);

    /// Makes the response from the database's answer.
    fn answer(&self, request: &Request, answer: Answer) -> Result<Response, Error>;
}

/// The time that the database has worked on a statement.
#[derive(Clone, Copy)]
pub(crate) struct Worked {
    pub(crate) time: Duration,
    /// The answer came right behind another, so that the time holds no part of the way.
    pub(crate) is_behind: bool,
}

/// How long the database works on a statement, in nanoseconds. A mean of 0: not known yet.
#[derive(Debug, Default)]
pub(crate) struct Work {
    mean: AtomicU64,
    /// The median, as far as answers right behind others show it; 0: not known yet.
    median: AtomicU64,
    /// The number of answers that came since the last one right behind another.
    apart: AtomicU64,
    /// The number of runs so far, up to `FIRST_RUNS`.
    runs: AtomicU64,
}

impl Work {
    /// Adds a duration. If two threads add one at the same time, one of the two may be lost. `is_behind`: the answer came right
    /// behind another, so that the duration holds no part of the way.
    pub(crate) fn note(&self, took: Duration, is_behind: bool) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let runs = self.runs.load(Relaxed);
        let weight = if runs < FIRST_RUNS { FIRST_WEIGHT } else { WEIGHT };
        if runs < FIRST_RUNS {
            self.runs.store(runs + 1, Relaxed);
        }
        let mean = match self.mean.load(Relaxed) {
            0 => took,
            mean => mean - mean / weight + took / weight,
        };
        self.mean.store(mean.max(1), Relaxed);
        let apart = if is_behind { 0 } else { self.apart.load(Relaxed).saturating_add(1) };
        self.apart.store(apart, Relaxed);
        // After a median that is too long no answers come behind others, so the others must be able to mend it.
        if is_behind || apart > APART_MAX && self.median.load(Relaxed) > 0 {
            let median = match self.median.load(Relaxed) {
                0 => took,
                median if took < median => median - median / MEDIAN_STEP,
                median => median + median / MEDIAN_STEP + 1,
            };
            self.median.store(median.max(1), Relaxed);
        }
    }

    /// Adds the duration of a run if the statement was prepared before it and can share a round trip. Forgets the mean if it
    /// cannot.
    pub(crate) fn note_run(&self, was_prepared: bool, can_share: bool, work: impl FnOnce() -> Duration) {
        match (was_prepared, can_share) {
            (true, true) => self.note(work(), false),
            (false, true) => {}
            (_, false) => self.mean.store(0, Relaxed),
        }
    }

    pub(crate) fn median(&self) -> Duration {
        Duration::from_nanos(self.median.load(Relaxed))
    }

    pub(crate) fn mean(&self) -> Option<Duration> {
        let mean = self.mean.load(Relaxed);
        (mean > 0).then(|| Duration::from_nanos(mean))
    }
}

/// The parameters of a statement: `()`, or a tuple of up to six values of types that PostgreSQL's driver knows.
pub trait Parameters {
    /// The single parameters.
    fn into_parameters(self) -> Vec<Parameter>;
}

macro_rules! tuples {
    ($(($($name:ident),*)),*) => { $(
        impl<$($name: ToSql + Sync + Send + 'static),*> Parameters for ($($name,)*) {
            fn into_parameters(self) -> Vec<Parameter> {
                #[expect(non_snake_case, reason = "a value is called like its type")]
                let ($($name,)*) = self;
                vec![$(Box::new($name)),*]
            }
        }
    )* };
}

tuples!((A), (A, B), (A, B, C), (A, B, C, D), (A, B, C, D, E), (A, B, C, D, E, F));

impl Parameters for () {
    fn into_parameters(self) -> Vec<Parameter> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_run_in_fifty_keeps_the_mean_far_from_a_quick_statements() {
        let takes = Work::default();
        assert_eq!(takes.mean(), None);
        let (quick, slow) = (Duration::from_micros(100), Duration::from_millis(50));
        takes.note(slow, false);
        assert_eq!(takes.mean(), Some(slow));
        (0..FIRST_RUNS).for_each(|_| takes.note(quick, false));
        assert!(takes.mean().expect("it ran") < 2 * quick, "a slow first run is soon forgotten");
        for turn in 0..500 {
            takes.note(if turn % 50 == 0 { slow } else { quick }, false);
            let mean = takes.mean().expect("it ran");
            assert!(mean > 4 * quick && mean < slow / 10, "{mean:?} in turn {turn}");
        }
        (0..500).for_each(|_| takes.note(quick, false));
        assert!(takes.mean().expect("it ran") < 2 * quick);
        takes.note(Duration::MAX, false);
        assert!(takes.mean().expect("it ran") > slow);
    }

    #[test]
    fn a_tuple_has_one_parameter_for_each_value() {
        assert_eq!(().into_parameters().len(), 0);
        assert_eq!((1_i32,).into_parameters().len(), 1);
        assert_eq!((1_i32, "text".to_owned(), true).into_parameters().len(), 3);
    }

    #[test]
    fn the_median_is_learned_from_answers_behind_others_and_slow_ways_do_not_count() {
        let takes = Work::default();
        let (work, way) = (Duration::from_micros(20), Duration::from_micros(400));
        (0..100).for_each(|_| takes.note(way, false));
        assert_eq!(takes.median(), Duration::ZERO, "it is not known yet");
        (0..200).for_each(|turn| takes.note(if turn % 3 == 0 { way } else { work }, true));
        assert!(takes.median() < 2 * work, "{:?}", takes.median());
        (0..200).for_each(|_| takes.note(way, true));
        assert!(takes.median() > way / 2, "{:?}", takes.median());
    }

    #[test]
    fn a_median_that_is_too_long_is_mended_though_no_answer_comes_behind_another() {
        let takes = Work::default();
        let (long, short) = (Duration::from_millis(1), Duration::from_micros(10));
        takes.note(long, true);
        (0..APART_MAX).for_each(|_| takes.note(short, false));
        assert_eq!(takes.median(), long, "answers apart say little while others come behind one another");
        (0..200).for_each(|_| takes.note(short, false));
        assert!(takes.median() < 2 * short, "{:?}", takes.median());
    }
}
