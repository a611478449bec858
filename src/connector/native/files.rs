//! The thread that reads files for answers: a disk may be slow, and no poller and no worker waits for it on behalf of a
//! client that reads slowly. It starts with the first file that does not leave at once.
//!
//! Each connection has at most one piece asked for, so what waits here is bounded by the connections.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::output::Piece;
use super::{Id, Mailbox, Message};

/// Where pollers ask for pieces.
#[derive(Debug, Default)]
pub(super) struct Files {
    sender: OnceLock<Sender<Asked>>,
}

#[derive(Debug)]
struct Asked {
    piece: Piece,
    id: Id,
    mailbox: Arc<Mailbox>,
}

impl Files {
    /// Has the piece read; the poller gets it as a [`Message::Piece`].
    pub(super) fn ask(&self, piece: Piece, id: Id, mailbox: &Arc<Mailbox>) {
        let sender = self.sender.get_or_init(|| {
            let (sender, receiver) = crossbeam_channel::unbounded();
            if let Err(error) = thread::Builder::new().name("files".into()).spawn(move || read_all(&receiver))
            {
                log::error!("cannot start the thread that reads files: {error}");
            }
            sender
        });
        let asked = Asked { piece, id, mailbox: Arc::clone(mailbox) };
        if let Err(failed) = sender.send(asked) {
            let Asked { id, mailbox, .. } = failed.0;
            mailbox.post(Message::Piece(id, Err(io::Error::other("no thread reads files"))));
        }
    }
}

/// Until the last poller has ended.
fn read_all(receiver: &Receiver<Asked>) {
    for Asked { piece, id, mailbox } in receiver {
        let read: io::Result<Bytes> = piece.read();
        mailbox.post(Message::Piece(id, read));
    }
}
