//! What is sent to an agent to be restored: the pages it lacks, as patches where it has the page as it was.

use crate::client::Restoring;
use crate::content::Content;
use crate::pull::Watch;
use pullback_shared::fault::{Fault, Kind};
use pullback_shared::frame::{Compression, Frame, FrameBuilder, FrameError, Kind as FrameKind, xor};
use pullback_shared::hashes::HashList;
use pullback_shared::page::{PageHash, PageNo};
use pullback_shared::restoring::Request;
use std::fs::File;
use std::io;

/// Of frames: what is sent goes to a small machine over a slow line.
const LEVEL: i32 = 3;

/// Sends the pages of `content` that are other than in `base`, which the agent has, or all of them.
pub fn send(
    to: &Restoring,
    content: &Content,
    base: Option<&Content>,
    watch: &dyn Watch,
) -> Result<(), Fault> {
    let geometry = content.geometry();
    let mut hashes = list(content)?;
    let mut base = base.map(|base| Ok::<_, Fault>((base, list(base)?))).transpose()?;
    let builder =
        |kind| FrameBuilder::new(geometry.page_size, kind, Compression::Zstd(LEVEL)).map_err(internal);
    let (mut plain, mut patches) = (builder(FrameKind::Plain)?, builder(FrameKind::Patch)?);
    let size = geometry.page_size.as_usize();
    let (mut page, mut old) = (vec![0; size], vec![0; size]);
    for number in 1..=geometry.page_count {
        let no = PageNo::new(number).expect("BUG: page 0");
        watch.sending(u64::from(number) * size as u64, geometry.bytes());
        let hash = hashes.get(no).map_err(reading)?;
        let before = match &mut base {
            Some((base, hashes)) if base.geometry().holds(no) => {
                Some((base, hashes.get(no).map_err(reading)?))
            }
            _ => None,
        };
        if before.as_ref().is_some_and(|(_, before)| *before == hash) {
            continue;
        }
        content.read_page(no, &mut page).map_err(reading)?;
        if PageHash::of(&page) != hash {
            return Err(Fault::new(Kind::Rotten, format!("page {number} of the copy has rotted"))
                .hint("`puller verify` says more; restore another copy"));
        }
        let frame = match before {
            Some((base, _)) => {
                base.read_page(no, &mut old).map_err(reading)?;
                xor(&mut page, &old);
                patches.push(no, &page, hash)
            }
            None => plain.push(no, &page, hash),
        };
        if !pass_on(to, frame.map_err(internal)?)? {
            return Ok(());
        }
    }
    for mut builder in [plain, patches] {
        if !pass_on(to, builder.finish().map_err(internal)?)? {
            return Ok(());
        }
    }
    to.say(Request::End).map(|_| ())
}

/// Whether the agent still listens.
fn pass_on(to: &Restoring, frame: Option<Frame>) -> Result<bool, Fault> {
    frame.map_or(Ok(true), |frame| to.say(Request::Frame(frame)))
}

fn list(content: &Content) -> Result<HashList<File>, Fault> {
    Ok(HashList::new(content.hashes().map_err(reading)?, content.geometry().page_count))
}

fn reading(error: io::Error) -> Fault {
    Fault::io("the copy that is to be restored", &error)
}

fn internal(error: FrameError) -> Fault {
    Fault::new(Kind::Internal, error.to_string())
}
