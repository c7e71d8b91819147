//! Packing: which form each older copy is to have. [`crate::reshape`] gives it to it.

use crate::content::{self, Form};
use crate::manifest::Manifest;
use crate::reshape;
use crate::source_dir::{Lock, SourceDir, StoredCopy};
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::verdict::Verdict;
use std::collections::{BTreeMap, BTreeSet};

/// Deltas in a row, at most: then a copy is kept whole, within gzip.
pub const DELTAS_IN_A_ROW_MAX: usize = 30;

/// Copies that a pull packs, at most: a store that was never packed is not packed in one night.
pub const PACKED_PER_PULL_MAX: usize = 4;

/// How older copies are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pack {
    /// As what is other than in the next newer copy: the least there is, also where plain files could share what is the same in them.
    /// There each changed page is kept whole, however little of it changed, and btrfs keeps an extent for as long as one page of it
    /// is used: 30 clones, of which 1 % of the pages change from one to the next, took 1.8 times the database after 30 days there and
    /// 2.8 times after 120, and on XFS 1.7 times.
    #[default]
    Delta,
    /// Each for itself, within gzip.
    Gzip,
    /// As plain files, which share what is the same in them where the file system can.
    None,
}

/// What packing needs to know of a copy.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// What is thought of it.
    pub verdict: Verdict,
    /// Bytes of a page; `None`: its manifest cannot be read.
    pub page_size: Option<u32>,
    /// How it is kept; `None`: its file is gone.
    pub form: Option<Form>,
    /// The copy that its delta leads from; `None` for other forms, and where that cannot be read.
    pub base: Option<String>,
}

impl Facts {
    /// Of all copies of `source`, oldest first.
    pub fn of(source: &SourceDir, copies: &[StoredCopy]) -> Vec<Self> {
        let of = |copy: &StoredCopy| {
            let found = content::find(source, &copy.id);
            let delta = found.as_ref().filter(|(form, _)| *form == Form::Delta);
            Self {
                id: copy.id.clone(),
                verdict: copy.verdict(),
                page_size: copy.manifest.as_ref().ok().map(|manifest| manifest.page_size),
                form: found.as_ref().map(|(form, _)| *form),
                base: delta.and_then(|(_, path)| content::head_of(path).ok()).map(|head| head.base),
            }
        };
        copies.iter().map(of).collect()
    }

    fn is_exact(&self) -> bool {
        self.verdict.is_exact() && self.page_size.is_some() && self.form.is_some()
    }

    /// Whether it may only be rotten because what it is packed upon is: a page that rotted there may be in another copy as well.
    fn may_be_mended(&self) -> bool {
        self.verdict == Verdict::Rotten && self.page_size.is_some() && self.base.is_some()
    }

    /// Whether others may be packed upon it: what is sick or emptied soon goes, and little in it is as in others.
    fn may_be_base(&self) -> bool {
        self.is_exact() && !matches!(self.verdict, Verdict::Damaged | Verdict::Suspect)
    }
}

/// The form that a copy is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A plain file.
    Plain,
    /// Whole, within gzip.
    Gzip,
    /// A delta that leads from this copy.
    Delta(String),
}

