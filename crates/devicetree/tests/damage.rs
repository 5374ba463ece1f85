//! Damaged trees: whatever the bytes, reading ends soon, does not panic, and what it takes for a
//! machine could be one.

mod support;

use kpkeys_devicetree::{Console, Error, Gic, Machine, Mpidr, Ram, console};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use support::{VIRT, cells, edited, set};

/// Far more than the largest blob needs (a few hundred milliseconds, unoptimised), far less than
/// anything quadratic in its size would.
const SOON: Duration = Duration::from_secs(20);

/// Reads `blob` and checks what came of it. Says whether every part of a machine was found.
///
/// # Panics
///
/// If what came of it is wrong.
pub fn survives(blob: &[u8]) -> bool {
    let begun = Instant::now();
    let parsed = Machine::parse(blob);
    let console = console(blob);
    assert!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    match parsed {
        Ok(machine) => {
            assert_eq!(console, machine.console);
            assert_could_be(&machine);
            machine.errors().for_each(|(_, error)| assert_is_said(error));
            machine.errors().next().is_none()
        }
        Err(error) => {
            assert_is_said(&error);
            false
        }
    }
}

fn assert_is_said(error: &Error) {
    assert!(error.to_string().starts_with("device tree: "));
}

/// The parts that were read.
fn assert_could_be(machine: &Machine) {
    let ram = machine.ram.as_ref().map_or(&[][..], Ram::ranges);
    assert!(ram.is_sorted_by(|a, b| a.end() < b.base()), "{ram:?}");
    assert!(ram.iter().all(|ram| ram.size() > 0 && ram.end() <= 1 << 52));
    if let Ok(cpus) = &machine.cpus {
        assert!(!cpus.listed.is_empty());
        assert!(cpus.listed.iter().all(|cpu| cpu.mpidr.get() & !Mpidr::AFFINITY == 0));
        for (index, cpu) in cpus.listed.iter().enumerate() {
            assert!(cpus.listed[..index].iter().all(|other| other.mpidr != cpu.mpidr));
        }
    }
    let console = match machine.console {
        Ok(Console::Pl011(registers)) => Some(registers),
        _ => None,
    };
    for device in machine.gic.iter().flat_map(Gic::regions).chain(console) {
        assert!(ram.iter().all(|ram| !ram.overlaps(device)));
    }
    if let Ok(timer) = machine.timer {
        assert!(timer.non_secure.or(timer.virtual_).is_some());
    }
}

/// A property that is read, by its node.
fn read_property() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop::sample::select(vec![
        ("/", "#address-cells"),
        ("/", "#size-cells"),
        ("/cpus", "#address-cells"),
        ("/cpus/cpu@3", "reg"),
        ("/cpus/cpu@3", "device_type"),
        ("/cpus/cpu@3", "enable-method"),
        ("/memory@40000000", "reg"),
        ("/memory@40000000", "device_type"),
        ("/intc@8000000", "reg"),
        ("/intc@8000000", "compatible"),
        ("/intc@8000000", "#redistributor-regions"),
        ("/intc@8000000", "redistributor-stride"),
        ("/intc@8000000", "#interrupt-cells"),
        ("/timer", "interrupts"),
        ("/timer", "interrupts-extended"),
        ("/", "interrupt-parent"),
        ("/timer", "interrupt-names"),
        ("/psci", "method"),
        ("/psci", "compatible"),
        ("/pl011@9000000", "reg"),
        ("/chosen", "stdout-path"),
        ("/chosen", "bootargs"),
    ])
}

