//! The thread that reads files for answers. A disk may be slow, so no poller waits for it. No worker reads a file for a
//! client that takes the answer slowly. The thread starts with the first file that does not leave at once.
//!
//! Each connection requests at most one piece at a time, so the connections bound the number of waiting requests.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::output::Piece;
use super::{Id, Mailbox, Message};

/// Takes the pollers' requests for pieces of files.
#[derive(Debug, Default)]
pub(super) struct Files {
    sender: OnceLock<Sender<PieceRequest>>,
}

#[derive(Debug)]
struct PieceRequest {
    piece: Piece,
    id: Id,
    mailbox: Arc<Mailbox>,
}

impl Files {
    /// Requests a piece. The poller gets it as a [`Message::Piece`].
    pub(super) fn request(&self, piece: Piece, id: Id, mailbox: &Arc<Mailbox>) {
        let sender = self.sender.get_or_init(|| {
            let (sender, receiver) = crossbeam_channel::unbounded();
            if let Err(error) = thread::Builder::new().name("files".into()).spawn(move || read_all(&receiver))
            {
                log::error!("cannot start the thread that reads files: {error}");
            }
            sender
        });
        let request = PieceRequest { piece, id, mailbox: Arc::clone(mailbox) };
        if let Err(failed) = sender.send(request) {
            let PieceRequest { id, mailbox, .. } = failed.0;
            mailbox.post(Message::Piece(id, Err(io::Error::other("no thread reads files"))));
        }
    }
}

/// Reads pieces until the last poller has ended.
fn read_all(receiver: &Receiver<PieceRequest>) {
    for PieceRequest { piece, id, mailbox } in receiver {
        let read: io::Result<Bytes> = piece.read();
        mailbox.post(Message::Piece(id, read));
    }
}
