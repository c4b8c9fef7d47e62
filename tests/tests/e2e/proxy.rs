//! A proxy that passes bytes through, but for the fault it is asked to make.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A fault in the answer to requests that hold some text.
#[derive(Clone)]
pub struct Fault {
    /// What the head of the request holds: part of its first line.
    pub request: &'static str,
    /// What in the answer the place is counted from; empty: its first byte.
    pub marker: &'static str,
    /// How many bytes after that.
    pub after: usize,
    /// What happens there.
    pub kind: Kind,
    /// How often; then no more.
    pub times: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// One bit is another.
    Flip,
    /// One letter is another, and still a letter.
    Letter,
    /// The connection ends.
    Cut,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    fault: Mutex<Option<Fault>>,
    made: AtomicUsize,
    closed: AtomicBool,
}

impl Proxy {
    /// Listens on a port of its own, in front of `http://host:port`.
    pub fn before(url: &str) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let upstream = url.strip_prefix("http://").expect("an http URL").to_owned();
        let shared = Arc::new(Shared {
            upstream,
            fault: Mutex::default(),
            made: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.closed.load(Ordering::Relaxed) {
                    break;
                }
                let shared = serving.clone();
                thread::spawn(move || serve(client, &shared));
            }
        });
        Proxy { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes this fault from now on.
    pub fn make(&self, fault: Fault) {
        self.shared.made.store(0, Ordering::SeqCst);
        *self.shared.fault.lock().unwrap() = Some(fault);
    }

    /// Makes no fault any more; gives how often the last one was made.
    pub fn mend(&self) -> usize {
        *self.shared.fault.lock().unwrap() = None;
        self.shared.made.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(client: TcpStream, shared: &Shared) {
    let Ok(server) = TcpStream::connect(&shared.upstream) else { return };
    // Requests do not overlap: what was asked last is what is answered.
    let asked: Mutex<Vec<u8>> = Mutex::default();
    thread::scope(|scope| {
        scope.spawn(|| ask(&client, &server, &asked));
        answer(&server, &client, &asked, shared);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn ask(mut client: &TcpStream, mut server: &TcpStream, asked: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        {
            let mut asked = asked.lock().unwrap();
            if asked.len() < 16 * 1024 {
                asked.extend_from_slice(&buffer[..read]);
            }
        }
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Write);
}

fn answer(mut server: &TcpStream, mut client: &TcpStream, asked: &Mutex<Vec<u8>>, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    // Of the answer under way: what it answers, its first bytes (to look for the marker in) and its length so far.
    let (mut fault, mut place, mut seen, mut passed) = (None, None, Vec::new(), 0);
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let request = std::mem::take(&mut *asked.lock().unwrap());
        if !request.is_empty() {
            let wanted = shared.fault.lock().unwrap().clone();
            fault = wanted.filter(|fault| contains(&request, fault.request.as_bytes()).is_some());
            (place, seen, passed) = (None, Vec::new(), 0);
        }
        let mut cut = false;
        if let Some(wanted) = &fault {
            if place.is_none() {
                seen.extend_from_slice(&buffer[..read]);
                place = contains(&seen, wanted.marker.as_bytes()).map(|at| at + wanted.marker.len() + wanted.after);
            }
            let here = place.filter(|place| (passed..passed + read).contains(place)).map(|place| place - passed);
            if let Some(at) = here
                && shared.made.fetch_add(1, Ordering::SeqCst) < wanted.times
            {
                match wanted.kind {
                    Kind::Flip => buffer[at] ^= 1,
                    Kind::Letter => buffer[at] = if buffer[at] == b'A' { b'B' } else { b'A' },
                    Kind::Cut => cut = true,
                }
            }
        }
        passed += read;
        if cut || client.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
}

fn contains(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return Some(0);
    }
    text.windows(what.len()).position(|window| window == what)
}
