//! Handlers that are one statement: what it is asked with, and what its rows become. Their requests can share a round trip to the
//! database.
//!
//! Worker thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Context, Error, Handler};
use crate::database::postgres::{Parameter, Row, ToSql};
use crate::database::{Answer, Question};
use crate::http::{Request, Response};

/// A new statement's weight in the mean of what they take, as 1 over this: enough that the mean of those among which one in fifty is
/// slow is never that of the others.
const WEIGHT: u64 = 64;

/// A handler of one statement that only reads, on PostgreSQL: `bind` says what it is run with, `answer` makes the response of its
/// rows. The database refuses to write.
///
/// Where every worker is busy, several requests of such handlers are taken together, and their statements go to the database in
/// one round trip, up to `database.max_pipelined_requests`. Each is a transaction by itself. So it is with endpoints of the
/// configuration that are one `sql`.
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
    Query(Arc::new(Parts { sql: sql.into(), bind, answer, takes: Mean::default() }))
}

/// See [`query`].
#[derive(Debug)]
pub struct Query<B, A>(Arc<Parts<B, A>>);

#[derive(Debug)]
struct Parts<B, A> {
    sql: Arc<str>,
    bind: B,
    answer: A,
    takes: Mean,
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
        let began = Instant::now();
        let rows = connection.postgres()?.read(sql, &parameters);
        takes.note_if(connection.can_share(sql), began.elapsed());
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

    fn question(&self, request: &Request) -> Result<Question, Error> {
        let parameters = (self.bind)(request)?.into_parameters();
        Ok(Question::Handler { sql: Arc::clone(&self.sql), parameters })
    }

    fn note(&self, _: &Question, took: Duration, _: &Context<'_>) {
        self.takes.note(took);
    }

    fn answer(&self, request: &Request, answer: Answer) -> Result<Response, Error> {
        (self.answer)(request, &answer.into_rows())
    }
}

/// How requests are answered that are one statement each, which can be sent together with others. Only [`query`] and the endpoints
/// of the configuration make one; a handler around another one may pass it on, if it does nothing else.
#[derive(Clone)]
pub struct Batched(pub(crate) Arc<dyn BatchedStatement>);

impl std::fmt::Debug for Batched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batched").field("takes", &self.0.takes()).finish_non_exhaustive()
    }
}

/// See [`Batched`].
pub(crate) trait BatchedStatement: Send + Sync {
    /// What its statement takes in the mean; `None`: it cannot share a round trip, or it is not known yet whether it can.
    fn takes(&self) -> Option<Duration>;

    /// What the request asks.
    fn question(&self, request: &Request) -> Result<Question, Error>;

    /// Its statement has come to an end, after so long.
    fn note(&self, question: &Question, took: Duration, context: &Context<'_>);

    /// What the answer becomes.
    fn answer(&self, request: &Request, answer: Answer) -> Result<Response, Error>;
}

/// What a statement takes in the mean, in nanoseconds; 0: not known yet.
#[derive(Debug, Default)]
pub(crate) struct Mean(AtomicU64);

impl Mean {
    /// It took so long this time. Of two who say so at once one may be lost.
    pub(crate) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mean = match self.0.load(Relaxed) {
            0 => took,
            mean => mean - mean / WEIGHT + took / WEIGHT,
        };
        self.0.store(mean.max(1), Relaxed);
    }

    /// The same of a statement that may share a round trip; of another nothing is known any more.
    pub(crate) fn note_if(&self, can_share: bool, took: Duration) {
        if can_share {
            self.note(took);
        } else {
            self.0.store(0, Relaxed);
        }
    }

    pub(crate) fn mean(&self) -> Option<Duration> {
        let mean = self.0.load(Relaxed);
        (mean > 0).then(|| Duration::from_nanos(mean))
    }
}

/// The parameters of a statement: `()`, or a tuple of up to six values of types that PostgreSQL's driver knows.
pub trait Parameters {
    /// Each by itself.
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
    fn one_in_fifty_that_is_slow_keeps_the_mean_far_from_the_others() {
        let takes = Mean::default();
        assert_eq!(takes.mean(), None);
        let (quick, slow) = (Duration::from_micros(100), Duration::from_millis(50));
        takes.note(quick);
        assert_eq!(takes.mean(), Some(quick));
        for turn in 0..500 {
            takes.note(if turn % 50 == 0 { slow } else { quick });
            let mean = takes.mean().expect("it ran");
            assert!(mean > 4 * quick && mean < slow / 10, "{mean:?} in turn {turn}");
        }
        (0..500).for_each(|_| takes.note(quick));
        assert!(takes.mean().expect("it ran") < 2 * quick);
        takes.note(Duration::MAX);
        assert!(takes.mean().expect("it ran") > slow);
    }

    #[test]
    fn a_tuple_is_as_many_parameters_as_it_has_values() {
        assert_eq!(().into_parameters().len(), 0);
        assert_eq!((1_i32,).into_parameters().len(), 1);
        assert_eq!((1_i32, "text".to_owned(), true).into_parameters().len(), 3);
    }
}
