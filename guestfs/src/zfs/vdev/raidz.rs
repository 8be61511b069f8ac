//! RAID-Z: each block is a stripe of its own over some of the devices, with one to three sectors of parity a row.
//!
//! Sector `i` of a group of `n` devices is sector `i / n` of device `i % n`. A block takes consecutive sectors, row by row;
//! its columns are what lies below each other: first the parities, then the data, column after column. The first parity is
//! a sum, the others are sums weighed with powers of 2 and of 4 in GF(2^8), the last column with the power 0.
//!
//! A group can be widened by a device. Its sectors are then laid out anew over `n + 1` devices, and the blocks that were
//! there before keep their rows of `n`: what was one column on one device lies on several.

use std::ops::Range;

use blockdev::{Error, Result};

use super::{galois, leaf::Leaf};

/// Parities there can be.
const PARITY_MAX: usize = 3;

/// Sets of devices that are taken for damaged, one after the other, before a block is given up; and bytes that are worked
/// on for that.
const ATTEMPTS_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 30;

/// A group of devices.
pub struct Raidz {
    /// Each device, as one or, while it is replaced, several.
    children: Vec<Vec<Leaf>>,
    parity: usize,
    sector_shift: u32,
    /// The transaction groups at which the group was widened, ascending.
    widened: Vec<u64>,
}

/// What a block has on one device, one sector or several that lie below each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    child: usize,
    offset: u64,
    len: usize,
}

/// Whether the block is right when it is put together out of the stripes, and of the data that was made anew for some.
type Accepted<'a> = &'a mut dyn FnMut(&[Stripe], &[Option<Vec<u8>>]) -> Result<bool>;

impl Raidz {
    /// The group of `children` with `parity` parities and sectors of `1 << sector_shift` bytes, which was widened in the
    /// transaction groups `widened`.
    ///
    /// # Errors
    ///
    /// `Damaged` when there is no such group.
    pub fn new(children: Vec<Vec<Leaf>>, parity: u64, sector_shift: u32, mut widened: Vec<u64>) -> Result<Self> {
        let parity = usize::try_from(parity).unwrap_or(usize::MAX);
        let narrowest = children.len().saturating_sub(widened.len());
        if !(1..=PARITY_MAX).contains(&parity) || narrowest <= parity {
            return Err(Error::damaged(format!("a raidz of {narrowest} devices with {parity} parities")));
        }
        widened.sort_unstable();
        Ok(Self { children, parity, sector_shift, widened })
    }

    /// The devices, each as one or, while it is replaced, several.
    pub fn children(&self) -> impl Iterator<Item = &Vec<Leaf>> {
        self.children.iter()
    }

    /// What is left of `size` bytes when parity is taken off, as the pool counts it: by blocks of 128 KiB.
    pub fn usable(&self, size: u64) -> u64 {
        const BLOCK: usize = 128 << 10;
        let stripes = self.stripes(0, BLOCK, 0);
        let stored: usize = stripes.iter().flat_map(|stripe| &stripe.columns).map(|column| column.len).sum();
        (u128::from(size) * BLOCK as u128 / (stored.max(1) as u128)) as u64
    }

    /// The stripes of the block of `len` bytes at `offset` that was written in transaction group `born`: one, or one a row
    /// where columns lie on several devices.
    fn stripes(&self, offset: u64, len: usize, born: u64) -> Vec<Stripe> {
        let (parity, shift) = (self.parity as u64, self.sector_shift);
        let devices = self.children.len() as u64;
        let later = self.widened.iter().filter(|group| **group > born).count() as u64;
        let width = devices - later;
        let sectors = (len as u64).div_ceil(1 << shift);
        let (full, rest) = (sectors / (width - parity), sectors % (width - parity));
        let rows = full + u64::from(rest > 0);
        // Columns that reach into the last row.
        let long = if rest == 0 { width } else { rest + parity };
        let count = if full == 0 { long } else { width };
        let height = |column: u64| if column < long { rows } else { rows - 1 };
        let swap = self.parity == 1 && offset & 1 << 20 != 0;
        let start = offset >> shift;
        let stripe = |first: u64, height: &dyn Fn(u64) -> u64| {
            let mut columns: Vec<Column> = (0..count)
                .map(|n| Column {
                    child: ((first + n) % devices) as usize,
                    offset: ((first + n) / devices) << shift,
                    len: (height(n) << shift) as usize,
                })
                .collect();
            // So that the parities of small blocks are not all on one device.
            if swap && let [first, second, ..] = columns.as_mut_slice() {
                (first.child, second.child) = (second.child, first.child);
                (first.offset, second.offset) = (second.offset, first.offset);
            }
            Stripe::new(columns, self.parity)
        };
        if later == 0 {
            return vec![stripe(start, &height)];
        }
        (0..rows).map(|row| stripe(start + row * width, &|column| u64::from(row < height(column)))).collect()
    }

