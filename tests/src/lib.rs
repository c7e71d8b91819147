//! What the black-box tests share: the two real programs as processes, databases to pull, and ways to judge a copy.
//!
//! Nothing here links the agent or the puller: tests see what a user sees, which is command lines, JSON and files. Only
//! [`liar`], which plays an agent, links what both programs share.
//! Everything panics with a sentence when it cannot do its work, since its only callers are tests.

pub mod applications;
pub mod booted;
pub mod catalogue;
pub mod contents;
pub mod databases;
pub mod dice;
pub mod far_shell;
pub mod folder;
pub mod guarded;
pub mod http2;
pub mod ledger;
pub mod liar;
pub mod loop_disk;
pub mod pages;
pub mod pinged;
pub mod privilege;
pub mod programs;
pub mod relay;
pub mod room;
pub mod rows;
pub mod sandbox;
pub mod served;
pub mod saved;
pub mod small_disk;
pub mod sshd;
pub mod strace;
pub mod stuck;
pub mod tls;
pub mod two_pullers;
pub mod typed;
pub mod wounds;
pub mod writer;
