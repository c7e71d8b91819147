//! The Pullback puller: proven copies of live SQLite databases, pulled, kept and put back.
//!
//! One pull, read top to bottom: [`address`] says where, [`pull`] leads, [`client`] talks to the agent, [`draft`] takes the
//! pages, [`proof`] reads them back, [`judge`] gives the verdict, [`store`] keeps the copy, [`rotation`] decides what stays.

pub mod address;
pub mod target;
pub mod pull;
pub mod plan;
pub mod client;
pub mod paired;
pub mod ssh;
pub mod draft;
pub mod sum;
pub mod proof;
pub mod judge;
pub mod store;
pub mod source_dir;
pub mod sealed;
pub mod manifest;
pub mod history;
pub mod freshness;
pub mod pack;
pub mod content;
pub mod unpacked;
pub mod packing;
pub mod reshape;
pub mod policy;
pub mod timeline;
pub mod query;
pub mod import;
pub mod named_time;
pub mod rotation;
pub mod verify;
pub mod rot;
pub mod sampling;
pub mod restore;
pub mod put_back;
pub mod upload;
pub mod restore_record;
pub mod table_pages;
pub mod differences;
pub mod drill;
pub mod hooks;
pub mod ping;
pub mod health;
pub mod stopping;
pub mod schedule;
pub mod systemd;
pub mod launchd;
pub mod crontab;
pub mod scheduler;
pub mod job_log;
pub mod config;
pub mod clock;
pub mod durable;
pub mod demo_database;
