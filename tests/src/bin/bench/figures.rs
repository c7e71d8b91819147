//! Figures of several rounds: their median, least and most, and ratios taken round by round.

/// One quantity over the rounds; a round in which it could not be measured has no figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Option<f64>>);

/// What stands where there is no figure.
pub(crate) const NOT_MEASURED: &str = "not measured";

impl Figures {
    /// Adds the figure of the next round.
    pub(crate) fn push(&mut self, figure: Option<f64>) {
        self.0.push(figure);
    }

    /// The figures in order of size, if there is one for each round.
    fn sorted(&self) -> Option<Vec<f64>> {
        let mut figures = self.0.iter().copied().collect::<Option<Vec<f64>>>()?;
        figures.sort_by(f64::total_cmp);
        (!figures.is_empty()).then_some(figures)
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        self.sorted().map(|figures| middle_of(&figures))
    }

    /// `median (least to most)`, each as `show` writes it.
    pub(crate) fn spread(&self, show: impl Fn(f64) -> String) -> String {
        match self.sorted().as_deref() {
            Some([one]) => show(*one),
            Some(figures @ [least, .., most]) => {
                format!("{} ({} to {})", show(middle_of(figures)), show(*least), show(*most))
            }
            _ => NOT_MEASURED.to_owned(),
        }
    }

    /// The median, as `show` writes it.
    pub(crate) fn middle(&self, show: impl Fn(f64) -> String) -> String {
        self.median().map_or_else(|| NOT_MEASURED.to_owned(), show)
    }

    /// In each round, this by `other`.
    pub(crate) fn by(&self, other: &Self) -> Self {
        let ratio = |(ours, theirs): (&Option<f64>, &Option<f64>)| Some((*ours)? / (*theirs)?);
        Self(self.0.iter().zip(&other.0).map(ratio).collect())
    }
}

fn middle_of(sorted: &[f64]) -> f64 {
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// The figure that a share of `share` of the sorted `figures` does not exceed.
pub(crate) fn quantile(figures: &[f64], share: f64) -> f64 {
    let last = figures.len().saturating_sub(1);
    figures[((last as f64 * share).round() as usize).min(last)]
}

impl FromIterator<Option<f64>> for Figures {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(rounds: I) -> Self {
        Self(rounds.into_iter().collect())
    }
}

/// Seconds.
pub(crate) fn seconds(figure: f64) -> String {
    format!("{figure:.2}")
}

/// A ratio.
pub(crate) fn ratio(figure: f64) -> String {
    format!("{figure:.2}")
}

/// Bytes as people read them, in thousands.
pub(crate) fn bytes(figure: f64) -> String {
    match figure {
        few if few < 10_000.0 => format!("{few:.0} B"),
        some if some < 10_000_000.0 => format!("{:.1} kB", some / 1e3),
        many => format!("{:.1} MB", many / 1e6),
    }
}

/// Bytes of memory.
pub(crate) fn mebibytes(figure: f64) -> String {
    format!("{:.1}", figure / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_without_a_figure_leaves_none_of_the_quantity() {
        let mut figures = Figures::default();
        [3.0, 1.0, 2.0].into_iter().for_each(|figure| figures.push(Some(figure)));
        assert_eq!(figures.spread(seconds), "2.00 (1.00 to 3.00)");
        let doubled = Figures(vec![Some(6.0), Some(2.0), Some(4.0)]);
        assert_eq!(doubled.by(&figures).spread(ratio), "2.00 (2.00 to 2.00)");
        figures.push(None);
        assert_eq!(figures.spread(seconds), NOT_MEASURED);
    }
}
