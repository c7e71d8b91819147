//! Both ends of a remote shell over plain TCP: for tools that want `ssh`, on a link where encryption is not to be measured.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

/// Where commands are taken.
const PORT: u16 = 7421;

/// The longest command.
const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// Runs what comes to `host`, an address of this machine as seen from where this thread is, for as long as the process
/// lives.
pub fn serve(host: &str) -> io::Result<()> {
    let listener = TcpListener::bind((host, PORT))?;
    thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = answer(caller) {
                    eprintln!("a command of a remote shell: {error}");
                }
            });
        }
    });
    Ok(())
}

fn answer(mut caller: TcpStream) -> io::Result<()> {
    caller.set_nodelay(true)?;
    let mut command = Vec::new();
    let mut byte = [0];
    // Byte by byte: what follows the line is the command's own.
    while caller.read(&mut byte)? == 1 && byte != *b"\n" {
        command.push(byte[0]);
        if command.len() > COMMAND_BYTES_MAX {
            return Err(io::Error::other("it does not end"));
        }
    }
    let command = String::from_utf8(command).map_err(io::Error::other)?;
    let (stdin, stdout) = (OwnedFd::from(caller.try_clone()?), OwnedFd::from(caller.try_clone()?));
    let mut shell = Command::new("sh");
    let status = shell.arg("-c").arg(&command).stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).status();
    // The caller learns of the end by the end of what it reads.
    caller.shutdown(Shutdown::Both).or_else(|error| match error.kind() {
        io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    })?;
    status.map(|_| ())
}

/// Has `command` run at `host`, with the stdin and the stdout of this process, and waits for its end.
pub fn call(host: &str, command: &str) -> io::Result<()> {
    let mut line = TcpStream::connect((host, PORT))?;
    line.set_nodelay(true)?;
    line.write_all(format!("{command}\n").as_bytes())?;
    let mut there = line.try_clone()?;
    // Ends with the process, at the latest.
    thread::spawn(move || {
        let sent = io::copy(&mut io::stdin().lock(), &mut there);
        sent.and_then(|_| there.shutdown(Shutdown::Write))
    });
    let mut buffer = vec![0; 64 * 1024];
    let mut stdout = io::stdout().lock();
    loop {
        let read = line.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        // At once: the other side waits for the answer.
        stdout.write_all(&buffer[..read])?;
        stdout.flush()?;
    }
}
