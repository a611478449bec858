//! Opens sessions on a PostgreSQL server.
//!
//! Owns [`Driver`]: the server behind a URL, and the common parts of its sessions. A new session gets its settings
//! here, unless a pooler would lend it to others as well. Runs on the pool's threads; the URL is read on the main
//! thread.

use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::config::Host;

use super::effects::SessionEffects;
use super::session::Session;
use super::wire::Wire;
use super::{cleaning, pooler, simple, url};
use crate::base::deadline::Deadline;
use crate::config;
use crate::database::driver::{self, Provider};
use crate::database::hosts::Hosts;
use crate::database::limit::Limit;
use crate::database::settings::{LEAVES_TRANSACTION, Settings};
use crate::database::statement::Notation;
use crate::database::{Category, Error, Kind};

/// PostgreSQL in the table of databases.
pub(in crate::database) const PROVIDER: Provider = Provider {
    kind: Kind::Postgres,
    schemes: &["postgres://", "postgresql://"],
    url_form: "postgres://user@host/database",
    driver: |url, settings| Ok(Box::new(Driver::new(url, settings)?)),
    display_url: url::display,
};

/// A connection outside any pool, by the plain `postgres` crate. It is for loading data and other work before a server
/// starts. TLS is as the URL says.
///
/// # Errors
/// [`Error::Url`] and [`Error::Open`], as for a pool.
pub fn client(url: &str) -> Result<::postgres::Client, Error> {
    let driver = Driver::new(url, &config::Database::default())?;
    // The plain crate has no bound on a login. So a session is opened first, and shows which host takes one.
    let (wire, _) =
        driver.open_wire(Deadline::after(config::Database::default().initialization_fail_timeout))?;
    let place = wire.place().clone();
    drop(wire);
    let mut failure = String::new();
    for mode in driver.target.tls.attempts() {
        let mut config = driver.target.with_password(&driver.config(), &place);
        config.ssl_mode(*mode).port(place.port);
        match &place.host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(directory) => config.host_path(directory),
        };
        if let Some(address) = place.address {
            config.hostaddr(address);
        }
        match ::postgres::Config::from(config).connect(driver.tls.clone()) {
            Ok(client) => return Ok(client),
            Err(error) => failure = url::explain(&error),
        }
    }
    Err(Error::Open { target: driver.target.name, reason: failure, transient: false })
}

/// Opens sessions on one server.
pub(super) struct Driver {
    target: url::Target,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
    hosts: Hosts,
    settings: Arc<Settings>,
    effects: Arc<SessionEffects>,
}

impl Driver {
    pub(super) fn new(url: &str, configured: &config::Database) -> Result<Self, Error> {
        let target = url::Target::parse(url)?;
        let tls = target.tls.connector().map_err(Error::Url)?;
        let settings = Arc::new(Settings::new(configured));
        Ok(Self { target, tls, hosts: Hosts::default(), settings, effects: Arc::default() })
    }

    /// Opens a session by `deadline`.
    pub(super) fn open_session(&self, deadline: Deadline) -> Result<Session, Error> {
        let (mut wire, process) = self.open_wire(deadline)?;
        let initial_settings = self.initialize(&mut wire, process, deadline)?;
        let limit = Limit::until(deadline);
        // The server has next to nothing to do in this round trip, so it shows the distance.
        let began = Instant::now();
        let isolation =
            simple::run(&mut wire, "show default_transaction_isolation", &limit).map_err(|error| {
                self.unusable(format!("a new session: {}", error.in_full()), may_pass(&error))
            })?;
        wire.note_round_trip(began.elapsed());
        let isolation = isolation.first().and_then(|row| row.first()?.as_deref());
        let mut session = Session::new(wire, &self.settings, &self.effects, initial_settings, limit);
        session.reads_join_transactions = isolation != Some("serializable");
        Ok(session)
    }

    /// The connection parameters of a new session.
    fn config(&self) -> tokio_postgres::Config {
        let mut config = self.target.config.clone();
        if self.target.config.get_application_name().is_none() {
            config.application_name(self.settings.application_name());
        }
        config
    }

    fn open_wire(&self, deadline: Deadline) -> Result<(Wire, Option<i32>), Error> {
        Wire::open(&self.target, &self.config(), &self.tls, &self.hosts, deadline)
    }

    /// The error of a session that was opened but cannot be used.
    fn unusable(&self, reason: String, transient: bool) -> Error {
        Error::Open { target: self.target.name.clone(), reason, transient }
    }

    /// Gives a new session its settings, unless a pooler would lend it to others as well. Returns the SQL that sets
    /// them again.
    fn initialize(
        &self,
        wire: &mut Wire,
        process: Option<i32>,
        deadline: Deadline,
    ) -> Result<Box<str>, Error> {
        let limit = Limit::until(deadline);
        let failed = |what: &str, error: &Error| {
            self.unusable(format!("{what}: {}", error.in_full()), may_pass(error))
        };
        let set =
            pooler::set_if_direct(wire, process, &limit).map_err(|error| failed("a new session", &error))?;
        let mut settings = Box::<str>::from(cleaning::SETTINGS);
        if let Some(server_process) = set {
            let patience = pooler::PATIENCE.min(deadline.left() / 3);
            let open = || Ok(self.open_wire(deadline.within(patience))?.0);
            match pooler::shares(wire, &server_process, open, &limit, patience) {
                Ok(false) => {}
                Ok(true) => return Err(self.unusable(pooler::ADVICE.to_owned(), false)),
                Err(error) => return Err(failed("a new session", &error)),
            }
            settings = pooler::settings(&self.config()).into();
            simple::run(wire, &settings, &limit).map_err(|error| failed("a new session", &error))?;
            wire.has_pooler = true;
        }
        if let Some(sql) = self.settings.init_sql() {
            let left = simple::leaves_transaction(wire, &sql, &limit);
            if left.map_err(|error| failed("connection_init_sql", &error))? {
                return Err(self.unusable(format!("connection_init_sql: {LEAVES_TRANSACTION}"), false));
            }
        }
        Ok(settings)
    }
}

/// Whether opening a session may succeed a moment later.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => {
            matches!(refusal.category, Category::Down | Category::Busy | Category::Exhausted)
        }
        _ => true,
    }
}

impl driver::Driver for Driver {
    fn kind(&self) -> Kind {
        Kind::Postgres
    }

    /// The database's name, which is the user's name if the URL has none.
    fn database_name(&self) -> &str {
        let config = &self.target.config;
        config.get_dbname().or(config.get_user()).unwrap_or_default()
    }

    fn application_name(&self) -> Option<&str> {
        self.target.config.get_application_name()
    }

    fn notation(&self) -> Notation {
        Notation::Numbered('$')
    }

    fn takes_comments(&self) -> bool {
        true
    }

    fn shares_round_trips(&self) -> bool {
        true
    }

    fn reconfigure(&self, configured: &config::Database) -> bool {
        self.settings.set(configured)
    }

    fn open(&self, deadline: Deadline) -> Result<Box<dyn driver::Session>, Error> {
        Ok(Box::new(self.open_session(deadline)?))
    }

    fn forget_statements(&self) {
        self.settings.note_schema_change();
    }
}
