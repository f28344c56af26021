//! `-numa`: nodes, what belongs to them, and how far they are from each other. What is refused is in
//! QEMU's words.

use thimble_core::firmware::numa::{LOCAL, NODES_MAX};

use super::Smp;
use super::opts::{self, Kind, Opts, OptsTable, Reason, SubOption};

/// What `-numa` says, all of it together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumaOptions {
    /// For each node the id of its memory backend.
    pub memory: Vec<Option<String>>,
    /// The node of each processor that there may be; empty without nodes.
    pub cpus: Vec<u8>,
    /// A row of distances a node; empty if none is given.
    pub distances: Vec<u8>,
}

/// Why heterogeneous memory is refused.
const HMAT: &str = "ACPI Heterogeneous Memory Attribute Table (HMAT) is disabled, enable it with -machine hmat=on before using \
     any of hmat specific options";

static NODE: OptsTable = OptsTable {
    name: "numa",
    implied: Some("type"),
    options: &[
        SubOption::new("type", Kind::Text, ""),
        SubOption::new("nodeid", Kind::Number, ""),
        SubOption::new("cpus", Kind::Text, ""),
        SubOption::new("mem", Kind::Size(20), ""),
        SubOption::new("memdev", Kind::Text, ""),
        SubOption::new("initiator", Kind::Number, ""),
    ],
};

static DISTANCE: OptsTable = OptsTable {
    name: "numa",
    implied: Some("type"),
    options: &[
        SubOption::new("type", Kind::Text, ""),
        SubOption::new("src", Kind::Number, ""),
        SubOption::new("dst", Kind::Number, ""),
        SubOption::new("val", Kind::Number, ""),
    ],
};

static CPU: OptsTable = OptsTable {
    name: "numa",
    implied: Some("type"),
    options: &[
        SubOption::new("type", Kind::Text, ""),
        SubOption::new("node-id", Kind::Number, ""),
        SubOption::new("socket-id", Kind::Number, ""),
        SubOption::new("die-id", Kind::Number, ""),
        SubOption::new("cluster-id", Kind::Number, ""),
        SubOption::new("core-id", Kind::Number, ""),
        SubOption::new("thread-id", Kind::Number, ""),
    ],
};

/// What was given so far.
#[derive(Debug, Default)]
pub(super) struct NumaBuilder {
    nodes: Vec<Option<Option<String>>>,
    /// The node of each processor that one was given for.
    cpus: Vec<Option<u8>>,
    /// From, to, distance, in order.
    distances: Vec<(u8, u8, u8)>,
}

impl NumaBuilder {
    /// One `-numa`, on a machine with such processors.
    pub(super) fn add(&mut self, text: &str, smp: &Smp) -> Result<(), Reason> {
        self.cpus.resize(smp.max_cpus as usize, None);
        // The type decides which other names there are.
        let kind = opts::split(text);
        let mut kind = kind.iter().enumerate();
        let kind = kind.find_map(|(index, (key, value))| match value {
            Some(value) if key == "type" => Some(value.clone()),
            None if index == 0 => Some(key.clone()),
            _ => None,
        });
        match kind.as_deref() {
            None => Err("Parameter 'type' is missing".to_owned()),
            Some("node") => self.node(text),
            Some("dist") => self.distance(&DISTANCE.parse(text)?),
            Some("cpu") => self.cpu(&CPU.parse(text)?, smp),
            Some("hmat-lb" | "hmat-cache") => Err(HMAT.to_owned()),
            Some(other) => Err(format!("Parameter 'type' does not accept value '{other}'")),
        }
    }

    fn node(&mut self, text: &str) -> Result<(), Reason> {
        let given = NODE.parse(text)?;
        let id = match narrow(&given, "nodeid", u16::MAX, "uint16_t")? {
            Some(id) => usize::from(id),
            None => self.nodes.iter().flatten().count(),
        };
        if id >= NODES_MAX {
            return Err(format!("Max number of NUMA nodes reached: {id}"));
        }
        if self.nodes.get(id).is_some_and(Option::is_some) {
            return Err(format!("Duplicate NUMA nodeid: {id}"));
        }
        if given.text("initiator").is_some() {
            return Err(HMAT.to_owned());
        }
        // Alone among these names it may be given several times.
        for (_, list) in opts::split(text).iter().filter(|(key, _)| key == "cpus") {
            let list = list.as_deref().unwrap_or_default();
            self.assign_range(list, id as u8)?;
        }
        match (given.text("mem"), given.text("memdev")) {
            (Some(_), Some(_)) => {
                return Err(
                    "numa configuration should use either mem= or memdev=,mixing both is not allowed"
                        .to_owned(),
                );
            }
            (Some(_), None) => {
                return Err(
                    "Parameter -numa node,mem is not supported by this machine type".to_owned(),
                );
            }
            _ => {}
        }
        if self.nodes.len() <= id {
            self.nodes.resize(id + 1, None);
        }
        self.nodes[id] = Some(given.owned("memdev"));
        Ok(())
    }

