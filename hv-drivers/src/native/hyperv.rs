//! Hyper-V: a PowerShell script of its cmdlets, with the settings that a VMCX file has.

use std::fmt::Write;

use super::Config;
use crate::machine::{Firmware, Machine};

/// A string: in single quotes nothing has a meaning but the quotes, of which PowerShell knows five.
fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            out.push(c);
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out.push('\'');
    out
}

/// Where the next disk hangs: the first of generation 1 on IDE, from which alone it boots, all others on SCSI.
fn place(generation: u8, number: usize) -> (&'static str, usize, usize) {
    match (generation, number) {
        (1, 0) => ("IDE", 0, 0),
        (1, n) => ("SCSI", (n - 1) / 64, (n - 1) % 64),
        (_, n) => ("SCSI", n / 64, n % 64),
    }
}

pub fn write(machine: &Machine, disks: &[String]) -> Config {
    let mut notes = Vec::new();
    let firmware = machine.firmware.unwrap_or(Firmware::Bios);
    let generation = if firmware.is_uefi() { 2 } else { 1 };
    // The first to be booted from comes first.
    let order = machine.boot_order();
    notes.push(format!("generation {generation}: disks are on Hyper-V's own controllers, whose drivers Windows has; a Linux guest needs hv_vmbus and hv_storvsc in its initramfs"));
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push_str("\r\n");
    };
    line(
        "# Makes the machine on this host; run it as an administrator. Its network cards are there and not connected.",
    );
    for note in &notes {
        line(&format!("# note: {note}"));
    }
    line("param(");
    line(&format!("    [string]$Name = {},", quoted(&machine.name)));
    line("    [string]$Path = (Get-VMHost).VirtualMachinePath,");
    line("    [string]$Disks = '.',   # the folder with the VHDX files");
    line("    [string]$Switch = ''    # the switch to connect to; none by default");
    line(")");
    line("$ErrorActionPreference = 'Stop'");
    line(&format!(
        "$vm = New-VM -Name $Name -Generation {generation} -MemoryStartupBytes {}MB -NoVHD -Path $Path",
        machine.memory_mib.next_multiple_of(2)
    ));
    line("Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter");
    line(&format!("Set-VMProcessor -VM $vm -Count {}", machine.cpus.count()));
    line("Set-VMMemory -VM $vm -DynamicMemoryEnabled $false");
    line("Set-VM -VM $vm -AutomaticStartAction Nothing -AutomaticCheckpointsEnabled $false -CheckpointType Production");
    let mut controllers = if generation == 2 { 0 } else { 1 };
    if generation == 1 {
        // One is there already.
        controllers = 1;
    }
    for (at, number) in order.iter().enumerate() {
        let Some(file) = disks.get(*number) else { continue };
        let (kind, controller, location) = place(generation, at);
        if kind == "SCSI" && controller >= controllers {
            line("Add-VMScsiController -VM $vm");
            controllers = controller + 1;
        }
        let file = quoted(file);
        line(&format!(
            "Add-VMHardDiskDrive -VM $vm -ControllerType {kind} -ControllerNumber {controller} -ControllerLocation {location} \
             -Path (Join-Path $Disks {file})"
        ));
    }
    if generation == 2 {
        let secure = if firmware == Firmware::SecureBoot { "On" } else { "Off" };
        let windows = machine.family() == crate::machine::Family::Windows;
        let template = if windows { "MicrosoftWindows" } else { "MicrosoftUEFICertificateAuthority" };
        let with = if secure == "On" { format!(" -SecureBootTemplate {template}") } else { String::new() };
        line("$first = Get-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 -ControllerLocation 0");
        line(&format!("Set-VMFirmware -VM $vm -EnableSecureBoot {secure}{with} -FirstBootDevice $first"));
    }
    for (number, nic) in machine.nics.iter().enumerate().take(8) {
        if let Some(network) = &nic.network {
            line(&format!("# it was in {}", quoted(network)));
        }
        let mac = nic.mac.map(|mac| {
            mac.bytes().iter().fold(String::new(), |mut hex, b| {
                let _always = write!(hex, "{b:02X}");
                hex
            })
        });
        let with = mac.map(|mac| format!(" -StaticMacAddress {mac}")).unwrap_or_default();
        line(&format!("Add-VMNetworkAdapter -VM $vm -Name 'net{number}'{with}"));
        line(&format!(
            "if ($Switch) {{ Connect-VMNetworkAdapter -VMName $Name -Name 'net{number}' -SwitchName $Switch }}"
        ));
    }
    line("$vm");
    Config { text, notes }
}
