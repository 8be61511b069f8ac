//! RAID-Z: each block is a stripe of its own over some of the devices, with one to three sectors of parity a row.
//!
//! A block of `s` sectors at sector `b` of a group of `n` devices begins on device `b % n` and goes round. Its columns are
//! what it has on a device each: first the parities, then the data, column after column. The first parity is a sum, the
//! others are sums weighed with powers of 2 and of 4 in GF(2^8), the last column with the power 0.

use blockdev::{Error, Result};

use super::{galois, leaf::Leaf};

/// Parities there can be.
const PARITY_MAX: usize = 3;

/// Sets of columns that are taken for damaged, one after the other, before a block is given up; and bytes that are
/// worked on for that.
const ATTEMPTS_MAX: usize = 4096;
const BYTES_MAX: usize = 1 << 30;

/// A group of devices.
pub struct Raidz {
    /// Each device, as one or, while it is replaced, several.
    children: Vec<Vec<Leaf>>,
    parity: usize,
    sector_shift: u32,
}

/// What a block has on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column {
    child: usize,
    offset: u64,
    len: usize,
}

impl Raidz {
    /// The group of `children` with `parity` parities and sectors of `1 << sector_shift` bytes.
    ///
    /// # Errors
    ///
    /// `Damaged` when there is no such group.
    pub fn new(children: Vec<Vec<Leaf>>, parity: u64, sector_shift: u32) -> Result<Self> {
        let parity = usize::try_from(parity).unwrap_or(usize::MAX);
        if !(1..=PARITY_MAX).contains(&parity) || children.len() <= parity {
            return Err(Error::damaged(format!("a raidz of {} devices with {parity} parities", children.len())));
        }
        Ok(Self { children, parity, sector_shift })
    }

    /// The devices, each as one or, while it is replaced, several.
    pub fn children(&self) -> impl Iterator<Item = &Vec<Leaf>> {
        self.children.iter()
    }

    /// What is left of `size` bytes when parity is taken off, as the pool counts it: by blocks of 128 KiB.
    pub fn usable(&self, size: u64) -> u64 {
        const BLOCK: usize = 128 << 10;
        let stored: u64 = self.columns(0, BLOCK).iter().map(|c| c.len as u64).sum();
        (u128::from(size) * BLOCK as u128 / u128::from(stored.max(1))) as u64
    }

    /// The columns of the block of `len` bytes at `offset`, the parities first.
    fn columns(&self, offset: u64, len: usize) -> Vec<Column> {
        let (children, parity, shift) = (self.children.len() as u64, self.parity as u64, self.sector_shift);
        let sectors = (len as u64).div_ceil(1 << shift);
        let start = offset >> shift;
        let (rows, rest) = (sectors / (children - parity), sectors % (children - parity));
        // Columns that have one sector more than the others.
        let long = if rest == 0 { 0 } else { rest + parity };
        let count = if rows == 0 { long } else { children };
        let mut columns: Vec<Column> = (0..count)
            .map(|n| {
                let at = start + n;
                let sectors = if n < long { rows + 1 } else { rows };
                Column {
                    child: (at % children) as usize,
                    offset: (at / children) << shift,
                    len: (sectors << shift) as usize,
                }
            })
            .collect();
        // So that the parities of small blocks are not all on one device.
        if self.parity == 1
            && offset & 1 << 20 != 0
            && let [first, second, ..] = columns.as_mut_slice()
        {
            (first.child, second.child) = (second.child, first.child);
            (first.offset, second.offset) = (second.offset, first.offset);
        }
        columns
    }

