//! The three-byte opcode maps, 0F 38 and 0F 3A (SDM volume 2, tables ). An opcode without a row is #UD.

use super::form::{Entry, SizeRule, Spec::*, op2, op3};
use super::operation::{Operation::*, Packed::*, Sse::*};
use Entry::*;

/// A map of the rows given.
macro_rules! map {
    ($($opcode:literal => $entry:expr,)*) => {{
        let mut map = [Undefined; 256];
        $(map[$opcode] = $entry;)*
        map
    }};
}

/// With 66h only.
macro_rules! only_66 {
    ($entry:expr) => {
        Prefix(&[Undefined, $entry, Undefined, Undefined])
    };
}

/// Without a mandatory prefix only.
macro_rules! only_np {
    ($entry:expr) => {
        Prefix(&[$entry, Undefined, Undefined, Undefined])
    };
}

/// One operation on MMX and XMM registers.
macro_rules! packed {
    ($name:ident) => {
        Prefix(&[
            op2(Packed($name), Pq, Qq),
            op2(Packed($name), Vx, Wx),
            Undefined,
            Undefined,
        ])
    };
}

/// 0F 38.
#[rustfmt::skip]
pub(super) static MAP_38: [Entry; 256] = map! {
    0x00 => packed!(Pshufb),
    0x01 => packed!(Phaddw),
    0x02 => packed!(Phaddd),
    0x03 => packed!(Phaddsw),
    0x04 => packed!(Pmaddubsw),
    0x05 => packed!(Phsubw),
    0x06 => packed!(Phsubd),
    0x07 => packed!(Phsubsw),
    0x08 => packed!(Psignb),
    0x09 => packed!(Psignw),
    0x0a => packed!(Psignd),
    0x0b => packed!(Pmulhrsw),
    0x10 => only_66!(op2(Packed(Pblendvb), Vx, Wx)),
    0x14 => only_66!(op2(Sse(Blendvps), Vx, Wx)),
    0x15 => only_66!(op2(Sse(Blendvpd), Vx, Wx)),
    0x17 => only_66!(op2(Packed(Ptest), Vx, Wx)),
    0x1c => packed!(Pabsb),
    0x1d => packed!(Pabsw),
    0x1e => packed!(Pabsd),
    0x20 => only_66!(op2(Packed(Pmovsxbw), Vx, Wq)),
    0x21 => only_66!(op2(Packed(Pmovsxbd), Vx, Wd)),
    0x22 => only_66!(op2(Packed(Pmovsxbq), Vx, Ww)),
    0x23 => only_66!(op2(Packed(Pmovsxwd), Vx, Wq)),
    0x24 => only_66!(op2(Packed(Pmovsxwq), Vx, Wd)),
    0x25 => only_66!(op2(Packed(Pmovsxdq), Vx, Wq)),
    0x28 => only_66!(op2(Packed(Pmuldq), Vx, Wx)),
    0x29 => only_66!(op2(Packed(Pcmpeqq), Vx, Wx)),
    0x2a => only_66!(op2(Packed(Movntdqa), Vx, Mdq)),
    0x2b => only_66!(op2(Packed(Packusdw), Vx, Wx)),
    0x30 => only_66!(op2(Packed(Pmovzxbw), Vx, Wq)),
    0x31 => only_66!(op2(Packed(Pmovzxbd), Vx, Wd)),
    0x32 => only_66!(op2(Packed(Pmovzxbq), Vx, Ww)),
    0x33 => only_66!(op2(Packed(Pmovzxwd), Vx, Wq)),
    0x34 => only_66!(op2(Packed(Pmovzxwq), Vx, Wd)),
    0x35 => only_66!(op2(Packed(Pmovzxdq), Vx, Wq)),
    0x37 => only_66!(op2(Packed(Pcmpgtq), Vx, Wx)),
    0x38 => only_66!(op2(Packed(Pminsb), Vx, Wx)),
    0x39 => only_66!(op2(Packed(Pminsd), Vx, Wx)),
    0x3a => only_66!(op2(Packed(Pminuw), Vx, Wx)),
    0x3b => only_66!(op2(Packed(Pminud), Vx, Wx)),
    0x3c => only_66!(op2(Packed(Pmaxsb), Vx, Wx)),
    0x3d => only_66!(op2(Packed(Pmaxsd), Vx, Wx)),
    0x3e => only_66!(op2(Packed(Pmaxuw), Vx, Wx)),
    0x3f => only_66!(op2(Packed(Pmaxud), Vx, Wx)),
    0x40 => only_66!(op2(Packed(Pmulld), Vx, Wx)),
    0x41 => only_66!(op2(Packed(Phminposuw), Vx, Wx)),
    0x82 => only_66!(op2(Invpcid, Gn, Mdq)),
    0xc8 => only_np!(op2(Packed(Sha1nexte), Vx, Wx)),
    0xc9 => only_np!(op2(Packed(Sha1msg1), Vx, Wx)),
    0xca => only_np!(op2(Packed(Sha1msg2), Vx, Wx)),
    0xcb => only_np!(op2(Packed(Sha256rnds2), Vx, Wx)),
    0xcc => only_np!(op2(Packed(Sha256msg1), Vx, Wx)),
    0xcd => only_np!(op2(Packed(Sha256msg2), Vx, Wx)),
    0xdb => only_66!(op2(Packed(Aesimc), Vx, Wx)),
    0xdc => only_66!(op2(Packed(Aesenc), Vx, Wx)),
    0xdd => only_66!(op2(Packed(Aesenclast), Vx, Wx)),
    0xde => only_66!(op2(Packed(Aesdec), Vx, Wx)),
    0xdf => only_66!(op2(Packed(Aesdeclast), Vx, Wx)),
    0xf0 => Prefix(&[op2(Movbe, Gv, Mv), op2(Movbe, Gv, Mv), Undefined, op2(Crc32, Gy, Eb).sized(SizeRule::B)]),
    0xf1 => Prefix(&[op2(Movbe, Mv, Gv), op2(Movbe, Mv, Gv), Undefined, op2(Crc32, Gy, Ev).sized(SizeRule::V)]),
    0xf6 => Prefix(&[Undefined, op2(Adcx, Gy, Ey), op2(Adox, Gy, Ey), Undefined]),
};

