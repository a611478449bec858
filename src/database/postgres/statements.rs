//! The statements that a session keeps prepared.
//!
//! Owns [`Statements`], the messages that prepare a statement, and the reading of their answer. Runs on the worker that borrowed the
//! session.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Arc, LazyLock};

use postgres_protocol::message::backend::{
    CLOSE_COMPLETE_TAG, ERROR_RESPONSE_TAG, NO_DATA_TAG, PARAMETER_DESCRIPTION_TAG, PARSE_COMPLETE_TAG,
    READY_FOR_QUERY_TAG, ROW_DESCRIPTION_TAG,
};
use postgres_protocol::message::frontend;

use super::effects::SessionEffect;
use super::prepared::{Column, DescribedColumn, Prepared, oids};
use super::refusal::ServerError;
use super::text::refuse_session_commands;
use super::types::Types;
use super::wire::{Failure, Wait, Wire, unsendable};
use crate::database::Error;

/// The part of statements' names that no other process uses. A pooler may lend a session of the server to several
/// processes. A name that two processes use would mean one statement.
static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::Rng::new().u64(..));

/// Hashes the texts of statements, for their names.
static TEXTS: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);

/// The session's prepared statements by their text; when full, the oldest makes room for the next one.
#[derive(Default)]
pub(super) struct Statements {
    pub(super) max: usize,
    known: HashMap<Arc<str>, Arc<Prepared>>,
    oldest_first: VecDeque<Arc<str>>,
    /// The statements that the server is to forget.
    dismissed: Vec<Arc<Prepared>>,
    /// The number of statements that were prepared. No name is used twice.
    count: u64,
}

impl Statements {
    /// Stops using any of the statements.
    pub(super) fn forget(&mut self) {
        self.oldest_first.clear();
        self.dismissed.extend(self.known.drain().map(|(_, prepared)| prepared));
    }

    /// Notes that the server has forgotten all of them.
    pub(super) fn clear(&mut self) {
        self.oldest_first.clear();
        self.known.clear();
        self.dismissed.clear();
    }

    /// Stops using this statement.
    pub(super) fn forget_one(&mut self, sql: &str) {
        self.oldest_first.retain(|text| **text != *sql);
        self.dismissed.extend(self.known.remove(sql));
    }

    /// The number of statements that were prepared so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn known(&self, sql: &str) -> Option<&Arc<Prepared>> {
        self.known.get(sql)
    }

    /// Puts the preparation of a statement into the batch, as a part of its own. Returns the name of the statement.
    pub(super) fn put_preparation(&mut self, sql: &str, wire: &mut Wire) -> Result<Box<str>, Error> {
        refuse_session_commands(sql)?;
        while self.known.len() >= self.max.max(1)
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.dismissed.extend(self.known.remove(&oldest));
        }
        let batch = wire.batch();
        for dismissed in &self.dismissed {
            frontend::close(b'S', &dismissed.name, batch).map_err(unsendable)?;
        }
        self.count += 1;
        let name = format!("w{:x}_{:x}_{}", *PROCESS, TEXTS.hash_one(sql), self.count);
        frontend::parse(&name, sql, [], batch).map_err(unsendable)?;
        frontend::describe(b'S', &name, batch).map_err(unsendable)?;
        wire.add_sync();
        Ok(name.into())
    }

    /// Reads the server's answer to the preparation, and keeps the statement.
    pub(super) fn read_preparation(
        &mut self,
        name: Box<str>,
        sql: &str,
        effect: Arc<SessionEffect>,
        types: &mut Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<Arc<Prepared>, Failure> {
        let (mut params, mut columns, mut refusal) = (Vec::new(), Vec::new(), None);
        loop {
            let message = wire.message(wait)?;
            let body = wire.body(&message);
            match message.tag {
                CLOSE_COMPLETE_TAG | PARSE_COMPLETE_TAG | NO_DATA_TAG => {}
                PARAMETER_DESCRIPTION_TAG => params = oids(body).map_err(Failure::Lost)?,
                ROW_DESCRIPTION_TAG => columns = DescribedColumn::columns(body).map_err(Failure::Lost)?,
                ERROR_RESPONSE_TAG => {
                    let ServerError { error, ends_session } = wire.error(&message, sql);
                    if ends_session {
                        return Err(error.into());
                    }
                    refusal = Some(error);
                }
                READY_FOR_QUERY_TAG => break,
                tag => return Err(wire.unexpected(tag)),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        self.dismissed.clear();
        types.learn(params.iter().copied().chain(columns.iter().map(|column| column.kind)), wire, wait)?;
        let known =
            |oid| types.known(oid).ok_or_else(|| Error::Usage(format!("the type number {oid} is not known")));
        let params = params.into_iter().map(known).collect::<Result<_, _>>()?;
        let described = columns;
        let columns =
            described.iter().map(|column| Ok(Column::new(column.name.clone(), known(column.kind)?)));
        let columns: Vec<Column> = columns.collect::<Result<_, Error>>()?;
        let prepared = Arc::new(Prepared::new(name, sql, params, columns, &described, effect));
        self.keep(sql, &prepared);
        Ok(prepared)
    }

    fn keep(&mut self, sql: &str, prepared: &Arc<Prepared>) {
        let text: Arc<str> = sql.into();
        self.oldest_first.push_back(Arc::clone(&text));
        self.known.insert(text, Arc::clone(prepared));
    }
}
