//! What a character device is, as the command line and QMP describe it: `-chardev` with its keys,
//! and the short forms of `-serial`, `-qmp`, `-debugcon`, `-monitor` and `-qtest`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::options::opts::{self, Kind, Opts, OptsTable, Reason, SubOption};

/// Bytes of a Unix socket's path at most (unix(7): 108 with the terminating zero).
pub const PATH_MAX: usize = 107;

/// A character device to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevSpec {
    /// Its id: given by the user, or `serial0` and the like for short forms.
    pub id: String,
    /// What it is connected to.
    pub backend: Backend,
    /// Whether several can use it, by turns: the escape key is looked for in its input.
    pub mux: bool,
}

/// What a character device is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nothing: output vanishes, no input comes.
    Null,
    /// Standard input and output.
    Stdio {
        /// Whether the terminal's keys for signals keep their meaning; `None`: decided by the
        /// caller, QEMU's way (on, except with `-nographic`).
        signal: Option<bool>,
    },
    /// A file that output goes to.
    File {
        /// Its path.
        path: String,
        /// A file that input comes from, if any.
        input: Option<String>,
        /// Keep what is in the file.
        append: bool,
    },
    /// A terminal for another program: pty(7).
    Pty,
    /// A serial port of the host, or another character device: raw, 115200 bits a second as long as
    /// nobody says otherwise to the device itself.
    Serial {
        /// Its path.
        path: String,
    },
    /// A stream socket.
    Socket(SocketSpec),
}

/// A stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Where.
    pub address: Address,
    /// Listen there, instead of connecting to it.
    pub server: bool,
    /// For servers: opening waits until a client has connected.
    pub wait: bool,
    /// For TCP: send small writes at once.
    pub nodelay: bool,
    /// The telnet protocol is spoken.
    pub telnet: bool,
    /// For clients: seconds after which to try again; 0: never.
    pub reconnect: u32,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A path in the file system.
    Unix(String),
    /// A name in Linux's abstract namespace.
    Abstract(String),
    /// TCP: the address and how many ports after it may be tried instead.
    Tcp {
        /// Address and first port.
        address: SocketAddr,
        /// The last port that may be tried.
        to: u16,
        /// For servers on the IPv6 wildcard: refuse IPv4 clients.
        v6_only: bool,
    },
    /// A descriptor inherited from the parent process: listening or connected.
    Fd(i32),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tcp { address, .. } => write!(f, "tcp:{address}"),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}

const NO_LOG: Kind = Kind::Absent("logging a character device to a file is not done here");
const NO_TLS: Kind = Kind::Absent("there is no TLS");

/// Every key of `-chardev`; which of them a backend takes is in [`BACKENDS`].
pub static CHARDEV: OptsTable = OptsTable {
    name: "chardev",
    implied: Some("backend"),
    options: &[
        SubOption::new(
            "backend",
            Kind::Text,
            "socket, file, stdio, pty, serial or null",
        ),
        SubOption::new("id", Kind::Text, "name to refer to it by"),
        SubOption::new("path", Kind::Text, "file, or Unix socket"),
        SubOption::new("input-path", Kind::Text, "file that input comes from"),
        SubOption::new("append", Kind::Bool, "keep what is in the file"),
        SubOption::new(
            "host",
            Kind::Text,
            "IP address, localhost, or nothing for any",
        ),
        SubOption::new("port", Kind::Text, "TCP port"),
        SubOption::new("to", Kind::Number, "last TCP port to try"),
        SubOption::new("ipv4", Kind::Bool, "IPv4 may be used"),
        SubOption::new("ipv6", Kind::Bool, "IPv6 may be used"),
        SubOption::new("nodelay", Kind::Bool, "send small writes at once"),
        SubOption::new("delay", Kind::Bool, "opposite of nodelay"),
        SubOption::new(
            "fd",
            Kind::Text,
            "inherited descriptor, listening or connected",
        ),
        SubOption::new("server", Kind::Bool, "listen"),
        SubOption::new("wait", Kind::Bool, "wait for a client at start-up"),
        SubOption::new(
            "reconnect",
            Kind::Number,
            "seconds between attempts to connect",
        ),
        SubOption::new("abstract", Kind::Bool, "the path is an abstract name"),
        SubOption::new(
            "tight",
            Kind::Only(&["on"], "addresses are as long as their name"),
            "abstract names are not padded",
        ),
        SubOption::new(
            "signal",
            Kind::Bool,
            "terminal keys for signals keep their meaning",
        ),
        SubOption::new(
            "mux",
            Kind::Bool,
            "several use it by turns, switched by the escape key",
        ),
        SubOption::new("telnet", Kind::Bool, "speak the telnet protocol"),
        SubOption::new(
            "tn3270",
            Kind::Only(&["off"], "there are no terminals of mainframes"),
            "",
        ),
        SubOption::new(
            "websocket",
            Kind::Only(&["off"], "WebSocket is not spoken"),
            "",
        ),
        SubOption::new("tls-creds", NO_TLS, ""),
        SubOption::new("tls-authz", NO_TLS, ""),
        SubOption::new("logfile", NO_LOG, ""),
        SubOption::new("logappend", NO_LOG, ""),
    ],
};

