//! A reverse proxy as a child process, with a directory and a port of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::program::find;
use crate::support::{Client, PATIENCE};

/// The path that the proxy answers itself, with text that ends in its directory's name. Another program that has taken
/// the port does not know that name.
pub(crate) const ALIVE: &str = "/proxy-is-alive";

/// A running proxy, killed on drop.
pub(crate) struct Proxy {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts a program that stays in the foreground as one process.
    ///
    /// It runs in a directory of its own; `configuration` makes the text of its file `conf` out of that directory's name
    /// and the port to listen on.
    pub(crate) fn start(
        program: &str,
        arguments: &[&str],
        configuration: impl Fn(&str, u16) -> String,
    ) -> Self {
        const TRIES: usize = 5;
        let mut failures = String::new();
        // Another process may take the free port before the proxy does.
        for _ in 0..TRIES {
            let (directory, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
            let name = name(&directory);
            std::fs::write(directory.path().join("conf"), configuration(name, port))
                .expect("a temporary file");
            let child = spawn(program, arguments, directory.path());
            let mut proxy = Self { child, port, directory };
            match proxy.wait_until_alive() {
                Ok(()) => return proxy,
                Err(failure) => failures.push_str(&failure),
            }
        }
        panic!("{program} did not start in {TRIES} tries:\n{failures}");
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A new connection to it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// The log so far.
    fn log(&self) -> String {
        let log = std::fs::read(self.directory.path().join("log")).expect("the log is there from the start");
        String::from_utf8_lossy(&log).into_owned()
    }

    fn wait_until_alive(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !self.answers().is_ok_and(|answer| answer.ends_with(name(&self.directory))) {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return Err(format!("it ended, {status}:\n{}", self.log()));
            }
            if Instant::now() > until {
                return Err(format!("it does not answer:\n{}", self.log()));
            }
            thread::sleep(crate::support::LOOK);
        }
        Ok(())
    }

    fn answers(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(stream, "GET {ALIVE} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the proxy said:\n{}", self.log());
        }
    }
}

/// Both streams go into the file `log`.
fn spawn(program: &str, arguments: &[&str], directory: &Path) -> Child {
    let log = std::fs::File::create(directory.join("log")).expect("a temporary file");
    let error_log = log.try_clone().expect("a file can be opened twice");
    // It ends with the thread that runs the test, also when nothing is dropped.
    Command::new(find("setpriv"))
        .arg("--pdeathsig=KILL")
        .arg(find(program))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(error_log)
        .spawn()
        .expect("setpriv runs")
}

fn name(directory: &tempfile::TempDir) -> &str {
    directory.path().to_str().expect("a temporary directory's name is UTF-8")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
