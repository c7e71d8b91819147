//! A job that a scheduler is to run: what it does, when, and the command line and variables that this takes.
//!
//! All of it stands in what the scheduler is given; there is no other place where a job is written down.

use jiff::civil::{Time, Weekday};
use jiff::{ToSpan, Zoned};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::text::printable;
use std::path::Path;

/// What a job does; there is at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum JobName {
    /// `puller pull`
    Pull,
    /// `puller verify --all --sample 4%`
    Verify,
    /// `puller drill --all`
    Drill,
}

impl JobName {
    /// Every job there is.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Verify, Self::Drill];

    /// As it is typed, and as it stands in the names of units and files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Verify => "verify",
            Self::Drill => "drill",
        }
    }
}

/// When a job runs, in the local time of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// At each full hour.
    Hourly,
    /// Each day at a time.
    Daily(Time),
    /// Each Sunday at a time.
    Weekly(Time),
    /// In the scheduler's own language, which is not read here.
    On(String),
}

impl When {
    /// A time of day, as `--at` has it.
    pub fn at(text: &str) -> Result<Time, String> {
        Time::strptime("%H:%M", text).map_err(|_| "write it as HH:MM, such as 09:00 or 21:30".to_owned())
    }

    /// When the job runs next after `now`, where that can be told from here.
    pub fn next(&self, now: &Zoned) -> Option<Zoned> {
        let on_day = |days: i64, time: Time| {
            let date = now.date().checked_add(days.days()).ok()?;
            date.to_datetime(time).to_zoned(now.time_zone().clone()).ok().filter(|at| at > now)
        };
        match self {
            Self::Hourly => {
                let hour = now.with().minute(0).second(0).subsec_nanosecond(0).build().ok()?;
                hour.checked_add(1.hour()).ok()
            }
            Self::Daily(time) => (0..=1).find_map(|days| on_day(days, *time)),
            Self::Weekly(time) => {
                (0..=7).filter_map(|days| on_day(days, *time)).find(|at| at.weekday() == Weekday::Sunday)
            }
            Self::On(_) => None,
        }
    }
}

/// A job as a scheduler is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which one.
    pub name: JobName,
    /// When it runs.
    pub when: When,
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// The variables it needs: schedulers start programs with next to none.
    pub environment: Vec<(String, String)>,
}

impl Job {
    /// Refuses what no scheduler could be given: an empty command, or a line break or another control character in it.
    pub fn checked(self) -> Result<Self, Fault> {
        let on = match &self.when {
            When::On(expression) => Some(expression),
            _ => None,
        };
        let texts = self.command.iter().chain(self.environment.iter().map(|(_, value)| value)).chain(on);
        match texts.into_iter().find(|text| text.chars().any(char::is_control)) {
            Some(text) => Err(Fault::new(
                Kind::Usage,
                format!(
                    "`{}` has a line break or another control character, which no scheduler takes",
                    printable(text, SHOWN_CHARS_MAX)
                ),
            )
            .hint("rename the file, or give the source a name in puller.toml")),
            None if !self.command.first().is_some_and(|program| program.starts_with('/')) => {
                Err(Fault::new(Kind::Internal, "a job without the absolute path of its program"))
            }
            None => Ok(self),
        }
    }
}

/// Of a text that cannot be taken, so much is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Where programs are looked for, after the folder that has `ssh`.
const USUAL_PATH: [&str; 5] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// The `PATH` for a job on a machine whose `ssh` lies in the folder `ssh`.
pub fn search_path(ssh: Option<&Path>) -> String {
    let ssh =
        ssh.and_then(Path::to_str).filter(|folder| !folder.contains(':') && !USUAL_PATH.contains(folder));
    ssh.into_iter().chain(USUAL_PATH).collect::<Vec<_>>().join(":")
}