/// 0F 3A.
#[rustfmt::skip]
pub(super) static MAP_3A: [Entry; 256] = map! {
    0x08 => only_66!(op3(Sse(Roundps), Vx, Wx, Ib)),
    0x09 => only_66!(op3(Sse(Roundpd), Vx, Wx, Ib)),
    0x0a => only_66!(op3(Sse(Roundss), Vx, Wd, Ib)),
    0x0b => only_66!(op3(Sse(Roundsd), Vx, Wq, Ib)),
    0x0c => only_66!(op3(Sse(Blendps), Vx, Wx, Ib)),
    0x0d => only_66!(op3(Sse(Blendpd), Vx, Wx, Ib)),
    0x0e => only_66!(op3(Packed(Pblendw), Vx, Wx, Ib)),
    0x0f => Prefix(&[op3(Packed(Palignr), Pq, Qq, Ib), op3(Packed(Palignr), Vx, Wx, Ib), Undefined, Undefined]),
    0x14 => only_66!(op3(Packed(Pextrb), RyMb, Vx, Ib)),
    0x15 => only_66!(op3(Packed(Pextrw), RyMw, Vx, Ib)),
    0x16 => only_66!(RexW(&[op3(Packed(Pextrd), Ey, Vx, Ib), op3(Packed(Pextrq), Ey, Vx, Ib)])),
    0x17 => only_66!(op3(Sse(Extractps), RyMd, Vx, Ib)),
    0x20 => only_66!(op3(Packed(Pinsrb), Vx, RyMb, Ib)),
    0x21 => only_66!(op3(Sse(Insertps), Vx, Wd, Ib)),
    0x22 => only_66!(RexW(&[op3(Packed(Pinsrd), Vx, Ey, Ib), op3(Packed(Pinsrq), Vx, Ey, Ib)])),
    0x40 => only_66!(op3(Sse(Dpps), Vx, Wx, Ib)),
    0x41 => only_66!(op3(Sse(Dppd), Vx, Wx, Ib)),
    0x42 => only_66!(op3(Packed(Mpsadbw), Vx, Wx, Ib)),
    0x44 => only_66!(op3(Packed(Pclmulqdq), Vx, Wx, Ib)),
    0x60 => only_66!(op3(Packed(Pcmpestrm), Vx, Wx, Ib)),
    0x61 => only_66!(op3(Packed(Pcmpestri), Vx, Wx, Ib)),
    0x62 => only_66!(op3(Packed(Pcmpistrm), Vx, Wx, Ib)),
    0x63 => only_66!(op3(Packed(Pcmpistri), Vx, Wx, Ib)),
    0xcc => only_np!(op3(Packed(Sha1rnds4), Vx, Wx, Ib)),
    0xdf => only_66!(op3(Packed(Aeskeygenassist), Vx, Wx, Ib)),
};
