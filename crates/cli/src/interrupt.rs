//! Ctrl-C: stops the reply that is being generated, or else the program.

use std::process;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::generate::Message;

/// Exit code after Ctrl-C, as shells have it.
const CODE: i32 = 130;

type Target = Arc<Mutex<Option<Sender<Message>>>>;

/// Where Ctrl-C goes.
#[derive(Debug, Clone)]
pub struct Interrupt {
    target: Target,
}

/// While it lives, Ctrl-C goes to one reply.
#[derive(Debug)]
pub struct Guard {
    target: Target,
}

impl Interrupt {
    /// Takes over Ctrl-C for this process.
    pub fn install() -> Interrupt {
        let target = Target::default();
        let handler = {
            let target = target.clone();
            move || match lock(&target).as_ref() {
                Some(reply) if reply.send(Message::Interrupted).is_ok() => {}
                _ => process::exit(CODE),
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("warning: Ctrl-C will end the program, not only a reply: {error}");
        }
        Interrupt { target }
    }

    /// Sends Ctrl-C to `reply` until the guard is dropped.
    pub fn to(&self, reply: Sender<Message>) -> Guard {
        *lock(&self.target) = Some(reply);
        Guard { target: self.target.clone() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *lock(&self.target) = None;
    }
}

fn lock(target: &Target) -> std::sync::MutexGuard<'_, Option<Sender<Message>>> {
    target.lock().unwrap_or_else(PoisonError::into_inner)
}
