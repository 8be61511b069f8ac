//! Fuzzes plugin names, restore objects and plugin objects.
//!
//!     cargo xtask fuzz plugin

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = volreader::plugin::PluginName::parse(data);
    let _ = volreader::plugin::PluginObject::parse(data);
    if let Ok(object) = volreader::plugin::RestoreObject::parse(data) {
        let _ = object.content();
    }
});