/// Which of `copies`, oldest first, are to have another form, when those in `leaving` go. The newest good copy, and the newest
/// that a pull builds upon, are plain; what is packed stays as it is for as long as the copy that it leads from stays.
pub fn plan(copies: &[Facts], leaving: &BTreeSet<String>, pack: Pack) -> Vec<(String, Wanted)> {
    let stay: Vec<&Facts> = copies.iter().filter(|copy| !leaving.contains(&copy.id)).collect();
    let newest_good = stay.iter().rposition(|copy| copy.is_exact() && copy.verdict.is_good());
    let newest_exact = stay.iter().rposition(|copy| copy.is_exact());
    let mut planned = Vec::new();
    // How many deltas in a row lead from a copy to older ones.
    let mut in_a_row: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, copy) in stay.iter().enumerate() {
        let (Some(form), true) = (copy.form, copy.is_exact() || copy.may_be_mended()) else { continue };
        if Some(index) == newest_good || Some(index) == newest_exact {
            if form != Form::Plain {
                planned.push((copy.id.clone(), Wanted::Plain));
            }
            continue;
        }
        let older = in_a_row.get(copy.id.as_str()).copied().unwrap_or(0);
        // What is packed upon a rotten copy gets off it while it can still be read: somebody may remove that by hand.
        let is_base = |other: &&&Facts| {
            Some(other.id.as_str()) == copy.base.as_deref() && other.verdict != Verdict::Rotten
        };
        let base_stays = stay.iter().find(is_base);
        if copy.may_be_mended() && base_stays.is_some() {
            continue;
        }
        let wanted = match (form, base_stays) {
            (Form::Delta, Some(base)) => {
                let row = in_a_row.entry(&base.id).or_default();
                *row = (*row).max(older + 1);
                continue;
            }
            (Form::Gzip, _) => continue,
            (Form::Plain, _) if pack == Pack::None => continue,
            (Form::Plain, _) if pack == Pack::Gzip => Wanted::Gzip,
            (Form::Plain | Form::Delta, _) => {
                let fits = |other: &&&Facts| other.may_be_base() && other.page_size == copy.page_size;
                match stay[index + 1..].iter().find(fits) {
                    Some(base) if older < DELTAS_IN_A_ROW_MAX => {
                        let row = in_a_row.entry(&base.id).or_default();
                        *row = (*row).max(older + 1);
                        Wanted::Delta(base.id.clone())
                    }
                    None if form == Form::Plain => continue,
                    _ => Wanted::Gzip,
                }
            }
        };
        planned.push((copy.id.clone(), wanted));
    }
    planned
}

/// Sees to it that the newest good copy is plain, as it may not be when another one is it than was before, and that `latest.db`
/// leads to it. Gives why not, in sentences.
pub fn settle(source: &SourceDir, lock: &Lock) -> Result<Vec<String>, Fault> {
    let notes = pack(source, Pack::None, None, 0, lock)?;
    source.link_latest(lock)?;
    Ok(notes)
}

/// Gives copies of `source` the form they are to have: those that are to be plain, and `count_max` others. `proven` is the copy that
/// was read back whole a moment ago. What cannot be packed stays as it is: the sentences say why.
pub fn pack(
    source: &SourceDir,
    pack: Pack,
    proven: Option<&str>,
    count_max: usize,
    lock: &Lock,
) -> Result<Vec<String>, Fault> {
    let copies = source.copies()?;
    let facts = Facts::of(source, &copies);
    let planned = plan(&facts, &BTreeSet::new(), pack);
    let (plain, mut others): (Vec<_>, Vec<_>) =
        planned.into_iter().partition(|(_, wanted)| *wanted == Wanted::Plain);
    // What takes the most room comes before what is packed already.
    let is_plain = |id: &str| facts.iter().any(|facts| facts.id == id && facts.form == Some(Form::Plain));
    let is_rotten = |id: &str| facts.iter().any(|facts| facts.id == id && facts.verdict == Verdict::Rotten);
    others.sort_by_key(|(id, _)| (!is_plain(id), is_rotten(id)));
    let mut notes = Vec::new();
    for (id, wanted) in plain.into_iter().chain(others.into_iter().take(count_max)) {
        let changed = reshape::change(source, &copies, &id, &wanted, proven, lock);
        match changed {
            Ok(()) if is_rotten(&id) => {
                // It is what it was again: the next proof looks at it first, and says so.
                let manifest = reshape::found(&copies, &id)?.manifest;
                source.write_manifest(&Manifest { proof: 0, ..manifest.clone() }, lock)?;
            }
            Ok(()) => tracing::info!(copy = id, ?wanted, "packed"),
            // That is known.
            Err(fault) if fault.kind == Kind::Rotten && is_rotten(&id) => {
                tracing::debug!(copy = id, %fault, "it stays rotten");
            }
            Err(fault) => {
                notes.push(format!("copy {id} is kept as it was: {fault}"));
                if fault.kind == Kind::NoSpace {
                    break;
                }
            }
        }
    }
    Ok(notes)
}

