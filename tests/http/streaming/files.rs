//! Files as answers: whole, in order, and read no faster than their clients take them.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

const LARGE: usize = 50 * MIB;

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    /// `large`, which is 50 MiB, `empty`, and what else is written.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = Self { directory };
        files.write("large", LARGE);
        files.write("empty", 0);
        files
    }

    fn write(&self, name: &str, length: usize) {
        let mut file = File::create(self.path(name)).expect("a temporary file");
        for start in (0..length).step_by(PATTERN.len()) {
            file.write_all(&PATTERN[..PATTERN.len().min(length - start)]).expect("a temporary file");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A server with the files below `/worker` and `/poller`, after who answers with them.
    fn serve(&self, change: impl FnOnce(&mut Config)) -> Running {
        let (of_worker, of_poller) = (self.directory.path().to_owned(), self.directory.path().to_owned());
        let worker = move |request: &Request, _: &mut Context<'_>| Ok(file(&of_worker, request));
        let poller = move |request: &Request| file(&of_poller, request);
        start(server(change).get("/worker/{name}", worker).get_immediate("/poller/{name}", poller))
    }
}

fn file(directory: &Path, request: &Request) -> Response {
    let name = request.path_value("name").expect("it is in the route");
    let file = File::open(directory.join(name)).expect("it was written");
    Response::file("application/octet-stream", file).expect("it has a length")
}

#[test]
fn a_file_arrives_whole_and_in_order_and_so_do_answers_pipelined_behind_it() {
    let files = Files::new();
    for connector in BOTH {
        let server = files.serve(|config| config.server.connector = connector);
        for who in ["worker", "poller"] {
            let mut client = Client::connect(server.address());
            for path in
                [format!("/{who}/large"), "/quick".into(), format!("/{who}/empty"), "/immediate".into()]
            {
                client.request("GET", &path, &[], "");
            }
            assert_eq!(Seen::all(&client.answer().body), LARGE, "{connector:?}, {who}");
            assert_eq!(client.answer().text(), "quick");
            assert_eq!(client.answer().text(), "");
            assert_eq!(client.answer().text(), "immediate");
        }
        end(server);
    }
}

#[test]
fn a_file_of_any_length_arrives_with_its_length_and_head_has_that_only() {
    const PIECE: usize = 128 * KIB;
    let files = Files::new();
    let server = files.serve(|_| {});
    let mut client = Client::connect(server.address());
    for length in [1, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 4 * PIECE + 1, 9 * PIECE] {
        files.write("other", length);
        for who in ["worker", "poller"] {
            for method in ["HEAD", "GET"] {
                client.request(method, &format!("/{who}/other"), &[], "");
                let answer = if method == "HEAD" { client.head_answer() } else { client.answer() };
                assert_eq!(answer.header("Content-Length"), Some(length.to_string().as_str()));
                assert_eq!(answer.header("Transfer-Encoding"), None);
                assert!(method == "HEAD" || Seen::all(&answer.body) == length, "{who}, {length}");
            }
        }
    }
    drop(client);
    end(server);
}

#[test]
fn a_slow_client_of_a_file_holds_no_worker_and_gets_every_byte() {
    let files = Files::new();
    let server = files.serve(|_| {});
    for who in ["worker", "poller"] {
        let mut slow: Vec<Client> = (0..2).map(|_| ask(&server, &format!("/{who}/large"))).collect();
        for _ in 0..10 {
            assert_serves(&server);
            assert_eq!(ask(&server, "/immediate").answer().text(), "immediate");
        }
        for client in &mut slow {
            client.request("GET", "/quick", &[], "");
            assert_eq!(Seen::all(&client.answer().body), LARGE, "{who}");
            assert_eq!(client.answer().text(), "quick");
        }
    }
    end(server);
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_is_seen_to_be_incomplete() {
    let files = Files::new();
    for who in ["worker", "poller"] {
        let server = files.serve(|_| {});
        files.write("shrinking", LARGE);
        let client = ask(&server, &format!("/{who}/shrinking"));
        read_through(client.stream(), "\r\n\r\n");
        File::options()
            .write(true)
            .open(files.path("shrinking"))
            .and_then(|file| file.set_len(1000))
            .expect("a file can be cut");
        let (rest, ending) = read_to_end(client.stream());
        assert!(rest.len() < LARGE && ending == Ending::Reset, "{who}: {} bytes, {ending:?}", rest.len());
        // One that is too short from its first byte on.
        assert_serves(&server);
        end(server);
    }
}
