//! A gate before an HTTP server: requests pass one by one, but for those it is told to spoil. Unlike `proxy`, it looks at
//! what is asked and sent, and can keep a request waiting until the test has done its mischief.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::patience;

/// What is done to a request.
#[derive(Clone, Copy)]
pub enum Mischief {
    /// It is answered with this status and code of S3, and never arrives.
    Refuse(u16, &'static str),
    /// Its connection ends.
    Drop,
    /// It waits until the mischief ends, then passes.
    Hold,
    /// One bit of its body is another.
    FlipBody,
    /// One bit of the answer's body is another.
    FlipAnswer,
    /// What its body says is replaced by as many other bytes.
    Reword(&'static str, &'static str),
}

struct Rule {
    method: &'static str,
    parts: Vec<String>,
    left: usize,
    made: usize,
    mischief: Mischief,
}

#[derive(Default)]
struct State {
    /// A rule keeps its place, so that it can be counted and lifted.
    rules: Vec<Option<Rule>>,
    closed: bool,
}

struct Shared {
    upstream: String,
    state: Mutex<State>,
    changed: Condvar,
}

/// A running gate.
pub struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Mischief under way; dropping it ends it.
pub struct Spoiled<'gate> {
    gate: &'gate Gate,
    nth: usize,
}

impl Gate {
    /// Listens on a port of its own, in front of `http://host:port`.
    pub fn before(url: &str) -> Gate {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let upstream = url.strip_prefix("http://").expect("an http URL").to_owned();
        let shared = Arc::new(Shared { upstream, state: Mutex::default(), changed: Condvar::new() });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.lock().closed {
                    break;
                }
                let shared = serving.clone();
                // An exchange that breaks is the client's to notice.
                thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        Gate { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does this to requests with that method and all these parts in their first line, so often at most.
    pub fn spoil(&self, method: &'static str, parts: &[&str], times: usize, mischief: Mischief) -> Spoiled<'_> {
        let mut state = self.shared.lock();
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        state.rules.push(Some(Rule { method, parts, left: times, made: 0, mischief }));
        Spoiled { gate: self, nth: state.rules.len() - 1 }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Spoiled<'_> {
    /// How often it was done so far.
    pub fn made(&self) -> usize {
        self.gate.shared.lock().rules[self.nth].as_ref().map_or(0, |rule| rule.made)
    }

    /// Waits until it was done at least once.
    pub fn wait(&self, what: &str) {
        patience::expect(what, 60, || (self.made() > 0).then_some(()));
    }
}

impl Drop for Spoiled<'_> {
    fn drop(&mut self) {
        self.gate.shared.lock().rules[self.nth] = None;
        self.gate.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done to a request, counted; and the rule's place.
    fn judge(&self, head: &str, body: &[u8]) -> Option<(usize, Mischief)> {
        let line = head.lines().next().unwrap_or_default();
        let mut state = self.lock();
        let applies = |rule: &Rule| {
            let worded = match rule.mischief {
                Mischief::Reword(from, _) => position(body, from.as_bytes()).is_some(),
                _ => true,
            };
            rule.left > 0
                && line.starts_with(rule.method)
                && rule.parts.iter().all(|part| line.contains(part.as_str()))
                && worded
        };
        let nth = state.rules.iter().position(|rule| rule.as_ref().is_some_and(applies))?;
        let rule = state.rules[nth].as_mut()?;
        rule.left -= 1;
        rule.made += 1;
        Some((nth, rule.mischief))
    }

    fn wait_for_end_of(&self, nth: usize) {
        let mut state = self.lock();
        while state.rules[nth].is_some() && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One exchange to a connection: then requests and answers cannot be confused.
fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let Some((head, mut body)) = request(&mut client)? else { return Ok(()) };
    let mut flips_answer = false;
    match shared.judge(&head, &body) {
        None => {}
        Some((_, Mischief::Drop)) => return client.shutdown(Shutdown::Both),
        Some((_, Mischief::Refuse(status, code))) => {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            let length = text.len();
            let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            return client.write_all(format!("{head}{text}").as_bytes());
        }
        Some((nth, Mischief::Hold)) => shared.wait_for_end_of(nth),
        Some((_, Mischief::FlipBody)) => body.iter_mut().take(1).for_each(|byte| *byte ^= 1),
        Some((_, Mischief::FlipAnswer)) => flips_answer = true,
        Some((_, Mischief::Reword(from, to))) => {
            assert_eq!(from.len(), to.len(), "the length is announced already");
            if let Some(at) = position(&body, from.as_bytes()) {
                body[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
        }
    }
    let mut server = TcpStream::connect(&shared.upstream)?;
    let (line, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    server.write_all(format!("{line}\r\nconnection: close\r\n{rest}").as_bytes())?;
    server.write_all(&body)?;
    answer(server, &mut client, flips_answer)?;
    client.shutdown(Shutdown::Both)
}

fn answer(mut server: TcpStream, client: &mut TcpStream, mut flips: bool) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut head, mut headed) = (Vec::new(), false);
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut begins = 0;
        if !headed {
            let before = head.len();
            head.extend_from_slice(&buffer[..count]);
            if let Some(at) = position(&head, b"\r\n\r\n") {
                headed = true;
                begins = at + 4 - before;
            } else {
                begins = count;
            }
        }
        if flips && begins < count {
            buffer[begins] ^= 1;
            flips = false;
        }
        client.write_all(&buffer[..count])?;
    }
}

/// Head and body of a request, or nothing where the connection was not used.
fn request(client: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        read.extend_from_slice(&buffer[..count]);
        if let Some(at) = position(&read, b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut body = read.split_off(end);
    let head = String::from_utf8_lossy(&read).into_owned();
    let lower = head.to_ascii_lowercase();
    if lower.contains("\r\nexpect: 100-continue") {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    assert!(!lower.contains("\r\ntransfer-encoding:"), "a body without a length: {head}");
    while body.len() < length.unwrap_or(0) {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body.extend_from_slice(&buffer[..count]);
    }
    Ok(Some((head, body)))
}

fn position(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
