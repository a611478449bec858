//! PostgreSQL.
//!
//! tokio-postgres opens a session. From then on the worker that borrowed the session speaks the protocol here, in
//! batches of messages, so that every wait has a bound. The files below stand in an order: none uses a file further up.
//!
//! 1. [`driver`] opens sessions. [`pooler`] looks for a pooler in front of the server. [`session`] is one session, with
//!    its statements and transactions.
//! 2. [`statements`] keeps prepared statements. [`cleaning`] cleans a session between two borrowers. [`types`] asks for
//!    types. [`answer`] reads an answer. [`simple`] runs commands as text. [`row`] gives rows to handlers in Rust, and [`step`] takes their
//!    transactions.
//! 3. [`prepared`] is one prepared statement, with its parameters ([`bind`]) and its rows as JSON ([`json`]). [`single_insert`] says
//!    whether it needs a transaction.
//! 4. [`wire`] sends and reads messages within a limit. [`errand`] notes answers without a waiting reader.
//! 5. [`connect`], [`channel`] and [`tls`] are the connection; [`url`] names its server, by [`parameters`] and
//!    [`passwords`].
//! 6. [`effects`], [`refusal`], [`fields`] and [`text`] are pure.

mod answer;
mod bind;
mod channel;
mod cleaning;
mod connect;
mod driver;
mod effects;
mod errand;
mod fields;
mod json;
mod names;
mod parameters;
mod passwords;
mod pooler;
mod prepared;
mod refusal;
mod row;
mod session;
mod simple;
mod single_insert;
mod statements;
mod step;
mod text;
mod tls;
mod types;
mod url;
mod wire;

pub use postgres::types::{FromSql, ToSql, Type};

pub(super) use self::driver::PROVIDER;
pub use self::driver::client;
pub use self::prepared::Column;
pub use self::row::{Parameter, Parameters, Row, RowIndex};
pub use self::session::Session;
pub use self::step::{Step, StepError, StepResult};
