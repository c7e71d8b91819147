//! Numbers, bytes and words that look random and are the same for the same seed.

/// A seeded generator (SplitMix64, Steele et al. 2014): enough to vary test data, not for secrets.
#[derive(Debug)]
pub struct Dice(u64);

const WORDS: [&str; 16] = [
    "north", "locker", "회원", "yoga", "winter", "tariff", "renewed", "café", "evening", "spare", "key",
    "guest", "naïve", "bench", "towel", "운동",
];

impl Dice {
    /// Dice that fall the same way for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of `low..high`, as SQLite's integers are.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        assert!(low < high, "no number is in {low}..{high}");
        low + (self.roll() % low.abs_diff(high)).cast_signed()
    }

    /// `length` bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.roll().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// `count` words with spaces between, such as a person types, not all of them ASCII.
    pub fn words(&mut self, count: usize) -> String {
        let word = |dice: &mut Self| WORDS[dice.between(0, WORDS.len() as i64) as usize];
        (0..count).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }
}