/// The backends and the keys that each takes beside `backend`, `id` and `mux`.
pub static BACKENDS: &[(&str, &[&str])] = &[
    ("null", &[]),
    (
        "socket",
        &[
            "path",
            "host",
            "port",
            "to",
            "ipv4",
            "ipv6",
            "nodelay",
            "delay",
            "fd",
            "server",
            "wait",
            "reconnect",
            "abstract",
            "tight",
            "telnet",
            "tn3270",
            "websocket",
        ],
    ),
    ("file", &["path", "input-path", "append"]),
    ("pty", &[]),
    ("serial", &["path"]),
    ("stdio", &["signal"]),
    ("tty", &["path"]),
];

/// Backends of QEMU that are not here.
static ABSENT: &[&str] = &[
    "udp",
    "msmouse",
    "vc",
    "ringbuf",
    "memory",
    "pipe",
    "braille",
    "parallel",
    "parport",
    "spicevmc",
    "spiceport",
    "mux",
    "qemu-vdagent",
    "wctablet",
    "testdev",
    "console",
    "dbus",
];

/// The text of `-chardev help`.
pub fn help() -> String {
    let mut text = String::from("Available chardev backend types:\n");
    for (name, _) in BACKENDS {
        text.push_str("  ");
        text.push_str(name);
        text.push('\n');
    }
    text
}

/// Parses the argument of `-chardev`.
///
/// # Errors
/// A sentence that names the key at fault.
pub fn parse(text: &str) -> Result<ChardevSpec, Reason> {
    let given = CHARDEV.parse(text)?;
    let id = given.text("id").ok_or("chardev: no id specified")?;
    let id = opts::id(id)?.to_owned();
    let backend = given
        .text("backend")
        .ok_or_else(|| format!("chardev: '{id}' missing backend"))?;
    build(id, backend, &given)
}

fn build(id: String, backend: &str, given: &Opts) -> Result<ChardevSpec, Reason> {
    let Some((_, keys)) = BACKENDS.iter().find(|(name, _)| *name == backend) else {
        return Err(if ABSENT.contains(&backend) {
            format!("the backend '{backend}' is not available")
        } else {
            format!("'{backend}' is not a valid char driver name")
        });
    };
    for (name, _) in given.iter() {
        if !matches!(name, "backend" | "id" | "mux") && !keys.contains(&name) {
            return Err(format!(
                "Invalid parameter '{name}' for backend '{backend}'"
            ));
        }
    }
    let mux = given.bool("mux").unwrap_or(false);
    let backend = match backend {
        "socket" => Backend::Socket(socket(given)?),
        "file" => Backend::File {
            path: given
                .owned("path")
                .ok_or("chardev: file: no filename given")?,
            input: given.owned("input-path"),
            append: given.bool("append").unwrap_or(false),
        },
        "stdio" => Backend::Stdio {
            signal: given.bool("signal"),
        },
        "pty" => Backend::Pty,
        "serial" | "tty" => Backend::Serial {
            path: given
                .owned("path")
                .ok_or("chardev: serial/tty: no device path given")?,
        },
        _ => Backend::Null,
    };
    Ok(ChardevSpec { id, backend, mux })
}

