//! Disk controllers over the qtest protocol, beside QEMU's: IDE disks, drives for CDs, and virtio disks, each with an image
//! that both emulators have a copy of. What differs from other scripts: requests end later, so that a script waits for
//! them, and how much an answer has is said by the drive.

mod atapi;
mod ide;
mod virtio;

use std::fs;
use std::time::{Duration, Instant};

use qemu_tests::{Comparison, Emulator, Instance, QtestClient, ask_both};
use serde_json::Value;

/// How long something may take that ends later.
const PATIENCE: Duration = Duration::from_secs(20);

/// Behind this time nothing ends any more: what is waited for then does not come at all.
const SETTLED: Duration = Duration::from_secs(5);

/// What is done next.
enum Step {
    /// What follows belongs to a part of this name.
    Part(String),
    /// A request of the protocol.
    Ask(String),
    /// A request that is repeated until its answer is one of those.
    Until(String, Done),
    /// The data of an ATAPI answer, piece by piece, from a channel's first port on.
    Drain(u16),
    /// A command of QMP.
    Qmp(&'static str, Value),
}

/// Whether an answer is what is waited for.
type Done = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// A script: steps, and the image behind the disk.
struct Script {
    args: &'static str,
    image: Vec<u8>,
    steps: Vec<Step>,
}

impl Script {
    /// One for emulators with these options, in which `{dir}/disk.img` is the image.
    fn new(args: &'static str, image: Vec<u8>) -> Self {
        Self {
            args,
            image,
            steps: Vec::new(),
        }
    }

    fn part(&mut self, name: impl Into<String>) {
        self.steps.push(Step::Part(name.into()));
    }

    fn ask(&mut self, request: impl Into<String>) {
        self.steps.push(Step::Ask(request.into()));
    }

    fn outb(&mut self, port: u16, value: u8) {
        self.ask(format!("outb {port:#x} {value:#x}"));
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.ask(format!("outw {port:#x} {value:#x}"));
    }

    fn outl(&mut self, port: u16, value: u32) {
        self.ask(format!("outl {port:#x} {value:#x}"));
    }

    fn inb(&mut self, port: u16) {
        self.ask(format!("inb {port:#x}"));
    }

    fn inl(&mut self, port: u16) {
        self.ask(format!("inl {port:#x}"));
    }

    fn configure(&mut self, devfn: u32, register: u32, value: u32) {
        self.outl(0xcf8, 1 << 31 | devfn << 8 | register);
        self.outl(0xcfc, value);
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(format!("write {address:#x} {:#x} 0x{text}", bytes.len()));
    }

    fn read(&mut self, address: u64, length: usize) {
        self.ask(format!("read {address:#x} {length:#x}"));
    }

    fn fill(&mut self, address: u64, length: usize, byte: u8) {
        self.ask(format!("memset {address:#x} {length:#x} {byte:#x}"));
    }

    fn until(
        &mut self,
        request: impl Into<String>,
        done: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) {
        self.steps.push(Step::Until(request.into(), Box::new(done)));
    }

    /// What one emulator answers, and its image after that.
    fn run(&self, emulator: Emulator) -> (Vec<(String, String)>, Vec<u8>) {
        let launcher = emulator.launcher();
        let image = launcher.dir().join("disk.img");
        fs::write(&image, &self.image).expect("a file");
        let instance = launcher
            .args(emulator.passive_args())
            .args(self.args.split_whitespace())
            .with_qmp()
            .with_qtest()
            .lifetime(Duration::from_secs(240))
            .start();
        let mut client = Client {
            client: instance.qtest(),
            instance: &instance,
        };
        let mut qmp = None;
        let mut part = String::new();
        let mut answers = Vec::new();
        for step in &self.steps {
            let (input, answer) = match step {
                Step::Part(name) => {
                    part = format!("{name}: ");
                    continue;
                }
                Step::Ask(request) => (request.clone(), client.ask(request)),
                Step::Until(request, done) => (request.clone(), client.until(request, done)),
                Step::Drain(port) => (format!("data of {port:#x}"), client.drain(*port)),
                Step::Qmp(command, arguments) => {
                    let qmp = qmp.get_or_insert_with(|| {
                        let mut qmp = instance.qmp();
                        qmp.negotiate();
                        qmp
                    });
                    let answer = qmp.execute(command, arguments.clone());
                    let answer = format!("{:?}", answer.map_err(|error| format!("{error:?}")));
                    (format!("{command} {arguments}"), answer)
                }
            };
            answers.push((format!("{part}{input}"), answer));
        }
        let mut qmp = qmp.unwrap_or_else(|| {
            let mut qmp = instance.qmp();
            qmp.negotiate();
            qmp
        });
        let _ = qmp.execute("quit", Value::Object(serde_json::Map::new()));
        instance.wait(PATIENCE);
        (answers, fs::read(&image).expect("the image"))
    }

