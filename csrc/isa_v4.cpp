// x86-64-v4: AVX-512 F, BW, CD, DQ and VL.
#include "core/table.h"

#if defined(FOREBLOCKS_X86_LEVELS)
#define VECTOR_BYTES 64
#define ISA_NAME "v4"
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace foreblocks {
namespace v4 {
#include "core/isa_body.h"
}  // namespace v4
}  // namespace foreblocks
#pragma GCC pop_options

namespace foreblocks {
const Table& table_v4() { return v4::kTable; }
}  // namespace foreblocks
#endif
