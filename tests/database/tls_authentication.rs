//! Logins over TLS: SCRAM that is bound to the connection, and certificates of clients.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Authority, Identity, Postgres};
use crate::{in_ms, open, read};

/// A server for `localhost` that knows the roles `scram`, `md5` and `certified`.
fn server() -> &'static (Postgres, Authority) {
    static SERVER: OnceLock<(Postgres, Authority)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let authority = Authority::new("authentication");
        let root = fs::read_to_string(authority.file()).unwrap();
        let prepare = format!(
            "echo '{root}' > data/root.crt; \
             echo 'local all postgres trust' > data/pg_hba.conf; \
             echo 'hostssl all certified all cert' >> data/pg_hba.conf; \
             echo 'host all md5 all md5' >> data/pg_hba.conf; \
             echo 'host all scram all scram-sha-256' >> data/pg_hba.conf"
        );
        let server = Postgres::start_encrypted_with(&authority, &prepare, "-c ssl_ca_file=root.crt");
        server.psql("postgres", "create role scram login password 'hunter2'; create role certified login");
        server.psql("postgres", "set password_encryption = 'md5'; create role md5 login password 'hunter2'");
        (server, authority)
    })
}

/// The user of a session; `Err` when it could not be opened. `%` is the directory of the certificates.
fn login(user: &str, parameters: &str) -> Result<String, String> {
    let (server, authority) = server();
    let parameters = parameters.replace('%', &authority.directory().display().to_string());
    let port = server.port();
    let url = format!("postgres://{user}@localhost:{port}/postgres?hostaddr=127.0.0.1&{parameters}");
    let database = open(&url, 1).map_err(|error| error.to_string())?;
    Ok(read(&database, "select session_user::text as name"))
}

#[test]
fn scram_is_bound_to_the_connection() {
    for parameters in [
        "channel_binding=require&sslmode=require",
        "channel_binding=require&sslmode=verify-full&sslrootcert=%/root.crt",
        "channel_binding=prefer&sslmode=require",
        "channel_binding=disable&sslmode=require",
        "channel_binding=prefer&sslmode=disable",
        "channel_binding=disable&sslmode=disable",
    ] {
        assert_eq!(login("scram:hunter2", parameters).as_deref(), Ok("{\"name\":\"scram\"}"), "{parameters}");
    }
    for (user, parameters) in [
        ("scram:hunter2", "channel_binding=require&sslmode=disable"),
        ("md5:hunter2", "channel_binding=require&sslmode=require"),
        ("scram:hunter3", "channel_binding=require&sslmode=require"),
    ] {
        let error = login(user, parameters).unwrap_err();
        assert!(!error.contains("hunter"), "{error}");
    }
    assert!(login("md5:hunter2", "channel_binding=prefer&sslmode=require").is_ok());
}

#[test]
fn a_clients_certificate_is_its_login() {
    let (_, authority) = server();
    let parameters = |Identity { certificate, key }: &Identity| {
        let (certificate, key) = (certificate.display(), key.display());
        format!("sslmode=verify-full&sslrootcert=%/root.crt&sslcert={certificate}&sslkey={key}")
    };
    let own = authority.client("certified");
    assert_eq!(login("certified", &parameters(&own)).as_deref(), Ok("{\"name\":\"certified\"}"));
    let other = Authority::new("authentication");
    for (identity, reason) in [
        (authority.client("somebody"), "certificate authentication failed"),
        (authority.expired_client("certified"), ""),
        (other.client("certified"), ""),
    ] {
        let error = login("certified", &parameters(&identity)).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    // The key's trouble is told before anything is sent.
    let script = format!(
        "cd '{}' && openssl pkey -in '{}' -aes256 -passout pass:x -out encrypted.key && \
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp521r1 -nodes -subj /CN=x -keyout p521.key -out p521.crt",
        authority.directory().display(),
        own.key.display()
    );
    let made = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| authority.directory().join(name);
    let encrypted = Identity { certificate: own.certificate.clone(), key: file("encrypted.key") };
    let unsupported = Identity { certificate: file("p521.crt"), key: file("p521.key") };
    for (identity, reason) in [(encrypted, "the key is encrypted"), (unsupported, "the curve secp521r1")] {
        let error = login("certified", &parameters(&identity)).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let hidden = format!("{}&sslcertmode=disable", parameters(&own));
    for parameters in ["sslmode=require", "sslmode=disable", &hidden] {
        assert!(login("certified", parameters).is_err(), "{parameters}");
    }
}

#[test]
fn the_versions_of_tls_are_those_of_the_url() {
    let (server, _) = server();
    for (parameters, version) in [
        ("ssl_max_protocol_version=TLSv1.2", "TLSv1.2"),
        ("ssl_min_protocol_version=TLSv1.3", "TLSv1.3"),
        ("sslsni=0", "TLSv1.3"),
    ] {
        let url = format!(
            "postgres://scram:hunter2@localhost:{}/postgres?hostaddr=127.0.0.1&sslmode=require&{parameters}",
            server.port()
        );
        let database = open(&url, 1).unwrap();
        let spoken = read(&database, "select version from pg_stat_ssl where pid = pg_backend_pid()");
        assert_eq!(spoken, format!("{{\"version\":\"{version}\"}}"), "{parameters}");
    }
}

/// Servers know it from version 17 on.
#[test]
fn tls_comes_first_where_the_url_says_so() {
    let (server, authority) = server();
    let version: u32 = server.psql("postgres", "show server_version_num").parse().unwrap();
    let begin = |parameters: &str| login("scram:hunter2", &format!("sslnegotiation=direct&{parameters}"));
    let opened = begin("sslmode=verify-full&sslrootcert=%/root.crt");
    assert_eq!(opened.is_ok(), version >= 170_000, "{version}: {opened:?}");
    // A cancel request goes the same way.
    if opened.is_ok() {
        let url = format!(
            "postgres://scram:hunter2@localhost:{}/postgres?hostaddr=127.0.0.1&sslnegotiation=direct&sslmode=verify-full\
             &sslrootcert={}",
            server.port(),
            authority.file().display()
        );
        let database = open(&url, 1).unwrap();
        let mut lent = database.checkout(in_ms(200)).unwrap();
        lent.postgres().unwrap().query("select pg_sleep(60)", &[]).unwrap_err();
        drop(lent);
        let sleeping = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        assert_eq!(server.psql("postgres", sleeping), "0");
    }
    assert!(begin("sslmode=prefer").unwrap_err().contains("sslmode=require"));
}