    /// Fills `buf` with the block at `offset` that `is_right` accepts: as it is, or with what is on devices that cannot be
    /// read or may be damaged made anew out of the others.
    ///
    /// # Errors
    ///
    /// What reading gives when too few devices can be read; `Damaged` when nothing is accepted.
    pub fn read(
        &self,
        offset: u64,
        born: u64,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let alternatives = self.children.iter().map(Vec::len).max().unwrap_or(1);
        let mut result = Err(Error::damaged("a block is on no device"));
        for alternative in 0..alternatives {
            let mut stripes = self.stripes(offset, buf.len(), born);
            result = self.read_from(&mut stripes, alternative, buf, is_right);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The same with the device number `alternative` of those that stand for each other.
    fn read_from(
        &self,
        stripes: &mut [Stripe],
        alternative: usize,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut unreadable = Vec::new();
        let mut failed = None;
        let mut read = |stripe: &mut Stripe, numbers: Range<usize>| {
            for number in numbers {
                if let Err((child, e)) = self.read_column(stripe, number, alternative) {
                    if !unreadable.contains(&child) {
                        unreadable.push(child);
                    }
                    failed = Some(e);
                }
            }
            unreadable.len()
        };
        let mut missing = 0;
        for stripe in &mut *stripes {
            missing = read(stripe, stripe.parity..stripe.columns.len());
        }
        let mut accepted = |stripes: &[Stripe], made: &[Option<Vec<u8>>]| -> Result<bool> {
            assemble(stripes, made, buf);
            is_right(buf)
        };
        if missing == 0 && accepted(stripes, &[])? {
            return Ok(());
        }
        for stripe in &mut *stripes {
            read(stripe, 0..stripe.parity.min(stripe.columns.len()));
        }
        if self.reconstruct(stripes, &unreadable, &mut accepted)? {
            return Ok(());
        }
        Err(failed.unwrap_or_else(|| Error::damaged("a block has a wrong checksum, and parity does not mend it")))
    }

    /// Reads column `number`; an error comes with the device.
    fn read_column(
        &self,
        stripe: &mut Stripe,
        number: usize,
        alternative: usize,
    ) -> std::result::Result<(), (usize, Error)> {
        let Some(column) = stripe.columns.get(number).copied().filter(|column| column.len > 0) else { return Ok(()) };
        let leaves = self.children.get(column.child).map_or(&[][..], Vec::as_slice);
        let mut result = Err((column.child, Error::damaged("a column of a block is on no device")));
        for leaf in leaves.iter().cycle().skip(alternative).take(leaves.len()) {
            result = leaf.read(column.offset, stripe.column_mut(number)).map_err(|e| (column.child, e));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// Makes what is on the unreadable devices anew, and with it what is on every set of others that parity suffices for,
    /// until the block is accepted.
    fn reconstruct(&self, stripes: &[Stripe], unreadable: &[usize], accepted: Accepted<'_>) -> Result<bool> {
        let Some(spare) = self.parity.checked_sub(unreadable.len()) else { return Ok(false) };
        let used = |child: &usize| stripes.iter().flat_map(|stripe| &stripe.columns).any(|c| c.child == *child);
        let suspects: Vec<usize> = (0..self.children.len()).filter(|n| !unreadable.contains(n)).filter(used).collect();
        let size: usize = stripes.iter().map(|stripe| stripe.data.len()).sum();
        let mut attempts = ATTEMPTS_MAX.min(BYTES_MAX / size.max(1)).max(1);
        for extra in 0..=spare {
            let mut chosen: Vec<usize> = (0..extra).collect();
            loop {
                let guessed = chosen.iter().filter_map(|n| suspects.get(*n));
                let bad: Vec<usize> = unreadable.iter().chain(guessed).copied().collect();
                let made: Option<Vec<_>> = stripes.iter().map(|stripe| stripe.without(&bad)).collect();
                // What changes nothing was refused before.
                let changed = made.filter(|made| made.iter().any(Option::is_some));
                if let Some(made) = changed
                    && accepted(stripes, &made)?
                {
                    return Ok(true);
                }
                attempts -= 1;
                if attempts == 0 {
                    return Ok(false);
                }
                if !next_choice(&mut chosen, suspects.len()) {
                    break;
                }
            }
        }
        Ok(false)
    }
}

/// Puts the block together: `made` is the data of the stripes that was made anew.
fn assemble(stripes: &[Stripe], made: &[Option<Vec<u8>>], buf: &mut [u8]) {
    let data = |number: usize| {
        let stripe = stripes.get(number)?;
        Some((stripe, made.get(number).and_then(Option::as_ref).unwrap_or(&stripe.data)))
    };
    let Some((first, whole)) = data(0) else { return };
    if stripes.len() == 1 {
        if let Some(block) = whole.get(..buf.len()) {
            buf.copy_from_slice(block);
        }
        return;
    }
    // Column after column, in each the rows.
    let mut rest = buf;
    for column in first.parity..first.columns.len() {
        for (stripe, data) in (0..stripes.len()).filter_map(data) {
            let part = data.get(stripe.range(column)).unwrap_or_default();
            // The last sector may be longer than what is left of the block.
            let (place, tail) = rest.split_at_mut(part.len().min(rest.len()));
            place.copy_from_slice(&part[..place.len()]);
            rest = tail;
        }
    }
}

/// Columns in memory, whose parities belong together.
struct Stripe {
    columns: Vec<Column>,
    parity: usize,
    /// The data columns, one after the other.
    data: Vec<u8>,
    /// The parity columns, one after the other.
    parities: Vec<u8>,
}

impl Stripe {
    fn new(columns: Vec<Column>, parity: usize) -> Self {
        let (parities, data) = columns.split_at(parity.min(columns.len()));
        let len = |columns: &[Column]| columns.iter().map(|c| c.len).sum();
        let (data, parities) = (vec![0; len(data)], vec![0; len(parities)]);
        Self { columns, parity, data, parities }
    }

    /// Where column `number` is in [`data`](Self::data) or [`parities`](Self::parities).
    fn range(&self, number: usize) -> Range<usize> {
        let first = if number < self.parity { 0 } else { self.parity };
        let before = self.columns.get(first..number).unwrap_or_default();
        let start: usize = before.iter().map(|c| c.len).sum();
        start..start + self.columns.get(number).map_or(0, |c| c.len)
    }

    fn column(&self, number: usize) -> &[u8] {
        let of = if number < self.parity { &self.parities } else { &self.data };
        of.get(self.range(number)).unwrap_or_default()
    }

    fn column_mut(&mut self, number: usize) -> &mut [u8] {
        let range = self.range(number);
        let of = if number < self.parity { &mut self.parities } else { &mut self.data };
        of.get_mut(range).unwrap_or_default()
    }

    /// The data with what is on the devices `bad` made anew: `None` when parity does not suffice, `Some(None)` when there
    /// is no data on them.
    #[allow(clippy::option_option, reason = "collected over all stripes, where the outer one ends it")]
    fn without(&self, bad: &[usize]) -> Option<Option<Vec<u8>>> {
        let is_bad = |number: &usize| self.columns.get(*number).is_some_and(|c| c.len > 0 && bad.contains(&c.child));
        let lost: Vec<usize> = (self.parity..self.columns.len()).filter(is_bad).collect();
        if lost.is_empty() {
            return Some(None);
        }
        let parities: Vec<usize> = (0..self.parity).filter(|n| !is_bad(n)).take(lost.len()).collect();
        let made = match (&lost[..], &parities[..]) {
            ([a], [p]) => self.solve([*a], [*p]).map(Vec::from),
            ([a, b], [p, q]) => self.solve([*a, *b], [*p, *q]).map(Vec::from),
            ([a, b, c], [p, q, r]) => self.solve([*a, *b, *c], [*p, *q, *r]).map(Vec::from),
            _ => None,
        }?;
        let mut data = self.data.clone();
        for (number, bytes) in lost.iter().zip(&made) {
            let column = data.get_mut(self.range(*number)).unwrap_or_default();
            column.copy_from_slice(bytes.get(..column.len()).unwrap_or_default());
        }
        Some(Some(data))
    }

    /// What the data columns `unknown` must be by the parities `parities`.
    fn solve<const N: usize>(&self, unknown: [usize; N], parities: [usize; N]) -> Option<[Vec<u8>; N]> {
        let last = self.columns.len() - 1;
        // Parity number p weighs the data column that is k before the last with (2^p)^k.
        let matrix = parities.map(|p| unknown.map(|column| galois::power_of_two(p * (last - column))));
        let inverse = galois::inverse(matrix)?;
        let rests = parities.map(|p| self.rest(p, &unknown));
        Some(inverse.map(|factors| {
            let mut made = vec![0; rests.first().map_or(0, Vec::len)];
            for (rest, factor) in rests.iter().zip(factors) {
                galois::add_times(&mut made, rest, factor);
            }
            made
        }))
    }

    /// What is left of parity `parity` when all data columns but `unknown` are taken out.
    fn rest(&self, parity: usize, unknown: &[usize]) -> Vec<u8> {
        let mut sum = vec![0; self.column(parity).len()];
        for number in self.parity..self.columns.len() {
            for _ in 0..parity {
                galois::double(&mut sum);
            }
            if !unknown.contains(&number) {
                galois::add_times(&mut sum, self.column(number), 1);
            }
        }
        galois::add_times(&mut sum, self.column(parity), 1);
        sum
    }
}

/// The next of all choices of ascending numbers below `end`; false after the last.
fn next_choice(chosen: &mut [usize], end: usize) -> bool {
    let count = chosen.len();
    for place in (0..count).rev() {
        if chosen[place] + (count - place) < end {
            chosen[place] += 1;
            for later in place + 1..count {
                chosen[later] = chosen[later - 1] + 1;
            }
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn group(children: usize, parity: u64, widened: &[u64]) -> Raidz {
        let leaf = Leaf { device: None, name: String::new() };
        Raidz::new(vec![vec![leaf]; children], parity, 9, widened.to_vec()).unwrap()
    }

    /// The columns of a block lie on different devices, and those of neighbouring blocks nowhere twice.
    #[test]
    fn columns_do_not_overlap() {
        let cases: [(_, _, _, &[u64]); 6] = [
            (3, 1, 9, &[]),
            (4, 2, 9, &[]),
            (5, 3, 9, &[7]),
            (8, 2, 9, &[5, 7]),
            (5, 1, 1, &[5, 7]),
            (6, 2, 6, &[5, 7]),
        ];
        for (children, parity, born, widened) in cases {
            let group = group(children, parity, widened);
            let mut taken = BTreeSet::new();
            let mut offset = 0;
            for sectors in 1..60 {
                let stripes = group.stripes(offset, sectors * 512, born);
                assert_eq!(stripes.iter().map(|s| s.data.len()).sum::<usize>(), sectors * 512);
                for stripe in &stripes {
                    let used = stripe.columns.iter().filter(|c| c.len > 0);
                    let children: BTreeSet<_> = used.clone().map(|c| c.child).collect();
                    assert_eq!(children.len(), used.count());
                    for column in &stripe.columns {
                        for sector in 0..column.len as u64 / 512 {
                            assert!(taken.insert((column.child, column.offset / 512 + sector)), "{column:?}");
                        }
                        offset += column.len as u64;
                    }
                }
            }
            // Without the swapping that happens beyond a mebibyte there is no gap either.
            assert_eq!(taken.len() as u64 * 512, offset);
        }
    }

    #[test]
    fn choices_are_complete() {
        let mut chosen = vec![0, 1, 2];
        let mut count = 1;
        while next_choice(&mut chosen, 6) {
            count += 1;
        }
        assert_eq!((count, chosen), (20, vec![3, 4, 5]));
        assert!(!next_choice(&mut [], 6));
    }

    /// Whichever three devices are harmed, and whether a block is of before or after the group was widened: which they are
    /// is not said, and found all the same.
    #[test]
    fn any_columns_come_back() {
        for born in [4, 6] {
            let group = group(6, 3, &[5]);
            let truth = || {
                let mut stripes = group.stripes(512 * 7, 512 * 11, born);
                let mut seed = 1_u32;
                for stripe in &mut stripes {
                    for byte in &mut stripe.data {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        *byte = (seed >> 24) as u8;
                    }
                    for parity in 0..3 {
                        let sum = stripe.rest(parity, &[]);
                        stripe.column_mut(parity).copy_from_slice(&sum);
                    }
                }
                stripes
            };
            let mut block = vec![0; 512 * 11];
            assemble(&truth(), &[], &mut block);
            let mut lost = vec![0, 1, 2];
            loop {
                let mut harmed = truth();
                let mut has_data = false;
                for stripe in &mut harmed {
                    for number in 0..stripe.columns.len() {
                        if lost.contains(&stripe.columns[number].child) {
                            has_data |= number >= 3 && stripe.columns[number].len > 0;
                            stripe.column_mut(number).fill(0x55);
                        }
                    }
                }
                let mut is_right = |stripes: &[Stripe], made: &[Option<Vec<u8>>]| {
                    let mut found = vec![0; block.len()];
                    assemble(stripes, made, &mut found);
                    Ok(found == block)
                };
                let right = group.reconstruct(&harmed, &[], &mut is_right).unwrap();
                assert!(right || !has_data, "{lost:?}");
                if !next_choice(&mut lost, 6) {
                    break;
                }
            }
        }
    }
}
