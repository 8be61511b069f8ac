//! Machines whose disks have moved: their session is over, and they are listed until they are forgotten.

use std::{path::Path, time::Duration};

use blockdev::{Error, Result};
use serde_json::{Value, json};

use super::{
    super::{
        machine,
        record::{Record, State},
    },
    Sessions, removed,
};

impl Sessions {
    /// Takes a machine that has moved off the list. What is kept of it is removed if it is off; otherwise its console and
    /// monitor are there, and it is told where.
    ///
    /// # Errors
    ///
    /// When there is no such machine, or it is a recovery still.
    pub fn forget(&self, id: &str) -> Result<Value> {
        let lock = self.lock_of(id);
        let _guard = lock.lock();
        let record = self.store.get(id)?;
        if record.state != State::Moved {
            let state = record.state.name();
            return Err(Error::invalid(format!(
                "{id} is {state}: `revenant recover stop {id}` ends it, with its disks"
            )));
        }
        let folder = self.store.machine_folder(id);
        let is_off = machine::is_off(&record, &folder)?;
        if is_off {
            removed(&folder)?;
        }
        self.store.delete(id)?;
        self.changing.lock().remove(id);
        Ok(json!({ "id": id, "left": (!is_off).then_some(folder) }))
    }
}

/// Asks the guest of a machine that has moved to shut down. Nothing else is done to it: its disks are all there is of it.
pub fn shut_down(record: &Record, folder: &Path, shutdown: Option<Duration>, step: &dyn Fn(&str)) -> Result<()> {
    let id = &record.id;
    let Some(grace) = shutdown else {
        return Err(Error::invalid(format!(
            "{id} is no recovery any more: its machine has disks of its own. `recover stop --shutdown {id}` shuts it down, \
             `recover forget {id}` takes it off the list"
        )));
    };
    step("shutting down");
    if machine::shut_down(record, folder, grace)? {
        step("the guest has shut down");
        return Ok(());
    }
    let grace = grace.as_secs();
    Err(Error::invalid(format!(
        "the guest of {id} has not shut down within {grace} s: it runs on (--shutdown SECONDS)"
    )))
}
