//! A file in memory that loses power and runs out of room.
//!
//! It keeps every version that a sector has had since the last sync. A loss of power leaves, of each sector by itself,
//! any one of them: more than any real disk and filesystem would mix up.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use blockdev::overlay::Medium;

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];

#[derive(Default)]
struct State {
    sectors: BTreeMap<u64, Sector>,
    len: u64,
    /// Sectors and lengths as they were when last synced, and each state since; the last of them is the present one.
    unsynced: BTreeMap<u64, Vec<Sector>>,
    lengths: Vec<u64>,
    /// Calls that change something, until the power fails.
    calls_left: Option<u64>,
    /// Sectors that may be stored.
    room: Option<usize>,
}

/// The file. Clones are the same file.
#[derive(Clone, Default)]
pub struct SimFile(Arc<Mutex<State>>);

impl SimFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The power fails at the `calls`th change from now.
    pub fn fail_after(&self, calls: u64) {
        self.state().calls_left = Some(calls);
    }

    /// At most `bytes` more may be stored; `None`: any number.
    pub fn set_room(&self, bytes: Option<u64>) {
        let mut state = self.state();
        state.room = bytes.map(|b| state.sectors.len() + (b / SECTOR) as usize);
    }

    /// Write over whatever is there, as a saboteur.
    pub fn overwrite(&self, bytes: &[u8], offset: u64) {
        self.state().write(bytes, offset).unwrap();
    }

    /// What a loss of power now might leave: each change since the last sync is there with the probability `kept`.
    pub fn after_power_loss(&self, random: &mut fastrand::Rng, kept: f64) -> Self {
        let state = self.state();
        let mut sectors = state.sectors.clone();
        for (number, versions) in &state.unsynced {
            let last = versions.len() - 1;
            let version = if random.f64() < kept { last } else { random.usize(..=last) };
            let version = if random.f64() < kept { version } else { 0 };
            sectors.insert(*number, versions[version]);
        }
        let len = match state.lengths.as_slice() {
            [] => state.len,
            lengths => lengths[if random.f64() < kept { lengths.len() - 1 } else { random.usize(..lengths.len()) }],
        };
        sectors.split_off(&len.div_ceil(SECTOR));
        Self(Arc::new(Mutex::new(State { sectors, len, ..State::default() })))
    }

    /// A file of the same content.
    pub fn copy(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State { sectors: state.sectors.clone(), len: state.len, ..State::default() })))
    }

    /// Write it to a file of the host.
    pub fn save(&self, path: &std::path::Path) {
        use std::os::unix::fs::FileExt;
        let state = self.state();
        let file = File::create(path).unwrap();
        file.set_len(state.len).unwrap();
        for (number, sector) in state.sectors.iter().filter(|(_, sector)| **sector != [0; 512]) {
            let left = state.len.saturating_sub(number * SECTOR).min(SECTOR) as usize;
            file.write_all_at(&sector[..left], number * SECTOR).unwrap();
        }
    }
}

impl State {
    fn called(&mut self) -> io::Result<()> {
        match &mut self.calls_left {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn put(&mut self, number: u64, sector: Option<Sector>) -> io::Result<()> {
        let before = self.sectors.get(&number).copied();
        if before.is_none() && sector.is_some() && self.room.is_some_and(|room| self.sectors.len() >= room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match sector {
            Some(sector) => self.sectors.insert(number, sector),
            None => self.sectors.remove(&number),
        };
        let zeros = [0; SECTOR as usize];
        let versions = self.unsynced.entry(number).or_insert_with(|| vec![before.unwrap_or(zeros)]);
        versions.push(sector.unwrap_or(zeros));
        Ok(())
    }

    fn write(&mut self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let (number, from) = (offset / SECTOR, (offset % SECTOR) as usize);
            let n = (SECTOR as usize - from).min(buf.len());
            let mut sector = self.sectors.get(&number).copied().unwrap_or([0; SECTOR as usize]);
            sector[from..from + n].copy_from_slice(&buf[..n]);
            self.put(number, Some(sector))?;
            offset += n as u64;
            buf = &buf[n..];
            if offset > self.len {
                self.resize(offset);
            }
        }
        Ok(())
    }

    fn resize(&mut self, len: u64) {
        if self.lengths.is_empty() {
            self.lengths.push(self.len);
        }
        self.lengths.push(len);
        self.len = len;
    }
}

impl Medium for SimFile {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let from = (at % SECTOR) as usize;
            let n = (SECTOR as usize - from).min(buf.len() - done);
            match state.sectors.get(&(at / SECTOR)) {
                Some(sector) => buf[done..done + n].copy_from_slice(&sector[from..from + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.called()?;
        state.write(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.called()?;
        state.unsynced.clear();
        state.lengths.clear();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.called()?;
        let gone: Vec<u64> = state.sectors.range(len.div_ceil(SECTOR)..).map(|(number, _)| *number).collect();
        for number in gone {
            state.put(number, None)?;
        }
        state.resize(len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        assert!(offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR));
        let mut state = self.state();
        state.called()?;
        let there: Vec<u64> =
            state.sectors.range(offset / SECTOR..(offset + len) / SECTOR).map(|(number, _)| *number).collect();
        for number in there {
            state.put(number, None)?;
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.called()?;
        for number in offset / SECTOR..(offset + len) / SECTOR {
            if !state.sectors.contains_key(&number) {
                state.put(number, Some([0; SECTOR as usize]))?;
            }
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let state = self.state();
        let next = state.sectors.range(offset / SECTOR..).next();
        Ok(next.map(|(number, _)| offset.max(number * SECTOR)).filter(|at| *at < state.len))
    }

    fn occupied(&self) -> io::Result<u64> {
        Ok(self.state().sectors.len() as u64 * SECTOR)
    }

    fn file(&self) -> Option<&File> {
        None
    }
}