/// Cells as a tree might have them, wrong ones among them.
fn some_cells() -> impl Strategy<Value = Vec<u8>> {
    let cell = prop_oneof![
        4 => 0u32..4,
        2 => any::<u32>(),
        1 => Just(u32::MAX),
        1 => prop::sample::select(vec![0x4000_0000u32, 0x800_0000, 0x1000, 0x1_0000]),
    ];
    prop::collection::vec(cell, 0..160).prop_map(|values| cells(&values))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn cut_anywhere(len in 0..VIRT.len()) {
        prop_assert!(!survives(&VIRT[..len]));
    }

    /// Cut, and with a header that says the rest is all there is.
    #[test]
    fn cut_and_declared_whole(len in 0..VIRT.len()) {
        let mut blob = VIRT[..len].to_vec();
        if let Some(size) = blob.get_mut(4..8) {
            size.copy_from_slice(&(len as u32).to_be_bytes());
        }
        prop_assert!(!survives(&blob));
    }

    #[test]
    fn flipped_bits(bits in prop::collection::vec(0..VIRT.len() * 8, 1..64)) {
        let mut blob = VIRT.to_vec();
        for bit in bits {
            blob[bit / 8] ^= 1 << (bit % 8);
        }
        survives(&blob);
    }

    /// Words overwritten by numbers that mean something in a blob: tokens, lengths, offsets.
    #[test]
    fn overwritten_words(
        words in prop::collection::vec((0..VIRT.len() / 4, prop_oneof![0u32..16, any::<u32>()]), 1..16)
    ) {
        let mut blob = VIRT.to_vec();
        for (at, word) in words {
            blob[4 * at..4 * at + 4].copy_from_slice(&word.to_be_bytes());
        }
        survives(&blob);
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        survives(&bytes);
    }

    /// A header that holds, and anything behind it.
    #[test]
    fn random_body(body in prop::collection::vec(prop_oneof![3 => 0u32..10, 1 => any::<u32>()], 6..256)) {
        let body = cells(&body);
        let len = (40 + 16 + body.len()) as u32;
        let header = [0xd00d_feed, len, 56, len, 40, 17, 16, 0, 0, body.len() as u32];
        let blob = [cells(&header), vec![0; 16], body].concat();
        survives(&blob);
    }

    /// A well-formed tree whose properties hold anything.
    #[test]
    fn any_values(edits in prop::collection::vec((read_property(), some_cells()), 1..4)) {
        let blob = edited(|tree| {
            for ((path, property), value) in &edits {
                set(tree, path, property, value);
            }
        });
        survives(&blob);
    }
}

/// How many of the trees with one bit wrong are still taken for a machine: not none, or the
/// checks above had nothing to check.
#[test]
fn many_damaged_trees_are_still_machines() {
    let taken = (0..VIRT.len() * 8).step_by(61).filter(|bit| {
        let mut blob = VIRT.to_vec();
        blob[bit / 8] ^= 1 << (bit % 8);
        survives(&blob)
    });
    assert!(taken.count() > 100);
}

/// The largest blob a loader may pass, made of whatever takes longest to walk.
mod worst_cases {
    use super::*;

    const LARGEST: usize = 2 << 20;

    /// A blob with this structure block between the root's begin and end, and these strings.
    fn blob(structure: &[u8], strings: &[u8]) -> Vec<u8> {
        let body = [cells(&[1, 0]), structure.to_vec(), cells(&[2, 9])].concat();
        let (offset, len) = (56 + body.len(), 56 + body.len() + strings.len());
        assert!(len <= LARGEST);
        let header = [
            0xd00d_feed,
            len as u32,
            56,
            offset as u32,
            40,
            17,
            16,
            0,
            strings.len() as u32,
            body.len() as u32,
        ];
        [cells(&header), vec![0; 16], body, strings.to_vec()].concat()
    }

    #[test]
    fn nodes_in_nodes() {
        let count = (LARGEST - 100) / 12;
        let structure =
            [cells(&[1, 0x6100_0000]).repeat(count), cells(&[2]).repeat(count)].concat();
        assert!(!survives(&blob(&structure, b"")));
    }

    #[test]
    fn many_nodes() {
        let structure = cells(&[1, 0x6100_0000, 2]).repeat((LARGEST - 100) / 12);
        assert!(!survives(&blob(&structure, b"")));
    }

    #[test]
    fn many_properties() {
        let structure = cells(&[3, 0, 0]).repeat((LARGEST - 200) / 12);
        assert!(!survives(&blob(&structure, b"a-property-of-thirty-one-charac\0")));
    }

    #[test]
    fn many_properties_with_an_endless_name() {
        let structure = cells(&[3, 0, 0]).repeat(LARGEST / 24);
        assert!(!survives(&blob(&structure, &vec![b'a'; LARGEST / 2 - 200])));
    }

    /// Each interrupt names a controller, which has to be looked for in the whole tree.
    #[test]
    fn many_interrupts_and_many_nodes() {
        let strings = b"compatible\0interrupts-extended\0";
        let timer = [cells(&[1, 0x7400_0000, 3, 16, 0]), b"arm,armv8-timer\0".to_vec()].concat();
        let controllers = cells(&[7]).repeat(LARGEST / 8);
        let interrupts =
            [cells(&[3, controllers.len() as u32, 11]), controllers, cells(&[2])].concat();
        let nodes = cells(&[1, 0x6100_0000, 2]).repeat((LARGEST / 2 - 300) / 12);
        assert!(!survives(&blob(&[timer, interrupts, nodes].concat(), strings)));
    }

    #[test]
    fn many_empty_words() {
        let structure = cells(&[4]).repeat((LARGEST - 200) / 4);
        assert!(!survives(&blob(&structure, b"")));
    }
}