/// The variables that a job needs to find what the user who installs it has: `ssh`, and files that do not lie in their
/// usual places.
pub fn environment() -> Result<Vec<(String, String)>, Fault> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ssh =
        std::env::split_paths(&path).find(|folder| folder.is_absolute() && folder.join("ssh").is_file());
    let mut variables = vec![("PATH".to_owned(), search_path(ssh.as_deref()))];
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        if let Some(value) = std::env::var_os(name).filter(|value| Path::new(value).is_absolute()) {
            variables.push((name.to_owned(), text_of(Path::new(&value))?));
        }
    }
    Ok(variables)
}

/// `path` as text: what a scheduler is given is text.
pub fn text_of(path: &Path) -> Result<String, Fault> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Fault::new(Kind::Usage, format!("`{}` is not UTF-8, which a schedule has to be", path.display()))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A job with `word` everywhere where a user's words may stand.
    pub(crate) fn job(word: &str) -> Job {
        let command =
            [&format!("/opt/{word}/puller"), "schedule", "run", "pull", word].map(|word| word.to_owned());
        Job {
            name: JobName::Pull,
            when: When::Daily(Time::constant(9, 5, 0, 0)),
            command: command.to_vec(),
            environment: vec![
                ("PATH".to_owned(), search_path(None)),
                ("XDG_DATA_HOME".to_owned(), format!("/{word}")),
            ],
        }
    }

    /// Words that break whoever quotes carelessly.
    pub(crate) fn hostile() -> impl Strategy<Value = String> {
        prop_oneof!["[ a-z%$\"'\\\\#;&<>\\[\\]{}`!*?~=-]{1,12}", "[가-힣 %'\\\\]{1,6}", "\\P{Cc}{1,12}"]
    }

    #[track_caller]
    fn check_next(when: When, now: &str, expected: Option<&str>) {
        let next = when.next(&now.parse().expect("a time"));
        assert_eq!(next, expected.map(|text| text.parse().expect("a time")), "{when:?} after {now}");
    }

    #[test]
    fn the_next_run_is_told_from_the_calendar() {
        let nine = Time::constant(9, 0, 0, 0);
        let saturday = |time: &str| format!("2026-11-21T{time}+09:00[Asia/Seoul]");
        check_next(When::Daily(nine), &saturday("08:59"), Some(&saturday("09:00")));
        check_next(When::Daily(nine), &saturday("09:00"), Some("2026-11-22T09:00+09:00[Asia/Seoul]"));
        check_next(When::Hourly, &saturday("08:59:01"), Some(&saturday("09:00")));
        check_next(When::Hourly, &saturday("23:00"), Some("2026-11-22T00:00+09:00[Asia/Seoul]"));
        check_next(When::Weekly(nine), &saturday("10:00"), Some("2026-11-22T09:00+09:00[Asia/Seoul]"));
        check_next(
            When::Weekly(nine),
            "2026-11-22T09:00+09:00[Asia/Seoul]",
            Some("2026-11-29T09:00+09:00[Asia/Seoul]"),
        );
        check_next(When::On("daily".to_owned()), &saturday("08:00"), None);
    }

    #[test]
    fn a_time_of_day_is_hours_and_minutes() {
        assert_eq!(When::at("09:05"), Ok(Time::constant(9, 5, 0, 0)));
        for wrong in ["24:00", "9", "09:60", "", "09:00:00", "9am", "-1:00"] {
            assert!(When::at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_break_is_refused_and_shown_harmless() {
        for word in ["a\nb", "a\rb", "a\0b", "a\u{1b}[2Jb"] {
            let fault = job(word).checked().expect_err("a control character");
            assert_eq!(fault.kind, Kind::Usage);
            assert!(!fault.message.chars().any(char::is_control), "{fault}");
        }
        assert!(job("한글 %\"'\\$").checked().is_ok());
    }

    #[test]
    fn ssh_is_found_where_it_is() {
        assert_eq!(search_path(None), search_path(Some(Path::new("/usr/bin"))));
        assert!(search_path(Some(Path::new("/opt/ssh/bin"))).starts_with("/opt/ssh/bin:/usr/local/bin:"));
    }
}