fn socket(given: &Opts) -> Result<SocketSpec, Reason> {
    let (path, host, port, fd) = (
        given.text("path"),
        given.text("host"),
        given.text("port"),
        given.text("fd"),
    );
    let tcp = host.is_some() || port.is_some();
    if usize::from(path.is_some()) + usize::from(tcp) + usize::from(fd.is_some()) != 1 {
        return Err("one of 'path', 'fd' or 'host' and 'port' is required".to_owned());
    }
    let is_abstract = given.bool("abstract").unwrap_or(false);
    let address = if let Some(path) = path {
        unix_address(path, is_abstract)?
    } else if let Some(fd) = fd {
        Address::Fd(
            fd.parse()
                .ok()
                .ok_or_else(|| format!("Unable to parse FD number {fd}"))?,
        )
    } else {
        tcp_address(
            host.unwrap_or(""),
            port.ok_or("chardev: socket: no port given")?,
            given,
        )?
    };
    if is_abstract && !matches!(address, Address::Abstract(_)) {
        return Err("'abstract' needs 'path'".to_owned());
    }
    for key in ["to", "ipv4", "ipv6"] {
        if given.text(key).is_some() && !matches!(address, Address::Tcp { .. }) {
            return Err(format!("'{key}' needs 'host' and 'port'"));
        }
    }
    let server = given.bool("server").unwrap_or(false);
    let wait = given.bool("wait");
    if wait.is_some() && !server {
        return Err("'wait' option is incompatible with socket in client connect mode".to_owned());
    }
    let reconnect = given.number("reconnect").unwrap_or(0);
    if reconnect != 0 && server {
        return Err(
            "'reconnect' option is incompatible with socket in server listen mode".to_owned(),
        );
    }
    if reconnect != 0 && matches!(address, Address::Fd(_)) {
        return Err("'reconnect' option is incompatible with 'fd' address type".to_owned());
    }
    let delay = given.bool("delay").map(|delay| !delay);
    Ok(SocketSpec {
        address,
        server,
        wait: server && wait.unwrap_or(true),
        nodelay: given.bool("nodelay").or(delay).unwrap_or(false),
        telnet: given.bool("telnet").unwrap_or(false),
        reconnect: u32::try_from(reconnect)
            .ok()
            .filter(|&seconds| seconds <= 86_400)
            .ok_or("'reconnect' takes 0 to 86400 seconds")?,
    })
}

fn unix_address(path: &str, is_abstract: bool) -> Result<Address, Reason> {
    if path.is_empty() {
        return Err("the socket's path is empty".to_owned());
    }
    if path.len() > PATH_MAX {
        return Err(format!(
            "UNIX socket path '{path}' is too long: {} bytes, at most {PATH_MAX}",
            path.len()
        ));
    }
    Ok(if is_abstract {
        Address::Abstract(path.to_owned())
    } else {
        Address::Unix(path.to_owned())
    })
}

/// Resolves a host without a resolver: numbers, `localhost`, or nothing.
fn tcp_address(host: &str, port: &str, given: &Opts) -> Result<Address, Reason> {
    let v4 = given.bool("ipv4");
    let v6 = given.bool("ipv6");
    if v4 == Some(false) && v6 == Some(false) {
        return Err("ipv4=off and ipv6=off leave no address family".to_owned());
    }
    // QEMU: if only one family is switched on, the other one is off.
    let want_v6 = v6 == Some(true) && v4 != Some(true) || v4 == Some(false);
    let port: u16 = port
        .parse()
        .map_err(|_| format!("'{port}' is not a TCP port (0 to 65535)"))?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let ip = match bare {
        // QEMU binds the IPv6 wildcard only if it is asked for.
        "" if want_v6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" if want_v6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => {
            if let Ok(v4) = bare.parse::<Ipv4Addr>() {
                IpAddr::V4(v4)
            } else if let Ok(v6) = bare.parse::<Ipv6Addr>() {
                IpAddr::V6(v6)
            } else {
                return Err(format!(
                    "'{host}' is not an IP address: names other than localhost are not looked up"
                ));
            }
        }
    };
    if ip.is_ipv6() && v6 == Some(false) || ip.is_ipv4() && v4 == Some(false) {
        return Err(format!("'{host}' is of the address family switched off"));
    }
    let to = given.number("to").unwrap_or(port.into());
    let to = u16::try_from(to)
        .ok()
        .filter(|&to| to >= port)
        .ok_or_else(|| format!("'to={to}' is not a TCP port from {port} to 65535"))?;
    let address = match ip {
        IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
        IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0)),
    };
    Ok(Address::Tcp {
        address,
        to,
        v6_only: v4 == Some(false) || (v6 == Some(true) && v4.is_none()),
    })
}

