//! Inserts of one row that need no transaction around them, although they return rows.
//!
//! The answer to such a statement cannot turn out wrong after the row was written, so the statement may commit by itself. Owns
//! [`SingleInsert`] and the question to the catalog about the table. Pure; any thread.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio_postgres::types::{Kind, Oid, Type};

use super::wire::{Wire, unsendable};
use crate::base::system;
use crate::config::{self, sql::InsertedRows};
use crate::database::Error;

/// The age of the catalog's answer at which the question is asked again: a trigger may have been created by then.
const AGE_MAX: Duration = Duration::from_secs(1);

/// Whether an insert into the table always inserts its row: the table is an ordinary one, without rules and triggers. A
/// partition may have triggers of its own. The internal triggers of foreign keys leave rows out of no insert.
pub(super) const QUESTION: &str = "select c.relkind = 'r' and not c.relhasrules \
    and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) \
    from pg_catalog.pg_class c where c.oid = $1";

/// The number of columns of [`QUESTION`].
pub(super) const COLUMNS: usize = 1;

/// An insert of one tuple that returns columns of its table, all of bounded size.
#[derive(Debug)]
pub(super) struct SingleInsert {
    rows: InsertedRows,
    table: Oid,
    /// The most bytes of its row as JSON.
    bytes_max: usize,
    verdict: AtomicU8,
    /// The time of the last question to the catalog, in milliseconds of the system's clock.
    asked_at_ms: AtomicU64,
}

/// A column of the rows that a statement returns.
pub(super) struct ReturnedColumn<'a> {
    /// The table that it belongs to; 0: none.
    pub(super) table: Oid,
    pub(super) kind: &'a Type,
    /// The modifier of the type; negative: it has none.
    pub(super) modifier: i32,
}

const UNKNOWN: u8 = 0;
const INSERTS: u8 = 1;
const MAY_NOT_INSERT: u8 = 2;
/// The catalog refuses the question. It is not asked again.
const UNANSWERED: u8 = 3;

