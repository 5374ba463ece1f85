//! The firmware's console: the menu, and time to read.

use alloc::string::String;
use core::time::Duration;
use kpkeys_handover::medium::Machine;
use kpkeys_handover::menu::{Asked, Menu};
use uefi::proto::console::text::Key;
use uefi::{boot, print, println, system};

/// How long nobody need press a key.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// Between looks at the keyboard.
const POLL: Duration = Duration::from_millis(50);

/// Waits for a key, or as long as reading takes.
pub fn wait_for_reader() {
    println!("back to the firmware at any key, or in {} seconds", PATIENCE.as_secs());
    key(Some(PATIENCE), &mut |_| ());
}

/// What the user chooses from the menu, or its default when no key is pressed for so long; `None` for back to the firmware.
pub fn ask(machine: Machine, patience: Option<Duration>) -> Option<String> {
    let mut menu = Menu::new(machine);
    let mut patience = patience;
    loop {
        show(&menu, patience.is_some());
        let pressed = loop {
            let count = |left: Duration| print!("\r{:3} s ", left.as_secs());
            let Some(key) = key(patience, &mut { count }) else { return Some(menu.command_line()) };
            patience = None;
            match menu.press(key) {
                Asked::Nothing => {}
                asked => break asked,
            }
        };
        println!();
        match pressed {
            Asked::Start(line) => return Some(line),
            Asked::Leave => return None,
            Asked::Again | Asked::Nothing => {}
        }
    }
}

fn show(menu: &Menu, has_limit: bool) {
    println!();
    menu.lines().for_each(|line| println!("{line}"));
    let when = if has_limit { ", or no key" } else { "" };
    println!("  Enter{when}: {}", menu.command_line());
}

/// The next key that is a character; `None` when there is none for so long. Says every second how much is left.
fn key(patience: Option<Duration>, left: &mut dyn FnMut(Duration)) -> Option<char> {
    let mut waited = Duration::ZERO;
    loop {
        let key = system::with_stdin(|input| input.read_key().ok().flatten());
        match key {
            Some(Key::Printable(key)) => return Some(key.into()),
            Some(Key::Special(_)) => return Some('\0'),
            None => {}
        }
        if let Some(patience) = patience {
            if waited >= patience {
                return None;
            }
            if waited.subsec_millis() == 0 {
                left(patience - waited);
            }
        }
        boot::stall(POLL);
        waited += POLL;
    }
}
