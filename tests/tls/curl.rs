//! curl, whose TLS is OpenSSL's and not ours.

use std::path::Path;

use wharf::config::{ClientAuth, TlsVersion};

use super::known;
use super::program_of_system::{Said, run};
use super::served::Served;

/// What `-T` sends.
const UPLOAD: usize = 100 << 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary file's name is UTF-8")
}

/// Runs curl with these arguments and without a user's configuration. It trusts the server's authority.
fn curl(server: &Served, arguments: &[&str]) -> Said {
    let authority = server.authority.file();
    let resolve = format!("localhost:{}:127.0.0.1", server.address().port());
    let plain = ["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"];
    let trusting = ["--cacert", text(&authority), "--resolve", &resolve];
    run("curl", &[&plain[..], &trusting, arguments].concat())
}

/// Runs curl, which must succeed.
fn fetch(server: &Served, arguments: &[&str]) -> Said {
    let said = curl(server, arguments);
    assert_eq!(said.code, 0, "curl {arguments:?}: {}", said.stderr);
    said
}

fn url(server: &Served, path: &str) -> String {
    format!("https://localhost:{}{path}", server.address().port())
}

#[test]
fn curl_gets_and_posts_in_either_version_and_offers_h2() {
    let server = Served::start();
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http1.1"], &["--http2"], &["--no-alpn"]] {
        let ask = |arguments: &[&str]| fetch(&server, &[version, arguments].concat());
        let report = "\n%{http_code} %{http_version} %{num_connects} %{ssl_verify_result}\n";
        let said = ask(&["-w", report, &url(&server, "/path/1"), &url(&server, "/path/2")]);
        assert_eq!(said.text(), "/path/1?\n200 1.1 1 0\n/path/2?\n200 1.1 0 0\n", "{version:?}");
        assert_eq!(ask(&["-d", "abc", &url(&server, "/echo")]).text(), "abc", "{version:?}");
        let head = ask(&["-I", &url(&server, "/large")]);
        assert!(head.text().contains("\r\ncontent-length: 20971520\r\n"), "{}", head.text());
    }
    server.finish();
}

#[test]
fn curl_gets_all_of_a_large_answer() {
    let server = Served::start();
    for (version, path) in [("1.2", "/large-stream"), ("1.3", "/large-file"), ("1.3", "/large-stream")] {
        let said = fetch(&server, &["--tls-max", version, &url(&server, path)]);
        assert!(said.stdout == known::bytes(super::served::LARGE), "{version} {path}: {}", said.stdout.len());
    }
    // A body without length or chunks: only close_notify tells its end.
    let said = fetch(&server, &["--http1.0", &url(&server, "/large-stream")]);
    assert!(said.stdout == known::bytes(super::served::LARGE), "{}", said.stdout.len());
    server.finish();
}

#[test]
fn an_upload_of_curl_streams_whole() {
    let server = Served::start();
    let file = known::file(UPLOAD);
    for (version, framing) in [("1.3", "X-No: change"), ("1.2", "Transfer-Encoding: chunked")] {
        let said = fetch(
            &server,
            &["--tls-max", version, "-T", text(file.path()), "-H", framing, &url(&server, "/known")],
        );
        assert_eq!(said.text(), format!("{UPLOAD} bytes, known: true"), "{version} {framing}");
    }
    server.finish();
}

#[test]
fn curl_shows_its_certificate_or_is_refused() {
    let server = Served::start_with(|config, authority| {
        config.tls.client_auth = ClientAuth::Required;
        config.tls.client_ca = Some(authority.file());
    });
    let pair = server.authority.client("curl");
    let certificate = rustls::pki_types::pem::PemObject::from_pem_file(&pair.certificate);
    let certificate: rustls::pki_types::CertificateDer<'_> = certificate.expect("it was written");
    for version in ["1.2", "1.3"] {
        let with = ["--tls-max", version, "--cert", text(&pair.certificate), "--key", text(&pair.key)];
        let said = fetch(&server, &[&with[..], &[&url(&server, "/certificate")]].concat());
        assert!(said.stdout == *certificate, "{version}");
        let said = curl(&server, &["--tls-max", version, &url(&server, "/certificate")]);
        assert!(said.code != 0 && said.stderr.contains("certificate required"), "{version}: {}", said.stderr);
    }
    server.finish();
}

#[test]
fn curl_of_an_older_version_is_refused_where_the_configuration_says_so() {
    const CANNOT_CONNECT: i32 = 35;
    let server = Served::start_with(|config, _| config.tls.min_version = TlsVersion::V13);
    let said = curl(&server, &["--tls-max", "1.2", &url(&server, "/path/x")]);
    assert_eq!(said.code, CANNOT_CONNECT, "{}", said.stderr);
    assert_eq!(fetch(&server, &["--tlsv1.3", &url(&server, "/path/x")]).text(), "/path/x?");
    server.finish();
}