    /// Fills `buf` with the block at `offset` that `is_right` accepts: as it is, or with columns that cannot be read or
    /// may be damaged made anew out of the others.
    ///
    /// # Errors
    ///
    /// What reading gives when too few devices can be read; `Damaged` when nothing is accepted.
    pub fn read(&self, offset: u64, buf: &mut [u8], is_right: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        let columns = self.columns(offset, buf.len());
        let alternatives = self.children.iter().map(Vec::len).max().unwrap_or(1);
        let mut result = Err(Error::damaged("a block is on no device"));
        for alternative in 0..alternatives {
            let mut stripe = Stripe::new(&columns, self.parity);
            result = self.read_as(&mut stripe, alternative, buf, is_right);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn read_as(
        &self,
        stripe: &mut Stripe<'_>,
        alternative: usize,
        buf: &mut [u8],
        is_right: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut failed = None;
        for number in stripe.parity..stripe.columns.len() {
            if let Err(e) = self.read_column(stripe, number, alternative) {
                stripe.unreadable.push(number);
                failed = Some(e);
            }
        }
        let wanted = buf.len();
        let mut accepted = |data: &[u8]| -> Result<bool> {
            let block = data.get(..wanted).unwrap_or_default();
            let right = is_right(block)?;
            if right {
                buf.copy_from_slice(block);
            }
            Ok(right)
        };
        if stripe.unreadable.is_empty() && accepted(&stripe.data)? {
            return Ok(());
        }
        for number in 0..stripe.parity {
            if let Err(e) = self.read_column(stripe, number, alternative) {
                stripe.unreadable.push(number);
                failed = Some(e);
            }
        }
        stripe.unreadable.sort_unstable();
        if stripe.reconstruct(&mut accepted)? {
            return Ok(());
        }
        Err(failed.unwrap_or_else(|| Error::damaged("a block has a wrong checksum, and parity does not mend it")))
    }

    fn read_column(&self, stripe: &mut Stripe<'_>, number: usize, alternative: usize) -> Result<()> {
        let (Some(column), Some(buf)) = (stripe.columns.get(number).copied(), stripe.column_mut(number)) else {
            return Ok(());
        };
        let leaves = self.children.get(column.child).map_or(&[][..], Vec::as_slice);
        let mut result = Err(Error::damaged("a column of a block is on no device"));
        for leaf in leaves.iter().cycle().skip(alternative).take(leaves.len()) {
            result = leaf.read(column.offset, buf);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

/// The columns of one block in memory.
struct Stripe<'a> {
    columns: &'a [Column],
    parity: usize,
    /// The data columns, one after the other.
    data: Vec<u8>,
    /// The parity columns, one after the other.
    parities: Vec<u8>,
    /// Numbers of the columns that could not be read, ascending.
    unreadable: Vec<usize>,
}

impl<'a> Stripe<'a> {
    fn new(columns: &'a [Column], parity: usize) -> Self {
        let (parities, data) = columns.split_at(parity.min(columns.len()));
        let len = |columns: &[Column]| columns.iter().map(|c| c.len).sum();
        let (data, parities) = (vec![0; len(data)], vec![0; len(parities)]);
        Self { columns, parity, data, parities, unreadable: Vec::new() }
    }

    /// Where column `number` is in [`data`](Self::data) or [`parities`](Self::parities).
    fn range(&self, number: usize) -> std::ops::Range<usize> {
        let first = if number < self.parity { 0 } else { self.parity };
        let before = self.columns.get(first..number).unwrap_or_default();
        let start: usize = before.iter().map(|c| c.len).sum();
        start..start + self.columns.get(number).map_or(0, |c| c.len)
    }

    fn column(&self, number: usize) -> &[u8] {
        let of = if number < self.parity { &self.parities } else { &self.data };
        of.get(self.range(number)).unwrap_or_default()
    }

    fn column_mut(&mut self, number: usize) -> Option<&mut [u8]> {
        let range = self.range(number);
        if number < self.parity { self.parities.get_mut(range) } else { self.data.get_mut(range) }
    }

    /// Makes the unreadable data columns anew, and with them every set of others that parity suffices for, until the data
    /// is accepted.
    fn reconstruct(&mut self, accepted: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
        let Some(spare) = self.parity.checked_sub(self.unreadable.len()) else { return Ok(false) };
        let suspects: Vec<usize> = (0..self.columns.len()).filter(|n| !self.unreadable.contains(n)).collect();
        let mut attempts = ATTEMPTS_MAX.min(BYTES_MAX / self.data.len().max(1)).max(1);
        for extra in 0..=spare {
            let mut chosen: Vec<usize> = (0..extra).collect();
            loop {
                let guessed = chosen.iter().filter_map(|n| suspects.get(*n));
                let bad: Vec<usize> = self.unreadable.iter().chain(guessed).copied().collect();
                if self.attempt(&bad, accepted)? {
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

    /// Takes the columns `bad` for damaged; leaves the data as it was when the result is not accepted.
    fn attempt(&mut self, bad: &[usize], accepted: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
        let bad_data: Vec<usize> = bad.iter().copied().filter(|n| *n >= self.parity).collect();
        let good_parities = (0..self.parity).filter(|n| !bad.contains(n));
        let parities: Vec<usize> = good_parities.take(bad_data.len()).collect();
        if bad_data.is_empty() || parities.len() < bad_data.len() {
            return Ok(false);
        }
        let before: Vec<Vec<u8>> = bad_data.iter().map(|n| self.column(*n).to_vec()).collect();
        let made = match (&bad_data[..], &parities[..]) {
            ([a], [p]) => self.solve([*a], [*p]).map(Vec::from),
            ([a, b], [p, q]) => self.solve([*a, *b], [*p, *q]).map(Vec::from),
            ([a, b, c], [p, q, r]) => self.solve([*a, *b, *c], [*p, *q, *r]).map(Vec::from),
            _ => None,
        };
        let Some(made) = made else { return Ok(false) };
        for (number, bytes) in bad_data.iter().zip(&made) {
            if let Some(column) = self.column_mut(*number) {
                column.copy_from_slice(bytes.get(..column.len()).unwrap_or_default());
            }
        }
        if accepted(&self.data)? {
            return Ok(true);
        }
        for (number, bytes) in bad_data.iter().zip(&before) {
            if let Some(column) = self.column_mut(*number) {
                column.copy_from_slice(bytes);
            }
        }
        Ok(false)
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
    use super::*;

    fn group(children: usize, parity: u64) -> Raidz {
        let leaf = Leaf { device: None, name: String::new() };
        Raidz::new(vec![vec![leaf]; children], parity, 9).unwrap()
    }

    /// The columns of a block lie on different devices, and those of neighbouring blocks nowhere twice.
    #[test]
    fn columns_do_not_overlap() {
        for (children, parity) in [(3, 1), (4, 2), (5, 3), (8, 2)] {
            let group = group(children, parity);
            let mut taken = std::collections::BTreeSet::new();
            let mut offset = 0;
            for sectors in 1..60 {
                let columns = group.columns(offset, sectors * 512);
                assert_eq!(columns[parity as usize..].iter().map(|c| c.len).sum::<usize>(), sectors * 512);
                for column in &columns {
                    for sector in 0..column.len as u64 / 512 {
                        assert!(taken.insert((column.child, column.offset / 512 + sector)), "{column:?}");
                    }
                }
                offset += columns.iter().map(|c| c.len as u64).sum::<u64>();
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

    #[test]
    fn any_columns_come_back() {
        let group = group(6, 3);
        let columns = group.columns(512 * 7, 512 * 11);
        let mut truth = Stripe::new(&columns, 3);
        let mut seed = 1_u32;
        for byte in &mut truth.data {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (seed >> 24) as u8;
        }
        for parity in 0..3 {
            let sum = truth.rest(parity, &[]);
            truth.column_mut(parity).unwrap().copy_from_slice(&sum);
        }
        let mut lost = vec![0, 1, 2];
        loop {
            let mut stripe =
                Stripe { data: truth.data.clone(), parities: truth.parities.clone(), ..Stripe::new(&columns, 3) };
            for number in &lost {
                stripe.column_mut(*number).unwrap().fill(0x55);
            }
            // Which columns are harmed is not said, and found all the same.
            let right = lost == [0, 1, 2] || stripe.reconstruct(&mut |data| Ok(data == truth.data)).unwrap();
            assert!(right, "{lost:?}");
            if !next_choice(&mut lost, columns.len()) {
                break;
            }
        }
    }
}
