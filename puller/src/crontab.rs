//! A job as one line of a crontab, known by the words at its end, and a crontab with and without it. Text only: other lines
//! stay what they are, to the byte.

use crate::schedule::{Job, JobName, When};
use pullback_shared::fault::{Fault, Kind};

/// What cron takes as a command; the usual ones cut or refuse what is longer.
const COMMAND_BYTES_MAX: usize = 998;

/// Stands at the end of a line that is ours. The shell takes it for a comment.
fn marker(name: JobName) -> String {
    format!(" # puller schedule {}", name.word())
}

/// The line of `job`, without its line break.
pub fn line(job: &Job) -> Result<String, Fault> {
    let variables = job.environment.iter().map(|(name, value)| format!("{name}={} ", quoted(value)));
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    let command = format!("{}{}{}", variables.collect::<String>(), words.join(" "), marker(job.name));
    if command.len() > COMMAND_BYTES_MAX {
        return Err(Fault::new(
            Kind::Usage,
            format!("the command has {} bytes, and cron takes {COMMAND_BYTES_MAX}", command.len()),
        )
        .hint("put `store` and the sources into puller.toml instead of on the command line"));
    }
    Ok(format!("{} {command}", calendar(&job.when)?))
}

fn calendar(when: &When) -> Result<String, Fault> {
    Ok(match when {
        When::Hourly => "0 * * * *".to_owned(),
        When::Daily(time) => format!("{} {} * * *", time.minute(), time.hour()),
        When::Weekly(time) => format!("{} {} * * 0", time.minute(), time.hour()),
        When::On(expression) => {
            let fields: Vec<&str> = expression.split_whitespace().collect();
            let is_field =
                |field: &&str| field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-".contains(c));
            let is_short = |field: &str| {
                let word = field.strip_prefix('@').unwrap_or_default();
                !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic())
            };
            match fields[..] {
                [_, _, _, _, _] if fields.iter().all(is_field) => fields.join(" "),
                [field] if is_short(field) => field.to_owned(),
                _ => {
                    return Err(Fault::new(Kind::Usage, format!("`{expression}` is no calendar of cron's"))
                        .hint("write its five fields, such as `30 9 * * 1-5`, or a word such as `@daily`"));
                }
            }
        }
    })
}

/// The command in a line of ours, and when it runs.
pub fn read(line: &str) -> (String, When) {
    let line = line.trim_start();
    let fields = if line.starts_with('@') { 1 } else { 5 };
    let mut rest = line;
    for _ in 0..fields {
        rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
    }
    let expression = line[..line.len() - rest.len()].trim_end();
    let time = |hour: &str, minute: &str| When::at(&format!("{hour}:{minute}")).ok();
    let when = match expression.split_whitespace().collect::<Vec<_>>()[..] {
        ["0", "*", "*", "*", "*"] => Some(When::Hourly),
        [minute, hour, "*", "*", "*"] => time(hour, minute).map(When::Daily),
        [minute, hour, "*", "*", "0"] => time(hour, minute).map(When::Weekly),
        _ => None,
    };
    (rest.to_owned(), when.unwrap_or_else(|| When::On(expression.to_owned())))
}

/// Whether `crontab -l`, which failed and said this, means that the user has none.
pub fn says_none(said: &str) -> bool {
    let said = said.to_lowercase();
    let of_busybox = said.contains("can't open '") && said.contains("no such file or directory");
    said.contains("no crontab for") || of_busybox
}

/// The line of the job in `crontab`.
pub fn find(crontab: &[u8], name: JobName) -> Option<String> {
    let line = lines(crontab).find(|line| is_ours(line, name))?;
    Some(String::from_utf8_lossy(line).trim_end().to_owned())
}

