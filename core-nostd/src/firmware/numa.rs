//! NUMA nodes: which memory and which processors are near each other, for the tables that guests
//! read ([`super::acpi`]) and for firmware, which takes it from fw_cfg ([`write_item`]).

/// Nodes at most.
pub const NODES_MAX: usize = 128;

/// The distance of a node from itself (ACPI 6.4, section 5.2.17).
pub const LOCAL: u8 = 10;

/// The nodes of a machine. Without any, memory and processors are all alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numa<'m> {
    /// Bytes of RAM of each node, in the order in which they follow each other in guest memory;
    /// together all RAM. At most [`NODES_MAX`] nodes.
    pub memory: &'m [u64],
    /// The node of each processor that there may be.
    pub cpus: &'m [u8],
    /// From each node the distances of all, a row of bytes a node; empty where nobody tells.
    pub distances: &'m [u8],
    /// The item of fw_cfg, see [`write_item`].
    pub item: &'m [u8],
}

impl Numa<'_> {
    /// The node of a processor, where there are nodes.
    pub fn node_of(&self, cpu: u32) -> Option<u8> {
        let node = self.cpus.get(cpu as usize).copied();
        node.filter(|_| !self.memory.is_empty())
    }
}

/// Writes what firmware is told of nodes: their number, the node of each APIC ID, and the memory of
/// each, 64 bits each. Gives the bytes that this takes, of which no more than `to` has are written.
pub fn write_item(numa: &Numa<'_>, apic_id: &dyn Fn(u16) -> u32, to: &mut [u8]) -> usize {
    let cpus = numa.cpus.len() as u16;
    let ids = (0..cpus).map(apic_id).max().map_or(0, |id| id as usize + 1);
    let mut put = |word: usize, value: u64| {
        if let Some(field) = to.get_mut(8 * word..8 * word + 8) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    };
    let nodes = numa.memory.len();
    put(0, nodes as u64);
    for id in 0..ids {
        put(1 + id, 0);
    }
    for (cpu, node) in (0..cpus).zip(numa.cpus) {
        put(1 + apic_id(cpu) as usize, (*node).into());
    }
    for (node, memory) in numa.memory.iter().enumerate() {
        put(1 + ids + node, *memory);
    }
    8 * (1 + ids + nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2's of `-smp 3,sockets=1,cores=3` with two nodes.
    #[test]
    fn firmware_reads_nodes_by_apic_id() {
        let numa = Numa {
            memory: &[64 << 20, 32 << 20],
            cpus: &[0, 1, 1],
            ..Numa::default()
        };
        let mut bytes = [0xee; 64];
        // Numbers with a gap.
        let id = |cpu| [0, 1, 3][usize::from(cpu)];
        assert_eq!(write_item(&numa, &id, &mut bytes), 56);
        let words = bytes.chunks(8).map(|word| word[3]).take(7);
        assert!(words.eq([0, 0, 0, 0, 0, 4, 2]));
        let low = bytes.chunks(8).map(|word| word[0]).take(7);
        assert!(low.eq([2, 0, 1, 0, 1, 0, 0]));
        assert_eq!(write_item(&numa, &id, &mut bytes[..20]), 56);
        assert_eq!(numa.node_of(2), Some(1));
        assert_eq!(numa.node_of(3), None);
        assert_eq!(Numa::default().node_of(0), None);
    }
}