/// What a short form asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShortForm {
    /// `none`: no device at all.
    None,
    /// `chardev:ID`: one that `-chardev` describes.
    Reference(String),
    /// One that is described here.
    New(ChardevSpec),
}

/// Parses a short form; a character device made by it gets the given id.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn parse_short(text: &str, id: &str) -> Result<ShortForm, Reason> {
    if text == "none" {
        return Ok(ShortForm::None);
    }
    if let Some(id) = text.strip_prefix("chardev:") {
        return Ok(ShortForm::Reference(id.to_owned()));
    }
    let (inner, mux) = match text.strip_prefix("mon:") {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let mut spec = plain_short(inner, id)?;
    spec.mux |= mux;
    Ok(ShortForm::New(spec))
}

fn plain_short(text: &str, id: &str) -> Result<ChardevSpec, Reason> {
    let (protocol, rest) = text.split_once(':').unwrap_or((text, ""));
    let backend = if text == "null" {
        Backend::Null
    } else if text == "pty" {
        Backend::Pty
    } else if text.starts_with("/dev/") && !text.starts_with("/dev/parport") {
        Backend::Serial {
            path: text.to_owned(),
        }
    } else if text == "stdio" {
        Backend::Stdio { signal: None }
    } else if let Some(path) = text.strip_prefix("file:") {
        if path.is_empty() {
            return Err("chardev: file: no filename given".to_owned());
        }
        Backend::File {
            path: path.to_owned(),
            input: None,
            append: false,
        }
    } else if let Some(rest) = text.strip_prefix("unix:") {
        let given = SHORT_UNIX.parse(rest)?;
        return build(id.to_owned(), "socket", &given);
    } else if protocol == "tcp" || protocol == "telnet" {
        let (address, more) = rest.split_once(',').unwrap_or((rest, ""));
        let (host, port) = address
            .rsplit_once(':')
            .ok_or_else(|| format!("'{address}' is not HOST:PORT"))?;
        let more = if more.is_empty() {
            format!("{host},port={port}")
        } else {
            format!("{host},port={port},{more}")
        };
        // `host=` in front, as an empty first value would be lost.
        let given = CHARDEV.parse(&format!("host={more}"))?;
        let mut spec = build(id.to_owned(), "socket", &given)?;
        if let Backend::Socket(socket) = &mut spec.backend {
            socket.telnet |= protocol == "telnet";
        }
        return Ok(spec);
    } else {
        let name = text.split([':', ',']).next().unwrap_or(text);
        return Err(
            if ABSENT.contains(&name) || name == "tn3270" || name == "websocket" {
                format!("the backend '{name}' is not available")
            } else if name.starts_with("/dev/") {
                format!("'{name}': host parallel ports are not available")
            } else {
                format!("'{text}' is not a valid char driver")
            },
        );
    };
    Ok(ChardevSpec {
        id: id.to_owned(),
        backend,
        mux: false,
    })
}