    /// Assigns a processor or a range of them, `2` or `2-5`.
    fn assign_range(&mut self, list: &str, node: u8) -> Result<(), Reason> {
        let (first, last) = list.split_once('-').unwrap_or((list, list));
        let number = |text| opts::parse_number(text).ok();
        let range = number(first).zip(number(last));
        let (first, last) = range
            .filter(|(first, last)| first <= last)
            .ok_or("Parameter 'cpus' expects a uint64 value or range")?;
        for index in first..=last {
            let count = self.cpus.len();
            let place = self.cpus.get_mut(index as usize);
            let place = place.filter(|_| index < u64::from(u32::MAX));
            let place = place.ok_or_else(|| {
                format!("CPU index ({index}) should be smaller than maxcpus ({count})")
            })?;
            assign(place, node)?;
        }
        Ok(())
    }

    fn is_node(&self, id: usize) -> bool {
        self.nodes.get(id).is_some_and(Option::is_some)
    }

    fn distance(&mut self, given: &Opts) -> Result<(), Reason> {
        let number = |name, most, kind| {
            narrow(given, name, most, kind)?.ok_or_else(|| format!("Parameter '{name}' is missing"))
        };
        let from = number("src", u16::MAX, "uint16_t")?;
        let to = number("dst", u16::MAX, "uint16_t")?;
        let distance = number("val", u8::MAX.into(), "uint8_t")? as u8;
        for (name, node) in [("src", from), ("dst", to)] {
            if usize::from(node) >= NODES_MAX {
                let most = NODES_MAX - 1;
                return Err(format!(
                    "Parameter '{name}' expects an integer between 0 and {most}"
                ));
            }
        }
        if !self.is_node(from.into()) || !self.is_node(to.into()) {
            return Err(
                "Source/Destination NUMA node is missing. Please use '-numa node' option to declare it first."
                    .to_owned(),
            );
        }
        if distance < LOCAL {
            return Err(format!(
                "NUMA distance ({distance}) is invalid, it shouldn't be less than {LOCAL}."
            ));
        }
        if from == to && distance != LOCAL {
            return Err(format!("Local distance of node {from} should be {LOCAL}."));
        }
        self.distances.push((from as u8, to as u8, distance));
        Ok(())
    }

    fn cpu(&mut self, given: &Opts, smp: &Smp) -> Result<(), Reason> {
        let node = given
            .number("node-id")
            .ok_or("Missing mandatory node-id property")?;
        if usize::try_from(node).map_or(true, |id| !self.is_node(id)) {
            return Err(format!(
                "Invalid node-id={node}, NUMA node must be defined with -numa node,nodeid=ID before it's used with \
                 -numa cpu,node-id=ID"
            ));
        }
        for name in ["die-id", "cluster-id"] {
            if given.text(name).is_some() {
                return Err(format!("{name} is not supported"));
            }
        }
        let wanted = |name, is: u32| given.number(name).is_none_or(|id| id == u64::from(is));
        let mut found = false;
        for (index, place) in (0..).zip(&mut self.cpus) {
            let (thread, core) = (index % smp.threads, index / smp.threads % smp.cores);
            let socket = index / smp.threads / smp.cores;
            let is_one = wanted("thread-id", thread)
                && wanted("core-id", core)
                && wanted("socket-id", socket);
            if is_one {
                assign(place, node as u8)?;
                found = true;
            }
        }
        match found {
            true => Ok(()),
            false => Err("no match found".to_owned()),
        }
    }

    /// What it comes to, and a warning if there is one to give.
    pub(super) fn finish(mut self, smp: &Smp) -> Result<(NumaOptions, Option<String>), Reason> {
        if self.nodes.is_empty() {
            return Ok((NumaOptions::default(), None));
        }
        if let Some(missing) = self.nodes.iter().rposition(Option::is_none) {
            return Err(format!("numa: Node ID missing: {missing}"));
        }
        let count = self.nodes.len();
        let distances = self.all_distances(count)?;
        // Where nobody says anything, sockets take turns.
        let is_open = self.cpus.iter().all(Option::is_none);
        let lost = (0..).zip(&self.cpus).filter(|(_, node)| node.is_none());
        let lost: Vec<String> = lost.map(|(index, _): (u32, _)| index.to_string()).collect();
        let warning = (!is_open && !lost.is_empty()).then(|| {
            let lost = lost.join(", ");
            format!("processors in no NUMA node, and so in node 0: {lost}")
        });
        let per_socket = (smp.cores * smp.threads) as usize;
        for (index, node) in self.cpus.iter_mut().enumerate() {
            let default = if is_open {
                index / per_socket % count
            } else {
                0
            };
            node.get_or_insert(default as u8);
        }
        let options = NumaOptions {
            memory: self.nodes.into_iter().flatten().collect(),
            cpus: self.cpus.into_iter().flatten().collect(),
            distances,
        };
        Ok((options, warning))
    }

