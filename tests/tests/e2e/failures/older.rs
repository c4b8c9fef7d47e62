//! A server that says it is of an older version: a proxy that puts another version string and number in its answers.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use walwarden_tests::Postgres;

/// The version it tells: the oldest that could be backed up, had the runner its pg_dump.
pub const TOLD: &str = "14.20";

/// A running proxy.
pub struct Older {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl Older {
    pub fn before(server: &Postgres) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let upstream = (server.host().to_owned(), server.port());
        let told = |name: &str| server.query_one("postgres", &format!("SHOW {name}")).expect("a version");
        let (text, number) = (told("server_version"), told("server_version_num").parse::<i32>().expect("a number"));
        let swaps: Arc<[(Vec<u8>, Vec<u8>)]> = Arc::new([
            // Told in as many bytes, for messages begin with their length.
            (text.clone().into_bytes(), format!("{TOLD:<0$}", text.len()).into_bytes()),
            (number.to_be_bytes().to_vec(), 140_020_i32.to_be_bytes().to_vec()),
        ]);
        let closed = Arc::new(AtomicBool::new(false));
        let closing = closed.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if closing.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(server) = TcpStream::connect((upstream.0.as_str(), upstream.1)) else { continue };
                let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
                thread::spawn(move || relay(from, to, &[]));
                let swaps = swaps.clone();
                thread::spawn(move || relay(server, client, &swaps));
            }
        });
        Self { port, closed }
    }

    /// The connection string, by way of this.
    pub fn dsn(&self, server: &Postgres, database: &str) -> String {
        let direct = server.dsn(database);
        let through = direct.replace(&format!(":{}/", server.port()), &format!(":{}/", self.port));
        assert_ne!(direct, through);
        through
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Passes bytes on until either side ends. The answers that hold a version are short and come in one read.
fn relay(mut from: TcpStream, mut to: TcpStream, swaps: &[(Vec<u8>, Vec<u8>)]) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        for (what, with) in swaps {
            let mut at = 0;
            while let Some(found) = buffer[at..read].windows(what.len()).position(|window| window == what) {
                at += found;
                buffer[at..at + with.len()].copy_from_slice(with);
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
