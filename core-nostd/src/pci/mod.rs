//! PCI: configuration space and the host bridge.
