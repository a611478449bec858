//! The parameters of a PostgreSQL URL: each one of libpq 18, and its treatment here.
//!
//! Pure. `docs/postgresql.md` has the same table for users, and a test compares them.

use super::super::Error;

/// The treatment of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// It is used.
    Taken,
    /// These values, in lower case, say what is done anyway. The text is the reason for refusing others.
    Fixed(&'static [&'static str], &'static str),
    /// Any value is accepted. It has no effect, for a reason that the documents give.
    WithoutEffect,
    /// It is refused, for this reason.
    Refused(&'static str),
}

/// A parameter of libpq.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The environment variable that stands in for it where the URL does not have it.
    pub(super) variable: Option<&'static str>,
    pub(super) treatment: Treatment,
    /// Whether its value is shown in messages. A value that may hold a password is not.
    pub(super) is_shown: bool,
}

const GSSAPI: &str = "GSSAPI is not supported";
const OAUTH: &str = "OAuth is not supported";
const SERVICE: &str = "service files are not read: write the parameters into the URL";
const REVOCATION: &str = "revocation lists are not read: remove it, or end TLS in a proxy that reads them";
const SCRAM_KEYS: &str = "SCRAM keys are not supported: give the password";

/// All parameters, sorted by their names.
pub(super) const PARAMETERS: &[Parameter] = {
    use Treatment::{Fixed, Refused, Taken, WithoutEffect};
    const fn of(
        name: &'static str,
        variable: &'static str,
        treatment: Treatment,
        is_shown: bool,
    ) -> Parameter {
        let variable = if variable.is_empty() { None } else { Some(variable) };
        Parameter { name, variable, treatment, is_shown }
    }
    &[
        of("application_name", "", Taken, true),
        of("channel_binding", "PGCHANNELBINDING", Taken, true),
        of(
            "client_encoding",
            "PGCLIENTENCODING",
            Fixed(&["utf8", "utf-8", "unicode"], "sessions are in UTF-8, as JSON is"),
            false,
        ),
        of("connect_timeout", "PGCONNECT_TIMEOUT", Taken, true),
        of("dbname", "PGDATABASE", Taken, true),
        of("fallback_application_name", "", WithoutEffect, false),
        of("gssdelegation", "PGGSSDELEGATION", Fixed(&["0"], GSSAPI), false),
        of("gssencmode", "PGGSSENCMODE", Fixed(&["disable", "prefer"], GSSAPI), false),
        of("gsslib", "PGGSSLIB", Refused(GSSAPI), false),
        of("host", "PGHOST", Taken, true),
        of("hostaddr", "PGHOSTADDR", Taken, true),
        of("keepalives", "", Taken, true),
        of("keepalives_count", "", Taken, true),
        of("keepalives_idle", "", Taken, true),
        of("keepalives_interval", "", Taken, true),
        of("krbsrvname", "PGKRBSRVNAME", Refused(GSSAPI), false),
        of("load_balance_hosts", "PGLOADBALANCEHOSTS", Taken, true),
        of(
            "max_protocol_version",
            "PGMAXPROTOCOLVERSION",
            Fixed(&["3.0", "3.2", "latest"], "version 3.0 of the protocol is spoken"),
            false,
        ),
        of(
            "min_protocol_version",
            "PGMINPROTOCOLVERSION",
            Fixed(&["3.0"], "version 3.0 of the protocol is spoken"),
            false,
        ),
        of("oauth_client_id", "", Refused(OAUTH), false),
        of("oauth_client_secret", "", Refused(OAUTH), false),
        of("oauth_issuer", "", Refused(OAUTH), false),
        of("oauth_scope", "", Refused(OAUTH), false),
        of("options", "PGOPTIONS", Taken, false),
        of("passfile", "PGPASSFILE", Taken, true),
        of("password", "PGPASSWORD", Taken, false),
        of("port", "PGPORT", Taken, true),
        of(
            "replication",
            "",
            Fixed(&["false", "off", "no", "0"], "a session for replication takes no statements of endpoints"),
            false,
        ),
        of(
            "require_auth",
            "PGREQUIREAUTH",
            Refused("the server chooses the method; channel_binding=require refuses all but SCRAM over TLS"),
            false,
        ),
        of(
            "requirepeer",
            "PGREQUIREPEER",
            Refused(
                "the server's user is not looked up: put the socket into a directory that only this user can write",
            ),
            false,
        ),
        of("scram_client_key", "", Refused(SCRAM_KEYS), false),
        of("scram_server_key", "", Refused(SCRAM_KEYS), false),
        of("service", "PGSERVICE", Refused(SERVICE), false),
        of("servicefile", "PGSERVICEFILE", Refused(SERVICE), false),
        of("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Taken, true),
        of("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Taken, true),
        of("sslcert", "PGSSLCERT", Taken, true),
        of("sslcertmode", "PGSSLCERTMODE", Taken, true),
        of(
            "sslcompression",
            "PGSSLCOMPRESSION",
            Fixed(&["0"], "TLS does not compress here, because compression can give secrets away"),
            false,
        ),
        of("sslcrl", "PGSSLCRL", Refused(REVOCATION), false),
        of("sslcrldir", "PGSSLCRLDIR", Refused(REVOCATION), false),
        of("sslkey", "PGSSLKEY", Taken, true),
        of("sslkeylogfile", "", Refused("keys of sessions are not written"), false),
        of("sslmode", "PGSSLMODE", Taken, true),
        of("sslnegotiation", "PGSSLNEGOTIATION", Taken, true),
        of(
            "sslpassword",
            "",
            Refused("encrypted keys are not supported: openssl pkey -in ENCRYPTED -out PLAIN"),
            false,
        ),
        of("sslrootcert", "PGSSLROOTCERT", Taken, true),
        of("sslsni", "PGSSLSNI", Taken, true),
        of("target_session_attrs", "PGTARGETSESSIONATTRS", Taken, true),
        of("tcp_user_timeout", "", Taken, true),
        of("user", "PGUSER", Taken, true),
    ]
};

/// The parameter with this name. `index` is its place in the URL, from 0 on.
///
/// # Errors
/// There is none. The message names the closest one.
pub(super) fn named(name: &str, index: usize) -> Result<&'static Parameter, Error> {
    if let Some(known) = PARAMETERS.iter().find(|parameter| parameter.name == name) {
        return Ok(known);
    }
    let like = |parameter: &&Parameter| strsim::jaro_winkler(parameter.name, name);
    let close = PARAMETERS.iter().max_by(|one, other| like(one).total_cmp(&like(other)));
    let number = index + 1;
    Err(Error::Url(match close.filter(|parameter| like(parameter) > 0.85) {
        Some(parameter) => format!("{name:?} is not a parameter of libpq; did you mean {}?", parameter.name),
        // It may be a piece of a password with an `&` in it, so it is not shown.
        None => format!("parameter {number} of the URL has a name that libpq does not know"),
    }))
}

impl Parameter {
    /// Whether the value is to be used.
    ///
    /// # Errors
    /// The value or the parameter is refused.
    pub(super) fn takes(&self, value: &str) -> Result<bool, Error> {
        match self.treatment {
            Treatment::Taken => Ok(true),
            Treatment::WithoutEffect => Ok(false),
            Treatment::Fixed(values, _) if values.contains(&value.to_ascii_lowercase().as_str()) => Ok(false),
            Treatment::Fixed(values, reason) => {
                let (name, values) = (self.name, values.join(" or "));
                Err(Error::Url(format!("{name}: expected {values}: {reason}")))
            }
            Treatment::Refused(reason) => Err(Error::Url(format!("{}: {reason}", self.name))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_document_has_the_same_table() {
        let names: Vec<_> = PARAMETERS.iter().map(|parameter| parameter.name).collect();
        assert!(names.is_sorted());
        let text = fs::read_to_string("docs/postgresql.md").expect("it is there");
        let documented: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect();
        let rows: Vec<_> =
            documented.iter().map(|row| (row[1], row[2], row[3].split([':', ' ']).next())).collect();
        let expected: Vec<_> = PARAMETERS
            .iter()
            .map(|parameter| {
                let treatment = match parameter.treatment {
                    Treatment::Taken => "taken",
                    Treatment::Fixed(..) => "fixed",
                    Treatment::WithoutEffect => "ignored",
                    Treatment::Refused(_) => "refused",
                };
                (parameter.name, parameter.variable.unwrap_or_default(), Some(treatment))
            })
            .collect();
        assert_eq!(rows, expected);
    }
}
