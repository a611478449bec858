//! Certificates of PostgreSQL's server as its manual makes them: self-signed, and of X.509 version 1.

use crate::support::{Postgres, wait_until};
use crate::{open, read};

/// A cluster whose certificate these commands make, in the server's directory.
fn server(commands: &str) -> Postgres {
    let prepare = format!("cd data && ({commands}) 2>openssl.log && chmod 600 server.key");
    Postgres::start_with(&prepare, "-c ssl=on")
}

/// The commands of the manual, 19.9.5.
const SELF_SIGNED: &str =
    "openssl req -new -x509 -days 365 -nodes -out server.crt -keyout server.key -subj /CN=localhost";

/// The same section's certificate from an authority. `openssl x509 -req` without extensions makes version 1.
const FROM_AN_AUTHORITY: &str = "\
    openssl req -new -nodes -out root.csr -keyout root.key -subj /CN=root && \
    printf 'basicConstraints=critical,CA:TRUE' > ca.cnf && \
    openssl x509 -req -in root.csr -days 365 -extfile ca.cnf -signkey root.key -out root.crt && \
    openssl req -new -nodes -out server.csr -keyout server.key -subj /CN=localhost && \
    openssl x509 -req -in server.csr -days 365 -CA root.crt -CAkey root.key -CAcreateserial -out server.crt";

/// Whether a session is encrypted; `Err` when it could not be opened. `%` is the directory of the certificates.
fn encrypted(server: &Postgres, host: &str, parameters: &str) -> Result<bool, String> {
    let directory = server.directory().join("data");
    let parameters = parameters.replace('%', &directory.display().to_string());
    let port = server.port();
    let url = format!("postgres://postgres@{host}:{port}/postgres?hostaddr=127.0.0.1&{parameters}");
    let database = open(&url, 1).map_err(|error| error.to_string())?;
    Ok(read(&database, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "{\"ssl\":true}")
}

#[test]
fn the_manuals_self_signed_certificate_is_its_own_authority() {
    let postgres = server(SELF_SIGNED);
    for (host, parameters) in [
        ("127.0.0.1", "sslmode=verify-ca"),
        ("localhost", "sslmode=verify-full"),
        ("LOCALHOST", "sslmode=verify-full"),
        ("127.0.0.1", "sslmode=require"),
    ] {
        let parameters = format!("{parameters}&sslrootcert=%/server.crt");
        assert_eq!(encrypted(&postgres, host, &parameters), Ok(true), "{host} {parameters}");
    }
    let error = encrypted(&postgres, "db.example", "sslmode=verify-full&sslrootcert=%/server.crt");
    assert!(error.as_ref().is_err_and(|error| error.contains("not valid for")), "{error:?}");
    let other = server(SELF_SIGNED);
    for mode in ["verify-ca", "verify-full", "require"] {
        let file = other.directory().join("data/server.crt");
        let parameters = format!("sslmode={mode}&sslrootcert={}", file.display());
        let error = encrypted(&postgres, "localhost", &parameters).unwrap_err();
        assert!(error.contains("certificate"), "{mode}: {error}");
    }
}

#[test]
fn a_certificate_of_version_1_is_used_where_nothing_is_verified() {
    let postgres = server(FROM_AN_AUTHORITY);
    for version in ["TLSv1.3", "TLSv1.2"] {
        postgres.psql("postgres", &format!("alter system set ssl_max_protocol_version = '{version}'"));
        postgres.psql("postgres", "select pg_reload_conf()");
        wait_until("the server does not reload", || {
            postgres.psql("postgres", "show ssl_max_protocol_version") == version
        });
        for mode in ["require", "prefer"] {
            let opened = encrypted(&postgres, "localhost", &format!("sslmode={mode}"));
            assert_eq!(opened, Ok(true), "{mode} with {version}");
        }
        // libpq verifies this chain. Here only the certificate itself may be trusted.
        for parameters in
            ["sslmode=verify-ca&sslrootcert=%/root.crt", "sslmode=require&sslrootcert=%/root.crt"]
        {
            let error = encrypted(&postgres, "localhost", parameters).unwrap_err();
            assert!(error.contains("version 1"), "{parameters}: {error}");
        }
        for mode in ["verify-ca", "verify-full"] {
            let parameters = format!("sslmode={mode}&sslrootcert=%/server.crt");
            assert_eq!(encrypted(&postgres, "localhost", &parameters), Ok(true), "{mode} with {version}");
        }
        let error =
            encrypted(&postgres, "other", "sslmode=verify-full&sslrootcert=%/server.crt").unwrap_err();
        assert!(error.contains("not valid for"), "{error}");
    }
}

/// libpq looks at the common name if there is no other name.
#[test]
fn a_common_name_counts_if_there_is_no_other_name() {
    let with_extensions = FROM_AN_AUTHORITY.replace("-in server.csr", "-extfile server.cnf -in server.csr");
    for (extensions, is_good) in [
        ("keyUsage=digitalSignature", true),
        ("subjectAltName=email:a@example.org", true),
        ("subjectAltName=DNS:db.example", false),
        ("subjectAltName=IP:127.0.0.2", false),
    ] {
        let postgres = server(&format!("printf '{extensions}' > server.cnf && {with_extensions}"));
        let opened = encrypted(&postgres, "localhost", "sslmode=verify-full&sslrootcert=%/root.crt");
        assert_eq!(opened.is_ok(), is_good, "{extensions}: {opened:?}");
    }
}
