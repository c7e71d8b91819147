//! A web server on loopback that writes down how it is asked, and answers as a test wants it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// What stands behind the question mark.
    pub query: String,
    /// All that came after the head.
    pub body: String,
}

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// With this status and a word.
    Status(u16),
    /// Look there instead.
    See(String),
    /// The connection is closed.
    Close,
    /// Never, and the connection stays open; when the other side closes it, that is written down too.
    Hang,
}

/// The server; it answers until the test's process ends.
#[derive(Debug)]
pub struct Pinged {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Pinged {
    /// Answers each request with what `answer` makes of it; the number says how many came before it.
    pub fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port can be listened on");
        let port = listener.local_addr().expect("a listener has an address").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(caller, &seen, answer.as_ref()));
            }
        });
        Self { port, requests }
    }

    /// Answers each with 200.
    pub fn content() -> Self {
        Self::start(|_, _| Answer::Status(200))
    }

    /// The URL of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What has come so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test fails while it holds this").clone()
    }

    /// The paths that were asked for so far, in order.
    pub fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }
}

fn serve(
    caller: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(usize, &Request) -> Answer + Send + Sync),
) {
    let mut reader = BufReader::new(caller.try_clone().expect("a socket can be shared"));
    let Some(request) = read(&mut reader) else { return };
    let before = {
        let mut seen = seen.lock().expect("no test fails while it holds this");
        seen.push(request.clone());
        seen.len() - 1
    };
    let head = match answer(before, &request) {
        Answer::Status(status) => format!("{status} As asked"),
        Answer::See(there) => format!("302 Found\r\nLocation: {there}"),
        Answer::Close => return,
        Answer::Hang => {
            // Until the other side has had enough.
            let _ = reader.read(&mut [0; 1]);
            let given_up = Request { path: format!("{} given up", request.path), ..request };
            seen.lock().expect("no test fails while it holds this").push(given_up);
            return;
        }
    };
    let reply = format!("HTTP/1.1 {head}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK");
    let _ = (&caller).write_all(reply.as_bytes());
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let mut words = head.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), body })
}
