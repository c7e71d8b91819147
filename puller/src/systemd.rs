//! A job as units of systemd: a service that runs once, and the timer that starts it. Text only.

use crate::schedule::{Job, JobName, When};
use pullback_shared::fault::{Fault, Kind};

/// So much later than the calendar says a timer may fire: not every machine asks at the same second.
const DELAY_SECONDS_MAX: u32 = 60;

/// The unit's name, without `.service` or `.timer`.
pub fn unit(name: JobName) -> String {
    format!("pullback-{}", name.word())
}

/// The text of the service. systemd refuses some programs for their names, however they are quoted.
pub fn service(job: &Job) -> Result<String, Fault> {
    let program = job.command.first().map(String::as_str).unwrap_or_default();
    if program.contains(['"', '\'', '\\']) {
        return Err(Fault::new(
            Kind::Usage,
            format!("systemd starts no program with a quote or a backslash in its path, as `{program}` has"),
        )
        .hint("put `puller` elsewhere, or use `--with cron`"));
    }
    let variables = job.environment.iter().map(|(name, value)| {
        // `Environment=` knows no `$`.
        format!("Environment={}\n", quoted(&format!("{name}={value}"), "$"))
    });
    // The program's own path is not looked through for variables, its arguments are.
    let words = job.command.iter().enumerate().map(|(index, word)| match index {
        0 => quoted(word, "$"),
        _ => format!(" {}", quoted(word, "$$")),
    });
    Ok(format!(
        "# Written by `puller schedule install`; `puller schedule uninstall {name}` removes it.\n\
         [Unit]\n\
         Description=Pullback: puller schedule run {name}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         {variables}\
         ExecStart={words}\n",
        name = job.name.word(),
        variables = variables.collect::<String>(),
        words = words.collect::<String>(),
    ))
}

/// The text of the timer. A run that was due while the machine was off is made up for.
pub fn timer(job: &Job) -> String {
    format!(
        "# Written by `puller schedule install`; `puller schedule uninstall {name}` removes it.\n\
         [Unit]\n\
         Description=Pullback: when to run {name}\n\
         \n\
         [Timer]\n\
         OnCalendar={calendar}\n\
         Persistent=true\n\
         RandomizedDelaySec={DELAY_SECONDS_MAX}\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n",
        name = job.name.word(),
        calendar = calendar(&job.when).replace('%', "%%"),
    )
}

/// `when` as systemd.time(7) has it.
pub fn calendar(when: &When) -> String {
    match when {
        When::Hourly => "hourly".to_owned(),
        When::Daily(time) => format!("*-*-* {}", time.strftime("%H:%M:00")),
        When::Weekly(time) => format!("Sun *-*-* {}", time.strftime("%H:%M:00")),
        When::On(expression) => expression.clone(),
    }
}

/// The value of `key` in the text of a unit.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// `word` as one word of a unit, where `dollar` is how a `$` is written.
fn quoted(word: &str, dollar: &str) -> String {
    let mut quoted = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str(dollar),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::job;

    #[test]
    fn what_means_something_to_systemd_is_escaped() {
        let word = "a %h \"q\" \\ $HOME 한글";
        let mut job = job(word);
        assert_eq!(service(&job).expect_err("a program that systemd refuses").kind, Kind::Usage);
        job.command[0] = "/opt/a %h $HOME 한글/puller".to_owned();
        let text = service(&job).expect("a program that systemd takes");
        let start = r#""/opt/a %%h $HOME 한글/puller" "schedule" "run" "pull" "a %%h \"q\" \\ $$HOME 한글""#;
        assert_eq!(value(&text, "ExecStart"), Some(start));
        assert!(text.contains("Environment=\"XDG_DATA_HOME=/a %%h \\\"q\\\" \\\\ $HOME 한글\"\n"), "{text}");
    }

    #[test]
    fn a_timer_makes_up_for_runs_that_were_missed() {
        let timer = timer(&job("x"));
        assert_eq!(value(&timer, "OnCalendar"), Some("*-*-* 09:05:00"));
        assert_eq!(value(&timer, "Persistent"), Some("true"));
        let weekly = When::Weekly(jiff::civil::Time::constant(10, 0, 0, 0));
        assert_eq!(calendar(&weekly), "Sun *-*-* 10:00:00");
    }
}
