//! The users of this machine, as `/etc/passwd` tells: who owns a database, and as whom an agent runs.

/// Where the system keeps them. On macOS most are elsewhere; then nobody is found, and numbers have to do.
const FILE: &str = "/etc/passwd";

/// A user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// As it is typed.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The number of the user's group.
    pub gid: u32,
}

/// The number of the user that this runs as.
pub fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user with this number.
pub fn with_uid(uid: u32) -> Option<User> {
    all().into_iter().find(|user| user.uid == uid)
}

/// The user with this name.
pub fn called(name: &str) -> Option<User> {
    all().into_iter().find(|user| user.name == name)
}

/// A user as people know it: by name, or by number.
pub fn shown(uid: u32) -> String {
    with_uid(uid).map_or_else(|| format!("#{uid}"), |user| user.name)
}

fn all() -> Vec<User> {
    let text = std::fs::read(FILE).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(read).collect()
}

/// passwd(5): name, password, number, number of the group, and more.
fn read(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    Some(User { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_tells_no_user_is_none() {
        let pi = User { name: "pi".into(), uid: 1000, gid: 100 };
        assert_eq!(read("pi:x:1000:100:,,,:/home/pi:/bin/bash"), Some(pi));
        for line in ["", "# a comment", "+::::::", "pi:x:one:100::/:/bin/sh", "pi:x:1000"] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
