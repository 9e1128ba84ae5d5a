//! A TCP relay between a client and its server.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::system::until;

/// Carries TCP connections to a port of this machine, and can keep back what comes from there.
#[derive(Default)]
pub struct Relay {
    /// How many connections were made.
    made: AtomicUsize,
    /// What comes on the connections before this one is kept back.
    first_carried: AtomicUsize,
    /// How many bytes were kept back.
    kept_back: AtomicUsize,
    open: Mutex<Vec<(usize, TcpStream)>>,
}

impl Relay {
    /// Starts a relay to a port; returns it with its own port.
    #[track_caller]
    pub fn to(port: u16) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let relay = Arc::new(Self::default());
        thread::spawn({
            let relay = relay.clone();
            move || {
                for near in listener.incoming() {
                    relay.carry(near.unwrap(), port);
                }
            }
        });
        (relay, own)
    }

    fn carry(self: &Arc<Self>, near: TcpStream, port: u16) {
        let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        self.open.lock().unwrap().extend([&near, &far].map(|side| (number, side.try_clone().unwrap())));
        let there = (near.try_clone().unwrap(), far.try_clone().unwrap(), false);
        for (mut from, mut to, back) in [there, (far, near, true)] {
            let relay = self.clone();
            from.set_nodelay(true).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    if back && number < relay.first_carried.load(Ordering::SeqCst) {
                        relay.kept_back.fetch_add(length, Ordering::SeqCst);
                    } else if to.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Keeps back what comes from the server, from now on.
    pub fn mute(&self) {
        self.first_carried.store(usize::MAX, Ordering::SeqCst);
    }

    /// The same; returns when some pongs have been kept back.
    #[track_caller]
    pub fn keep_back(&self) {
        self.mute();
        self.until_kept_back();
    }

    /// The same, on the connections that there are. Carries those that come.
    #[track_caller]
    pub fn keep_back_these(&self) {
        self.first_carried.store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
        self.until_kept_back();
    }

    #[track_caller]
    fn until_kept_back(&self) {
        // More than a keep-alive's answer, whose frames take some 100 bytes.
        until("the server sends something", || self.kept_back.load(Ordering::SeqCst) >= 300);
    }

    /// Ends all connections, and carries everything from now on.
    pub fn cut(&self) {
        self.cut_below(usize::MAX);
        self.first_carried.store(0, Ordering::SeqCst);
    }

    /// Ends the connections on which something is kept back.
    pub fn cut_these(&self) {
        self.cut_below(self.first_carried.load(Ordering::SeqCst));
    }

    fn cut_below(&self, first_left: usize) {
        for (_, stream) in self.open.lock().unwrap().extract_if(.., |(number, _)| *number < first_left) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