/// `crontab` with `line` as the only one of the job: where it stood before, or at the end.
pub fn with(crontab: &[u8], name: JobName, line: &str) -> Vec<u8> {
    let mut new = Vec::new();
    let mut waiting = Some(line);
    let mut put = |new: &mut Vec<u8>| {
        if let Some(line) = waiting.take() {
            new.extend_from_slice(line.as_bytes());
            new.push(b'\n');
        }
    };
    for old in lines(crontab) {
        match is_ours(old, name) {
            true => put(&mut new),
            false => new.extend_from_slice(old),
        }
    }
    if new.last().is_some_and(|last| *last != b'\n') {
        new.push(b'\n');
    }
    put(&mut new);
    new
}

/// `crontab` without the job.
pub fn without(crontab: &[u8], name: JobName) -> Vec<u8> {
    lines(crontab).filter(|line| !is_ours(line, name)).flatten().copied().collect()
}

/// The lines, each with its line break.
fn lines(crontab: &[u8]) -> impl Iterator<Item = &[u8]> {
    crontab.split_inclusive(|byte| *byte == b'\n')
}

/// A line that somebody made a comment of is not ours any more.
fn is_ours(line: &[u8], name: JobName) -> bool {
    let line = line.trim_ascii();
    !line.starts_with(b"#") && line.ends_with(marker(name).as_bytes())
}

