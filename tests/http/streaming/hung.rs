//! A file system that does not answer, as that of a network whose server is away. The test is its server (FUSE).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::*;
use crate::support::{is_root, wait_until};

const LENGTH: u64 = 1 << 20;

/// A file system with one file, `file`, which can be found and opened, and whose bytes never come.
struct Hung {
    directory: tempfile::TempDir,
    reads: Arc<AtomicUsize>,
}

impl Hung {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("Linux has FUSE");
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "hung"])
            .arg(directory.path())
            .args(["-o", "fd=0,rootmode=40000,user_id=0,group_id=0"])
            .stdin(Stdio::from(device.try_clone().expect("a descriptor")))
            .status();
        assert!(mounted.expect("mount runs").success());
        let reads = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&reads);
        thread::spawn(move || serve_requests(device, &count));
        Self { directory, reads }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("file")
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // The first ends all requests that wait, and may find that the file is open. The second removes the directory's mount.
        for how in ["-f", "-l"] {
            let _ = Command::new("umount").arg(how).arg(self.directory.path()).stderr(Stdio::null()).status();
        }
    }
}

/// Answers the kernel's requests but READ, until the file system is unmounted. The numbers are those of `linux/fuse.h`.
fn serve_requests(mut device: File, reads: &AtomicUsize) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        let opcode = u32::from_ne_bytes(request[4..8].try_into().expect("four bytes"));
        let node = u64::from_ne_bytes(request[16..24].try_into().expect("eight bytes"));
        assert!(length >= 40, "a header has 40 bytes");
        let answer = match opcode {
            // LOOKUP: node 2, generation 0, and how long the kernel may remember it.
            1 => Ok([words(&[2, 0, 60, 60, 0]), attributes(2)].concat()),
            // FORGET, BATCH_FORGET and INTERRUPT have no answer.
            2 | 42 | 36 => continue,
            // GETATTR
            3 => Ok([words(&[60, 0]), attributes(node)].concat()),
            // OPEN, OPENDIR: a handle, and FOPEN_KEEP_CACHE. Without that flag, opening the file again waits for its bytes.
            14 | 27 => Ok(words(&[1, 2])),
            15 => {
                reads.fetch_add(1, Relaxed);
                continue;
            }
            // INIT: version 7.31, and 56 further bytes of which none asks for anything.
            26 => {
                Ok([7_u32.to_ne_bytes(), 31_u32.to_ne_bytes()].concat().into_iter().chain([0; 56]).collect())
            }
            // ENOSYS
            _ => Err(-38_i32),
        };
        let body = answer.as_deref().unwrap_or_default();
        let error = answer.as_ref().err().copied().unwrap_or_default();
        let length = u32::try_from(16 + body.len()).expect("a short answer");
        let head = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &request[8..16]].concat();
        // A request that has ended meanwhile takes no answer.
        let _ = device.write(&[&head[..], body].concat());
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Number, length, blocks and three times; then modes, links and owner as halves of words.
fn attributes(node: u64) -> Vec<u8> {
    let mode: u32 = if node == 1 { 0o040_755 } else { 0o100_644 };
    let halves = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    let halves = halves.iter().flat_map(|half: &u32| half.to_ne_bytes());
    words(&[node, LENGTH, LENGTH / 512, 0, 0, 0]).into_iter().chain(halves).collect()
}

#[test]
fn a_file_system_that_hangs_holds_up_no_file_of_another() {
    // Only root may mount.
    if !is_root() {
        return;
    }
    let hung = Hung::mount();
    let good = tempfile::NamedTempFile::new().expect("a temporary file");
    good.as_file().set_len(LENGTH).expect("it grows");
    let handler = |path: PathBuf| {
        move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            Ok(Response::file("application/octet-stream", File::open(&path)?)?)
        }
    };
    let routes =
        server(|_| {}).get("/hung", handler(hung.file())).get("/good", handler(good.path().to_owned()));
    let server = start(routes);
    let mut waiting: Vec<Client> = (0..12).map(|_| ask(&server, "/hung")).collect();
    wait_until("nobody reads the file", || hung.reads.load(Relaxed) > 0);
    for _ in 0..3 {
        assert_eq!(ask(&server, "/good").answer().body.len() as u64, LENGTH);
    }
    assert!(hung.reads.load(Relaxed) < 8, "some threads are left");
    drop(hung);
    for client in &mut waiting {
        client.rest();
    }
    drop(waiting);
    end(server);
}