/// `unix:PATH,...`: the keys of `-chardev`, with the path first.
static SHORT_UNIX: OptsTable = OptsTable {
    name: "unix",
    implied: Some("path"),
    options: CHARDEV.options,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> Result<(String, SocketSpec), Reason> {
        match parse_short(text, "x")? {
            ShortForm::New(ChardevSpec {
                backend: Backend::Socket(socket),
                ..
            }) => Ok((socket.address.to_string(), socket)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn long_and_short_forms_mean_the_same() {
        for (long, short) in [
            (
                "socket,id=x,path=/s,server=on,wait=off",
                "unix:/s,server,nowait",
            ),
            (
                "socket,id=x,path=/s,server=on,wait=off",
                "unix:/s,server=on,wait=off",
            ),
            ("socket,id=x,host=,port=5,server=on", "tcp::5,server"),
            ("socket,id=x,host=127.0.0.1,port=5", "tcp:localhost:5"),
            (
                "socket,id=x,host=::1,port=5,nodelay=on",
                "tcp:[::1]:5,nodelay",
            ),
            ("file,id=x,path=/a,,b", "file:/a,b"),
            ("stdio,id=x", "stdio"),
            ("stdio,id=x,mux=on", "mon:stdio"),
            ("null,id=x", "null"),
            ("pty,id=x", "pty"),
            ("serial,id=x,path=/dev/ttyS0", "/dev/ttyS0"),
            ("tty,id=x,path=/dev/ttyS0,mux=on", "mon:/dev/ttyS0"),
            ("pty,id=x,mux=on", "mon:pty"),
            (
                "socket,id=x,host=,port=5,server=on,telnet=on",
                "telnet::5,server",
            ),
            (
                "socket,id=x,path=/s,server=on,telnet=on,mux=on",
                "mon:unix:/s,server,telnet",
            ),
        ] {
            let short = parse_short(short, "x").unwrap();
            assert_eq!(ShortForm::New(parse(long).unwrap()), short, "{long}");
        }
        assert_eq!(parse_short("none", "x"), Ok(ShortForm::None));
        assert_eq!(
            parse_short("chardev:c", "x"),
            Ok(ShortForm::Reference("c".to_owned()))
        );
    }

    #[test]
    fn tcp_addresses() {
        assert_eq!(tcp("tcp::0,server").unwrap().0, "tcp:0.0.0.0:0");
        assert_eq!(tcp("tcp::0,server,ipv6").unwrap().0, "tcp:[::]:0");
        assert_eq!(tcp("tcp:localhost:1,ipv6=on").unwrap().0, "tcp:[::1]:1");
        assert!(
            tcp("tcp:example.org:1")
                .unwrap_err()
                .contains("example.org")
        );
        assert!(tcp("tcp:localhost:99999").unwrap_err().contains("99999"));
        assert!(tcp("tcp:localhost").unwrap_err().contains("HOST:PORT"));
        assert!(tcp("tcp:127.0.0.1:1,ipv4=off").is_err());
        assert!(tcp("tcp::9,to=8,server").is_err());
    }

    #[test]
    fn bad_descriptions_are_refused_by_name() {
        for (text, part) in [
            ("socket", "no id"),
            ("id=x", "missing backend"),
            (
                "nonsense,id=x",
                "'nonsense' is not a valid char driver name",
            ),
            ("pipe,id=x", "'pipe' is not available"),
            ("null,id=1", "identifier"),
            ("socket,id=x", "'path', 'fd'"),
            ("socket,id=x,path=/a,host=b,port=1", "'path', 'fd'"),
            ("socket,id=x,host=a", "no port"),
            ("socket,id=x,path=/a,tn3270=on", "tn3270"),
            ("socket,id=x,path=/a,websocket=on", "WebSocket"),
            ("socket,id=x,path=/a,tls-creds=t", "TLS"),
            ("socket,id=x,path=/a,wait=on", "'wait'"),
            ("socket,id=x,path=/a,server=on,reconnect=1", "'reconnect'"),
            ("socket,id=x,path=/a,signal=on", "'signal'"),
            ("socket,id=x,fd=one", "Unable to parse FD number one"),
            ("socket,id=x,path=", "empty"),
            ("file,id=x", "no filename"),
            ("serial,id=x", "no device path"),
            ("null,id=x,logfile=a", "logfile"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
        let long = "a".repeat(108);
        assert!(
            parse_short(&format!("unix:{long}"), "x")
                .unwrap_err()
                .contains("too long")
        );
        for text in [
            "",
            "foo",
            "tn3270:127.0.0.1:1",
            "websocket:127.0.0.1:1",
            "telnet:1",
            "telnet:a:1",
            "/dev/parport0",
            "mon:",
            "vc:80x24",
        ] {
            assert!(parse_short(text, "x").is_err(), "{text}");
        }
    }
}
