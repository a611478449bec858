//! Opens sessions on a MySQL or MariaDB server.
//!
//! Owns [`Driver`]. Runs on the pool's threads; the URL is read on the main thread.

use std::sync::Arc;

use super::connect::Connector;
use super::session::{self, Session};
use super::url::{self, FORM, SCHEMES, Target};
use crate::base::deadline::Deadline;
use crate::config::{self, sql::Dialect};
use crate::database::driver::{self, Provider};
use crate::database::settings::Settings;
use crate::database::statement::Notation;
use crate::database::{Error, Kind};

/// MySQL in the table of databases.
pub(in crate::database) const PROVIDER: Provider = Provider {
    kind: Kind::Mysql,
    schemes: &SCHEMES,
    url_form: FORM,
    driver: |url, settings| Ok(Box::new(Driver::new(url, settings)?)),
    display_url: url::display,
};

/// Opens sessions on one server.
struct Driver {
    connector: Connector,
    settings: Arc<Settings>,
}

impl Driver {
    fn new(url: &str, configured: &config::Database) -> Result<Self, Error> {
        let connector = Connector::new(Target::parse(url)?)?;
        Ok(Self { connector, settings: Arc::new(Settings::new(configured)) })
    }

    fn open_session(&self, deadline: Deadline) -> Result<Session, Error> {
        let program = self.settings.application_name();
        self.connector.open(&program, deadline, |opened, limit| session::open(opened, &self.settings, limit))
    }
}

impl driver::Driver for Driver {
    fn kind(&self) -> Kind {
        Kind::Mysql
    }

    fn database_name(&self) -> &str {
        self.connector.target.database.as_deref().unwrap_or_default()
    }

    fn dialect(&self) -> Dialect {
        Dialect::Mysql
    }

    fn notation(&self) -> Notation {
        Notation::Positional
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
}
