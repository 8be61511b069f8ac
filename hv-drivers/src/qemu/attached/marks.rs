//! Bitmaps that stand for marks.
//!
//! A mark's bitmap has its name, behind a word of ours. Others' bitmaps, and those of another installation of this
//! program, are never touched: every installation has names of its own.

use serde_json::{Value, json};

use super::blocks::{self, Bitmap, Disk};
use crate::{Error, Result, qmp::Client};

/// The longest name that QEMU gives a bitmap in a qcow2, in bytes (`docs/interop/qcow2.rst`).
const NAME_MAX: usize = 1023;

/// The bitmap of a mark.
pub fn bitmap(mark: &str) -> String {
    format!("revenant-{mark}")
}

/// The bitmap that has what was changed up to a point: it stands still, and can be served.
pub fn frozen(mark: &str) -> String {
    format!("{}-frozen", bitmap(mark))
}

/// Whether the bitmaps of `since`, marks that follow each other to the newest, are there and know everything.
///
/// # Errors
///
/// With the reason, when they are not.
pub fn check(bitmaps: &[Bitmap], since: &[String]) -> std::result::Result<(), String> {
    for (number, mark) in since.iter().enumerate() {
        let name = bitmap(mark);
        let Some(found) = bitmaps.iter().find(|b| b.name == name) else {
            return Err(format!("its change tracking is gone (no bitmap {name}): the image was replaced or reverted"));
        };
        if found.is_inconsistent {
            return Err("its change tracking was not stored when the machine ended (power loss or kill)".to_owned());
        }
        if found.is_busy {
            return Err(format!("its change tracking is in use by another program (bitmap {name} is busy)"));
        }
        if found.is_recording != (number + 1 == since.len()) {
            return Err(format!("its change tracking was tampered with (bitmap {name})"));
        }
    }
    Ok(())
}

/// The actions that make `mark` the newest, all at once with whatever else is done in the transaction: recording goes over
/// to its bitmap, and what has changed since the first of `since` is in its frozen one.
///
/// # Errors
///
/// When the name is longer than can be.
pub fn begin(disk: &Disk, mark: &str, since: &[String]) -> Result<Vec<Value>> {
    /// Bytes that a bit stands for: a cluster of the deltas.
    const GRANULARITY: u32 = 64 << 10;
    let (name, frozen) = (bitmap(mark), frozen(mark));
    if frozen.len() > NAME_MAX {
        return Err(Error::invalid(format!("{mark} is too long for the name of a bitmap")));
    }
    let action = |kind: &str, data: Value| json!({ "type": format!("block-dirty-bitmap-{kind}"), "data": data });
    let mut actions = vec![action(
        "add",
        json!({ "node": disk.node, "name": name, "persistent": disk.keeps_bitmaps, "granularity": GRANULARITY }),
    )];
    if let Some(newest) = since.last() {
        let old: Vec<String> = since.iter().map(|mark| bitmap(mark)).collect();
        actions.push(action("disable", json!({ "node": disk.node, "name": bitmap(newest) })));
        actions.push(action(
            "add",
            json!({ "node": disk.node, "name": frozen, "disabled": true, "granularity": GRANULARITY }),
        ));
        actions.push(action("merge", json!({ "node": disk.node, "target": frozen, "bitmaps": old })));
    }
    Ok(actions)
}

/// Keeps `mark`, and forgets the marks of the same installation that are not among `kept`.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn keep(monitor: &mut Client, mark: &str, kept: &[String]) -> Result<()> {
    let stays: Vec<String> = kept.iter().map(String::as_str).chain([mark]).map(bitmap).collect();
    let own = family(mark);
    for disk in blocks::disks(monitor)?.disks {
        for found in blocks::bitmaps(monitor, &disk.node)? {
            if found.name.starts_with(&own) && !found.is_busy && !stays.contains(&found.name) {
                remove(monitor, &disk, &found.name)?;
            }
        }
    }
    Ok(())
}

/// Takes `mark` back: the one before goes on recording, with what was recorded since.
///
/// # Errors
///
/// When QEMU does not answer.
pub fn roll_back(monitor: &mut Client, mark: &str, before: Option<&str>) -> Result<()> {
    let name = bitmap(mark);
    for disk in blocks::disks(monitor)?.disks {
        let bitmaps = blocks::bitmaps(monitor, &disk.node)?;
        let usable = |name: &str| bitmaps.iter().any(|b| b.name == name && !b.is_inconsistent);
        let before = before.map(bitmap).filter(|before| usable(before));
        if let (Some(before), true) = (&before, usable(&name)) {
            // Twice is as good as once: it can be interrupted anywhere.
            let actions = json!([
                { "type": "block-dirty-bitmap-enable", "data": { "node": disk.node, "name": before } },
                { "type": "block-dirty-bitmap-merge",
                  "data": { "node": disk.node, "target": before, "bitmaps": [name] } },
            ]);
            monitor.execute("transaction", &json!({ "actions": actions }))?;
        }
        for name in [frozen(mark), name.clone()] {
            if bitmaps.iter().any(|b| b.name == name) {
                remove(monitor, &disk, &name)?;
            }
        }
    }
    Ok(())
}

fn remove(monitor: &mut Client, disk: &Disk, name: &str) -> Result<()> {
    monitor.execute("block-dirty-bitmap-remove", &json!({ "node": disk.node, "name": name })).map(drop)
}

/// What the names of all bitmaps of the installation that made `mark` begin with: a mark ends with its number.
fn family(mark: &str) -> String {
    bitmap(mark.rsplit_once('-').map_or(mark, |(family, _)| family)) + "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmaps(list: &[(&str, bool, bool)]) -> Vec<Bitmap> {
        let bitmap = |(name, is_recording, is_inconsistent): &(&str, bool, bool)| Bitmap {
            name: (*name).to_owned(),
            is_recording: *is_recording,
            is_inconsistent: *is_inconsistent,
            is_busy: false,
        };
        list.iter().map(bitmap).collect()
    }

    #[test]
    fn what_is_believed() {
        let since = ["a-1".to_owned(), "a-2".to_owned()];
        let good = [("revenant-a-1", false, false), ("revenant-a-2", true, false), ("other", true, true)];
        assert_eq!(check(&bitmaps(&good), &since), Ok(()));
        let replaced = check(&bitmaps(&good[1..]), &since).expect_err("one is gone");
        assert!(replaced.contains("is gone"), "{replaced}");
        let killed = [("revenant-a-1", false, false), ("revenant-a-2", true, true)];
        assert!(check(&bitmaps(&killed), &since).expect_err("killed").contains("not stored"));
        let stopped = [("revenant-a-1", false, false), ("revenant-a-2", false, false)];
        assert!(check(&bitmaps(&stopped), &since).expect_err("stopped").contains("tampered"));
    }

    #[test]
    fn families() {
        assert_eq!(family("k3x9-17"), "revenant-k3x9-");
    }
}