/// Before copy `id` goes, and the others in `leaving`: what leads from it gets another form. Those that leave too are left.
pub fn release(source: &SourceDir, id: &str, leaving: &BTreeSet<String>, lock: &Lock) -> Result<(), Fault> {
    let copies = source.copies()?;
    let facts = Facts::of(source, &copies);
    let leads_from_it = |other: &Facts| other.base.as_deref() == Some(id) && !leaving.contains(&other.id);
    let dependents: Vec<&Facts> = facts.iter().filter(|other| leads_from_it(other)).collect();
    if dependents.is_empty() {
        return Ok(());
    }
    let planned: BTreeMap<String, Wanted> = plan(&facts, leaving, Pack::None).into_iter().collect();
    for dependent in dependents {
        let wanted = planned.get(&dependent.id).ok_or_else(|| {
            Fault::new(
                Kind::Rotten,
                format!("copy {}, which is rotten, is packed upon copy {id}", dependent.id),
            )
        })?;
        reshape::change(source, &copies, &dependent.id, wanted, None, lock)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::{self, Decision};
    use proptest::prelude::*;
    use pullback_shared::page::{Geometry, PageHash};
    use pullback_shared::snapshot::SnapshotHasher;
    use std::fs;
    use std::io;

    /// `P` plain, `G` gzip, `D` delta upon the next copy, `B` delta upon the one after that; in lower case: not good (`p` damaged,
    /// `d` suspect), `r` rotten, `u` unchecked and plain.
    fn copies(forms: &str) -> Vec<Facts> {
        let of = |(index, letter): (usize, char)| Facts {
            id: format!("gym-{:06}-20261121T090000Z", index + 1),
            verdict: match letter {
                'p' => Verdict::Damaged,
                'd' => Verdict::Suspect,
                'r' => Verdict::Rotten,
                'u' => Verdict::Unchecked,
                _ => Verdict::Ok,
            },
            page_size: Some(4096),
            form: Some(match letter {
                'G' => Form::Gzip,
                'D' | 'B' | 'd' => Form::Delta,
                _ => Form::Plain,
            }),
            base: match letter {
                'D' | 'd' => Some(format!("gym-{:06}-20261121T090000Z", index + 2)),
                'B' => Some(format!("gym-{:06}-20261121T090000Z", index + 3)),
                _ => None,
            },
        };
        forms.chars().enumerate().map(of).collect()
    }

    /// What is planned: of each copy its number and `P`, `G`, or the number of its base.
    #[track_caller]
    fn check(forms: &str, leaving: &[usize], pack: Pack, expected: &str) {
        let copies = copies(forms);
        let leaving = leaving.iter().map(|number| copies[*number - 1].id.clone()).collect();
        let number = |id: &str| id[4..10].trim_start_matches('0').to_owned();
        let said: Vec<String> = plan(&copies, &leaving, pack)
            .into_iter()
            .map(|(id, wanted)| match wanted {
                Wanted::Plain => format!("{}P", number(&id)),
                Wanted::Gzip => format!("{}G", number(&id)),
                Wanted::Delta(base) => format!("{}>{}", number(&id), number(&base)),
            })
            .collect();
        assert_eq!(said.join(" "), expected);
    }

    #[test]
    fn older_copies_are_packed_upon_the_next_newer_one() {
        check("PPP", &[], Pack::Delta, "1>2 2>3");
        check("DPP", &[], Pack::Delta, "2>3");
        check("PPP", &[], Pack::Gzip, "1G 2G");
        check("PPP", &[], Pack::None, "");
        check("DDP", &[], Pack::Gzip, "");
        check("P", &[], Pack::Delta, "");
    }

    #[test]
    fn the_newest_good_copy_and_the_newest_exact_one_are_plain() {
        check("DPp", &[], Pack::Delta, "");
        check("DDr", &[], Pack::Delta, "2P");
        check("DDpp", &[], Pack::Delta, "2P");
        check("DGP", &[3], Pack::Delta, "2P");
        check("PPu", &[], Pack::Delta, "1>2");
        check("Puu", &[], Pack::Delta, "2>3");
    }

    #[test]
    fn nothing_is_packed_upon_what_is_sick_emptied_or_rotten() {
        check("PpPP", &[], Pack::Delta, "1>3 2>3 3>4");
        check("PrP", &[], Pack::Delta, "1>3");
        check("DDrPP", &[], Pack::Delta, "2>4 4>5");
        check("DDrPP", &[], Pack::None, "2>4");
        let mut other_size = copies("PPP");
        other_size[2].page_size = Some(1024);
        let planned = plan(&other_size, &BTreeSet::new(), Pack::Delta);
        assert_eq!(planned, [(other_size[0].id.clone(), Wanted::Delta(other_size[1].id.clone()))]);
    }

    #[test]
    fn what_leads_from_a_copy_that_leaves_leads_from_the_next_one_that_stays() {
        check("DDDP", &[2], Pack::None, "1>3");
        check("DDDP", &[2, 3], Pack::Delta, "1>4");
        check("DDDP", &[1], Pack::Delta, "");
        check("DBDDP", &[3], Pack::Delta, "");
        check("DBDDP", &[4], Pack::Delta, "2>3 3>5");
    }

    #[test]
    fn a_row_of_deltas_ends_in_a_whole_copy() {
        let row = "D".repeat(DELTAS_IN_A_ROW_MAX);
        check(&format!("{row}PP"), &[], Pack::Delta, &format!("{}G", DELTAS_IN_A_ROW_MAX + 1));
        check(&format!("{}PP", &row[1..]), &[], Pack::Delta, "30>31");
        let all = "P".repeat(3 * DELTAS_IN_A_ROW_MAX);
        let copies = copies(&all);
        let planned = plan(&copies, &BTreeSet::new(), Pack::Delta);
        let whole = planned.iter().filter(|(_, wanted)| *wanted == Wanted::Gzip).count();
        assert_eq!((planned.len(), whole), (3 * DELTAS_IN_A_ROW_MAX - 1, 2));
    }

    /// A source's folder in which copies are made of bytes, and what each must hold.
    struct Shelf {
        _dir: tempfile::TempDir,
        source: SourceDir,
        lock: Lock,
        held: BTreeMap<String, Vec<u8>>,
    }

    const PAGE: usize = 512;

    impl Shelf {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source =
                SourceDir::create(dir.path().into(), "local:/a/gym.db".into(), None, "gym".into()).unwrap();
            fs::create_dir(source.copies_dir()).unwrap();
            let lock = source.lock().unwrap();
            Self { _dir: dir, source, lock, held: BTreeMap::new() }
        }

        fn add(&mut self, bytes: Vec<u8>, verdict: Verdict) {
            let mut manifest = crate::manifest::tests::manifest(self.source.next_copy(at()).unwrap().1);
            let geometry = Geometry::new(PAGE as u32, (bytes.len() / PAGE) as u32).unwrap();
            let (mut list, mut id) = (Vec::new(), SnapshotHasher::new(geometry));
            for hash in bytes.chunks(PAGE).map(PageHash::of) {
                list.extend_from_slice(&hash.0);
                id.push(hash);
            }
            (manifest.page_size, manifest.page_count) = (PAGE as u32, geometry.page_count);
            (manifest.bytes, manifest.snapshot) = (geometry.bytes(), id.finish().to_string());
            manifest.verdict = verdict;
            fs::write(self.source.file(&manifest.copy, "db"), &bytes).unwrap();
            fs::write(self.source.file(&manifest.copy, "pages"), &list).unwrap();
            self.source.write_manifest(&manifest, &self.lock).unwrap();
            self.held.insert(manifest.copy, bytes);
        }

        fn pack(&self, pack: Pack) {
            let notes = super::pack(&self.source, pack, None, usize::MAX, &self.lock).unwrap();
            assert_eq!(notes, Vec::<String>::new());
        }

        /// Removes the copies whose places are in `going`, but for the newest.
        fn remove(&mut self, going: u32) {
            let copies = self.source.copies().unwrap();
            let places = copies.iter().enumerate();
            let stays = |place: usize| place + 1 == copies.len() || going & (1 << (place % 32)) == 0;
            let decisions: Vec<Decision> = places
                .map(|(place, copy)| Decision {
                    id: copy.id.clone(),
                    kept_because: if stays(place) { vec!["it is wanted".to_owned()] } else { Vec::new() },
                    goes_because: String::new(),
                })
                .collect();
            let removed = rotation::carry_out(&self.source, &decisions, at(), &self.lock).unwrap();
            assert_eq!(removed.kept, Vec::<String>::new());
            assert_eq!(removed.ids.len(), decisions.iter().filter(|decision| !decision.stays()).count());
            removed.ids.iter().for_each(|id| drop(self.held.remove(id)));
        }

        /// Every copy is there, proven, and what it was; nothing else is.
        fn is_right(&self) {
            let copies = self.source.copies().unwrap();
            assert_eq!(copies.len(), self.held.len());
            for copy in &copies {
                let read = crate::verify::read(&self.source, copy, false, &|_| {}).unwrap();
                assert!(read.is_ok(), "{}: {read:?}", copy.id);
                let unpacked = crate::unpacked::Unpacked::of(&self.source, copy).unwrap();
                assert!(fs::read(unpacked.path()).unwrap() == self.held[&copy.id], "{}", copy.id);
            }
            let files = fs::read_dir(self.source.copies_dir()).unwrap().count();
            let of_each = |copy: &StoredCopy| match content::find(&self.source, &copy.id).unwrap().0 {
                Form::Delta => 2,
                Form::Plain | Form::Gzip => 3,
            };
            assert_eq!(files, copies.iter().map(of_each).sum::<usize>());
        }
    }

    fn at() -> jiff::Timestamp {
        "2026-11-21T09:00:00Z".parse().unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Some bytes of some pages change, and the length; the copy that is pulled then is good, or is not.
        Pull(Vec<(u16, u16, u8)>, Option<u8>, Verdict),
        Pack(Pack),
        Remove(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let verdict = prop_oneof![
            8 => Just(Verdict::Ok),
            1 => Just(Verdict::Damaged),
            1 => Just(Verdict::Unchecked),
            1 => Just(Verdict::Suspect),
        ];
        let changes = prop::collection::vec(any::<(u16, u16, u8)>(), 0..40);
        prop_oneof![
            6 => (changes, prop::option::weighted(0.3, 0u8..30), verdict)
                .prop_map(|(changes, pages, verdict)| Step::Pull(changes, pages, verdict)),
            3 => prop_oneof![4 => Just(Pack::Delta), 1 => Just(Pack::Gzip), 1 => Just(Pack::None)].prop_map(Step::Pack),
            2 => any::<u32>().prop_map(Step::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
        #[test]
        fn whatever_is_packed_and_removed_each_copy_stays_what_it_was(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let mut shelf = Shelf::new();
            let mut bytes: Vec<u8> = (0..20 * PAGE).map(|at| (at / 7) as u8).collect();
            for step in steps {
                match step {
                    Step::Pull(changes, pages, verdict) => {
                        bytes.resize(pages.map_or(bytes.len(), |pages| usize::from(pages) * PAGE), 0x5a);
                        let len = bytes.len();
                        for (page, at, byte) in changes.into_iter().filter(|_| len > 0) {
                            bytes[(usize::from(page) * PAGE + usize::from(at) % PAGE) % len] = byte;
                        }
                        shelf.add(bytes.clone(), verdict);
                    }
                    Step::Pack(pack) => shelf.pack(pack),
                    Step::Remove(going) => shelf.remove(going),
                }
                shelf.is_right();
            }
        }
    }

    #[test]
    fn a_copy_can_be_unpacked_while_another_run_clears_up() {
        let mut shelf = Shelf::new();
        (0..2).for_each(|round| shelf.add(vec![round; 10 * PAGE], Verdict::Ok));
        shelf.pack(Pack::Gzip);
        let copy = shelf.source.copies().unwrap().remove(0);
        let (dir, is_done) = (shelf.source.copies_dir(), std::sync::atomic::AtomicBool::new(false));
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            let clearing = scope.spawn(|| {
                while !is_done.load(relaxed) {
                    crate::unpacked::clear(&dir)?;
                }
                Ok::<(), io::Error>(())
            });
            for _ in 0..2000 {
                let unpacked = crate::unpacked::Unpacked::of(&shelf.source, &copy);
                let path = unpacked.as_ref().map(crate::unpacked::Unpacked::path);
                let read = path.map(|path| fs::read(path).unwrap_or_default());
                if read.as_ref().ok() != Some(&shelf.held[&copy.id]) {
                    is_done.store(true, relaxed);
                    panic!("{:?}", read.map(|bytes| bytes.len()));
                }
            }
            is_done.store(true, relaxed);
            clearing.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_row_that_is_longer_than_may_be_has_a_whole_copy_in_it() {
        let mut shelf = Shelf::new();
        let mut bytes = vec![1; 10 * PAGE];
        for round in 0..DELTAS_IN_A_ROW_MAX + 5 {
            bytes[round % 10 * PAGE + 3] += 1;
            shelf.add(bytes.clone(), Verdict::Ok);
            shelf.pack(Pack::Delta);
        }
        shelf.is_right();
        let copies = shelf.source.copies().unwrap();
        let form = |copy: &StoredCopy| content::find(&shelf.source, &copy.id).map(|(form, _)| form);
        assert_eq!(copies.iter().filter(|copy| form(copy) == Some(Form::Gzip)).count(), 1);
    }

    #[test]
    fn a_copy_that_cannot_be_packed_anew_keeps_all_that_leads_to_it() {
        let mut shelf = Shelf::new();
        let mut bytes: Vec<u8> = (0..8 * PAGE).map(|at| at as u8).collect();
        for page in 0..4 {
            bytes[page * PAGE] ^= 1;
            shelf.add(bytes.clone(), Verdict::Ok);
        }
        shelf.pack(Pack::Delta);
        let copies = shelf.source.copies().unwrap();
        let oldest = shelf.source.file(&copies[0].id, "delta.gz");
        let mut rotten = fs::read(&oldest).unwrap();
        *rotten.last_mut().unwrap() ^= 1;
        fs::remove_file(&oldest).unwrap();
        fs::write(&oldest, rotten).unwrap();
        let decision = |copy: &StoredCopy, stays: bool| Decision {
            id: copy.id.clone(),
            kept_because: if stays { vec!["it is wanted".to_owned()] } else { Vec::new() },
            goes_because: String::new(),
        };
        let stays = [true, false, false, true];
        let decisions: Vec<Decision> =
            copies.iter().zip(stays).map(|(copy, stays)| decision(copy, stays)).collect();
        let removed = rotation::carry_out(&shelf.source, &decisions, at(), &shelf.lock).unwrap();
        assert_eq!(removed.ids, [copies[2].id.clone()], "{:?}", removed.kept);
        assert!(removed.kept.len() == 1 && removed.kept[0].contains(&copies[1].id), "{:?}", removed.kept);
        let read = |copy: &StoredCopy| crate::verify::read(&shelf.source, copy, false, &|_| {}).unwrap();
        assert!(read(&copies[1]).is_ok(), "what stays can be read");
        assert!(read(&copies[0]).is_err());
    }

    #[test]
    fn the_copy_that_becomes_the_newest_good_one_becomes_plain() {
        let mut shelf = Shelf::new();
        for byte in 1..4 {
            shelf.add(vec![byte; 8 * PAGE], Verdict::Ok);
            shelf.pack(Pack::Delta);
        }
        shelf.add(vec![9; 8 * PAGE], Verdict::Ok);
        shelf.pack(Pack::Delta);
        let mut copies = shelf.source.copies().unwrap();
        let newest = copies.pop().unwrap().manifest.unwrap();
        shelf.source.write_manifest(&Manifest { verdict: Verdict::Rotten, ..newest }, &shelf.lock).unwrap();
        assert_eq!(settle(&shelf.source, &shelf.lock).unwrap(), Vec::<String>::new());
        let latest = fs::read(shelf.source.dir().join("latest.db")).unwrap();
        assert!(latest == shelf.held[&copies.last().unwrap().id]);
    }

    #[test]
    fn copies_that_rotted_with_what_they_are_packed_upon_are_mended_by_a_newer_one() {
        let mut shelf = Shelf::new();
        let mut bytes: Vec<u8> = (0..8 * PAGE).map(|at| at as u8).collect();
        let mut add = |shelf: &mut Shelf, page: usize| {
            bytes[page * PAGE] ^= 1;
            shelf.add(bytes.clone(), Verdict::Ok);
        };
        (0..3).for_each(|page| add(&mut shelf, page));
        shelf.pack(Pack::Delta);
        let copies = shelf.source.copies().unwrap();
        let newest = shelf.source.file(&copies[2].id, "db");
        let mut rotten = fs::read(&newest).unwrap();
        rotten[6 * PAGE] ^= 1;
        fs::remove_file(&newest).unwrap();
        fs::write(&newest, rotten).unwrap();
        for copy in &copies {
            let found = crate::verify::copy(&shelf.source, copy, false, at(), &shelf.lock, &|_| {}).unwrap();
            assert_eq!(found.result, Verdict::Rotten, "{}", copy.id);
        }
        // The page that rotted is the same in the next copy.
        add(&mut shelf, 4);
        shelf.pack(Pack::Delta);
        let copies = shelf.source.copies().unwrap();
        let read =
            |copy: &StoredCopy| crate::verify::read(&shelf.source, copy, false, &|_| {}).unwrap().is_ok();
        assert_eq!(copies.iter().map(read).collect::<Vec<bool>>(), [true, true, false, true]);
    }

    #[test]
    fn a_rotten_page_of_a_plain_copy_never_gets_into_a_pack() {
        let mut shelf = Shelf::new();
        shelf.add((0..8 * PAGE).map(|at| at as u8).collect(), Verdict::Ok);
        let mut next: Vec<u8> = (0..8 * PAGE).map(|at| at as u8).collect();
        next[3 * PAGE] = 77;
        shelf.add(next, Verdict::Ok);
        let old = shelf.source.copies().unwrap().remove(0);
        let file = shelf.source.file(&old.id, "db");
        let sound = fs::read(&file).unwrap();
        let mut rotten = sound.clone();
        rotten[3 * PAGE + 5] ^= 1;
        fs::write(&file, &rotten).unwrap();
        let notes = super::pack(&shelf.source, Pack::Delta, None, 9, &shelf.lock).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("page 4"), "{notes:?}");
        assert!(file.exists(), "what is rotten stays as it is");
        // A page that is the same in the newer copy is taken from there.
        rotten = sound;
        rotten[6 * PAGE] ^= 1;
        fs::write(&file, &rotten).unwrap();
        shelf.pack(Pack::Delta);
        shelf.is_right();
    }
}