impl SingleInsert {
    /// Such a statement, by its text and by the columns that the server describes. `key_bytes`: the bytes of the columns' names
    /// in a row.
    pub(super) fn of(sql: &str, columns: &[ReturnedColumn<'_>], key_bytes: usize) -> Option<Self> {
        let rows = config::Sql::without_parameters(sql).inserted_rows()?;
        let mut tables = columns.iter().map(|column| column.table).filter(|table| *table != 0);
        let table = tables.next()?;
        if tables.any(|other| other != table) {
            return None;
        }
        // A comma behind each column, and two braces.
        let mut bytes_max = key_bytes + columns.len() + 2;
        for column in columns {
            bytes_max += json_bytes_max(column.kind, column.modifier)?;
        }
        let (verdict, asked_at_ms) = (AtomicU8::new(UNKNOWN), AtomicU64::default());
        Some(Self { rows, table, bytes_max, verdict, asked_at_ms })
    }

    /// Whether nothing can go wrong behind its row in an answer of `bytes_max` bytes. `needs_row`: an answer without a row is an
    /// error.
    pub(super) fn is_safe(&self, bytes_max: usize, needs_row: bool) -> bool {
        self.verdict.load(Relaxed) == INSERTS
            && !self.is_old()
            && self.bytes_max <= bytes_max
            && (self.rows == InsertedRows::One || !needs_row)
    }

    /// Whether the catalog must be asked now.
    pub(super) fn is_due(&self) -> bool {
        match self.verdict.load(Relaxed) {
            UNKNOWN => true,
            UNANSWERED => false,
            _ => self.is_old(),
        }
    }

    /// Takes the catalog's answer. `None`: the catalog has refused the question.
    pub(super) fn learn(&self, inserts: Option<bool>) {
        let verdict = match inserts {
            Some(true) => INSERTS,
            Some(false) => MAY_NOT_INSERT,
            None => UNANSWERED,
        };
        self.asked_at_ms.store(now_ms(), Relaxed);
        self.verdict.store(verdict, Relaxed);
    }

    fn is_old(&self) -> bool {
        now_ms().saturating_sub(self.asked_at_ms.load(Relaxed)) >= as_ms(AGE_MAX)
    }

    /// Puts the question into the batch, behind the runs of a transaction. The caller ends the part.
    pub(super) fn put_question(&self, wire: &mut Wire) -> Result<(), Error> {
        let batch = wire.batch();
        frontend::parse("", QUESTION, [Type::OID.oid()], batch).map_err(unsendable)?;
        let table = |table: Oid, out: &mut bytes::BytesMut| {
            out.extend_from_slice(&table.to_be_bytes());
            Ok(IsNull::No)
        };
        frontend::bind("", "", [1], [self.table], table, [1], batch)
            .map_err(|_| Error::Usage("the number of a table was refused".to_owned()))?;
        frontend::execute("", 0, batch).map_err(unsendable)
    }
}

fn now_ms() -> u64 {
    as_ms(system::coarse_monotonic())
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The most bytes of a value as JSON. `None`: there is no such bound.
fn json_bytes_max(kind: &Type, modifier: i32) -> Option<usize> {
    /// No number, date or address is longer.
    const SHORT: usize = 128;
    /// The digits before and after the point of an unconstrained number (the manual, table 8.2), its sign and the point.
    const NUMERIC: usize = 131_072 + 16_383 + 2;
    /// A control character takes six bytes.
    const CHARACTER: usize = 6;
    /// The bytes of an identifier.
    const NAME: usize = 63;
    const QUOTES: usize = 2;
    /// The modifier of `varchar(n)` counts four bytes of a header too.
    const HEADER: i32 = 4;
    let characters = |count: usize| count * CHARACTER + QUOTES;
    Some(match *kind {
        Type::BOOL
        | Type::INT2
        | Type::INT4
        | Type::INT8
        | Type::OID
        | Type::FLOAT4
        | Type::FLOAT8
        | Type::CHAR
        | Type::UUID
        | Type::DATE
        | Type::TIME
        | Type::TIMETZ
        | Type::TIMESTAMP
        | Type::TIMESTAMPTZ
        | Type::INTERVAL
        | Type::INET
        | Type::CIDR
        | Type::MACADDR
        | Type::MACADDR8 => SHORT,
        Type::NUMERIC => NUMERIC,
        Type::NAME => characters(NAME),
        Type::VARCHAR | Type::BPCHAR => characters(usize::try_from(modifier.checked_sub(HEADER)?).ok()?),
        _ if matches!(kind.kind(), Kind::Enum(_)) => characters(NAME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "insert into t values ($1) returning id";

    fn insert(columns: &[(Oid, Type, i32)]) -> Option<SingleInsert> {
        let columns = columns.iter();
        let columns = columns.map(|(table, kind, modifier)| ReturnedColumn {
            table: *table,
            kind,
            modifier: *modifier,
        });
        let columns: Vec<_> = columns.collect();
        SingleInsert::of(SQL, &columns, 5 * columns.len())
    }

    #[test]
    fn a_column_without_a_bound_or_a_table_in_doubt_needs_a_transaction() {
        let limited = (7, Type::VARCHAR, 4 + 40);
        assert!(insert(&[(7, Type::INT8, -1), limited.clone(), (0, Type::NUMERIC, -1)]).is_some());
        for columns in [
            vec![(7, Type::TEXT, -1)],
            vec![(7, Type::VARCHAR, -1)],
            vec![(7, Type::INT4, -1), (7, Type::JSONB, -1)],
            vec![(7, Type::INT4, -1), (8, Type::INT4, -1)],
            vec![(0, Type::INT4, -1)],
            vec![],
        ] {
            assert!(insert(&columns).is_none(), "{columns:?}");
        }
        let single = insert(&[limited]).expect("its size has a bound");
        single.learn(Some(true));
        assert!(single.is_safe(5 + 1 + 2 + 6 * 40 + 2, true));
        assert!(!single.is_safe(5 + 1 + 2 + 6 * 40 + 1, true));
    }

    #[test]
    fn the_catalogs_answer_holds_for_a_second() {
        let single = insert(&[(7, Type::INT4, -1)]).expect("its size has a bound");
        assert!(single.is_due() && !single.is_safe(1000, true));
        single.learn(Some(true));
        assert!(!single.is_due() && single.is_safe(1000, true));
        single.asked_at_ms.store(now_ms().saturating_sub(as_ms(AGE_MAX)), Relaxed);
        assert!(single.is_due() && !single.is_safe(1000, true));
        single.learn(Some(false));
        assert!(!single.is_due() && !single.is_safe(1000, true));
        single.learn(None);
        single.asked_at_ms.store(0, Relaxed);
        assert!(!single.is_due() && !single.is_safe(1000, true), "it is not asked again");
    }
}
