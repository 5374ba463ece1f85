//! Damaged trees: whatever the bytes, reading ends soon, does not panic, and what it takes for a
//! machine could be one.

mod support;

use kpkeys_devicetree::{Machine, Mpidr, console};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use support::{VIRT, cells, edited, set};

/// Far more than the largest blob needs (a few hundred milliseconds, unoptimised), far less than
/// anything quadratic in its size would.
const SOON: Duration = Duration::from_secs(20);

/// Reads `blob` and checks what came of it. Says whether it was taken for a machine.
fn survives(blob: &[u8]) -> bool {
    let begun = Instant::now();
    let parsed = Machine::parse(blob);
    let console = console(blob);
    assert!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    match parsed {
        Ok(machine) => {
            assert_eq!(console, Ok(machine.console));
            assert_could_be(&machine);
            true
        }
        Err(error) => {
            assert!(error.to_string().starts_with("device tree: "));
            false
        }
    }
}

fn assert_could_be(machine: &Machine) {
    assert!(!machine.ram.is_empty() && !machine.cpus.is_empty());
    assert!(machine.ram.is_sorted_by(|a, b| a.end() < b.base()), "{:?}", machine.ram);
    assert!(machine.ram.iter().all(|ram| ram.size() > 0 && ram.end() <= 1 << 52));
    assert!(machine.cpus.iter().all(|cpu| cpu.mpidr.get() & !Mpidr::AFFINITY == 0));
    for (index, cpu) in machine.cpus.iter().enumerate() {
        assert!(machine.cpus[..index].iter().all(|other| other.mpidr != cpu.mpidr));
    }
    for device in machine.gic.regions().chain([machine.console]) {
        assert!(machine.ram.iter().all(|ram| !ram.overlaps(device)));
    }
    assert!(machine.timer.non_secure.or(machine.timer.virtual_).is_some());
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

    #[test]
    fn many_empty_words() {
        let structure = cells(&[4]).repeat((LARGEST - 200) / 4);
        assert!(!survives(&blob(&structure, b"")));
    }
}
