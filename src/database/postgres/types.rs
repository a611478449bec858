//! The types that a database defines itself: enums, domains, composites, ranges and arrays of them.
//!
//! Owns [`Types`]. PostgreSQL's own types are known by their numbers. The session asks for each other type once, when a
//! statement first has it. Runs on the worker that borrowed the session.

use std::collections::HashMap;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use tokio_postgres::types::{Field, FromSql, Kind, Oid, Type};

use super::answer::{AnswerReader, RowTaker};
use super::fields::Fields;
use super::prepared::{Column, DescribedColumn, Prepared};
use super::wire::{Failure, Wait, Wire, unsendable};
use crate::database::Error;

/// The greatest depth of a type that consists of others. PostgreSQL refuses circles.
const DEPTH_MAX: usize = 64;

/// Asks `pg_type` about some types. Every name has its schema, because `search_path` may be anything.
const QUERY: &str = "select t.oid, t.typname::text, t.typtype::text, t.typelem, t.typbasetype, \
    coalesce(r.rngsubtype, 0::pg_catalog.oid), n.nspname::text, \
    array(select e.enumlabel::text from pg_catalog.pg_enum e where e.enumtypid = t.oid order by e.enumsortorder), \
    array(select a.attname::text from pg_catalog.pg_attribute a \
        where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum), \
    array(select a.atttypid from pg_catalog.pg_attribute a \
        where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) \
    from pg_catalog.pg_type t \
    join pg_catalog.pg_namespace n on n.oid = t.typnamespace \
    left join pg_catalog.pg_range r on r.rngtypid = t.oid \
    where t.oid = any($1::pg_catalog.oid[])";

/// The types that a session has met, by their numbers.
#[derive(Default)]
pub(super) struct Types(HashMap<Oid, Type>);

impl Types {
    /// Forgets all types, because one was altered.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    pub(super) fn known(&self, oid: Oid) -> Option<Type> {
        Type::from_oid(oid).or_else(|| self.0.get(&oid).cloned())
    }

    /// The columns of a description, if their types are known.
    pub(super) fn columns(&self, described: &[DescribedColumn]) -> Result<Vec<Column>, Error> {
        let columns = described.iter().map(|column| match self.known(column.kind) {
            Some(kind) => Ok(Column::new(column.name.clone(), kind)),
            None => Err(Error::UnsupportedType {
                column: column.name.clone(),
                type_name: format!("number {}, which is new", column.kind),
                instead: super::prepared::as_text(&column.name),
            }),
        });
        columns.collect()
    }

    /// Asks for unknown types. Each level of parts takes a round trip.
    pub(super) fn learn(
        &mut self,
        oids: impl Iterator<Item = Oid>,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<(), Failure> {
        let unknown = |oid: &Oid| *oid != 0 && self.known(*oid).is_none();
        let wanted: Vec<Oid> = oids.filter(unknown).collect();
        let (mut next, mut met) = (wanted.clone(), HashMap::<Oid, TypeRow>::new());
        while !next.is_empty() {
            let described = ask(&next, wire, wait)?;
            let parts = described.iter().flat_map(TypeRow::parts).filter(unknown).collect::<Vec<_>>();
            met.extend(described.into_iter().map(|one| (one.oid, one)));
            next = parts;
            next.retain(|oid| !met.contains_key(oid));
        }
        for oid in wanted {
            let made = self.make(oid, &met, DEPTH_MAX)?;
            self.0.insert(oid, made);
        }
        Ok(())
    }

    fn make(&self, oid: Oid, met: &HashMap<Oid, TypeRow>, depth: usize) -> Result<Type, Error> {
        if let Some(known) = self.known(oid) {
            return Ok(known);
        }
        let described = met
            .get(&oid)
            .filter(|_| depth > 0)
            .ok_or_else(|| Error::Usage(format!("the database does not know the type number {oid}")))?;
        let part = |oid| self.make(oid, met, depth - 1);
        let kind = match &*described.kind {
            "e" => Kind::Enum(described.labels.clone()),
            "p" => Kind::Pseudo,
            "d" => Kind::Domain(part(described.base)?),
            "c" => {
                let fields = described.field_names.iter().zip(&described.field_types);
                let fields = fields.map(|(name, oid)| Ok(Field::new(name.clone(), part(*oid)?)));
                Kind::Composite(fields.collect::<Result<_, Error>>()?)
            }
            "r" if described.subtype != 0 => Kind::Range(part(described.subtype)?),
            _ if described.element != 0 => Kind::Array(part(described.element)?),
            _ => Kind::Simple,
        };
        Ok(Type::new(described.name.clone(), oid, kind, described.schema.clone()))
    }
}

/// A row of the answer.
struct TypeRow {
    oid: Oid,
    name: String,
    kind: String,
    element: Oid,
    base: Oid,
    subtype: Oid,
    schema: String,
    labels: Vec<String>,
    field_names: Vec<String>,
    field_types: Vec<Oid>,
}

impl TypeRow {
    fn of(fields: &[u8]) -> Option<Self> {
        let mut fields = Fields(fields);
        Some(Self {
            oid: next(&mut fields, &Type::OID)?,
            name: next(&mut fields, &Type::TEXT)?,
            kind: next(&mut fields, &Type::TEXT)?,
            element: next(&mut fields, &Type::OID)?,
            base: next(&mut fields, &Type::OID)?,
            subtype: next(&mut fields, &Type::OID)?,
            schema: next(&mut fields, &Type::TEXT)?,
            labels: next(&mut fields, &Type::TEXT_ARRAY)?,
            field_names: next(&mut fields, &Type::TEXT_ARRAY)?,
            field_types: next(&mut fields, &Type::OID_ARRAY)?,
        })
    }

    /// The types of its parts.
    fn parts(&self) -> impl Iterator<Item = Oid> + '_ {
        [self.element, self.base, self.subtype].into_iter().chain(self.field_types.iter().copied())
    }
}

fn next<'a, T: FromSql<'a>>(fields: &mut Fields<'a>, kind: &Type) -> Option<T> {
    T::from_sql(kind, fields.next()??).ok()
}

/// The rows of the answer.
#[derive(Default)]
struct Rows(Vec<TypeRow>);

impl RowTaker for Rows {
    fn row(&mut self, _: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        let described = TypeRow::of(fields);
        self.0.push(described.ok_or_else(|| Error::Lost("it described a type in another form".to_owned()))?);
        Ok(())
    }
}

fn ask(oids: &[Oid], wire: &mut Wire, wait: &mut Wait<'_>) -> Result<Vec<TypeRow>, Failure> {
    /// The number of columns of [`QUERY`].
    const COLUMNS: usize = 10;
    let list: Vec<String> = oids.iter().map(Oid::to_string).collect();
    let list = format!("{{{}}}", list.join(","));
    wire.begin_batch();
    let batch = wire.batch();
    frontend::parse("", QUERY, [Type::OID_ARRAY.oid()], batch).map_err(unsendable)?;
    let text = |(), out: &mut bytes::BytesMut| {
        out.extend_from_slice(list.as_bytes());
        Ok(postgres_protocol::IsNull::No)
    };
    frontend::bind("", "", [0], [()], text, [1], batch)
        .map_err(|_| Error::Usage("too many types at once".to_owned()))?;
    frontend::execute("", 0, batch).map_err(unsendable)?;
    wire.add_sync();
    wire.send(wait)?;
    let mut rows = Rows::default();
    AnswerReader::default().read(wire, wait, &Arc::new(Prepared::of_columns(COLUMNS)), QUERY, &mut rows)?;
    Ok(rows.0)
}
