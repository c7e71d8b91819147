//! The progress bar: on a terminal, and only there.

use crate::cli::Cli;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use puller::pull::Watch;
use std::io::IsTerminal;

/// The bars of several runs at once.
pub(crate) struct Bars(MultiProgress);

impl Bars {
    /// Bars for the runs of one command; hidden when nobody would see them.
    pub(crate) fn new(cli: &Cli) -> Self {
        let hidden = cli.common.quiet || cli.common.json || !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self(MultiProgress::with_draw_target(target))
    }

    /// A bar for `source`.
    pub(crate) fn bar(&self, source: &str) -> Bar {
        let bar = self.0.add(ProgressBar::no_length());
        let style = "{prefix} {msg:>10} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(style).expect("BUG: a bar without a shape").progress_chars("=> "),
        );
        bar.set_prefix(source.to_owned());
        Bar(bar)
    }

    /// Does `work`, which prints, without mixing it with the bars.
    pub(crate) fn aside(&self, work: impl FnOnce()) {
        self.0.suspend(work);
    }
}

/// A bar for one run.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// The only bar of a command.
    pub(crate) fn new(cli: &Cli, source: &str) -> Self {
        Bars::new(cli).bar(source)
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }

    fn show(&self, what: &'static str, now: u64, of: u64) {
        if self.0.message() != what {
            self.0.set_message(what);
            self.0.reset_eta();
        }
        if of > 0 {
            self.0.set_length(of);
        }
        self.0.set_position(now);
    }
}

impl Watch for Bar {
    fn reading(&self, pages: u32, of: u32) {
        self.show("reading", pages.into(), of.into());
    }

    fn receiving(&self, bytes: u64, of: u64) {
        self.show("receiving", bytes, of);
    }

    fn proving(&self, bytes: u64, of: u64) {
        self.show("proving", bytes, of);
    }

    fn sending(&self, bytes: u64, of: u64) {
        self.show("sending", bytes, of);
    }

    fn writing(&self, pages: u32, of: u32) {
        self.show("writing", pages.into(), of.into());
    }
}