/// `word` for the shell that cron starts. A `%` is written outside the quotes as `\%`: cron makes `%` of it, and where a
/// cron knows nothing of `%`, the shell does.
fn quoted(word: &str) -> String {
    let mut quoted = String::from("'");
    for character in word.chars() {
        match character {
            '\'' => quoted.push_str("'\\''"),
            '%' => quoted.push_str("'\\%'"),
            _ => quoted.push(character),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::{hostile, job};
    use jiff::civil::Time;
    use proptest::prelude::*;

    /// What the cron of most systems hands to the shell: up to the first `%` that no `\` stands before (do_command.c).
    fn as_cron_reads_it(command: &str) -> String {
        let (mut read, mut escaped) = (String::new(), false);
        for character in command.chars() {
            match character {
                '%' if escaped => {
                    read.pop();
                    read.push('%');
                }
                '%' => return read,
                _ => read.push(character),
            }
            escaped = character == '\\' && !escaped;
        }
        read
    }

    /// The words that a real shell makes of `command`.
    fn as_the_shell_reads_it(command: &str) -> Vec<String> {
        let script = format!("show() {{ printf '%s\\n' \"$XDG_DATA_HOME\" \"$@\"; }}; {command}");
        let ran = std::process::Command::new("/bin/sh").args(["-c", &script]).output().expect("a shell");
        String::from_utf8(ran.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn cron_and_the_shell_give_back_the_words(word in hostile()) {
            // What breaks lines for `str::lines` is none of the shell's.
            let mut job = job(&word);
            job.command[0] = "show".to_owned();
            let (command, _) = read(&line(&job).expect("a line"));
            let expected: Vec<String> =
                [&format!("/{word}"), "schedule", "run", "pull", &word].map(|word| word.to_owned()).to_vec();
            // The program's name is the function `show` here: it stands in quotes as any word.
            prop_assert_eq!(as_the_shell_reads_it(&as_cron_reads_it(&command)), expected.clone());
            prop_assert_eq!(as_the_shell_reads_it(&command), expected);
        }
    }

    #[test]
    fn a_user_without_a_crontab_is_told_from_a_cron_that_fails() {
        for (said, expected) in [
            ("no crontab for pi", true),
            ("crontab: no crontab for pi", true),
            // BusyBox.
            ("crontab: can't open 'pi': No such file or directory", true),
            (
                "crontab: can't change directory to '/var/spool/cron/crontabs': No such file or directory",
                false,
            ),
            ("crontab: can't open 'pi': Permission denied", false),
            ("You (pi) are not allowed to use this program (crontab)", false),
        ] {
            assert_eq!(says_none(said), expected, "{said}");
        }
    }

    #[test]
    fn a_line_that_a_person_wrote_anew_is_read_by_its_fields() {
        for (line, command, when) in [
            (
                "0\t9\t*\t* *\tpuller x # puller schedule pull",
                "puller x # puller schedule pull",
                When::Daily(Time::constant(9, 0, 0, 0)),
            ),
            ("  0  *  * * *  puller", "puller", When::Hourly),
            ("@daily\tpuller", "puller", When::On("@daily".to_owned())),
            ("0 9 é", "", When::On("0 9 é".to_owned())),
            ("", "", When::On(String::new())),
        ] {
            assert_eq!(read(line), (command.to_owned(), when), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn other_lines_stay_what_they_are(
            crontab in prop::collection::vec(
                prop_oneof![
                    Just(b'\n'), Just(b'#'), Just(b' '), any::<u8>(),
                ],
                0..80,
            ),
            ours in prop::collection::vec((0_usize..80, any::<bool>()), 0..3),
        ) {
            let line = line(&job("x")).expect("a line");
            // Older lines of ours stand anywhere in it.
            let mut old = Vec::new();
            for (index, foreign) in lines(&crontab).enumerate() {
                for (_, with_break) in ours.iter().filter(|(at, _)| *at == index) {
                    old.extend_from_slice(b"1 2 * * * old # puller schedule pull");
                    old.extend_from_slice(if *with_break { b"\n" } else { b" \t\n" });
                }
                old.extend_from_slice(foreign);
            }
            let broken = |text: &[u8]| -> Vec<u8> {
                let end: &[u8] = if text.last().is_some_and(|last| *last != b'\n') { b"\n" } else { b"" };
                [text, end].concat()
            };
            let new = with(&old, JobName::Pull, &line);
            prop_assert_eq!(&without(&new, JobName::Pull), &broken(&crontab));
            prop_assert_eq!(find(&new, JobName::Pull), Some(line.clone()));
            prop_assert_eq!(&with(&new, JobName::Pull, &line), &new);
            prop_assert_eq!(&without(&old, JobName::Pull), &crontab);
            // The other job is none of its business.
            prop_assert_eq!(&without(&new, JobName::Verify), &new);
        }
    }

    #[test]
    fn a_line_of_ours_that_became_a_comment_is_left_alone() {
        let crontab = b"#0 9 * * * x # puller schedule pull\n";
        assert_eq!(without(crontab, JobName::Pull), crontab);
        assert_eq!(find(crontab, JobName::Pull), None);
    }

    #[track_caller]
    fn check_calendar(when: When, expected: &str) {
        let line = line(&Job { when: when.clone(), ..job("x") }).expect("a line");
        assert!(line.starts_with(&format!("{expected} PATH=")), "{line}");
        assert_eq!(read(&line).1, when);
    }

    #[test]
    fn every_calendar_is_read_as_it_was_written() {
        check_calendar(When::Hourly, "0 * * * *");
        check_calendar(When::Daily(Time::constant(9, 5, 0, 0)), "5 9 * * *");
        check_calendar(When::Weekly(Time::constant(10, 0, 0, 0)), "0 10 * * 0");
        check_calendar(When::On("30 9 * * 1-5".to_owned()), "30 9 * * 1-5");
        check_calendar(When::On("@reboot".to_owned()), "@reboot");
    }

    #[test]
    fn what_is_no_calendar_of_crons_is_refused() {
        for wrong in ["", "@", "daily", "* * * *", "* * * * * rm", "*-*-* 09:00", "% * * * *", "@daily; rm"] {
            let job = Job { when: When::On(wrong.to_owned()), ..job("x") };
            assert_eq!(line(&job).expect_err(wrong).kind, Kind::Usage);
        }
    }

    #[test]
    fn a_command_longer_than_cron_takes_is_refused() {
        assert_eq!(line(&job(&"x".repeat(COMMAND_BYTES_MAX))).expect_err("too long").kind, Kind::Usage);
    }
}
