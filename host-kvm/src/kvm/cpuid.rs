//! stand-in
use super::error::KvmError;
use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
pub struct CpuSpec;
pub struct CpuidTable(CpuId);
#[derive(Clone, Copy)]
pub struct Topology {
    pub sockets: u32,
    pub cores: u32,
    pub threads: u32,
}
#[derive(Debug)]
pub struct CpuError;
impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl CpuSpec {
    pub fn parse(_: &str) -> Result<Self, CpuError> {
        Ok(Self)
    }
}
impl CpuidTable {
    pub fn new(kvm: &Kvm, _: &CpuSpec, _: Topology) -> Result<(Self, Vec<String>), CpuError> {
        Ok((Self(kvm.get_supported_cpuid(80).unwrap()), vec![]))
    }
    pub fn for_cpu(&self, _i: u32) -> Result<CpuId, KvmError> {
        Ok(self.0.clone())
    }
    pub fn signature(&self) -> u32 {
        0x600
    }
}
pub fn cpu_help() -> String {
    String::new()
}