    /// A row of distances a node. One direction is enough, if that is so for all pairs.
    fn all_distances(&self, count: usize) -> Result<Vec<u8>, Reason> {
        if self.distances.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows = vec![0; count * count];
        for (from, to, distance) in &self.distances {
            rows[usize::from(*from) * count + usize::from(*to)] = *distance;
        }
        let (mut asymmetric, mut one_way) = (false, false);
        for from in 0..count {
            for to in from + 1..count {
                let (there, back) = (rows[from * count + to], rows[to * count + from]);
                if there == 0 && back == 0 {
                    return Err(format!(
                        "The distance between node {from} and {to} is missing, at least one distance value between each \
                         nodes should be provided."
                    ));
                }
                let one = there == 0 || back == 0;
                one_way |= one;
                asymmetric |= !one && there != back;
            }
        }
        if asymmetric && one_way {
            return Err(
                "At least one asymmetrical pair of distances is given, please provide distances for both directions of \
                 all node pairs."
                    .to_owned(),
            );
        }
        for from in 0..count {
            rows[from * count + from] = LOCAL;
            for to in 0..count {
                if rows[from * count + to] == 0 {
                    rows[from * count + to] = rows[to * count + from];
                }
            }
        }
        Ok(rows)
    }
}

fn assign(place: &mut Option<u8>, node: u8) -> Result<(), Reason> {
    match place.replace(node) {
        Some(other) if other != node => Err(format!("CPU is already assigned to node-id: {other}")),
        _ => Ok(()),
    }
}

/// A number of so many at most.
fn narrow(given: &Opts, name: &str, most: u16, kind: &str) -> Result<Option<u16>, Reason> {
    let Some(number) = given.number(name) else {
        return Ok(None);
    };
    let narrow = u16::try_from(number).ok().filter(|number| *number <= most);
    let narrow = narrow.ok_or_else(|| format!("Parameter '{name}' expects {kind}"))?;
    Ok(Some(narrow))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMP: Smp = Smp {
        cpus: 4,
        max_cpus: 4,
        sockets: 2,
        cores: 2,
        threads: 1,
    };

    fn all(options: &[&str]) -> Result<NumaOptions, Reason> {
        let mut builder = NumaBuilder::default();
        for option in options {
            builder.add(option, &SMP)?;
        }
        builder.finish(&SMP).map(|(options, _)| options)
    }

    /// As QEMU 7.2.
    #[test]
    fn processors_are_assigned() {
        let cpus = |options: &[&str]| all(options).map(|numa| numa.cpus);
        assert_eq!(cpus(&["node", "node"]), Ok(vec![0, 0, 1, 1]));
        assert_eq!(
            cpus(&["node,cpus=1,cpus=3", "node,cpus=0"]),
            Ok(vec![1, 0, 0, 0])
        );
        assert_eq!(
            cpus(&["node", "node", "cpu,node-id=1,core-id=1"]),
            Ok(vec![0, 1, 0, 1])
        );
        assert_eq!(cpus(&["node", "node", "cpu,node-id=1"]), Ok(vec![1; 4]));
        let memory = all(&["node,nodeid=1,memdev=b", "node,nodeid=0,memdev=a"])
            .unwrap()
            .memory;
        assert_eq!(memory, [Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[test]
    fn distances_are_completed() {
        let distances = |options: &[&str]| {
            let nodes = ["node"; 3].iter().chain(options).copied();
            all(&nodes.collect::<Vec<_>>()).map(|numa| numa.distances)
        };
        assert_eq!(distances(&[]), Ok(vec![]));
        let three = [
            "dist,src=0,dst=1,val=20",
            "dist,src=0,dst=2,val=30",
            "dist,src=1,dst=2,val=40",
        ];
        let rows = vec![10, 20, 30, 20, 10, 40, 30, 40, 10];
        assert_eq!(distances(&three), Ok(rows));
        let missing = distances(&three[..1]).unwrap_err();
        assert!(missing.starts_with("The distance between node 0 and 2 is missing"));
        let uneven = [three[0], three[1], three[2], "dist,src=2,dst=0,val=77"];
        let uneven = distances(&uneven).unwrap_err();
        assert!(uneven.starts_with("At least one asymmetrical pair"));
    }
}
