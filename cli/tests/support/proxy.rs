//! A way to a Postgres server on which an answer gets lost.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// `ReadyForQuery`, idle: the server has done what it was asked for.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Passes everything on to the server at `port` and back, but for the answer to the first query that holds all of
/// `words`: that one the server has carried out when the connection ends without it. The port to connect to, and how
/// often that has happened.
pub fn losing_the_answer_to(port: u16, words: &'static [&'static str]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let lost = Arc::new(AtomicUsize::new(0));
    let counted = lost.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let losing = Arc::new(AtomicUsize::new(0));
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let (losing_too, lost) = (losing.clone(), counted.clone());
            std::thread::spawn(move || answers(from, to, &losing_too, &lost));
            let lost = counted.clone();
            std::thread::spawn(move || questions(client, server, words, &losing, &lost));
        }
    });
    (own, lost)
}

fn questions(mut from: TcpStream, mut to: TcpStream, words: &[&str], losing: &AtomicUsize, lost: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]);
        if lost.load(Ordering::SeqCst) == 0 && words.iter().all(|word| text.contains(word)) {
            losing.store(1, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn answers(mut from: TcpStream, mut to: TcpStream, losing: &AtomicUsize, lost: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if losing.load(Ordering::SeqCst) == 1 {
            if buffer[..count].ends_with(READY) {
                lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            continue;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