    /// Asks both emulators, and compares answers and images.
    fn compare(&self, test: &str) {
        let [qemu, thimble] = ask_both(|emulator| self.run(emulator));
        let mut comparison = Comparison::new(test);
        for ((input, qemu), (_, thimble)) in qemu.0.iter().zip(&thimble.0) {
            comparison.add(input, qemu, thimble);
        }
        comparison.finish();
        assert_same_image(&qemu.1, &thimble.1);
    }

    /// The same for scripts of which each step depends on all before it: the first difference is shown with what led there.
    fn compare_in_order(&self) {
        let [qemu, thimble] = ask_both(|emulator| self.run(emulator));
        for (index, (one, other)) in qemu.0.iter().zip(&thimble.0).enumerate() {
            let before: Vec<_> = qemu.0[index.saturating_sub(40)..=index]
                .iter()
                .map(|(input, answer)| format!("{input} -> {answer}"))
                .collect();
            assert_eq!(one, other, "QEMU's step {index}:\n{}", before.join("\n"));
        }
        assert_same_image(&qemu.1, &thimble.1);
    }
}

fn assert_same_image(qemu: &[u8], thimble: &[u8]) {
    assert_eq!(qemu.len(), thimble.len());
    let differs = qemu
        .iter()
        .zip(thimble)
        .position(|(one, other)| one != other);
    assert_eq!(differs, None, "the first byte that differs");
}

struct Client<'i> {
    client: QtestClient,
    instance: &'i Instance,
}

impl Client<'_> {
    /// The answer. Interrupt lines are kept until the script waits: what ends later may tell of itself sooner.
    fn ask(&mut self, request: &str) -> String {
        let answer = self.client.request(request);
        answer.unwrap_or_else(|error| panic!("{request}: {error}\n{}", self.instance.report()))
    }

    /// The last answer, with all interrupt lines since the last wait in front. What never comes is compared, too.
    fn until(&mut self, request: &str, done: &dyn Fn(u64) -> bool) -> String {
        let begun = Instant::now();
        let mut interrupts = Vec::new();
        loop {
            let answer = self.ask(request);
            interrupts.extend(self.client.take_interrupts());
            if number(&answer).is_some_and(done) || begun.elapsed() > SETTLED {
                interrupts.push(answer);
                return interrupts.join(" | ");
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn byte(&mut self, port: u16) -> u64 {
        let answer = self.client.request(&format!("inb {port:#x}"));
        number(&answer.expect("an answer")).expect("a number")
    }

    /// All data that a drive has for a packet.
    fn drain(&mut self, base: u16) -> String {
        let mut parts = Vec::new();
        for _ in 0..1000 {
            let status = self.until(&format!("inb {:#x}", base + 0x206), &|status| {
                status & 0x80 == 0
            });
            parts.push(status);
            if self.byte(base + 0x206) & 0x08 == 0 {
                break;
            }
            let [reason, low, high] = [2, 4, 5].map(|register| self.byte(base + register));
            let length = high << 8 | low;
            parts.push(format!("reason {reason:#x}, {length} bytes"));
            for _ in 0..length.div_ceil(2) {
                let word = self.client.request(&format!("inw {base:#x}"));
                let word = number(&word.expect("an answer")).expect("a number");
                parts.push(format!("{word:04x}"));
            }
            parts.extend(self.client.take_interrupts());
        }
        let registers = (1..8).map(|register| format!("{:02x}", self.byte(base + register)));
        parts.push(registers.collect::<Vec<_>>().join("."));
        parts.extend(self.client.take_interrupts());
        parts.join(" ")
    }
}

/// The number of an answer.
fn number(answer: &str) -> Option<u64> {
    let digits = answer.strip_prefix("OK 0x")?;
    u64::from_str_radix(digits, 16).ok()
}

/// An image in which each sector says which it is.
fn image(bytes: usize) -> Vec<u8> {
    let words = (0..bytes as u32 / 4).map(|at| ((at / 128) << 16) | (at % 128 * 0x101));
    words.flat_map(u32::to_le_bytes).collect()
}

/// Numbers that are the same in each run.
fn dice(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    }
}
